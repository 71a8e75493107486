"""Recipe keys from labelled parts."""

from __future__ import annotations

from blake3 import blake3

__all__ = ["Key", "combine", "frame"]

Key = str
"""32 hex characters: the first 128 bits of a BLAKE3 digest."""


def frame(part: str | int | bytes) -> bytes:
    """A part with its type and length before it, so that parts can be joined and still be told apart."""
    if isinstance(part, str):
        data, tag = part.encode("utf-8", "surrogatepass"), b"s"
    elif isinstance(part, bytes):
        data, tag = part, b"b"
    else:
        data, tag = b"%d" % part, b"i"
    return tag + len(data).to_bytes(8, "little") + data


def combine(label: str, *parts: str | int | bytes) -> Key:
    """The key of ordered parts under a label; another label, order, split or type of a part is another key."""
    return blake3(b"".join(map(frame, (label, *parts)))).hexdigest(length=16)
