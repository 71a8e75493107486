"""Chaos for a while: real kills, stops, full disks and resumes, by a seed; and the eye that judges it, on planted faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.chaos import chaos, repeated

from hooke.base.ref import Ref
from hooke.journal.events import AttemptFinished, AttemptStarted, RunStarted

REF = Ref("0" * 64, 1)


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(400)
def test_answers_and_journals_survive_chaos(tmp_path: Path) -> None:
    report = chaos(20261125, seconds=25, folder=tmp_path)
    assert not report.problems, f"repro: python -m tests.support.chaos --seconds 25 --seed 20261125\n{report}"
    assert report.rounds >= 1
    assert sum(report.done.values()) > 20, report


def events(*said):
    return [RunStarted(run="r", pipeline="p", entry="e"), *said]


def began(attempt: int, lo: int, hi: int) -> AttemptStarted:
    return AttemptStarted(attempt=attempt, node=0, lo=lo, hi=hi)


def ended(attempt: int, lo: int, hi: int) -> AttemptFinished:
    return AttemptFinished(attempt=attempt, node=0, lo=lo, hi=hi, ref=REF)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([began(1, 0, 3), ended(1, 0, 3), began(2, 2, 4)], "items 2..3 of node 0 were done, and began again"),
        ([began(1, 0, 3), began(2, 0, 3), ended(1, 0, 3), ended(2, 0, 3)], "finished again"),
        ([began(1, 0, 3), ended(1, 0, 3), began(1, 4, 5)], "attempt 1 began twice"),
        ([began(1, 0, 1), ended(1, 0, 1), ended(1, 1, 2)], "attempt 1 ended twice"),
    ],
)
def test_the_judge_sees_what_was_done_twice(said, problem) -> None:
    assert problem in "\n".join(repeated(events(*said)))


def test_the_judge_lets_honest_retries_pass() -> None:
    assert (
        repeated(events(began(1, 0, 3), began(2, 3, 5), ended(2, 3, 5), began(3, 0, 3), ended(3, 0, 3))) == []
    )
