"""Language models in tokens: what is seen of their load, what a replica does, and what the policy makes of it on a simulated fleet."""

import pytest
from benchmarks.token_scaling import (
    COEFFICIENTS,
    LIMITS,
    SLO,
    ByTokens,
    Fleet,
    first_number,
    law,
    long_answers,
)

from hooke.autoscaling.service_policy import Bounds, ReplicaPolicy, ServiceSnapshot
from hooke.autoscaling.token_policy import TokenDemand, TokenMix, replica_tokens, token_station
from hooke.generation.page_pool import PagePool
from hooke.generation.token_scheduler import TokenLoad, TokenRequest, TokenScheduler
from hooke.serving.slo import parse_slo


def saturated_rate(prompt: int, answer: int, slots: int, step_tokens: int) -> float:
    """Requests a second of the real scheduler, when there are always more."""
    limits = LIMITS.__class__(slots=slots, step_tokens=step_tokens, context=8192, max_waiting=10**6)
    scheduler = TokenScheduler(limits, PagePool(slots * 512, 16))
    count, now, done = 6 * slots, 0.0, []
    for _ in range(count):
        scheduler.offer(TokenRequest(prompt=prompt, most=answer, arrived=0.0))
    while scheduler.running or scheduler.waiting:
        step = scheduler.step(now)
        now += sum(one * part for one, part in zip(COEFFICIENTS, (1, *step.work), strict=True))
        done += [now] * len(scheduler.stepped(step))
    inside = [at for at in done if done[slots - 1] <= at <= done[-slots]]  # filled, and not emptying
    return (len(inside) - 1) / (inside[-1] - inside[0])


@pytest.mark.parametrize(("prompt", "answer"), [(100, 200), (1000, 200), (2000, 30)])
def test_a_replica_does_what_the_scheduler_does(prompt, answer):
    slots, step_tokens = 16, 528
    limits = LIMITS.__class__(slots=slots, step_tokens=step_tokens, context=8192)
    made = replica_tokens(law(), limits, TokenMix(prompt=prompt, answer=answer), None)
    assert made.rate / made.load == pytest.approx(saturated_rate(prompt, answer, slots, step_tokens), rel=0.2)


def test_a_promise_for_each_token_makes_batches_smaller_and_one_for_the_first_leaves_less_waiting():
    mix = TokenMix(prompt=500, answer=200)
    free, each = (
        replica_tokens(law(), LIMITS, mix, parse_slo(text))
        for text in ("p95 first < 3s", "p95 first < 3s, each < 50ms")
    )
    assert each.requests < free.requests == LIMITS.slots
    assert each.rate < free.rate
    hopeless = replica_tokens(law(), LIMITS, mix, parse_slo("p95 first < 50ms"))
    assert hopeless.capacity.rate == 0
    assert token_station(hopeless, parse_slo("p95 first < 50ms"), start_s=5, grain=100) is None
    station = token_station(free, SLO, start_s=5, grain=100)
    assert (station.rate, station.variability, station.budget) == (free.rate, 99, pytest.approx(0.05))


def report(**more) -> TokenLoad:
    return TokenLoad(**more)


def test_arrivals_count_by_replica_and_those_that_were_refused_as_the_mean():
    demand = TokenDemand()
    demand.update({"a": report(taken=50, prompt_tokens=10**6)}, called=50)
    assert demand.arrived == 50 * demand.mix.answer, "what was before it was seen is known by its number only"
    before = demand.arrived
    demand.weight = 0.5
    demand.update({"a": report(taken=60, prompt_tokens=10**6 + 1000, reused=200)}, called=62)
    new = demand.arrived - before
    mean = 0.5 * demand.mix.prompt + demand.mix.answer
    assert new == pytest.approx(0.5 * 800 + 10 * demand.mix.answer + 2 * mean)
    demand.update({"b": report()}, called=62)
    assert demand.outstanding == 0


def test_a_request_counts_once_when_its_replica_reports_it_later():
    demand = TokenDemand()
    demand.update({"a": report()}, called=0)
    demand.update({"a": report()}, called=100)
    once = demand.arrived
    demand.update({"a": report(taken=100)}, called=100)
    assert demand.arrived == once == 100 * demand.mix.answer
    demand.update({"a": report(taken=100)}, called=130)  # these are refused
    for _ in range(5):
        demand.update({"a": report(taken=100)}, called=130)
    demand.update({"a": report(taken=140)}, called=170)
    assert demand.arrived == pytest.approx(170 * demand.mix.answer)


def test_clients_that_leave_make_no_answer_longer():
    demand = TokenDemand()
    for second in range(5000):
        demand.update({"a": report(taken=10 * second, given=100 * second, left=10 * second)}, 10 * second)
    assert demand.mix.answer == pytest.approx(10, rel=0.05)
    assert len(demand._recent) < 4000


def test_longer_answers_are_noticed_before_the_first_of_them_ends():
    demand, taken, ended, given = TokenDemand(), 0, 0, 0
    for _ in range(100):
        taken, ended, given = taken + 2, ended + 2, given + 40
        demand.update({"a": report(taken=taken, ended=ended, given=given)}, taken)
    assert demand.mix.answer == pytest.approx(20, rel=0.1)
    for second in range(1, 30):
        taken, given = taken + 2, given + 20 * 2 * second
        demand.update({"a": report(taken=taken, ended=ended, given=given, running=2 * second)}, taken)
    assert demand.mix.answer > 400
    assert demand.outstanding > 58 * 0.6 * 400


def test_what_is_said_is_said_in_tokens():
    policy = ReplicaPolicy(Bounds(low=1, high=9, assumed_in_flight=100.0))
    made = replica_tokens(law(), LIMITS, TokenMix(prompt=500, answer=200), SLO)
    said = None
    for second in range(30):
        seen = ServiceSnapshot(
            ready=1, starting=0, in_flight=200.0, arrived=3000.0 * second, start_s=5.0, capacity=made.capacity,
            unit="tokens", grain=400.0,
        )  # fmt: skip
        said = policy.decide(float(second), seen)
    assert said.target >= 4
    assert "tokens/s" in said.reason


@pytest.mark.needs("cpu")
def test_long_answers_at_the_same_rate_bring_replicas_on_a_simulated_fleet():
    asks = [each for each in long_answers() if 100 <= each.at < 260]
    policy = ByTokens()
    made = Fleet([each._replace(at=each.at - 100) for each in asks], policy, first=first_number(asks)).run()
    assert 3 <= made.most <= 8
    assert "1 -> 2" in policy.reasons[0]
    assert all("tokens/s" in reason for reason in policy.reasons)
