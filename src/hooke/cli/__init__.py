"""The command line: one file a verb, and how a run's result looks on a terminal, in a pipe and as JSON.

Knows how things are asked for and shown; knows nothing of how they are done. Imports `project` and the floors
below, and click.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line with `arguments` (by default the process's own) and leave the process with its exit code."""
    try:
        from hooke.cli.entry import run_command

        code = run_command(arguments)
    except KeyboardInterrupt:  # before a verb had a chance to say anything
        code = 130
    sys.exit(code)
