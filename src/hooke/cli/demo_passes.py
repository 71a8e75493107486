"""One run of `hooke demo`: a process as if it were typed, and what its journal says of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import click

from hooke.cli.demo_typed import typed
from hooke.cli.screens import EXIT_STOPPED
from hooke.journal.view import RunView
from hooke.project.folder import Project
from hooke.project.outcome import view_of

__all__ = ["Pass", "run_pass"]

FRAMES = {
    "POLARS_FMT_MAX_ROWS": "20",
    "POLARS_FMT_MAX_COLS": "12",
    "POLARS_FMT_STR_LEN": "40",
    "POLARS_TABLE_WIDTH": "100",
    "POLARS_FMT_TABLE_HIDE_COLUMN_DATA_TYPES": "1",
    "POLARS_FMT_TABLE_HIDE_DATAFRAME_SHAPE_INFORMATION": "1",
}
"""How Polars shows the tables of the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One run of the demo: its exit code, what it printed, its id and what its journal says."""

    code: int
    output: str = ""
    run: str = ""
    view: RunView | None = None

    @property
    def work_s(self) -> float:
        """Seconds that its tasks worked, over all workers."""
        return sum(task.seconds for task in self.view.tasks.values()) if self.view is not None else 0.0

    @property
    def cpu_s(self) -> float:
        """Seconds of a cpu that its tasks had: less than `work_s` where they waited for one."""
        return sum(task.cpu_s for task in self.view.tasks.values()) if self.view is not None else 0.0

    @property
    def wall_s(self) -> float:
        """Seconds from start to end, as its journal has them."""
        return self.view.seconds(self.view.last_at) if self.view is not None else 0.0

    def facts(self) -> dict[str, object]:
        """For `--json`."""
        facts: dict[str, object] = {"run": self.run, "exit_code": self.code}
        if self.view is not None:
            row = self.view.row(self.view.last_at)
            facts |= {"place": row.place, "calls": row.items, "ran": row.done}
            facts |= {"work_s": self.work_s, "cpu_s": self.cpu_s, "wall_s": self.wall_s}
        return facts


def run_pass(arguments: list[str], project: Project, *, quiet: bool = False) -> Pass:
    """A fresh process, as if it were typed. Its result is kept; its progress is seen as it comes, or, `quiet`, if it fails."""
    ended = typed(arguments, live=not quiet, env=os.environ | FRAMES)
    if ended.returncode:
        # Who stopped a quiet run needs no advice on how to resume it.
        if ended.stderr and ended.returncode != EXIT_STOPPED:
            click.echo(ended.stderr, err=True, nl=False)
        return Pass(code=ended.returncode)
    run = project.runs.find()
    return Pass(code=0, output=ended.stdout, run=run, view=view_of(project.runs, run))
