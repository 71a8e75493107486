"""What the store asks of the place that its bytes lie in. One backend, one file of `backends/`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

__all__ = ["Backend", "Fill", "ObjectSink", "Stored", "View", "hidden_as"]


class ObjectSink(Protocol):
    """Where the bytes of a new name go."""

    def write(self, data: bytes | memoryview, /) -> Any:
        """Take all of `data`."""
        ...


Fill: TypeAlias = Callable[[ObjectSink], str]
"""Writes all bytes into the sink that it is given, then says the name that they are to have."""


class View(NamedTuple):
    """The bytes under a name. `stamp` is another one whenever they may have been changed since."""

    data: memoryview
    stamp: bytes


class Stored(NamedTuple):
    """A name that is there, the bytes under it, and when it was last used (seconds since the epoch)."""

    name: str
    size: int
    used: float


def hidden_as(name: str) -> str:
    """How the name begins that an object has for the moment in which `remove` decides whether it was used."""
    return f"tmp/hidden-{name.replace('/', '-')}-"


class Backend(Protocol):
    """Bytes under names such as `objects/ab/abcd...`: each name whole or absent, seen by every process that shares the place.

    Names are of letters, digits, `.`, `-`, `_` and `/`. What lies under `objects/` is never rewritten with other
    bytes, so a backend may keep copies of it near. A name is *used* when it is written and when it is touched.
    All methods are safe to call from any thread and any process at once.
    """

    place: str
    """Where it is, for messages."""
    near: Path | None
    """A folder for notes about what this host has read; None: nowhere."""
    notes_use: bool
    """Whether `touch` makes a name used. Where it does not, nothing is evicted while any run is live."""

    def write(self, fill: Fill, *, size: int = 0, exclusive: bool = False) -> bytes | None:
        """Store what `fill` writes under the name that it returns; returns the new stamp.

        The name appears with all its bytes at once, replacing what was there; a writer that dies or raises leaves
        nothing visible. When it returns, the death of any process loses nothing. A power loss takes at most the last
        second before it; of a writer that had ended by then, what the system had not written back by itself.
        With `exclusive` an existing name is left alone, and None is returned: of several writers one succeeds.
        Raises StoreFull (`size` is what will be needed, for its message), and what `fill` raises.
        """
        ...

    def read(self, name: str, *, fresh: bool = False) -> View | None:
        """The bytes under `name`, mapped where the place allows it; None when there are none.

        They stay as they are for as long as the view lives, whatever happens to the name. With `fresh` no copy kept
        near is used.
        """
        ...

    def touch(self, names: Sequence[str]) -> list[bool]:
        """Mark the names as used now, to the minute; says which of them are there."""
        ...

    def list(self, prefix: str) -> Iterator[Stored]:
        """What lies under `prefix` (which ends in `/`), in no order. May miss or show what changes meanwhile."""
        ...

    def remove(self, name: str, *, unused_since: float | None = None, aside: str | None = None) -> bool:
        """Remove `name`, or with `aside` rename it to that; returns whether it was there and is gone.

        With `unused_since` it stays if it was used at that time or later, also if that happens during the call. Until that
        is decided it may lie under a name that begins with `hidden_as(name)`.
        """
        ...
