"""Which objects this host has read in full: a file of notes that its processes share, so that each is hashed once."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hooke.base.files import write_all

__all__ = ["Seen"]

_RECORD = 32 + 24
"""Digest and stamp, both as raw bytes; a file is records, back to back."""

_MOST_BYTES = 64 << 20
"""A million notes; then the file begins anew, and what is read is hashed once more."""


class Seen:
    """Objects whose digest was checked, each by digest (32 bytes) and the stamp (24 bytes) that it had then.

    An object whose bytes may have changed since has another stamp, so it is checked again. `folder` is this host's
    or shared by hosts, each with a file of its own; without a folder the notes live in this process alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / f"seen-{os.uname().nodename}" if folder else None
        self._known: set[bytes] = set()
        self._read = 0

    def has(self, digest: bytes, stamp: bytes) -> bool:
        """Whether the object was checked with this stamp."""
        note = digest + stamp
        if note in self._known:
            return True
        self._catch_up()
        return note in self._known

    def add(self, digest: bytes, stamp: bytes) -> None:
        """Note that it was. Nothing is raised when there is no room: then it is checked again some day."""
        note = digest + stamp
        self._known.add(note)
        if self._path is None or len(note) != _RECORD:
            return
        with suppress(OSError):
            self._append(note)

    def _append(self, note: bytes) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            # A record cut short on a full disk would shift all after it, so it is cut off.
            size = os.fstat(fd).st_size
            if size % _RECORD or size > _MOST_BYTES:
                os.truncate(fd, size - size % _RECORD if size <= _MOST_BYTES else 0)
            write_all(fd, note)
        finally:
            os.close(fd)

    def _catch_up(self) -> None:
        if self._path is None:
            return
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            size = os.fstat(fd).st_size
            data = os.pread(fd, size - self._read, self._read) if size > self._read else b""
        finally:
            os.close(fd)
        whole = len(data) - len(data) % _RECORD
        self._known.update(data[at : at + _RECORD] for at in range(0, whole, _RECORD))
        self._read += whole
