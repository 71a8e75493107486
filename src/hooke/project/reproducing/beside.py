"""A process that runs the user's code beside this one, and ends with Ctrl-C without a word."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["run_beside"]

STDERR = 2
"""What the run prints itself: on stdout stands the report alone."""
END_S = 10.0
SHOW_CURSOR = "\x1b[?25h"
"""A live table hides it, and cannot put it back when it is ended."""


def run_beside(command: Sequence[str], *, folder: Path | None, environment: Mapping[str, str]) -> int:
    """Run it to its end; returns the exit code. KeyboardInterrupt ends it first."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=STDERR, process_group=0
    )
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        process.kill()
        process.wait()
        if sys.stderr.isatty():
            sys.stderr.write(SHOW_CURSOR)
        raise
