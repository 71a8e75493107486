"""The trial of a new version, alone: how often it is wrong, how soon it is right, and what it says."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.sizes import choose_size

from hooke.services.supervisor.canary import CanaryRules, CanaryTrial, EProcess, ReplicaOutcomes, share_bounds
from hooke.serving.stats_windows import latency_bin

TRIALS = choose_size(sample=20, full=100, soak=400)
RULES = CanaryRules()
USUAL, SLOW = latency_bin(0.02), latency_bin(0.05)


def answers(chance, count, *, fails, p_slow=0.0):
    """So many answers with these chances of a failure, and of taking two and a half times as long as usual."""
    failed = sum(chance.random() < fails for _ in range(count))
    slow = sum(chance.random() < p_slow for _ in range(count))
    raised = {"predict raised ValueError (times.py, line 14)": failed} if failed else {}
    latencies = ((USUAL, count - slow), (SLOW, slow))
    return ReplicaOutcomes(answered=count, failed=failed, latencies=latencies, raised=raised)


def tried(seed, *, new, old, rate=50.0, rules=RULES, most_s=700.0, drift=1.0):
    """A trial until its verdict, at some requests a second; `drift` multiplies the failures of both in every other minute."""
    chance, trial, now = random.Random(seed), CanaryTrial(rules), 0.0
    while (verdict := trial.verdict()) is None:
        assert now < most_s
        now += 1.0
        requests = sum(chance.random() < 0.5 for _ in range(int(2 * rate)))
        of_new = sum(chance.random() < trial.share for _ in range(requests))
        times = drift if now // 60 % 2 else 1.0
        for which, count, kind in ((True, of_new, new), (False, requests - of_new, old)):
            trial.observe(answers(chance, count, **kind | {"fails": kind["fails"] * times}), new=which)
        trial.advance(now, exposed=True)
    return verdict, trial


def test_a_version_that_fails_always_goes_back_after_a_few_requests():
    for seed in range(20):
        verdict, trial = tried(seed, new={"fails": 1.0}, old={"fails": 0.0})
        assert not verdict.accepted
        assert trial.new.failed <= 12
        assert (
            "to the old version; most often predict raised ValueError (times.py, line 14), " in verdict.reason
        )


@pytest.mark.needs("cpu")
def test_a_good_version_is_accepted_once_that_is_certain():
    for seed in range(10):
        verdict, trial = tried(seed, new={"fails": 0.0}, old={"fails": 0.0})
        assert verdict.accepted
        assert "0 of " in verdict.reason
        assert 200 < trial.new.answered < 400


@pytest.mark.needs("cpu")
def test_an_equal_version_goes_back_at_most_as_often_as_is_said():
    """With optional stopping: each trial ends when its evidence is enough, at whatever time."""
    trials, back = TRIALS, 0
    rules = CanaryRules(step_s=20.0, limit_s=200.0)
    for seed in range(trials):
        chance = random.Random(seed)
        fails, slow = chance.choice([0.0, 0.01, 0.1, 0.4]), chance.choice([0.0, 0.05, 0.3])
        like = {"fails": fails, "p_slow": slow}
        verdict, _ = tried(seed, new=like, old=like, rate=chance.choice([2.0, 10.0]), rules=rules, drift=2.0)
        back += not verdict.accepted
    assert back <= RULES.alpha * trials + 3 * (RULES.alpha * trials) ** 0.5


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ({"fails": 0.2}, {"fails": 0.0}),
        ({"fails": 0.3}, {"fails": 0.05}),
        ({"fails": 0.0, "p_slow": 1.0}, {"fails": 0.0, "p_slow": 0.0}),
        ({"fails": 0.01, "p_slow": 0.5}, {"fails": 0.01, "p_slow": 0.05}),
    ],
)
def test_a_worse_version_goes_back(new, old):
    verdicts = [tried(seed, new=new, old=old)[0] for seed in range(20)]
    assert not any(verdict.accepted for verdict in verdicts)
    slower = new.get("p_slow", 0) > 0
    assert all(verdict.reason.startswith("it is slower") == slower for verdict in verdicts)


def test_what_fails_in_both_says_nothing_against_the_new_one():
    verdict, _ = tried(3, new={"fails": 1.0}, old={"fails": 1.0})
    assert verdict.accepted


@pytest.mark.parametrize(("failed", "accepted"), [(0, True), (2, False)])
def test_at_the_limit_what_was_seen_decides(failed, accepted):
    trial = CanaryTrial(RULES)
    trial.observe(
        ReplicaOutcomes(answered=3, failed=failed, raised={"say raised KeyError": failed}), new=True
    )
    for second in range(int(RULES.limit_s) + 1):
        assert trial.verdict() is None
        trial.advance(float(second), exposed=True)
    verdict = trial.verdict()
    assert verdict.accepted is accepted
    assert verdict.reason.startswith("not certain after 10m 00s: ")
    assert verdict.reason.endswith("; most often say raised KeyError, 2 times") is not accepted


def test_the_share_doubles_and_time_counts_only_while_both_can_answer():
    trial, seen = CanaryTrial(RULES), []
    for second in range(0, 360, 2):
        trial.advance(float(second), exposed=second % 4 < 2)
        seen.append(trial.share)
    assert trial.exposed_s == pytest.approx(180.0, abs=2)
    assert sorted(set(seen)) == [0.05, 0.1, 0.2]
    assert CanaryTrial(CanaryRules(share=0.8, mirror=True)).share == 0.8


batches = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)), max_size=20
)


@pytest.mark.needs("cpu")
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.05, 1.25), st.data())
def test_a_batch_multiplies_the_evidence_by_one_in_the_mean_or_by_less(new, old, odds, data):
    """Exactly, over all outcomes of a batch, while the odds are tolerable."""
    failed = data.draw(st.integers(1, new + old - 1))
    weights, values = [], []
    for count in range(max(0, failed - old), min(new, failed) + 1):
        test = EProcess(1.25)
        test.add(new, old, new_failed=count, old_failed=failed - count)
        values.append(test.value)
        weights.append(choose(new, count) * choose(old, failed - count) * odds**count)
    mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    assert mean <= 1 + 1e-9


@pytest.mark.needs("cpu")
@given(st.integers(0, 500), st.integers(0, 500))
def test_bounds_are_around_what_was_seen_and_get_closer(failed, well):
    low, high = share_bounds(failed, failed + well, 0.05)
    assert 0 <= low <= high <= 1
    if failed + well:
        assert low <= failed / (failed + well) <= high
        closer = share_bounds(4 * failed, 4 * (failed + well), 0.05)
        assert closer[1] - closer[0] <= high - low + 1e-9


@pytest.mark.needs("cpu")
def test_bounds_hold_at_all_times_together():
    missed = 0
    for seed in range(200):
        chance, failed = random.Random(seed), 0
        for count in range(1, 300):
            failed += chance.random() < 0.1
            if count % 10 == 0:
                low, high = share_bounds(failed, count, 0.05)
                if not low <= 0.1 <= high:
                    missed += 1
                    break
    assert missed <= 20


def choose(whole, part):
    made = 1
    for at in range(part):
        made = made * (whole - at) // (at + 1)
    return made
