"""What somebody asks of a plan, checked."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hooke.base.errors import UsageError
from hooke.base.formats import short_parameters
from hooke.base.units import parse_seconds, parse_usd
from hooke.pipeline.pipeline import Pipeline
from hooke.planning.machines import Catalogs
from hooke.planning.remaining import Times
from hooke.processes.devices import cpus_here
from hooke.project.loading import entry_of
from hooke.scaling.pareto import PlanLimits

__all__ = ["Question", "command_for", "measure_command", "parsed_wish"]


# --- Commands to type next: with the pipeline and its parameters, as they would be typed.


def command_for(verb: str, pipeline: Pipeline[..., Any], params: Mapping[str, Any], *options: str) -> str:
    """`hooke VERB FILE.py:NAME OPTIONS PARAMETERS`. What cannot be typed is left to the reader as `...`."""
    file = entry_of(pipeline).file
    if file is None:
        return f"hooke {verb} FILE.py {' '.join(options)}".rstrip()
    target = f"{_short(file)}:{entry_of(pipeline).name}"
    return " ".join([*map(shlex.quote, ["hooke", verb, target, *options]), *_typed(params)])


def measure_command(pipeline: Pipeline[..., Any], params: Mapping[str, Any], *, task: str, n: int) -> str:
    """`hooke measure` of the task at every power of 2 up to `n`, and `n`."""
    levels = [1]
    while levels[-1] < max(n, 2):
        levels.append(min(2 * levels[-1], max(n, 2)))
    workers = ",".join(map(str, levels))
    return command_for("measure", pipeline, params, "--task", task, "--workers", workers)


def _short(file: Path) -> str:
    relative = os.path.relpath(file)
    return relative if len(relative) < len(str(file)) else str(file)


def _typed(params: Mapping[str, Any]) -> Iterator[str]:
    for name, value in params.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        elif isinstance(value, (int, float, str, os.PathLike)):
            yield f"{flag} {shlex.quote(os.fspath(value) if isinstance(value, os.PathLike) else str(value))}"
        else:
            yield f"{flag} ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What somebody wants to know. `workers` are the numbers considered on this machine; None: powers of 2 up to its cpus."""

    pipeline: Pipeline[..., Any]
    args: tuple[Any, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    wish: PlanLimits = field(default_factory=PlanLimits)
    workers: Sequence[int] | int | None = None
    times: Times = field(default_factory=dict)
    catalog: Catalogs = None
    speed: Mapping[str, Any] = field(default_factory=dict)
    startup: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> dict[str, str]:
        """The pipeline's parameters as text."""
        return short_parameters(self.args, self.params)

    @property
    def title(self) -> str:
        """The question in a line."""
        shown = ", ".join(f"{name}={text}" for name, text in self.shown.items())
        wish = f", within {self.wish}" if str(self.wish) else ""
        times = "".join(f", {factor:g} times the items of {task}" for task, factor in self.times.items())
        return f"plan of {self.pipeline.name}({shown}){times}{wish}"

    def levels(self) -> list[int]:
        """The numbers of workers on this machine. Raises UsageError."""
        if self.workers is None:
            doubled = [1 << power for power in range(cpus_here().bit_length())]
            return sorted({*doubled, cpus_here()})
        several = [self.workers] if isinstance(self.workers, int) else list(self.workers)
        wrong = [n for n in several if isinstance(n, bool) or not isinstance(n, int) or n < 1]
        if wrong or not several:
            raise UsageError(
                f"workers={several!r} is not possible", fix="give numbers from 1, such as [1, 2, 4]"
            )
        return sorted(set(several))


def parsed_wish(deadline: str | float | None, budget: str | float | None) -> PlanLimits:
    """`"30m"` or seconds, and `"$20"` or US dollars, as a wish. Raises UsageError."""
    seconds = None if deadline is None else parse_seconds(deadline)
    if seconds == 0:
        raise UsageError(f"deadline {deadline!r} is no time at all", fix='such as "30m"')
    return PlanLimits(deadline_s=seconds, budget_usd=None if budget is None else parse_usd(budget))
