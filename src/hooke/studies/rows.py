"""What a study measured at each N, as rows: throughput with its error, speed-up, efficiency. Plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from hooke.journal.studies import StudyRecord
from hooke.studies.measured import spread_in

__all__ = ["StudyRow", "plain_throughput", "rows_of"]


class StudyRow(msgspec.Struct, frozen=True, kw_only=True):
    """`n` workers did `work` in `seconds`, the mean of `repeats`; throughput is work a second.

    `error` is half the 95 % interval of throughput as a share of it, from the scatter at all N together; that of
    speed-up and of efficiency is sqrt(2) as much. It is infinite where nothing was repeated. Speed-up is over the
    first row, for which it is 1; efficiency is speed-up over how many times as many workers there were.
    """

    n: int
    work: float
    seconds: float
    throughput: float
    error: float
    speedup: float
    efficiency: float
    repeats: int


def rows_of(record: StudyRecord) -> list[StudyRow]:
    """A row for each N, or for each size where these were swept, the smaller ones first."""
    spread = spread_in(record.measured, record.plain)
    groups: dict[tuple[int, float], list[float]] = {}
    for each in sorted(record.measured, key=lambda each: (each.n, each.work)):
        groups.setdefault((each.n, each.work), []).append(each.seconds)
    rows: list[StudyRow] = []
    for (n, work), seconds in groups.items():
        rate = work / _middle(seconds)
        first = rows[0] if rows else None
        speedup = rate / first.throughput if first is not None else 1.0
        rows.append(
            StudyRow(
                n=n,
                work=work,
                seconds=_middle(seconds),
                throughput=rate,
                error=spread.half_width(len(seconds)),
                speedup=speedup,
                efficiency=speedup / (n / (first.n if first is not None else n)),
                repeats=len(seconds),
            )
        )
    return rows


def plain_throughput(record: StudyRecord) -> float:
    """Work a second of the plain calls; nan where none was measured."""
    if not record.plain:
        return math.nan
    return record.plain[0].work / _middle([each.seconds for each in record.plain])


def _middle(seconds: Sequence[float]) -> float:
    """The geometric mean: errors are shares of what is measured."""
    return float(np.exp(np.log(seconds).mean()))
