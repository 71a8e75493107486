"""From a value to the bytes of an object, written to a sink without a second copy of its large parts."""

from __future__ import annotations

import pickle
import threading
from typing import Any, TypeAlias

from blake3 import blake3

from hooke.store import layout
from hooke.store.backend import ObjectSink
from hooke.store.by_value import ByValuePickler
from hooke.store.codecs import Blob, reduce_known
from hooke.store.main_classes import reduce_class

__all__ = ["Encoded", "encode"]

_LARGE = 1 << 20
"""Smaller pieces are gathered to this size; larger ones are hashed by a second thread while they are written."""

_WRITE = 64 << 20
"""Bytes per write: the larger it is, the larger the pages that the kernel caches the file in, and the faster they map."""

_PLAIN = (int, float, bool, str, bytes, type(None))
"""Types (with no subclass of them) that need nothing but the standard pickler."""

Buffer: TypeAlias = memoryview | Blob


class Encoded:
    """A value ready to be written: its pickle stream, and its buffers by reference."""

    __slots__ = ("_buffers", "_stream")

    def __init__(self, stream: list[bytes], buffers: list[Buffer]) -> None:
        self._stream = stream
        self._buffers = buffers

    @property
    def size(self) -> int:
        """Most bytes that it will take; for frames an estimate."""
        large = sum(item.size if isinstance(item, Blob) else item.nbytes for item in self._buffers)
        return sum(map(len, self._stream)) + large + layout.overhead(len(self._buffers))

    def write(self, sink: ObjectSink, secret: bytes | None = None) -> tuple[bytes, int]:
        """Write the object; returns its digest (32 bytes) and its size. Raises what the sink raises."""
        out = _Hashing(sink)
        out.write(layout.HEADER)
        for chunk in self._stream:
            out.write(chunk)
        stream = out.position - len(layout.HEADER)
        spans = [_write_buffer(out, buffer) for buffer in self._buffers]
        end = layout.make_end(spans, stream=stream, table=out.position)
        out.write(end)
        digest = out.digest()
        tail = layout.make_tail(end, digest, secret)
        sink.write(tail)
        return digest, out.position + len(tail)

    def to_bytes(self, secret: bytes | None = None) -> tuple[bytes, bytes]:
        """The digest and the object."""
        pieces = _Pieces()
        digest, _ = self.write(pieces, secret)
        return digest, b"".join(pieces)


def encode(value: Any) -> Encoded:
    """Pickle `value` with its arrays and frames aside. Raises whatever the pickling of a part of it raises."""
    if type(value) in _PLAIN:
        return Encoded([pickle.dumps(value, 5)], [])
    stream = _Pieces()
    buffers: list[Buffer] = []
    _Pickler(stream, buffers).dump(value)
    return Encoded(stream, buffers)


class _Pickler(ByValuePickler):
    """Cloudpickle's, so that what is defined in a script or a notebook travels by value; large parts go aside."""

    def __init__(self, file: Any, buffers: list[Buffer]) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._take)
        self._buffers = buffers
        self._blobs: dict[int, tuple[pickle.PickleBuffer, Blob]] = {}

    def reducer_override(self, obj: Any) -> Any:
        reduced = reduce_known(obj, self._later)
        if reduced is not NotImplemented:
            return reduced
        reduced = super().reducer_override(obj)
        return reduce_class(obj, reduced) if isinstance(obj, type) and isinstance(reduced, tuple) else reduced

    def _later(self, blob: Blob) -> pickle.PickleBuffer:
        # Stands in the stream for bytes that exist only once they are written.
        mark = pickle.PickleBuffer(b"")
        self._blobs[id(mark)] = mark, blob
        return mark

    def _take(self, buffer: pickle.PickleBuffer) -> None:
        blob = self._blobs.get(id(buffer))
        self._buffers.append(buffer.raw() if blob is None else blob[1])


class _Pieces(list[bytes]):
    """Bytes as the pieces that were written; a large `bytes` among them is not copied."""

    def write(self, data: bytes | memoryview) -> int:
        # A view may be of memory that changes or goes away.
        self.append(data if isinstance(data, bytes) else bytes(data))
        return len(data)


class _Hashing:
    """A sink that hashes and counts what goes through it to another, small pieces together."""

    closed = False

    def __init__(self, sink: ObjectSink) -> None:
        self._sink = sink
        self._hasher = blake3()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self.position = 0

    def write(self, data: Any) -> int:
        if not isinstance(data, bytes):
            data = memoryview(data).cast("B")
        size = len(data)
        self.position += size
        if size >= _LARGE:
            self.flush()
            self._write_large(memoryview(data))
        else:
            # A view may be of memory that is used again.
            self._gathered.append(bytes(data))
            self._gathered_bytes += size
            if self._gathered_bytes >= _LARGE:
                self.flush()
        return size

    def flush(self) -> None:
        """Hash and pass on what was gathered."""
        data = b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_bytes = 0
        self._hasher.update(data)
        self._sink.write(data)

    def _write_large(self, data: memoryview) -> None:
        hashing = threading.Thread(target=self._hasher.update, args=(data,))
        hashing.start()
        try:
            for start in range(0, len(data), _WRITE):
                self._sink.write(data[start : start + _WRITE])
        finally:
            hashing.join()

    def digest(self) -> bytes:
        self.flush()
        return self._hasher.digest()


def _write_buffer(out: _Hashing, buffer: Buffer) -> tuple[int, int]:
    out.write(layout.padding(out.position))
    start = out.position
    if isinstance(buffer, Blob):
        buffer.write(out)
    elif buffer.nbytes:
        out.write(buffer)
    return start, out.position - start
