"""The bytes that stand for a value before they are hashed: self-delimiting, type-tagged, injective.

Every encoding starts with a byte that says what follows and carries its own length, so encodings can be joined.
A compound names its kind, counts its children and joins their encodings; what grows past 64 bytes is replaced by
its digest, which depends on the content alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from blake3 import blake3

__all__ = ["Encoder", "NoKey", "Walk", "compound", "digest", "raw", "shrink", "text"]

SHORT = 64
"""Encodings up to this many bytes stand for themselves: a digest of 33 bytes would gain nothing."""


class NoKey(Exception):
    """A value without an honest key; `path` is filled from the inside out while it passes the containers."""

    def __init__(self, value: object, why: str, mend: str = "") -> None:
        super().__init__(why)
        self.kind = type(value)
        self.why = why
        self.mend = mend
        self.path: list[str] = []


class Walk(Protocol):
    """What an encoder may ask of the walk that called it. Each method raises NoKey with the path so far."""

    def encode(self, value: object) -> bytes:
        """The encoding of any value."""
        ...

    def items(self, values: Iterable[object]) -> list[bytes]:
        """The encodings of values at the places [0], [1], ..."""
        ...

    def fields(self, pairs: Iterable[tuple[str, object]]) -> list[bytes]:
        """The encodings of named attributes, each name before its value, in the order given."""
        ...

    def unordered(self, values: Iterable[object]) -> list[bytes]:
        """The encodings of values in an order that the content decides."""
        ...

    def pairs(self, pairs: Iterable[tuple[object, object]]) -> list[bytes]:
        """The encodings of a mapping's items, one entry an item, in an order that the content decides."""
        ...

    def code(self, target: object) -> bytes:
        """The encoding of a function, class or module by what it would run."""
        ...


Encoder = Callable[[Walk, Any], bytes]


def raw(data: bytes) -> bytes:
    """Bytes as they are."""
    return b"b" + len(data).to_bytes(8, "little") + data


def text(data: str) -> bytes:
    """Text, lone surrogates included."""
    encoded = data.encode("utf-8", "surrogatepass")
    return b"s" + len(encoded).to_bytes(8, "little") + encoded


def compound(kind: bytes, children: Iterable[bytes]) -> bytes:
    """A kind (at most 255 bytes) and its children, each an encoding."""
    parts = list(children)
    return b"(%c%b%b%b" % (len(kind), kind, len(parts).to_bytes(8, "little"), b"".join(parts))


def digest(*buffers: Any) -> bytes:
    """The content of C-contiguous buffers as if they were joined, by length and digest: for large data."""
    hasher, size = blake3(), 0
    for buffer in buffers:
        view = memoryview(buffer).cast("B") if memoryview(buffer).nbytes else memoryview(b"")
        size += view.nbytes
        hasher.update(view)
    return b"h" + size.to_bytes(8, "little") + hasher.digest(length=32)


def shrink(encoding: bytes) -> bytes:
    """The encoding itself while it is short, else its digest."""
    return encoding if len(encoding) <= SHORT else b"#" + blake3(encoding).digest(length=32)
