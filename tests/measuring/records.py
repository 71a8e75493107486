"""Studies as their journals would tell them, from laws that are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hooke.journal.events import Measured, PlainMeasured, RunFinished, StudyStarted
from hooke.journal.study_records import StudyRecord


def record_of(
    seconds: Callable[[float], float],
    *,
    levels: Sequence[int] = (1, 2, 4, 8),
    sizes: Sequence[int] = (),
    plain: float = 9.0,
    noise: float = 0.02,
    repeats: int = 3,
    weak: bool = False,
    pinned: bool = True,
) -> StudyRecord:
    """`seconds` gives the time of all of 100 items at N, or of that many items by one worker where sizes are swept."""
    chance = np.random.default_rng(5)
    started = StudyStarted(
        study="measure-delays-1",
        pipeline="delays",
        entry="flights.py:delays",
        task="features",
        levels=tuple(levels),
        sizes=tuple(sizes),
        repeats=repeats,
        weak=weak,
        pinned=pinned,
        cpus=4,
        machine="a machine, 4 cores",
        shown={"months": "12"},
    )

    def noisy(value: float) -> float:
        return value * float(np.exp(noise * chance.standard_normal()))

    def work(each: int) -> float:
        return float(each if sizes else 100 * each / max(levels) if weak else 100)

    measured = [
        Measured(
            task="features",
            n=levels[0] if sizes else each,
            work=work(each),
            seconds=noisy(seconds(each)),
            repeat=repeat,
        )
        for repeat in range(repeats)
        for each in (sizes or levels)
    ]
    calls = [
        PlainMeasured(work=float(max(sizes, default=100)), seconds=noisy(plain), repeat=repeat)
        for repeat in range(repeats)
    ]
    return StudyRecord(
        started=started,
        measured=tuple(measured),
        plain=tuple(calls),
        finished=RunFinished(status="finished"),
    )
