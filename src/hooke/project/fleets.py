"""`Fleet`: workers that outlive runs."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self

from hooke.base.cpus import cpus_here
from hooke.base.errors import UsageError
from hooke.base.registry import Registry

__all__ = ["FLEETS", "Fleet"]


class _Started(Protocol):
    """What a fleet's library has started."""

    at: Any
    """What its engine takes as the place to run at."""

    def client(self) -> Any: ...

    def close(self) -> None: ...


FLEETS = Registry(
    "hooke.fleets",
    {"dask": "hooke.engines.dask_fleet:DaskFleet", "ray": "hooke.engines.ray_fleet:RayFleet"},
    {"dask": "dask", "ray": "ray"},
)


class Fleet:
    """Workers of this machine for several runs, and for code of their library's own.

        with Fleet("dask", workers=4, threads=2) as fleet:
            run(delays, on=fleet)
            client = fleet.client()      # a distributed.Client; for "ray" it stands for `ray.init()`

    It starts when it is entered and ends when it is left. `workers` are as many as this process may use cpus unless
    given, each with so many `threads`. Raises UsageError for an engine that has no fleets, MissingExtra where its
    library is not installed, HookeError where it cannot be started.
    """

    def __init__(self, engine: str = "dask", *, workers: int | None = None, threads: int = 1) -> None:
        for name, value in (("workers", workers), ("threads", threads)):
            if value is not None and (type(value) is not int or value < 1):
                raise UsageError(f"{name}={value!r} is not possible", mend="give a whole number from 1")
        self.engine = engine
        self.workers = cpus_here() if workers is None else workers
        self.threads = threads
        self._started: _Started | None = None

    def __repr__(self) -> str:
        return f"Fleet({self.engine!r}, workers={self.workers}, threads={self.threads})"

    def __enter__(self) -> Self:
        make = FLEETS.load(self.engine)
        self._started = make(workers=self.workers, threads=self.threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        started, self._started = self._started, None
        if started is not None:
            started.close()

    @property
    def at(self) -> Any:
        """What the engine takes. Raises UsageError where the fleet has not started, or has ended."""
        return self._running().at

    def client(self) -> Any:
        """A client of the library's own; for Dask a `distributed.Client`, which becomes its default.

        For Ray what `ray.init` returns: this process is connected, until the fleet ends or `ray.shutdown()` is called.
        """
        return self._running().client()

    def _running(self) -> _Started:
        if self._started is None:
            raise UsageError(
                f"{self!r} is not running", mend=f"use it in a `with`: `with {self!r} as fleet:`"
            )
        return self._started
