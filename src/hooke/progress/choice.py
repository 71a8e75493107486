"""Which progress fits: what was asked for, what the environment and hooke.toml say, and who can see it."""

from __future__ import annotations

import os
import sys
import threading
from contextvars import copy_context
from dataclasses import dataclass
from typing import TextIO

from hooke.base.errors import ConfigError, UsageError
from hooke.progress.display import Display
from hooke.progress.lines import Lines, SummaryLines
from hooke.progress.notebook import NotebookTable, kernel_shell
from hooke.progress.progress import Drawn, Progress, Silent
from hooke.project.settings import PROGRESS

__all__ = ["VARIABLE", "Scene", "open_progress", "wanted_progress"]

VARIABLE = "HOOKE_PROGRESS"

TABLE_AFTER_S = 0.3
"""A shorter run is over before a table could be read; importing rich alone takes 0.1 s."""
SUMMARY_AFTER_S = 2.0
"""Test suites and loops of small runs leave nothing in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where a run is driven. `background`: in a thread, while the caller goes on and may print.

    `in_this_process`: the tasks print to this terminal and may stop in a debugger.
    """

    in_this_process: bool
    background: bool = False


def wanted_progress(asked: str, setting: str) -> str:
    """What is wanted: by who calls, else by the environment variable HOOKE_PROGRESS, else by hooke.toml.

    Raises UsageError and ConfigError with the valid values.
    """
    if asked not in PROGRESS:
        raise UsageError(f"progress={asked!r} is not known", fix=f"valid values: {', '.join(PROGRESS)}")
    variable = os.environ.get(VARIABLE, "") or "auto"
    if variable not in PROGRESS:
        raise ConfigError(
            f"the environment variable {VARIABLE} is {variable!r}",
            fix=f"valid values: {', '.join(PROGRESS)}",
        )
    return next((each for each in (asked, variable, setting) if each != "auto"), "auto")


def open_progress(wanted: str, scene: Scene) -> Progress:
    """How a run shows itself on the stderr of now, or in the notebook.

    `table`: at once, on a terminal or in a notebook, and where no table can be as `lines`; `lines`: each task's
    beginning, end and failures; `none`: nothing; `auto`: a table as soon as the run is no short one, and where
    none can be a line each five seconds of a run that lasts longer than two.
    """
    out: TextIO | None = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    if wanted == "none":
        return Silent()
    if wanted in ("auto", "table"):
        delay_s = TABLE_AFTER_S if wanted == "auto" else 0.0
        if (shell := kernel_shell()) is not None:
            context = copy_context()
            # A run in the background takes its place now: later, its cell is over.
            delay_s = 0.0 if scene.background else delay_s
            return Drawn(lambda: NotebookTable(shell, context), delay_s=delay_s)
        if out is not None and _takes_a_table(out, scene):
            return Drawn(lambda: _table(out, scene), delay_s=delay_s)
    if out is None:  # a program without a console
        return Silent()
    if wanted == "auto":
        return Drawn(lambda: SummaryLines(out, patient=scene.in_this_process), delay_s=SUMMARY_AFTER_S)
    return Lines(out)


def _takes_a_table(out: TextIO, scene: Scene) -> bool:
    """Only where nothing else writes below it: the caller waits in the main thread, and the tasks are elsewhere."""
    if scene.in_this_process or scene.background or os.environ.get("TERM") == "dumb" or _in_a_test():
        return False
    return threading.current_thread() is threading.main_thread() and not out.closed and out.isatty()


def _in_a_test() -> bool:
    """The lines of pytest itself are on the terminal, unfinished."""
    return "PYTEST_CURRENT_TEST" in os.environ and "pytest" in sys.modules


def _table(out: TextIO, scene: Scene) -> Display:
    from hooke.progress.table import LiveTable, TerminalTaken

    try:
        return LiveTable(out)
    except TerminalTaken:
        return SummaryLines(out, patient=scene.in_this_process)
