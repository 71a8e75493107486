"""The journal's vocabulary: everything that can happen in a run, as typed and versioned events.

The same structs travel three ways: an engine reports them to the runner, the runner appends them to
the run's journal, and the run state folds them. So the journal and the scheduler cannot disagree.
Fields may be added with a default; a field is never renamed, removed or given another meaning.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from hooke.base.ref import Ref
from hooke.journal.fleet_events import FleetEvent
from hooke.journal.service_events import ServiceEvent

__all__ = [
    "ArtifactLogged",
    "AttemptFailed",
    "AttemptFinished",
    "AttemptStarted",
    "CapacityChanged",
    "CodeSeen",
    "Event",
    "Failure",
    "ItemsFound",
    "LogSpan",
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
    "TrialBegan",
    "TrialEnded",
    "WorkerStarted",
    "WorkerStopped",
]


# --- What a run is made of, besides its graph's keys and its parameters.


class MadeOf(msgspec.Struct, frozen=True, kw_only=True):
    """Code, environment, machine, data files and seed. What could not be known is empty."""

    tree: str = ""
    """The working tree, with what was not committed, as a git tree; kept by the ref `refs/hooke/<tree>`."""
    commit: str = ""
    branch: str = ""
    dirty: bool | None = None
    """Whether the tree differs from the commit; None where that is not known."""
    remote: str = ""
    root: str = ""
    """The top of the repository's working tree."""
    diff: str = ""
    """A file of the run's folder with the diff from commit to tree; empty where there is none."""
    diff_bytes: int = 0
    """Of the whole diff; the file may be cut."""
    left_out: tuple[str, ...] = ()
    """Files that git neither knows nor ignores and that are too large to count as code."""
    trouble: str = ""
    """Why there is no tree."""
    environment: str = ""
    """Digest of the installed distributions, which lie in `.hooke/environments/<digest>.json`."""
    interpreter: dict[str, str] = {}
    threads: dict[str, str] = {}
    """Variables of the environment that say how many threads libraries use."""
    hardware: dict[str, str] = {}
    files: dict[str, str] = {}
    """Path of each hooke.File that was an argument -> key of its content."""
    seed: int = 0
    """What `[run] seed` of hooke.toml, or HOOKE_SEED, gave."""
    paths: tuple[str, ...] = ()
    """Folders that Python looked for modules in and that lie in the repository."""
    argv: tuple[str, ...] = ()
    """Of a script: the words after its name."""
    user: str = ""
    seconds: float = 0.0
    """How long it took to gather this, beside the run."""


# --- The events of a plan: what was predicted of a pipeline, and how a run turned out against it.


class _PlanRecordEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class PlannedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a plan: `items` that were left to run, `cached` that were not; `untimed` says why no total counts it."""

    task: str
    items: int | None = None
    cached: int = 0
    untimed: str = ""


class PlannedRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was predicted of a configuration, each as (low, value, high); `usd` is None where only a spot price is known."""

    configuration: str
    machine: str
    """`local`, or `catalog:instance_type`."""
    instances: int = 1
    workers: int = 1
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """From asking for the machines to the last result."""
    usd: tuple[float, float, float] | None = None
    work_s: dict[str, tuple[float, float, float]] = {}
    """Task -> seconds of work of all its items together."""


class PlanMade(_PlanRecordEvent, frozen=True, kw_only=True, tag="plan_made"):
    """Somebody asked what a pipeline would take: what was predicted, to be compared with what it took."""

    plan: str
    pipeline: str
    entry: str
    shown: dict[str, str] = {}
    """Parameters as short text, as in RunStarted."""
    times: dict[str, float] = {}
    """Task -> how many times the items that its maps have by these parameters; empty where the data are those."""
    tasks: tuple[PlannedTask, ...] = ()
    rows: tuple[PlannedRow, ...] = ()
    """Those of this machine, and those that no other beats."""
    recommended: str = ""
    """The configuration of the recommended row; empty where there was none."""
    reason: str = ""
    level: float = 0.95
    """The probability with which each interval was meant to hold."""
    host: str = ""
    hooke: str = ""


class TaskChecked(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a run against its plan. `planned` and `ran` are items and calls, `seconds` those of all its attempts together.

    `planned` is None where the number was not known; `predicted_s` is None for a task that no total counted.
    """

    task: str
    planned: int | None
    ran: int
    predicted_s: tuple[float, float, float] | None
    seconds: float


class PlanChecked(_PlanRecordEvent, frozen=True, kw_only=True, tag="plan_checked"):
    """How the run turned out against the newest plan that was made for it: predicted (low, value, high), and actual seconds."""

    plan: str
    configuration: str
    level: float
    predicted_s: tuple[float, float, float]
    seconds: float
    tasks: tuple[TaskChecked, ...] = ()


PlanEvent: TypeAlias = PlanMade | PlanChecked
"""All events that only plans have."""


# --- The events of a search: what it looks for, what was tried, and what came of it.


class _SearchEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class SearchStarted(_SearchEvent, frozen=True, kw_only=True, tag="search_started"):
    """What the search of this run looks for; said once a run, after its first RunStarted."""

    key: str
    """A hash of code, space, parameters, objective and seed: searches of equal key are one, and go on as one."""
    space: dict[str, str]
    """What each parameter may be, as short text."""
    metric: str
    """The objective: a metric's name, `auc.max` say; empty is what a trial returns."""
    direction: str
    sampler: str
    pruner: str
    seed: int


class TrialBegan(_SearchEvent, frozen=True, kw_only=True, tag="trial_began"):
    """A trial was asked for, and is tried in a run of its own; again where an earlier try of it was cut short."""

    trial: int
    run: str
    asked: dict[str, float] = {}
    """By parameter, of choices the number of the choice."""
    shown: dict[str, str] = {}
    """By parameter, as short text."""


class TrialEnded(_SearchEvent, frozen=True, kw_only=True, tag="trial_ended"):
    """How a trial ended: `finished` with its value, `pruned`, or `failed`."""

    trial: int
    status: str
    value: float | None = None
    message: str = ""


VERSION = 1
"""Version of the vocabulary, written into each segment's header."""


class LogSpan(msgspec.Struct, frozen=True, array_like=True):
    """Where an attempt's captured output lies: bytes `start` to `end` of the file `name` in the run's logs folder."""

    name: str
    start: int
    end: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt failed, in facts; `hooke.base.errors.TaskFailed` is made from it.

    `kind` is the class name of a branch of TaskFailed. What an engine cannot know is None.
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
    rank: int | None = None
    """Of a gang: which rank failed; None for what is no gang, and where the gang failed as a whole (its timeout)."""
    ranks: int = 0
    """Of a gang: how many it has."""

    @property
    def whose(self) -> str:
        """Of a gang whose rank failed `rank 1 of 3:`, else nothing: what its message is to begin with."""
        return f"rank {self.rank} of {self.ranks}: " if self.rank is not None else ""

    @property
    def said(self) -> str:
        """Its kind and message, after the rank that failed."""
        return f"{self.whose}{self.kind}: {self.message}"


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class RunStarted(_Event, frozen=True, kw_only=True, tag="run_started"):
    """A driver took the run up: the first event of a run, and again after each resume."""

    run: str
    pipeline: str
    entry: str
    """`path/to/file.py:name`, or `pickle` when the pipeline lives in no file (a notebook, `python -c`)."""
    pickled: Ref | None = None
    arguments: Ref | None = None
    """The stored `(args, kwargs)` of the pipeline."""
    shown: dict[str, str] = {}
    """Parameters as short text, for listings."""
    place: str = "local"
    workers: tuple[int, int] | None = None
    deadline: float | None = None
    """When it was to be done, seconds since the epoch."""
    budget_usd: float | None = None
    """What it might cost."""
    allow_mismatch: tuple[str, ...] = ()
    """Distributions whose versions might differ on workers elsewhere."""
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
    """`pipeline`; `script`, a run of `start_run()`; `imported` from another tracker; `search`; or `service`. All but the first have no graph."""
    experiment: str = ""
    """What trackers file the run under; empty is the pipeline's name."""
    parent: str = ""
    """The search that this run is a trial of."""
    parameters: dict[str, str] = {}
    """All parameters by name, as short text, also those that were given by position or left at their default."""


class RunMadeOf(_Event, frozen=True, kw_only=True, tag="run_made_of"):
    """What the run is made of. It is gathered beside the run, so it may come anywhere between start and end; again after each resume."""

    record: MadeOf


class CodeSeen(_Event, frozen=True, kw_only=True, tag="code_seen"):
    """One part of the code behind a task's key; said once a run per digest."""

    digest: str
    name: str
    kind: str
    where: str = ""
    text: str = ""


class NodePlanned(_Event, frozen=True, kw_only=True, tag="node_planned"):
    """A graph node with its key, before anything runs."""

    node: int
    task: str
    key: str
    kind: str = "call"
    """`call` or `map`."""
    items: int | None = 1
    """How many items a map has; None while its list does not exist yet; 1 for a call."""
    parents: tuple[int, ...] = ()
    code: dict[str, str] = {}
    """Code part name -> digest (each explained by a CodeSeen)."""
    notes: tuple[str, ...] = ()
    inputs: dict[str, str] = {}
    """Argument name -> key of its value."""
    shown: dict[str, str] = {}
    """Argument name -> short text."""
    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    retries: int = 0
    timeout_s: float | None = None
    cache: bool = True
    seed: int = 0
    gang: int = 0
    """How many ranks it has, each with these cpus, memory and gpus; 0 for what is no gang."""

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


class CapacityChanged(_Event, frozen=True, kw_only=True, tag="capacity_changed"):
    """What the place can do at once: `slots` attempts, sharing the named resources."""

    slots: int
    cpus: float
    memory: int | None = None
    gpus: float = 0.0
    workers: int | None = None
    """That have these slots; None where each has one."""


class WorkerStarted(_Event, frozen=True, kw_only=True, tag="worker_started"):
    """A worker is ready."""

    worker: str
    pid: int = 0
    host: str = ""


class WorkerStopped(_Event, frozen=True, kw_only=True, tag="worker_stopped"):
    """A worker is gone; its attempts, if it had any, are reported as failed by events of their own."""

    worker: str
    cause: str
    exit_code: int | None = None
    signal: int | None = None


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
    """The attempt at the same items that ran long: this is a second one beside it. The first that finishes ends both."""
    workers: tuple[str, ...] = ()
    """Of a gang: the workers of its ranks, that of rank 0 first, which is `worker`."""


class AttemptFinished(_Event, frozen=True, kw_only=True, tag="attempt_finished"):
    """Items `lo..hi` are done and durable: `ref` is the call's result, or a stored list of the items' results."""

    attempt: int
    node: int
    lo: int
    hi: int
    ref: Ref
    worker: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int | None = None
    log: LogSpan | None = None
    expanded: MapExpanded | None = None
    logs: tuple[LogSpan, ...] = ()
    """Of a gang: what each rank printed, of those that printed anything."""


class AttemptFailed(_Event, frozen=True, kw_only=True, tag="attempt_failed"):
    """An attempt ended without its result.

    Of items `lo..hi` the first `done` are finished all the same, and `ref` (a stored list) holds them;
    the failure is that of item `lo + done`; the items after it have not run. Where another attempt at the
    same items goes on, nothing is kept of this one (`ref` is None), and its failure is not counted.
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
    """As that of AttemptFinished."""


class RetryPlanned(_Event, frozen=True, kw_only=True, tag="retry_planned"):
    """Failed items will run again, and why that was decided."""

    node: int
    lo: int
    hi: int
    number: int
    """The number that the next attempt will bear."""
    due: float
    reason: str


class StopRequested(_Event, frozen=True, kw_only=True, tag="stop_requested"):
    """Somebody asked the run to stop (Ctrl-C, `hooke stop`)."""

    by: str


class RunFinished(_Event, frozen=True, kw_only=True, tag="run_finished"):
    """The driver is done: `finished`, `failed` or `stopped`."""

    status: str
    output: Ref | None = None
    """The stored nesting of values and references that the pipeline returned."""
    node: int | None = None
    """The node that failed."""
    message: str = ""
    seconds: float = 0.0


class StudyStarted(_Event, frozen=True, kw_only=True, tag="study_started"):
    """A driver began to measure how far a task, or a whole pipeline, scales. A RunFinished ends the study."""

    study: str
    pipeline: str
    entry: str
    task: str = ""
    """Empty where the whole pipeline is measured."""
    unit: str = "items"
    """What throughput counts: `items` of the task, `runs` of the pipeline, or `requests` of a service by N replicas."""
    key: str = ""
    """A hash of code, parameters, machine and design: studies of equal key answer the same question."""
    shown: dict[str, str] = {}
    """Parameters as short text, for listings."""
    place: str = "local"
    levels: tuple[int, ...] = ()
    """The N to be measured."""
    sizes: tuple[int, ...] = ()
    """The numbers of items to be measured, by the one N; empty where it is N that is varied."""
    plain: str = ""
    """The function that does the same work in its own way, as the baseline; empty where that is the calls as they are."""
    repeats: int = 0
    weak: bool = False
    """Whether the work grows with N."""
    seed: int = 0
    """What the order of the measurements was drawn from."""
    pinned: bool = False
    """Whether workers were bound to cores of their own."""
    cpus: int = 0
    """Cores that the driver might use."""
    machine: str = ""
    folder: str = ""
    pid: int = 0
    host: str = ""
    python: str = ""
    hooke: str = ""


class Measured(_Event, frozen=True, kw_only=True, tag="measured"):
    """`work` was done by `n` workers in `seconds`: from the first start to the last end of the attempts at it."""

    task: str
    n: int
    work: float
    seconds: float
    condition: str = ""
    """What else differed between measurements; empty where nothing did."""
    repeat: int = 0
    """Which round of measurements it belongs to, from 0; each round holds every N once."""
    cpu_s: float = 0.0
    """Of all attempts together."""
    segment: str = ""
    """The segment, beside this one, that holds the attempts."""


class PlainMeasured(_Event, frozen=True, kw_only=True, tag="plain_measured"):
    """The same work was done by plain calls in one thread of a process without an engine."""

    work: float
    seconds: float
    repeat: int = 0
    cpu_s: float = 0.0


class _Logged(_Event, frozen=True, kw_only=True, tag="logged"):
    """What user code logged: of the attempt `attempt`, and of its item `item` in a map; of the run where these are None."""

    attempt: int | None = None
    item: int | None = None


class PointsLogged(_Logged, frozen=True, kw_only=True, tag="points_logged", omit_defaults=True):
    """Values of metrics, each as (name, value, step)."""

    points: tuple[tuple[str, float, int], ...]
    times: tuple[float, ...] = ()
    """When each was logged, where `at` does not say it for all: points that were imported."""


class NotesLogged(_Logged, frozen=True, kw_only=True, tag="notes_logged"):
    """Parameters and tags; of one name the last counts."""

    params: dict[str, str] = {}
    tags: dict[str, str] = {}


class ArtifactLogged(_Logged, frozen=True, kw_only=True, tag="artifact_logged"):
    """A file that was kept with the run; of one path the last counts."""

    path: str
    """As the user named it, with `/` between folders."""
    file: str
    """Where it lies, below the run's folder."""
    size: int
    """Bytes."""


Event: TypeAlias = (
    RunStarted
    | RunMadeOf
    | CodeSeen
    | NodePlanned
    | MapExpanded
    | ItemsFound
    | CapacityChanged
    | WorkerStarted
    | WorkerStopped
    | AttemptStarted
    | AttemptFinished
    | AttemptFailed
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
