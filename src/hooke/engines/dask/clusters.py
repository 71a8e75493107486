"""Dask clusters: starts one on this machine, and connects to those of others."""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import dask.config
import psutil
from distributed import Client, Scheduler, Security, SpecCluster

from hooke.base.errors import HookeError, UsageError
from hooke.base.later import LATER, LaterWork
from hooke.base.this_process import on_fork
from hooke.engines.dask.worker_process import WorkerProcess
from hooke.engines.remote.handshake import KnownHosts
from hooke.processes.devices import devices_of_this_machine

__all__ = [
    "CONNECTIONS",
    "DaskFleet",
    "OurCluster",
    "WorkersInUse",
    "close_cluster",
    "connect",
    "grow",
    "how_ended",
    "local_cluster",
    "retire",
    "scheduler_spec",
    "workers_of",
]


_KEYS = (
    "tls_ca_file",
    *(f"tls_{role}_{what}" for role in ("client", "scheduler", "worker") for what in ("cert", "key")),
)

CONNECT_S = 10.0
"""A scheduler that is there answers in milliseconds; one behind a slow network in seconds."""

NEVER_S = 3600

_RUN_COMM = "hooke run->Scheduler"
"""Dask's name of the connection of a run's client; Dask only prints it."""

_FIX_TLS = (
    'start one (`hooke fleet exec NAME -- dask scheduler`), or correct the address; beside it in hooke.toml, fleet = "NAME", or '
    "tls_ca, tls_cert and tls_key, must name keys that the scheduler's authority has signed"
)


class OurCluster(SpecCluster):
    """A cluster on this machine that Hooke started."""


def local_cluster(*, workers: int, threads: int = 1) -> OurCluster:
    """Start a cluster of processes that nobody else can use: on loopback, with keys of its own, without a dashboard.

    The workers join a moment after this returns. Raises HookeError where the cluster cannot be started.
    """
    # Every user of the machine can connect to loopback, and whoever connects to Dask can run code.
    security = Security.temporary()
    options = {
        "threads": threads,
        "memory": psutil.virtual_memory().total // max(1, workers),
        "keys": {name: getattr(security, name) for name in _KEYS},
        "devices": devices_of_this_machine().ids,
    }
    worker = {"cls": WorkerProcess, "options": options}
    try:
        with dask.config.set({"distributed.scheduler.http.routes": []}):
            return OurCluster(
                scheduler=scheduler_spec(security, host="127.0.0.1"),
                workers=dict.fromkeys(range(workers), worker),
                worker=worker,
                security=security,
                silence_logs=logging.CRITICAL,  # else Dask's messages on ended workers would mix with the user's output
                scheduler_sync_interval=NEVER_S,
            )
    except Exception as error:
        raise HookeError(
            "cannot start a Dask cluster on this machine",
            why=f"{type(error).__name__}: {error}",
            fix='on="local" runs on this machine without Dask',
            next="hooke doctor",
        ) from error


def scheduler_spec(security: Security, *, host: str, port: int = 0) -> dict[str, Any]:
    """A scheduler for a run of this process, as `SpecCluster` takes it. Port 0: any that is free."""
    return {
        "cls": Scheduler,
        "options": {
            "host": host,
            "protocol": "tls://",
            "port": port,
            "security": security,
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",  # Dask always serves HTTP
            "allowed_failures": 0,  # Dask must not silently rerun a task whose worker died
        },
    }


def how_ended(cluster: Any, pid: int) -> tuple[int | None, int | None]:
    """`(exit code, signal)` of a worker that ended, known for workers that Hooke started."""
    ours = cluster.workers.values() if isinstance(cluster, OurCluster) else ()
    processes = [each for each in ours if isinstance(each, WorkerProcess)]
    status = next((code for process in processes for other, code in process.codes if other == pid), None)
    if status is None:
        return None, None
    return (None, -status) if status < 0 else (status, None)


class RunClient(Client):
    """The client of one run, which does not reconnect: the run ends without its scheduler, and can be resumed.

    Dask would print a traceback when a client is closed while it tries to reconnect, and another for a message
    that it was about to send when the connection broke.
    """

    place: tuple[str, Any] = "", None
    """The scheduler's address, and what this process has shown to be let in."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """As `Client`."""
        self.known = KnownHosts()
        super().__init__(*args, **options)

    @cached_property
    def scheduler_address(self) -> str:
        """As the scheduler itself gives it, whatever name it was reached by."""
        address: str = self.scheduler_info(n_workers=0)["address"]
        return address

    async def _ensure_connected(self, timeout: Any = None) -> None:  # noqa: ASYNC109 - the signature is Dask's
        await super()._ensure_connected(timeout)
        if self.scheduler_comm is not None:
            self.scheduler_comm.comm.name = _RUN_COMM

    async def _reconnect(self) -> None:
        self.scheduler_comm = None
        for future in self.futures.values():
            future.cancel()
        self.futures.clear()


class IdleConnections:
    """Connections of this process that no run uses at the moment: the next run at the same scheduler needs not connect. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[RunClient, LaterWork] = {}

    def take(self, place: tuple[str, Any]) -> RunClient | None:
        """A live connection that is for the taker alone, or None."""
        with self._lock:
            found = [client for client in self._idle if client.place == place]
            ends = {client: self._idle.pop(client) for client in found[-1:] if client.status == "running"}
        for client, end in ends.items():
            end.cancel()
            return client
        return None

    def put(self, client: RunClient) -> None:
        """Keep a connection for a while. Whoever puts it back has left nothing there: no subscription, no task."""
        try:
            end = LATER.after(IDLE_S, lambda: self._end([client]), name="hooke-dask-idle")
        except RuntimeError:  # the system has no room for the thread that would end it
            client.close(timeout=CLOSE_S)
            return
        with self._lock:
            if not self._idle:
                atexit.register(self.close)
                on_fork(self)
            self._idle[client] = end

    def close(self, address: str = "") -> None:
        """End the idle connections to this scheduler, or all of them."""
        with self._lock:
            ended = [client for client in self._idle if address in ("", client.place[0])]
        self._end(ended)

    def after_fork(self) -> None:
        """In a child: they are the parent's."""
        self.__init__()  # type: ignore[misc]

    def _end(self, clients: Sequence[RunClient]) -> None:
        with self._lock:
            ended = [client for client in clients if self._idle.pop(client, None) is not None]
            if not self._idle:
                atexit.unregister(self.close)
        for client in ended:
            with contextlib.suppress(OSError, TimeoutError):  # its scheduler may have ended before
                client.close(timeout=CLOSE_S)


IDLE_S = 30.0
"""How long an idle connection is kept: to connect and to close takes 16 ms, as long as a small map."""

CLOSE_S = 5.0

CONNECTIONS = IdleConnections()


def _of_others(record: logging.LogRecord) -> bool:
    """False for what Dask logs of the connection of a run: Hooke reports its loss."""
    return not (
        isinstance(record.args, tuple) and any(getattr(arg, "name", "") == _RUN_COMM for arg in record.args)
    )


logging.getLogger("distributed.batched").addFilter(_of_others)


def connect(place: Any, keys: tuple[str, str, str] | None = None) -> RunClient:
    """A client for an address, a cluster or the user's client; it does not become Dask's default. A kept one where there is one.

    `keys` are files: the authority's certificate, the driver's, and its key. Raises UsageError where no scheduler answers.
    """
    address, security = _whereabouts(place)
    client = CONNECTIONS.take((address, keys or security))
    if client is None:
        client = _connect(address, security, keys)
        client.place = address, keys or security
    return client


def _connect(address: str, security: Any, keys: tuple[str, str, str] | None) -> RunClient:
    if keys is not None:
        for name, file in zip(("tls_ca", "tls_cert", "tls_key"), keys, strict=True):
            if not Path(file).is_file():
                raise UsageError(f"{name} = {file!r}: the file does not exist", fix=_FIX_TLS)
        ca, cert, key = keys
        security = Security(require_encryption=True, tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
    if address.startswith("tls://") and not (security or Security()).get_connection_args("client").get(
        "ssl_context"
    ):
        raise UsageError(
            f"{address} needs TLS keys, and none are given",
            fix='in hooke.toml, below [places.NAME], write fleet = "NAME" (see hooke fleet ca, hooke fleet join), or give the files '
            "tls_ca, tls_cert and tls_key; or set them in Dask's own configuration (distributed.comm.tls)",
        )
    try:
        return RunClient(address, security=security, set_as_default=False, timeout=CONNECT_S, name="hooke")
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address}" + (" with these keys" if keys else ""),
            why=str(error).strip().partition("\n")[0],
            fix=_FIX_TLS
            if address.startswith("tls://")
            else "start one (`dask scheduler --host 127.0.0.1`, then `dask worker ADDRESS`), or correct the address",
        ) from error


def _whereabouts(place: Any) -> tuple[str, Any]:
    if isinstance(place, str):
        return place, None
    if isinstance(place, Client):
        return place.scheduler_info(n_workers=0)["address"], place.security
    return place.scheduler_address, getattr(place, "security", None)


def workers_of(client: Any) -> dict[str, dict[str, Any]]:
    """What the scheduler says of each of its workers, by address. Raises OSError where the scheduler is gone.

    `Client.scheduler_info` gives what its own thread asked for last, and that asks every two seconds for no workers at all.
    """
    if client.scheduler is None or client.status not in ("running", "connecting"):
        raise ConnectionError("the client is closed")
    found: dict[str, dict[str, Any]] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    return found


def grow(cluster: Any, workers: int) -> None:
    """Have a cluster start workers until it has so many; it keeps those that it has beyond that."""
    cluster.scale(max(workers, len(getattr(cluster, "plan", ()))))


def retire(cluster: Any, client: Client, names: Sequence[Any], addresses: Sequence[str]) -> None:
    """End these idle workers; data that others keep there moves to the rest."""
    if isinstance(cluster, SpecCluster):
        # The cluster would retire them itself, but by name, which the scheduler does not accept.
        client.retire_workers(list(addresses), close_workers=False, remove=False)
        cluster.sync(cluster.scale_down, list(names))
    else:
        client.retire_workers(list(addresses), close_workers=True, remove=True)


def close_cluster(cluster: SpecCluster) -> None:
    """End a cluster that Hooke started, with its workers."""
    with contextlib.suppress(TimeoutError):
        cluster.close(timeout=5)


class WorkersInUse:
    """The workers that one run uses. Runs of this process that use fewer than all take different ones, as far as there are enough."""

    _lock = threading.Lock()
    _runs: ClassVar[Counter[tuple[str, str]]] = Counter()
    """(scheduler, worker) -> the number of runs of this process that use it."""

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        self.addresses: set[str] = set()

    def take(self, there: Iterable[str], *, most: int) -> list[str]:
        """Take workers until there are `most`, those that the fewest runs use first; returns the new ones."""
        with self._lock:
            free = sorted(
                set(there) - self.addresses, key=lambda each: (self._runs[self._scheduler, each], each)
            )
            taken = sorted(free[: max(most - len(self.addresses), 0)])
            self._runs.update((self._scheduler, each) for each in taken)
            self.addresses.update(taken)
        return taken

    def give_back(self, addresses: Iterable[str]) -> None:
        """Use these no longer."""
        with self._lock:
            for each in self.addresses.intersection(addresses):
                self.addresses.remove(each)
                self._runs[self._scheduler, each] -= 1
                if not self._runs[self._scheduler, each]:
                    del self._runs[self._scheduler, each]


# -- a cluster on this machine that outlives runs, for `hooke.Fleet` ----------------------------------

WORKERS_S = 60.0


class DaskFleet:
    """A cluster with all its workers, started when it is made. The engine takes `at`."""

    def __init__(self, *, workers: int, threads: int) -> None:
        """Raises HookeError where it cannot be started."""
        self.at = local_cluster(workers=workers, threads=threads)
        self._clients: list[Client] = []
        try:
            self.at.wait_for_workers(workers, timeout=WORKERS_S)
        except TimeoutError as error:
            self.close()
            raise HookeError(
                f"of a Dask cluster on this machine not all {workers} workers started within {WORKERS_S:g} s",
                why="the machine is overloaded, or the workers cannot import the project's packages",
                fix="use fewer workers",
                next="hooke doctor",
            ) from error
        except BaseException:
            self.close()
            raise

    def client(self) -> Client:
        """A client of the cluster, which becomes Dask's default; closed with the fleet."""
        made: Any = Client(self.at)
        self._clients.append(made)
        return made

    def close(self) -> None:
        """End the cluster."""
        for each in self._clients:
            each.close()
        CONNECTIONS.close(self.at.scheduler_address)
        close_cluster(self.at)
