"""Messages between a replica and the process of its model: pickles over a socket, or, where they are large, in memory that both have mapped."""

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
"""Bytes of a message that go through the socket: what fits its buffer, so that neither end waits for the other."""
KEEP = 16 << 20
"""Bytes of shared memory that are kept from one message to the next."""
_HEAD = struct.Struct("<IIQ")
"""Buffers, whether the message is in shared memory, bytes of the pickle; then the bytes of each buffer."""
_PICKLE = 5


@dataclass(frozen=True, slots=True)
class WireFrame:
    """A message that has come, not read yet."""

    lengths: tuple[int, ...]
    """Of the pickle, and of each buffer."""
    inline: bytes | None
    """None: it is in shared memory."""


class WireLink:
    """One end. `gives` and `takes` are descriptors of shared memory, which it owns.

    A large message must be read before the next large one is packed at the other end: whoever asks waits for the answer.
    """

    def __init__(self, outgoing: int, incoming: int) -> None:
        self._outgoing = _Shared(outgoing)
        self._incoming = _Shared(incoming)
        self._received = bytearray()

    def packed(self, message: Any) -> bytes:
        """What is to be sent through the socket for it. Raises what pickling it raises."""
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
        """The messages that are whole with these bytes."""
        self._received += data
        frames: list[WireFrame] = []
        while (frame := self._frame()) is not None:
            frames.append(frame)
        return frames

    def read(self, frame: WireFrame) -> Any:
        """The message. What it has of arrays is its own, and may be written to. Raises what unpickling raises."""
        if frame.inline is not None:
            return _unpickled(memoryview(frame.inline), frame.lengths)
        total = sum(frame.lengths)
        try:
            with self._incoming.view(total) as view:
                return _unpickled(view, frame.lengths)
        finally:
            self._incoming.release(total)

    def close(self) -> None:
        """Let go of the memory."""
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
        # Copied: what the other end writes next must not change what this one may have kept.
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
        with self._lock:  # another thread may close it: the number of its descriptor is soon another file's
            if self._fd < 0:
                raise ValueError("the other process has ended")
            self._write(parts, total)

    def _write(self, parts: Sequence[memoryview], total: int) -> None:
        if self._map is None or len(self._map) < total or total > KEEP:
            # The reader may have made it smaller since.
            os.ftruncate(self._fd, max(total, len(self._map) if self._map is not None else 0))
        mapped = self._mapped(total)
        at = 0
        for part in parts:
            mapped[at : at + len(part)] = part
            at += len(part)

    def view(self, total: int) -> memoryview:
        return memoryview(self._mapped(total))[:total]

    def release(self, total: int) -> None:
        """It is read: a large message's pages go back to the system."""
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
