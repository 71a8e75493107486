"""What is looked at before every route: for whom the request was meant, and from which page it comes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hooke.serving.problems import Problem

__all__ = ["Gate", "Headers", "too_large"]

LOOPBACK = frozenset({b"127.0.0.1", b"localhost", b"[::1]"})
JSON = b"application/json"


@dataclass(slots=True)
class Headers:
    """The headers that matter here; None where there is none."""

    host: bytes | None = None
    origin: bytes | None = None
    content_type: bytes | None = None
    length: bytes = b"0"

    @classmethod
    def of(cls, raw: Iterable[tuple[bytes, bytes]]) -> Headers:
        """From ASGI's list, whose names are in lower case. Raises Problem (400) for two hosts."""
        found = cls()
        for name, value in raw:
            if name == b"host":
                if found.host is not None:
                    raise Problem(400, "there are two Host headers")
                found.host = value
            elif name == b"content-type":
                found.content_type = value
            elif name == b"content-length":
                found.length = value
            elif name == b"origin":
                found.origin = value
        return found

    def check_body(self, limit: int) -> None:
        """Raises Problem: 415 where the body is not said to be JSON, 413 where it is said to be longer than `limit` bytes."""
        said = self.content_type
        if said is None:
            raise Problem(415, "nothing says what the body is; send content-type: application/json")
        if said != JSON and said.partition(b";")[0].strip().lower() != JSON:
            shown = said[:80].decode("latin-1")
            raise Problem(415, f"the body is said to be {shown}; send content-type: application/json")
        if not self.length.isdigit() or int(self.length) > limit:
            raise too_large(limit)


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets requests through for these hosts alone, and from pages of the same address alone.

    A page elsewhere cannot make a browser send a request to a loopback address: its `Origin` is another, and a name that was
    made to mean 127.0.0.1 is no known `Host`.
    """

    hosts: frozenset[bytes] = LOOPBACK

    def check(self, headers: Headers) -> None:
        """Raises Problem: 400 where there is no Host, 403 where it or the Origin is not of this service."""
        host = headers.host
        if host is None:
            raise Problem(400, "there is no Host header")
        if _without_port(host) not in self.hosts:
            raise Problem(403, "the Host is not one of this service")
        if headers.origin is not None and headers.origin != b"http://" + host:
            raise Problem(403, "the Origin is not of this service")


def too_large(limit: int) -> Problem:
    """For a body of more than `limit` bytes."""
    return Problem(413, f"the body is larger than {limit} bytes")


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.lower().rpartition(b":")
    return name if colon and port.isdigit() else host.lower()
