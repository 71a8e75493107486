"""Scaling curves from journals: of a study, or of what ordinary runs measured."""

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
from hooke.journal.run_folders import RunsFolder
from hooke.journal.study_records import STUDY_PREFIX, StudyRecord, read_study
from hooke.journal.throughput import Dropped, ThroughputRow, throughput
from hooke.planning.task_facts import LEAST_LEVELS, law_of_study
from hooke.scaling.measurements import Measurements

__all__ = [
    "MOST_RUNS",
    "Sampled",
    "chosen_task",
    "comparability_key",
    "comparable_rows",
    "curve_among",
    "curve_of",
    "sampled",
    "study_curve",
]


# --- Whether two measurements are comparable, and how they differ if not.

_NUMBERED = re.compile(r"(\w+):\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparabilityKey:
    """What must be equal for throughputs to belong to one curve. `shown` is for display and is not compared."""

    code: frozenset[tuple[str, str]]
    constants: frozenset[tuple[str, str]]
    cpus: float
    place: str
    host: str
    shown: tuple[tuple[str, str], ...] = field(compare=False)

    @property
    def text(self) -> str:
        """The arguments that all items share, such as `size=3`; empty if there are none."""
        return ", ".join(f"{name}={value}" for name, value in self.shown)


def comparability_key(row: ThroughputRow) -> ComparabilityKey:
    """The comparability key of a row. The backend's number of workers is not part of it: `local:8` counts as `local`."""
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


MOST_KINDS = 3
"""Kinds of work that an error lists."""
MOST_RUNS = 50
"""Number of the project's newest runs that are read for more of the same work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A task's throughput in one run, and what was not usable. `unit` is items or calls."""

    run: str
    entry: str
    task: str
    unit: str
    rows: tuple[ThroughputRow, ...]
    dropped: tuple[Dropped, ...]

    @property
    def busy_s(self) -> float:
        """The workers' seconds in the task, as far as rows include them."""
        return sum(row.busy_s for row in self.rows)


def curve_of(runs: RunsFolder, run: str, task: str = "") -> Curve:
    """The curve of a study, or of a run's `task`: by default of the measured task that took its workers longest.

    Most runs have one N, so the project's other runs count, too, if they did the same work: equal code, equal
    arguments apart from the items, equal cpus, on the same backend and host.

    Raises UsageError for an unknown task, NotEnoughData if the measurements cannot show a law: too little was
    measured, at fewer than three N, or N changed together with the kind of work. The error says what to run next.
    """
    study = read_study(runs.folder(run)) if run.startswith(STUDY_PREFIX) else None
    if study is not None:
        return study_curve(study, task)
    own = chosen_task(sampled(runs.events(run)), run, task)
    return curve_among(own, _elsewhere(runs, own) if own.rows else ())


def curve_among(own: Sampled, others: Iterable[ThroughputRow]) -> Curve:
    """The curve of a run's task, with `others`, rows of this task in other runs. Raises NotEnoughData as `curve_of`."""
    if not own.rows:
        raise _nothing(own)
    groups = _by_comparability([*own.rows, *others])
    best = _best_kind(own, groups)
    levels = _levels(groups[best])
    if len(levels) < 2:
        raise _one_n(own, best, groups)
    if len(levels) < LEAST_LEVELS:
        raise _two_n(own, groups[best])
    return _fitted(own, groups[best], _left_out(own, best))


def comparable_rows(own: Sampled, others: Iterable[ThroughputRow]) -> list[ThroughputRow]:
    """The rows that `curve_among` fits: of the run's kind of work that was measured at the most N. Nothing if `own` has no row."""
    groups = _by_comparability([*own.rows, *others])
    return groups[_best_kind(own, groups)] if own.rows else []


def _best_kind(own: Sampled, groups: Mapping[ComparabilityKey, Sequence[ThroughputRow]]) -> ComparabilityKey:
    mine = list(_by_comparability(own.rows))
    return max(mine, key=lambda kind: (len(_levels(groups[kind])), sum(row.items for row in groups[kind])))


def sampled(events: Sequence[Event]) -> list[Sampled]:
    """Each task of one run, in the order of the plan."""
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
            f"study {begun.study} varied sizes at one N, so it has no curve over N",
            next=f"hooke show {begun.study}",
        )
    plain = [each.seconds / each.work for each in study.plain]
    notes = [] if study.complete else ["the study is not complete; the curve shows the measurements so far"]
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


def chosen_task(tasks: Sequence[Sampled], run: str, task: str) -> Sampled:
    """The task of that name, or the one that took its workers longest. Raises NotEnoughData without tasks, UsageError for an unknown one."""
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
    """The task's throughput in the project's other runs."""
    others = [name for name in runs.names() if name != own.run]
    for name in others[:MOST_RUNS]:
        try:
            events = runs.events(name)
        except JournalError:
            continue  # `hooke runs` reports it
        if any(isinstance(event, NodePlanned) and event.task == own.task for event in events):
            yield from (row for row in throughput(events).rows if row.task == own.task)


def _by_comparability(rows: Iterable[ThroughputRow]) -> dict[ComparabilityKey, list[ThroughputRow]]:
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
        said.append(f"includes the same work in other runs: {_some(others)}")
    if _each_n_at_one_time(rows):
        said.append("each N was measured at one time only, so other changes over time look like effects of N")
    if own.dropped:
        said.append(f"not counted in run {own.run}: {_dropped_text(own.dropped)}")
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
    """The error if the run has no row of the task: all of it was cached, or its times were not usable."""
    what = f"run {own.run} has no usable measurement of {own.task}"
    if not own.dropped:
        return NotEnoughData(
            what,
            why="none of it ran in this run: it was cached, skipped, or has not begun",
            fix="name a run that computed it",
            next="hooke runs",
        )
    return NotEnoughData(
        what,
        why=_dropped_text(own.dropped),
        fix="run more items, or longer ones, with a constant number of workers",
        next=f"hooke show {own.run}",
    )


def _one_n(
    own: Sampled, kind: ComparabilityKey, groups: Mapping[ComparabilityKey, Sequence[ThroughputRow]]
) -> NotEnoughData:
    """The error if the run's kind of work was measured at one N only."""
    (n,) = _levels(groups[kind])
    others = {each: rows for each, rows in groups.items() if each != kind and set(_levels(rows)) - {n}}
    best = min((level for rows in others.values() for level in _levels(rows) if level != n), default=0)
    best = best or (1 if n > 1 else 2)
    what = f"{own.task} was measured only at N = {n}, which does not show how it scales"
    if others:
        what = f"{own.task} did this kind of work only at N = {n}, and other kinds at other N: N changed together with the work"
    return NotEnoughData(
        what,
        where=f"run {own.run}",
        why="\n".join(_kinds(kind, n, others)) if others else "",
        fix=_fix(best),
        next=_command(own, best),
        measure_at=float(best),
    )


def _two_n(own: Sampled, rows: Sequence[ThroughputRow]) -> NotEnoughData:
    """The error for two N, which give a ratio but no law."""
    levels, means = Measurements([row.n for row in rows], throughput=[row.rate for row in rows]).means()
    told = " and ".join(
        f"{mean:.4g} {own.unit}/s at N = {n:g}" for n, mean in zip(levels, means, strict=True)
    )
    best = 1 if levels[0] > 1 else 2 * int(levels[-1])
    return NotEnoughData(
        f"{own.task} was measured at two N, and two points cannot identify a curve",
        where=f"run {own.run}",
        why=f"{told}: {means[1] / means[0]:.2f} times as much by {levels[1] / levels[0]:g} times as many workers",
        fix=_fix(best),
        next=_command(own, best),
        measure_at=float(best),
    )


def _fix(n: int) -> str:
    return f"also run it with workers={n}, on items that are not cached; runs of one project with equal work count together"


def _command(own: Sampled, n: int) -> str:
    if own.entry == "pickle":
        return ""
    return f"hooke run {shlex.quote(own.entry)} --workers {n} --force={shlex.quote(own.task)}"


def _kinds(
    kind: ComparabilityKey, n: int, others: Mapping[ComparabilityKey, Sequence[ThroughputRow]]
) -> Iterator[str]:
    yield f"N = {n}: {kind.text or 'as in this run'}"
    for other, rows in [*others.items()][:MOST_KINDS]:
        yield f"N = {', '.join(map(str, _levels(rows)))}: {differences(kind, other)}"
    if len(others) > MOST_KINDS:
        yield f"and {len(others) - MOST_KINDS} more kinds"


def _left_out(own: Sampled, best: ComparabilityKey) -> list[str]:
    """Notes on the run's other kinds of work, and how they differ."""
    return [
        f"left out: {sum(row.items for row in rows):.0f} {own.unit} at N = {', '.join(map(str, _levels(rows)))}, "
        f"{differences(best, kind)}"
        for kind, rows in _by_comparability(own.rows).items()
        if kind != best
    ]


def _dropped_text(dropped: Sequence[Dropped]) -> str:
    """`12 as the time was too short, 3 as another task ran beside it`; fractions of items are rounded up."""
    return ", ".join(f"{int(np.ceil(each.items))} as {each.why}" for each in dropped)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
