"""How a stream of tokens goes on on another replica: what the replica marks in it, and what the next one is told.

A replica that is asked to, by RESUMABLE_HEADER, ends each group of events that a token made with a mark, a comment that no client ever sees:
`: INDEX TOKEN` for the token that was chosen for an answer. Its answer has RESUMABLE_HEADER, too, with whatever the next replica must know. The
proxy passes on whole groups only. When the replica ends, the next one gets the same request, and in a `ResumedStream` behind the body all
tokens whose events the client has: it computes what comes after them, and sends no event twice.
"""

from __future__ import annotations

import msgspec

__all__ = ["MARK", "ResumedStream", "StreamOrigin", "mark", "read_resumed", "resumed_body", "take_marks"]

MARK = b": "
"""What marks begin with; no event of the protocol does."""
_END = b"\n\n"


class ResumedStream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a replica must know of a stream that began on another one."""

    told: str
    """The value of RESUMABLE_HEADER in the first answer."""
    tokens: list[tuple[int, int]]
    """Those whose events the client has, in order, each with the number of its answer."""


class StreamOrigin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the first replica of a stream tells all later ones, as JSON: nobody else reads it."""

    version: str
    """Of its code and weights: an answer is of one version, from its beginning to its end."""
    created: int
    """When the request came, in seconds since 1970, as all events say."""
    cached: int | None = None
    """Tokens of the prompts that were in its memory; None if not all of them had begun."""


def mark(index: int, token: int) -> bytes:
    """The end of the events that this token made in the answer of this number."""
    return b": %d %d\n\n" % (index, token)


def take_marks(data: bytes, tokens: list[tuple[int, int]]) -> tuple[bytes, bytes]:
    """Events up to the last mark, without the marks, whose tokens are added to `tokens`; and the rest of `data`.

    Raises ValueError for a mark that is none.
    """
    at, parts = 0, list[bytes]()
    while (found := _find(data, at)) >= 0:
        ends = data.find(_END, found)
        if ends < 0:
            break
        index, token = data[found + len(MARK) : ends].split(b" ")
        tokens.append((int(index), int(token)))
        parts.append(data[at:found])
        at = ends + len(_END)
    return b"".join(parts), data[at:]


def _find(data: bytes, at: int) -> int:
    """Where the next mark begins, at the beginning of a block; -1 without one."""
    if data.startswith(MARK, at):
        return at
    found = data.find(_END + MARK, at)
    return found + len(_END) if found >= 0 else -1


def resumed_body(body: bytes, stream: ResumedStream) -> tuple[bytes, int]:
    """The body of the request to the next replica, and the value of RESUMED_HEADER."""
    told = msgspec.json.encode(stream)
    return body + told, len(told)


def read_resumed(body: bytes, size: bytes) -> tuple[bytes, ResumedStream]:
    """The client's own body, and what goes before its answer. `size`: the value of RESUMED_HEADER. Raises ValueError."""
    count = int(size)
    if not 0 < count <= len(body):
        raise ValueError("the size of the resumed stream is not that of the body")
    return body[:-count], msgspec.json.decode(body[-count:], type=ResumedStream)
