"""The end of `hooke demo`: how far the features scale, whether that beats one plain thread, and what 100 times as much would take."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from hooke.cli.screens import EXIT_FAILED

__all__ = ["Said", "scale_features"]

TASK = "features"
PLAIN = "features_at_once"
"""One Polars call over all months: what one would write without Hooke."""
WORKERS = "1,2,3,4"
"""Four N can contradict a law; on two cores they also show where the cores end."""
REPEATS = "2"
"""Measured to its end however noisy the machine is, and what that leaves open is said: with more it would give up."""
TIMES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A command of this part, and how it ended."""

    command: str
    exit_code: int

    @property
    def code(self) -> int:
        """0 where it got as far as an answer; that the measurements do not tell is one."""
        return 0 if self.exit_code in (0, EXIT_FAILED) else self.exit_code

    def facts(self) -> dict[str, object]:
        """For `--json`."""
        return {"command": self.command, "exit_code": self.exit_code}


def scale_features(main: Path, months: list[str]) -> list[Said]:
    """Measure, draw and plan; each command as if it were typed. Ends with the first that is broken."""
    file, where = str(main), ["--project", str(main.parent)]
    longer = [f"--times={task}={TIMES}" for task in ("month", TASK)]
    how = ["--task", TASK, "--workers", WORKERS, "--repeats", REPEATS, "--plain", PLAIN]
    commands = (
        ["measure", file, *how, *months],
        ["curve", TASK, *where],
        ["plan", file, *longer, *months],
    )
    said: list[Said] = []
    for arguments in commands:
        said.append(_typed(arguments))
        if said[-1].code:
            break
    return said


def _typed(arguments: list[str]) -> Said:
    """A fresh process. What it prints is printed, and what it says instead where it has no answer."""
    command = f"hooke {shlex.join(arguments)}"
    click.secho(f"\n$ {command}", dim=True)
    sys.stdout.flush()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "hooke", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Ctrl-C reaches the command itself, which keeps what it has and says how to go on.
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        output, errors = process.communicate()
    finally:
        signal.signal(signal.SIGINT, former)
    click.echo(output.rstrip())
    said = Said(command=command, exit_code=process.returncode)
    if process.returncode:
        click.echo(errors.rstrip(), err=bool(said.code))
    return said
