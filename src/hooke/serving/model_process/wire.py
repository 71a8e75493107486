"""Messages between a replica and the process of its model: pickles over a socket, or in shared memory if they are large."""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["WireFrame", "WireLink"]

INLINE = 64 << 10
"""The largest message through the socket: it fits the socket's buffer, so that neither end waits for the other."""
KEEP = 16 << 20
"""Bytes of shared memory that are kept between messages."""
_HEAD = struct.Struct("<IIQ")
"""Number of buffers, whether the message is in shared memory, bytes of the pickle; then the bytes of each buffer."""
_PICKLE = 5


@dataclass(frozen=True, slots=True)
class WireFrame:
    """A received message, not read yet."""

    lengths: tuple[int, ...]
    """Of the pickle, and of each buffer."""
    inline: bytes | None
    """None: the message is in shared memory."""


class WireLink:
    """One end. `outgoing` and `incoming` are descriptors of shared memory, which it owns.

    A large message must be read before the other end packs its next large one: a request waits for its answer.
    """

    def __init__(self, outgoing: int, incoming: int) -> None:
        self._outgoing = _Shared(outgoing)
        self._incoming = _Shared(incoming)
        self._received = bytearray()

    def packed(self, message: Any) -> bytes:
        """The bytes to send through the socket for a message. Raises what pickling it raises."""
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(message, _PICKLE, buffer_callback=buffers.append)
        if not buffers and len(data) <= INLINE:
            return _HEAD.pack(0, False, len(data)) + data
        parts = [memoryview(data), *(buffer.raw() for buffer in buffers)]
        lengths = [len(part) for part in parts]
        large = sum(lengths) > INLINE
        if large:
            self._outgoing.write(parts, sum(lengths))
        head = _HEAD.pack(len(buffers), large, lengths[0]) + struct.pack(f"<{len(buffers)}Q", *lengths[1:])
        return head if large else b"".join([head, *parts])

    def feed(self, data: bytes) -> list[WireFrame]:
        """The messages that these bytes complete."""
        self._received += data
        frames: list[WireFrame] = []
        while (frame := self._frame()) is not None:
            frames.append(frame)
        return frames

    def read(self, frame: WireFrame) -> Any:
        """The message. Its arrays are its own, and writable. Raises what unpickling raises."""
        if frame.inline is not None:
            return _unpickled(memoryview(frame.inline), frame.lengths)
        total = sum(frame.lengths)
        try:
            with self._incoming.view(total) as view:
                return _unpickled(view, frame.lengths)
        finally:
            self._incoming.release(total)

    def close(self) -> None:
        """Release the memory."""
        self._outgoing.close()
        self._incoming.close()

    def _frame(self) -> WireFrame | None:
        received = self._received
        if len(received) < _HEAD.size:
            return None
        buffers, large, first = _HEAD.unpack_from(received)
        start = _HEAD.size + 8 * buffers
        if len(received) < start:
            return None
        lengths = (first, *struct.unpack_from(f"<{buffers}Q", received, _HEAD.size))
        end = start if large else start + sum(lengths)
        if len(received) < end:
            return None
        frame = WireFrame(lengths, None if large else bytes(received[start:end]))
        del received[:end]
        return frame


def _unpickled(view: memoryview, lengths: Sequence[int]) -> Any:
    ends = list(itertools.accumulate(lengths))
    with view[: ends[0]] as data:
        if len(ends) == 1:
            return pickle.loads(data)
        # Copied: the other end's next message must not change these arrays.
        return pickle.loads(
            data, buffers=[bytearray(view[start:end]) for start, end in itertools.pairwise(ends)]
        )


class _Shared:
    """Memory behind a descriptor, which one process writes and the other reads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()

    def write(self, parts: Sequence[memoryview], total: int) -> None:
        with self._lock:  # another thread may close it, and its descriptor may then be another file's
            if self._fd < 0:
                raise ValueError("the other process has ended")
            self._write(parts, total)

    def _write(self, parts: Sequence[memoryview], total: int) -> None:
        if self._map is None or len(self._map) < total or total > KEEP:
            # The reader may have shrunk it since.
            os.ftruncate(self._fd, max(total, len(self._map) if self._map is not None else 0))
        mapped = self._mapped(total)
        at = 0
        for part in parts:
            mapped[at : at + len(part)] = part
            at += len(part)

    def view(self, total: int) -> memoryview:
        return memoryview(self._mapped(total))[:total]

    def release(self, total: int) -> None:
        """The message is read: return a large one's pages to the system."""
        if total > KEEP:
            os.ftruncate(self._fd, KEEP)

    def close(self) -> None:
        with self._lock:
            self._map = None
            os.close(self._fd)
            self._fd = -1

    def _mapped(self, total: int) -> mmap.mmap:
        if self._map is None or len(self._map) < total:
            self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        return self._map
