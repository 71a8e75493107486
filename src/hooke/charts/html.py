"""HTML for notebooks and for self-contained pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hooke.base.table import html_table
from hooke.charts.curve_picture import COLUMNS, curve_rows
from hooke.scaling.law import Law

__all__ = ["curve_html", "plotly_page", "static_page"]


_PAGE = "font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:{}rem;margin:2rem auto;padding:0 1rem"


def curve_html(picture: str, law: Law, *, unit: str, notes: Sequence[str]) -> str:
    """A curve for a notebook: `picture`, which is trusted markup, the table and the notes, which are escaped.

    It loads nothing, runs no script, and takes its colors from the page, so light and dark themes both work.
    """
    names = (COLUMNS[0], f"{unit}/s", *COLUMNS[2:])
    told = "".join(f"<div>{escape(note)}</div>" for note in notes)
    table = html_table(names, curve_rows(law), cell=_NUMBER)
    return f'<div class="hooke-curve">{picture}{table}{told}</div>'


def plotly_page(specs: Sequence[Mapping[str, Any]], script: str, below: str, *, title: str) -> str:
    """A page with the Plotly figures of `specs`, Plotly's `script` itself, and `below`, which is trusted markup."""
    # `</` in a name would end the script early.
    data = json.dumps(list(specs), allow_nan=False).replace("</", "<\\/")
    places = "".join(f'<div id="figure{at}"></div>\n' for at in range(len(specs)))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<script>{script}</script></head>\n<body style="{_PAGE.format(64)}">{places}'
        f"<script>const figures = {data};\n"
        "figures.forEach((each, at) => Plotly.newPlot(`figure${at}`, each.data, each.layout, {responsive: true, displaylogo: false}))</script>\n"
        f"{below}</body></html>\n"
    )


_NUMBER = "text-align:right;padding:.1em 0 .1em 1.2em;white-space:nowrap"


def static_page(title: str, body: str) -> str:
    """A page with `body`, which is trusted markup. Its policy forbids scripts and every download."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"></head>\n'
        f'<body style="{_PAGE.format(72)}">{body}</body></html>\n'
    )
