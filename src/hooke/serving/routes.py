"""The table of all that a replica answers: paths, verbs and who answers them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field

from hooke.serving.http import Exchange
from hooke.serving.metrics import Meter

__all__ = ["Handler", "Route", "Routes"]

Handler = Callable[[Exchange], Awaitable[None]]
_PARAMETER = re.compile(r"\\\{(\w+)\\\}")


@dataclass(frozen=True, slots=True)
class Route:
    """A path, and who answers each verb of it."""

    path: str
    """`/predict`, or with parameters, each a whole part of the path: `/v2/models/{name}/infer`."""
    verbs: dict[str, Handler]
    """A handler of GET answers HEAD, too."""
    open: bool = False
    """Whether it answers those who have no token."""
    meter: Meter = field(default_factory=Meter, compare=False)
    """What was answered on it."""

    def __post_init__(self) -> None:
        if "GET" in self.verbs:
            self.verbs.setdefault("HEAD", self.verbs["GET"])

    @property
    def allow(self) -> str:
        """The verbs, as the header of that name has them."""
        return ", ".join(self.verbs)


class Routes:
    """All routes, in the order in which they were added. A path without parameters goes before one with some."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._exact: dict[str, Route] = {}
        self._patterns: dict[re.Pattern[str], Route] = {}
        self._all: dict[str, Route] = {}
        for route in routes:
            self.add(route)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._all.values())

    def __getitem__(self, path: str) -> Route:
        return self._all[path]

    def add(self, route: Route) -> None:
        """Add a route, or verbs of one that is there. Raises ValueError for a verb that is there already."""
        there = self._all.get(route.path)
        if there is not None:
            if there.verbs.keys() & route.verbs or there.open != route.open:
                raise ValueError(f"{route.path} is routed twice")
            there.verbs.update(route.verbs)
            return
        self._all[route.path] = route
        if "{" in route.path:
            pattern = _PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(route.path))
            self._patterns[re.compile(pattern)] = route
        else:
            self._exact[route.path] = route

    def find(self, exchange: Exchange) -> Route | None:
        """The route of this request's path, whose parameters it is given."""
        route = self._exact.get(exchange.path)
        if route is not None:
            return route
        for pattern, other in self._patterns.items():
            found = pattern.fullmatch(exchange.path)
            if found is not None:
                exchange.parameters = found.groupdict()
                return other
        return None
