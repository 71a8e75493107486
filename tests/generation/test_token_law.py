"""The law of a step from the sums of windows: it finds what made the steps, with intervals, and adds up."""

import msgspec
import numpy as np
import pytest

from hooke.base.errors import NotEnoughData
from hooke.generation.page_pool import PagePool
from hooke.generation.token_law import token_law
from hooke.generation.token_scheduler import StepWork, TokenLimits, TokenRequest, TokenScheduler
from hooke.journal.service_events import BatchWindow
from hooke.serving.stats_windows import StatsWindow, merge_steps, merge_windows

TRUE = np.array([8e-3, 4e-5, 1e-4, 1e-7, 2e-9])
"""Seconds of a step, of a token of a prompt, of a request, of a token in memory, of a pair."""


def windows(
    seed: int, *, count: int = 40, steps: int = 50, single: float = 0.1, shared: float = 0.03
) -> list[BatchWindow]:
    """Steps of mixed work, with noise of each and of each window."""
    chance = np.random.default_rng(seed)
    sums, made = StatsWindow(0.0), []
    for at in range(count):
        factor = chance.lognormal(0, shared)
        for _ in range(steps):
            requests = int(chance.integers(1, 33))
            prompt = int(chance.integers(1, 1024)) if chance.random() < 0.2 else 0
            context = requests * int(chance.integers(20, 4000))
            work = StepWork(prompt, requests, context, prompt * int(chance.integers(1, 3000)))
            sums.step(work, float(TRUE @ [1, *work]) * factor * chance.lognormal(0, single))
        made.append(msgspec.structs.replace(sums.take(5.0 * at + 5), at=5.0 * at + 5))
    return made


@pytest.mark.needs("cpu")
def test_the_law_finds_what_made_the_steps_and_its_intervals_contain_it():
    covered = []
    for seed in range(12):
        law = token_law(windows(seed))
        covered += [
            each.interval[0] <= true <= each.interval[1] for each, true in zip(law.parts(), TRUE, strict=True)
        ]
        covered.append(law.seconds(StepWork(0, 16, 16_000, 0)).interval[0] <= 8e-3 + 16e-4 + 16e-4)
    assert sum(covered) >= 0.88 * len(covered)
    assert law.noise.single.std() == pytest.approx(0.1, rel=0.2)
    assert law.noise.shared == pytest.approx(0.03, rel=0.5)
    assert "seconds per prompt token" in repr(law)


def test_without_noise_the_law_is_exact_and_has_no_spread():
    law = token_law(windows(1, single=0.0, shared=0.0))
    assert law.coefficients == pytest.approx(TRUE, rel=1e-6)
    assert law.noise.single.std() < 1e-6
    assert law.step_s(StepWork(100, 2, 10, 5050)) == pytest.approx(float(TRUE @ [1, 100, 2, 10, 5050]))


def test_coefficients_are_never_negative_also_where_nothing_tells_them_apart():
    sums, made = StatsWindow(0.0), []
    for at in range(8):
        for _ in range(20):
            sums.step(StepWork(0, 4, 400, 0), 0.01 + 0.0001 * at)
        made.append(msgspec.structs.replace(sums.take(5.0 * at + 5), at=5.0 * at + 5))
    law = token_law(made)
    assert (law.coefficients >= 0).all()
    assert (law.draws(np.random.default_rng(0), 100) >= 0).all()
    assert law.seconds(StepWork(0, 4, 400, 0)).value == pytest.approx(0.01035, rel=1e-3)


def test_few_steps_give_no_law_and_the_error_says_what_helps():
    with pytest.raises(NotEnoughData, match="too few") as refused:
        token_law(windows(1, count=3))
    assert "windows of 5 s" in (refused.value.fix or "")


def test_sums_of_windows_add_up_and_survive_the_journal():
    parts = windows(3, count=6)
    whole = merge_windows(parts)
    assert whole.steps == merge_steps(each.steps for each in parts)
    assert sum(each.products[0] for each in whole.steps) == 300
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(whole), type=BatchWindow)
    assert again.steps == whole.steps
    old = msgspec.json.decode(b'{"event": "batch_window", "seconds": 5}', type=BatchWindow)
    assert old.steps == ()


def test_the_work_of_a_step_counts_prompts_answers_and_what_they_see():
    scheduler = TokenScheduler(TokenLimits(slots=2, step_tokens=6, context=64), PagePool(8, 16))
    scheduler.offer(TokenRequest(prompt=5, most=3, arrived=0.0))
    scheduler.offer(TokenRequest(prompt=4, most=3, arrived=0.0))
    seen = []
    while scheduler.running or scheduler.waiting:
        step = scheduler.step(0.0)
        seen.append(step.work)
        scheduler.stepped(step)
    first, second, third, *_ = seen
    assert first == StepWork(6, 2, 0, 15 + 1)  # a whole prompt, and one token of the other
    assert second == StepWork(3, 2, 6, 3 * 1 + 6)
    assert third == StepWork(0, 2, 7 + 5, 0)
