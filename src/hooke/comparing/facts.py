"""The facts of one run for comparisons: its row, and what it logged, by task (empty for the run itself) and name."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from hooke.base.files import write_atomic
from hooke.base.formats import text_of
from hooke.journal.events import ArtifactLogged, NotesLogged, PointsLogged, RunMadeOf
from hooke.journal.reader import SegmentReader
from hooke.journal.run_folders import RunsFolder
from hooke.journal.run_view import AttemptFacts, AttemptsView, RunRow, RunView
from hooke.journal.segments import HEADER_BYTES
from hooke.journal.task_view import TaskRow
from hooke.pages.run_report import environment_of
from hooke.sync.outbox import logged_segments
from hooke.tracking.logged_values import CurvePart, Owner, curve_parts

__all__ = ["FILE", "Folded", "MetricSpread", "Name", "Owned", "RunFacts", "facts_of", "folded_in"]


# --- A summary of what a run logged: the last, smallest and largest value of each metric; the last of everything else.

FILE = ".folded"
FORM = 2
WORTH_BYTES = 1 << 16
"""A summary of less is not saved, because reading it again is cheaper."""
MOST_OF_READ = 4
"""A summary that is not this much smaller than the journal is not saved, such as of a million items with one point each."""


class MetricSpread(msgspec.Struct, array_like=True):
    """Values of a metric: the last (by time) with its step, the smallest and the largest; `nan` counts only as last."""

    last: float = math.nan
    step: int = 0
    at: float = -math.inf
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    lowest_step: int = 0
    highest_step: int = 0

    def joined(self, other: MetricSpread) -> MetricSpread:
        """The spread of both together."""
        later = self if self.at >= other.at else other
        return MetricSpread(
            last=later.last,
            step=later.step,
            at=later.at,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            count=self.count + other.count,
            lowest_step=min(self.lowest_step, other.lowest_step),
            highest_step=max(self.highest_step, other.highest_step),
        )

    def add(self, value: float, step: int, at: float) -> None:
        """Take in a value."""
        self.lowest_step = min(self.lowest_step, step) if self.count else step
        self.highest_step = max(self.highest_step, step) if self.count else step
        self.count += 1
        if at >= self.at:
            self.last, self.step, self.at = value, step, at
        self.low = min(self.low, value)
        self.high = max(self.high, value)

    def value(self, which: str) -> float:
        """`last`, `min` or `max`; `nan` if no value was a number."""
        found = {"last": self.last, "min": self.low, "max": self.high}[which]
        return math.nan if which != "last" and self.low > self.high else found


class Owned(msgspec.Struct):
    """What one attempt, an item of it, or the run itself logged. Notes have their times, files their sizes."""

    attempt: int | None = None
    item: int | None = None
    metrics: dict[str, MetricSpread] = {}
    params: dict[str, tuple[float, str]] = {}
    tags: dict[str, tuple[float, str]] = {}
    artifacts: dict[str, tuple[float, str, int]] = {}


class Folded(msgspec.Struct):
    """Everything that the run logged up to the offsets."""

    form: int = FORM
    offsets: dict[str, int] = {}
    owned: list[Owned] = []


def folded_in(folder: Path) -> Folded:
    """The summary of what the run in `folder` has logged so far. Raises JournalError as a reader does."""
    segments = logged_segments(folder)
    if not segments:
        return Folded()
    sizes = {file.stem: file.stat().st_size for file in segments}
    kept = _kept(folder / FILE)
    if any(sizes.get(name, -1) < offset for name, offset in kept.offsets.items()):
        kept = Folded()  # a segment was truncated
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
            ):  # a read-only project or a full disk: it is read again next time
                write_atomic(folder / FILE, data)
    return made


def _kept(file: Path) -> Folded:
    try:
        kept = msgspec.msgpack.decode(file.read_bytes(), type=Folded)
    except (OSError, msgspec.MsgspecError):
        return Folded()
    return kept if kept.form == FORM else Folded()


class _Fold:
    """Extends a saved summary."""

    def __init__(self, kept: Folded) -> None:
        self.offsets = dict(kept.offsets)
        self.owned = {(each.attempt, each.item): each for each in kept.owned}
        self.bytes = 0

    def read(self, file: Path) -> None:
        """Add the events of a segment after its offset."""
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


def _add_points(metrics: dict[str, MetricSpread], event: PointsLogged) -> None:
    times = event.times or itertools.repeat(event.at)
    for (name, value, step), at in zip(event.points, times, strict=False):
        spread = metrics.get(name)
        if spread is None:
            spread = metrics[name] = MetricSpread()
        spread.add(value, step, at)


def _add_notes(notes: dict[str, tuple[float, str]], added: Iterable[tuple[str, str]], at: float) -> None:
    for name, value in added:
        if name not in notes or notes[name][0] <= at:
            notes[name] = (at, value)


class Name(NamedTuple):
    """The name of something that a task, or (`task` empty) the run itself, logged."""

    task: str
    name: str

    def __str__(self) -> str:
        return f"{self.task}.{self.name}" if self.task else self.name


@dataclass(slots=True, kw_only=True)
class RunFacts:
    """A run at one moment. A parameter or tag has several values if items, or several calls of a task, logged different ones.

    Of several attempts at the same items one counts: the one that finished, else the last. If it went on from a checkpoint, the
    metrics of earlier attempts count up to there.
    """

    run: str
    row: RunRow
    tasks: list[TaskRow] = field(default_factory=list)
    conditions: dict[str, str] = field(default_factory=dict)
    """Where and by what it ran: the host, the commit, the hardware."""
    code: dict[str, str] = field(default_factory=dict)
    """Part of the code -> digest."""
    params: dict[Name, tuple[str, ...]] = field(default_factory=dict)
    tags: dict[Name, tuple[str, ...]] = field(default_factory=dict)
    metrics: dict[Name, MetricSpread] = field(default_factory=dict)
    artifacts: dict[Name, list[tuple[Path, int]]] = field(default_factory=dict)
    """(file, size in bytes); several if several items logged one of this name."""
    counted: dict[tuple[int | None, int | None], str] = field(default_factory=dict)
    """(attempt, item) -> task, for the attempts that count."""
    curves: dict[Owner, CurvePart] = field(default_factory=dict)
    """(attempt, item) -> which of its values count; see `curve_parts`."""


def facts_of(runs: RunsFolder, run: str, *, of_key: str = "") -> RunFacts:
    """The run's current facts; with `of_key`, only what attempts at the node with that key logged. Raises JournalError."""
    folder = runs.folder(run)
    view, attempts = RunView(), AttemptsView()
    owned = folded_in(folder).owned
    made_of = None
    for event in runs.events(run):
        view.apply(event)
        if isinstance(event, RunMadeOf):
            made_of = event.record
        if owned:
            attempts.apply(event)
    view.driver_alive(runs.alive(run), runs.last_written(run))
    now = time.time()
    code = {name: digest for node in view.nodes.values() for name, digest in node.planned.code.items()}
    facts = RunFacts(run=run, row=view.row(now), tasks=view.rows(now), code=code)
    facts.conditions = dict(environment_of(view, made_of))
    given = view.begun.parameters or view.begun.shown if view.begun is not None else {}
    facts.params = {Name("", name): (text_of(value),) for name, value in given.items()}
    if of_key:
        keys = {attempt: known.key for attempt, known in attempts.attempts.items()}
        owned = [each for each in owned if each.attempt is not None and keys.get(each.attempt) == of_key]
    facts.curves = curve_parts(
        {
            (each.attempt, each.item): {
                name: (spread.lowest_step, spread.highest_step) for name, spread in each.metrics.items()
            }
            for each in owned
        },
        attempts.attempts,
    )
    for each in _counting(owned, facts.curves, folder):
        _take(facts, each, attempts.attempts, folder)
    return facts


def _counting(owned: list[Owned], curves: Mapping[Owner, CurvePart], folder: Path) -> list[Owned]:
    """What counts: of attempts before the one that went on from a checkpoint only the metrics up to there."""
    counting = []
    cut: dict[Owner, CurvePart] = {}
    for each in owned:
        owner = each.attempt, each.item
        part = curves.get(owner)
        if part is None:
            continue
        if part.limits is None:
            counting.append(each)
            continue
        kept = Owned(attempt=each.attempt, item=each.item)
        counting.append(kept)
        for name, spread in each.metrics.items():
            if spread.highest_step < part.limit(name):
                kept.metrics[name] = spread
            elif spread.lowest_step < part.limit(name):
                kept.metrics[name] = MetricSpread()
                cut[owner] = part
    if cut:
        _read_cut({(each.attempt, each.item): each for each in counting}, cut, folder)
    return sorted(counting, key=lambda each: (each.attempt or 0, -1 if each.item is None else each.item))


def _read_cut(counting: Mapping[Owner, Owned], cut: Mapping[Owner, CurvePart], folder: Path) -> None:
    """Read again the values of attempts that count in part: the summary does not tell their steps apart."""
    fresh: dict[tuple[Owner, str], MetricSpread] = {}
    for file in logged_segments(folder):
        with SegmentReader(file) as reader:
            for event in reader:
                if not isinstance(event, PointsLogged) or (event.attempt, event.item) not in cut:
                    continue
                owner = event.attempt, event.item
                times = event.times or itertools.repeat(event.at)
                for (name, value, step), at in zip(event.points, times, strict=False):
                    if step < cut[owner].limit(name) and not counting[owner].metrics[name].count:
                        fresh.setdefault((owner, name), MetricSpread()).add(value, step, at)
    for (owner, name), spread in fresh.items():
        counting[owner].metrics[name] = spread


def _take(facts: RunFacts, owned: Owned, attempts: dict[int, AttemptFacts], folder: Path) -> None:
    known = attempts.get(owned.attempt) if owned.attempt is not None else None
    unknown = "" if owned.attempt is None else f"attempt {owned.attempt}"
    task = known.task if known is not None else unknown
    facts.counted[owned.attempt, owned.item] = task
    for name, spread in owned.metrics.items():
        before = facts.metrics.get(Name(task, name))
        facts.metrics[Name(task, name)] = spread if before is None else before.joined(spread)
    for notes, found in ((facts.params, owned.params), (facts.tags, owned.tags)):
        for name, (_, value) in found.items():
            # A parameter that the run logged itself replaces the one it was called with.
            others = notes.get(Name(task, name), ()) if task else ()
            notes[Name(task, name)] = tuple(dict.fromkeys((*others, value)))
    for path, (_, file, size) in owned.artifacts.items():
        facts.artifacts.setdefault(Name(task, path), []).append((folder / file, size))
