"""A service's arrivals, second by second, in its folder: what autoscalers are replayed on.

Files of four weeks each, of blocks that are appended with one write: a header with a checksum, and the counts of a minute as
differences, compressed. A block that a crash or a full disk has torn is skipped by readers, which find the next by its mark.
A year takes 30 to 75 MB, whatever the load. Beside the counts, a block every five minutes has what the windows of the
replicas tell: service times, batches, queueing and starts.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrivalLog", "ServiceFacts", "read_arrivals", "read_facts"]

HEADER = struct.Struct("<4sQHHI")
"""The mark of the kind, the first second since the epoch, seconds, bytes, checksum."""
COUNTS, FACTS = b"\xffHk\x01", b"\xffHk\x02"
BLOCK_S = 60
FILE_S = 28 * 86_400
FILES = 14
"""A year and a month; older files are removed."""
MOST_PENDING = 1440
"""Blocks that are kept in memory while the disk is full: a day."""


class ServiceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of the windows of all replicas over some minutes."""

    at: float = 0.0
    """Wall clock at their end, seconds since the epoch."""
    seconds: float = 0.0
    requests: int = 0
    batches: int = 0
    rows: int = 0
    batch_s: float = 0.0
    squares: float = 0.0
    """Of the seconds of batches."""
    request_s: float = 0.0
    """Requests that wait or run, integrated over time: queueing."""
    over_slo: int = 0
    starts_s: tuple[float, ...] = ()


class ArrivalLog:
    """Writes the log of one service. One thread may `add`, another `flush`; one process writes at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._second = 0
        self._counts: list[int] = []
        self._pending: deque[tuple[int, bytes]] = deque(maxlen=MOST_PENDING)

    def add(self, second: int, count: int) -> None:
        """`count` requests arrived in this second since the epoch. Seconds ascend; those left out had none."""
        if self._counts and not 0 <= second - self._second < BLOCK_S:
            self.end_block()
        if not self._counts:
            self._second = second - second % BLOCK_S
        missing = second - self._second - len(self._counts)
        if missing < 0:  # the wall clock went back
            self._counts[second - self._second] += count
            return
        self._counts.extend([0] * missing)
        self._counts.append(count)

    def end_block(self) -> None:
        """Make a block of what was added since the last one."""
        if self._counts:
            payload = zlib.compress(_varints(self._counts), 6)
            self._pending.append((self._second, _block(COUNTS, self._second, len(self._counts), payload)))
            self._counts = []

    def facts(self, facts: ServiceFacts) -> None:
        """Add facts."""
        at = int(facts.at)
        self._pending.append((at, _block(FACTS, at, 0, msgspec.msgpack.encode(facts))))

    def flush(self) -> None:
        """Write the finished blocks. Raises OSError; what is not written is tried again next time."""
        while self._pending:
            second, block = self._pending[0]
            path = self.folder / f"{second // FILE_S:06}.arrivals"
            new = not path.exists()
            if new:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                if file.write(block) != len(block):
                    raise OSError(28, os.strerror(28), str(path))
            self._pending.popleft()
            if new:
                for old in sorted(self.folder.glob("*.arrivals"))[:-FILES]:
                    old.unlink(missing_ok=True)


def read_arrivals(
    folder: Path, *, since: float = 0.0, until: float = math.inf
) -> tuple[int, NDArray[np.int64]]:
    """The first second since the epoch, and the arrivals of each second from it on; seconds without a service count as 0.

    Empty if there are none. What a wrong clock has dated after `until`, or more than a year before the rest, is left out. A file of
    another time that is damaged as a whole is as one that is missing.
    """
    found = [
        (second, _counts(payload, seconds))
        for kind, second, seconds, payload in _blocks(folder, since)
        if kind == COUNTS and second + seconds > since and second <= until
    ]
    if not found:
        return 0, np.zeros(0, dtype=np.int64)
    newest = max(second for second, _ in found)
    found = [each for each in found if each[0] > newest - FILES * FILE_S]
    first = min(second for second, _ in found)
    out = np.zeros(max(second + len(counts) for second, counts in found) - first, dtype=np.int64)
    for second, counts in found:
        out[second - first : second - first + len(counts)] += counts
    return first, out


def read_facts(folder: Path, *, since: float = 0.0) -> list[ServiceFacts]:
    """The facts of this time, in order."""
    return [
        msgspec.msgpack.decode(payload, type=ServiceFacts)
        for kind, second, _, payload in _blocks(folder, since)
        if kind == FACTS and second >= since
    ]


def _blocks(folder: Path, since: float) -> Iterator[tuple[bytes, int, int, bytes]]:
    for path in sorted(folder.glob("*.arrivals")):
        if (int(path.stem) + 1) * FILE_S <= since:
            continue
        data, at = path.read_bytes(), 0
        while at + HEADER.size <= len(data):
            mark, second, seconds, length, checksum = HEADER.unpack_from(data, at)
            payload = data[at + HEADER.size : at + HEADER.size + length]
            if (
                mark in {COUNTS, FACTS}
                and len(payload) == length
                and _checksum(second, seconds, payload) == checksum
            ):
                yield mark, second, seconds, payload
                at += HEADER.size + length
                continue
            nexts = [found for kind in (COUNTS, FACTS) if (found := data.find(kind, at + 1)) > 0]
            at = min(nexts, default=len(data))


def _block(kind: bytes, second: int, seconds: int, payload: bytes) -> bytes:
    return HEADER.pack(kind, second, seconds, len(payload), _checksum(second, seconds, payload)) + payload


def _checksum(second: int, seconds: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<QH", second, seconds)))


def _varints(counts: list[int]) -> bytes:
    """Differences as zigzag varints of seven bits a byte."""
    out, before = bytearray(), 0
    for count in counts:
        change, before = count - before, count
        left = change << 1 if change >= 0 else (-change << 1) - 1
        while left >= 128:
            out.append(left & 127 | 128)
            left >>= 7
        out.append(left)
    return bytes(out)


def _counts(payload: bytes, seconds: int) -> list[int]:
    out: list[int] = []
    value = shift = count = 0
    for byte in zlib.decompress(payload):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            count += -(value + 1 >> 1) if value & 1 else value >> 1
            out.append(count)
            value = shift = 0
    return out[:seconds]
