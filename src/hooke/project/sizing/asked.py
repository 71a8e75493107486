"""What was asked of a run's size and end, checked, and who decides by it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hooke.base.clock import Clock
from hooke.base.errors import UsageError
from hooke.base.units import parse_seconds, parse_usd
from hooke.fleet.observation import Limits, Price
from hooke.pipeline.graph import Graph
from hooke.project.places import ENGINES, Place
from hooke.project.sizing.elastic import Elastic, Past

__all__ = ["Wanted", "check_cost", "check_kept", "check_wanted", "parse_wanted", "sized_by"]

START_S = {"local": 0.3, "dask": 2.0, "ray": 5.0}
"""What a worker takes to start, until one has been seen to: a fork, a process of Python with Dask, an actor of Ray's."""
UNKNOWN_START_S = 10.0
RELEASE_S = 1.0
"""What giving a worker up takes at most, where the run is to end."""


_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """When the run is to be done, and what it may cost; None is: as it comes."""

    deadline: float | None = None
    """Seconds since the epoch."""
    budget_usd: float | None = None
    spent_usd: float = 0.0
    """By the same run before it was resumed."""


def parse_wanted(deadline: str | float | None, budget: str | float | None, *, now: float) -> Wanted:
    """`"30m"` or seconds from now, and `"$20"` or US dollars. Raises UsageError."""
    seconds = None if deadline is None else parse_seconds(deadline)
    if seconds == 0:
        raise UsageError(f"deadline {deadline!r} is no time at all", mend='such as "30m"')
    return Wanted(
        deadline=None if seconds is None else now + seconds,
        budget_usd=None if budget is None else parse_usd(budget),
    )


def check_wanted(wanted: Wanted, place: Place) -> None:
    """Raises UsageError where nothing can be done for a deadline or a budget: it is by the number of workers that they are kept."""
    if wanted.deadline is None and wanted.budget_usd is None:
        return
    what = "a deadline" if wanted.deadline is not None else "a budget"
    if not ENGINES.load(place.engine).capabilities.elastic:
        raise UsageError(
            f"{what} is kept by the number of workers, which cannot change at {place.name!r}",
            mend='on="local" can',
        )
    if not place.elastic:
        raise UsageError(
            f"{what} is kept by the number of workers, which is fixed at {place.name!r}",
            mend="let it change: workers=(1, 8), or --workers 1-8",
        )
    if wanted.budget_usd is not None and not place.usd_per_hour:
        raise UsageError(
            f"a budget needs the price of a worker, and {place.name!r} has none",
            mend=f'say it in hooke.toml: [places.{place.name if _BARE.fullmatch(place.name) else "NAME"}] engine = "{place.engine}", usd_per_hour = 0.20',
        )


def check_cost(place: Place) -> None:
    """Raises UsageError where the fewest workers that the place is to have cost more than it may: nothing could run there."""
    if place.workers is None or not place.usd_per_hour:
        return
    least = max(place.workers[0], 1)
    usd = least * place.usd_per_hour
    if usd > place.max_usd_per_hour * (1 + 1e-9):
        raise UsageError(
            f"{least} {'worker' if least == 1 else 'workers'} at {place.name!r} would cost ${usd:.4g}/h, and ${place.max_usd_per_hour:.4g}/h is allowed",
            mend=f"fewer workers; or raise max_usd_per_hour in hooke.toml under [places.{place.name}], or correct usd_per_hour",
        )


def check_kept(wanted: Wanted, place: Place, *, resumed: bool) -> None:
    """For an engine that turned out to be unable to change its workers: raises UsageError where money or time is kept by that.

    A run that is resumed goes on without its deadline, for it may have begun with a cluster that could be scaled.
    """
    if wanted.budget_usd is None and (wanted.deadline is None or resumed):
        return
    raise UsageError(
        f"{'a deadline' if wanted.budget_usd is None else 'a budget'} is kept by the number of workers, which cannot change at {place.name!r}",
        why="an address cannot be asked for more workers, nor to end any",
        mend="give a cluster of Dask's that can be scaled: run(..., on=cluster); or leave deadline and budget out",
    )


def sized_by(place: Place, wanted: Wanted, graph: Graph, past: Past, clock: Clock) -> Elastic:
    """Who decides how many workers the run at this place has."""
    assert place.workers is not None
    low, high = place.workers
    made = Elastic(
        Limits(
            low=low,
            high=high,
            usd_per_hour=place.max_usd_per_hour,
            deadline=wanted.deadline,
            budget_usd=wanted.budget_usd,
        ),
        {node.id: node.task.name for node in graph.nodes},
        price=Price(
            usd_per_hour=place.usd_per_hour,
            start_s=START_S.get(place.engine, UNKNOWN_START_S),
            release_s=RELEASE_S,
        ),
        clock=clock,
        past=past,
        joined=place.at is not None
        and place.engine != "ray",  # on a Ray of somebody's the hosts are the run's own
    )
    made.spent_usd = wanted.spent_usd
    return made
