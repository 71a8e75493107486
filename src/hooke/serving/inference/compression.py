"""Bodies that come or go compressed: gzip and deflate, within a limit and off the event loop."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

from hooke.serving.problems import Problem

__all__ = ["CODINGS", "compressed", "expanded", "wish"]

CODINGS = {b"gzip": 31, b"deflate": zlib.MAX_WBITS}
"""Codings of HTTP that are known, and what zlib calls them: `deflate` is zlib's own format."""
AT_ONCE = 4 << 10
"""Bytes that are done on the event loop: a thread costs more."""
LEAST = 1 << 10
"""Bytes of an answer below which compressing it gains nothing."""
FAST = 1
"""zlib's level: numbers hardly shrink further, and take ten times the time."""


def wish(accepted: bytes | None) -> bytes | None:
    """The coding that an Accept-Encoding asks for: where it names one and nothing else.

    What only lists all that a client could read, as most do unasked, is no wish: on a fast network compressing costs more.
    """
    named = accepted.strip().lower() if accepted is not None else b""
    return named if named in CODINGS else None


async def expanded(body: bytes, coding: bytes, limit: int) -> bytes:
    """The body as it was before it was compressed.

    Raises Problem: 415 for a coding that is not known, 413 where it is more than `limit` bytes, 400 where it is broken.
    """
    if coding not in CODINGS:
        shown = coding[:80].decode("latin-1")
        raise Problem(415, f"the body is coded as {shown}; send it as it is, or as gzip or deflate")
    return await _off_loop(len(body), _expand, body, coding, limit)


async def compressed(body: bytes, coding: bytes) -> bytes | None:
    """The body in this coding; None where that is not worth it."""
    return await _off_loop(len(body), _compress, body, coding) if len(body) >= LEAST else None


async def _off_loop(size: int, function: Any, *arguments: Any) -> Any:
    return function(*arguments) if size <= AT_ONCE else await asyncio.to_thread(function, *arguments)


def _expand(body: bytes, coding: bytes, limit: int) -> bytes:
    machine = zlib.decompressobj(CODINGS[coding])
    try:
        made = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise Problem(400, f"the body is no {coding.decode()}: {error}") from None
    if len(made) > limit:
        raise Problem(413, f"the body is larger than {limit} bytes when it is expanded")
    if not machine.eof or machine.unused_data:
        fault = "more comes after its end" if machine.eof else "its end is missing"
        raise Problem(400, f"the body is no {coding.decode()}: {fault}")
    return made


def _compress(body: bytes, coding: bytes) -> bytes:
    return gzip.compress(body, FAST) if coding == b"gzip" else zlib.compress(body, FAST)
