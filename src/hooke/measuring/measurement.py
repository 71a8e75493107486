"""Takes measurements: a graph is run with N workers, and its attempts are timed by their events."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hooke.base.clock import Clock
from hooke.base.errors import NotEnoughData, UsageError
from hooke.base.formats import format_seconds
from hooke.engines.worker.sampler import SAMPLES, WorkerSample
from hooke.journal.events import (
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
    MachineLoad,
    Measured,
    PlainMeasured,
    TimeUse,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.writer import Journal
from hooke.measuring.baseline_client import PlainCalls, packed_calls, packed_pipeline
from hooke.measuring.design import (
    PLAIN,
    Design,
    PlannedMeasurement,
    StudyProgress,
    Taken,
    next_turn,
    taken_in,
)
from hooke.measuring.excerpt import Excerpt, take_over
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.engine import Call, Capabilities, Engine, EngineContext, EngineEvent
from hooke.pipeline.failures import task_failed
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.planning.task_facts import spread_in
from hooke.processes.usage import CoreTimes, ProcessTreeUsage, frequency_here, runnable_here
from hooke.running.driver import plan_of
from hooke.running.past_durations import PastDurations, durations_in
from hooke.scaling.measurements import ENOUGH
from hooke.store.store import Store

__all__ = [
    "Bench",
    "LoadMeter",
    "MeasurementRounds",
    "NodeTotals",
    "Ran",
    "ReadyEngine",
    "Subject",
    "attempts_taken",
]


# --- An engine whose workers are all ready before the first attempt, so that their start is not timed.

LONGEST_S = 30.0
"""How long to wait for workers that an engine does not start, or cannot start, before there is work."""


@dataclass(slots=True, kw_only=True)
class ReadyEngine:
    """Wraps `engine` and keeps the events of its workers' start for the first `wait`."""

    engine: Engine
    capabilities: Capabilities = field(init=False)
    said: list[EngineEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.capabilities = self.engine.capabilities

    def await_workers(self, workers: int, clock: Clock) -> None:
        """Wait until this many workers are up. Returns early after a time limit or when one dies: the run reports why."""
        latest = clock.monotonic() + LONGEST_S
        while clock.monotonic() < latest:
            self.said += self.engine.wait(0.25)
            up = sum(isinstance(event, WorkerStarted) for event in self.said)
            if up >= workers or any(isinstance(event, WorkerStopped) for event in self.said):
                return

    def submit(self, calls: Sequence[Call]) -> None:
        """See `Engine`."""
        self.engine.submit(calls)

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """The kept events first, then those of the engine."""
        if not self.said:
            return self.engine.wait(timeout_s)
        said = self.said.copy()
        self.said.clear()
        return said

    def cancel(self, attempt: int) -> None:
        """See `Engine`."""
        self.engine.cancel(attempt)

    def scale(self, workers: int) -> None:
        """See `Engine`."""
        self.engine.scale(workers)

    def resize_gang(self, attempt: int, ranks: int) -> None:
        """See `Engine`."""
        self.engine.resize_gang(attempt, ranks)

    def close(self) -> None:
        """See `Engine`."""
        self.engine.close()


OpenEngine = Callable[[EngineContext, int], Engine]
"""Opens an engine of the measured backend with exactly this many workers."""


# --- Where the workers' time goes.

SAMPLE_S = 0.04
"""How often workers sample themselves: 25 samples a second cost about a hundredth of a core, 450 us each on busy cores."""


def time_use(
    events: Sequence[Event], part: Excerpt, *, workers: int, samples: Mapping[str, Sequence[WorkerSample]]
) -> TimeUse:
    """Where the time of `workers` went, from the events of a run and from the samples of each worker, in the order of time.

    Raises NotEnoughData as `attempts_taken` does.
    """
    spans = _spans(events, frozenset(part.measured))
    taken = attempts_taken(events, part.measured)
    begin, end = min(span.begin for span in spans), max(span.end for span in spans)
    idle = _idle(spans, {node.id: node.task.name for node in part.nodes if node.kind == "call"}, workers)
    sampled = [
        [each for each in own if begin <= each.at <= end + SAMPLE_S] for own in samples.values() if own
    ]
    changes = [(own[0], own[-1]) for own in sampled if len(own) > 1]
    cpu = [later.user_s + later.sys_s - first.user_s - first.sys_s for first, later in changes]
    system = sum(later.sys_s - first.sys_s for first, later in changes) / sum(cpu) if sum(cpu) > 0 else 0.0
    seconds = sorted(span.end - span.begin for span in spans)
    usual, longest = seconds[len(seconds) // 2], max(spans, key=lambda span: span.end - span.begin)
    counted: dict[str, Any] = {name: _counted(changes, name) for name in COUNTERS}
    firsts: dict[str, float] = {}
    for span in sorted(spans):
        firsts.setdefault(span.worker, span.end - span.begin)
    return TimeUse(
        busy_s=sum(seconds),
        user_s=taken.cpu_s * (1 - system),
        sys_s=taken.cpu_s * system,
        delay_s=_delays(changes, end - begin),
        waits=_waits(sampled, sum(seconds)),
        first_s=sum(max(0.0, first - usual) for first in firsts.values())
        if len(spans) >= 3 * workers
        else 0.0,
        longest_s=longest.end - longest.begin,
        longest_items=longest.items,
        usual_s=usual,
        attempts=len(spans),
        samples=sum(map(len, sampled)),
        **idle,
        **counted,
    )


COUNTERS = ("voluntary", "involuntary", "minor_faults", "major_faults", "read_bytes", "written_bytes")
_Changes = Sequence[tuple[WorkerSample, WorkerSample]]
"""The first and the last sample of each worker."""


def _counted(changes: _Changes, name: str) -> int | None:
    """What a counter counted in all workers; None if one does not know."""
    ends = [(getattr(first, name), getattr(later, name)) for first, later in changes]
    if not ends or any(end is None for pair in ends for end in pair):
        return None
    return int(sum(later - first for first, later in ends))


def _delays(changes: _Changes, seconds: float) -> float | None:
    """The worker-seconds without a core, scaled from the time between the samples to the whole time."""
    delays = [
        (later.delay_s - first.delay_s) * seconds / max(later.at - first.at, SAMPLE_S)
        for first, later in changes
        if first.delay_s is not None and later.delay_s is not None
    ]
    return max(0.0, sum(delays)) if delays else None


class _Span(NamedTuple):
    begin: float
    end: float
    node: int
    worker: str
    items: int


def _spans(events: Iterable[Event], measured: frozenset[int]) -> list[_Span]:
    """The attempts at these nodes, without those that read a dynamic map's list."""
    begun: dict[int, AttemptStarted] = {}
    spans: list[_Span] = []
    for event in events:
        if isinstance(event, AttemptStarted) and event.node in measured and not event.expand:
            begun[event.attempt] = event
        elif isinstance(event, AttemptFinished) and event.attempt in begun:
            start = begun[event.attempt]
            # Attempts wait in a worker's socket: the time of the task itself is what the worker tells.
            begin, items = max(start.at, event.at - event.seconds), event.hi - event.lo
            spans += [
                _Span(begin, event.at, event.node, worker, items)
                for worker in start.workers or (start.worker,)
            ]
    return spans


def _idle(spans: Sequence[_Span], calls: Mapping[int, str], workers: int) -> dict[str, Any]:
    """The idle worker-seconds by what the workers wait for: the fields of a TimeUse."""
    starts = {}
    for span in sorted(spans):
        starts.setdefault(span.worker, span.begin)
    last_start = max(span.begin for span in spans)
    idle = {"start_s": 0.0, "gap_s": 0.0, "tail_s": 0.0}
    serial: dict[str, float] = {}
    moments = sorted({moment for span in spans for moment in (span.begin, span.end)})
    for now, then in itertools.pairwise(moments):
        active = [span for span in spans if span.begin <= now < span.end]
        free = (workers - len(active)) * (then - now)
        names = {calls.get(span.node, "") for span in active}
        if free <= 0:
            continue
        if names and "" not in names:
            name = " and ".join(sorted(names))
            serial[name] = serial.get(name, 0.0) + free
        elif now >= last_start:
            idle["tail_s"] += free
        else:
            late = min(sum(start > now for start in starts.values()) * (then - now), free)
            idle["start_s"] += late
            idle["gap_s"] += free - late
    return {**idle, "serial": serial}


def _waits(sampled: Sequence[Sequence[WorkerSample]], busy_s: float) -> dict[str, float]:
    """`lock ledger.py:41` -> worker-seconds of attempts, by the share of the samples in attempts."""
    inside = [each for own in sampled for each in own if each.place]
    counts = Counter(f"{each.wait} {each.place}" for each in inside if each.wait)
    return {what: count / len(inside) * busy_s for what, count in counts.most_common(MOST_PLACES)}


MOST_PLACES = 8
"""How many places where workers wait are kept."""


def samples_in(logs: Path) -> dict[str, list[WorkerSample]]:
    """Worker -> its samples so far, which are removed: the next run writes new ones. The last line may be incomplete."""
    found: dict[str, list[WorkerSample]] = {}
    for file in sorted(logs.glob(f"*.log{SAMPLES}")):
        lines = file.read_bytes().split(b"\n")[:-1]
        found[file.name] = [_sample.decode(line) for line in lines]
        file.unlink()
    return found


_sample = msgspec.json.Decoder(WorkerSample)


# --- What else the machine does while something is measured.


class LoadMeter:
    """Measures the load of this machine besides this process and its descendants, from its creation to `end`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ours = ProcessTreeUsage(os.getpid())
        self._begun = self._now()

    def end(self) -> MachineLoad | None:
        """The load so far; None for a time that is too short for the kernel's counters, which count 10 ms."""
        (at, ours, cores), (at_begin, ours_begin, begun) = self._now(), self._begun
        seconds = at - at_begin
        if seconds < SHORTEST_LOAD_S:
            return None
        stolen, waiting = (
            None if now is None or then is None else (now - then) / seconds
            for now, then in ((cores.stolen_s, begun.stolen_s), (cores.waiting_s, begun.waiting_s))
        )
        return MachineLoad(
            seconds=seconds,
            others=max(0.0, cores.busy_s - begun.busy_s - (ours - ours_begin)) / seconds,
            stolen=stolen,
            waiting=waiting,
            runnable=runnable_here(),
            mhz=frequency_here(),
        )

    def _now(self) -> tuple[float, float, CoreTimes]:
        return self._clock.monotonic(), self._ours.cpu_s(), CoreTimes.now()


SHORTEST_LOAD_S = 0.1
"""The load during shorter measurements is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTotals:
    """Totals of the attempts at the measured nodes; `seconds` is wall time from the first start to the last end."""

    seconds: float
    cpu_s: float
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A finished run: its totals and its results."""

    taken: NodeTotals
    state: RunState
    calls: CallMaker
    events: tuple[Event, ...]
    load: MachineLoad | None
    use: TimeUse


@dataclass(slots=True, kw_only=True)
class Bench:
    """Runs excerpts with N workers in a separate store. Each run repeats the measured work."""

    study: str
    folder: Path
    store: Store
    secret: bytes | None
    clock: Clock
    open_engine: OpenEngine
    pinned: bool
    stop_requested: Callable[[], str | None] = lambda: None
    expected_s: dict[str, PastDurations] = field(default_factory=dict)
    """Task -> what its items took in the first run: as in every later run, the longest go first, and others in chunks of a known size."""

    def run(self, part: Excerpt, *, workers: int, segment: str) -> Ran:
        """Run the excerpt once; its events go to `segment`.

        Raises what a failed task raises, KeyboardInterrupt if the study was stopped, UsageError if this many
        workers cannot all work at once.
        """
        keys = GraphKeys(part, run=self.study)
        # No twin of a slow attempt: it would be work that the plain calls do not have.
        state = RunState(part, [plan_of(node, self.expected_s, repeatable=False) for node in part.nodes])
        calls = CallMaker(part, keys, state, self.store)
        events: list[Event] = []
        context = EngineContext(
            run=self.study,
            store=self.store,
            secret=self.secret,
            logs=self.folder / "logs",
            clock=self.clock,
            warm=True,
            pinned=self.pinned,
            ready_for=_cpus_of_all(part),
            sample_s=SAMPLE_S,
        )
        # Not synced: a power loss loses the study, not the user's results.
        with Journal.create(self.folder, segment, durable="none", clock=self.clock) as journal:
            journal.observers.append(events.append)
            engine = ReadyEngine(engine=self.open_engine(context, workers))
            try:
                if context.ready_for is not None:
                    engine.await_workers(workers, self.clock)
                meter = LoadMeter(self.clock)
                parts = self._parts(part, keys, state, engine=engine, journal=journal)
                status = Runner(parts).run()
                load = meter.end()
            finally:
                engine.close()
                samples = samples_in(context.logs)  # in any case: workers sample until it is removed
        self._check(status, state, part)
        _check_room(events, part, workers)
        return Ran(
            taken=attempts_taken(events, part.measured),
            state=state,
            calls=calls,
            events=tuple(events),
            load=load,
            use=time_use(events, part, workers=workers, samples=samples),
        )

    def _parts(
        self, part: Excerpt, keys: GraphKeys, state: RunState, *, engine: Engine, journal: Journal
    ) -> RunnerParts:
        return RunnerParts(
            run=self.study,
            graph=part,
            keys=keys,
            state=state,
            engine=engine,
            store=self.store,
            journal=journal,
            clock=self.clock,
            logs=self.folder / "logs",
            stop_requested=self.stop_requested,
        )

    def check_stopped(self) -> None:
        """Raise KeyboardInterrupt if a stop of the study was requested."""
        if self.stop_requested() is not None:
            raise KeyboardInterrupt(f"study {self.study} was stopped")

    def learn(self, ran: Ran, part: Excerpt) -> None:
        """Expect of maps from now on what their items took in this run."""
        maps = {node.id: node.task.name for node in part.nodes if node.kind == "map"}
        self.expected_s = durations_in(ran.events, maps)

    def _check(self, status: str, state: RunState, part: Excerpt) -> None:
        if status == "stopped":
            raise KeyboardInterrupt(f"study {self.study} was stopped")
        if state.failure is not None:
            task = part.nodes[state.failure.node].task.name
            raise task_failed(
                state.failure,
                task=task,
                run=self.study,
                unseal=self.store.unseal,
                next=f"hooke logs {self.study} {task}",
            )


def attempts_taken(events: Iterable[Event], measured: Sequence[int]) -> NodeTotals:
    """The totals of the attempts at these nodes, without reading a dynamic map's list.

    Raises NotEnoughData if there were none, or if they took no measurable time.
    """
    wanted = frozenset(measured)
    starts: list[float] = []
    ends: list[float] = []
    cpu_s, items = 0.0, 0
    for event in events:
        if isinstance(event, AttemptStarted) and event.node in wanted and not event.expand:
            starts.append(event.at)
        elif isinstance(event, AttemptFinished) and event.node in wanted and event.expanded is None:
            ends.append(event.at)
            cpu_s += event.cpu_s
            items += event.hi - event.lo
    if not starts or not ends or max(ends) <= min(starts):
        raise NotEnoughData(
            "nothing to measure: no attempt took any time",
            fix="choose parameters with which the task has work to do",
        )
    return NodeTotals(seconds=max(ends) - min(starts), cpu_s=cpu_s, items=items)


def _cpus_of_all(part: Excerpt) -> float | None:
    """The cpus of each measured task; None if they differ: then workers start when there is work."""
    asked = {
        (node.task.resources.cpus, node.task.resources.gpus)
        for node in part.nodes
        if node.id in part.measured
    }
    cpus, gpus = asked.pop()
    return None if asked or gpus else cpus


def _check_gangs(part: Excerpt, workers: int) -> None:
    """Raise UsageError if the whole pipeline is measured and has a gang, or if one needs more than N workers."""
    for node in part.nodes:
        ranks, name = node.task.resources.gang, node.task.name
        if ranks and part.is_whole:
            raise UsageError(
                f"{name!r} is a gang of {ranks} ranks, so its speed does not depend on the number of workers",
                fix=f"measure it with N ranks: --task {name}, or another task",
            )
        if ranks > workers:
            raise UsageError(
                f"the pipeline has a gang of {ranks} ranks, {name!r}, which does not fit N = {workers}",
                fix=f"measure from N = {ranks}, or make its gang= smaller",
            )


def _check_room(events: Iterable[Event], part: Excerpt, workers: int) -> None:
    """Raise UsageError if resources let fewer than N workers work at once."""
    rooms = [event for event in events if isinstance(event, CapacityChanged)]
    if part.is_whole or not rooms:
        return
    room = rooms[-1]
    for number in part.measured:
        asked = part.nodes[number].task.resources
        fit = {"cpus": room.cpus / asked.cpus}
        if asked.memory and room.memory is not None:
            fit["memory"] = room.memory / asked.memory
        if asked.gpus:
            fit["gpus"] = room.gpus / asked.gpus
        scarce = min(fit, key=fit.__getitem__)
        if fit[scarce] < min(workers, part.nodes[number].items or workers):
            name = part.nodes[number].task.name
            raise UsageError(
                f"only {int(fit[scarce])} of {workers} workers can run {name!r} at once: its {scarce}= is the limit",
                fix=f"measure up to N = {int(fit[scarce])}, or declare less {scarce}",
            )


# --- The measurements of a study: warm up, then measure until done, or until noise makes a conclusion impossible.


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The subject of a study: a part of a pipeline's graph, and the call that made the graph.

    `plain` does the same work in another way. It takes a map's whole columns, or a call's arguments.
    """

    pipeline: Pipeline[..., Any]
    args: tuple[Any, ...]
    params: Mapping[str, Any]
    part: Excerpt
    plain: Callable[..., Any] | None = None

    @property
    def unit(self) -> str:
        """The unit of work."""
        return "runs" if self.part.is_whole else "calls" if self.is_gang else "items"

    @property
    def is_gang(self) -> bool:
        """Whether a gang is measured, with N ranks."""
        return not self.part.is_whole and self.part.nodes[self.part.measured[0]].task.resources.gang > 0

    @property
    def task(self) -> str:
        """The task's name; empty for the whole pipeline."""
        return "" if self.part.is_whole else self.part.nodes[self.part.measured[0]].task.name

    @property
    def threads(self) -> int:
        """The threads of one worker, for the task with the most."""
        return max(max(1, int(self.part.nodes[number].task.resources.cpus)) for number in self.part.measured)

    def part_for(self, turn: PlannedMeasurement, design: Design) -> Excerpt:
        """The part to run for a planned measurement.

        Raises UsageError if the work cannot be reduced as the design requires, or if a gang does not fit.
        """
        part = self.part.with_ranks(turn.n)
        _check_gangs(part, turn.n)
        if turn.items is not None:
            return part.with_first(turn.items)
        return part if self.is_gang else part.with_share(design.share(turn.n))


@dataclass(slots=True, kw_only=True)
class MeasurementRounds:
    """Takes the missing measurements of a design and appends them to the journal.

    `measured` and `plain` are the measurements of the study's earlier drivers.
    """

    subject: Subject
    design: Design
    bench: Bench
    journal: Journal
    cache: Store
    """The project's store, which is only read."""
    core: int | None = None
    """The core to which the plain calls are bound; None leaves them unbound."""
    command: str = ""
    """The command that continues the study."""
    measured: list[Measured] = field(default_factory=list)
    plain: list[PlainMeasured] = field(default_factory=list)
    _segments: int = 0
    _workers_start_s: float = 0.0
    _warm_s: float = 0.0

    def run(self) -> None:
        """Take all measurements: whole rounds, or with a budget what `next_turn` says.

        Raises NotEnoughData if the machine is too noisy for this number of repeats, UsageError for a subject that
        cannot be measured, what a failed task raises, and KeyboardInterrupt.
        """
        part, design = self.subject.part, self.design
        parts = {turn: self.subject.part_for(turn, design) for turn in design.turns}
        whole = parts[design.turns[-1]]
        take_over(part, study=self.bench.study, cache=self.cache, into=self.bench.store)
        # Warm-up, not counted: it computes inputs, starts workers and imports.
        began = self.bench.clock.now()
        warm = self.bench.run(whole, workers=design.most, segment=self._segment())
        self._workers_start_s = _until_work(warm.events, began)
        self._warm_s = warm.taken.seconds
        self.bench.learn(warm, whole)
        work = self._calls(warm)
        with self._plain_calls(warm, whole) as plain:
            held = self.bench.store.usage().bytes
            turns = self._whole_rounds() if design.most_plain is None else self._within_budget()
            for number, turn in turns:
                self.bench.check_stopped()
                if turn == PLAIN:
                    self._time_plain(plain, number, work=work)
                else:
                    self._time(parts[turn], turn.n, number)
                if not (len(self.measured) + len(self.plain)) % (1 + len(design.turns)):
                    self._check_noise()
                    self.bench.store.gc(held)  # results that differ in each round would fill the disk

    def _whole_rounds(self) -> Iterator[tuple[int, PlannedMeasurement]]:
        """What is missing of each round, with the round's number. What earlier drivers measured of it counts."""
        done = {(each.repeat, each.turn) for each in self._taken()}
        for number, turns in enumerate(self.design.rounds()):
            yield from ((number, turn) for turn in turns if (number, turn) not in done)

    def _within_budget(self) -> Iterator[tuple[int, PlannedMeasurement]]:
        """What `next_turn` says, with how often it was measured before."""
        while True:
            progress = StudyProgress(design=self.design, taken=self._taken(), warm_s=self._warm_s)
            turn = next_turn(progress)
            if turn is None:
                return
            yield progress.count(turn), turn

    def _taken(self) -> list[Taken]:
        """All measurements in the order of time, also those of earlier drivers."""
        return taken_in(self.plain, self.measured, sized=bool(self.design.sizes))

    def _segment(self) -> str:
        """The name of the next run's segment, which must not exist yet."""
        while True:
            name = f"attempts-{self._segments:03d}"
            self._segments += 1
            if not (self.bench.folder / f"{name}.journal").exists():
                return name

    def _plain_calls(self, warm: Ran, part: Excerpt) -> PlainCalls:
        subject = self.subject
        if subject.part.is_whole:
            what = subject.plain or subject.pipeline
            work = packed_pipeline(what, subject.args, subject.params, warm.calls)
        else:
            work = packed_calls(part, warm.calls, plain=subject.plain)
        return PlainCalls(
            store=self.bench.store,
            secret=self.bench.secret,
            work=work,
            log=self.bench.folder / "logs" / "plain.log",
            core=self.core,
            gang=subject.is_gang,
        )

    def _calls(self, ran: Ran) -> float:
        return 1.0 if self.subject.part.is_whole else float(ran.taken.items)

    def _work(self, ran: Ran, n: int) -> float:
        """Of a gang whose ranks have equal work at every N: as much as so many calls with one rank."""
        return self._calls(ran) * (n if self.design.weak and self.subject.is_gang else 1)

    def _time(self, part: Excerpt, n: int, repeat: int) -> None:
        segment = self._segment()
        ran = self.bench.run(part, workers=n, segment=segment)
        event = Measured(
            task=self.subject.task,
            n=n,
            work=self._work(ran, n),
            seconds=ran.taken.seconds,
            repeat=repeat,
            cpu_s=ran.taken.cpu_s,
            segment=segment,
            load=ran.load,
            use=ran.use,
            at=self.bench.clock.now(),
        )
        self.journal.append(event)
        self.measured.append(event)

    def _time_plain(self, plain: PlainCalls, repeat: int, *, work: float) -> None:
        meter = LoadMeter(self.bench.clock)
        timed = plain.time()
        event = PlainMeasured(
            work=work,
            seconds=timed.seconds,
            repeat=repeat,
            cpu_s=timed.cpu_s,
            start_s=plain.start_s,
            workers_start_s=self._workers_start_s + plain.import_s,
            load=meter.end(),
            at=self.bench.clock.now(),
        )
        self.journal.append(event)
        self.plain.append(event)

    def _check_noise(self) -> None:
        """Stop early if more rounds cannot help. A complete study is reported in any case."""
        spread = spread_in(self.measured, self.plain)
        done = min(Counter(each.turn for each in self._taken()).values())  # a budget may leave out an N
        if done >= self.design.repeats or not spread.hopeless(self.design.repeats):
            return
        needed = spread.repeats_needed()
        shortest = min(each.seconds for each in self.measured)
        short = shortest < EASILY_DISTURBED_S
        raise NotEnoughData(
            f"the machine is too noisy to conclude: measurements at the same N spread by {spread.share:.0%}",
            why=f"after {done} repeats each N is known to {spread.half_width(done):.0%}, and {self.design.repeats} "
            f"repeats would not bring it below {ENOUGH:.0%}"
            + (f"; the shortest measurement took {format_seconds(shortest)}" if short else ""),
            fix=("measure more work, so that a measurement takes a second; or " if short else "")
            + f"use repeats={needed} (--repeats {needed}), which keeps the finished rounds; "
            "an idle machine needs fewer",
            next=_with_repeats(self.command, needed) if self.command else "",
        )


def _until_work(events: Sequence[Event], began: float) -> float:
    """Seconds until the first attempt."""
    first = next((event.at for event in events if isinstance(event, AttemptStarted)), began)
    return max(first - began, 0.0)


EASILY_DISTURBED_S = 0.1
"""A time slice that another program takes is a share of a shorter measurement that shows."""


def _with_repeats(command: str, repeats: int) -> str:
    """The command with another number of repeats. Of a repeated option the last counts."""
    ours, separator, parameters = command.partition(" -- ")
    return f"{ours} --repeats {repeats}{separator}{parameters}"
