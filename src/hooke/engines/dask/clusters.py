"""Dask clusters: one of this machine that we start, and what others started."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.config
import psutil
from distributed import Client, Scheduler, Security, SpecCluster

from hooke.base.errors import HookeError, UsageError
from hooke.engines.dask.worker_process import WorkerProcess
from hooke.processes.devices import devices_of_this_machine

__all__ = [
    "DaskFleet",
    "OurCluster",
    "close_cluster",
    "connect",
    "grow",
    "how_ended",
    "local_cluster",
    "retire",
]


_KEYS = (
    "tls_ca_file",
    *(f"tls_{role}_{what}" for role in ("client", "scheduler", "worker") for what in ("cert", "key")),
)

CONNECT_S = 10.0
"""A scheduler that is there answers in milliseconds; one behind a slow network in seconds."""

NEVER_S = 3600

_MEND_TLS = (
    'start one (`hooke fleet exec NAME -- dask scheduler`), or correct the address; in hooke.toml fleet = "NAME" of the place, or '
    "tls_ca, tls_cert and tls_key, name the driver's keys, which must be of the scheduler's authority"
)


class OurCluster(SpecCluster):
    """A cluster of this machine that we started."""


def local_cluster(*, workers: int, threads: int = 1) -> OurCluster:
    """A cluster of processes of this machine, that nobody else can use: on loopback, with keys of its own, no dashboard.

    It is there when this returns; its workers come a moment later. Raises HookeError where it cannot be started.
    """
    # Loopback is open to every user of the machine, and who can connect can run code.
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
                scheduler={
                    "cls": Scheduler,
                    "options": {
                        "host": "127.0.0.1",
                        "protocol": "tls://",
                        "port": 0,
                        "security": security,
                        "dashboard": False,
                        "dashboard_address": "127.0.0.1:0",  # Dask serves HTTP in any case
                        "allowed_failures": 0,  # a task whose worker died is not run again in silence
                    },
                },
                workers=dict.fromkeys(range(workers), worker),
                worker=worker,
                security=security,
                silence_logs=logging.CRITICAL,  # what Dask says of workers that we end would go between the user's lines
                scheduler_sync_interval=NEVER_S,
            )
    except Exception as error:
        raise HookeError(
            "no Dask cluster could be started on this machine",
            why=f"{type(error).__name__}: {error}",
            fix='on="local" runs on processes of this machine without Dask',
            next="hooke doctor",
        ) from error


def how_ended(cluster: Any, pid: int) -> tuple[int | None, int | None]:
    """`(exit code, signal)` of a worker that ended: known of those that we started."""
    ours = cluster.workers.values() if isinstance(cluster, OurCluster) else ()
    processes = [each for each in ours if isinstance(each, WorkerProcess)]
    status = next((code for process in processes for other, code in process.codes if other == pid), None)
    if status is None:
        return None, None
    return (None, -status) if status < 0 else (status, None)


def connect(place: Any, keys: tuple[str, str, str] | None = None) -> Client:
    """A client of our own for an address, a cluster or somebody's client; it does not become Dask's default.

    `keys` are files: the authority's certificate, ours, and its key. Raises UsageError where nothing answers there, or not to us.
    """
    address, security = _whereabouts(place)
    if keys is not None:
        for name, file in zip(("tls_ca", "tls_cert", "tls_key"), keys, strict=True):
            if not Path(file).is_file():
                raise UsageError(f"{name} = {file!r}: there is no such file", fix=_MEND_TLS)
        ca, cert, key = keys
        security = Security(require_encryption=True, tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
    if address.startswith("tls://") and not (security or Security()).get_connection_args("client").get(
        "ssl_context"
    ):
        raise UsageError(
            f"{address} is reached with keys, and none are given",
            fix='beside the address in hooke.toml ([places.NAME]) write fleet = "NAME" (hooke fleet ca, hooke fleet join), or name the '
            "files tls_ca, tls_cert and tls_key; or have them in Dask's own configuration (distributed.comm.tls)",
        )
    try:
        return Client(address, security=security, set_as_default=False, timeout=CONNECT_S, name="hooke")
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address}" + (" with these keys" if keys else ""),
            why=str(error).strip().partition("\n")[0],
            fix=_MEND_TLS
            if address.startswith("tls://")
            else "start one (`dask scheduler --host 127.0.0.1`, then `dask worker ADDRESS`), or correct the address",
        ) from error


def _whereabouts(place: Any) -> tuple[str, Any]:
    if isinstance(place, str):
        return place, None
    if isinstance(place, Client):
        return place.scheduler_info(n_workers=0)["address"], place.security
    return place.scheduler_address, getattr(place, "security", None)


def grow(cluster: Any, workers: int) -> None:
    """Have a cluster start workers until it has so many; where it has more, these stay."""
    cluster.scale(max(workers, len(getattr(cluster, "plan", ()))))


def retire(cluster: Any, client: Client, names: Sequence[Any], addresses: Sequence[str]) -> None:
    """End these workers, which have nothing to do any more; what others keep there goes to the rest."""
    if isinstance(cluster, SpecCluster):
        # It asks for that itself, but by name, which the scheduler does not take.
        client.retire_workers(list(addresses), close_workers=False, remove=False)
        cluster.sync(cluster.scale_down, list(names))
    else:
        client.retire_workers(list(addresses), close_workers=True, remove=True)


def close_cluster(cluster: OurCluster) -> None:
    """End a cluster of ours with its workers."""
    with contextlib.suppress(TimeoutError):
        cluster.close(timeout=5)


# --- A Dask cluster of this machine that outlives runs, for `hooke.Fleet`.

WORKERS_S = 60.0


class DaskFleet:
    """Started when it is made, with all its workers. `at` is what the engine takes."""

    def __init__(self, *, workers: int, threads: int) -> None:
        """Raises HookeError where it cannot be started."""
        self.at = local_cluster(workers=workers, threads=threads)
        self._clients: list[Client] = []
        try:
            self.at.wait_for_workers(workers, timeout=WORKERS_S)
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
        close_cluster(self.at)
