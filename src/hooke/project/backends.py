"""Backends by name: what `on=` means, the engines, and fleets of this machine that outlive a run."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from hooke.base.distributions import Plugins
from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.certificates.key_files import Keys
from hooke.pipeline.engine import Engine, EngineContext
from hooke.processes.devices import cpus_here
from hooke.processes.start import end_ahead
from hooke.project.settings import BackendSettings

__all__ = [
    "ENGINES",
    "FLEETS",
    "BackendChoice",
    "Fleet",
    "Workers",
    "check_engine",
    "find_backend",
    "fleet_for",
    "open_engine",
    "parse_workers",
]


# --- `Fleet`: workers that outlive runs.


class _Started(Protocol):
    """A started fleet."""

    at: Any
    """The address, or the library's object, that the engine connects to."""

    def client(self) -> Any: ...

    def close(self) -> None: ...


FLEETS = Plugins(
    "hooke.fleets",
    {"dask": "hooke.engines.dask.clusters:DaskFleet", "ray": "hooke.engines.ray.bridge_client:RayFleet"},
    {"dask": "dask", "ray": "ray"},
)


class Fleet:
    """Workers on this machine for several runs, and for code that uses Dask or Ray directly.

        with Fleet("dask", workers=4, threads=2) as fleet:
            run(delays, on=fleet)
            client = fleet.client()      # a distributed.Client; for "ray" the result of `ray.init()`

    Entering it starts the workers and leaving it ends them. `workers` is by default the number of cpus that this process may
    use; each worker has `threads` threads. Raises UsageError for an engine without fleets, MissingExtra if its
    library is not installed, HookeError if it cannot start.
    """

    def __init__(self, engine: str = "dask", *, workers: int | None = None, threads: int = 1) -> None:
        for name, value in (("workers", workers), ("threads", threads)):
            if value is not None and (type(value) is not int or value < 1):
                raise UsageError(f"{name}={value!r} is not valid", fix="give a whole number from 1")
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
    def running(self) -> bool:
        """Whether its workers are started."""
        return self._started is not None

    @property
    def at(self) -> Any:
        """What the engine connects to. Raises UsageError if the fleet is not running."""
        return self._running().at

    def client(self) -> Any:
        """The library's own client; for Dask a `distributed.Client`, which becomes the default client.

        For Ray, the result of `ray.init`: this process stays connected until the fleet ends or `ray.shutdown()` is called.
        """
        return self._running().client()

    def _running(self) -> _Started:
        if self._started is None:
            raise UsageError(f"{self!r} is not running", fix=f"use it in a `with`: `with {self!r} as fleet:`")
        return self._started


ENGINES = Plugins(
    "hooke.engines",
    {
        "dask": "hooke.engines.dask.dask_engine:DaskEngine",
        "kubernetes": "hooke.engines.dask.kubernetes_engine:KubernetesEngine",
        "local": "hooke.engines.local:LocalEngine",
        "ray": "hooke.engines.ray.ray_engine:RayEngine",
        "serial": "hooke.engines.serial:SerialEngine",
    },
    {"dask": "dask", "kubernetes": "dask", "ray": "ray"},
)

Workers = tuple[int, int]
"""Lowest and highest number of workers."""

_ADDRESS = re.compile(r"(?P<scheme>[a-z]+)://(?P<host>\[[^\]]*\]|[^:/]*)(:[0-9]+)?/?")
_SCHEMES = {"ray": "ray", "tcp": "dask", "tls": "dask"}
"""Scheme of an address -> engine."""

_RAY_ADDRESS = re.compile(r"(?P<host>localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|\[[0-9a-f:]+\]):[0-9]+")
"""The address of a Ray cluster of which this machine is a node. It has no scheme, so it needs a port: a bare word is a backend's name."""

_LOOPBACK = re.compile(r"localhost|127(\.[0-9]+){3}|\[::1\]")

_COUNTED = re.compile(r"(?P<engine>[a-z][a-z0-9_]*):(?P<workers>[0-9]+)")


class BackendChoice(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and its number of workers; None leaves the number to the engine."""

    name: str
    engine: str
    workers: Workers | None = None
    usd_per_hour: float = 0.0
    """Price of one worker."""
    max_usd_per_hour: float = math.inf
    """Limit for all workers together."""
    at: Any = None
    """The address of an existing cluster, or its library's object; None if the engine starts its own workers."""
    keys: tuple[str, str, str] | None = None
    """Files named in hooke.toml: the authority's certificate, ours, and our key."""
    options: Mapping[str, Any] | None = None
    """Keys in hooke.toml that only its engine knows; None if there are none."""

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows the work."""
        return self.workers is not None and self.workers[0] < self.workers[1]

    @property
    def scalable(self) -> bool:
        """Whether the engine can start and end workers there. Dask's scheduler cannot: its address or client is not enough."""
        return self.engine != "dask" or self.at is None or hasattr(self.at, "scale")


def find_backend(
    name: Any, *, workers: Workers | None, places: Mapping[str, BackendSettings]
) -> BackendChoice:
    """The backend that `name` means: an engine, `engine:N`, an address, a name in hooke.toml, or a Dask cluster or client.

    Raises UsageError with the valid names, ConfigError where a price list has no price for it, and for an unencrypted address on another machine, also that of a cluster or client.
    """
    if not isinstance(name, str):
        return _object_backend(name, workers, places)
    counted = _COUNTED.fullmatch(name)
    if name in places:
        settings = places[name]
        if settings.engine not in ENGINES.builtin and settings.engine not in ENGINES.names():
            raise _no_engine(name, settings.engine)
        own = parse_workers(settings.workers)
        at = _address_of(name, settings, places)
        return _checked(
            BackendChoice(
                name=name,
                engine=settings.engine,
                workers=workers or own,
                at=at,
                keys=_keys_of(name, settings),
                options=settings.options or None,
                usd_per_hour=_usd_per_hour(name, settings),
                max_usd_per_hour=settings.max_usd_per_hour or math.inf,
            ),
            places,
        )
    address = _ADDRESS.fullmatch(name)
    if address is not None and address["scheme"] in _SCHEMES:
        at = _checked_address(name, places)
        return _checked(
            BackendChoice(name=name, engine=_SCHEMES[address["scheme"]], workers=workers, at=at), places
        )
    if _RAY_ADDRESS.fullmatch(name):
        return BackendChoice(name=name, engine="ray", workers=workers, at=_checked_address(name, places))
    if counted:
        count = parse_workers(int(counted["workers"]))
        return _checked(BackendChoice(name=name, engine=counted["engine"], workers=workers or count), places)
    return _checked(BackendChoice(name=name, engine=name, workers=workers), places)


def _usd_per_hour(name: str, settings: BackendSettings) -> float:
    if not (settings.price or settings.spot or settings.reserved):
        return settings.usd_per_hour
    from hooke.project.price_lists import machine_price  # NumPy, by way of the laws

    return machine_price(settings, where=f"[places.{name}]").usd_per_hour


def _object_backend(
    thing: Any, workers: Workers | None, places: Mapping[str, BackendSettings]
) -> BackendChoice:
    if isinstance(thing, Fleet):
        # A run that is resumed in another process starts a fleet like it.
        name = f"{thing.engine}:{thing.workers}"
        return BackendChoice(name=name, engine=thing.engine, workers=workers, at=thing.at)
    scheduler = getattr(thing, "scheduler", None)  # a client has a scheduler; a cluster has the address
    address = getattr(thing, "scheduler_address", None) or getattr(scheduler, "address", None)
    if not isinstance(address, str):
        raise UsageError(
            f"on= takes the name of a backend, a Fleet, or a Dask cluster or client, not {type(thing).__name__}",
            fix=f"valid names: {', '.join(ENGINES.names())}, or a name in hooke.toml",
        )
    if not address.startswith("inproc://"):  # a scheduler in this process
        _checked_address(address, places)
    return BackendChoice(name=address, engine="dask", workers=workers, at=thing)


def _keys_of(name: str, settings: BackendSettings) -> tuple[str, str, str] | None:
    keys = settings.tls_ca, settings.tls_cert, settings.tls_key
    if not any(keys):
        return None
    if not settings.address.startswith("tls://"):
        raise UsageError(
            f"[places.{name}] has TLS keys but no tls:// address",
            fix='write address = "tls://HOST:PORT", or remove fleet, tls_ca, tls_cert and tls_key',
        )
    if settings.fleet:
        Keys(Path(settings.tls_ca).parent).good(time.time())
    return keys


def _address_of(name: str, settings: BackendSettings, places: Mapping[str, BackendSettings]) -> str | None:
    if not settings.address:
        return None
    scheme = settings.address.partition("://")[0]
    if settings.engine == "ray" and settings.address == "auto":
        return "auto"
    engine = _SCHEMES.get(scheme, "ray" if scheme == settings.address else settings.engine)
    if settings.engine in ENGINES.builtin and settings.engine != engine:
        fix = f'write engine = "{engine}", or remove address'
        if settings.engine == "dask":
            fix = f'write address = "tls://{settings.address}", or tcp:// on this machine'
        raise UsageError(
            f"[places.{name}] has the address {settings.address!r} and the engine {settings.engine!r}",
            fix=fix,
        )
    return _checked_address(settings.address, places)


def _checked_address(address: str, places: Mapping[str, BackendSettings]) -> str:
    """The address, if it is encrypted, on this machine, or marked `insecure = true` in hooke.toml."""
    found = _ADDRESS.fullmatch(address) or _RAY_ADDRESS.fullmatch(address)
    if found is None:
        raise UsageError(
            f"{address!r} is not a valid address",
            fix="write tls://HOST:PORT or tcp://127.0.0.1:PORT for Dask, ray://HOST:PORT or 127.0.0.1:PORT for Ray",
        )
    scheme = found.groupdict().get("scheme", "")
    insecure = any(place.insecure and place.address == address for place in places.values())
    if scheme == "tls" or _LOOPBACK.fullmatch(found["host"]) or insecure:
        return address
    if scheme in ("", "ray"):
        if os.environ.get("RAY_USE_TLS") == "1":
            return address
        raise UsageError(
            f"the Ray cluster at {address} is on another machine, and the connection is not encrypted",
            why="anyone on the network could read code, results and the token",
            fix="set RAY_USE_TLS=1, RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT as on its nodes; or, "
            f'on a private network, write in hooke.toml: [places.NAME] engine = "ray", address = "{address}", insecure = true',
        )
    raise UsageError(
        f"the scheduler at {address} is on another machine, and {scheme}:// is not encrypted",
        why="anyone on the network could read code, results and the store's secret, and send code to run",
        fix=f'use tls://; or, on a private network, write in hooke.toml: [places.NAME] engine = "dask", '
        f'address = "{address}", insecure = true',
    )


def _no_engine(name: str, engine: str) -> UsageError:
    meant = did_you_mean(engine, ENGINES.names(), form="{!r}")
    return UsageError(
        f"[places.{name}] has the unknown engine {engine!r}",
        fix=f"{meant}valid: {', '.join(ENGINES.names())}",
    )


def _checked(place: BackendChoice, places: Mapping[str, BackendSettings]) -> BackendChoice:
    # Built-in engines first: listing plug-ins takes as long as a small run.
    if place.engine not in ENGINES.builtin and place.engine not in ENGINES.names():
        valid = ", ".join([*ENGINES.names(), "local:N", "tls://HOST:PORT", *places])
        meant = did_you_mean(place.name, [*ENGINES.names(), *places])
        raise UsageError(
            f"no backend is called {place.name!r}",
            fix=f"{meant}valid: {valid}; or define it in hooke.toml under [places.{place.name.partition(':')[0]}]",
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
        raise UsageError(f"workers={workers!r} is not valid", fix="give a number from 1, or (low, high)")
    return low, high


def fleet_for(place: BackendChoice, *, workers: int) -> Fleet | None:
    """A Fleet for several runs on a backend whose engine would start a cluster for each of them; None for other backends.

    Raises MissingExtra if its library is not installed.
    """
    if place.at is not None or (place.engine not in FLEETS.builtin and place.engine not in FLEETS.names()):
        return None
    FLEETS.load(place.engine)
    return Fleet(place.engine, workers=workers)


def check_engine(place: BackendChoice) -> None:
    """Raises MissingExtra if a library of the backend's engine is not installed."""
    ENGINES.load(place.engine)


def open_engine(place: BackendChoice, context: EngineContext) -> Engine:
    """Start the backend's engine. Raises MissingExtra if its library is not installed."""
    more = [
        (name, value) for name in ("at", "keys", "options") if (value := getattr(place, name)) is not None
    ]
    if place.engine != "local":
        end_ahead()
    engine: Engine = ENGINES.load(place.engine)(context, workers=place.workers, **dict(more))
    return engine
