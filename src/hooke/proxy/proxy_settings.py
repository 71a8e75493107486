"""The settings of a proxy, and the addresses of its replicas."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hooke.base.errors import UsageError

__all__ = [
    "CLUSTER",
    "CONNECTION_BUFFER",
    "METRICS_CLUSTER",
    "MIRROR_CLUSTER",
    "ProxySettings",
    "ProxyTls",
    "Upstream",
    "seconds",
    "typed",
]


# --- Values in Envoy's configuration.

CLUSTER = "replicas"
"""Envoy's name for all replicas."""
METRICS_CLUSTER = "metrics"
"""And for the supervisor's metrics."""
MIRROR_CLUSTER = "mirrored"
"""And for replicas that get copies of requests."""


def typed(name: str, **fields: Any) -> dict[str, Any]:
    """A message of the type `envoy.NAME`."""
    return {"@type": f"type.googleapis.com/envoy.{name}", **fields}


def seconds(value: float) -> str:
    """A duration: 0.5 is `0.5s`."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "s"


CONNECTION_BUFFER = 64 << 10
"""Bytes of a body or an answer that Envoy buffers for a slow reader; beyond them it stops reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A replica's address. A `leaving` one gets no new requests, and finishes its open ones."""

    port: int = 0
    host: str = "127.0.0.1"
    leaving: bool = False
    socket: str = ""
    """A unix socket in the proxy's folder instead of host and port: the activator's."""
    version: str = ""
    """Replicas of one version share its part of the requests."""
    new: bool = False
    """Whether its version is on trial: requests with the header `x-hooke-version: new` go to it."""

    @property
    def place(self) -> str:
        """The address as Envoy writes it."""
        return self.socket or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTls:
    """PEM files: the certificate's chain and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """The settings of a proxy. Raises UsageError for unsafe or invalid values."""

    service: str
    folder: Path
    """Its own absolute folder: configuration, file of the replicas, admin socket, log."""
    address: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    tls: ProxyTls | None = None

    timeout_s: float = 30.0
    """The deadline of a request, retries included; for a streaming method that of each item."""
    idempotent: bool = False
    """Whether a sent and unanswered request may be sent again."""
    names_requests: bool = False
    """Whether replicas are told which tries are of one request: they then refuse one that has ended two of them."""
    metrics_path: str = "/-/metrics"
    metrics_socket: Path | None = None
    """The unix socket that answers this path for all replicas. None: the replica that gets the request answers for itself."""
    streams: tuple[str, ...] = ()
    """Paths that answer with server-sent events, beyond the deadline."""
    unhurried: tuple[str, ...] = ()
    """Paths whose answers may take long without a byte: the replica says when it is too long."""
    prompts: tuple[str, ...] = ()
    """Those of `unhurried` that ask a language model for tokens: the endpoint picker chooses the replica."""
    kept: tuple[str, ...] = ()
    """Those of `prompts` whose streams go on on another replica if their own one ends."""

    body_limit: int = 16 << 20
    """Bytes, as in a replica."""
    retry_body_limit: int | None = None
    """Bytes of a body kept for a retry; None: as many as there is memory for if every connection has one, see `kept_body`."""
    header_limit_kb: int = 32
    """KiB of all headers together: many times what tokens and cookies take."""
    most_headers: int = 100
    most_connections: int = 4096
    """Concurrent client connections. With one to a replica each, these are 8,192 file descriptors; 20,000 is a common limit."""
    most_requests: int = 16384
    """Concurrent requests in the replicas: above what all their queues hold, so that they refuse, with 429."""
    drain_s: int = 1
    """Seconds after which a refused client may come again: a full queue is answered by then."""
    rate_limit: int | None = None
    """Requests a second of all clients together, and the size of a burst."""
    headers_timeout_s: float = 10.0
    """For the headers of a request: a slower client is disconnected (slowloris)."""
    idle_timeout_s: float = 60.0
    """An idle client connection is closed after so long, and after a second if there are hardly any more connections to give."""
    memory_limit: int = 1 << 30
    """Bytes of Envoy's heap: near them it refuses new requests with 503, rather than be killed."""

    threads: int = 1
    access_log: Path | None = None
    low_key_files: tuple[Path, ...] = ()
    """The files of the tokens whose requests are of low priority."""
    key_files: tuple[Path, ...] = ()
    """The files of all other tokens."""

    def __post_init__(self) -> None:
        if not _is_loopback(self.address) and self.tls is None:
            raise UsageError(
                f"{self.address} can be reached from other machines, but TLS is missing",
                fix="give a certificate and its key, or listen on 127.0.0.1",
            )
        if not 0 <= self.port <= 65535:
            raise UsageError(
                f"{self.port} is not a valid port", fix="valid ports: 1 to 65535, or 0 for a free one"
            )
        for name in ("timeout_s", "headers_timeout_s", "idle_timeout_s"):
            # Envoy counts in milliseconds, and takes 0 for "never".
            if not 0.001 <= getattr(self, name) <= 86_400:
                raise UsageError(
                    f"{name}={getattr(self, name)} is not a valid time",
                    fix="valid: 0.001 to 86400 seconds",
                )
        for name in (
            "body_limit",
            "retry_body_limit",
            "most_headers",
            "most_connections",
            "most_requests",
            "threads",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} admits no request", fix="give at least 1")
        if self.rate_limit is not None and self.rate_limit < 1:
            raise UsageError(
                f"rate_limit={self.rate_limit} admits no request",
                fix="give requests a second, or leave it out",
            )
        if not self.folder.is_absolute():
            raise UsageError(
                f"the folder of a proxy, {self.folder}, is relative", fix="give an absolute path"
            )

    @property
    def kept_body(self) -> int:
        """Bytes of a body kept for a retry: each waiting request keeps its own, beside two buffers."""
        if self.retry_body_limit is not None:
            return self.retry_body_limit
        return max(self.memory_limit // self.most_connections - 2 * CONNECTION_BUFFER, 1)

    @property
    def endpoints_file(self) -> Path:
        """The file of the replicas, in a folder of its own, which Envoy watches: other files must not wake it."""
        return self.folder / "endpoints" / "replicas.json"

    @property
    def mirror_file(self) -> Path:
        """The file of the replicas that get copies, in a folder of its own, too."""
        return self.folder / "mirrored" / "replicas.json"

    @property
    def log(self) -> Path:
        """Envoy's log."""
        return self.folder / "envoy.log"

    @property
    def scheme(self) -> str:
        """`http`, or `https` with TLS."""
        return "https" if self.tls else "http"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise UsageError(
            f"{address!r} is not a valid address", fix="give an IP address, such as 127.0.0.1"
        ) from None
