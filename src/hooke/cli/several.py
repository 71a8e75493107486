"""The options of `hooke serve` for several replicas, and what is said while they are kept."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from hooke.base.errors import UsageError
from hooke.base.units import parse_bytes
from hooke.cli.screens import EXIT_FAILED, command
from hooke.project.folder import Project
from hooke.project.supervising.serving import serve_several
from hooke.project.supervising.wish import Wish
from hooke.serving.exposure import Exposure
from hooke.serving.service import Service
from hooke.serving.supervision.lease import LEASE_S
from hooke.serving.supervision.member import Rules

__all__ = ["keep_several", "law_told", "several_options", "whole_range", "wish_of"]

_OPTIONS = (
    click.option(
        "--replicas",
        metavar="N|LOW:HIGH",
        help="How many processes answer, behind Envoy; LOW to HIGH: as they are needed. By default what the class declares.",
    ),
    click.option(
        "--memory",
        metavar="SIZE",
        help="A replica with more memory than this (1GiB) is replaced by another.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1),
        metavar="N",
        help="Threads of the model's libraries in each replica, in place of @service(cpus=).",
    ),
    click.option("--lease", "lease_s", default=LEASE_S, type=float, hidden=True),
    click.option("--healthy", "healthy_s", default=Rules().healthy_s, type=float, hidden=True),
    click.option("--poll", "poll_s", default=Wish().poll_s, type=float, hidden=True),
)


def several_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that the function gets as `several`, for `wish_of`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **given: Any) -> Any:
        names = ("replicas", "memory", "threads", "lease_s", "healthy_s", "poll_s")
        several = {name: given.pop(name) for name in names}
        return function(*args, several=several, **given)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def whole_range(text: str, *, name: str) -> tuple[int, int]:
    """`3` or `1:8`. Raises UsageError."""
    low, colon, high = text.partition(":")
    bounds = (low, high if colon else low)
    numbers = [int(bound) for bound in bounds if bound.isascii() and bound.isdigit()]
    if len(numbers) < 2 or not 1 <= numbers[0] <= numbers[1]:
        raise UsageError(
            f"{name} {text}: that is no number of replicas",
            mend="write 3, or the fewest and the most: 1:8; the fewest is at least 1",
        )
    return numbers[0], numbers[1]


def wish_of(declared: Service, exposure: Exposure, several: Mapping[str, Any]) -> Wish | None:
    """What is asked of a supervisor; None where one replica is to serve without one."""
    asked, memory = several["replicas"], several["memory"]
    if asked is None and memory is None and declared.replicas == (1, 1):
        return None
    return Wish(
        replicas=whole_range(asked, name="--replicas") if asked is not None else declared.replicas,
        exposure=exposure,
        memory_bytes=parse_bytes(memory) if memory is not None else None,
        lease_s=several["lease_s"],
        healthy_s=several["healthy_s"],
        poll_s=several["poll_s"],
    )


def law_told(declared: Service, project: Project, run: str) -> None:
    """Say what the run of a service showed of its batches, if it showed enough."""
    if declared.max_batch:
        from hooke.project.service_report import law_lines, read_service  # SciPy takes half a second

        for line in law_lines(read_service(project.runs.folder(run)), lacking=False):
            click.echo(line, err=True)


def keep_several(
    declared: Service, path: Path, project: Project, bound: Mapping[str, Any], wish: Wish
) -> int:
    """Keep them until Ctrl-C; returns the exit code."""

    def tell(line: str) -> None:
        with _unheard():
            click.echo(f"{datetime.now().astimezone():%H:%M:%S} {line}", err=True)

    done = serve_several(declared, path, project, bound, wish=wish, tell=tell)
    with _unheard():
        click.echo(f"ended: {done.answered} requests answered", err=True)
        if done.cut:
            click.echo(f"{done.cut} requests were cut at the end", err=True)
        law_told(declared, project, done.run)
        click.echo(f"next: {command(f'hooke show {done.run}', project)}", err=True)
    return EXIT_FAILED if done.cut else 0


def _unheard() -> contextlib.suppress:
    """The terminal may be gone, or whoever read this: replicas are kept, and drained, all the same."""
    return contextlib.suppress(OSError)
