"""A table in a notebook cell, updated in place."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context, copy_context
from html import escape
from typing import Any
from uuid import uuid4

from hooke.base.formats import first_line, format_bytes, format_seconds, preformatted
from hooke.journal.run_view import RunRow
from hooke.journal.task_view import TaskRow
from hooke.progress.display import RunSnapshot, clock, most_telling
from hooke.progress.lines import summary

__all__ = ["NotebookLines", "NotebookTable", "run_html"]


MOST_TASKS = 40
"""The maximum number of rows."""
MOST_LINES = 20
"""Progress lines that stay below a cell."""

_COLOURS = {"cached": "#3b82f6", "done": "#16a34a", "failed": "#dc2626", "running": "#06b6d4"}
_STATUS = {"running": "#06b6d4", "finished": "#16a34a", "failed": "#dc2626"}
_HEADER = ("task", "", "done", "running", "cached", "failed", "of", "work", "peak memory")
# Colors of text and background are the page's own, for light and dark themes.
_TABLE = "border-collapse:collapse;font-size:inherit;font-variant-numeric:tabular-nums;margin:.3em 0;white-space:nowrap"
_LEFT, _RIGHT = "text-align:left;padding:.1em .8em .1em 0", "text-align:right;padding:.1em .8em .1em 0"


def run_html(run: RunRow, tasks: Sequence[TaskRow], *, stopping: str | None = None, error: str = "") -> str:
    """The run and its tasks, one per row. User text is escaped; nothing is loaded and no script runs."""
    shown = most_telling(list(tasks), MOST_TASKS)
    rows = "".join(map(_row, shown))
    head = "".join(
        f'<th style="{_RIGHT if at > 1 else _LEFT}">{name}</th>' for at, name in enumerate(_HEADER)
    )
    table = (
        f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>' if rows else ""
    )
    more = f"<div>and {len(tasks) - len(shown)} more tasks</div>" if len(shown) < len(tasks) else ""
    told = preformatted(error) if error else ""
    return f'<div class="hooke-run">{_title(run, stopping)}{table}{more}{told}</div>'


def _title(run: RunRow, stopping: str | None) -> str:
    going = run.status == "running"
    status = f"stopping ({stopping})" if stopping and going else run.ended_as
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
    dim = ' style="opacity:.55"' if task.state in ("waiting", "skipped", "not needed") else ""
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
    name = (
        f'<td style="{_LEFT}" title="{escape(first_line(task.error) or task.state)}">{escape(task.task)}</td>'
    )
    return f'<tr{dim}>{name}<td style="{_LEFT}">{_bar(task)}</td>{cells}</tr>'


def _bar(task: TaskRow) -> str:
    counts = {"cached": task.cached, "done": task.done, "failed": task.failed, "running": task.running}
    total = max(task.items or 0, sum(counts.values()), 1)
    parts = "".join(
        f'<div style="width:{100 * count / total:.1f}%;background:{_COLOURS[kind]}"></div>'
        for kind, count in counts.items()
        if count
    )
    # A task that need not run has no empty bar.
    ground = "" if task.state == "not needed" else "background:#8884;"
    return f'<div style="display:flex;{ground}width:9em;height:.5em;overflow:hidden">{parts}</div>'


def _count(count: int) -> str:
    return str(count) if count else ""


NOT_YET = "nothing has run yet"


class _CellDisplay:
    """A part of a cell's output that is replaced in place.

    `context` is that of the thread that called. It tells the kernel which cell the output of another thread belongs to.
    """

    def __init__(self, shell: Any, context: Context) -> None:
        self._shell = shell
        self._context = context
        self._id = f"hooke-{uuid4().hex}"
        self._shown = False

    def show(self, data: dict[str, str]) -> None:
        """Replace it by what `data` is, by media type."""
        # Only the first display depends on the cell; updates find it by its id.
        call = self._shell.display_pub.publish if self._shown else self._first
        call(data=data, metadata={}, transient={"display_id": self._id}, update=self._shown)
        self._shown = True

    def _first(self, **message: Any) -> None:
        self._context.run(self._shell.display_pub.publish, **message)


class NotebookLines:
    """Where progress lines go in a notebook, instead of stderr, which it shows in red: the last ones, below the cell."""

    def __init__(self, shell: Any) -> None:
        self._display = _CellDisplay(shell, copy_context())
        self._text = ""

    def write(self, text: str) -> None:
        """Add lines."""
        self._text += text

    def flush(self) -> None:
        """Show them."""
        text = "\n".join(self._text.splitlines()[-MOST_LINES:])
        self._text = f"{text}\n"
        self._display.show({"text/plain": text, "text/html": preformatted(text)})


class NotebookTable:
    """Shows HTML, with one line of text as the fallback. `context` is that of the thread that called `run`."""

    every_s = 0.5

    def __init__(self, shell: Any, context: Context) -> None:
        self._display = _CellDisplay(shell, context)

    def draw(self, snapshot: RunSnapshot) -> None:
        """Replace the table."""
        begun = bool(snapshot.run.run)
        html = run_html(snapshot.run, snapshot.tasks, stopping=snapshot.stopping)
        told = {"text/plain": summary(snapshot), "text/html": html}
        self._display.show(told if begun else {"text/plain": NOT_YET, "text/html": f"<i>{NOT_YET}</i>"})

    def close(self, snapshot: RunSnapshot) -> None:
        """Show the final state."""
        self.draw(snapshot)
