"""A run as a small HTML table, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hooke.base.formats import format_bytes, format_seconds
from hooke.journal.task_view import TaskRow
from hooke.journal.view import RunRow
from hooke.project.progress.display import clock, most_telling

__all__ = ["run_html"]

MOST_TASKS = 40
"""A table of more rows is scrolled past rather than read."""

_COLOURS = {"cached": "#3b82f6", "done": "#16a34a", "failed": "#dc2626", "running": "#06b6d4"}
_STATUS = {"running": "#06b6d4", "finished": "#16a34a", "failed": "#dc2626"}
_HEADER = ("task", "", "done", "running", "cached", "failed", "of", "work", "peak memory")
# Colours of text and ground are the page's own, so that the table can be read in light and dark themes.
_TABLE = "border-collapse:collapse;font-size:inherit;font-variant-numeric:tabular-nums;margin:.3em 0;white-space:nowrap"
_LEFT, _RIGHT = "text-align:left;padding:.1em .8em .1em 0", "text-align:right;padding:.1em .8em .1em 0"


def run_html(run: RunRow, tasks: Sequence[TaskRow], *, stopping: str | None = None, error: str = "") -> str:
    """The run and its tasks, one a row. All text of the user's is escaped; nothing is loaded and no script runs."""
    shown = most_telling(list(tasks), MOST_TASKS)
    rows = "".join(map(_row, shown))
    head = "".join(
        f'<th style="{_RIGHT if at > 1 else _LEFT}">{name}</th>' for at, name in enumerate(_HEADER)
    )
    table = (
        f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>' if rows else ""
    )
    more = f"<div>and {len(tasks) - len(shown)} more tasks</div>" if len(shown) < len(tasks) else ""
    told = f'<pre style="white-space:pre-wrap">{escape(error)}</pre>' if error else ""
    return f'<div class="hooke-run">{_title(run, stopping)}{table}{more}{told}</div>'


def _title(run: RunRow, stopping: str | None) -> str:
    going = run.status == "running"
    status = f"stopping ({stopping})" if stopping and going else run.status
    colour = _STATUS.get(run.status, "#ca8a04")
    parts = [f'<b>{escape(run.run)}</b> <b style="color:{colour}">{escape(status)}</b>']
    parts.append(escape(clock(run.seconds) if going else format_seconds(run.seconds)))
    if going:
        parts.append(f"{run.busy} of {max(run.slots, run.workers)} workers busy")
        left = run.remaining
        if left is not None and left.seconds:
            parts.append(f"{'at least' if left.untimed else 'about'} {clock(left.seconds)} left")
    else:
        parts.append(f"{run.done} done, {run.cached} cached, {run.failed} failed")
    return f"<div>{' · '.join(parts)}</div>"


def _row(task: TaskRow) -> str:
    dim = ' style="opacity:.55"' if task.state in ("waiting", "not needed") else ""
    numbers = (
        _count(task.done),
        _count(task.running),
        _count(task.cached),
        _count(task.failed),
        "?" if task.items is None else str(task.items),
        format_seconds(task.seconds) if task.seconds else "",
        format_bytes(task.peak_bytes) if task.peak_bytes is not None else "",
    )
    cells = "".join(f'<td style="{_RIGHT}">{each}</td>' for each in numbers)
    name = f'<td style="{_LEFT}" title="{escape(task.error or task.state)}">{escape(task.task)}</td>'
    return f'<tr{dim}>{name}<td style="{_LEFT}">{_bar(task)}</td>{cells}</tr>'


def _bar(task: TaskRow) -> str:
    counts = {"cached": task.cached, "done": task.done, "failed": task.failed, "running": task.running}
    total = max(task.items or 0, sum(counts.values()), 1)
    parts = "".join(
        f'<div style="width:{100 * count / total:.1f}%;background:{_COLOURS[kind]}"></div>'
        for kind, count in counts.items()
        if count
    )
    # What nothing needs will not come: no place is kept for it.
    ground = "" if task.state == "not needed" else "background:#8884;"
    return f'<div style="display:flex;{ground}width:9em;height:.5em;overflow:hidden">{parts}</div>'


def _count(count: int) -> str:
    return str(count) if count else ""
