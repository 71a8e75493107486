"""The figure and the table of a law as plain numbers; the renderers add only ink."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from hooke.base.errors import BeyondTheData
from hooke.base.formats import aligned
from hooke.charts.sheet import Axis
from hooke.scaling.cost import Cost
from hooke.scaling.families import Floats
from hooke.scaling.law import Law
from hooke.scaling.measurements import Estimate

__all__ = [
    "COLUMNS",
    "CurveLine",
    "CurvePicture",
    "Mark",
    "Panel",
    "curve_facts",
    "curve_picture",
    "curve_rows",
    "curve_table",
]


# --- Measured points.


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoints:
    """The mean throughput at each distinct `n` (m,) with its interval and its number of measurements.

    The intervals come from the scatter of repeats if `repeats_tell`, else from the scatter about the law.
    """

    n: Floats
    value: Floats
    low: Floats
    high: Floats
    count: Floats
    repeats_tell: bool

    def over(self, unit: Floats | float) -> MeasuredPoints:
        """The points divided by `unit`, one number or one per point."""
        return replace(self, value=self.value / unit, low=self.low / unit, high=self.high / unit)


def measured_points(law: Law) -> MeasuredPoints:
    """The means that the law was fitted to, with intervals at the law's level.

    The scatter is pooled over independent repeats; without them it is the scatter about the law.
    """
    measured, noise = law.measurements, law.fitted.problem.noise
    levels, group = np.unique(measured.n, return_inverse=True)
    weights = np.bincount(group, measured.repeats)
    means = noise.unit_rate(
        measured.throughput,
        np.where(group == np.arange(levels.size)[:, None], measured.repeats, 0.0),
        np.ones((levels.size, len(measured))),
    )
    left = len(measured) - levels.size
    # If each N counts once, repeats share errors: their scatter is not that of the mean.
    shared = len(law.fitted.problem.measured) < len(measured)
    tell = left > 0 and not shared
    if tell:
        residuals = noise.residuals(measured.throughput, np.array(1.0), means[group])
        scatter = math.sqrt(float((measured.repeats * residuals**2).sum()) / left)
        quantile = float(stdtrit(left, (1 + law.level) / 2))
    else:
        scatter, quantile = law.scatter, law.fitted.quantile
    size = quantile * scatter / np.sqrt(np.ones(levels.size) if shared else weights)
    ends = [
        noise.widened(each[None], (each[None], each[None]), float(half))
        for each, half in zip(means, size, strict=True)
    ]
    return MeasuredPoints(
        n=levels,
        value=means,
        low=np.array([max(float(low[0]), 0.0) for low, _ in ends]),
        high=np.array([float(high[0]) for _, high in ends]),
        count=np.bincount(group).astype(np.float64),
        repeats_tell=tell,
    )


# --- Tables and plain values.

COLUMNS = ("N", "measured", "interval", "speed-up", "efficiency", "serial fraction")


def curve_rows(law: Law) -> list[tuple[str, ...]]:
    """One row per measured N: throughput with interval, and the law's speed-up, efficiency and serial fraction."""
    points = measured_points(law)
    rows: list[tuple[str, ...]] = []
    for n, value, low, high in zip(points.n, points.value, points.low, points.high, strict=True):
        serial = law.karp_flatt(float(n)).value if n > 1 else math.nan
        rows.append(
            (
                f"{n:g}",
                number(value),
                f"{number(low)} to {number(high)}",
                f"{law.speedup(float(n)).value:.3g}",
                f"{law.efficiency(float(n)).value:.0%}",
                f"{serial:.3f}" if math.isfinite(serial) else "",
            )
        )
    return rows


def curve_table(law: Law, unit: str) -> str:
    """The rows as right-aligned text."""
    header = (COLUMNS[0], f"{unit}/s", *COLUMNS[2:])
    return "\n".join(aligned(header, curve_rows(law), right=range(len(header))))


def number(value: float, digits: int = 4) -> str:
    """A count or a rate to `digits` digits: `0.02857`, `1,290`."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.{digits}g}"


def curve_facts(law: Law, cost: Cost | None) -> dict[str, Any]:
    """The law and its points as JSON values; infinite and unknown numbers are None."""
    points = measured_points(law)
    columns = (points.n, points.value, points.low, points.high, points.count)
    return law.facts() | {
        "points": [
            {"n": n, "throughput": value, "interval": [low, high], "measurements": int(count)}
            for n, value, low, high, count in zip(*(column.tolist() for column in columns), strict=True)
        ],
        "cost": None if cost is None else cost.facts(),
    }


GRID = 200
BEYOND = 1.25
"""The law is drawn up to this multiple of the largest N measured,"""
FARTHEST = 2.0
"""or up to this multiple, if the knee, the peak or COST lies beyond."""
HEADROOM = 1.12
TALLEST = 2.0
"""Bars and bands are cut at this multiple of the measured range, so that they do not hide it."""
LAWS = {
    "amdahl": "Amdahl's law",
    "batch": "law of batches",
    "bent_line": "bent line",
    "closed_queue": "closed queue with a lock",
    "gustafson": "Gustafson's law",
    "hard_knee": "hard-knee law",
    "linear": "linear law",
    "power": "power law",
    "staircase": "linear law of whole items",
    "usl": "USL",
}
STAIRCASE = "staircase_"
"""The prefix of families whose items do not divide evenly among N."""
CROWDED = 0.5
"""The axis of N is logarithmic if more than this share of the points would lie in its first tenth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveLine:
    """A curve (m,) with a band over N (m,), `dashed` outside the measured range."""

    n: Floats
    value: Floats
    low: Floats
    high: Floats
    dashed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One quantity over N. `ideal` is linear scaling, `plain` the value of the plain call."""

    quantity: str
    y: Axis
    points: MeasuredPoints
    lines: tuple[CurveLine, ...]
    ideal: CurveLine
    plain: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A notable N: `kind` is knee, peak or COST; `values` are the law's in each panel."""

    kind: str
    n: float
    interval: tuple[float, float]
    values: tuple[float, ...]

    @property
    def text(self) -> str:
        """`knee 60 (50 to 74)`."""
        low, high = self.interval
        shown = f"{self.kind} {_short(self.n)}"
        return shown if low == high else f"{shown} ({_short(low)} to {_short(high)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePicture:
    """Speed-up and efficiency over N, which was measured between the two ends in `measured`.

    `unit_text` says what speed-up 1 is, `missing` why there is no knee, `caption` what the symbols mean,
    `points_text` what the points are. `notes` are printed below.
    """

    title: str
    unit_text: str
    law_text: str
    band_text: str
    caption: str
    x: Axis
    panels: tuple[Panel, Panel]
    marks: tuple[Mark, ...]
    missing: str
    notes: tuple[str, ...]
    measured: tuple[float, float]
    points_text: str = "measured"


def curve_picture(
    law: Law,
    *,
    title: str,
    unit: str,
    cost: Cost | None,
    counts: str = "workers",
    most: float = math.inf,
) -> CurvePicture:
    """The figure of a law. `unit` is what throughput counts, `counts` what N counts; N cannot be above `most`."""
    rate = float(law.throughput(np.array([1.0]))[0])
    points = measured_points(law)
    marks, notes = _marks(law, cost, most)
    low, high = min(1.0, float(points.n[0])), _farthest(law, marks)
    crowded = float(np.mean(points.n < low + (high - low) / 10)) > CROWDED
    x = Axis(label=counts, low=low if crowded else 0.0, high=high, logarithmic=crowded, whole=True)
    ends = points.n[[0, -1]]
    grid = np.unique([*np.geomspace(low, high, GRID // 2), *np.linspace(low, high, GRID // 2), *ends])
    grid = grid[(grid >= low) & (grid <= high)]
    speedup = _speedup(law, rate, points, grid, cost, logarithmic=crowded)
    return CurvePicture(
        title=title,
        unit_text=f"1 is {number(rate, 3)} {unit}/s",
        law_text=law_name(law.family),
        band_text=f"{law.level:.0%} band",
        caption=_caption(points, law.level),
        x=x,
        panels=(speedup, _efficiency(speedup)),
        marks=tuple(
            replace(mark, values=_values(law, rate, mark)) for mark in sorted(marks, key=lambda mark: mark.n)
        ),
        missing="" if any(mark.kind == "knee" for mark in marks) else _missing(law, most),
        notes=(*_said(law), *notes),
        measured=(float(ends[0]), float(ends[1])),
    )


def _values(law: Law, rate: float, mark: Mark) -> tuple[float, ...]:
    speedup = float(law.throughput(np.array([mark.n]))[0]) / rate
    return speedup, speedup / mark.n


def _speedup(
    law: Law, rate: float, points: MeasuredPoints, grid: Floats, cost: Cost | None, *, logarithmic: bool
) -> Panel:
    value, (low, high) = law.throughput(grid) / rate, law.band(grid)
    shown, plain = points.over(rate), None if cost is None else cost.plain / rate
    solid = (grid >= points.n[0]) & (grid <= points.n[-1])
    told = max(float(shown.value.max()), float(value.max()))
    most = min(max(told, float(shown.high.max()), float((high[solid] / rate).max())), TALLEST * told)
    if plain is not None:
        most = max(most, min(plain, FARTHEST * most))
    least = min(float(shown.low.min()), float(value.min()))
    bottom, top = (least / HEADROOM, most * HEADROOM**2) if logarithmic else (0.0, most * HEADROOM)
    # Ends far outside, and infinite ones, are drawn just outside.
    low, high = (np.clip(end / rate, bottom / 10, top * 10) for end in (low, high))
    return Panel(
        quantity="speed-up",
        y=Axis(label="speed-up", low=bottom, high=top, logarithmic=logarithmic),
        points=shown,
        lines=tuple(_lines(grid, points, (value, low, high))),
        ideal=CurveLine(n=grid, value=grid, low=grid, high=grid, dashed=False),
        plain=plain,
    )


def _efficiency(speedup: Panel) -> Panel:
    lines = tuple(map(_over_n, speedup.lines))
    points = speedup.points.over(speedup.points.n)
    told = max(1.0, float(points.value.max()), *(float(line.value.max()) for line in lines))
    most = min(max(told, float(points.high.max())), TALLEST * told)
    return Panel(
        quantity="efficiency",
        y=Axis(label="efficiency", low=0.0, high=HEADROOM * most, percent=True),
        points=points,
        lines=lines,
        ideal=_over_n(speedup.ideal),
    )


def _over_n(line: CurveLine) -> CurveLine:
    return replace(line, value=line.value / line.n, low=line.low / line.n, high=line.high / line.n)


def _lines(
    grid: Floats, points: MeasuredPoints, curves: tuple[Floats, Floats, Floats]
) -> Iterator[CurveLine]:
    """Solid in the measured range, dashed outside; neighbors share an end."""
    first, last = points.n[0], points.n[-1]
    parts: list[tuple[NDArray[np.bool_], bool]] = [
        (grid <= first, True),
        ((grid >= first) & (grid <= last), False),
        (grid >= last, True),
    ]
    for part, dashed in parts:
        if part.sum() > 1:
            value, low, high = (curve[part] for curve in curves)
            yield CurveLine(n=grid[part], value=value, low=low, high=high, dashed=dashed)


def _farthest(law: Law, marks: list[Mark]) -> float:
    most = float(law.measurements.n[-1])
    wanted = [min(mark.n * 1.1, mark.interval[1] * 1.05) for mark in marks]
    return max([BEYOND * most, *wanted])


def _marks(law: Law, cost: Cost | None, most: float) -> tuple[list[Mark], list[str]]:
    """Knee, peak and COST if they can be drawn, and notes about those that cannot."""
    marks: list[Mark] = []
    notes: list[str] = []
    try:
        marks.append(_mark("knee", law.determined_knee()))
    except BeyondTheData as refusal:
        notes.append(_missing(law, most, f": {refusal.why}"))
    if (
        not notes
        and law.peak.value != marks[0].n
        and law.peak.bounded
        and law.peak.interval[1] <= FARTHEST * law.measurements.n[-1]
    ):
        marks.append(_mark("peak", law.peak))
    if cost is not None and not cost.never and cost.n <= FARTHEST * law.measurements.n[-1]:
        marks.append(Mark(kind="COST", n=cost.n, interval=cost.interval, values=()))
    if cost is not None:
        notes.append(f"{cost} (plain Python is one thread without the engine)")
    return marks, notes


def _missing(law: Law, most: float, reason: str = "") -> str:
    """The note that there is no knee, with the next measurement if there can be one."""
    last, least = law.measurements.n[-1], law.knee.interval[0]
    if math.isinf(least) or least >= most:
        what = f"no knee up to N = {last:g}"
    else:
        what = f"knee not determined{reason}"
    return f"{what}; to find it, {law.next_measurement()}" if last < most else what


def _mark(kind: str, found: Estimate) -> Mark:
    return Mark(kind=kind, n=found.value, interval=found.interval, values=())


def _said(law: Law) -> Iterator[str]:
    estimates = law.parameters.items()
    numbers = ", ".join(f"{symbol} = {each.shown(partial(number, digits=3))}" for symbol, each in estimates)
    yield f"{law_name(law.family)}: {numbers}; speed-up, efficiency and serial fraction are of the law"
    if law.alternatives:
        yield f"not ruled out: {', '.join(law_name(each.family) for each in law.alternatives)}; the band covers them"
    yield from law.flags


def law_name(family: str) -> str:
    """The usual name of a family: `Amdahl's law`."""
    form = family.removeprefix(STAIRCASE)
    if form != family:
        return f"{law_name(form)} of whole items"
    return LAWS.get(family, f"{family} law")


def _caption(points: MeasuredPoints, level: float) -> str:
    source = "repeats" if points.repeats_tell else "the scatter about the law"
    return (
        f"Points: means with {level:.0%} intervals from {source}. Shaded: the {level:.0%} band of the law. "
        "Dashed: beyond what was measured."
    )


def _short(n: float) -> str:
    if not math.isfinite(n):
        return "never"
    return number(n, 3)
