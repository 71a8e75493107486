"""A service's run as a picture, and as a page to mail."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

import numpy as np

from hooke.base.errors import MissingExtra, UsageError
from hooke.base.files import write_atomic
from hooke.base.formats import format_seconds
from hooke.charts.changes import Change
from hooke.charts.pixels import png_of
from hooke.charts.service import Line, ServicePicture, sheet_of
from hooke.charts.svg import inline_svg, svg_of
from hooke.project.comparing.html import html_table
from hooke.project.service_history import changes, stretches_of
from hooke.project.service_report import ServiceRecord, service_table, service_told

__all__ = ["picture_of", "save_service"]

MOST_STRETCHES = 90
"""Narrower steps than these nobody could tell apart in print."""
_STYLE = "font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:72rem;margin:2rem auto;padding:0 1rem"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_UNITS = ((3 * 86400.0, 86400.0, "days"), (3 * 3600.0, 3600.0, "hours"), (600.0, 60.0, "minutes"))
PIXELS = 8 / 3
"""A point, as 96 dots an inch on a screen that is twice as sharp."""
FORMATS = (".svg", ".png", ".html")


def picture_of(record: ServiceRecord) -> ServicePicture | None:
    """What is drawn of it; None where no window was journalled."""
    if not record.windows:
        return None
    began = record.started.at
    scale, unit = next(
        ((scale, unit) for least, scale, unit in _UNITS if record.until - began >= least), (1.0, "s")
    )
    staff = record.staff
    parts = stretches_of(record.windows, staff, began=began, ended=record.until, most=MOST_STRETCHES)
    lengths = np.array([part.seconds for part in parts])
    slo = record.declared.slo_percent
    percents = sorted({50.0, slo if slo is not None else 99.0})
    limit = record.declared.slo_limit_s
    return ServicePicture(
        title=f"{record.started.pipeline}: load, replicas, and how long answers took",
        unit=unit,
        edges=np.array([0.0, *((part.began + part.seconds - began) / scale for part in parts)]),
        asked=np.array([part.asked for part in parts]) / lengths,
        answered=np.array([part.answered for part in parts]) / lengths,
        unanswered=np.array([part.unanswered for part in parts]) / lengths,
        moments=np.array([(each.at - began) / scale for each in staff]) if staff else np.zeros(1),
        ready=np.array([float(each.ready) for each in staff] or [1.0]),
        wanted=np.array([float(each.wanted) for each in staff] or [1.0]),
        changes=tuple(
            Change(
                at=(event.at - began) / scale,
                before=event.before,
                after=event.after,
                text=f"{event.before} -> {event.after} replicas: {event.reason}",
            )
            for event in changes(record.replicas)
        ),
        times=tuple(
            Line(
                name=f"p{percent:g}",
                value=1e3 * np.array([part.quantile_s(percent) or math.nan for part in parts]),
            )
            for percent in percents
        ),
        limit=1e3 * limit if limit is not None else None,
        limit_text=f"p{slo:g} < {format_seconds(limit)}" if slo is not None and limit is not None else "",
        caption=f"from the journal of {record.started.run}, in stretches of {format_seconds(float(np.median(lengths)))}",
    )


def save_service(record: ServiceRecord, path: Path, *, alive: bool) -> Path:
    """Write `.svg`, `.png` or `.html`, as the path ends; returns the path.

    Raises UsageError for another ending and where there is nothing to draw, MissingExtra for `.png` without Pillow, OSError.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"a service's run cannot be saved as {path.name!r}",
            mend=f"end the name with {', '.join(FORMATS)}",
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no such folder", mend="make it, or name another file")
    picture = picture_of(record)
    if picture is None:
        raise UsageError(
            f"nothing was asked of {record.started.run}: there is nothing to draw",
            mend="ask it, and look again some seconds later",
        )
    match path.suffix.lower():
        case ".svg":
            made = svg_of(sheet_of(picture)).encode()
        case ".png":
            made = _png(picture)
        case _:
            made = _page(record, picture, alive=alive).encode()
    write_atomic(path, made)
    return path


def _png(picture: ServicePicture) -> bytes:
    try:
        return png_of(sheet_of(picture), PIXELS)
    except ImportError as error:
        raise MissingExtra(
            "Pillow is not installed, and draws a picture as PNG",
            mend='pip install "hooke[plot]", or end the name with .svg',
        ) from error


def _page(record: ServiceRecord, picture: ServicePicture, *, alive: bool) -> str:
    """One file of HTML, which loads nothing and runs nothing. What services said is escaped."""
    columns, rows = service_table(record)
    paragraphs = "\n".join(service_told(record, alive=alive)).split("\n\n")
    told = "".join(
        "<p>" + "<br>".join(escape(line.strip()) for line in each.splitlines()) + "</p>"
        for each in paragraphs
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(record.started.run)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"></head>\n'
        f'<body style="{_STYLE}">{inline_svg(sheet_of(picture))}{told}'
        f'<div style="overflow-x:auto;white-space:nowrap">{html_table(columns, rows)}</div></body></html>\n'
    )
