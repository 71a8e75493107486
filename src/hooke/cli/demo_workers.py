"""The last part of `hooke demo`: the same work from nothing by one worker and by two, and what the second brings."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from hooke.base.cpus import cpus_here
from hooke.base.formats import format_seconds
from hooke.cli.demo_passes import Pass, run_pass
from hooke.project.folder import Project
from hooke.project.settings import FILE

__all__ = ["compare_workers"]

MONTHS = 3
"""The fewest that the pipeline takes: the whole demo is to stay under two minutes on two shared cores."""

MUCH = 0.15
"""From this share of a worker's time spent in waiting for a cpu, the figures say less of Hooke than of the machine."""

COLUMNS = ("wall time", "on a cpu", "waiting for a cpu", "without a task")


def compare_workers(files: Sequence[Path], main: str) -> list[Pass]:
    """Run `main`, one of `files`, with one worker, then with two, and say how they compare.

    Returns both passes, only the first where that one failed, none where this process may use one cpu only.
    """
    if cpus_here() < 2:
        click.echo("this machine gives Hooke one cpu, which two workers would only share: not measured")
        return []
    click.echo("from an empty cache each time, in a folder that is then deleted")
    one = _fresh(files, main, workers=1)
    if one.code:
        return [one]
    two = _fresh(files, main, workers=2)
    if not two.code:
        click.echo("\n" + "\n".join(_compared(one, two)))
    return [one, two]


def _fresh(files: Sequence[Path], main: str, *, workers: int) -> Pass:
    with tempfile.TemporaryDirectory(prefix="hooke-demo-") as name:
        folder = Path(name)
        # A project of its own, whatever lies above: with nothing in its cache and no settings.
        (folder / FILE).touch()
        for file in files:
            shutil.copy(file, folder)
        command = ["run", str(folder / main), "--months", str(MONTHS), "--on", f"local:{workers}"]
        return run_pass(command, Project.find(folder), quiet=True)


def _compared(one: Pass, two: Pass) -> list[str]:
    """Both as rows, by what share of the workers' time went where; then how much faster two were, and why not more."""
    spent = [_spent(done, workers) for workers, done in enumerate((one, two), start=1)]
    rows: list[tuple[str, ...]] = [("", *COLUMNS)]
    for name, done, shares in zip(("1 worker", "2 workers"), (one, two), spent, strict=True):
        rows.append((name, format_seconds(done.wall_s), *(f"{share:.0%}" for share in shares)))
    return [*_aligned(rows), *_verdict(one, two, waiting=max(shares[1] for shares in spent))]


def _spent(done: Pass, workers: int) -> tuple[float, float, float]:
    """Shares of the workers' time: on a cpu for a task, waiting for a cpu in one, without a task."""
    whole = workers * done.wall_s
    on_cpu = min(done.cpu_s, done.work_s) / whole
    return on_cpu, done.work_s / whole - on_cpu, 1 - done.work_s / whole


def _verdict(one: Pass, two: Pass, *, waiting: float) -> list[str]:
    times = one.wall_s / two.wall_s
    result = "the same result" if one.output == two.output else "another result"
    if times > 1:
        lines = [f"two workers are {times:.2f} times as fast as one, {times / 2:.0%} of the ideal; {result}"]
    else:
        lines = [f"two workers were not faster here ({times:.2f} times as fast as one); {result}"]
    if waiting >= MUCH:
        lines.append("waiting for a cpu: other programs had it; on a quiet machine the figures are others")
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]
