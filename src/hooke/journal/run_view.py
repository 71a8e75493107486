"""The view of a run, folded from its driver's journal, for tables, `hooke show`, `hooke runs` and `Run`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hooke.base.errors import TaskError, TaskFailed, UsageError
from hooke.base.formats import aligned, format_bytes, format_seconds, readable
from hooke.base.intervals import OneSegment, SegmentMap
from hooke.base.ref import Ref
from hooke.journal.events import (
    BUDGET,
    WITH_FAILURES,
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    BackendTrouble,
    CapacityChanged,
    CodeSeen,
    Event,
    InputsChanged,
    ItemsFound,
    ItemsSkipped,
    MadeOf,
    MapExpanded,
    NodePlanned,
    RetryPlanned,
    RunFinished,
    RunMadeOf,
    RunStarted,
    StopRequested,
    StudyStarted,
    WorkerStarted,
    WorkerStopped,
    ended_as,
)
from hooke.journal.reader import first_event, last_event
from hooke.journal.run_folders import RunsFolder
from hooke.journal.service_events import BatchWindow
from hooke.journal.task_view import NodeView, SlotUse, TaskRow, TaskView, close_node, open_child

__all__ = [
    "AttemptFacts",
    "AttemptsView",
    "Remaining",
    "RunRow",
    "RunView",
    "aligned",
    "ending",
    "failed_items_text",
    "is_service",
    "moment",
    "output_ref",
    "run_table",
    "view_of",
]


# --- Attempts: their tasks and outcomes, which readers of logged values need.


class AttemptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt: its task, and its status: `running`, `finished` or `failed`."""

    task: str
    number: int
    started_at: float
    ended_at: float | None = None
    status: str = "running"
    node: int = -1
    key: str = ""
    """Of the node."""


class AttemptsView:
    """A fold of the driver's events. Attempt numbers are unique in a run, even after resumes."""

    def __init__(self) -> None:
        self.begun: RunStarted | None = None
        self.first_at = 0.0
        self.starts = 0
        """How often its driver began: more than once if it was resumed."""
        self.ended: RunFinished | None = None
        self.made_of: MadeOf | None = None
        self.attempts: dict[int, AttemptFacts] = {}
        self._nodes: dict[int, NodePlanned] = {}

    def apply(self, event: Event) -> None:
        """Fold one event."""
        match event:
            case RunStarted():
                self.begun = self.begun or event
                self.first_at = self.first_at or event.at
                self.starts += 1
                self.ended = None
            case RunFinished():
                self.ended = event
            case RunMadeOf():
                self.made_of = self.made_of or event.record
            case NodePlanned():
                self._nodes[event.node] = event
            case AttemptStarted():
                planned = self._nodes[event.node]
                self.attempts[event.attempt] = AttemptFacts(
                    task=planned.task,
                    number=event.number,
                    started_at=event.at,
                    node=event.node,
                    key=planned.key,
                )
            case AttemptFinished() | AttemptFailed():
                known = self.attempts.get(event.attempt)
                if known is not None:
                    status = "finished" if isinstance(event, AttemptFinished) else "failed"
                    ended = msgspec.structs.replace(known, ended_at=event.at, status=status)
                    self.attempts[event.attempt] = ended
            case _:
                pass


class Remaining(msgspec.Struct, frozen=True, kw_only=True):
    """Estimated seconds to the run's end, without the `untimed` tasks, which have no durations yet."""

    seconds: float
    untimed: tuple[str, ...] = ()


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run at one moment, as plain values (for listings and `--json`).

    Counts are of items (of maps with known length), or of requests for a service.
    """

    run: str
    pipeline: str
    entry: str
    status: str
    place: str
    parameters: dict[str, str]
    started_at: float
    seconds: float
    items: int
    waiting: int
    running: int
    cached: int
    done: int
    failed: int
    workers: int
    busy: int
    slots: int
    peak_bytes: int | None
    remaining: Remaining | None
    message: str
    """Why it ended as it did; while it runs, what keeps its backend from having workers. Empty for nothing."""
    resumed: int
    name: str = ""
    tags: dict[str, str] = {}

    @property
    def ended_as(self) -> str:
        """The status for people: `finished with 3 failures`."""
        return ended_as(self.status, self.failed)


CHAIN_SMALL = 1000
"""Up to so many nodes and links, looking for the longest chain takes a millisecond at most."""
CHAIN_NODE_S = 1e-6
"""What a node or a link costs it, at most."""
CHAIN_SHARE = 0.02
"""Of the time, it takes at most so much."""
CHAIN_FELL = 0.9
"""With fewer than this share of the nodes and links left, the longest chain is looked for again: a cache has ended many at once."""


class _Chain(NamedTuple):
    """The longest chain as it was found at a time, among so many open nodes and links."""

    at: float
    size: int
    seconds: float


class RunView:
    """A fold of one driver's events; `apply` costs the ranges of one node, never its items. Not thread-safe, nor to read.

    `status` is `new`, `running`, `finished`, `finished with failures`, `failed`, `stopped`, or `lost`: not finished, and
    `driver_alive(False)` was said. `nodes` are the graph's, `tasks` the same by task name in the order of the graph, `workers` those that
    are up. After a resume nodes are matched by key, so that what was done stays done and edited nodes begin anew.

    With `only_rows`, calls that have their results are not among the nodes any more, and the others have the plan of a call of their
    task: a million nodes take a tenth of the memory, and no row tells more of them.
    """

    only_rows = False

    def __init__(self) -> None:
        self.begun: RunStarted | None = None
        self.ended: RunFinished | None = None
        self.nodes: dict[int, NodeView] = {}
        self.tasks: dict[str, TaskView] = {}
        self.code: dict[str, CodeSeen] = {}
        self.workers: dict[str, WorkerStarted] = {}
        self.capacity: CapacityChanged | None = None
        self.trouble = ""
        """What kept the backend from having workers when it was heard of last."""
        self.first_at: float | None = None
        self.last_at = 0.0
        self.resumed = 0
        self.stopping_by: str | None = None
        self.answered = 0
        """Requests of a service with a result; `unanswered` were rejected, late or failed."""
        self.unanswered = 0
        self._alive: bool | None = None
        self._former: dict[str, list[NodeView]] = {}
        self._former_tasks: dict[str, TaskView] = {}
        self._busy: Counter[str] = Counter()
        self._since: float | None = None
        self._spent_s = 0.0
        self._slot_use = SlotUse()
        self._alike: dict[tuple[object, ...], NodePlanned] = {}
        """What rows and failures tell of a call's plan -> the plan of the first such call."""
        self._chain: _Chain | None = None
        """When the longest chain was found, and its seconds."""
        self._folds: dict[type[Any], Callable[[Any], None]] = {
            RunStarted: self._run_started,
            RunFinished: self._run_finished,
            StudyStarted: self._study_started,
            StopRequested: self._stop_requested,
            CodeSeen: self._code_seen,
            NodePlanned: self._node_planned,
            MapExpanded: self._map_expanded,
            InputsChanged: self._inputs_changed,
            ItemsFound: self._items_found,
            ItemsSkipped: self._items_skipped,
            CapacityChanged: self._capacity_changed,
            BackendTrouble: self._backend_trouble,
            WorkerStarted: self._worker_started,
            WorkerStopped: self._worker_stopped,
            AttemptStarted: self._attempt_started,
            AttemptFinished: self._attempt_finished,
            AttemptFailed: self._attempt_failed,
            RetryPlanned: self._retry_planned,
            BatchWindow: self._batch_window,
        }

    @classmethod
    def fold(cls, events: Iterable[Event]) -> RunView:
        """The view of these events, in their order."""
        view = cls()
        for event in events:
            view.apply(event)
        return view

    def apply(self, event: Event) -> None:
        """Fold one event. The measurements of a study are not part of this view; see `hooke.journal.study_records`."""
        fold = self._folds.get(type(event))
        if fold is not None:
            fold(event)
        self.last_at = max(self.last_at, event.at)

    # -- reading the view --------------------------------------------------------------------------

    def driver_alive(self, alive: bool | None, last_written: float = 0.0) -> None:  # noqa: FBT001 - the verb's object
        """Set whether a process drives the run now. Without it an unfinished run counts as running.

        `last_written` is when anything of the run was written last: the driver of a script says nothing between start and end.
        """
        self._alive = alive
        if self.begun is not None and self.begun.kind == "script":
            self.last_at = max(self.last_at, last_written)

    @property
    def run(self) -> str:
        """The run's id; empty before its first event."""
        return self.begun.run if self.begun else ""

    @property
    def status(self) -> str:
        """`new`, `running`, `finished`, `finished with failures`, `failed`, `stopped` or `lost`."""
        if self.ended is not None:
            return self.ended.status
        if self.begun is None:
            return "new"
        return "lost" if self._alive is False else "running"

    @property
    def resume_command(self) -> str:
        """The command that continues the run; with twice the budget if that ended it, for the same one would end it at once.

        A run that never began cannot be continued; its command lists the others.
        """
        if not self.run:
            return "hooke runs"
        command = f"hooke resume {self.run}"
        if self.begun is not None and self.begun.budget_usd is not None and self.stopping_by == BUDGET:
            return f"{command} --budget {2 * self.begun.budget_usd:g}"
        return command

    @property
    def output(self) -> Ref | None:
        """The pipeline's output, once the run has finished."""
        return self.ended.output if self.ended else None

    @property
    def busy(self) -> int:
        """Workers that run an attempt now."""
        return len(self._busy)

    @property
    def failure(self) -> AttemptFailed | None:
        """The failure that ended the run; before its end, the last failure without a later retry or success."""
        if self.ended is not None and self.ended.status != "failed":
            return None
        if self.ended is not None and self.ended.node in self.nodes:
            return self.nodes[self.ended.node].failure
        if not self._has_failed:
            return None
        failures = [node.failure for node in self.nodes.values() if node.failed_count and node.failure]
        return max(failures, key=lambda event: event.at, default=None)

    def failures(self) -> list[tuple[int | None, AttemptFailed]]:
        """The items that failed without a later retry or success, each with its last attempt, in the order of the graph.

        The item is None for a call, and for the list of a map.
        """
        if not self._has_failed:
            return []
        return [each for number in sorted(self.nodes) for each in self.nodes[number].failed_attempts()]

    @property
    def _has_failed(self) -> bool:
        return any(task.counts.failed for task in self.tasks.values())

    def error(self, run: str = "") -> TaskFailed | None:
        """The failure as an error with the next command to type; None if no task failed. `run` defaults to its id."""
        event = self.failure
        if event is None or event.node not in self.nodes:
            return None
        return self._error(event, run)

    def errors(self, run: str = "", most: int | None = None) -> list[TaskFailed]:
        """The first `most` of the `failures` as errors."""
        return [self._error(event, run) for _, event in self.failures()[:most]]

    def _error(self, event: AttemptFailed, run: str) -> TaskFailed:
        planned = self.nodes[event.node].planned
        return TaskFailed.from_facts(
            msgspec.structs.asdict(event.failure),
            task=planned.task,
            item=event.item if planned.kind == "map" else None,
            attempt=event.attempt,
            tries=self.nodes[event.node].tries_of(event),
            worker=event.worker,
            run=run or self.run,
        )

    def results(self, node: int) -> SegmentMap | OneSegment:
        """Which stored object holds which items of a node. Raises KeyError for an unknown node."""
        return self.nodes[node].results

    def seconds(self, now: float) -> float:
        """Wall seconds that a driver worked on the run until `now`, without gaps between death and resume."""
        if self._since is None:
            return self._spent_s
        return self._spent_s + max((self.last_at if self.status == "lost" else now) - self._since, 0.0)

    def remaining(self, now: float) -> Remaining | None:
        """The remaining time, from the mean durations of finished items and the slots; None once the run is over.

        The larger of the remaining work divided by the slots, at the pace of lately if that is slower, and the longest chain of tasks that wait for each other. An attempt that
        is overdue by more than that leaves nothing to say: no seconds, or None if all tasks were timed.
        """
        if self.status != "running":
            return None
        works = {name: task.work_s(now) for name, task in self.tasks.items()}
        untimed = tuple(name for name, work in works.items() if work is None)
        slots = self._slots()
        shared = sum(work for work in works.values() if work) / (slots * self._slot_use.share(now, slots))
        seconds = max(shared, self._longest_chain_s(now, shared))
        if max((task.overdue_s(now) for task in self.tasks.values()), default=0.0) > seconds:
            return Remaining(seconds=0.0, untimed=untimed) if untimed else None
        return Remaining(seconds=seconds, untimed=untimed)

    def rows(self, now: float) -> list[TaskRow]:
        """The tasks at `now`, in the order of the graph."""
        return [task.row(now) for task in self.tasks.values()]

    def row(self, now: float) -> RunRow:
        """The run at `now`."""
        begun, tasks = self.begun, list(self.tasks.values())
        counts = [task.counts for task in tasks]
        peaks = [task.peak_bytes for task in tasks if task.peak_bytes is not None]
        return RunRow(
            run=self.run,
            pipeline=begun.pipeline if begun else "",
            entry=begun.entry if begun else "",
            status=self.status,
            place=begun.place if begun else "",
            parameters=dict(begun.shown) if begun else {},
            started_at=self.first_at or 0.0,
            seconds=self.seconds(now),
            items=sum(each.items for each in counts),
            waiting=sum(each.waiting for each in counts),
            running=sum(each.running for each in counts),
            cached=sum(each.cached for each in counts),
            done=sum(each.settled - each.cached for each in counts) + self.answered,
            failed=sum(each.failed for each in counts) + self.unanswered,
            workers=len(self.workers),
            busy=self.busy,
            slots=self.capacity.slots if self.capacity else 0,
            peak_bytes=max(peaks, default=None),
            remaining=self.remaining(now),
            message=self.ended.message if self.ended else self.trouble,
            resumed=self.resumed,
            name=begun.name if begun else "",
            tags=dict(begun.tags) if begun else {},
        )

    def _slots(self) -> int:
        slots = self.capacity.slots if self.capacity else 0
        return max(slots, len(self._busy), 1)

    def _longest_chain_s(self, now: float, enough: float) -> float:
        """The seconds of the longest chain of nodes that wait for each other; less than `enough` may be too much.

        In a large graph it may be some time old: looking for it takes at most CHAIN_SHARE of the time.
        """
        tasks = self.tasks.values()
        # No chain has more nodes of a task than the task has levels. Rounding must not hide a longer one.
        most = sum((task.item_s or 0.0) * min(len(task.open), len(task.levels)) for task in tasks)
        if not most or most < enough * (1 - 1e-9):
            return most
        size = sum(task.counts.open + task.counts.links for task in tasks)
        for_s = size * CHAIN_NODE_S / CHAIN_SHARE if size > CHAIN_SMALL else 0.0
        if (
            self._chain is None
            or not 0 <= now - self._chain.at < for_s
            or size < CHAIN_FELL * self._chain.size
        ):
            self._chain = _Chain(now, size, self._find_longest_chain(now))
        return min(self._chain.seconds, most)

    def _find_longest_chain(self, now: float) -> float:
        """Parents have smaller ids than their children, so one pass in order finds the longest path."""
        nodes = {number: node for task in self.tasks.values() for number, node in task.open.items()}
        item_s = {name: task.item_s or 0.0 for name, task in self.tasks.items()}
        ends: dict[int, float] = {}
        for number in sorted(nodes):
            node = nodes[number]
            own = item_s[node.planned.task]
            if node.running and not node.waiting_count:  # its last items run already
                own = max(0.0, own - (now - max(started.at for started in node.firsts)))
            ends[number] = own + max((ends.get(parent, 0.0) for parent in node.parents), default=0.0)
        return max(ends.values(), default=0.0)

    # -- one fold per event ------------------------------------------------------------------------

    def _run_started(self, event: RunStarted) -> None:
        if self.begun is not None:
            self._take_up_again()
        self.begun, self.ended, self.stopping_by = event, None, None
        self.first_at = event.at if self.first_at is None else self.first_at
        self._since = event.at

    def _study_started(self, event: StudyStarted) -> None:
        """A study is listed among the runs, so fold its start like a run's start."""
        alike = ("pipeline", "entry", "shown", "place", "folder", "pid", "host", "python", "hooke", "at")
        self._run_started(RunStarted(run=event.study, **{name: getattr(event, name) for name in alike}))

    def _take_up_again(self) -> None:
        self.resumed += 1
        if self._since is not None:
            self._spent_s += max(self.last_at - self._since, 0.0)
        self._former = {}
        for node in self.nodes.values():
            node.no_longer_runs()
            self._former.setdefault(node.key, []).append(node)
        self._former_tasks = dict(self.tasks)
        self.nodes.clear()
        self.tasks.clear()
        self._slot_use = SlotUse()
        self._chain = None
        self._nobody_works()

    def _run_finished(self, event: RunFinished) -> None:
        self.ended = event
        if self._since is not None:
            self._spent_s += max(event.at - self._since, 0.0)
        self._since = None
        for task in self.tasks.values():
            task.stop()
        self._nobody_works()

    def _nobody_works(self) -> None:
        self.workers.clear()
        self._busy.clear()
        self.capacity = None

    def _batch_window(self, event: BatchWindow) -> None:
        self.answered += event.requests
        self.unanswered += event.failed + event.refused + event.late

    def _stop_requested(self, event: StopRequested) -> None:
        self.stopping_by = event.by

    def _code_seen(self, event: CodeSeen) -> None:
        self.code[event.digest] = event

    def _node_planned(self, event: NodePlanned) -> None:
        former = self._former.get(event.key)
        node = NodeView(event, self._task(event.task), planned=self._plan_alike(event))
        if former:
            node.take_over(former.pop(0))
        before = self.nodes.get(event.node)
        self.nodes[event.node] = node
        open_child(self.nodes, node)
        node.task.add(node, before)

    def _plan_alike(self, event: NodePlanned) -> NodePlanned | None:
        if not self.only_rows or event.kind != "call":
            return None
        told = (event.task, event.cpus, event.memory, event.retries, event.gang, event.least_ranks)
        return self._alike.setdefault(told, event)

    def _over(self, node: NodeView) -> None:
        """A node may have become complete. Its task counts it once more, and may keep it until then."""
        close_node(self.nodes, node)
        if self.only_rows and node.complete and node.planned.kind == "call" and not node.running:
            del self.nodes[node.number]

    def _task(self, name: str) -> TaskView:
        task = self.tasks.get(name)
        if task is None:
            task = self.tasks[name] = self._former_tasks.pop(name, None) or TaskView(name)
            task.begin_anew()
        return task

    def _map_expanded(self, event: MapExpanded) -> None:
        node = self.nodes.get(event.node)
        if node is not None:
            node.items = event.items
            node.tainted_list = event.tainted
            node.expansion_failed = False
            node.count_again()
            close_node(self.nodes, node)

    def _inputs_changed(self, event: InputsChanged) -> None:
        node = self.nodes.get(event.node)
        if node is not None:
            node.changed += (event,)

    def _items_found(self, event: ItemsFound) -> None:
        node = self.nodes.get(event.node)
        if node is not None:
            self._size_from_parents(node)
            if node.found(event):
                node.task.saved_s += event.seconds
            node.count_again()
            self._over(node)

    def _items_skipped(self, event: ItemsSkipped) -> None:
        node = self.nodes.get(event.node)
        if node is not None:
            self._size_from_parents(node)
            node.skip(event.lo, event.hi)
            node.count_again()

    def _capacity_changed(self, event: CapacityChanged) -> None:
        self.capacity, self.trouble = event, ""

    def _backend_trouble(self, event: BackendTrouble) -> None:
        self.trouble = f"{event.about}: {event.message}"

    def _worker_started(self, event: WorkerStarted) -> None:
        self.workers[event.worker] = event

    def _worker_stopped(self, event: WorkerStopped) -> None:
        self.workers.pop(event.worker, None)
        self._busy.pop(event.worker, None)

    def _attempt_started(self, event: AttemptStarted) -> None:
        node = self.nodes.get(event.node)
        if node is None or event.attempt in node.running:
            return
        if not event.expand:
            self._size_from_parents(node)
        node.started(event)
        node.count_again()
        node.task.began(event.at)
        for worker in event.workers or (event.worker,):
            self._busy[worker] += 1

    def _attempt_finished(self, event: AttemptFinished) -> None:
        node = self.nodes.get(event.node)
        if node is None:
            return
        beaten = node.beside(event.attempt)
        if beaten is not None:
            self._free(node, beaten.attempt)
        self._free(node, event.attempt)
        self._slot_use.ended(event.at, event.seconds)
        new = node.finished(event)
        if event.expanded is not None:
            self._map_expanded(event.expanded)
        node.task.ended(event, new)
        node.count_again()
        self._over(node)

    def _attempt_failed(self, event: AttemptFailed) -> None:
        node = self.nodes.get(event.node)
        if node is not None:
            self._free(node, event.attempt)
            node.task.ended(event, node.broke(event))
            node.count_again()

    def _retry_planned(self, event: RetryPlanned) -> None:
        node = self.nodes.get(event.node)
        if node is not None:
            node.retried(event)
            node.count_again()

    def _free(self, node: NodeView, attempt: int) -> None:
        started = node.running.get(attempt)
        if started is None:
            return
        for worker in started.workers or (started.worker,):
            if worker in self._busy:
                self._busy[worker] -= 1
                if not self._busy[worker]:
                    del self._busy[worker]

    def _size_from_parents(self, node: NodeView) -> None:
        """Set the length of maps that follow this map item by item, which have no event of their own for it."""
        if node.items is None:
            parents = [self.nodes[parent] for parent in node.parents if parent in self.nodes]
            sizes = {parent.items for parent in parents if parent.planned.kind == "map"} - {None}
            node.items = sizes.pop() if len(sizes) == 1 else None


# --- The outcome of a run, read from its journal.


def ending(folder: Path) -> RunFinished | None:
    """How the run in `folder` ended; None if it still runs, was resumed since, or its driver died."""
    last = last_event(folder, "driver") if folder.exists() else None
    return last if isinstance(last, RunFinished) else None


def is_service(folder: Path) -> bool:
    """Whether the run in `folder` belongs to a service."""
    begun = first_event(folder, "driver") if folder.exists() else None
    return isinstance(begun, RunStarted) and begun.kind == "service"


def output_ref(folder: Path, ended: RunFinished | None = None) -> Ref:
    """The stored output of a finished run, with failures or without. Raises UsageError if there is none.

    `ended` is its `ending`, if that is known: it takes a look at each record of the journal.
    """
    ended = ended or ending(folder)
    if ended is None or ended.output is None:
        raise UsageError(f"run {folder.name} has no result", next=f"hooke show {folder.name}")
    return ended.output


def view_of(runs: RunsFolder, run: str) -> RunView:
    """The view of a run now; its status is `lost` if it did not finish and no process drives it."""
    view = RunView()
    for event in runs.events(run):
        view.apply(event)
    view.driver_alive(runs.alive(run), runs.last_written(run))
    return view


# --- A run as a plain-text table, for `Run.show()` and `hooke show`.

TASK_COLUMNS = ("task", "state", "done", "cached", "failed", "of", "work", "an item", "peak memory")


def run_table(view: RunView, run: str) -> str:
    """The run in a few lines, a line for each task, and its failure, if any. `run` is the id if the view lacks it."""
    now = time.time()
    parts = ["\n".join(_header(view, run, now))]
    rows = view.rows(now)
    if rows:
        parts.append("\n".join(aligned(TASK_COLUMNS, map(_cells, rows), right=range(2, len(TASK_COLUMNS)))))
    error = view.error(run)
    if error is not None:
        parts.append(str(error))
    elif view.status == WITH_FAILURES:
        parts.append(failed_items_text(view, run))
    elif view.ended is not None and view.ended.message:
        parts.append(readable(view.ended.message))
    return "\n\n".join(parts)


MOST_FAILURES = 5
"""Failed items that a table shows."""


def failed_items_text(view: RunView, run: str) -> str:
    """How a run ended whose result lacks failed items: the first of them, a line for each, and what to do."""
    failures = view.failures()
    lines = [f"run {run or view.run} {ended_as(WITH_FAILURES, len(failures))}, which its result lacks:"]
    lines += [
        f"  {view.nodes[event.node].planned.task}{'' if item is None else f' item {item}'}: {event.failure.said}"
        for item, event in failures[:MOST_FAILURES]
    ]
    more = len(failures) - MOST_FAILURES
    lines += [f"  ... and {more} more: hooke show --json {run or view.run}"] if more > 0 else []
    if raised := [error for error in view.errors(run, MOST_FAILURES) if isinstance(error, TaskError)]:
        lines.append(f"  look at one: {', '.join(raised[0].next.splitlines())}")
    return "\n".join([*lines, f"  when fixed: {view.resume_command}"])


def moment(at: float) -> str:
    """A time in this machine's time zone, such as `2026-11-25 01:48:23`."""
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"


def _header(view: RunView, run: str, now: float) -> list[str]:
    begun, row = view.begun, view.row(now)
    lines = [
        f"run {run or row.run}: {row.ended_as}" + (f" in {format_seconds(row.seconds)}" if begun else "")
    ]
    if begun is None:
        return lines
    parameters = ", ".join(f"{name}={value}" for name, value in begun.shown.items())
    source = begun.entry if begun.entry != "pickle" else "(defined in no file)"
    lines.append(f"  {begun.pipeline}({parameters}) of {source}")
    if begun.tags:
        lines.append(f"  tags {', '.join(f'{name}={value}' for name, value in begun.tags.items())}")
    resumed = f", resumed {row.resumed} times" if row.resumed > 1 else ", resumed once" if row.resumed else ""
    lines.append(f"  started {moment(row.started_at)} at {begun.place}{resumed}")
    if row.status == "running":
        lines.append(f"  {row.busy} of {max(row.slots, row.workers)} workers busy{_remaining(view, now)}")
    if view.stopping_by and row.status in ("running", "stopped"):
        lines.append(f"  stopped by {view.stopping_by}")
    return lines


def _remaining(view: RunView, now: float) -> str:
    remaining = view.remaining(now)
    if remaining is None:
        return ""
    if remaining.untimed:
        known = (
            f"at least {format_seconds(remaining.seconds)} left" if remaining.seconds else "time left unknown"
        )
        return f", {known} (nothing timed yet: {', '.join(remaining.untimed)})"
    return f", about {format_seconds(remaining.seconds)} left"


def _cells(row: TaskRow) -> tuple[str, ...]:
    return (
        row.task,
        row.state,
        str(row.done),
        str(row.cached),
        str(row.failed),
        "?" if row.items is None else str(row.items),
        format_seconds(row.seconds) if row.seconds else "",
        format_seconds(row.item_s) if row.item_s is not None else "",
        format_bytes(row.peak_bytes) if row.peak_bytes is not None else "",
    )
