"""The target of a load test, its requests as bytes, and arrival times. Other machines must be allowed explicitly."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import numpy as np

from hooke.base.errors import UsageError
from hooke.scaling.families import Floats

__all__ = ["Arrivals", "Target", "constant", "parse_target", "poisson", "recorded", "request_bytes"]


# --- Arrival times: seconds from the start, drawn before anything is sent.

Arrivals = Callable[[float, float, int], Floats]
"""(rate, seconds, seed) -> ascending times (n,) within [0, seconds), `rate` per second on average."""


def constant(rate: float, seconds: float, seed: int = 0) -> Floats:  # noqa: ARG001 - not random
    """One request every 1/rate seconds."""
    return np.arange(max(round(rate * seconds), 1)) / rate


def poisson(rate: float, seconds: float, seed: int = 0) -> Floats:
    """Requests of many independent users: the gaps are exponential."""
    chance = np.random.default_rng(seed)
    # Given their number, arrivals of a Poisson process are uniform. The number is fixed so that levels are comparable.
    return np.sort(chance.uniform(0.0, seconds, max(round(rate * seconds), 1)))


def recorded(times: Floats) -> Arrivals:
    """The arrivals of a trace (n,), with its bursts and lulls, and time scaled to the requested mean rate.

    If the trace is too short, it repeats; the seed decides where in the trace the excerpt begins.
    Raises UsageError for a trace with fewer than two different times.
    """
    moments = np.sort(np.asarray(times, dtype=np.float64))
    if moments.size < 2 or not np.isfinite(moments).all() or moments[-1] <= moments[0]:
        raise UsageError(
            "the trace has fewer than two different times",
            fix="give a CSV file with a column of times in seconds",
        )
    gaps = np.diff(moments)
    round_s = float(moments[-1] - moments[0]) + float(gaps.mean())

    def excerpt(rate: float, seconds: float, seed: int = 0) -> Floats:
        count = max(round(rate * seconds), 1)
        begin = int(np.random.default_rng(seed).integers(moments.size))
        at = begin + np.arange(count + 1)
        unrolled = moments[at % moments.size] + round_s * (at // moments.size)
        span = float(unrolled[-1] - unrolled[0])
        if span <= 0:
            return constant(rate, seconds)
        due = (unrolled[:-1] - unrolled[0]) * (seconds / span)
        return np.minimum(due, math.nextafter(seconds, 0.0))

    return excerpt


_EXAMPLE = "write for example http://127.0.0.1:8000/predict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The target of requests. `path` is empty if the URL has none."""

    host: str
    port: int
    path: str
    tls: bool

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def is_here(self) -> bool:
        """Whether it is this machine's loopback, by its name alone, without a lookup."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")

    def url(self) -> str:
        """The target as a URL."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"


def parse_target(text: str, *, allowed: Sequence[str] = ()) -> Target:
    """The target of a URL. Raises UsageError for an invalid URL, and for a host that is neither this machine nor `allowed`."""
    parts = _split(text)
    host = parts.hostname or ""
    target = Target(
        host=host,
        port=_port(text) or (443 if parts.scheme == "https" else 80),
        path=quote(parts.path, safe="/%:@!$&'()*+,;=-._~") + (f"?{parts.query}" if parts.query else ""),
        tls=parts.scheme == "https",
    )
    if not target.is_here and host not in allowed:
        raise UsageError(
            f"{host} is not this machine, and a load test can take down a service that others use",
            where=text,
            fix=f"if you own the service, or its owner agrees: --allow {host}",
        )
    return Target(
        host=target.host, port=target.port, path="" if target.path == "/" else target.path, tls=target.tls
    )


def request_bytes(target: Target, path: str, body: bytes, *, token: str = "") -> bytes:
    """A POST with a JSON body. Raises UsageError for an invalid path or token."""
    for name, value in (("path", path), ("token", token)):
        if any(not 32 < ord(letter) < 127 for letter in value):
            raise UsageError(
                f"the {name} has a character that is not valid in a {name}",
                fix="use printable ASCII characters without spaces",
            )
    if not path.startswith("/"):
        raise UsageError(f"--path {path} is not a path", fix=f"begin it with a slash: --path /{path}")
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {target.authority}",
        "content-type: application/json",
        "accept: */*",
        f"content-length: {len(body)}",
        *([f"authorization: Bearer {token}"] if token else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _split(text: str):  # noqa: ANN202 - urllib's own result
    if any(letter.isspace() or not letter.isprintable() for letter in text):
        raise UsageError(f"{text!r} is not a URL", fix=_EXAMPLE)
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise UsageError(f"{text!r} is not a URL: {error}", fix=_EXAMPLE) from error
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{text!r} has the unsupported scheme {parts.scheme}", fix=_EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{parts.hostname}: a URL must not contain a password, because process listings show it",
            fix="give a token with --token-file",
        )
    if not parts.hostname:
        raise UsageError(f"{text!r} has no host", fix=_EXAMPLE)
    return parts


def _port(text: str) -> int:
    port = _split(text).port
    if port == 0:
        raise UsageError(f"{text!r}: port 0 is not valid", fix=_EXAMPLE)
    return port or 0
