"""The end of `hooke demo`: how far the features scale, whether that beats one plain thread, and what 100 times as much would take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from hooke.cli.demo_typed import as_typed, typed
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
        said.append(_said(arguments))
        if said[-1].code:
            break
    return said


def _said(arguments: list[str]) -> Said:
    """What it prints is printed, and what it says instead where it has no answer."""
    click.echo()
    ended = typed(arguments)
    click.echo(ended.stdout.rstrip())
    said = Said(command=as_typed(arguments), exit_code=ended.returncode)
    if ended.returncode:
        click.echo(ended.stderr.rstrip(), err=bool(said.code))
    return said
