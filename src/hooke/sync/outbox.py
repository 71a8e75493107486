"""Reads what one run has logged and not sent yet, as batches for the runs that trackers show."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec
from blake3 import blake3

from hooke.base.formats import text_of
from hooke.base.observed import absolute_path
from hooke.base.ref import DataSetRead, ItemsObserved, MadeOf, Ref
from hooke.journal.events import (
    ArtifactLogged,
    AttemptFailed,
    AttemptFinished,
    DataSetsOpened,
    Event,
    ItemsFound,
    NodePlanned,
    NotesLogged,
    PointsLogged,
    RunStarted,
)
from hooke.journal.reader import SegmentReader
from hooke.journal.run_view import AttemptFacts, AttemptsView
from hooke.journal.segments import HEADER_BYTES, SUFFIX, segment_files
from hooke.sinks.sink import InputDataSet, LoggedBatch, LoggedPoints, Media, ShippedRun
from hooke.tracking.logged_values import Owner, limits_before
from hooke.tracking.system_metrics import SEGMENT as SYSTEM
from hooke.tracking.tracker import PREFIX

__all__ = ["Outbox", "Shipment", "has_logged", "logged_segments"]

MOST_EVENTS = 5_000
"""Events in one load. The cursor is saved after each load, so a crash resends at most this many."""
MOST_POINTS = 5_000
"""Points in one load, about a second of MLflow's time: then it is another run's turn. One imported event has thousands."""

DATA_SETS = "run-data-sets"
"""A key in the offsets: how many data sets the tracker has."""
PROVENANCE = "run-made-of"
"""A key in the offsets, beside the segments: the tracker has the run's provenance."""

MOST_DIFF = 8000
"""Characters of the uncommitted diff in a tag, the limit of MLflow."""

_Logged = PointsLogged | NotesLogged | ArtifactLogged


class Shipment(msgspec.Struct):
    """Batches to send, and the offsets by segment after them."""

    batches: list[LoggedBatch] = msgspec.field(default_factory=list)
    offsets: dict[str, int] = msgspec.field(default_factory=dict)
    events: int = 0
    points: int = 0

    @property
    def full(self) -> bool:
        """Whether it has as much as one load may have."""
        return self.events >= MOST_EVENTS or self.points >= MOST_POINTS


class Outbox:
    """Reads a run from `offsets` on. `known` says that the sink already has the run. It keeps no file open between calls."""

    def __init__(self, folder: Path, offsets: dict[str, int], *, known: bool = False) -> None:
        self.folder = folder
        self.view = AttemptsView()
        self._lineage = _Lineage(folder.parents[2])
        self._offsets = dict(offsets)
        self._known = known
        self._driver_offset = HEADER_BYTES
        self._turn = 0
        self._seen: dict[Owner, set[str]] = {}
        """The metrics of attempts that may continue the curves of earlier ones."""

    def load(self, *, alive: bool) -> Shipment:
        """The next batches; empty if everything has been loaded.

        While the run is `alive`, an attempt may log before its driver knows that it began; its segment waits until then.
        """
        load = Shipment(offsets=dict(self._offsets))
        gathered: dict[tuple[int | None, int | None], list[_Logged]] = {(None, None): []}
        files = logged_segments(self.folder)
        # Another segment is first each time, so that none waits for a long one.
        self._turn = (self._turn + 1) % max(len(files), 1)
        for file in files[self._turn :] + files[: self._turn]:
            self._read_some(file, load, gathered, alive=alive)
        self._read_driver()
        if self.view.begun is None:
            return Shipment()
        self._join(gathered)
        new = self.view.made_of is not None and PROVENANCE not in load.offsets
        if new:
            load.offsets[PROVENANCE] = 1
        datasets = self._new_datasets(load, alive=alive)
        for whose, events in gathered.items():
            if events or (whose == (None, None) and (new or datasets or not self._known)):
                events.sort(key=lambda event: event.at)
                run = self.shipped(*whose)
                given = _given(self.view.begun) if whose == (None, None) and not self._known else {}
                parts = _without_changed_params(given, events)
                first, *others = (self._batch(run, params, part) for params, part in parts)
                if whose == (None, None):
                    first = self._with_provenance(first) if new else first
                    first = msgspec.structs.replace(first, datasets=datasets)
                load.batches += [first, *others]
        return load

    def _new_datasets(self, load: Shipment, *, alive: bool) -> tuple[InputDataSet, ...]:
        """The run's data sets once it is over, unless the tracker has as many: before, not all tasks that read them are known."""
        if alive and self.view.ended is None:
            return ()
        begun = self.view.begun
        assert begun is not None
        found = self._lineage.datasets(begun.run, self.view.made_of)
        if len(found) <= load.offsets.get(DATA_SETS, 0):
            return ()
        load.offsets[DATA_SETS] = len(found)
        return found

    def itself(self) -> ShippedRun | None:
        """The tracker's run for the run itself; None if its driver has not begun it."""
        self._read_driver()
        return self.shipped(None, None) if self.view.begun is not None else None

    def shipped_up_to(self, load: Shipment) -> None:
        """The sink has these batches: continue after them."""
        self._known = True
        self._offsets = dict(load.offsets)

    def shipped(self, attempt: int | None, item: int | None) -> ShippedRun:
        """The tracker's run for an attempt, an item, or the run itself."""
        begun = self.view.begun
        assert begun is not None
        experiment = begun.experiment or begun.pipeline
        if attempt is None:
            ended = self.view.ended
            return ShippedRun(
                key=begun.run,
                parent=begun.parent or None,
                name=begun.run,
                experiment=experiment,
                started_at=self.view.first_at,
                ended_at=ended.at if ended is not None else None,
                status=ended.status if ended is not None else "running",
                tags=self._tags(),
            )
        known = self.view.attempts.get(attempt)
        if known is None:
            known = AttemptFacts(task=f"attempt {attempt}", number=1, started_at=self.view.first_at)
        return ShippedRun(
            key=f"{begun.run}/{attempt}" + (f"/{item}" if item is not None else ""),
            parent=begun.run,
            name=_title(known, item),
            experiment=experiment,
            started_at=known.started_at,
            ended_at=known.ended_at,
            status=known.status,
            tags={"hooke.task": known.task, "hooke.attempt": str(known.number)}
            | ({"hooke.item": str(item)} if item is not None else {}),
        )

    def ended(self, key: str, *, alive: bool) -> ShippedRun | None:
        """The ended run of this key; None while it is running. If its driver died, it is `lost`."""
        _, _, rest = key.partition("/")
        attempt, _, item = rest.partition("/")
        run = self.shipped(int(attempt) if attempt else None, int(item) if item else None)
        if run.status != "running":
            return run
        if alive:
            return None
        over = self.view.ended
        if over is None:
            return msgspec.structs.replace(run, status="lost")
        return msgspec.structs.replace(run, ended_at=over.at, status="stopped")

    def _read_some(
        self,
        file: Path,
        load: Shipment,
        gathered: dict[tuple[int | None, int | None], list[_Logged]],
        *,
        alive: bool,
    ) -> None:
        """Add a segment's new events, up to the limits of a load."""
        offset = self._offsets.get(file.stem, HEADER_BYTES)
        if load.full or file.stat().st_size <= offset:
            return
        with SegmentReader(file, offset) as reader:
            for event in reader:
                if isinstance(event, _Logged):
                    if alive and not self._begun(event.attempt):
                        return
                    gathered.setdefault((event.attempt, event.item), []).append(event)
                    load.offsets[file.stem] = reader.offset
                    load.events += 1
                    load.points += len(event.points) if isinstance(event, PointsLogged) else 0
                if load.full:
                    return

    def _join(self, gathered: dict[Owner, list[_Logged]]) -> None:
        """Before values of an attempt that went on from a checkpoint, add those of earlier ones: trackers show one curve."""
        fresh: set[Owner] = set()
        for owner, events in gathered.items():
            known = self.view.attempts.get(owner[0]) if owner[0] is not None else None
            if known is None or (known.number == 1 and self.view.starts == 1):
                continue
            names = {
                name for event in events if isinstance(event, PointsLogged) for name, _, _ in event.points
            }
            if not names <= self._seen.setdefault(owner, set()):
                self._seen[owner] |= names
                fresh.add(owner)
        if not fresh:
            return
        past = self._past({self._group(owner) for owner in fresh})
        for owner in fresh:
            gathered[owner] += _newly_joined(owner, gathered[owner], past[self._group(owner)])

    def _group(self, owner: Owner) -> tuple[int, str, int | None]:
        """What the attempts at one item have in common."""
        known = self.view.attempts[owner[0] or 0]
        return known.node, known.key, owner[1]

    def _past(self, groups: set[tuple[int, str, int | None]]) -> dict[object, dict[Owner, _Points]]:
        """All values of the attempts in these groups, each event with whether it was sent before this load."""
        past: dict[object, dict[Owner, _Points]] = {group: {} for group in groups}
        for file in logged_segments(self.folder):
            sent = self._offsets.get(file.stem, HEADER_BYTES)
            with SegmentReader(file) as reader:
                for event in reader:
                    if not isinstance(event, PointsLogged) or event.attempt not in self.view.attempts:
                        continue
                    owner = event.attempt, event.item
                    if (group := self._group(owner)) in groups:
                        past[group].setdefault(owner, []).append((event, reader.offset <= sent))
        return past

    def _begun(self, attempt: int | None) -> bool:
        """Whether the driver has said that the attempt began."""
        if attempt is not None and attempt not in self.view.attempts:
            self._read_driver()
        return attempt is None or attempt in self.view.attempts

    def _read_driver(self) -> None:
        file = self.folder / f"driver{SUFFIX}"
        if not file.exists() or file.stat().st_size <= self._driver_offset:
            return
        with SegmentReader(file, self._driver_offset) as reader:
            for event in reader:
                self.view.apply(event)
                self._lineage.apply(event)
                self._driver_offset = reader.offset

    def _batch(self, run: ShippedRun, params: dict[str, str], events: list[_Logged]) -> LoggedBatch:
        points = LoggedPoints([], [], [], [])
        tags: dict[str, str] = {}
        artifacts: dict[str, Path] = {}
        media: dict[str, Media] = {}
        for event in events:
            match event:
                case PointsLogged():
                    for name, value, step in event.points:
                        points.names.append(name)
                        points.values.append(value)
                        points.steps.append(step)
                    points.times.extend(event.times or (event.at for _ in event.points))
                case NotesLogged():
                    tags |= event.tags
                case ArtifactLogged():
                    artifacts[event.path] = self.folder / event.file
                    media.pop(event.path, None)
                    if event.media is not None:
                        media[event.path] = Media(*event.media, event.at)
        return LoggedBatch(run=run, points=points, params=params, tags=tags, artifacts=artifacts, media=media)

    def _with_provenance(self, batch: LoggedBatch) -> LoggedBatch:
        """The batch with the run's provenance."""
        made_of = self.view.made_of
        assert made_of is not None
        facts = {
            "hooke.user": made_of.user,
            "hooke.git.commit": made_of.commit,
            "hooke.git.branch": made_of.branch,
            "hooke.git.dirty": "" if made_of.dirty is None else str(made_of.dirty),
            "hooke.git.repoURL": made_of.remote,
            "hooke.git.tree": made_of.tree,
            "hooke.git.diff": self._diff(made_of) if made_of.diff else "",
            "hooke.environment": made_of.environment,
        }
        tags = {name: value for name, value in facts.items() if value} | batch.tags
        return msgspec.structs.replace(batch, tags=tags)

    def _diff(self, made_of: MadeOf) -> str:
        try:
            text = (self.folder / made_of.diff).read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        if len(text) <= MOST_DIFF:
            return text
        note = f"\n[cut: all {made_of.diff_bytes} bytes are in {made_of.diff} in the run's folder]"
        return text[: MOST_DIFF - len(note)] + note

    def _tags(self) -> dict[str, str]:
        begun = self.view.begun
        assert begun is not None
        facts = {
            "hooke.pipeline": begun.pipeline,
            "hooke.entry": begun.entry,
            "hooke.place": begun.place,
            "hooke.host": begun.host,
            "hooke.python": begun.python,
            "hooke.version": begun.hooke,
        }
        return {name: value for name, value in facts.items() if value}


# --- The data sets of a run.


class _Node(NamedTuple):
    """A node of the graph. After a resume, another one may have its number."""

    number: int
    task: str
    key: str
    parents: tuple[int, ...]


_Readers: TypeAlias = dict[_Node | None, None]
"""The nodes that read something; None for a script."""


class _Lineage:
    """A fold of the driver's events: what tasks read, and which tasks made it. `root` is the project's folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._nodes: dict[int, _Node] = {}
        self._made: dict[str, _Readers] = {}
        """Digest of a stored result -> the nodes that have it."""
        self._files: dict[str, _Node] = {}
        """Absolute path of a file in a result -> the node that made it."""
        self._read: dict[DataSetRead, _Readers] = {}
        self._observed: dict[str, tuple[str, _Readers]] = {}
        """Absolute path of what was read without being declared -> its digest, and who read it."""

    def apply(self, event: Event) -> None:
        """Fold one event."""
        match event:
            case NodePlanned():
                self._nodes[event.node] = _Node(event.node, event.task, event.key, event.parents)
            case ItemsFound():
                self._note_made(self._nodes[event.node], event.ref)
            case AttemptFinished() | AttemptFailed():
                node = self._nodes[event.node]
                if event.ref is not None:
                    self._note_made(node, event.ref)
                for each in event.data:
                    self._read.setdefault(each, {})[node] = None
                self._note_observed(node, event.observed)
            case DataSetsOpened():
                for each in event.data:
                    self._read.setdefault(each, {})[None] = None
            case _:
                pass

    def _note_made(self, node: _Node, ref: Ref) -> None:
        self._made.setdefault(ref.digest, {})[node] = None
        for file in ref.files:
            if not file.passed_on:
                self._files[absolute_path(file.path, self._root)] = node

    def _note_observed(self, node: _Node, observed: Iterable[ItemsObserved]) -> None:
        for each in (each for items in observed for each in items.inputs):
            if each.kind in ("file", "tree") and each.digest:
                path = absolute_path(each.name, self._root)
                self._observed.setdefault(path, (each.digest, {}))[1][node] = None

    def datasets(self, run: str, made_of: MadeOf | None) -> tuple[InputDataSet, ...]:
        """All of them, each once."""
        found: dict[tuple[str, str], InputDataSet] = {}
        for each in self._all(run, made_of.files if made_of is not None else {}):
            known = found.setdefault((each.name, each.digest), each)
            read_by = tuple(dict.fromkeys((*known.read_by, *each.read_by)))
            found[each.name, each.digest] = msgspec.structs.replace(known, read_by=read_by)
        return tuple(found.values())

    def _all(self, run: str, declared: dict[str, str]) -> Iterator[InputDataSet]:
        files: set[str] = set()
        for each, readers in self._read.items():
            if not each.source:
                yield from (self._in_memory(run, each, reader) for reader in readers)
                continue
            # Without a digest of its own, that of its content, else what tells it from another file.
            observed, more = self._observed.get(each.source, ("", {}))
            digest = each.digest or declared.get(each.source, "") or observed
            digest = digest or blake3(f"{each.source}\0{each.stamp}".encode()).hexdigest()
            files.add(each.source)
            yield self._file(each.source, digest, {**readers, **more}, each)
        for path in dict.fromkeys((*declared, *self._observed)):
            observed, readers = self._observed.get(path, ("", {}))
            if path not in files:
                yield self._file(path, declared.get(path, observed), readers)

    def _file(
        self, place: str, digest: str, readers: _Readers, read: DataSetRead | None = None
    ) -> InputDataSet:
        maker = self._files.get(place)
        return InputDataSet(
            name=os.path.basename(place.rstrip("/")) or place,
            digest=digest[:32],
            place=place,
            task=maker.task if maker else "",
            key=maker.key if maker else "",
            rows=read.rows if read else None,
            columns=read.columns if read else (),
            read_by=_names(readers),
        )

    def _in_memory(self, run: str, read: DataSetRead, reader: _Node | None) -> InputDataSet:
        """The result of another task, or else what the reader has made itself."""
        maker = self._maker_of(read.result, reader) if read.result else reader
        name, key = (maker.task, maker.key) if maker is not None else (run, run)
        own = f"{key}\0{read.kind}\0{read.rows}\0{read.columns}"
        return InputDataSet(
            name=f"{name}{read.part}" if read.result else f"{name}: {read.kind}",
            digest=(read.digest or blake3(own.encode()).hexdigest())[:32],
            task=maker.task if maker is not None else "",
            key=maker.key if maker is not None else "",
            part=read.part,
            rows=read.rows,
            columns=read.columns,
            read_by=_names([reader]),
        )

    def _maker_of(self, result: str, reader: _Node | None) -> _Node | None:
        """The node whose result it is: where several have the same, one that the reader takes it from."""
        nodes = [each for each in self._made.get(result, {}) if each is not None]
        near = [each for each in nodes if reader is not None and each.number in reader.parents]
        return next(iter(near or nodes), None)


def _names(readers: Iterable[_Node | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.task for each in readers if each is not None))


_Points: TypeAlias = list[tuple[PointsLogged, bool]]


def _newly_joined(owner: Owner, loaded: list[_Logged], past: dict[Owner, _Points]) -> list[PointsLogged]:
    """Values of earlier attempts that count because of what `owner` logged in this load, and not before it."""
    mine = past.pop(owner, [])
    before = _steps(event for event, was_sent in mine if was_sent)
    now = _steps(
        [
            *(event for event, was_sent in mine if was_sent),
            *(event for event in loaded if isinstance(event, PointsLogged)),
        ]
    )
    steps = {each: _steps(event for event, _ in events) for each, events in past.items()}
    earlier = sorted(
        (each for each in past if (each[0] or 0) < (owner[0] or 0)), key=lambda each: -(each[0] or 0)
    )
    limits = limits_before({name: low for name, (low, _) in now.items()}, earlier, steps)
    known = limits_before({name: low for name, (low, _) in before.items()}, earlier, steps) if before else {}
    joined = []
    for each, found in limits.items():
        sent = known.get(each, {})
        for event, _ in past[each]:
            times = event.times or (event.at,) * len(event.points)
            kept = [
                (point, at)
                for point, at in zip(event.points, times, strict=True)
                if sent.get(point[0], -math.inf) <= point[2] < found[point[0]]
            ]
            if kept:
                points, times = zip(*kept, strict=True)
                joined.append(msgspec.structs.replace(event, points=points, times=times))
    return joined


def _steps(events: Iterable[PointsLogged]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for event in events:
        for name, _, step in event.points:
            low, high = found.get(name, (step, step))
            found[name] = min(low, step), max(high, step)
    return found


def logged_segments(folder: Path) -> list[Path]:
    """The segments of a run with logged data and system metrics."""
    return [file for file in segment_files(folder) if file.name.startswith(PREFIX)]


def has_logged(folder: Path) -> bool:
    """Whether user code logged anything in the run."""
    return any(not file.name.startswith(f"{PREFIX}{SYSTEM}-") for file in logged_segments(folder))


def _without_changed_params(
    given: dict[str, str], events: list[_Logged]
) -> Iterator[tuple[dict[str, str], list[_Logged]]]:
    """Parts of the events with their parameters, none of which changes in a part: what becomes of that is for the tracker to say."""
    params, first = dict(given), 0
    for number, event in enumerate(events):
        if isinstance(event, NotesLogged):
            if any(params.get(name, value) != value for name, value in event.params.items()):
                yield params, events[first:number]
                params, first = dict(event.params), number
            else:
                params |= event.params
    yield params, events[first:]


def _given(begun: RunStarted) -> dict[str, str]:
    """The run's parameters, as `log_param` would keep them. A script logs its own; what is given are its arguments."""
    given = begun.parameters if begun.kind == "script" else begun.parameters or begun.shown
    return {name: text_of(shown) for name, shown in given.items()}


def _title(attempt: AttemptFacts, item: int | None) -> str:
    again = f" (attempt {attempt.number})" if attempt.number > 1 else ""
    return f"{attempt.task}[{item}]{again}" if item is not None else f"{attempt.task}{again}"
