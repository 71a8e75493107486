"""A run as a plain-text table, for `Run.show()` and `hooke show`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from hooke.base.formats import format_bytes, format_seconds
from hooke.journal.run_view import RunView
from hooke.journal.task_view import TaskRow

__all__ = ["aligned", "moment", "run_table"]

TASK_COLUMNS = ("task", "state", "done", "cached", "failed", "of", "work", "an item", "peak memory")


def run_table(view: RunView, run: str) -> str:
    """The run in a few lines, a line for each task, and its failure, if any. `run` is the id if the view lacks it."""
    now = time.time()
    parts = ["\n".join(_header(view, run, now))]
    rows = view.rows(now)
    if rows:
        parts.append("\n".join(aligned(TASK_COLUMNS, map(_cells, rows), right=range(2, len(TASK_COLUMNS)))))
    error = view.error(run)
    if error is not None:
        parts.append(str(error))
    elif view.ended is not None and view.ended.message:
        parts.append(view.ended.message)
    return "\n\n".join(parts)


def aligned(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> list[str]:
    """Lines of an aligned table, header first. Columns in `right` are right-aligned."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def moment(at: float) -> str:
    """A time in this machine's time zone, such as `2026-11-25 01:48:23`."""
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"


def _header(view: RunView, run: str, now: float) -> list[str]:
    begun, row = view.begun, view.row(now)
    lines = [f"run {run or row.run}: {row.status}" + (f" in {format_seconds(row.seconds)}" if begun else "")]
    if begun is None:
        return lines
    parameters = ", ".join(f"{name}={value}" for name, value in begun.shown.items())
    source = begun.entry if begun.entry != "pickle" else "(defined in no file)"
    lines.append(f"  {begun.pipeline}({parameters}) of {source}")
    resumed = f", resumed {row.resumed} times" if row.resumed > 1 else ", resumed once" if row.resumed else ""
    lines.append(f"  started {moment(row.started_at)} at {begun.place}{resumed}")
    if row.status == "running":
        lines.append(f"  {row.busy} of {max(row.slots, row.workers)} workers busy{_remaining(view, now)}")
    if view.stopping_by and row.status in ("running", "stopped"):
        lines.append(f"  stopped by {view.stopping_by}")
    return lines


def _remaining(view: RunView, now: float) -> str:
    remaining = view.remaining(now)
    if remaining is None:
        return ""
    if remaining.untimed:
        known = (
            f"at least {format_seconds(remaining.seconds)} left" if remaining.seconds else "time left unknown"
        )
        return f", {known} (nothing timed yet: {', '.join(remaining.untimed)})"
    return f", about {format_seconds(remaining.seconds)} left"


def _cells(row: TaskRow) -> tuple[str, ...]:
    return (
        row.task,
        row.state,
        str(row.done),
        str(row.cached),
        str(row.failed),
        "?" if row.items is None else str(row.items),
        format_seconds(row.seconds) if row.seconds else "",
        format_seconds(row.item_s) if row.item_s is not None else "",
        format_bytes(row.peak_bytes) if row.peak_bytes is not None else "",
    )
