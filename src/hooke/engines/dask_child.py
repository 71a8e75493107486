"""What a task finds of Dask in the process that runs it: a client of the cluster on which it runs.

`get_client()`, `worker_client()`, `Client.current()` and `.compute()` then mean that cluster, as they do in a task of Dask's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from distributed import Client, Security
from distributed import worker as dask_worker

from hooke.engines.local_worker import Library

if TYPE_CHECKING:
    from distributed import Worker

__all__ = ["connect", "library_of"]

_KEYS = ("tls_ca_file", "tls_client_cert", "tls_client_key")


class _Cluster(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    keys: dict[str, str]


def library_of(worker: Worker) -> Library:
    """How a process beside this Dask worker connects to the worker's scheduler."""
    security: Any = worker.security
    keys = {name: value for name in _KEYS if (value := getattr(security, name))}
    cluster = _Cluster(address=worker.scheduler.address, keys=keys if security.require_encryption else {})
    return Library(connect=f"{__name__}:connect", data=msgspec.msgpack.encode(cluster))


def connect(data: bytes) -> None:
    """Make the cluster's client this process's default."""
    cluster = msgspec.msgpack.decode(data, type=_Cluster)
    security = Security(require_encryption=True, **cluster.keys) if cluster.keys else None
    client = Client(cluster.address, security=security, name="hooke-task")
    running: Any = dask_worker._worker_cvar  # noqa: SLF001 - Dask has no public way to say where a task runs
    running.set(_StandIn(client))


class _StandIn:
    """What `worker_client` asks of the worker that runs a task."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.scheduler = client.scheduler
        self.address = ""
        self.loop = client.loop

    def __bool__(self) -> bool:
        return False  # a client would keep data in it

    def _get_client(self, timeout: float | None = None) -> Client:  # noqa: ARG002 - as Dask calls it
        return self._client

    def log_event(self, topic: str, message: Any) -> None:
        """What `worker_client` notes of itself."""
        self._client.log_event(topic, message)
