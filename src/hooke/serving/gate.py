"""What is looked at before every route: for whom the request was meant, and from which page it comes."""

from __future__ import annotations

from dataclasses import dataclass

from hooke.serving.exchange import Exchange
from hooke.serving.problems import Problem

__all__ = ["Gate"]

LOOPBACK = frozenset({b"127.0.0.1", b"localhost", b"[::1]"})
_ONCE = frozenset({b"authorization", b"content-length", b"content-type", b"host", b"origin"})
"""Headers of which two would mean two things."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets requests through for these hosts alone, and from pages of the same address alone.

    A page elsewhere cannot make a browser send a request to a loopback address: its `Origin` is another, and a name that was
    made to mean 127.0.0.1 is no known `Host`.
    """

    hosts: frozenset[bytes] = LOOPBACK

    def check(self, exchange: Exchange) -> None:
        """Raises Problem: 400 where there is not one Host, 403 where it or the Origin is not of this service."""
        headers = exchange.headers
        if len(headers) != len(exchange.raw):
            _refuse_repeated(exchange)
        host = headers.get(b"host")
        if host is None:
            raise Problem(400, "there is no Host header")
        if _without_port(host) not in self.hosts:
            raise Problem(403, "the Host is not one of this service")
        origin = headers.get(b"origin")
        if origin is not None and origin != b"http://" + host:
            raise Problem(403, "the Origin is not of this service")


def _refuse_repeated(exchange: Exchange) -> None:
    seen: set[bytes] = set()
    for name, _ in exchange.raw:
        if name in seen and name in _ONCE:
            raise Problem(400, f"there are two {name.decode().title()} headers")
        seen.add(name)


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.lower().rpartition(b":")
    return name if colon and port.isdigit() else host.lower()
