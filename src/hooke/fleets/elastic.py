"""Elastic size of a run: its deadline and budget, what earlier runs tell, the decisions while it runs, their picture, and the cost."""

from __future__ import annotations

import math
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from hooke.autoscaling.observation import FleetLimits, Observation, Price, RunObserver, Scaling, TaskWork
from hooke.autoscaling.run_size_policy import FleetDecision, decide
from hooke.base.clock import Clock
from hooke.base.errors import NotEnoughData, UsageError
from hooke.base.units import parse_seconds, parse_usd
from hooke.fleets.remaining_work import RemainingWork, remaining_work
from hooke.journal.events import CapacityChanged, Event, RunStarted
from hooke.journal.fleet_events import FleetDecided, LaunchIntended
from hooke.journal.run_folders import RunsFolder
from hooke.machines.keeper import cost_usd, has_ledger, records_of
from hooke.pipeline.graph import Graph
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.run_state import RunState
from hooke.project.backends import ENGINES, BackendChoice
from hooke.project.folder import Project

if TYPE_CHECKING:  # SciPy takes a third of a second
    from hooke.planning.timings import TimedCalls
    from hooke.scaling.call_times import Timing
    from hooke.scaling.law import Law

__all__ = [
    "Elastic",
    "HistoryReader",
    "LawScope",
    "LedgerMeter",
    "RunTargets",
    "TaskHistory",
    "check_cost",
    "check_kept",
    "check_wanted",
    "parse_wanted",
    "run_meter",
    "sized_by",
    "spent_usd",
]


LEAST_LOOK_S, MOST_LOOK_S = 0.1, 5.0
LOOKS_A_START = 4.0
"""Decisions within the time of one worker start: no start could follow faster changes."""
MOST_SHARE, LARGEST_SHARE = 0.02, 0.1
"""The share of the driver's time that decisions may take; the second where two of them would be further apart than half of a start. On a
busy machine a decision takes as long as it waits for a core, and a run that can do nothing is to be seen before its rest is over."""


class TaskHistory(msgspec.Struct, frozen=True, kw_only=True):
    """What earlier runs and studies tell about a task: how far it scales, and how long an item took."""

    scaling: Scaling | None = None
    seconds: float | None = None
    spread: float = 0.0
    measured: int = 0


class PastRuns(Protocol):
    """Knowledge of tasks from earlier runs."""

    def histories(self) -> Mapping[str, TaskHistory] | None:
        """Task -> its history; None while it is being read."""


_NOTHING = TaskHistory()


class Elastic:
    """Sizes one run. `observe` gets the events of its journal, and the runner calls `decide`."""

    def __init__(
        self,
        limits: FleetLimits,
        tasks: Mapping[int, str],
        *,
        price: Price,
        clock: Clock,
        past: PastRuns,
        joined: bool = False,
    ) -> None:
        """`tasks` is graph node -> its task; `price` gives the time of a start until one has been seen.

        A `joined` backend belongs to somebody else: the run begins with the workers that it has.
        """
        self.joined = joined
        self.target = max(limits.low, 1)
        """The wanted number of workers, with which the run begins."""
        self.spent_usd = 0.0
        self.ledger: LedgerMeter | None = None
        """What says what is spent, where the machines of the run have a ledger."""
        self._limits = limits
        self._price = price
        self._clock = clock
        self._past = past
        self._watch = RunObserver(tasks, start_s=price.start_s)
        self._capacity: CapacityChanged | None = None
        self._paid_until = clock.monotonic()
        self._next_look = -math.inf
        self._took_s = 0.0
        """How long the last decision took."""
        self._rose = -math.inf
        self._said: set[tuple[int, str]] = set()
        self._decided = False

    def observe(self, event: Event) -> None:
        """Fold an event of the run."""
        if isinstance(event, CapacityChanged):
            if self.joined and not self._decided:  # its workers join one after the other
                self.target = event.workers or event.slots
            self._capacity = event
        self._watch.apply(event, self._clock.monotonic())

    def decide(self, now: float, state: RunState) -> FleetDecided | None:
        """The next decision, if it is time for one and it differs from what was said."""
        at = self._clock.monotonic()
        past = self._past.histories() if at >= self._next_look else None
        if past is None or self._capacity is None:
            return None
        left = remaining_work(state, now)
        rest_s = 0.0 if state.waits_for_others else _rest_s(left)
        seen = self._observation(at, left, past, rest_s=rest_s)
        made = decide(now, seen)
        # The decision guards a budget until the next look, so its own time delays only the one after.
        self._took_s = self._clock.monotonic() - at
        self._next_look = at + max(seen.look_s, self._took_s)
        return self._told(at, made, seen)

    def _told(self, at: float, made: FleetDecision, seen: Observation) -> FleetDecided | None:
        before, self.target, self._decided = self.target, made.target, True
        if made.target != before:
            self._said.clear()
            self._watch.asked(at, made.target - before)
            self._rose = at if made.target > before else self._rose
        plain = made.target == before and made.bound in {"work", "idle", "start"}
        if not made.stop and (plain or (made.target, made.bound) in self._said):
            return None
        self._said.add((made.target, made.bound))
        return FleetDecided(
            before=before,
            after=made.target,
            reason=made.reason,
            bound=made.bound,
            stop=made.stop,
            workers=seen.have,
            could=sum(work.now for work in seen.works),
            left=sum(work.left for work in seen.works),
            spent_usd=self.spent_usd,
        )

    def _observation(
        self,
        at: float,
        left: list[RemainingWork],
        past: Mapping[str, TaskHistory],
        *,
        rest_s: float,
    ) -> Observation:
        assert self._capacity is not None
        workers = self._watch.workers(at)
        gangs = max((each.slots for each in left), default=0)
        slots = max(self._capacity.slots // self._capacity.workers, 1) if self._capacity.workers else 1
        self._pay(at, max(-(-len(workers) // slots), self.target))
        start_s = self._watch.start_s
        usual_s = min(max(start_s / LOOKS_A_START, LEAST_LOOK_S), MOST_LOOK_S)
        rare_s = min(self._took_s / MOST_SHARE, max(start_s / 2, self._took_s / LARGEST_SHARE))
        look_s = max(usual_s, rare_s)
        return Observation(
            target=self.target,
            workers=workers,
            slots=slots,
            works=tuple(
                self._work(each, past.get(each.task, _NOTHING), within_s=start_s + look_s) for each in left
            ),
            limits=replace(self._limits, gang=min(gangs, self._limits.high)),
            price=replace(self._price, start_s=start_s),
            spent_usd=self.spent_usd,
            asked_s=at - self._rose,
            look_s=look_s,
            rest_s=rest_s,
        )

    def _pay(self, at: float, workers: int) -> None:
        if self.ledger is not None:
            self.spent_usd = self.ledger.usd(self._clock.now())
            return
        self.spent_usd += workers * (at - self._paid_until) * self._price.usd_per_hour / 3600
        self._paid_until = at

    def _work(self, left: RemainingWork, told: TaskHistory, *, within_s: float) -> TaskWork:
        """Retries that are due `within_s` count as ready: a worker that is asked for now is there in time for them."""
        mean, spread, measured = self._durations(left, told)
        soon = sum(1 for seconds in left.retry_s if seconds <= within_s)
        return TaskWork(
            task=left.task,
            running=left.running,
            ready=left.ready + soon,
            waiting=max(left.waiting - soon, 0),
            open_ended=left.open_ended,
            seconds=mean,
            spread=spread,
            measured=measured,
            begun_s=sum(min(since, items * mean) for since, items in left.running_s) if mean else 0.0,
            longest_s=max((since / items for since, items in left.running_s), default=0.0),
            fits=self._fits(left),
            scaling=told.scaling,
        )

    def _durations(self, left: RemainingWork, told: TaskHistory) -> tuple[float | None, float, int]:
        """Mean, spread and number of measured items: in this run, else in earlier ones."""
        seen = self._watch.durations(left.task)
        if seen is not None:
            return seen.mean, seen.spread, seen.attempts
        if left.expected_s:
            from statistics import fmean, pstdev  # with its fractions 1 ms of each start

            return fmean(left.expected_s), pstdev(left.expected_s), len(left.expected_s)
        return told.seconds, told.spread, told.measured

    def _fits(self, left: RemainingWork) -> int | None:
        """How many items fit the backend at once when all its workers are there."""
        assert self._capacity is not None
        capacity, high = self._capacity, self._limits.high
        asked = (
            (left.cpus, max(capacity.cpus, float(high)) if left.cpus > 1 else None),
            (left.memory, capacity.memory),
            (left.gpus, capacity.gpus),
        )
        fitting = [max(int(total / amount + 1e-9), 1) for amount, total in asked if amount and total]
        return min(fitting, default=None)


def _rest_s(left: Sequence[RemainingWork]) -> float:
    """Seconds until anything can run, where all that is left waits for retries, or for what they make; else 0. Pure."""
    if any(each.running or each.ready for each in left):
        return 0.0
    return min((seconds for each in left for seconds in each.retry_s), default=0.0)


# -- deadline and budget ---------------------------------------------------------------------------

START_S = {"local": 0.3, "dask": 2.0, "ray": 5.0, "kubernetes": 8.0}
"""How long a worker takes to start, until one has been seen: a fork, a Python process with Dask, a Ray actor."""
UNKNOWN_START_S = 10.0
RELEASE_S = 1.0
"""The most that ending a worker takes."""


_BARE = re.compile(r"[A-Za-z0-9_-]+")


class RunTargets(msgspec.Struct, frozen=True, kw_only=True):
    """When the run must be done, and what it may cost; None is no limit."""

    deadline: float | None = None
    """Seconds since the epoch."""
    budget_usd: float | None = None
    spent_usd: float = 0.0
    """What the same run spent before it was resumed."""


def parse_wanted(deadline: str | float | None, budget: str | float | None, *, now: float) -> RunTargets:
    """`"30m"` or seconds from now, and `"$20"` or US dollars. Raises UsageError."""
    seconds = None if deadline is None else parse_seconds(deadline, name="deadline")
    if seconds == 0:
        raise UsageError(f"deadline {deadline!r} must be longer than 0 s", fix='for example "30m"')
    return RunTargets(
        deadline=None if seconds is None else now + seconds,
        budget_usd=None if budget is None else parse_usd(budget),
    )


def check_wanted(wanted: RunTargets, place: BackendChoice, *, resumed: bool = False) -> None:
    """Raise UsageError where the number of workers, which keeps a deadline or budget, cannot change. `resumed` is as in `check_kept`."""
    if wanted.deadline is None and wanted.budget_usd is None:
        return
    what = "a deadline" if wanted.deadline is not None else "a budget"
    if not ENGINES.load(place.engine).capabilities.elastic:
        raise UsageError(
            f"{what} needs a changing number of workers, which {place.name!r} cannot have",
            fix='use on="local"',
        )
    if not place.scalable:
        check_kept(wanted, place, resumed=resumed)
        return
    if not place.elastic:
        raise UsageError(
            f"{what} needs a changing number of workers, and {place.name!r} has a fixed one",
            fix="pass a range: workers=(1, 8), or --workers 1-8",
        )
    if wanted.budget_usd is not None and not place.usd_per_hour:
        raise UsageError(
            f"a budget needs the price of a worker, and {place.name!r} has none",
            fix=f'set it in hooke.toml: [places.{place.name if _BARE.fullmatch(place.name) else "NAME"}] engine = "{place.engine}", usd_per_hour = 0.20',
        )


def check_cost(place: BackendChoice) -> None:
    """Raise UsageError where even the fewest workers of the backend exceed its price limit."""
    if place.workers is None or not place.usd_per_hour:
        return
    least = max(place.workers[0], 1)
    usd = least * place.usd_per_hour
    if usd > place.max_usd_per_hour * (1 + 1e-9):
        raise UsageError(
            f"{least} {'worker' if least == 1 else 'workers'} on {place.name!r} would cost ${usd:.4g}/h, more than the limit of ${place.max_usd_per_hour:.4g}/h",
            fix=f"use fewer workers; or raise max_usd_per_hour in hooke.toml under [places.{place.name}], or correct usd_per_hour",
        )


def check_kept(wanted: RunTargets, place: BackendChoice, *, resumed: bool) -> None:
    """Raise UsageError where an engine cannot change its number of workers, but a budget or deadline needs that.

    A resumed run continues without its deadline: it may have begun on a cluster that could be scaled.
    """
    if wanted.budget_usd is None and (wanted.deadline is None or resumed):
        return
    raise UsageError(
        f"{'a deadline' if wanted.budget_usd is None else 'a budget'} needs a changing number of workers, which {place.name!r} cannot have",
        why="a scheduler's address cannot start or end workers",
        fix='pass a Dask cluster that can be scaled: run(..., on=cluster); or on="dask", which starts workers on this machine; '
        "or omit the deadline and the budget",
    )


def sized_by(place: BackendChoice, wanted: RunTargets, graph: Graph, past: PastRuns, clock: Clock) -> Elastic:
    """The Elastic that sizes a run on this backend."""
    assert place.workers is not None
    low, high = place.workers
    made = Elastic(
        FleetLimits(
            low=low,
            high=high,
            usd_per_hour=place.max_usd_per_hour,
            deadline=wanted.deadline,
            budget_usd=wanted.budget_usd,
        ),
        {node.id: node.task.name for node in graph.nodes},
        price=Price(
            usd_per_hour=place.usd_per_hour,
            start_s=START_S.get(place.engine, UNKNOWN_START_S),
            release_s=RELEASE_S,
        ),
        clock=clock,
        past=past,
        joined=place.at is not None and place.engine != "ray",  # on a joined Ray the hosts are the run's own
    )
    made.spent_usd = wanted.spent_usd
    return made


# -- the history of tasks --------------------------------------------------------------------------


class LawScope(msgspec.Struct, frozen=True, kw_only=True):
    """Which laws apply: those of a pipeline's `entry` (file and name), measured on the backend `place`."""

    entry: str
    place: str


class HistoryReader:
    """Reads the history of a run's tasks in a thread: SciPy and a folder of journals take a second, for which no run should wait."""

    def __init__(
        self, runs: RunsFolder, graph: Graph, keys: GraphKeys, *, where: LawScope, most: int
    ) -> None:
        """`where` and `most`: laws of the same file and backend, up to so many workers."""
        self._found: dict[str, TaskHistory] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._read, args=(runs, graph, keys, where, most), name="hooke-history", daemon=True
        )
        self._thread.start()

    def histories(self) -> Mapping[str, TaskHistory] | None:
        """Task -> its history; None while it is being read. Raises what reading raised."""
        if self._thread.is_alive():
            return None
        if self._error is not None:
            raise self._error
        return self._found

    def _read(self, runs: RunsFolder, graph: Graph, keys: GraphKeys, where: LawScope, most: int) -> None:
        try:
            self._found = _histories(runs, graph, keys, where, most)
        except BaseException as error:  # noqa: BLE001 - `histories` raises it in the run
            self._error = error


def _histories(
    runs: RunsFolder, graph: Graph, keys: GraphKeys, where: LawScope, most: int
) -> dict[str, TaskHistory]:
    from hooke.planning.remaining import RemainingNode
    from hooke.planning.task_facts import PastJournals, law_of_levels, levels_of, rows_of

    past = PastJournals.read(runs, pipeline=graph.pipeline, host=socket.gethostname())
    if not past.is_here:
        return {}
    here = _kind(where.place)
    rows = [row for row in rows_of(past.runs) if _kind(row.place) == here]
    studies = {
        task: [
            each for each in own if _kind(each.started.place) == here and each.started.entry == where.entry
        ]
        for task, own in past.studies.items()
    }
    found: dict[str, TaskHistory] = {}
    for node in graph.nodes:
        task = node.task.name
        if task not in found:
            code = {part.name: part.digest for part in keys[node.id].code.parts}
            left = RemainingNode(node=node, items=None, reads=0, code=code, constants={})
            law = law_of_levels(levels_of(left, studies.get(task, ()), past.runs, rows)).law
            timings = next((own for run in past.runs if (own := _timings(run.timed, task, code))), [])
            found[task] = _of(law, timings, most)
    return found


def _kind(place: str) -> str:
    """The backend without its number of workers: `local` of `local:8`."""
    name, _, count = place.rpartition(":")
    return name if name and count.isdigit() and "/" not in name else place


def _timings(timed: Sequence[TimedCalls], task: str, code: Mapping[str, str]) -> list[Timing]:
    return [each.timing for each in timed if each.task == task and each.code == code and each.timing.items]


def _of(law: Law | None, timings: Sequence[Timing], most: int) -> TaskHistory:
    from hooke.autoscaling.observation import scaling_of

    try:
        scaling = scaling_of(law, most) if law is not None else None
    except NotEnoughData:  # no prediction for one worker, so none for several
        scaling = None
    items = sum(each.items for each in timings)
    if not items:
        return TaskHistory(scaling=scaling)
    mean = sum(each.items * each.seconds for each in timings) / items
    spread = max(each.spread for each in timings) * mean
    return TaskHistory(scaling=scaling, seconds=mean, spread=spread, measured=items)


# -- the cost of a run -----------------------------------------------------------------------------

ORPHANS_S = 60.0
"""How long machines of a driver that died may go on: the pods of a run notice it within this time."""


class LedgerMeter:
    """What the machines of a run have cost, by its ledger. The time between two drivers of it costs nothing."""

    def __init__(self, runs: RunsFolder, run: str, *, fleet: str = "", ledger: Path | None = None) -> None:
        """Reads when drivers lived until now; `ledger` is that of the fleet `fleet`, which the run has joined. Raises JournalError."""
        self.fleet = fleet
        """The fleet whose machines are meant, for as long as the run lasted; empty where they are the run's own."""
        self._folder = ledger or runs.folder(run)
        signs = [each.at for each in (*runs.events(run), *([] if ledger else records_of(self._folder)))]
        after_s = 0.0 if ledger else ORPHANS_S
        # In order also where a driver on another machine, whose clock is behind, has resumed the run.
        starts = sorted(each.at for each in runs.events(run) if isinstance(each, RunStarted))
        self._spans: list[tuple[float, float]] = []
        self._lives = runs.alive(run)
        for began, ended in zip(starts, [*starts[1:], math.inf], strict=True):
            last = max((sign for sign in signs if began <= sign < ended), default=began)
            self._spans.append((began, min(last + after_s, ended)))

    def usd(self, now: float) -> float:
        """US dollars until now; of a run that nobody drives, until a minute after its last sign of life."""
        spans = list(self._spans)
        if self._lives and spans:
            spans[-1] = spans[-1][0], now
        return cost_usd(records_of(self._folder), spans)

    @property
    def machines(self) -> int:
        """How many machines the ledger has asked for."""
        return sum(isinstance(each, LaunchIntended) for each in records_of(self._folder))

    @property
    def priced(self) -> bool:
        """Whether the ledger has a price."""
        return any(
            isinstance(each, LaunchIntended) and each.usd_per_hour > 0 for each in records_of(self._folder)
        )


def run_meter(project: Project, run: str) -> LedgerMeter | None:
    """What says what a run has cost: its own ledger, or that of the fleet at whose scheduler it ran; None where neither has a price.

    Raises JournalError.
    """
    runs, own = project.runs, has_ledger(project.runs.folder(run))
    rented = {name: each.fleet for name, each in project.settings.places.items() if each.fleet and not own}
    places = [each.place for each in runs.events(run) if isinstance(each, RunStarted)] if rented else []
    fleet = rented.get(places[-1], "") if places else ""
    if not own and not fleet:
        return None
    ledger = project.data / "fleets" / fleet if fleet else None
    meter = LedgerMeter(runs, run, fleet=fleet, ledger=ledger)
    return meter if meter.priced else None


def spent_usd(events: Sequence[Event], signs: Sequence[float], *, least: int, usd_per_hour: float) -> float:
    """What a run has cost so far in US dollars, from the driver's `events`, for its resumption. Each driver process began with `least` workers.

    `signs` are moments at which some process of the run was alive: a driver may write nothing during a long task, and may have died
    without a record. The time between two driver processes costs nothing.
    """
    starts = [event.at for event in events if isinstance(event, RunStarted)]
    spent = 0.0
    for began, ended in zip(starts, [*starts[1:], float("inf")], strict=True):
        seen = [sign for sign in signs if began <= sign < ended]
        inside = [event for event in events if began <= event.at < ended]
        spent = _after(spent, inside, max(seen, default=began), least, usd_per_hour)
    return spent


def _after(spent: float, events: Sequence[Event], until: float, least: int, usd_per_hour: float) -> float:
    workers, since = least, events[0].at
    for event in events:
        if isinstance(event, FleetDecided):  # it includes what was spent before
            spent, workers, since = event.spent_usd, max(event.after, event.workers), event.at
        until = max(until, event.at)
    return spent + workers * (until - since) * usd_per_hour / 3600
