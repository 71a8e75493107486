"""From the events of a study to measurements, and to the law, the COST and the noise that they show."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hooke.base.errors import NotEnoughData
from hooke.journal.events import Measured, PlainMeasured
from hooke.journal.studies import StudyRecord
from hooke.scaling import Cost, Law, Measurements, cost, fit
from hooke.scaling.families import Floats
from hooke.studies.noise import Spread, spread_of

__all__ = ["cost_of", "law_of", "measurements_of", "spread_in"]

GROWING = ("linear", "gustafson", "hard_knee", "power", "usl")
"""The families for work that grows with N: Amdahl's is for work that does not."""


def measurements_of(record: StudyRecord) -> Measurements:
    """What was measured at each N, or at each size where these were swept. Raises NotEnoughData where nothing was."""
    if not record.measured:
        raise NotEnoughData(f"study {record.started.study} holds no measurement: it ended before the first")
    work = np.array([each.work for each in record.measured], dtype=np.float64)
    return Measurements(
        work if record.started.sizes else [each.n for each in record.measured],
        seconds=[each.seconds for each in record.measured],
        work=work,
        conditions=[each.condition for each in record.measured],
    )


def law_of(record: StudyRecord) -> Law:
    """The law that the study speaks for. Raises NotEnoughData, which names the N that is missing."""
    measured = measurements_of(record)
    levels = measured.levels
    if levels.size < 3:
        missing = 2 * int(levels[-1])
        raise NotEnoughData(
            f"N = {_listed(levels)} alone cannot tell one law from another",
            why="through two points goes a line, and a curve that is about to bend",
            next=f"measure at N = {missing}",
            measure_at=float(missing),
        )
    law = fit(measured, families=_families(record, levels.size))
    if levels.size == 3 and not record.started.sizes and law.lack_of_fit.found:
        # Laws of two parameters are left one number to be judged by, which rules none of them out.
        best = law.next_measurement()
        raise NotEnoughData(
            f"N = {_listed(levels)} alone cannot tell one law from another",
            why=f"the simplest that is not ruled out, {law.family}, misses them by more than repeats of one N differ",
            next=str(best),
            measure_at=float(best.n),
        )
    return law


def _listed(levels: Floats) -> str:
    return ", ".join(f"{n:g}" for n in levels)


def _families(record: StudyRecord, levels: int) -> tuple[str, ...] | None:
    if record.started.sizes:
        return ("batch",)
    if record.started.weak:
        # The last has three parameters: four N can contradict it, three cannot.
        return GROWING if levels > 3 else GROWING[:-1]
    return None


def cost_of(record: StudyRecord) -> Cost:
    """The smallest N, or size, that beats the plain calls: by the law, or of those measured where there is no law.

    Raises NotEnoughData where no plain call was measured, BeyondTheData where the law reaches it too far away.
    """
    if not record.plain:
        raise NotEnoughData("no plain call was measured to compare with")
    seconds, work = [each.seconds for each in record.plain], record.plain[0].work
    try:
        scaled: Law | Measurements = law_of(record)
    except NotEnoughData:
        scaled = measurements_of(record)
    return cost(scaled, seconds, work=work)


def spread_in(measured: Iterable[Measured], plain: Iterable[PlainMeasured]) -> Spread:
    """How far measurements of the same thing lie apart, the plain calls among them."""
    groups: dict[tuple[int, float], list[float]] = {}
    for each in measured:
        groups.setdefault((each.n, each.work), []).append(each.work / each.seconds)
    return spread_of([*groups.values(), [each.work / each.seconds for each in plain]])
