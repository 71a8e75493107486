"""What a run logged, folded: of each metric the last value, the least and the greatest; of the rest what counts.

A run of 10,000 points takes 20 ms to fold. So the fold is kept beside the run, with how far each segment was read: it goes on
from there. The kept file is derived: where it is missing, old or damaged, the segments are folded from their beginning.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable
from pathlib import Path

import msgspec

from hooke.base.files import write_atomic
from hooke.journal.events import ArtifactLogged, NotesLogged, PointsLogged
from hooke.journal.reader import SegmentReader
from hooke.journal.segments import HEADER_BYTES
from hooke.project.shipping.outbox import logged_segments

__all__ = ["FILE", "Folded", "Owned", "Spread", "folded_in"]

FILE = ".folded"
FORM = 1
WORTH_BYTES = 1 << 16
"""Reading less than this costs less than keeping it."""
MOST_OF_READ = 4
"""A fold that is not this much smaller than what was read (a map of a million items that log a point each) is not kept."""


class Spread(msgspec.Struct, array_like=True):
    """Values of a metric: the last (by time), with its step, the least and the greatest; `nan` counts as last only."""

    last: float = math.nan
    step: int = 0
    at: float = -math.inf
    low: float = math.inf
    high: float = -math.inf
    count: int = 0

    def joined(self, other: Spread) -> Spread:
        """Of both together."""
        later = self if self.at >= other.at else other
        return Spread(
            last=later.last,
            step=later.step,
            at=later.at,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            count=self.count + other.count,
        )

    def value(self, which: str) -> float:
        """`last`, `min` or `max`; `nan` where no value was a number."""
        found = {"last": self.last, "min": self.low, "max": self.high}[which]
        return math.nan if which != "last" and self.low > self.high else found


class Owned(msgspec.Struct):
    """What one attempt, or one item of it, logged; or the run itself. Notes with when they were made, files with their sizes."""

    attempt: int | None = None
    item: int | None = None
    metrics: dict[str, Spread] = {}
    params: dict[str, tuple[float, str]] = {}
    tags: dict[str, tuple[float, str]] = {}
    artifacts: dict[str, tuple[float, str, int]] = {}


class Folded(msgspec.Struct):
    """All that the run logged up to the offsets."""

    form: int = FORM
    offsets: dict[str, int] = {}
    owned: list[Owned] = []


def folded_in(folder: Path) -> Folded:
    """What the run in `folder` logged until now. Raises JournalError as a reader does."""
    segments = logged_segments(folder)
    if not segments:
        return Folded()
    sizes = {file.stem: file.stat().st_size for file in segments}
    kept = _kept(folder / FILE)
    if any(sizes.get(name, -1) < offset for name, offset in kept.offsets.items()):
        kept = Folded()  # a segment was cut, by hand or by its mend
    fold = _Fold(kept)
    for file in segments:
        if kept.offsets.get(file.stem, -1) < sizes[file.stem]:
            fold.read(file)
    made = Folded(offsets=fold.offsets, owned=list(fold.owned.values()))
    if fold.bytes >= WORTH_BYTES:
        data = msgspec.msgpack.encode(made)
        if len(data) * MOST_OF_READ <= sum(sizes.values()):
            with contextlib.suppress(
                OSError
            ):  # somebody else's project, or a full disk: it is read again then
                write_atomic(folder / FILE, data)
    return made


def _kept(file: Path) -> Folded:
    try:
        kept = msgspec.msgpack.decode(file.read_bytes(), type=Folded)
    except (OSError, msgspec.MsgspecError):
        return Folded()
    return kept if kept.form == FORM else Folded()


class _Fold:
    """A fold that goes on from what is kept."""

    def __init__(self, kept: Folded) -> None:
        self.offsets = dict(kept.offsets)
        self.owned = {(each.attempt, each.item): each for each in kept.owned}
        self.bytes = 0

    def read(self, file: Path) -> None:
        """Fold what a segment has behind its offset."""
        start = self.offsets.get(file.stem, HEADER_BYTES)
        with SegmentReader(file, start) as reader:
            for event in reader:
                match event:
                    case PointsLogged():
                        _add_points(self._owner(event.attempt, event.item).metrics, event)
                    case NotesLogged():
                        owner = self._owner(event.attempt, event.item)
                        _add_notes(owner.params, event.params.items(), event.at)
                        _add_notes(owner.tags, event.tags.items(), event.at)
                    case ArtifactLogged():
                        artifacts = self._owner(event.attempt, event.item).artifacts
                        artifacts[event.path] = (event.at, event.file, event.size)
                    case _:
                        pass
            self.offsets[file.stem] = reader.offset
        self.bytes += self.offsets[file.stem] - start

    def _owner(self, attempt: int | None, item: int | None) -> Owned:
        owner = self.owned.get((attempt, item))
        if owner is None:
            owner = self.owned[attempt, item] = Owned(attempt=attempt, item=item)
        return owner


def _add_points(metrics: dict[str, Spread], event: PointsLogged) -> None:
    times = event.times or itertools.repeat(event.at)
    for (name, value, step), at in zip(event.points, times, strict=False):
        spread = metrics.get(name)
        if spread is None:
            spread = metrics[name] = Spread()
        spread.count += 1
        if at >= spread.at:
            spread.last, spread.step, spread.at = value, step, at
        spread.low = min(spread.low, value)
        spread.high = max(spread.high, value)


def _add_notes(notes: dict[str, tuple[float, str]], added: Iterable[tuple[str, str]], at: float) -> None:
    for name, value in added:
        if name not in notes or notes[name][0] <= at:
            notes[name] = (at, value)
