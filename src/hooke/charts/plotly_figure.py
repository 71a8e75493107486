"""A curve as a Plotly figure: first a spec of plain values, then the figure, if Plotly is installed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from importlib import import_module
from typing import Any

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra
from hooke.charts.curve_picture import CurveLine, CurvePicture, Mark, Panel
from hooke.charts.sheet import COLOURS, GREY, INK, SHAPES, Axis

__all__ = ["curve_figure", "curve_spec", "figure_from_spec", "plotly_script"]

HALVES = ((0.0, 0.44), (0.56, 1.0))
"""The two panels, as shares of the width."""
HEIGHT = 460
_SYMBOLS = {"triangle": "triangle-up"}


def curve_figure(picture: CurvePicture) -> Any:
    """The `plotly.graph_objects.Figure`. Raises MissingExtra."""
    return figure_from_spec(curve_spec(picture))


def figure_from_spec(spec: Mapping[str, Any]) -> Any:
    """The `plotly.graph_objects.Figure` of Plotly's traces and layout. Raises MissingExtra."""
    return _plotly("graph_objects").Figure(spec)


def plotly_script() -> str:
    """The JavaScript of the installed Plotly, for pages that load nothing. Raises MissingExtra."""
    text: str = _plotly("offline").get_plotlyjs()
    return text


def _plotly(module: str) -> Any:
    try:
        return import_module(f"plotly.{module}")
    except ImportError as error:
        raise MissingExtra(
            "this figure needs plotly, which is not installed",
            why=str(error),
            fix=f"{install_command('plot')}; text and .svg files need no extra",
        ) from error


def curve_spec(picture: CurvePicture) -> dict[str, Any]:
    """Plotly's traces and layout, as plain values."""
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "title": {"text": f"<b>{escape(picture.title)}</b>", "x": 0, "xref": "paper", "font": {"size": 15}},
        "height": HEIGHT, "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff",
        "font": {"color": INK, "size": 12}, "margin": {"l": 60, "r": 30, "t": 70, "b": 110},
        "legend": {"orientation": "h", "y": -0.3, "x": 0}, "hovermode": "closest",
    }  # fmt: skip
    for at, panel in enumerate(picture.panels):
        own = "" if not at else str(at + 1)
        axes = {"xaxis": f"x{own}", "yaxis": f"y{own}", "showlegend": not at}
        traces += [{**trace, **axes} | _once(trace) for trace in _traces(picture, panel, at)]
        title = panel.quantity if at else f"{panel.quantity} ({escape(picture.unit_text)})"
        layout[f"xaxis{own}"] = _axis(picture.x, escape(picture.x.label)) | {
            "domain": HALVES[at],
            "anchor": f"y{own}",
        }
        layout[f"yaxis{own}"] = _axis(panel.y, title) | {"anchor": f"x{own}"}
    return {"data": traces, "layout": layout}


def _once(trace: dict[str, Any]) -> dict[str, Any]:
    """A trace without a name stays out of the legend."""
    return {} if "name" in trace else {"showlegend": False, "hoverinfo": "skip"}


def _traces(picture: CurvePicture, panel: Panel, at: int) -> Iterator[dict[str, Any]]:
    """From bottom to top: ideal, plain call, bands, laws, marks, points."""
    yield _drawn(panel.ideal, GREY, 1.2) | {"name": "ideal", "legendgroup": "ideal"}
    if panel.plain is not None:
        yield {
            "mode": "lines", "x": [picture.x.low, picture.x.high], "y": [panel.plain] * 2,
            "line": {"color": COLOURS["plain"], "width": 1.5, "dash": "dot"}, "name": "plain call, one thread",
        }  # fmt: skip
    for line in panel.lines:
        yield from _band(line, picture.band_text)
    for line in panel.lines:
        named = _drawn(line, COLOURS["law"], 2.5)
        yield named if line.dashed else named | {"name": picture.law_text, "legendgroup": "law"}
    for mark in picture.marks:
        yield _mark(mark, panel, at)
    yield _points(panel, picture.points_text)


def _drawn(line: CurveLine, colour: str, width: float) -> dict[str, Any]:
    return {
        "mode": "lines", "x": line.n.tolist(), "y": line.value.tolist(),
        "line": {"color": colour, "width": width, "dash": "dash" if line.dashed else "solid", "simplify": False},
    }  # fmt: skip


def _band(line: CurveLine, text: str) -> Iterator[dict[str, Any]]:
    """The lower line, then the upper line filled down to it."""
    thin = {"mode": "lines", "x": line.n.tolist(), "line": {"width": 0, "color": COLOURS["law"]}}
    faint = 0.09 if line.dashed else 0.2
    filled = {"y": line.high.tolist(), "fill": "tonexty", "fillcolor": f"rgba(0,114,178,{faint})"}
    yield thin | {"y": line.low.tolist()}
    yield (
        thin | filled | {"hoverinfo": "skip"}
        if line.dashed
        else thin | filled | {"name": text, "hoverinfo": "skip"}
    )


def _mark(mark: Mark, panel: Panel, at: int) -> dict[str, Any]:
    shape = SHAPES[mark.kind]
    ends = [min(end, 10 * mark.n) for end in mark.interval]
    return {
        "mode": "markers", "x": [mark.n], "y": [mark.values[at]], "name": escape(mark.text), "legendgroup": mark.kind,
        "marker": {
            "symbol": _SYMBOLS.get(shape, shape), "size": 12, "color": COLOURS[mark.kind],
            "line": {"color": "#ffffff", "width": 1},
        },
        "error_x": {
            "type": "data", "symmetric": False, "array": [ends[1] - mark.n], "arrayminus": [mark.n - ends[0]],
            "color": COLOURS[mark.kind], "thickness": 2, "width": 0,
        },
        "hovertemplate": f"{escape(mark.text)}<br>{panel.quantity} %{{y:{_form(panel)}}}<extra></extra>",
    }  # fmt: skip


def _points(panel: Panel, what: str) -> dict[str, Any]:
    points = panel.points
    return {
        "mode": "markers", "x": points.n.tolist(), "y": points.value.tolist(), "name": what, "legendgroup": "points",
        "marker": {"color": INK, "size": 8},
        "error_y": {
            "type": "data", "symmetric": False, "array": (points.high - points.value).tolist(),
            "arrayminus": (points.value - points.low).tolist(), "color": INK, "thickness": 1.5, "width": 0,
        },
        "hovertemplate": f"N = %{{x}}<br>{panel.quantity} %{{y:{_form(panel)}}}<extra>{what}</extra>",
    }  # fmt: skip


def _form(panel: Panel) -> str:
    return ".1%" if panel.y.percent else ".3g"


def _axis(axis: Axis, title: str) -> dict[str, Any]:
    ends = [axis.low, axis.high]
    if axis.logarithmic:
        ends = [math.log10(end) for end in ends]
    return {
        "title": {"text": title}, "type": "log" if axis.logarithmic else "linear", "range": ends,
        "tickvals": axis.ticks(), "ticktext": [axis.written(tick) for tick in axis.ticks()], "zeroline": False,
        "showline": True, "linecolor": GREY, "gridcolor": "#e6e6e6", "ticks": "outside", "tickcolor": GREY,
    }  # fmt: skip
