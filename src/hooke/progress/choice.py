"""The choice of a display, from the caller's wish, the environment, hooke.toml and the terminal."""

from __future__ import annotations

import os
import sys
import threading
from contextvars import copy_context
from pathlib import Path
from typing import Protocol, TextIO

import msgspec

from hooke.base.errors import ConfigError, UsageError
from hooke.base.user_code import kernel_shell
from hooke.journal.run_view import RunView
from hooke.progress.display import Display
from hooke.progress.lines import Lines, LoggedLines, SummaryLines
from hooke.progress.notebook import NotebookLines, NotebookTable
from hooke.progress.progress import Drawn, Progress, Silent
from hooke.project.settings import PROGRESS

__all__ = ["VARIABLE", "LineStream", "Scene", "line_stream", "open_progress", "wanted_progress"]

VARIABLE = "HOOKE_PROGRESS"

TABLE_AFTER_S = 0.3
"""A shorter run ends before anyone could read a table; importing rich alone takes 0.1 s."""
SUMMARY_AFTER_S = 2.0
"""Keeps test suites and loops of small runs out of logs."""


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run is driven.

    `background`: in a thread, while the caller continues and may print. `in_this_process`: tasks print to this terminal and
    may stop in a debugger. `logs` is the folder with what tasks print, for `log`; without it, `log` is the same as `lines`.
    """

    in_this_process: bool
    background: bool = False
    logs: Path | None = None


def wanted_progress(asked: str, setting: str) -> str:
    """The setting of the caller, else of the environment variable HOOKE_PROGRESS, else of hooke.toml.

    Raises UsageError and ConfigError with the valid values.
    """
    if asked not in PROGRESS:
        raise UsageError(f"progress={asked!r} is not valid", fix=f"valid values: {', '.join(PROGRESS)}")
    variable = os.environ.get(VARIABLE, "") or "auto"
    if variable not in PROGRESS:
        raise ConfigError(
            f"the environment variable {VARIABLE} is {variable!r}", fix=f"valid values: {', '.join(PROGRESS)}"
        )
    return next((each for each in (asked, variable, setting) if each != "auto"), "auto")


def open_progress(wanted: str, scene: Scene, earlier: RunView | None = None) -> Progress:
    """The progress on the current stderr, or in the notebook. `earlier` is the view of a run that is resumed, which it goes on with.

    `table`: a table at once on a terminal or in a notebook, elsewhere like `lines`. `lines`: start, end and failures of
    each task. `log`: the same, and what tasks print, to a logger. `none`: nothing. `auto`: a table if the run lasts 0.3 s; without a terminal, a line every five seconds of
    runs longer than two seconds.
    """
    out: TextIO | None = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    if wanted == "none":
        return Silent()
    if wanted == "log" and scene.logs is not None:
        return LoggedLines(scene.logs, earlier)
    if wanted in ("auto", "table"):
        delay_s = TABLE_AFTER_S if wanted == "auto" else 0.0
        if (shell := kernel_shell()) is not None:
            context = copy_context()
            # A background run shows its table now, before its cell ends.
            delay_s = 0.0 if scene.background else delay_s
            return Drawn(lambda: NotebookTable(shell, context), delay_s=delay_s, earlier=earlier)
        if out is not None and _takes_a_table(out, scene):
            return Drawn(lambda: _table(out, scene), delay_s=delay_s, earlier=earlier)
    if out is None:  # no console
        return Silent()
    if wanted == "auto":
        return Drawn(
            lambda: SummaryLines(out, patient=scene.in_this_process),
            delay_s=SUMMARY_AFTER_S,
            earlier=earlier,
        )
    return Lines(out, earlier)


class LineStream(Protocol):
    """What takes progress lines; they show with `flush`."""

    def write(self, text: str, /) -> object:
        """Add text."""

    def flush(self) -> None:
        """Show it."""


def line_stream() -> LineStream:
    """Where progress lines of a study or a search go: to the current stderr, or below the notebook's cell."""
    shell = kernel_shell()
    return sys.stderr if shell is None else NotebookLines(shell)


def _takes_a_table(out: TextIO, scene: Scene) -> bool:
    """Whether nothing else writes below a table: the caller waits in the main thread, and tasks run elsewhere."""
    if scene.in_this_process or scene.background or os.environ.get("TERM") == "dumb" or _in_a_test():
        return False
    return threading.current_thread() is threading.main_thread() and not out.closed and out.isatty()


def _in_a_test() -> bool:
    """Whether an unfinished line of pytest is on the terminal."""
    return "PYTEST_CURRENT_TEST" in os.environ and "pytest" in sys.modules


def _table(out: TextIO, scene: Scene) -> Display:
    from hooke.progress.table import LiveTable, TerminalTaken

    try:
        return LiveTable(out)
    except TerminalTaken:
        return SummaryLines(out, patient=scene.in_this_process)
