"""A run's workers over time against the work that could use them, and the parts that service charts share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hooke.charts import sheet
from hooke.scaling.families import Floats

__all__ = [
    "LOST",
    "FleetPicture",
    "SizeChange",
    "change_marks",
    "fleet_sheet",
    "replica_lines",
    "with_changes",
]


# --- Sizes over time, with numbered changes and a sentence for each below.

WIDTH = 518.0
LINE, MARK_SIZE = 10.5, 7.0
LOST = sheet.COLOURS["knee"]
MOST_CHANGES = 16
"""Only so many changes, the last ones, are listed and marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeChange:
    """At `at` the desired size changed from `before` to `after`, for the reason in `text`."""

    at: float
    before: int
    after: int
    text: str


def replica_lines(
    frame: sheet.PanelFrame, moments: Floats, ready: Floats, wanted: Floats
) -> Iterator[sheet.SheetItem]:
    """The ready and the desired size (k,), each from one of `moments` (k + 1,) until the next."""
    x = frame.across(np.repeat(moments, 2)[1:-1])
    there, floor = frame.down(np.repeat(ready, 2)), np.full(x.size, frame.bottom)
    yield sheet.Area(kind="ready", x=x, top=there, bottom=floor, colour=sheet.COLOURS["peak"], opacity=0.25)
    yield sheet.Stroke(kind="ready", x=x, y=there, colour=sheet.COLOURS["peak"], width=1.4)
    yield sheet.Stroke(
        kind="wanted", x=x, y=frame.down(np.repeat(wanted, 2)), colour=LOST, width=1.0, dash=(3.0, 2.0)
    )


def change_marks(frame: sheet.PanelFrame, changes: Sequence[SizeChange]) -> Iterator[sheet.SheetItem]:
    """A dot for each listed change with its number, which is left out where it would overlap the one before."""
    free = -math.inf
    for number, each in list(enumerate(changes, 1))[-MOST_CHANGES:]:
        x, text = float(frame.across(each.at)), str(number)
        half = (sheet.text_width(text, MARK_SIZE) + 1) / 2
        yield sheet.circle("change", x, float(frame.down(each.after)), 2.0, LOST, hint=each.text)
        if x - half >= free:
            free = x + half
            above = float(frame.down(max(each.after, each.before))) - 4
            yield sheet.Label(
                kind="mark", x=x, y=above, text=text, colour=LOST, size=MARK_SIZE, anchor="middle"
            )


def change_list(changes: Sequence[SizeChange], unit: str, top: float) -> list[sheet.Label]:
    """The numbered sentences of the last changes, from `top` down, wrapped to the sheet's width."""
    labels: list[sheet.Label] = []
    for number, change in list(enumerate(changes, 1))[-MOST_CHANGES:]:
        line, x = "", 6
        for word in f"{number}   at {change.at:.4g} {unit}: {change.text}".split(" "):
            if line and x + sheet.text_width(f"{line} {word}", sheet.SIZE) > WIDTH - 6:
                labels.append(_sentence(labels, x, line, top))
                line, x = word, 22
            else:
                line = f"{line} {word}" if line else word
        labels.append(_sentence(labels, x, line, top))
    return labels


def _sentence(above: Sequence[sheet.Label], x: float, text: str, top: float) -> sheet.Label:
    return sheet.Label(kind="sentence", x=x, y=top + LINE * (len(above) + 1), text=text, colour=sheet.INK)


def with_changes(
    title: str, caption: str, body: Sequence[sheet.SheetItem], changes: Sequence[SizeChange], *, unit: str, top: float
) -> sheet.Sheet:  # fmt: skip
    """A sheet with the sentences of the changes below `body`; the caption counts those left out."""
    listed = change_list(changes, unit, top)
    left_out = len(changes) - MOST_CHANGES
    caption += f"; {left_out} earlier changes are not listed" if left_out > 0 else ""
    height = top + LINE * (len(listed) + bool(listed)) + 14
    return sheet.framed(title, caption, [*body, *listed], width=WIDTH, height=height)


# --- The chart of a fleet.

LEFT, TOP, PANEL, HEIGHT, BELOW = 40.0, 42.0, 396.0, 150.0, 34.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPicture:
    """The chart as plain numbers over time in seconds.

    `could` (k,) counts items that ran or could run, `ready` and `wanted` (k,) count ready and desired workers; each holds
    from `moments` (k,) until the next, the last until `end`.
    """

    title: str
    moments: Floats
    end: float
    could: Floats
    ready: Floats
    wanted: Floats
    changes: tuple[SizeChange, ...]
    caption: str

    @property
    def axes(self) -> tuple[sheet.Axis, sheet.Axis]:
        """The axes of time and of workers. Demand may be a thousand times larger; the chart cuts it off."""
        most = max(1.0, float(self.ready.max(initial=0)), float(self.wanted.max(initial=0)))
        return (
            sheet.Axis(label="time since the start (s)", low=0.0, high=max(self.end, 1e-3)),
            sheet.Axis(label="", low=0.0, high=1.4 * most, whole=True),
        )


def fleet_sheet(picture: FleetPicture) -> sheet.Sheet:
    """The chart laid out for print: one panel, and the reasons of the decisions."""
    x, y = picture.axes
    frame = sheet.PanelFrame(left=LEFT, top=TOP, width=PANEL, height=HEIGHT, x=x, y=y)
    body = [*_panel(frame, picture), *change_marks(frame, picture.changes)]
    top = frame.bottom + BELOW
    return with_changes(picture.title, picture.caption, body, picture.changes, unit="s", top=top)


def _panel(frame: sheet.PanelFrame, picture: FleetPicture) -> Iterator[sheet.SheetItem]:
    yield sheet.Label(kind="head", x=frame.left, y=frame.top - 6, text="workers", colour=sheet.INK)
    yield from sheet.axes_of(frame)
    moments = np.append(picture.moments, max(picture.end, picture.moments[-1]))
    across = frame.across(np.repeat(moments, 2)[1:-1])
    demand = frame.down(np.repeat(np.minimum(picture.could, frame.y.high), 2))
    floor = np.full(across.size, frame.bottom)
    yield sheet.Area(
        kind="demand", x=across, top=demand, bottom=floor, colour=sheet.COLOURS["law"], opacity=0.12
    )
    yield from replica_lines(frame, moments, picture.ready, picture.wanted)
    most = float(picture.could.max(initial=0))
    cut = [(sheet.COLOURS["law"], f"up to {most:,.0f}")] if most > frame.y.high else []
    names = [
        (sheet.COLOURS["law"], "could be used"),
        *cut,
        (sheet.COLOURS["peak"], "ready"),
        (LOST, "desired"),
    ]
    yield from sheet.corner_labels(frame, names)
