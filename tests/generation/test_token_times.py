"""Times to tokens: what the simulated scheduler says, what few steps say, and how often intervals hold for lengths that the law has not seen."""

import math

import numpy as np
import pytest
from benchmarks.token_laws import ENGINES, LIMITS, TRUE, alone, cell, linear, trained

from hooke import UsageError
from hooke.generation.token_law import StepNoise, TokenLaw
from hooke.generation.token_scheduler import TokenLimits
from hooke.generation.token_times import TokenTraffic, first_token_s, histories, simulate, statistic, token_s
from hooke.serving.slo import Slo

QUIET = StepNoise(single=np.ones(8), shared=0.0, memory_s=5.0, freedom=50.0)
LAW = TokenLaw(coefficients=TRUE, left_out=np.tile(TRUE, (10, 1)), noise=QUIET, steps=1000, block_s=10.0)


def exact(work, _now):
    return linear(work)


def test_a_lone_request_takes_what_its_steps_take():
    told = simulate(LIMITS, TokenTraffic(prompts=[3000], outputs=[50], due=np.zeros(1)), exact)
    assert told.steps == 3 + 49  # a thousand tokens of the prompt in a step
    assert told.first_s[0] == pytest.approx(first_token_s(LAW, LIMITS, 3000).value)
    assert told.per_token_s[0] == pytest.approx(token_s(LAW, 50, context=3000).value)
    assert told.busy_s == pytest.approx(told.ended[0])


def test_what_is_in_memory_is_not_computed_again():
    shared = 2048
    load = TokenTraffic(prompts=[3000, 3000], outputs=[2, 2], due=np.array([0.0, 10.0]), shared=shared)
    told = simulate(LIMITS, load, exact)
    assert told.first_s[1] < 0.5 * told.first_s[0]
    assert told.first_s[1] == pytest.approx(first_token_s(LAW, LIMITS, 3000, cached=shared).value)


def test_a_prompt_beside_a_batch_waits_for_a_step_and_is_slower():
    lone, beside = first_token_s(LAW, LIMITS, 500), first_token_s(LAW, LIMITS, 500, batch=16, context=1000)
    assert lone.value < beside.interval[0] < beside.interval[1]
    assert token_s(LAW, 20, batch=16, context=1000).value > token_s(LAW, 20, context=1000).value
    with pytest.raises(UsageError, match="leaves none of 32 slots"):
        first_token_s(LAW, LIMITS, 500, batch=32)


def good(told, first_s, each_s):
    return Slo(95, first_s, of_tokens=True, each_s=each_s).kept(told.first_s, told.per_token_s)


def test_users_that_wait_for_their_answers_keep_as_many_requests_at_once():
    load = TokenTraffic(prompts=[10] * 12, outputs=[5] * 12, users=3)
    told = simulate(LIMITS, load, exact)
    assert np.isfinite(told.ended).all()
    assert told.steps == 4 * 5
    assert good(told, 1.0, 1.0).all()
    assert not good(told, 1e-6, 1.0).any()


def test_what_never_begins_counts_as_never_answered():
    limits = TokenLimits(slots=1, step_tokens=64, context=128, max_waiting=1)
    load = TokenTraffic(prompts=[8] * 4 + [200], outputs=[50] * 5, due=np.zeros(5))
    told = simulate(limits, load, exact, timeout_s=0.2)
    assert np.isinf(told.first_s).sum() == 4
    assert np.isinf(told.rest_s[np.isinf(told.first_s)]).all()
    assert not good(told, math.inf, math.inf)[1:].any()


def test_users_whose_request_is_refused_send_their_next_one():
    limits = TokenLimits(slots=4, step_tokens=64, context=512, pages=8)  # memory for 128 tokens
    prompts = [300, 300, 300, 8] + [8] * 20
    told = simulate(limits, TokenTraffic(prompts=prompts, outputs=[20] * 24, users=4), exact)
    assert np.isinf(told.ended).tolist() == [True] * 3 + [False] * 21
    assert told.steps < 24 * 20 / 3  # most steps had several users


def test_answers_of_one_token_have_no_time_for_each():
    told = simulate(LIMITS, TokenTraffic(prompts=[8], outputs=[1], due=np.zeros(1)), exact)
    assert math.isnan(told.per_token_s[0])
    assert good(told, 1.0, 1e-9)[0]


def test_a_law_without_noise_and_doubt_foretells_exactly():
    loads = [TokenTraffic(prompts=[100, 2000], outputs=[5, 9], due=np.array([0.0, 0.01]))] * 3
    told = histories(LAW, LIMITS, loads, np.random.default_rng(0))
    found = statistic("first", told, lambda each: float(each.first_s[1]))
    assert found.interval == pytest.approx((found.value, found.value))


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_intervals_hold_for_lengths_and_loads_that_the_law_has_not_seen():
    """A sample of `make soak-token-laws`, whose record has the coverage; here what a broken law would fail."""
    engine, chance = ENGINES["jitter"], np.random.default_rng(3)
    law = trained(engine, chance, 120.0)
    seen = [cell(engine, law, "azure-code", share, chance, draws=8) for share in (0.3, 0.6)]
    for what in ("first", "token"):
        within, count = (sum(each[what][at] for each in seen) for at in (0, 1))
        assert within / count > 0.8, (what, seen)
    beside = alone(engine, law, chance, 20)
    assert beside["first"][0] >= 15
    assert beside["token"][0] >= 13
