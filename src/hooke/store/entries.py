"""Entries (which recipe key has which object), and records that detect damage and forgery."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
from blake3 import blake3

from hooke.base.errors import StoreError
from hooke.base.ref import MadeFrom, Ref
from hooke.store.backend import Backend, Batching, ObjectSink, Putting, View

__all__ = ["MOST_VARIANTS", "Counts", "Entry", "Hit", "Records", "aside_of", "refs_of"]

_MARK = b"HKE1"
_CONTENT = len(_MARK) + 32
_SMALL = 1 << 20
"""Below this size, copying is cheaper than a second write."""

_TOGETHER = 1000
"""Records that are asked for together when all are read."""


MOST_VARIANTS = 16
"""Results of one key that were made from different observed inputs; the oldest are dropped."""

Counts: TypeAlias = Callable[[MadeFrom], bool]
"""Whether a result counts that was made from these observed inputs."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe key and its result, with task, run, seconds of work, and the time of the commit.

    With `items` it is a committed piece of a map: `key` is the map's recipe, `ref` a list of that many results,
    and `seconds` their time together. `made_from` is None for a result that read nothing but what its key names.
    """

    key: str
    ref: Ref
    task: str
    run: str
    seconds: float
    at: float
    items: int | None = None
    made_from: MadeFrom | None = None
    older: tuple[Entry, ...] = ()
    """Results of the same key from other observed inputs, the newest first; they have none in turn."""

    @property
    def variants(self) -> list[Entry]:
        """All results of the key, the newest first, each alone."""
        return [msgspec.structs.replace(self, older=()), *self.older] if self.older else [self]


def refs_of(entry: Entry) -> list[Ref]:
    """The result, and what it was made from: without one of them the entry is worth nothing."""
    made = entry.made_from
    manifests = () if made is None else (made.own, made.deep)
    files = [Ref(file.digest, file.size) for file in entry.ref.files if file.digest]
    return [entry.ref, *files, *(ref for ref in manifests if ref is not None)]


class Hit(NamedTuple):
    """Items `lo..hi` of a map are elements `start..` of the list object `ref`, all made from the same observed inputs."""

    lo: int
    hi: int
    ref: Ref
    start: int
    made_from: MadeFrom | None = None


class Records:
    """Small files in a backend: mark, blake3-256 of name and content (keyed with the secret if there is one), content.

    The checksum covers the name, so a record that was moved to another name counts as damaged.
    """

    def __init__(self, backend: Backend, secret: bytes | None) -> None:
        self._backend = backend
        self._putting = backend if isinstance(backend, Putting) else None
        self._secret = secret

    def write(self, name: str, content: bytes) -> None:
        """Make `name` hold `content`. Raises StoreFull."""
        head = _MARK + self._sum(name, content)
        if self._putting is not None and len(content) < _SMALL:
            self._putting.put(name, head + content)
            return

        def fill(sink: ObjectSink) -> str:
            if len(content) < _SMALL:
                sink.write(head + content)
            else:
                sink.write(head)
                sink.write(content)
            return name

        self._backend.write(fill, size=len(head) + len(content))

    def read(self, name: str) -> memoryview | None:
        """The content; None if there is none.

        A damaged record moves to `corrupt/` and counts as missing, so its results are computed again. With a secret,
        damage looks like forgery and raises StoreError, except in a record that a power loss cut short.
        """
        return self._checked(name, self._backend.read(name))

    def read_many(self, names: Sequence[str]) -> list[memoryview | None]:
        """What `read` gives for each name, asked for together where that takes fewer round trips."""
        if isinstance(self._backend, Batching):
            views = self._backend.read_many(names)
            return [self._checked(name, view) for name, view in zip(names, views, strict=True)]
        return [self.read(name) for name in names]

    def each(self, names: Iterable[str]) -> Iterator[tuple[str, memoryview]]:
        """Name and content of each that is there, a thousand asked for together."""
        wanted = list(names)
        for at in range(0, len(wanted), _TOGETHER):
            some = wanted[at : at + _TOGETHER]
            for name, content in zip(some, self.read_many(some), strict=True):
                if content is not None:
                    yield name, content

    def _checked(self, name: str, view: View | None) -> memoryview | None:
        if view is None:
            return None
        content = self._opened(name, view.data)
        if content is not None:
            return content
        if self._secret is not None and len(view.data) >= _CONTENT:
            raise _unsigned(name, self._backend.place)
        self._backend.remove(name, aside=aside_of(name))
        return None

    def sound(self, name: str) -> bool:
        """Whether the record is intact or gone."""
        view = self._backend.read(name)
        return view is None or self._opened(name, view.data) is not None

    def _opened(self, name: str, data: memoryview) -> memoryview | None:
        content = data[_CONTENT:]
        sound = data[: len(_MARK)] == _MARK and data[len(_MARK) : _CONTENT] == self._sum(name, content)
        return content if sound else None

    def _sum(self, name: str, content: bytes | memoryview) -> bytes:
        return _hasher(self._secret).update(name.encode() + b"\0").update(content).digest()


def aside_of(name: str) -> str:
    """The name to which a damaged one is moved."""
    return f"corrupt/{name.replace('/', '-')}"


def _hasher(secret: bytes | None) -> blake3:
    return blake3(key=secret) if secret is not None else blake3()


def _unsigned(name: str, place: str) -> StoreError:
    return StoreError(
        f"cannot trust the record {name}: it is damaged, or not signed with this project's secret",
        where=place,
        why="without signatures, anybody who can write to a shared store could forge the results of others",
        fix="give all projects that share this store the same secret, or remove the record",
        next="hooke cache rm " + name.rpartition("/")[2],
    )
