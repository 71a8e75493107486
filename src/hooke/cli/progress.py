"""What is shown while a run goes on: a live table on a terminal, lines elsewhere, nothing with `--json`."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from typing import Protocol

from hooke.journal.events import Event

__all__ = ["Progress", "open_progress"]


class Progress(AbstractContextManager["Progress"], Protocol):
    """Shows a run while it is the current context. `observe` is called in the driver's thread, so it is quick."""

    def observe(self, event: Event) -> None:
        """Take note of what happened."""
        ...


class Silent(AbstractContextManager["Silent"]):
    """Shows nothing."""

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def observe(self, event: Event) -> None:
        """Nothing to note."""


def open_progress(*, quiet: bool, in_this_process: bool) -> Progress:
    """The way of showing that fits stderr. `in_this_process`: the tasks print to this terminal and may stop in a debugger."""
    if quiet:
        return Silent()
    if sys.stderr.isatty() and not in_this_process and os.environ.get("TERM") != "dumb":
        from hooke.cli.live import LiveTable

        return LiveTable()
    from hooke.cli.lines import Lines

    return Lines()
