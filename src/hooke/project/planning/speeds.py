"""How many times as fast another machine is, measured: the same tasks, timed there and here."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hooke.base.errors import UsageError
from hooke.project.planning.timings import RunTimes, Timed
from hooke.scaling.catalog import Range
from hooke.scaling.timing import Timing, run_spread

__all__ = ["HOST", "speeds"]

HOST = "@"
"""What a speed begins with that is the name of a host whose runs are to be compared."""
LEAST_SHARE = 0.01
"""Of the time that all compared tasks took here: what takes less says nothing of a machine's speed."""


def speeds(asked: Mapping[str, Any], runs: Sequence[RunTimes], *, here: str) -> dict[str, Any]:
    """Speeds as `plan` was given them, with `@HOST` replaced by what the project's journals measured.

    Raises UsageError where no task was timed on both machines.
    """
    return {
        name: _measured(name, value[1:], runs, here)
        if isinstance(value, str) and value.startswith(HOST)
        else value
        for name, value in asked.items()
    }


def _measured(name: str, host: str, runs: Sequence[RunTimes], here: str) -> Range:
    """The range of the ratios of all tasks that were timed on both, each with its interval.

    ln ratio lies within t sqrt(s^2 / runs here + s^2 / runs there), as runs differ. Tasks that take next to nothing
    of the time are left out.
    """
    both = [(mine, there) for mine, there in _pairs(runs, here, host) if mine and there]
    if not both:
        hosts = ", ".join(sorted({run.host for run in runs if run.host != here})) or "none"
        raise UsageError(
            f"speed of {name}: no task was timed on {host} and on {here} alike",
            why="equal code, arguments and number of workers make it alike",
            mend=f"run the pipeline there, and bring its runs to this project; others that ran it: {hosts}",
        )
    spent = [sum(each.items * each.seconds for each in mine) for mine, _ in both]
    kept = [pair for pair, share in zip(both, spent, strict=True) if share >= LEAST_SHARE * sum(spent)]
    ends = [_ratio(mine, there) for mine, there in kept]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _pairs(runs: Sequence[RunTimes], *hosts: str) -> list[tuple[list[Timing], ...]]:
    """For each kind of calls, its timings on each of the hosts."""
    kinds: dict[object, tuple[list[Timing], ...]] = defaultdict(lambda: tuple([] for _ in hosts))
    for run in runs:
        if run.host in hosts:
            for timed in run.timed:
                if timed.timing.seconds > 0:
                    kinds[_kind_of(timed)][hosts.index(run.host)].append(timed.timing)
    return list(kinds.values())


def _kind_of(timed: Timed) -> object:
    return (
        timed.task,
        tuple(sorted(timed.code.items())),
        tuple(sorted(timed.inputs.items())),
        timed.timing.reads,
        timed.timing.at_once,
    )


def _ratio(mine: Sequence[Timing], there: Sequence[Timing]) -> Range:
    logs = [sum(math.log(each.seconds) for each in own) / len(own) for own in (mine, there)]
    errors = [
        (spread := run_spread(own)).quantile * spread.value / math.sqrt(len(own)) for own in (mine, there)
    ]
    ratio, error = logs[0] - logs[1], math.hypot(*errors)
    return math.exp(ratio - error), math.exp(ratio + error)
