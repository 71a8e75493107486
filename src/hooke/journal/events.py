"""The journal's vocabulary: everything that can happen in a run, as typed and versioned events.

The same structs are used three times: an engine reports them to the runner, the runner appends them to the run's
journal, and the run state folds them. So the journal and the scheduler cannot disagree. New fields need a default;
a field is never renamed, removed or given another meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import TypeAlias

import msgspec

from hooke.base.formats import first_line
from hooke.base.ref import DataSetRead, ItemsMadeFrom, ItemsObserved, MadeFrom, MadeOf, Manifest, Ref
from hooke.journal.fleet_events import FleetEvent
from hooke.journal.search_events import SearchStarted, TrialBegan, TrialEnded
from hooke.journal.service_events import ServiceEvent

__all__ = [
    "BUDGET",
    "FINISHED",
    "GANG_RESIZED",
    "WITH_FAILURES",
    "ArtifactLogged",
    "AttemptFailed",
    "AttemptFinished",
    "AttemptStarted",
    "BackendTrouble",
    "CallsFinished",
    "CapacityChanged",
    "CodeSeen",
    "DataSetsOpened",
    "Event",
    "Failure",
    "ItemsFound",
    "ItemsSkipped",
    "LogSpan",
    "MachineLoad",
    "MadeOf",
    "MapExpanded",
    "Measured",
    "NodePlanned",
    "NotesLogged",
    "PlainMeasured",
    "PlanChecked",
    "PlanEvent",
    "PlanMade",
    "PlannedRow",
    "PlannedTask",
    "PointsLogged",
    "RetryPlanned",
    "RunFinished",
    "RunMadeOf",
    "RunStarted",
    "SearchStarted",
    "StopRequested",
    "StudyStarted",
    "TaskChecked",
    "TimeUse",
    "TrialBegan",
    "TrialEnded",
    "WorkerStarted",
    "WorkerStopped",
    "ended_as",
]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


# --- Events of a plan: the prediction for a pipeline, and how a run compares with it.


class PlannedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a plan: `items` to run and `cached` items; `untimed` says why the totals do not include it."""

    task: str
    items: int | None = None
    cached: int = 0
    untimed: str = ""


class PlannedRow(msgspec.Struct, frozen=True, kw_only=True):
    """The prediction for a configuration, as (low, value, high); `usd` is None if only a spot price is known."""

    configuration: str
    machine: str
    """`local`, or `catalog:instance_type`."""
    instances: int = 1
    workers: int = 1
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """From requesting the machines to the last result."""
    usd: tuple[float, float, float] | None = None
    work_s: dict[str, tuple[float, float, float]] = {}
    """Task -> seconds of work of all its items."""


class PlanMade(_Event, frozen=True, kw_only=True, tag="plan_made"):
    """A plan was made: the prediction for a pipeline, to be compared with a run."""

    plan: str
    pipeline: str
    entry: str
    shown: dict[str, str] = {}
    """Parameters as short text, as in RunStarted."""
    times: dict[str, float] = {}
    """Task -> factor on the number of its maps' items; empty for the actual data."""
    scale: float | None = None
    """The factor on the size of all data; None for the actual data."""
    tasks: tuple[PlannedTask, ...] = ()
    rows: tuple[PlannedRow, ...] = ()
    """The rows of this machine, and rows that no other row beats."""
    recommended: str = ""
    """The configuration of the recommended row; empty if there is none."""
    reason: str = ""
    level: float = 0.95
    """The nominal probability of each interval."""
    host: str = ""
    hooke: str = ""


class TaskChecked(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a run, compared with its plan. `planned` and `ran` count items and calls; `seconds` is of all attempts.

    `planned` is None if the number was not known; `predicted_s` is None for an untimed task.
    """

    task: str
    planned: int | None
    ran: int
    predicted_s: tuple[float, float, float] | None
    seconds: float


class PlanChecked(_Event, frozen=True, kw_only=True, tag="plan_checked"):
    """The run compared with its newest plan: predicted (low, value, high) and actual seconds."""

    plan: str
    configuration: str
    level: float
    predicted_s: tuple[float, float, float]
    seconds: float
    tasks: tuple[TaskChecked, ...] = ()


PlanEvent: TypeAlias = PlanMade | PlanChecked
"""All events of plans."""


VERSION = 1
"""Version of the vocabulary, written into each segment's header."""


class LogSpan(msgspec.Struct, frozen=True, array_like=True):
    """An attempt's captured output: bytes `start` to `end` of the file `name` in the run's logs folder."""

    name: str
    start: int
    end: int


GANG_RESIZED = "GangResized"
"""The kind of a failure that is none: a gang has ended at a checkpoint, and goes on with another number of ranks."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a failed attempt, from which `hooke.base.errors.TaskFailed` is made.

    `kind` is the class name of a subclass of TaskFailed, or GANG_RESIZED. Facts that an engine cannot know are None.
    """

    kind: str
    message: str
    error_type: str = ""
    traceback: str = ""
    arguments: str = ""
    exit_code: int | None = None
    signal: int | None = None
    peak_bytes: int | None = None
    limit_bytes: int | None = None
    log_tail: tuple[str, ...] = ()
    fix: str = ""
    retryable: bool = True
    delay_s: float | None = None
    pickled: bytes | None = None
    """The exception, as bytes that `Store.unseal` opens."""
    rank: int | None = None
    """Of a gang: the rank that failed; None without a gang, and if the whole gang failed (its timeout)."""
    ranks: int = 0
    """Of a gang: its number of ranks."""
    host_lost: bool = False
    """Whether the machine that ran it, or one of several, is gone or silent."""
    in_log: bool = False
    """Whether the message or the traceback was too long for this record, and the whole of both is in the attempt's log."""

    @property
    def whose(self) -> str:
        """The prefix of the message, as in "rank 1 of 3: " if a rank of a gang failed, else empty."""
        return f"rank {self.rank} of {self.ranks}: " if self.rank is not None else ""

    @property
    def said(self) -> str:
        """The failed rank, if any, then kind and message, on one line."""
        return first_line(f"{self.whose}{self.kind}: {self.message}")


class RunStarted(_Event, frozen=True, kw_only=True, tag="run_started"):
    """A driver started or resumed the run: the first event of a run, and again after each resume."""

    run: str
    pipeline: str
    entry: str
    """`path/to/file.py:name`, or `pickle` if the pipeline is in no file (a notebook, `python -c`)."""
    pickled: Ref | None = None
    arguments: Ref | None = None
    """The stored `(args, kwargs)` of the pipeline."""
    shown: dict[str, str] = {}
    """Parameters as short text, for listings."""
    place: str = "local"
    workers: tuple[int, int] | None = None
    deadline: float | None = None
    """The deadline, in seconds since the epoch."""
    budget_usd: float | None = None
    """The budget."""
    allow_mismatch: tuple[str, ...] = ()
    """Distributions whose versions may differ on other workers."""
    forced: tuple[str, ...] = ()
    """Tasks that run although their results are stored, with all that use them."""
    store: str = ""
    folder: str = ""
    """Working directory of the driver."""
    seed: int = 0
    pid: int = 0
    host: str = ""
    python: str = ""
    hooke: str = ""
    resumed: bool = False
    kind: str = "pipeline"
    """`pipeline`; `script`, a run of `start_run()`; `imported` from another tracker; `search`; or `service`. Only the first has a graph."""
    experiment: str = ""
    """The experiment in trackers; empty is the pipeline's name."""
    parent: str = ""
    """The search that this run is a trial of."""
    parameters: dict[str, str] = {}
    """All parameters by name, as short text, including positional ones and defaults."""
    name: str = ""
    """What the user calls the run: the beginning of its id; empty if the pipeline's name is that."""
    tags: dict[str, str] = {}
    """Tags that the run was asked for with. They are logged, too."""
    retries: int | None = None
    """Retries of every task in this run; None leaves each its own."""


class RunMadeOf(_Event, frozen=True, kw_only=True, tag="run_made_of"):
    """The provenance of the run. Collected in parallel, so it may come at any time; again after each resume."""

    record: MadeOf


class CodeSeen(_Event, frozen=True, kw_only=True, tag="code_seen"):
    """One part of the code in a task's key; once a run for each digest."""

    digest: str
    name: str
    kind: str
    where: str = ""
    text: str = ""


class NodePlanned(_Event, frozen=True, kw_only=True, tag="node_planned"):
    """A node of the graph with its key, before anything runs."""

    node: int
    task: str
    key: str
    kind: str = "call"
    """`call` or `map`."""
    items: int | None = 1
    """How many items a map has; None while its list does not exist yet; 1 for a call."""
    recipe: str = ""
    """Of a map: the key under which its items are stored."""
    parents: tuple[int, ...] = ()
    code: dict[str, str] = {}
    """Name of a code part -> its digest (see CodeSeen)."""
    notes: tuple[str, ...] = ()
    inputs: dict[str, str] = {}
    """Argument name -> key of its value."""
    shown: dict[str, str] = {}
    """Argument name -> short text."""
    data: dict[str, int] = {}
    """Argument name -> bytes of the files and arrays in it, if it has any; of a map's list, those of all its items."""
    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    retries: int = 0
    timeout_s: float | None = None
    cache: bool = True
    seed: int = 0
    gang: int = 0
    """Ranks, each with these cpus, memory and gpus; 0 if the task is not a gang. Of an elastic gang, the most that it may have."""
    least_ranks: int = 0
    """Of an elastic gang: the fewest; 0 for another task. How many an attempt had is told by its AttemptStarted."""
    within: tuple[str, ...] = ()
    """The nested pipelines whose bodies made the call, outermost first."""
    where: str = ""
    """The line that made the call, such as `flights.py:34`."""

    @property
    def slots(self) -> int:
        """Workers that one attempt takes."""
        return max(1, self.gang)


class MapExpanded(_Event, frozen=True, kw_only=True, tag="map_expanded"):
    """The list behind a dynamic map exists: its length, the keys of its items and the items in blocks."""

    node: int
    items: int
    keys: Ref | None = None
    """A stored `bytes` of 16 per item."""
    blocks: tuple[Ref, ...] = ()
    """Stored lists of `block` items each (the last may be shorter), one tuple of arguments an item."""
    block: int = 0
    made_from: MadeFrom | None = None
    """What the list was made from besides what the node's key names."""
    tainted: bool = False
    """As in AttemptFinished."""


class InputsChanged(_Event, frozen=True, kw_only=True, tag="inputs_changed"):
    """Results of a node are stored, but were made from other inputs than there are now, so it runs.

    `inputs` are what its task had read and is no longer the same, a few of them. With `upstream`, results that it was
    computed from are others.
    """

    node: int
    inputs: Manifest = ()
    upstream: bool = False


class ItemsFound(_Event, frozen=True, kw_only=True, tag="items_found"):
    """Results that need no run: items `lo..hi` of a node are elements `start..` of the stored object.

    For a call node lo = 0, hi = 1 and the object is the result itself.
    """

    node: int
    lo: int
    hi: int
    ref: Ref
    start: int = 0
    source: str = "cache"
    """`cache` (another run computed it) or `journal` (this run did, before it was resumed)."""
    seconds: float = 0.0
    made_from: MadeFrom | None = None
    """What all of them were made from besides what their keys name."""
    tainted: bool = False
    """Whether the places `lo..hi` are those of a list that lacks failed items."""


class ItemsSkipped(_Event, frozen=True, kw_only=True, tag="items_skipped"):
    """Items `lo..hi` of a map do not run: those of the map before it, `parent`, failed or were skipped themselves."""

    node: int
    lo: int
    hi: int
    parent: int


class CapacityChanged(_Event, frozen=True, kw_only=True, tag="capacity_changed"):
    """The capacity of the workers: `slots` attempts at once, sharing the resources."""

    slots: int
    cpus: float
    memory: int | None = None
    gpus: float = 0.0
    workers: int | None = None
    """Workers with these slots; None if each has one slot."""


class WorkerStarted(_Event, frozen=True, kw_only=True, tag="worker_started"):
    """A worker is ready."""

    worker: str
    pid: int = 0
    host: str = ""


class WorkerStopped(_Event, frozen=True, kw_only=True, tag="worker_stopped"):
    """A worker stopped; its attempts fail with events of their own."""

    worker: str
    cause: str
    exit_code: int | None = None
    signal: int | None = None


class BackendTrouble(_Event, frozen=True, kw_only=True, tag="backend_trouble"):
    """Something keeps the backend from having the workers that the run wants. It may pass, and the run goes on meanwhile."""

    about: str
    """A pod, or what else is in trouble."""
    message: str
    """What it is, with its fix."""


class AttemptStarted(_Event, frozen=True, kw_only=True, tag="attempt_started"):
    """Items `lo..hi` of a node began to run (0..1 for a call)."""

    attempt: int
    node: int
    lo: int
    hi: int
    worker: str = ""
    number: int = 1
    """1 for the first try of these items."""
    expand: bool = False
    """True for the attempt that reads a dynamic map's list; its lo and hi are 0."""
    twin_of: int | None = None
    """The straggling attempt at the same items, if this is a second attempt. The first to finish ends both."""
    workers: tuple[str, ...] = ()
    """Of a gang: the workers of its ranks, rank 0 (`worker`) first."""


class AttemptFinished(_Event, frozen=True, kw_only=True, tag="attempt_finished"):
    """Items `lo..hi` are done and durable: `ref` is the call's result, or a stored list of the items' results."""

    attempt: int
    node: int
    lo: int
    hi: int
    """May be less than in its AttemptStarted: then it ended at a time limit, and the items from `hi` on have not run."""
    ref: Ref
    worker: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int | None = None
    log: LogSpan | None = None
    expanded: MapExpanded | None = None
    logs: tuple[LogSpan, ...] = ()
    """Of a gang: the output of each rank that printed anything."""
    observed: tuple[ItemsObserved, ...] = ()
    """What its items read without declaring it, in the order of the items; those that read nothing are left out."""
    made_from: tuple[ItemsMadeFrom, ...] = ()
    """What its items were made from besides what their keys name; those made from nothing else are left out."""
    checkpoints: tuple[str, ...] = ()
    """Keys of its items whose checkpoint folders can go, now that they are done."""
    tainted: bool = False
    """Whether it was computed from a list that lacks failed items, or from such a result: then it counts in this run alone,
    and not after a resume."""
    data: tuple[DataSetRead, ...] = ()
    """The data sets that it read, and the declared files that it opened. Other files are in `observed` alone."""


class AttemptFailed(_Event, frozen=True, kw_only=True, tag="attempt_failed"):
    """An attempt ended without its result.

    The first `done` of items `lo..hi` are finished, and `ref` (a stored list) holds them. Item `lo + done` failed, and
    the items after it have not run. If another attempt at the same items still runs, nothing of this one is kept
    (`ref` is None), and its failure does not count. Fields of the same names are as in AttemptFinished, of the items that
    are done.
    """

    attempt: int
    node: int
    lo: int
    hi: int
    failure: Failure
    done: int = 0
    ref: Ref | None = None
    worker: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int | None = None
    log: LogSpan | None = None
    logs: tuple[LogSpan, ...] = ()
    observed: tuple[ItemsObserved, ...] = ()
    made_from: tuple[ItemsMadeFrom, ...] = ()
    checkpoints: tuple[str, ...] = ()
    tainted: bool = False
    data: tuple[DataSetRead, ...] = ()

    @property
    def item(self) -> int | None:
        """The item that failed, 0 of a call; None for a list that was read."""
        return self.lo + self.done if self.hi > self.lo else None

    @property
    def resized(self) -> bool:
        """Whether a gang has ended at a checkpoint, to go on with another number of ranks: no failure, and none of its tries."""
        return self.failure.kind == GANG_RESIZED


class CallsFinished(_Event, frozen=True, kw_only=True, tag="calls_finished"):
    """Calls of one task that a worker ran right behind one another: each is an attempt of its own, and its first one.

    They printed nothing, read nothing but their arguments, and their results are inside of the refs. The first has an
    AttemptStarted; the others began when the one before ended, and the last ended at `at`. Readers of a journal get `singly`.
    """

    attempts: tuple[int, ...]
    nodes: tuple[int, ...]
    refs: tuple[Ref, ...]
    seconds: tuple[float, ...]
    cpu_s: tuple[float, ...]
    worker: str = ""

    def singly(self) -> Iterator[AttemptStarted | AttemptFinished]:
        """The same as events of each call."""
        at = [*accumulate((-each for each in reversed(self.seconds)), initial=self.at)][::-1]
        worker = self.worker
        columns = zip(
            self.attempts, self.nodes, self.refs, self.seconds, self.cpu_s, pairwise(at), strict=True
        )
        for attempt, node, ref, seconds, cpu_s, (began, ended) in columns:
            facts = {"attempt": attempt, "node": node, "lo": 0, "hi": 1, "worker": worker}
            if attempt != self.attempts[0]:
                yield AttemptStarted(at=began, **facts)
            yield AttemptFinished(at=ended, ref=ref, seconds=seconds, cpu_s=cpu_s, **facts)


class DataSetsOpened(_Event, frozen=True, kw_only=True, tag="data_sets_opened"):
    """A script began to read data sets."""

    data: tuple[DataSetRead, ...]


class RetryPlanned(_Event, frozen=True, kw_only=True, tag="retry_planned"):
    """Failed items will run again, with the reason."""

    node: int
    lo: int
    hi: int
    number: int
    """The number of the next attempt."""
    due: float
    reason: str
    counted: int = 0
    """Which of the task's tries it is (its retries, and the first); 0 if it is none of them: with more memory, or each item alone."""


BUDGET = "the budget"
"""Who stops a run that would cost more than its budget."""


class StopRequested(_Event, frozen=True, kw_only=True, tag="stop_requested"):
    """The run was asked to stop: by Ctrl-C, `hooke stop`, or BUDGET."""

    by: str


FINISHED = "finished"
"""The status of a run that has its whole result."""
WITH_FAILURES = "finished with failures"
"""The status of a run with a result that lacks failed items of maps with `on_error="continue"`."""


def ended_as(status: str, failures: int) -> str:
    """A run's status for people: `finished with 3 failures`."""
    if status != WITH_FAILURES:
        return status
    return f"finished with {failures} failure{'' if failures == 1 else 's'}"


class RunFinished(_Event, frozen=True, kw_only=True, tag="run_finished"):
    """The run ended: FINISHED, WITH_FAILURES, `failed` or `stopped`."""

    status: str
    output: Ref | None = None
    """The pipeline's stored output: a nested value with references."""
    node: int | None = None
    """The node that failed."""
    message: str = ""
    seconds: float = 0.0
    failures: int = 0
    """Items whose failures the run went on after."""

    @property
    def has_result(self) -> bool:
        """Whether the pipeline returned, with or without failures."""
        return self.status in (FINISHED, WITH_FAILURES)


class StudyStarted(_Event, frozen=True, kw_only=True, tag="study_started"):
    """A driver started to measure how a task or a pipeline scales. A RunFinished ends the study."""

    study: str
    pipeline: str
    entry: str
    task: str = ""
    """Empty if the whole pipeline is measured."""
    unit: str = "items"
    """The unit of throughput: `items` of the task, `calls` of a gang of N ranks, `runs` of the pipeline, or `requests` of a service with N replicas."""
    key: str = ""
    """A hash of code, parameters, machine and design. Studies with equal keys answer the same question."""
    code: dict[str, str] = {}
    """Of the measured task: name of a code part -> its digest; empty if the whole pipeline is measured."""
    shown: dict[str, str] = {}
    """Parameters as short text, for listings."""
    place: str = "local"
    levels: tuple[int, ...] = ()
    """The N to measure."""
    sizes: tuple[int, ...] = ()
    """The numbers of items to measure, at one N; empty if N varies."""
    plain: str = ""
    """The function for the baseline, which does the same work; empty if plain calls are the baseline."""
    repeats: int = 0
    """The rounds; with a budget, the most measurements for each N and for the plain calls, on average."""
    budget: float = 0.0
    """What all measurements may take, in plain calls of the work; 0 for whole rounds."""
    answer: str = ""
    """What it is to answer, with half an interval of at most the share `within`: `knee`, `cost`, or a number N for the time with N workers."""
    within: float = 0.0
    weak: bool = False
    """Whether the work grows with N."""
    seed: int = 0
    """The seed for the order of the measurements."""
    pinned: bool = False
    """Whether workers were bound to cores."""
    cpus: int = 0
    """Cores available to the driver."""
    command_s: float = 0.0
    """Seconds from the start of the command's process until now: imports, and the trace; 0 if no command started the study."""
    machine: str = ""
    folder: str = ""
    pid: int = 0
    host: str = ""
    python: str = ""
    hooke: str = ""


class MachineLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What else happened on this machine's cores during a measurement of `seconds`. None where the system does not say.

    `others` are the cores that other processes kept busy, `stolen` those that the hypervisor gave to other machines, on average.
    `waiting` is the share of the time in which some process waited for a core (/proc/pressure/cpu), `runnable` the number of
    processes that ran or waited to run at its end, and `mhz` the cores' mean frequency then.
    """

    seconds: float
    others: float
    stolen: float | None = None
    waiting: float | None = None
    runnable: int | None = None
    mhz: float | None = None


class TimeUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the workers' time went during a measurement: worker-seconds, which add up to N times its seconds.

    Attempts take `busy_s`: CPU (`user_s`, `sys_s`; also of other threads), `delay_s` ready without a core, and `waits`. The
    rest is idle: before a worker's first attempt (`start_s`), while one task runs alone (`serial`), between attempts (`gap_s`),
    and after a worker's last (`tail_s`). What workers sample is None or empty where they did not, or the system does not tell.
    """

    busy_s: float
    user_s: float
    sys_s: float = 0.0
    delay_s: float | None = None
    waits: dict[str, float] = {}
    """`lock ledger.py:41` -> seconds, by samples: `lock`, `gil`, `network`, `disk`, `sleep`, `retry`, `child`, `other`, and where."""
    start_s: float = 0.0
    serial: dict[str, float] = {}
    gap_s: float = 0.0
    tail_s: float = 0.0
    first_s: float = 0.0
    """How much longer the first attempts of the workers took than attempts usually do; a part of `busy_s`."""
    longest_s: float = 0.0
    """The longest attempt."""
    usual_s: float = 0.0
    """The median attempt."""
    longest_items: int = 1
    attempts: int = 0
    samples: int = 0
    voluntary: int | None = None
    """Context switches: because a thread waited, and because the kernel gave its core to another."""
    involuntary: int | None = None
    minor_faults: int | None = None
    major_faults: int | None = None
    read_bytes: int | None = None
    """From disks."""
    written_bytes: int | None = None


class Measured(_Event, frozen=True, kw_only=True, tag="measured"):
    """`n` workers did `work` in `seconds`, from the first start to the last end of its attempts."""

    task: str
    n: int
    work: float
    seconds: float
    condition: str = ""
    """What else differed between measurements; empty if nothing did."""
    repeat: int = 0
    """The round of measurements, from 0; each round has every N once. With a budget, how often this N was measured before."""
    cpu_s: float = 0.0
    """Sum over all attempts."""
    segment: str = ""
    """The segment in the same folder that holds the attempts."""
    load: MachineLoad | None = None
    """None in studies of services, and of earlier versions."""
    use: TimeUse | None = None
    """As `load`."""


class PlainMeasured(_Event, frozen=True, kw_only=True, tag="plain_measured"):
    """Plain calls in one thread of a process without an engine did the same work."""

    work: float
    seconds: float
    repeat: int = 0
    cpu_s: float = 0.0
    start_s: float = 0.0
    """Seconds that a process of plain Python takes to start and to import the user's code."""
    workers_start_s: float = 0.0
    """Seconds that the most workers of the study take to start, to import the user's code, and to begin their first attempt."""
    load: MachineLoad | None = None
    """As in Measured."""


class _Logged(_Event, frozen=True, kw_only=True, tag="logged"):
    """Values that user code logged in an attempt and in its item of a map; in the run itself if these are None."""

    attempt: int | None = None
    item: int | None = None


class PointsLogged(_Logged, frozen=True, kw_only=True, tag="points_logged", omit_defaults=True):
    """Values of metrics, each as (name, value, step)."""

    points: tuple[tuple[str, float, int], ...]
    times: tuple[float, ...] = ()
    """The time of each point, if `at` does not hold for all (imported points)."""


class NotesLogged(_Logged, frozen=True, kw_only=True, tag="notes_logged"):
    """Parameters and tags; the last value of a name counts."""

    params: dict[str, str] = {}
    tags: dict[str, str] = {}


class ArtifactLogged(_Logged, frozen=True, kw_only=True, tag="artifact_logged"):
    """A file of `size` bytes, kept with the run; the last of a path counts. `media`: `image` or `histogram`, name, step."""

    path: str
    """The user's name for it, with `/` between folders."""
    file: str
    """Its path inside the run's folder."""
    size: int
    media: tuple[str, str, int] | None = None


Event: TypeAlias = (
    RunStarted
    | RunMadeOf
    | CodeSeen
    | NodePlanned
    | MapExpanded
    | InputsChanged
    | ItemsFound
    | ItemsSkipped
    | CapacityChanged
    | WorkerStarted
    | WorkerStopped
    | BackendTrouble
    | AttemptStarted
    | AttemptFinished
    | AttemptFailed
    | CallsFinished
    | DataSetsOpened
    | RetryPlanned
    | StopRequested
    | RunFinished
    | SearchStarted
    | TrialBegan
    | TrialEnded
    | StudyStarted
    | PlanEvent
    | Measured
    | PlainMeasured
    | PointsLogged
    | NotesLogged
    | ArtifactLogged
    | ServiceEvent
    | FleetEvent
)
