"""From the name of a place to an engine."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hooke.base.errors import UsageError
from hooke.base.registry import Registry
from hooke.pipeline.engine import Engine, EngineContext
from hooke.project.settings import PlaceSettings

__all__ = ["ENGINES", "Place", "Workers", "find_place", "open_engine", "parse_workers"]

ENGINES = Registry(
    "hooke.engines",
    {"local": "hooke.engines.local:LocalEngine", "serial": "hooke.engines.serial:SerialEngine"},
)

Workers = tuple[int, int]
"""Lowest and highest number of workers."""

_COUNTED = re.compile(r"(?P<engine>[a-z][a-z0-9_]*):(?P<workers>[0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An engine's name and how many workers it is to have; None leaves that to the engine."""

    name: str
    engine: str
    workers: Workers | None = None
    usd_per_hour: float = 0.0
    """Of one worker."""
    max_usd_per_hour: float = math.inf
    """Of all of them together."""

    @property
    def elastic(self) -> bool:
        """Whether the number of workers is to follow the work."""
        return self.workers is not None and self.workers[0] < self.workers[1]


def find_place(name: str, *, workers: Workers | None, places: Mapping[str, PlaceSettings]) -> Place:
    """The place called `name`: an engine, `engine:N`, or a name in hooke.toml. Raises UsageError with the valid names."""
    counted = _COUNTED.fullmatch(name)
    if name in places:
        settings = places[name]
        own = parse_workers(settings.workers)
        return _checked(
            Place(
                name=name,
                engine=settings.engine,
                workers=workers or own,
                usd_per_hour=settings.usd_per_hour,
                max_usd_per_hour=settings.max_usd_per_hour or math.inf,
            ),
            places,
        )
    if counted:
        count = parse_workers(int(counted["workers"]))
        return _checked(Place(name=name, engine=counted["engine"], workers=workers or count), places)
    return _checked(Place(name=name, engine=name, workers=workers), places)


def _checked(place: Place, places: Mapping[str, PlaceSettings]) -> Place:
    # Ours first: to list the plug-ins takes as long as a small run.
    if place.engine not in ENGINES.builtin and place.engine not in ENGINES.names():
        valid = ", ".join([*ENGINES.names(), "local:N", *places])
        raise UsageError(
            f"no place is called {place.name!r}",
            mend=f"valid: {valid}; or name one in hooke.toml under [places.{place.name.partition(':')[0]}]",
        )
    return place


def parse_workers(workers: int | Sequence[int] | None) -> Workers | None:
    """`n` or `(low, high)` as (low, high). Raises UsageError."""
    if workers is None:
        return None
    try:
        low, high = (workers, workers) if isinstance(workers, int) else workers
    except (TypeError, ValueError):
        low, high = 0, 0
    if type(low) is not int or type(high) is not int or not 0 <= low <= high or high < 1:
        raise UsageError(f"workers={workers!r} is not possible", mend="give a number from 1, or (low, high)")
    return low, high


def open_engine(place: Place, context: EngineContext) -> Engine:
    """Start the engine of a place. Raises MissingExtra where its library is not installed."""
    engine: Engine = ENGINES.load(place.engine)(context, workers=place.workers)
    return engine
