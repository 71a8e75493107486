"""Which models are loaded, and which one gives way: the one that was used least recently and that no request uses. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["CacheEffect", "Evict", "Grant", "Load", "LoadFailed", "ModelCache", "TooLarge"]


@dataclass(frozen=True, slots=True)
class Grant:
    """These requests may use the model, each until it is released."""

    name: str
    tickets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Load this model: `loaded` or `failed` follows. There is one load at a time."""

    name: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Drop this model."""

    name: str


@dataclass(frozen=True, slots=True)
class TooLarge:
    """No budget holds this model: refuse these requests. If it was just loaded, it is dropped."""

    name: str
    tickets: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """These requests waited for a load that failed."""

    name: str
    tickets: tuple[int, ...]


CacheEffect: TypeAlias = Grant | Load | Evict | TooLarge | LoadFailed


@dataclass(slots=True)
class _Loaded:
    size: int
    users: int


class ModelCache:
    """The loaded models of one service, and the requests that wait for one.

    Sizes are in bytes. The size of a model is known once it was loaded: while one is loaded for the first time, and while
    all others are in use, the models together may be larger than the budget by this one. Nobody who uses a model loses it.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.loading: str | None = None
        self.used = 0
        """The size of all loaded models."""
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        """By last use, the oldest first."""
        self._waiting: dict[str, list[int]] = {}
        """By first request."""
        self._sizes: dict[str, int] = {}
        """As they were last measured."""

    @property
    def loaded_sizes(self) -> dict[str, int]:
        """The loaded models, the one that was used least recently first."""
        return {name: one.size for name, one in self._loaded.items()}

    @property
    def waiting_models(self) -> int:
        """Models that requests wait for."""
        return len(self._waiting)

    def users(self, name: str) -> int:
        """The requests that use a model."""
        return self._loaded[name].users if name in self._loaded else 0

    def ask(self, name: str, ticket: int) -> Sequence[CacheEffect]:
        """A request wants this model. Exactly one effect with its ticket follows, now or later, unless it is cancelled."""
        found = self._loaded.get(name)
        if found is not None:
            found.users += 1
            self._loaded.move_to_end(name)
            return [Grant(name, (ticket,))]
        if self._sizes.get(name, 0) > self.budget:
            return [TooLarge(name, (ticket,), self._sizes[name])]
        self._waiting.setdefault(name, []).append(ticket)
        return self._next()

    def loaded(self, name: str, size: int) -> Sequence[CacheEffect]:
        """A load ended well, and the model is so large."""
        tickets = self._end_of_load(name)
        self._sizes[name] = size
        if size > self.budget:
            return [TooLarge(name, tickets, size), *self._next()]
        effects = self._make_room(size)
        self._loaded[name] = _Loaded(size, len(tickets))
        self.used += size
        # Without a ticket left it is idle itself, and there may be no room for it.
        return [*effects, Grant(name, tickets), *self._make_room(0), *self._next()]

    def failed(self, name: str) -> Sequence[CacheEffect]:
        """A load failed. The next request tries again."""
        return [LoadFailed(name, self._end_of_load(name)), *self._next()]

    def release(self, name: str) -> Sequence[CacheEffect]:
        """A request has ended that used the model."""
        one = self._loaded[name]
        one.users -= 1
        self._loaded.move_to_end(name)
        return [*self._make_room(0), *self._next()]

    def cancel(self, name: str, ticket: int) -> None:
        """A request that waits for the model has ended. A load under way goes on."""
        tickets = self._waiting.get(name, [])
        if ticket in tickets:
            tickets.remove(ticket)
            if not tickets and name != self.loading:
                del self._waiting[name]

    def _end_of_load(self, name: str) -> tuple[int, ...]:
        self.loading = None
        return tuple(self._waiting.pop(name, ()))

    def _next(self) -> list[CacheEffect]:
        """Begin the first load for which there is room, or can be."""
        if self.loading is not None:
            return []
        kept = sum(one.size for one in self._loaded.values() if one.users)
        for name in self._waiting:
            needs = self._sizes.get(name, 0)
            if kept + needs <= self.budget:
                self.loading = name
                return [*self._make_room(needs), Load(name)]
        return []

    def _make_room(self, size: int) -> list[CacheEffect]:
        """Evict idle models until so much more fits, or none is left."""
        gone: list[CacheEffect] = []
        for name, one in list(self._loaded.items()):
            if self.used + size <= self.budget:
                break
            if not one.users:
                del self._loaded[name]
                self.used -= one.size
                gone.append(Evict(name))
        return gone
