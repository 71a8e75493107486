"""Curves from journals: of a study that was made on purpose, or of what ordinary runs measured by the way."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hooke.base.errors import JournalError, NotEnoughData, UsageError
from hooke.charts.curve_chart import Curve
from hooke.journal.events import Event, NodePlanned, RunStarted
from hooke.journal.records import STUDY_PREFIX, StudyRecord, read_study
from hooke.journal.run_folders import RunsFolder
from hooke.journal.throughput import Dropped, ThroughputRow, throughput
from hooke.planning.task_facts import law_of_study
from hooke.scaling.measurements import Measurements

__all__ = [
    "ComparabilityKey",
    "Sampled",
    "comparability_key",
    "curve_of",
    "differences",
    "sampled",
    "study_curve",
]


# --- Whether two measurements were of the same kind of work, and how they differ where not.

_NUMBERED = re.compile(r"(\w+):\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparabilityKey:
    """What must be equal for throughputs to be of one curve. `shown` is for people, and is not compared."""

    code: frozenset[tuple[str, str]]
    constants: frozenset[tuple[str, str]]
    cpus: float
    place: str
    host: str
    shown: tuple[tuple[str, str], ...] = field(compare=False)

    @property
    def text(self) -> str:
        """The arguments that all items share, `size=3`; empty where there are none."""
        return ", ".join(f"{name}={value}" for name, value in self.shown)


def comparability_key(row: ThroughputRow) -> ComparabilityKey:
    """The kind of work that the row measured. How many workers a place has is no part of it: `local:8` is `local`."""
    numbered = _NUMBERED.fullmatch(row.place)
    return ComparabilityKey(
        code=frozenset(row.code.items()),
        constants=frozenset(row.constants.items()),
        cpus=row.cpus,
        place=numbered[1] if numbered else row.place,
        host=row.host,
        shown=tuple(row.shown.items()),
    )


def differences(one: ComparabilityKey, other: ComparabilityKey) -> str:
    """How `other` differs from `one`, in words."""
    return ", ".join(_differences(one, other)) or "the same"


def _differences(one: ComparabilityKey, other: ComparabilityKey) -> Iterator[str]:
    changed = sorted({name for name, _ in one.code ^ other.code})
    if changed:
        yield f"other code ({', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''})"
    shown = dict(other.shown)
    for name in sorted({name for name, _ in one.constants ^ other.constants}):
        yield f"{name}={shown[name]}" if name in shown else f"without {name}"
    if one.cpus != other.cpus:
        yield f"cpus={other.cpus:g}"
    if one.place != other.place:
        yield f"at {other.place}"
    if one.host != other.host:
        yield f"on {other.host}"


LEAST_LEVELS = 3
"""Through two points goes a line, and a curve that is about to bend."""
MOST_KINDS = 3
"""Kinds of work that a refusal lists."""
MOST_RUNS = 50
"""Runs of the project that are read for more of the same work, the newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What one run's journal tells of a task's throughput, and what it could not use. `unit` is items or calls."""

    run: str
    entry: str
    task: str
    unit: str
    rows: tuple[ThroughputRow, ...]
    dropped: tuple[Dropped, ...]

    @property
    def busy_s(self) -> float:
        """The workers' seconds in the task, as far as they are in rows."""
        return sum(row.busy_s for row in self.rows)


def curve_of(runs: RunsFolder, run: str, task: str = "") -> Curve:
    """The curve of a study, or of a run's `task`: by default the one of those measured that took its workers longest.

    One run mostly has one N, so the project's other runs count too where they did the same work: equal code, equal
    arguments but for the items, equal cpus, at the same place on the same host.

    Raises UsageError for a task that the run does not have, NotEnoughData where no law can be told: too little was
    measured, at fewer than three N, or N changed together with the kind of work. It says what to run next.
    """
    study = read_study(runs.folder(run)) if run.startswith(STUDY_PREFIX) else None
    if study is not None:
        return study_curve(study, task)
    own = _chosen(sampled(_events(runs, run)), run, task)
    if not own.rows:
        raise _nothing(own)
    groups = _by_likeness([*own.rows, *_elsewhere(runs, own)])
    mine = list(_by_likeness(own.rows))
    best = max(mine, key=lambda kind: (len(_levels(groups[kind])), sum(row.items for row in groups[kind])))
    levels = _levels(groups[best])
    if len(levels) < 2:
        raise _one_n(own, best, groups)
    if len(levels) < LEAST_LEVELS:
        raise _two_n(own, groups[best])
    return _fitted(own, groups[best], _left_out(own, best))


def sampled(events: Sequence[Event]) -> list[Sampled]:
    """Each task of one run, in the order in which they were planned."""
    begun = next((event for event in events if isinstance(event, RunStarted)), None)
    if begun is None:
        return []
    kinds: dict[str, str] = {}
    for event in events:
        if isinstance(event, NodePlanned):
            kinds.setdefault(event.task, event.kind)
    told = throughput(events)
    return [
        Sampled(
            run=begun.run,
            entry=begun.entry,
            task=task,
            unit="items" if kind == "map" else "calls",
            rows=tuple(row for row in told.rows if row.task == task),
            dropped=tuple(each for each in told.dropped if each.task == task),
        )
        for task, kind in kinds.items()
    ]


def study_curve(study: StudyRecord, task: str = "") -> Curve:
    """The curve of a study, with the COST against its plain calls. Raises UsageError, NotEnoughData."""
    begun = study.started
    if task not in {"", begun.task}:
        raise UsageError(
            f"study {begun.study} has no task {task!r}",
            fix=f"it measured {begun.task or 'the whole pipeline'}",
        )
    if begun.sizes:
        raise UsageError(
            f"study {begun.study} measured sizes by one N, not several N", next=f"hooke show {begun.study}"
        )
    plain = [each.seconds / each.work for each in study.plain]
    notes = [] if study.complete else ["the study is not complete: what it had measured so far is shown"]
    if begun.weak:
        notes.append("weak scaling: the work grew with N")
    return Curve(
        law_of_study(study),
        plain or None,
        name=begun.task or begun.pipeline,
        source=f"study {begun.study}",
        unit=begun.unit,
        notes=notes,
        counts=study.counts,
    )


def _events(runs: RunsFolder, run: str) -> list[Event]:
    return runs.events(run)


def _chosen(tasks: Sequence[Sampled], run: str, task: str) -> Sampled:
    if not tasks:
        raise NotEnoughData(f"run {run} has no task yet", next=f"hooke show {run}")
    if task:
        found = next((each for each in tasks if each.task == task), None)
        if found is None:
            names = ", ".join(each.task for each in tasks)
            raise UsageError(f"run {run} has no task {task!r}", fix=f"its tasks: {names}")
        return found
    return max(tasks, key=lambda each: (each.busy_s, sum(lost.items for lost in each.dropped)))


def _elsewhere(runs: RunsFolder, own: Sampled) -> Iterator[ThroughputRow]:
    """What other runs of the project measured of the task."""
    others = [name for name in runs.names() if name != own.run]
    for name in others[:MOST_RUNS]:
        try:
            events = _events(runs, name)
        except JournalError:
            continue  # `hooke runs` names what cannot be read
        if any(isinstance(event, NodePlanned) and event.task == own.task for event in events):
            yield from (row for row in throughput(events).rows if row.task == own.task)


def _by_likeness(rows: Iterable[ThroughputRow]) -> dict[ComparabilityKey, list[ThroughputRow]]:
    groups: dict[ComparabilityKey, list[ThroughputRow]] = defaultdict(list)
    for row in rows:
        groups[comparability_key(row)].append(row)
    return groups


def _levels(rows: Iterable[ThroughputRow]) -> list[int]:
    return sorted({row.n for row in rows})


def _fitted(own: Sampled, rows: Sequence[ThroughputRow], notes: Sequence[str]) -> Curve:
    names = list(dict.fromkeys(row.run for row in rows))
    others = [name for name in names if name != own.run]
    more = f" and {len(others)} more" if others else ""
    said = [*notes]
    if others:
        said.append(f"the same work in other runs counts too: {_some(others)}")
    if _each_n_at_one_time(rows):
        said.append("each N was measured at one time only: what else changed in between counts as N")
    if own.dropped:
        said.append(f"not counted in run {own.run}: {_told_of(own.dropped)}")
    try:
        return Curve(
            Measurements([row.n for row in rows], throughput=[row.rate for row in rows]),
            name=own.task,
            source=f"run {own.run}{more}",
            unit=own.unit,
            notes=said,
        )
    except NotEnoughData as refusal:
        refusal.where = f"{own.task} in run {own.run}{more}"
        raise


def _each_n_at_one_time(rows: Sequence[ThroughputRow]) -> bool:
    ordered = np.array([row.n for row in sorted(rows, key=lambda row: row.began_at)])
    return int(np.count_nonzero(np.diff(ordered))) == len(_levels(rows)) - 1


def _nothing(own: Sampled) -> NotEnoughData:
    """The run has no row of the task: it took all of it from the cache, or its time could not be used."""
    what = f"run {own.run} measured nothing of {own.task} at any one N"
    if not own.dropped:
        return NotEnoughData(
            what,
            why="none of it ran here: it was cached, is not needed, or has not begun",
            fix="name a run that computed it",
            next="hooke runs",
        )
    return NotEnoughData(
        what,
        why=_told_of(own.dropped),
        fix="more items, or items that take longer, on a number of workers that does not change",
        next=f"hooke show {own.run}",
    )


def _one_n(
    own: Sampled, kind: ComparabilityKey, groups: Mapping[ComparabilityKey, Sequence[ThroughputRow]]
) -> NotEnoughData:
    """The run's kind of work was done at one N only; where other kinds were done at others, N changed with the kind."""
    (n,) = _levels(groups[kind])
    others = {each: rows for each, rows in groups.items() if each != kind and set(_levels(rows)) - {n}}
    best = min((level for rows in others.values() for level in _levels(rows) if level != n), default=0)
    best = best or (1 if n > 1 else 2)
    what = f"{own.task} was measured at N = {n} only, which does not tell how it scales"
    if others:
        what = f"{own.task} did this kind of work at N = {n} only, and another kind at other N: N changed together with the work"
    return NotEnoughData(
        what,
        where=f"run {own.run}",
        why="\n".join(_kinds(kind, n, others)) if others else "",
        fix=_fix(best),
        next=_command(own, best),
        measure_at=float(best),
    )


def _two_n(own: Sampled, rows: Sequence[ThroughputRow]) -> NotEnoughData:
    """Two N have a ratio, and no law."""
    levels, means = Measurements([row.n for row in rows], throughput=[row.rate for row in rows]).means()
    told = " and ".join(
        f"{mean:.4g} {own.unit}/s at N = {n:g}" for n, mean in zip(levels, means, strict=True)
    )
    best = 1 if levels[0] > 1 else 2 * int(levels[-1])
    return NotEnoughData(
        f"{own.task} was measured at two N, which cannot tell one law from another",
        where=f"run {own.run}",
        why=f"{told}: {means[1] / means[0]:.2f} times as much by {levels[1] / levels[0]:g} times as many workers",
        fix=_fix(best),
        next=_command(own, best),
        measure_at=float(best),
    )


def _fix(n: int) -> str:
    return f"run it with workers={n} too, on items that are not cached; equal work in runs of one project counts together"


def _command(own: Sampled, n: int) -> str:
    return "" if own.entry == "pickle" else f"hooke run {shlex.quote(own.entry)} --workers {n}"


def _kinds(
    kind: ComparabilityKey, n: int, others: Mapping[ComparabilityKey, Sequence[ThroughputRow]]
) -> Iterator[str]:
    yield f"N = {n}: {kind.text or 'as in this run'}"
    for other, rows in [*others.items()][:MOST_KINDS]:
        yield f"N = {', '.join(map(str, _levels(rows)))}: {differences(kind, other)}"
    if len(others) > MOST_KINDS:
        yield f"and {len(others) - MOST_KINDS} kinds more"


def _left_out(own: Sampled, best: ComparabilityKey) -> list[str]:
    """What other kinds of work the run itself did, and how they differ."""
    return [
        f"left out: {sum(row.items for row in rows):.0f} {own.unit} at N = {', '.join(map(str, _levels(rows)))}, "
        f"{differences(best, kind)}"
        for kind, rows in _by_likeness(own.rows).items()
        if kind != best
    ]


def _told_of(dropped: Sequence[Dropped]) -> str:
    """`12 as the time was too short, 3 as another task ran beside it`; parts of items are rounded up."""
    return ", ".join(f"{int(np.ceil(each.items))} as {each.why}" for each in dropped)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
