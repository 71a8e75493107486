"""Runs side by side as HTML tables, for notebooks and pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["html_table"]

# Colours of text and ground are the page's own, so that the table can be read in light and dark themes.
_TABLE = "border-collapse:collapse;font-size:inherit;font-variant-numeric:tabular-nums;margin:.3em 0"
_CELL = "text-align:left;padding:.1em 1.2em .1em 0;vertical-align:top"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose text is escaped; nothing is loaded and no script runs."""
    head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
