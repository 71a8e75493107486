"""How long calls took in earlier runs, and how fast other machines are, from journals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hooke.base.errors import JournalError, UsageError
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
    ItemsFound,
    NodePlanned,
    RunFinished,
    RunStarted,
)
from hooke.journal.run_folders import RunsFolder
from hooke.journal.run_view import RunView
from hooke.journal.study_records import STUDY_PREFIX
from hooke.planning.data_sizes import DataUse, bytes_above, result_bytes
from hooke.planning.remaining import RemainingNode, reads_of
from hooke.scaling.call_times import PredictedRun, Timing, run_spread
from hooke.scaling.catalog import InstanceType, Range
from hooke.scaling.law import Law
from hooke.scaling.time_and_price import LOCAL, MOST_EXTRAPOLATED, Configuration, expected
from hooke.scaling.workload import CallNeed, NodeWork, TaskFacts, Workload

__all__ = ["HOST", "LEAST_SHARE", "RunTimes", "TimedCalls", "past_runs", "replays", "run_times", "speeds"]


MOST_BYTES = 16 * 1024 * 1024
"""Bytes of journals read in total, because more takes too long. A journal larger than this is skipped."""
MOST_RUNS = 20
"""Number of newest journals read. Older ones may be of other machines and other code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedCalls:
    """The calls of comparable nodes in one run: one task, equal code and arguments. `cpu_share` is cpu seconds per second.

    `data` is what one of these nodes read.
    """

    task: str
    kind: str
    code: Mapping[str, str]
    inputs: Mapping[str, str]
    timing: Timing
    cpu_share: float
    data: DataUse | None = None

    def comparability(self, work: RemainingNode) -> int:
        """2 if code and arguments equal those of `work`, 1 if only the code does, else 0."""
        if self.code != work.code:
            return 0
        return 1 + all(self.inputs.get(name) == key for name, key in work.constants.items())

    def kind_by(self, names: Iterable[str] | None) -> object:
        """Equal for calls of one task with equal code and equal arguments of these names.

        None compares all arguments.
        """
        inputs = self.inputs if names is None else {name: self.inputs.get(name, "") for name in names}
        return (
            self.task,
            tuple(sorted(self.code.items())),
            tuple(sorted(inputs.items())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """The timings of one run, and the cpus and `slots` of its backend.

    `works` are its nodes as the planner takes them, with `like` the place of their timing in `timed`. For a complete run,
    `worked_s` are the seconds from its first attempt to its last, and `beside_s` the others.
    """

    run: str
    pipeline: str
    host: str
    cpus: float
    timed: Sequence[TimedCalls]
    beside_s: float | None
    events: Sequence[Event]
    slots: int = 1
    works: Sequence[NodeWork] = ()
    worked_s: float | None = None


@dataclass(slots=True)
class _Span:
    items: int
    first: int
    seconds: float
    cpu_s: float
    began: float
    ended: float


@dataclass(slots=True)
class _Spans:
    """Attempts of one run by node, and, by task, the gaps between consecutive attempts of the task on a worker."""

    nodes: dict[int, list[_Span]] = field(default_factory=lambda: defaultdict(list))
    gaps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _tasks: dict[int, str] = field(default_factory=dict)
    _begun: dict[int, AttemptStarted] = field(default_factory=dict)
    _last: dict[str, tuple[str, float]] = field(default_factory=dict)
    lacking: bool = False
    """Whether attempts are left out, because they tell nothing of how long their calls take."""
    _ranks: dict[int, int] = field(default_factory=dict)
    """Node of an elastic gang -> the most ranks that it may have."""
    _resized: set[tuple[int, int]] = field(default_factory=set)
    """Items of elastic gangs of which the last attempt was only a part."""

    def apply(self, event: Event) -> None:
        """Fold one event."""
        if isinstance(event, NodePlanned):
            self._tasks[event.node] = event.task
            if event.least_ranks:
                self._ranks[event.node] = event.gang
        elif isinstance(event, AttemptFailed):
            if event.node in self._ranks:
                self._resized.add((event.node, event.lo))
        elif isinstance(event, AttemptStarted):
            self._begun[event.attempt] = event
            task, ended = self._last.get(event.worker, ("", 0.0))
            if task == self._tasks.get(event.node):
                self.gaps[task].append(max(event.at - ended, 0.0))
        elif isinstance(event, AttemptFinished) and event.hi > event.lo:
            begun = self._begun.pop(event.attempt, None)
            if begun is not None and not self._is_whole(begun):
                self.lacking = True
            elif begun is not None and begun.twin_of is None:
                took = max(event.seconds, event.at - begun.at)
                items = event.hi - event.lo
                self.nodes[event.node].append(_Span(items, event.lo, took, event.cpu_s, begun.at, event.at))
            self._last[event.worker] = (self._tasks.get(event.node, ""), event.at)

    def _is_whole(self, begun: AttemptStarted) -> bool:
        """Whether an attempt is all of its call. Of an elastic gang: with all ranks that it may have, from beginning to end."""
        most = self._ranks.get(begun.node)
        return most is None or (len(begun.workers) == most and (begun.node, begun.lo) not in self._resized)

    def gap(self, task: str) -> float:
        """The usual gap between two calls of the task on a worker: the lower quartile, because some gaps include waiting for other tasks."""
        gaps = sorted(self.gaps.get(task, ()))
        return gaps[len(gaps) // 4] if gaps else 0.0


@dataclass(slots=True)
class _Data:
    """What the nodes of one run read and returned, in bytes of all their items."""

    read: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    files: dict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    out: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    items: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    peak: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _found: set[tuple[int, str]] = field(default_factory=set)

    def apply(self, event: Event) -> None:
        """Fold one event."""
        if isinstance(event, AttemptFinished) and event.hi > event.lo:
            node = event.node
            self.out[node] += result_bytes(event.ref)
            self.items[node] += event.hi - event.lo
            self.peak[node] = max(self.peak[node], event.peak_bytes or 0)
            for each in event.observed:
                for one in each.inputs:
                    if one.kind == "file":
                        self.read[node] += one.size * (each.hi - each.lo)
                        self.files[node][one.name] = one.size
        elif isinstance(event, ItemsFound):
            if (event.node, event.ref.digest) not in self._found:
                self._found.add((event.node, event.ref.digest))
                self.out[event.node] += result_bytes(event.ref)
            self.items[event.node] += event.hi - event.lo

    def use(self, view: RunView, number: int, ran: int) -> DataUse:
        """The data of a node, of which `ran` items or calls ran."""
        node = view.nodes[number]
        planned, items = node.planned, node.items or 1
        columns = planned.data.keys() - planned.shown.keys() if planned.kind == "map" else set[str]()
        own = sum(size / items if name in columns else size for name, size in planned.data.items())
        texts = " ".join(planned.shown.values())
        parents = [
            (
                above.planned.kind,
                above.items,
                self.out[at] / max(self.items[at], 1),
                planned.items is None and f"{above.planned.task!r}" not in texts,
            )
            for at in planned.parents
            if (above := view.nodes.get(at)) is not None
        ]
        return DataUse(
            task=planned.task,
            kind=planned.kind,
            code=planned.code,
            inputs=planned.inputs,
            shown=planned.shown,
            items=items,
            own=own + self.read[number] / ran,
            above=bytes_above(planned.kind, node.items, parents),
            out=self.out[number] / max(self.items[number], 1),
            files=self.files[number],
            peak=self.peak[number],
        )


def past_runs(runs: RunsFolder) -> Iterator[RunTimes]:
    """The timings of a project's newest runs, the newest first. Damaged and too large journals are skipped."""
    names = [name for name in runs.names() if not name.startswith(STUDY_PREFIX)]
    left = MOST_BYTES
    for name in names[:MOST_RUNS]:
        file = runs.folder(name) / "driver.journal"
        if not file.is_file() or file.stat().st_size > left:
            continue
        left -= file.stat().st_size
        try:
            events = runs.events(name)
        except JournalError:  # `hooke runs` reports it
            continue
        found = run_times(events)
        if found is not None:
            yield found


def run_times(events: Sequence[Event]) -> RunTimes | None:
    """The timings in one run's events; None if the run never started."""
    view, spans, data = RunView(), _Spans(), _Data()
    slots = 0
    for event in events:
        view.apply(event)
        spans.apply(event)
        data.apply(event)
        if isinstance(event, CapacityChanged):
            slots = max(slots, event.slots)
    if view.begun is None:
        return None
    room = next((event for event in reversed(events) if isinstance(event, CapacityChanged)), None)
    groups: dict[object, list[int]] = defaultdict(list)
    for number in spans.nodes:
        if number in view.nodes:
            groups[_kind_of(view, number)].append(number)
    uses = {
        numbers[0]: data.use(view, numbers[0], sum(span.items for span in spans.nodes[numbers[0]]))
        for numbers in groups.values()
    }
    there = _there(view)
    worked, beside = (None if spans.lacking else _worked(events, spans)) or (None, None)
    timed = [
        _timed(
            view,
            spans,
            numbers,
            _at_once(view.nodes[numbers[0]].planned, there, room, slots),
            uses[numbers[0]],
        )
        for numbers in groups.values()
    ]
    return RunTimes(
        run=view.run,
        pipeline=view.begun.pipeline,
        host=view.begun.host,
        cpus=room.cpus if room is not None else math.inf,
        timed=timed,
        beside_s=beside,
        events=events,
        slots=slots or 1,
        works=_works(view, spans, groups.values(), {number: use.size for number, use in uses.items()}),
        worked_s=worked,
    )


def _works(
    view: RunView, spans: _Spans, groups: Iterable[Sequence[int]], sizes: Mapping[int, float]
) -> list[NodeWork]:
    """The nodes that ran. A map is taken to be in step with a map of as many items above it. `sizes` are of the first of each group."""
    like, size = dict[int, str](), dict[int, float]()
    for at, numbers in enumerate(groups):
        like.update(dict.fromkeys(numbers, str(at)))
        size.update(dict.fromkeys(numbers, sizes[numbers[0]]))
    place = {number: at for at, number in enumerate(sorted(like))}
    items = {number: sum(span.items for span in spans.nodes[number]) for number in like}
    works: list[NodeWork] = []
    for number in place:
        planned = view.nodes[number].planned
        above = [parent for parent in planned.parents if parent in place]
        works.append(
            NodeWork(
                task=planned.task,
                like=like[number],
                items=items[number],
                needs=tuple(
                    CallNeed(
                        place[parent],
                        in_step=planned.kind == view.nodes[parent].planned.kind == "map"
                        and items[parent] == items[number],
                    )
                    for parent in above
                ),
                reads=_reads(view, number),
                bytes=size[number],
                cpus=planned.cpus * planned.slots,
                gpus=planned.gpus * planned.slots,
                slots=planned.slots,
            )
        )
    return works


def _kind_of(view: RunView, number: int) -> object:
    planned = view.nodes[number].planned
    literal = tuple(sorted(planned.inputs.items())) if planned.kind == "call" else (number,)
    return planned.task, planned.kind, tuple(sorted(planned.code.items())), _reads(view, number), literal


def _reads(view: RunView, number: int) -> int:
    node = view.nodes[number]
    above = [view.nodes[parent] for parent in node.planned.parents if parent in view.nodes]
    return reads_of(node.planned.kind, node.items, [(each.planned.kind, each.items) for each in above])


def _timed(view: RunView, spans: _Spans, numbers: Sequence[int], at_once: int, data: DataUse) -> TimedCalls:
    planned = view.nodes[numbers[0]].planned
    own = [span for number in numbers for span in spans.nodes[number]]
    items = sum(span.items for span in own)
    seconds = sum(span.seconds for span in own)
    single = {span.first: span.seconds for span in own if span.items == 1}
    return TimedCalls(
        task=planned.task,
        kind=planned.kind,
        code=planned.code,
        inputs=planned.inputs,
        timing=Timing(
            items=items,
            seconds=seconds / items,
            gap_s=spans.gap(planned.task) * len(own) / items,
            spread=_spread(own),
            known=single if len(single) == items and planned.kind == "map" else {},
            at_once=at_once,
            reads=_reads(view, numbers[0]),
            bytes=data.size,
            run=view.run,
        ),
        cpu_share=sum(span.cpu_s for span in own) / seconds if seconds else 0.0,
        data=data,
    )


def _spread(spans: Sequence[_Span]) -> float:
    """The standard deviation of ln seconds among items. Among chunks of m items it is 1 / sqrt(m) of that."""
    logs = [(math.log(span.seconds / span.items), span.items) for span in spans if span.seconds > 0]
    if len(logs) < 2:
        return 0.0
    mean = sum(log for log, _ in logs) / len(logs)
    return math.sqrt(sum(items * (log - mean) ** 2 for log, items in logs) / (len(logs) - 1))


def _there(view: RunView) -> Mapping[str, int]:
    """Task -> number of its items and calls that the run attempted."""
    counts: dict[str, int] = {}
    for node in view.nodes.values():
        if node.attempts:
            counts[node.planned.task] = counts.get(node.planned.task, 0) + (node.items or 1)
    return counts


def _at_once(planned: NodePlanned, there: Mapping[str, int], room: CapacityChanged | None, slots: int) -> int:
    """How many calls of a task could run at once: those that fit, and no more than there are."""
    return max(1, min([there[planned.task], (slots or 1) // planned.slots, *_fitting(planned, room)]))


def _fitting(planned: NodePlanned, room: CapacityChanged | None) -> Iterator[int]:
    if room is None:
        return
    for asked, most in ((planned.cpus, room.cpus), (planned.memory, room.memory), (planned.gpus, room.gpus)):
        if asked and most and math.isfinite(most):
            yield max(int(most / (planned.slots * asked) + 1e-9), 1)


def _worked(events: Sequence[Event], spans: _Spans) -> tuple[float, float] | None:
    """Seconds of a run from its first attempt to its last, and all others; None if it was resumed or did not finish."""
    started = [event for event in events if isinstance(event, RunStarted)]
    ended = [event for event in events if isinstance(event, RunFinished) and event.status == "finished"]
    own = [span for node in spans.nodes.values() for span in node]
    if len(started) != 1 or not ended or not own:
        return None
    worked = max(span.ended for span in own) - min(span.began for span in own)
    return worked, max(ended[-1].seconds - worked, 0.0)


# --- Past runs, each predicted from those before it.

MOST_NEW = 0.1
"""The largest share of a run's work that may be new, if it is to be compared with a prediction."""


def replays(
    runs: Sequence[RunTimes], names: Mapping[str, Iterable[str]], laws: Mapping[str, Law | None]
) -> list[PredictedRun]:
    """How well each of these runs would have been predicted from those before it; `runs` has the newest first.

    `names` maps tasks to the arguments that must be equal, `laws` to the laws for other numbers of calls at once. A run
    counts if nearly all of its work had been timed before, and under conditions near enough that it tells about runs rather
    than about laws.
    """
    known: dict[object, list[tuple[str, Timing]]] = defaultdict(list)
    found: list[PredictedRun] = []
    for run in reversed(runs):
        kinds = [timed.kind_by(tuple(names.get(timed.task, ()))) for timed in run.timed]
        replay = _replay(run, [known.get(kind, []) for kind in kinds], laws)
        if replay is not None:
            found.append(replay)
        for kind, timed in zip(kinds, run.timed, strict=True):
            known[kind].append((run.run, timed.timing))
    return found


def _replay(
    run: RunTimes, earlier: Sequence[Sequence[tuple[str, Timing]]], laws: Mapping[str, Law | None]
) -> PredictedRun | None:
    work = [timed.timing.items * timed.timing.seconds for timed in run.timed]
    whole = sum(work)
    new = sum(each for each, before in zip(work, earlier, strict=True) if not before)
    if not run.worked_s or not whole or new > MOST_NEW * whole:
        return None
    facts = {
        str(at): TaskFacts(
            timings=[timing for _, timing in before] or [timed.timing], law=laws.get(timed.task)
        )
        for at, (timed, before) in enumerate(zip(run.timed, earlier, strict=True))
    }
    inverse = sum(
        each / len({name for name, _ in before}) for each, before in zip(work, earlier, strict=True) if before
    )
    told = expected(Workload(run.works, facts), _there_of(run), within=MOST_EXTRAPOLATED)
    if told is None:
        return None
    return PredictedRun(
        math.log(run.worked_s / told.seconds), (whole - new) / inverse, told.chance, told.laws
    )


def _there_of(run: RunTimes) -> Configuration:
    """The machine of a run as the planner takes it."""
    machine = InstanceType(
        catalog=LOCAL,
        name=run.host,
        vcpus=int(run.cpus) if math.isfinite(run.cpus) else run.slots,
        usd_per_hour=0.0,
        startup_s=(0.0, 0.0),
        speed=(1.0, 1.0),
    )
    return Configuration(machine=machine, workers=run.slots)


# --- The speed of another machine, measured by the same tasks there and here.

HOST = "@"
"""Prefix of a speed that names a host whose runs are compared."""
LEAST_SHARE = 0.01
"""Minimum share of the time of all compared tasks: shorter tasks say nothing about a machine's speed."""


def speeds(asked: Mapping[str, Any], runs: Sequence[RunTimes], *, here: str) -> dict[str, Any]:
    """The given speeds, with `@HOST` replaced by the speed measured in the project's journals.

    Raises UsageError if no task was timed on both machines.
    """
    return {
        name: _measured(name, value[1:], runs, here)
        if isinstance(value, str) and value.startswith(HOST)
        else value
        for name, value in asked.items()
    }


def _measured(name: str, host: str, runs: Sequence[RunTimes], here: str) -> Range:
    """The range of the ratios of all tasks timed on both machines, each with its interval.

    ln ratio lies within t sqrt(s^2 / runs here + s^2 / runs there), because runs differ. Tasks that take almost none
    of the time are left out.
    """
    both = [(mine, there) for mine, there in _pairs(runs, here, host) if mine and there]
    if not both:
        hosts = ", ".join(sorted({run.host for run in runs if run.host != here})) or "none"
        raise UsageError(
            f"speed of {name}: no comparable task was timed on both {host} and {here}",
            why="tasks are comparable with equal code, arguments and number of workers",
            fix=f"run the pipeline there and copy its runs to this project; other hosts with runs: {hosts}",
        )
    spent = [sum(each.items * each.seconds for each in mine) for mine, _ in both]
    kept = [pair for pair, share in zip(both, spent, strict=True) if share >= LEAST_SHARE * sum(spent)]
    ends = [_ratio(mine, there) for mine, there in kept]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _pairs(runs: Sequence[RunTimes], *hosts: str) -> list[tuple[list[Timing], ...]]:
    """For each kind of call, its timings on each host."""
    kinds: dict[object, tuple[list[Timing], ...]] = defaultdict(lambda: tuple([] for _ in hosts))
    for run in runs:
        if run.host in hosts:
            for timed in run.timed:
                if timed.timing.seconds > 0:
                    conditions = (timed.timing.reads, timed.timing.bytes, timed.timing.at_once)
                    kinds[timed.kind_by(None), conditions][hosts.index(run.host)].append(timed.timing)
    return list(kinds.values())


def _ratio(mine: Sequence[Timing], there: Sequence[Timing]) -> Range:
    logs = [sum(math.log(each.seconds) for each in own) / len(own) for own in (mine, there)]
    errors = [
        (spread := run_spread(own)).quantile * spread.value / math.sqrt(len(own)) for own in (mine, there)
    ]
    ratio, error = logs[0] - logs[1], math.hypot(*errors)
    return math.exp(ratio - error), math.exp(ratio + error)
