"""Reports as HTML: a file that needs nothing else, or a page of `hooke ui`. Everything from users is escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from hooke.base.formats import clip, format_bytes, format_seconds, readable
from hooke.diagrams.task_diagram import SVG_STYLE, TaskDiagram, brief
from hooke.journal.run_view import moment
from hooke.pages.run_report import RunReport

if TYPE_CHECKING:
    from hooke.charts.sheet import Sheet

__all__ = ["MOST_BYTES", "asset", "file_policy", "page_of", "report_file"]

MOST_BYTES = 2_000_000
"""Of a report's file: mail servers refuse more than a few megabytes, after base64."""
STEPS = (
    (600_000, 200, 500, True),
    (0, 200, 500, True),
    (0, 20, 200, True),
    (0, 20, 50, True),
    (0, 20, 200, False),
    (0, 0, 10, False),
)
"""Bytes of pictures, logs, rows of a table, and whether there is a timeline in a file: the first of these with which it is small enough."""
TABLES = (
    "parameters",
    "tags",
    "metrics",
    "tasks",
    "retries",
    "failures",
    "files",
    "code",
    "environment",
    "cached",
)
TEMPLATES = Path(__file__).parent / "templates"
LONGEST = 300
"""Letters of a name or value in a table."""


def report_file(report: RunReport) -> str:
    """The run's page as one file of at most MOST_BYTES: it loads nothing, and its policy allows its own style and script alone.

    Pictures that do not fit are listed only; then logs, rows of tables and the timeline give way.
    """
    html = ""
    for pictures, logs, rows, timeline in STEPS:
        made = _shortened(report, logs, rows)
        if not timeline and made.timeline is not None:
            lanes = {"timeline": len(made.timeline.lanes)}
            made = replace(made, timeline=None, left_out=made.left_out | lanes)
        html = page_of("run.html", inline=True, report=made, previews=_previews(made, pictures), links=False)
        if len(html.encode()) <= MOST_BYTES:
            break
    return html


def _shortened(report: RunReport, logs: int, rows: int) -> RunReport:
    """The report with the last `logs` logs and the first `rows` of each table; it says how many it leaves out."""
    cut = {name: getattr(report, name)[:rows] for name in TABLES}
    left_out = {
        name: report.left_out.get(name, 0) + len(getattr(report, name)) - len(kept)
        for name, kept in cut.items()
    }
    kept_logs = report.logs[max(len(report.logs) - logs, 0) :]
    return replace(report, **cut, logs=kept_logs, left_out=left_out)


def _previews(report: RunReport, most: int) -> dict[int, str]:
    """Artifact -> its data URI, of as many as fit."""
    found: dict[int, str] = {}
    for file in report.files:
        data = file.preview
        if data and len(data) <= most:
            most -= len(data)
            found[file.number] = data
    return found


def page_of(template: str, *, inline: bool, **values: Any) -> str:
    """A page. `inline` has style and script inside of it, for a file; else it links to those of the server."""
    style, script = asset("style.css"), asset("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            inline=inline,
            style=Markup(style),  # noqa: S704 - files of this package
            script=Markup(script),  # noqa: S704 - files of this package
            policy=file_policy(style, script),
            **values,
        )
    )


@functools.cache
def asset(name: str) -> str:
    """The style or the script of all pages."""
    text = (TEMPLATES / name).read_text("utf-8")
    return f"{text}\n{SVG_STYLE}\n" if name == "style.css" else text


def file_policy(style: str, script: str) -> str:
    """The policy of a file: its own style and script, by their digests, and pictures inside of it."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    filters: dict[str, Callable[..., Any]] = {
        "bytes": format_bytes,
        "seconds": format_seconds,
        "number": _number,
        "moment": moment,
        "short": _short,
        "brief": brief,
        "picture": _picture,
        "chart": _chart,
        "theme": _theme,
        "tone": _tone,
        "share": _share,
        "zip": zip,
    }
    made.filters.update(filters)
    return made


def _shown(value: Any) -> Any:
    """Text without control characters; markup of our own as it is."""
    return readable(value) if type(value) is str else value


def _short(text: str) -> str:
    return clip(text, LONGEST)


def _picture(diagram: TaskDiagram) -> Markup:
    """It escapes the names in it."""
    return Markup(diagram.inline_svg())  # noqa: S704 - as it says


def _chart(figure: Sheet) -> Markup:
    """It escapes the texts in it."""
    from hooke.charts.renderers import page_svg  # NumPy

    return Markup(page_svg(figure))  # noqa: S704 - as it says


def _theme(colour: str) -> str:
    """The class of a chart's colour."""
    from hooke.charts.renderers import theme_class  # NumPy

    return theme_class(colour)


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else str(value)


def _tone(status: str) -> str:
    """The class of a state's color."""
    if status.startswith("finished with"):
        return "partly"
    tones: Mapping[str, str] = {
        "finished": "done",
        "done": "done",
        "cached": "cached",
        "failed": "failed",
        "lost": "failed",
        "unreadable": "failed",
        "running": "running",
        "stopped": "partly",
        "partly": "partly",
    }
    return tones.get(status, "plain")


def _share(parts: Iterable[float], whole: float) -> list[tuple[float, float]]:
    """Where each part of a bar begins and how wide it is, in percent."""
    spans: list[tuple[float, float]] = []
    at = 0.0
    for part in parts:
        width = 100 * part / whole if whole else 0.0
        spans.append((round(at, 2), round(width, 2)))
        at += width
    return spans
