"""A curve laid out for print: speed-up and efficiency side by side, every label where nothing is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hooke.charts import sheet
from hooke.charts.curve_picture import CurvePicture, Mark, Panel
from hooke.scaling.families import Floats

__all__ = ["curve_panels", "curve_sheet"]

WIDTH = 518.0
"""Two columns of a paper, 7.2 inches."""
PANEL = (178.0, 150.0)
LEFT, BETWEEN = 28.0, 104.0
"""Room for the ticks of the first axis, and for labels and ticks between the panels."""
HEAD, ROW, BELOW = 35.0, 12.0, 46.0
"""The baseline of the panels' heads, the height of a mark's row, and the room below the panels."""
POINT = 2.5
DASH, DOTTED = (4.5, 2.6), (1.0, 2.0)


def curve_sheet(picture: CurvePicture) -> sheet.Sheet:
    """Speed-up on the left, efficiency on the right."""
    rows = len(picture.marks) + bool(picture.missing)
    top = HEAD + 7.0 + ROW * rows
    left, right = (
        sheet.PanelFrame(left=at, top=top, width=PANEL[0], height=PANEL[1], x=picture.x, y=panel.y)
        for at, panel in zip((LEFT, LEFT + PANEL[0] + BETWEEN), picture.panels, strict=True)
    )
    height = top + PANEL[1] + BELOW
    body = (
        *_rows(left, picture),
        *_panel(left, picture.panels[0], picture),
        *_panel(right, picture.panels[1], picture),
        *_labels_at_ends(left, picture),
        *_ideal_label(left, picture),
        sheet.Label(
            kind="name", x=right.right + 4, y=float(right.down(1.0)) + 2.8, text="ideal", colour=sheet.GREY
        ),
    )
    return sheet.framed(picture.title, picture.caption, body, width=WIDTH, height=height)


def _panel(frame: sheet.PanelFrame, panel: Panel, picture: CurvePicture) -> Iterator[sheet.SheetItem]:
    yield sheet.Label(kind="head", x=frame.left, y=HEAD, text=_head(panel, picture), colour=sheet.INK)
    yield from _drawn(frame, panel, picture)


def _head(panel: Panel, picture: CurvePicture) -> str:
    return panel.quantity if panel.y.percent else f"{panel.quantity} ({picture.unit_text})"


def _drawn(frame: sheet.PanelFrame, panel: Panel, picture: CurvePicture) -> Iterator[sheet.SheetItem]:
    """From bottom to top: axes, ideal and plain call, bands, laws, marks, bars and points."""
    yield from sheet.axes_of(frame)
    for x, y in frame.inside(panel.ideal.n, panel.ideal.value):
        yield sheet.Stroke(kind="ideal", x=x, y=y, colour=sheet.GREY, width=1.0)
    if panel.plain is not None and panel.plain <= panel.y.high:
        yield sheet.level(
            frame, panel.plain, kind="plain", colour=sheet.COLOURS["plain"], width=1.1, dash=DOTTED
        )
    for line in panel.lines:
        yield sheet.Area(
            kind="band", x=frame.across(line.n), top=frame.down(line.high), bottom=frame.down(line.low),
            colour=sheet.COLOURS["law"], opacity=0.09 if line.dashed else 0.20,
        )  # fmt: skip
    for line in panel.lines:
        kind, dash = ("beyond", DASH) if line.dashed else ("law", None)
        for x, y in frame.inside(line.n, line.value):
            yield sheet.Stroke(kind=kind, x=x, y=y, colour=sheet.COLOURS["law"], width=1.6, dash=dash)
    at = picture.panels.index(panel)
    for mark in picture.marks:
        yield _marker(mark, float(frame.across(mark.n)), float(frame.down(mark.values[at])))
    yield from _points(frame, panel)


def _points(frame: sheet.PanelFrame, panel: Panel) -> Iterator[sheet.SheetItem]:
    points = panel.points
    across, bottom, top = frame.across(points.n), frame.down(points.low), frame.down(points.high)
    for x, low, high in zip(across.tolist(), bottom.tolist(), top.tolist(), strict=True):
        yield sheet.vertical(x, low, high, kind="bar", colour=sheet.INK, width=1.0)
    for x, y in zip(across.tolist(), frame.down(points.value).tolist(), strict=True):
        yield sheet.circle("point", x, y, POINT, sheet.INK)


def _marker(mark: Mark, x: float, y: float) -> sheet.Dot:
    return sheet.Dot(
        kind=mark.kind, x=x, y=y, shape=sheet.SHAPES[mark.kind], radius=3.8, colour=sheet.COLOURS[mark.kind]
    )


def _rows(frame: sheet.PanelFrame, picture: CurvePicture) -> Iterator[sheet.SheetItem]:
    """One row per mark above the panel: its interval of N, its label, and a thin line down to the law.

    The marks are in the order of N, so no line crosses the label of another mark.
    """
    first = HEAD + 12.0
    if picture.missing:
        yield sheet.Label(kind="name", x=frame.left, y=first + 2.8, text=picture.missing, colour=sheet.GREY)
        first += ROW
    for at, mark in enumerate(picture.marks):
        height, colour = first + ROW * at, sheet.COLOURS[mark.kind]
        low, n, high = (
            float(frame.across(np.clip(end, frame.x.low, frame.x.high)))
            for end in (mark.interval[0], mark.n, mark.interval[1])
        )
        on_law = float(frame.down(mark.values[0]))
        along = np.array([low, high])
        yield sheet.vertical(n, height, on_law, kind="leader", colour=colour, width=0.8, opacity=0.6)
        yield sheet.Stroke(kind="interval", x=along, y=np.full(2, height), colour=colour, width=1.6)
        yield _marker(mark, n, height)
        after, room = max(high, n + 4) + 5, sheet.text_width(mark.text, sheet.SIZE)
        fits = after + room < frame.right + BETWEEN - 8
        before = max(min(low, n - 4) - 5, room)
        place, anchor = (after, "start") if fits else (before, "end")
        yield sheet.Label(kind="name", x=place, y=height + 2.8, text=mark.text, colour=colour, anchor=anchor)


def _labels_at_ends(frame: sheet.PanelFrame, picture: CurvePicture) -> Iterator[sheet.Label]:
    """Right of the panel, where lines leave it: the law, the plain call, and the ideal line if it leaves there."""
    panel = picture.panels[0]
    law = float(frame.down(panel.lines[-1].value[-1]))
    named = [(law, sheet.COLOURS["law"], f"{picture.law_text}\n{picture.band_text}")]
    if panel.plain is not None and panel.plain <= panel.y.high:
        named.append((float(frame.down(panel.plain)), sheet.COLOURS["plain"], "plain call,\none thread"))
    if _leaves_right(panel):
        named.append((float(frame.down(panel.ideal.value[-1])), sheet.GREY, "ideal"))
    yield from sheet.side_labels(frame, named)


def _leaves_right(panel: Panel) -> bool:
    return bool(panel.ideal.value[-1] < panel.y.high)


def _ideal_label(frame: sheet.PanelFrame, picture: CurvePicture) -> Iterator[sheet.Label]:
    """Beside the ideal line near the top, where nothing else is drawn, if the line leaves the panel through the top."""
    panel = picture.panels[0]
    if _leaves_right(panel):
        return
    *_, (x, y) = frame.inside(panel.ideal.n, panel.ideal.value)
    style = {"kind": "name", "text": "ideal", "colour": sheet.GREY}
    taken = _taken(frame, picture)
    places: list[sheet.Label] = []
    for down in np.arange(0.8 * sheet.SIZE, frame.height / 2, sheet.SIZE):
        base = frame.top + float(down)
        there = [float(np.interp(height, y[::-1], x[::-1])) for height in (base, base - 0.8 * sheet.SIZE)]
        places.append(sheet.Label(x=there[0] - 4, y=base, anchor="end", **style))
        places += [sheet.Label(x=there[1] + away, y=base, **style) for away in (4, 12, 20, 28, 36)]
    free = (label for label in places if _is_free(label, frame, taken))
    yield next(free, places[1])


def _taken(frame: sheet.PanelFrame, picture: CurvePicture) -> list[tuple[float, float, float, float]]:
    """Boxes that no label may overlap: error bars, the law, the lines down from the marks."""
    panel = picture.panels[0]
    points = panel.points
    across, tops, bottoms = frame.across(points.n), frame.down(points.high), frame.down(points.low)
    boxes = [
        (x - POINT, top - POINT, x + POINT, bottom + POINT)
        for x, top, bottom in zip(across.tolist(), tops.tolist(), bottoms.tolist(), strict=True)
    ]
    for line in panel.lines:
        places = zip(frame.across(line.n).tolist(), frame.down(line.value).tolist(), strict=True)
        boxes += [(x - 1, y - 1, x + 1, y + 1) for x, y in places]
    for mark in picture.marks:
        x = float(frame.across(mark.n))
        boxes.append((x - 1, 0.0, x + 1, float(frame.down(mark.values[0]))))
    return boxes


def _is_free(
    label: sheet.Label, frame: sheet.PanelFrame, taken: Sequence[tuple[float, float, float, float]]
) -> bool:
    left, top, right, bottom = label.box
    if left < frame.left + 2 or right > frame.right:
        return False
    return not any(
        one < right and left < other and above < bottom and top < below for one, above, other, below in taken
    )


# --- For a page.

MOST_STRIPS = 60
"""Parts of the axis of which a page says what the law is there."""
FAR_OUTSIDE = 5.0
"""An end of a band that is drawn so many times higher than its panel was cut, as it may be infinite."""


def curve_panels(picture: CurvePicture) -> list[sheet.PagePanel]:
    """Speed-up and efficiency for a page: at each N the law with its band, and what was measured."""
    return [_page_panel(panel, picture) for panel in picture.panels]


def _page_panel(panel: Panel, picture: CurvePicture) -> sheet.PagePanel:
    frame = sheet.page_frame(picture.x, panel.y)
    at = picture.panels.index(panel)
    leaders = [
        sheet.vertical(
            float(frame.across(mark.n)), frame.bottom, float(frame.down(mark.values[at])), kind="leader",
            colour=sheet.COLOURS[mark.kind], width=0.8, opacity=0.6,
        )
        for mark in picture.marks
    ]  # fmt: skip
    n = _said_at(panel, picture)
    middles = (n[1:] + n[:-1]) / 2 if not picture.x.logarithmic else np.sqrt(n[1:] * n[:-1])
    edges = np.concatenate([[picture.x.low], middles, [picture.x.high]])
    hints = [_said(each, panel, picture) for each in n.tolist()]
    body = [*_drawn(frame, panel, picture), *leaders, *sheet.strips(frame, edges, hints)]
    return sheet.page_panel(_head(panel, picture), body, list(_legend(panel, picture)))


def _legend(panel: Panel, picture: CurvePicture) -> Iterator[tuple[str, str]]:
    yield sheet.INK, picture.points_text
    yield sheet.COLOURS["law"], f"{picture.law_text}, {picture.band_text}"
    yield sheet.GREY, "ideal"
    if panel.plain is not None and panel.plain <= panel.y.high:
        yield sheet.COLOURS["plain"], "plain call, one thread (dotted)"
    for mark in picture.marks:
        yield sheet.COLOURS[mark.kind], mark.text


def _said_at(panel: Panel, picture: CurvePicture) -> Floats:
    """The N of which a page says something: whole numbers where these are few, and all that were measured."""
    first, last = max(np.ceil(picture.x.low), 1.0), np.floor(picture.x.high)
    whole = (
        np.arange(first, last + 1) if last - first < MOST_STRIPS else np.geomspace(first, last, MOST_STRIPS)
    )
    measured = [np.round(whole).astype(np.float64), panel.points.n]
    found: Floats = np.unique(np.concatenate(measured))
    return found


def _said(n: float, panel: Panel, picture: CurvePicture) -> str:
    """`N = 4: speed-up 3.86 (3.5 to 4.2) by the law; measured 3.9 (3.7 to 4.1)`."""
    law, low, high = (
        float(np.interp(n, np.concatenate([line.n for line in panel.lines]), np.concatenate(values)))
        for values in zip(*((line.value, line.low, line.high) for line in panel.lines), strict=True)
    )
    text = f"{n:g} {picture.x.label}: {panel.quantity} {_range(law, low, high, panel)} by the law"
    first, last = picture.measured
    if not first <= n <= last:
        text += f", beyond what was {picture.points_text}"
    points = panel.points
    for at in np.flatnonzero(points.n == n).tolist():
        text += f"; {picture.points_text} {_range(points.value[at], points.low[at], points.high[at], panel)}"
    return text


def _range(value: float, low: float, high: float, panel: Panel) -> str:
    """`3.86 (3.5 to 4.2)`; an end far outside the panel is open."""
    write = "{:.0%}".format if panel.y.percent else "{:.3g}".format
    open_end = not np.isfinite(high) or high >= FAR_OUTSIDE * panel.y.high
    ends = f"{write(low)} or more" if open_end else f"{write(low)} to {write(high)}"
    return f"{write(value)} ({ends})"
