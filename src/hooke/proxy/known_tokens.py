"""The bearer tokens that the proxy's own threads know: whose requests they keep, or let change anything. Replicas decide who is answered."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Sequence

from hooke.base.errors import HookeError

__all__ = ["KnownTokens"]

EVERY_S, UNKNOWN_EVERY_S = 1.0, 0.05
"""Between two looks at the files of the tokens, and for a token that is not among them: it may be new."""


class KnownTokens:
    """Belongs to one thread."""

    def __init__(self, read: Callable[[], Sequence[str] | None]) -> None:
        """`read` returns the tokens of the service, or None if it needs none; it may raise HookeError."""
        self._read = read
        self._known: tuple[bytes, ...] | None = ()
        self._looked = 0.0

    def allow(self, authorization: bytes) -> bool:
        """Whether a request with this header has one of them. While they can't be read none has: the replicas say so."""
        self._look(EVERY_S)
        if self._has(authorization):
            return True
        self._look(UNKNOWN_EVERY_S)
        return self._has(authorization)

    def _look(self, every_s: float) -> None:
        now = time.monotonic()
        if now - self._looked < every_s:
            return
        self._looked = now
        try:
            tokens = self._read()
        except HookeError:
            tokens = ()
        self._known = None if tokens is None else tuple(token.encode() for token in tokens)

    def _has(self, authorization: bytes) -> bool:
        if self._known is None:
            return True
        scheme, _, shown = authorization.partition(b" ")
        # All are compared, so that the time tells nothing.
        equal = [hmac.compare_digest(shown.strip(), token) for token in self._known]
        return scheme.lower() == b"bearer" and any(equal)
