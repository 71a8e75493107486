"""A command of `hooke demo`: a fresh process, as if it were typed."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping

import click

from hooke.base.processes import python_module

__all__ = ["as_typed", "show_line", "typed"]


def as_typed(arguments: list[str]) -> str:
    """The line that one would type."""
    return f"hooke {shlex.join(arguments)}"


def show_line(line: str) -> None:
    """As a shell shows what is typed; before what it prints, wherever that goes."""
    click.secho(f"$ {line}", dim=True)
    sys.stdout.flush()


def typed(
    arguments: list[str], *, live: bool = False, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Show the line and run it. Its output is kept, and what it says beside that too, or, `live`, is seen as it comes."""
    show_line(as_typed(arguments))
    process = subprocess.Popen(
        python_module("hooke", *arguments),
        stdout=subprocess.PIPE,
        stderr=None if live else subprocess.PIPE,
        text=True,
        env=env,
    )
    # Ctrl-C reaches the command itself, which keeps what it has and says how to go on.
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        output, errors = process.communicate()
    finally:
        signal.signal(signal.SIGINT, former)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
