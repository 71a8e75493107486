"""The chaos programme in short: one blow of each kind, and what it may cost."""

import numpy as np
import pytest
from benchmarks.serving.chaos.blows import BLOWS, Blow
from benchmarks.serving.chaos.programme import Course, run
from benchmarks.serving.chaos.promises import broken
from benchmarks.serving.chaos.toll import FRONT, QUIET, tolls

from hooke.loadtest.generator_protocol import Fate, Outcomes


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(1500)  # some 90 s where the machine is free: each blow is waited for until it is over
def test_no_mishap_costs_a_request_that_may_be_sent_again_and_others_only_what_was_under_way(tmp_path):
    results = run(Course(seconds=0.0, rate=30.0), tmp_path)
    for result in results:
        assert result.broken == [], (result.tolls, result.said)
        assert {toll.kind: toll.times for toll in result.tolls} == {**dict.fromkeys(BLOWS, 1), QUIET: 0}
        assert all(toll.sent for toll in result.tolls), "the load went on all the time"
        assert result.roll_outs == ["began", "accepted", "done"]
        assert result.looks > 10
        assert result.bound > 20, "two fronts, and each replica that there was"
        assert result.unsaid == set()


def outcomes(*rows):
    due, ended, status = (np.array(column) for column in zip(*rows, strict=True))
    return Outcomes(due=due, begun=due + 0.001, ended=ended, status=status.astype(np.int16))


KILLED, HUNG, ADDED = "a replica killed, `kill -9`", "a replica hung, `kill -STOP`", "a replica added"


def test_a_request_is_counted_with_the_blow_that_it_met_first():
    sent = outcomes(
        (0.5, 0.6, 200),  # before
        (0.9, 1.2, 502),  # under way when it fell
        (1.03, 1.3, 200),  # so soon after it that nobody knows
        (1.5, 5.5, Fate.WRONG),  # from one blow into the next
        (5.2, 5.3, 200),
        (8.0, 8.1, 504),  # after all
    )
    blows = [Blow(kind=KILLED, at=101.0, strong=102.0), Blow(kind=ADDED, at=105.0, strong=106.0)]
    killed, added, quiet = tolls(sent, blows, began=100.0)
    assert (killed.times, killed.sent, killed.under_way) == (1, 3, 2)
    assert killed.failed == {"502": 1, "wrong answer": 1}
    assert killed.longest_s == pytest.approx(0.27)
    assert killed.strong_s == [pytest.approx(1.0)]
    assert (added.sent, added.under_way, added.failed) == (1, 1, {})
    assert (quiet.kind, quiet.sent, quiet.failed) == (QUIET, 2, {"504": 1})


def test_a_connection_that_is_lost_with_the_front_is_the_fronts_though_a_hung_replica_held_the_request():
    sent = outcomes((1.1, 20.5, Fate.LOST), (1.2, 12.0, 502), (1.3, 5.0, Fate.LOST))
    blows = [Blow(kind=HUNG, at=1.0, strong=12.0), Blow(kind=FRONT, at=20.4, strong=22.0)]
    hung, front, _ = tolls(sent, blows, began=0.0)
    assert (hung.failed, front.failed) == ({"502": 1, "connection lost": 1}, {"connection lost": 1})


def test_what_may_not_happen_is_said():
    def of(kind, *statuses):
        sent = outcomes(*[(0.99, 1.1, status) for status in statuses], (3.0, 3.1, 200))
        return tolls(sent, [Blow(kind=kind, at=1.0, strong=2.0)], began=0.0)

    assert broken(of(KILLED, 502), again=False) == []
    assert broken(of(KILLED, 502), again=True) == [f"{KILLED}: 1 x 502 failed, and none may"]
    assert broken(of(ADDED, 502), again=False) == [f"{ADDED}: 1 x 502 failed, and none may"]
    assert "though what was under way may only stay unanswered" in broken(of(HUNG, 500), again=False)[0]
    assert broken(of(FRONT, Fate.LOST, Fate.REFUSED), again=True) == []
    assert "only connections may be lost" in broken(of(FRONT, Fate.LOST, 503), again=True)[0]
    late = tolls(
        outcomes((1.5, 1.6, 502), (1.7, 1.8, 502)), [Blow(kind=KILLED, at=1.0, strong=2.0)], began=0.0
    )
    assert broken(late, again=False) == [f"{KILLED}: 2 failed, and 0 were under way"]
