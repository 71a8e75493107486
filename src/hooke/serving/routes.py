"""The routing table of a replica: paths, HTTP methods and handlers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hooke.serving.http import Exchange
from hooke.serving.metrics import Meter

__all__ = ["Handler", "Operation", "Route", "Routes"]

Handler = Callable[[Exchange], Awaitable[None]]
_PARAMETER = re.compile(r"\\\{(\w+)(\\\*)?\\\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a service's document says of a route of another protocol."""

    said: str
    body: type | None = None
    """The struct that its body is read as."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """A body."""
    streams: bool = False
    """Whether the answer may be server-sent events."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path, and the handler of each HTTP method."""

    path: str
    """`/predict`, or with parameters, each a whole path segment: `/v2/models/{name}/infer`; `{rest*}` is several."""
    verbs: dict[str, Handler]
    """A handler of GET answers HEAD, too."""
    open: bool = False
    """Whether it answers without a token."""
    operation: Operation | None = None
    """None: the document has a general one."""
    meter: Meter = field(default_factory=Meter, compare=False)
    """Counts its answers."""

    def __post_init__(self) -> None:
        if "GET" in self.verbs:
            self.verbs.setdefault("HEAD", self.verbs["GET"])

    @property
    def allow(self) -> str:
        """The HTTP methods, for the Allow header."""
        return ", ".join(self.verbs)


class Routes:
    """All routes, in order. A path without parameters goes before one with parameters."""

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
        """Add a route, or handlers to an existing one. Raises ValueError for an HTTP method that has a handler."""
        there = self._all.get(route.path)
        if there is not None:
            if there.verbs.keys() & route.verbs or there.open != route.open:
                raise ValueError(f"{route.path} is routed twice")
            there.verbs.update(route.verbs)
            return
        self._all[route.path] = route
        if "{" in route.path:
            pattern = _PARAMETER.sub(
                lambda found: f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})", re.escape(route.path)
            )
            self._patterns[re.compile(pattern)] = route
        else:
            self._exact[route.path] = route

    def find(self, exchange: Exchange) -> Route | None:
        """The route for a request's path; sets the request's parameters."""
        route = self._exact.get(exchange.path)
        if route is not None:
            return route
        for pattern, other in self._patterns.items():
            found = pattern.fullmatch(exchange.path)
            if found is not None:
                exchange.parameters = found.groupdict()
                return other
        return None
