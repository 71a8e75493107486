"""What a level tells, and when it tells nothing because the generator was the limit."""

import numpy as np
import pytest

from hooke.loadtest.generator_protocol import Fate, Outcomes
from hooke.loadtest.rate_search import LevelVerdict, needed, summary_of
from hooke.serving.slo import parse_slo

SLO = parse_slo("p99 < 50ms")


def level(latency, lag=0.0, status=200, count=2000, seconds=2.0):
    due = np.arange(count) * seconds / count
    return Outcomes(
        due=due,
        begun=due + lag,
        ended=due + lag + latency,
        status=np.broadcast_to(np.asarray(status, np.int16), (count,)),
    )


def judged(outcomes, cpu=0.1):
    return summary_of(outcomes, seconds=2.0, cpu=cpu, slo=SLO)


def test_a_promise_that_is_kept_and_one_that_is_not():
    assert judged(level(0.01)).verdict is LevelVerdict.HELD
    assert judged(level(0.06)).verdict is LevelVerdict.BROKEN
    some = np.where(np.random.default_rng(0).uniform(size=2000) < 0.01, 0.06, 0.01)
    assert judged(level(some)).verdict is LevelVerdict.UNCLEAR


def test_failures_and_refusals_break_a_promise_and_are_counted_apart():
    status = np.full(2000, 200)
    status[::20], status[1::40], status[2::50] = 429, Fate.TIMED_OUT, 500
    made = judged(level(0.001, status=status))
    assert made.verdict is LevelVerdict.BROKEN
    assert made.refused == {429: 100}
    assert made.failed == {"timed out": 50, "500": 40}
    assert made.at(99).value == pytest.approx(0.001)


def test_the_generator_says_when_it_was_the_limit():
    late = judged(level(0.01, lag=0.045))
    assert late.verdict is LevelVerdict.LIMITED and "45 ms late" in late.limited
    assert judged(level(0.06), cpu=0.95).verdict is LevelVerdict.LIMITED
    # A promise that holds with the generator's lag in it holds without.
    assert judged(level(0.001, lag=0.02)).verdict is LevelVerdict.HELD
    # It was late, but not so that it mattered.
    assert judged(level(0.5, lag=0.01)).verdict is LevelVerdict.BROKEN


def test_so_few_requests_show_no_promise_to_be_kept():
    few = needed(SLO)
    assert judged(level(0.01, count=few)).verdict is LevelVerdict.HELD
    assert judged(level(0.01, count=few - 1)).verdict is LevelVerdict.UNCLEAR


def test_a_level_without_any_answer_has_no_percentiles():
    made = judged(level(0.001, status=Fate.REFUSED))
    assert made.percentiles == () and made.throughput == 0
    assert made.verdict is LevelVerdict.BROKEN and made.failed == {"no connection": 2000}
