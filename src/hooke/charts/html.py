"""Runs side by side as HTML tables, for notebooks and pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from hooke.charts.curve_picture import COLUMNS, curve_rows
from hooke.scaling.law import Law

__all__ = ["curve_html", "html_table", "plotly_page"]


# --- A curve as HTML: for a notebook, and as a page of its own.

_TABLE = "border-collapse:collapse;font-size:inherit;font-variant-numeric:tabular-nums;margin:.3em 0;white-space:nowrap"
_CELL = "text-align:right;padding:.1em 0 .1em 1.2em"
_BODY = "font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:64rem;margin:2rem auto;padding:0 1rem"


def curve_html(picture: str, law: Law, *, unit: str, notes: Sequence[str]) -> str:
    """`picture` is trusted markup; all the rest is escaped. Nothing is loaded and no script runs.

    Colours of text and ground are the page's own, so that it can be read in light and dark themes.
    """
    names = (COLUMNS[0], f"{unit}/s", *COLUMNS[2:])
    head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in names)
    rows = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in curve_rows(law)
    )
    told = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return (
        f'<div class="hooke-curve">{picture}'
        f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{told}</div>'
    )


def plotly_page(specs: Sequence[Mapping[str, Any]], script: str, below: str, *, title: str) -> str:
    """A page with the Plotly figures of `specs`, drawn by `script` (Plotly's program) within it, and `below`, trusted markup."""
    # `</` would end the script early, wherever it stood in a name.
    data = json.dumps(list(specs), allow_nan=False).replace("</", "<\\/")
    places = "".join(f'<div id="figure{at}"></div>\n' for at in range(len(specs)))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<script>{script}</script></head>\n<body style="{_BODY}">{places}'
        f"<script>const figures = {data};\n"
        "figures.forEach((each, at) => Plotly.newPlot(`figure${at}`, each.data, each.layout, {responsive: true, displaylogo: false}))</script>\n"
        f"{below}</body></html>\n"
    )


# Colours of text and ground are the page's own, so that the table can be read in light and dark themes.
_PLAIN_TABLE = "border-collapse:collapse;font-size:inherit;font-variant-numeric:tabular-nums;margin:.3em 0"
_PLAIN_CELL = "text-align:left;padding:.1em 1.2em .1em 0;vertical-align:top"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose text is escaped; nothing is loaded and no script runs."""
    head = "".join(f'<th style="{_PLAIN_CELL}">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_PLAIN_CELL}">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return f'<table style="{_PLAIN_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
