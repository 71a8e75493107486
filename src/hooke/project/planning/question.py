"""What somebody asks of a plan, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hooke.base.cpus import cpus_here
from hooke.base.errors import UsageError
from hooke.base.units import parse_seconds, parse_usd
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.shown import shown_parameters
from hooke.project.planning.machines import Catalogs
from hooke.project.planning.work import Times
from hooke.scaling.pareto import Wish

__all__ = ["Question", "parsed_wish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What somebody wants to know. `workers` are the numbers considered on this machine; None: powers of 2 up to its cpus."""

    pipeline: Pipeline[..., Any]
    args: tuple[Any, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    wish: Wish = field(default_factory=Wish)
    workers: Sequence[int] | int | None = None
    times: Times = field(default_factory=dict)
    catalog: Catalogs = None
    speed: Mapping[str, Any] = field(default_factory=dict)
    startup: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> dict[str, str]:
        """The pipeline's parameters as text."""
        return shown_parameters(self.args, self.params)

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
                f"workers={several!r} is not possible", mend="give numbers from 1, such as [1, 2, 4]"
            )
        return sorted(set(several))


def parsed_wish(deadline: str | float | None, budget: str | float | None) -> Wish:
    """`"30m"` or seconds, and `"$20"` or US dollars, as a wish. Raises UsageError."""
    seconds = None if deadline is None else parse_seconds(deadline)
    if seconds == 0:
        raise UsageError(f"deadline {deadline!r} is no time at all", mend='such as "30m"')
    return Wish(deadline_s=seconds, budget_usd=None if budget is None else parse_usd(budget))
