"""A backend in this process's memory, for simulations and tests."""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import StoreFull
from hooke.base.files import page_aligned_copy
from hooke.base.formats import format_bytes
from hooke.store.backend import Fill, Stored, View

__all__ = ["MemoryBackend"]


@dataclass(slots=True)
class _File:
    data: memoryview
    stamp: bytes
    used: float


class MemoryBackend:
    """Names in a dictionary. `capacity` is the room in bytes.

    While `reading_fails` or `writing_fails` is set to an exception, reads or writes raise it.
    """

    notes_use = True

    def __init__(self, *, clock: Clock | None = None, capacity: int | None = None) -> None:
        self.place = "memory"
        self.capacity = capacity
        self.reading_fails: Exception | None = None
        self.writing_fails: Exception | None = None
        self._clock = clock or SystemClock()
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()
        self._stamps = itertools.count(1)

    def write(self, fill: Fill, *, size: int = 0, exclusive: bool = False) -> bytes | None:
        """See Backend."""
        if self.writing_fails is not None:
            raise self.writing_fails
        sink = _Pieces()
        name = fill(sink)
        data = b"".join(sink)
        with self._lock:
            if exclusive and name in self._files:
                return None
            self._check_room(name, max(size, len(data)))
            stamp = struct.pack("<Q16x", next(self._stamps))
            self._files[name] = _File(_placed(data), stamp, self._clock.now())
        return stamp

    def read(self, name: str, *, fresh: bool = False) -> View | None:  # noqa: ARG002 the protocol's
        """See Backend. `fresh` has no effect: there are no copies."""
        if self.reading_fails is not None:
            raise self.reading_fails
        file = self._files.get(name)
        return View(file.data, file.stamp) if file is not None else None

    def sync(self, names: Sequence[str] = (), *, wait: bool = True) -> None:
        """See Backend. Does nothing: memory survives no power loss."""

    def touch(self, names: Sequence[str]) -> list[int | None]:
        """See Backend."""
        return [self._touch(name) for name in names]

    def _touch(self, name: str) -> int | None:
        with self._lock:
            file = self._files.get(name)
            if file is not None:
                file.used = self._clock.now()
        return len(file.data) if file is not None else None

    def list(self, prefix: str) -> Iterator[Stored]:
        """See Backend."""
        with self._lock:
            found = [(name, file) for name, file in self._files.items() if name.startswith(prefix)]
        for name, file in found:
            yield Stored(name, len(file.data), file.used)

    def remove(self, name: str, *, unused_since: float | None = None, aside: str | None = None) -> bool:
        """See Backend."""
        with self._lock:
            file = self._files.get(name)
            if file is None or (unused_since is not None and file.used >= unused_since):
                return False
            del self._files[name]
            if aside is not None:
                self._files[aside] = file
        return True

    def rot(self, name: str, data: bytes | bytearray) -> None:
        """Replace the bytes under `name` as a failing disk does: nothing else changes."""
        with self._lock:
            self._files[name].data = _placed(bytes(data))

    def _check_room(self, name: str, size: int) -> None:
        taken = sum(len(file.data) for other, file in self._files.items() if other != name)
        if self.capacity is not None and taken + size > self.capacity:
            raise StoreFull(
                f"no room in the store for {format_bytes(size)} ({size} bytes)",
                where=self.place,
                why=f"{format_bytes(self.capacity - taken)} free of {format_bytes(self.capacity)}",
                fix="remove results that are cheap to recompute",
                next="hooke cache gc",
            )


def _placed(data: bytes) -> memoryview:
    # Records are small and hold no arrays; an object's arrays need alignment.
    return memoryview(data) if len(data) <= 4096 else page_aligned_copy(data)


class _Pieces(list[bytes]):
    def write(self, data: bytes | memoryview) -> int:
        self.append(bytes(data))
        return len(data)
