"""Loads the models that requests name, in a thread of their own, and keeps those that fit into the budget."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from hooke.base.formats import format_bytes
from hooke.processes.devices import anonymous_bytes
from hooke.serving.metrics import ModelUse
from hooke.serving.model_calls import ModelThread
from hooke.serving.models_by_name.model_cache import (
    CacheEffect,
    Evict,
    Grant,
    Load,
    LoadFailed,
    ModelCache,
    TooLarge,
)
from hooke.serving.payloads import Method
from hooke.serving.problems import FieldError, Problem, problem_of
from hooke.serving.service import MODEL_FIELD

__all__ = ["ModelLoads", "model_bytes"]

MOST_WAITING = 64
"""Models that wait to be loaded: at a second each, more would wait longer than clients do."""
MOST_NAMES = 1000
"""Models with counts of their own."""

_log = logging.getLogger("hooke")


class ModelLoads:
    """The models of one service. Lives on one event loop; `load` is called in the thread of loads, one name at a time."""

    def __init__(self, load: Callable[[str], Any], budget: int, *, where: str) -> None:
        """`where` names `load` in messages."""
        self.uses: dict[str, ModelUse] = {}
        """Counts of the models that were loaded once."""
        self._load = load
        self._where = where
        self._cache = ModelCache(budget)
        self._objects: dict[str, Any] = {}
        self._arriving: Any = None
        """What the last load returned, until it is decided on."""
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._tickets = itertools.count(1)
        self._thread = ModelThread("hooke-loads")

    async def acquire(self, name: str) -> None:
        """Wait until the model is loaded; it stays until `release`.

        Raises Problem: 422 for a name that `load` refuses and for a model that is larger than the budget, 500, 503 if too many others wait.
        """
        if self._cache.waiting_models >= MOST_WAITING and name not in self._objects:
            raise Problem(503, f"{MOST_WAITING} models wait to be loaded", retry_after_s=5)
        ticket = next(self._tickets)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        try:
            self._perform(self._cache.ask(name, ticket))
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(name)
            self._cache.cancel(name, ticket)
            raise
        finally:
            self._waiting.pop(ticket, None)
        self._count(name)

    def acquire_now(self, name: str) -> bool:
        """As `acquire`, if the model is loaded; returns whether it is."""
        if name not in self._objects:
            return False
        self._cache.ask(name, 0)
        self._count(name)
        return True

    def _count(self, name: str) -> None:
        if name in self.uses:
            self.uses[name].requests += 1

    def release(self, name: str) -> None:
        """A request that acquired it has ended."""
        self._perform(self._cache.release(name))

    def resolving(self, method: Method) -> Callable[..., Any]:
        """The method's function, which gets the model of a name. The model is acquired meanwhile."""
        function = method.function

        @wraps(function)
        def with_model(**arguments: Any) -> Any:
            return function(**arguments | {MODEL_FIELD: self._objects[arguments[MODEL_FIELD]]})

        return with_model

    def close(self) -> None:
        """End the thread after its load; a hanging one is left behind."""
        self._thread.close()

    def _perform(self, effects: Sequence[CacheEffect]) -> None:
        for effect in effects:
            match effect:
                case Load(name):
                    self._begin_load(name)
                case Evict(name):
                    del self._objects[name]
                    if name in self.uses:
                        self.uses[name].evictions += 1
                        self.uses[name].bytes = 0
                case Grant(name, tickets):
                    if name not in self._objects:
                        self._objects[name], self._arriving = self._arriving, None
                    for _ in self._unsettled(tickets, None):  # their clients left at this moment
                        self.release(name)
                case TooLarge(name, tickets, size):
                    self._arriving = None
                    self._unsettled(tickets, self._too_large(name, size))
                case LoadFailed():
                    pass  # `_loaded` has the error

    def _unsettled(self, tickets: Sequence[int], problem: Problem | None) -> list[int]:
        """Let these requests go on, or refuse them; returns those that do not wait any more."""
        gone: list[int] = []
        for ticket in tickets:
            future = self._waiting.get(ticket)
            if future is None or future.done():
                gone.append(ticket)
            elif problem is not None:
                future.set_exception(problem)
            else:
                future.set_result(None)
        return gone

    def _begin_load(self, name: str) -> None:
        self._thread.run(
            lambda: _timed(self._load, name), lambda made, error: self._loaded(name, made, error)
        )

    def _loaded(self, name: str, made: tuple[Any, int, float] | None, error: BaseException | None) -> None:
        if made is None:
            assert error is not None
            effects = self._cache.failed(name)
            problem = problem_of(error, self._where)
            if problem.status == 422:
                problem = Problem(422, problem.detail, errors=[FieldError(MODEL_FIELD, problem.detail)])
            for effect in effects:
                if isinstance(effect, LoadFailed):
                    self._unsettled(effect.tickets, problem)
            self._perform(effects)
            return
        self._arriving, size, took_s = made
        if len(self.uses) < MOST_NAMES or name in self.uses:
            self.uses.setdefault(name, ModelUse())
        use = self.uses.get(name) or ModelUse()
        use.loads += 1
        use.load_s += took_s
        use.bytes = size if size <= self._cache.budget else 0
        self._perform(self._cache.loaded(name, size))

    def _too_large(self, name: str, size: int) -> Problem:
        budget = format_bytes(self._cache.budget)
        said = f"{name} takes {format_bytes(size)}, and all models together have {budget} (model_memory)"
        return Problem(422, said, errors=[FieldError(MODEL_FIELD, said)])


def _timed(load: Callable[[str], Any], name: str) -> tuple[Any, int, float]:
    """The model, its bytes, and the seconds that it took to load."""
    began, before = time.perf_counter(), anonymous_bytes()
    made = load(name)
    grown = max(anonymous_bytes() - before, 0)
    took_s = time.perf_counter() - began
    return made, model_bytes(made, grown=grown), took_s


class _Counter:
    """A file that only counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: Any) -> int:
        size = len(data)
        self.bytes += size
        return size

    def take(self, buffer: pickle.PickleBuffer) -> None:
        with buffer.raw() as raw:
            self.bytes += raw.nbytes


def model_bytes(made: Any, *, grown: int) -> int:
    """The size of a model: that of its pickle with all arrays, or `grown` for one that cannot be pickled.

    The pickle is only counted. By how much the process grew is worse: the first load imports libraries, and a later one uses freed memory again.
    """
    counter = _Counter()
    try:
        pickle.Pickler(counter, protocol=5, buffer_callback=counter.take).dump(made)
    except Exception:  # noqa: BLE001 - whatever a model's own code raises: then it cannot be pickled
        return grown
    return counter.bytes
