"""The protocol between the store and its backends, which are in `backends/`, one file each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from hooke.base.errors import HookeError, StoreUnavailable

__all__ = [
    "Backend",
    "Batching",
    "Fill",
    "Gathering",
    "KeepsOpen",
    "Learnt",
    "ObjectSink",
    "Packing",
    "Putting",
    "Refreshing",
    "Stored",
    "Torn",
    "View",
    "as_of_now",
    "gathering",
    "hidden_as",
    "joined",
    "reaching",
]


class ObjectSink(Protocol):
    """Receives the bytes of a new name."""

    def write(self, data: bytes | memoryview, /) -> Any:
        """Take all of `data`."""
        ...


Fill: TypeAlias = Callable[[ObjectSink], str]
"""Writes all bytes into the given sink, then returns their name."""


class View(NamedTuple):
    """The bytes under a name. `stamp` differs whenever they, or when they were last used, may have changed since."""

    data: memoryview
    stamp: bytes
    ours: bool = True
    """Whether only this user and root can change the bytes while the view lives."""


class Stored(NamedTuple):
    """An existing name, the size of its bytes, and when it was last used (seconds since the epoch)."""

    name: str
    size: int
    used: float


class Torn(NamedTuple):
    """Bytes `start` to `end` of a file that are no record: of a write that was cut off, or (not `at_end`) damaged."""

    path: str
    start: int
    end: int
    at_end: bool


def hidden_as(name: str) -> str:
    """The prefix of an object's temporary name while `remove` decides whether it was used."""
    return f"tmp/hidden-{name.replace('/', '-')}-"


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """Raise StoreUnavailable for exceptions of a backend's library inside."""
    try:
        yield
    except HookeError:
        raise
    except Exception as error:  # each library has its own
        raise StoreUnavailable(
            "the store did not answer as it should",
            where=place,
            why=f"{type(error).__name__}: {error}",
            fix="see that this machine reaches the store and may read and write there, then resume the run; "
            "`retries=` on a task tries it again by itself",
            next="hooke doctor",
        ) from error


class Backend(Protocol):  # six methods: when bytes are on the disk is a guarantee of its own
    """Bytes under names such as `objects/ab/abcd...`: each name whole or absent, seen by every process that shares the place.

    Names have letters, digits, `.`, `-`, `_` and `/`. Names under `objects/` are never rewritten with other bytes, so
    a backend may keep local copies of them. A name is *used* when it is written and when it is touched.
    All methods are safe to call from all threads and processes at once. They raise StoreUnavailable if the place does
    not answer.
    """

    place: str
    """Its location, for messages."""
    notes_use: bool
    """Whether `touch` records a use. If not, nothing is evicted while any run is live."""

    def write(self, fill: Fill, *, size: int = 0, exclusive: bool = False) -> bytes | None:
        """Store what `fill` writes under the name that it returns; returns the new stamp.

        The name appears with all its bytes at once and replaces an earlier one; a writer that dies or raises leaves
        nothing visible. After the return, the death of any process loses nothing. When the name survives a power loss
        too depends on the backend's durability; with "group" a process that ends must call `sync` before.
        With `exclusive`, an existing name stays and the result is None: one of several writers succeeds.
        Raises StoreFull (`size` is the estimate for its message), StoreError if the disk did not confirm this or an
        earlier write, and the exceptions of `fill`.
        """
        ...

    def sync(self, names: Sequence[str] = (), *, wait: bool = True) -> None:
        """Return when `names`, and all that was written here, survive a power loss; without `wait`, begin with that.

        The names may be those that other processes of this host wrote. Names that are gone are skipped. Does nothing
        with the durability "none". Raises StoreError if the disk does not confirm it, or did not confirm an earlier write.
        """
        ...

    def read(self, name: str, *, fresh: bool = False) -> View | None:
        """The bytes under `name`, mapped if the backend can; None if there are none.

        They stay unchanged while the view lives, whatever happens to the name. With `fresh` no local copy is used.
        """
        ...

    def touch(self, names: Sequence[str]) -> list[int | None]:
        """Mark the names as used now, to the minute; returns the size in bytes of each, None for those that do not exist."""
        ...

    def list(self, prefix: str) -> Iterator[Stored]:
        """The names under `prefix` (which ends in `/`), in no order. May miss or include names that change meanwhile."""
        ...

    def remove(self, name: str, *, unused_since: float | None = None, aside: str | None = None) -> bool:
        """Remove `name`, or rename it to `aside`; returns whether it existed and is gone.

        With `unused_since` it stays if it was used at that time or later, even during the call. Until that is decided
        it may have a name that begins with `hidden_as(name)`.
        """
        ...


@runtime_checkable
class Gathering(Protocol):
    """A backend that writes many names at once for less."""

    def together(self) -> AbstractContextManager[None]:
        """Inside, what this thread writes under packed names is kept, and at the end it is written at once.

        This thread sees it before, others do after. Raises at the end what `write` raises.
        """
        ...


@runtime_checkable
class Refreshing(Protocol):
    """A backend that answers at once, and for less where it need not see what others write meanwhile."""

    def refreshed(self) -> AbstractContextManager[None]:
        """Inside, this thread finds what was there at the beginning, and what it writes itself; what others write later it may not."""
        ...

    def lacking(self, names: Sequence[str]) -> list[bool]:
        """Whether each name certainly has no bytes. False where `read` must say, as outside of `refreshed`."""
        ...


def gathering(backend: Backend) -> AbstractContextManager[None]:
    """The backend's `together`, if it has one."""
    return backend.together() if isinstance(backend, Gathering) else nullcontext()


@runtime_checkable
class Putting(Protocol):
    """A backend that takes bytes which are there already for less than those that a function writes."""

    def put(self, name: str, data: bytes) -> None:
        """Write the bytes under the name. Raises what `write` raises."""
        ...


@dataclass(slots=True)
class Learnt:
    """What a thread knows of a place, as far as it has asked. It may be handed to another thread, which then need not ask."""

    packs: bool = False
    """Whether it has looked for new packs."""
    sizes: dict[str, int | None] = field(default_factory=dict)
    """Of files, in bytes; None for those that are not there."""


def joined(parts: Iterable[Learnt | None]) -> Learnt | None:
    """What is known by these, each of its own names; None if it is nothing. Of packs only what all know: one may be older than another."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    sizes = {name: size for part in known for name, size in part.sizes.items()}
    return Learnt(packs=all(part.packs for part in known), sizes=sizes)


@runtime_checkable
class Batching(Protocol):
    """A backend where a request takes long, so that many names are asked after together."""

    def read_many(self, names: Sequence[str]) -> list[View | None]:
        """What `read` gives for each name, in as few round trips as the place allows."""
        ...

    def as_of_now(self, learnt: Learnt | None = None) -> AbstractContextManager[Learnt]:
        """Inside, what this thread has read or touched once it takes to be so, and does not ask for again; what it writes it sees.

        It begins with what was `learnt`, and adds what it learns to what it gives.
        """
        ...


def as_of_now(backend: Backend) -> AbstractContextManager[Learnt | None]:
    """The backend's `as_of_now`, if it has one."""
    return backend.as_of_now() if isinstance(backend, Batching) else nullcontext()


@runtime_checkable
class Packing(Protocol):
    """A backend that keeps many names in one file, so that the room of a removed one is not free at once."""

    def torn(self) -> Iterator[Torn]:
        """Bytes of such files that belong to no name, though no process is writing them."""
        ...

    def about(self) -> int:
        """About how many names there are in such files, told at once. Names that are files are not among them."""
        ...

    def newest(self, prefixes: Sequence[str]) -> Iterator[str]:
        """The names in such files with these prefixes, the last written first; after a merge, nearly so."""
        ...

    def compact(self) -> None:
        """Free the room of removed names and of torn bytes. What is damaged goes to `corrupt/`. Raises StoreError."""
        ...


@runtime_checkable
class KeepsOpen(Protocol):
    """A part of a store that keeps files open between two calls."""

    def close_files(self) -> None:
        """Close those that are not in use. The next call opens them again."""
        ...
