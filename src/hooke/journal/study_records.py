"""Plans, searches and scaling studies, read from their journals as plain facts.

A study is a folder among the runs, `measure-<pipeline>-<time>-<letters>`. Its driver's segment holds a StudyStarted,
then Measured and PlainMeasured events, then a RunFinished; the attempts behind each Measured are in a segment of its own.
A later driver that continues it writes StudyStarted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hooke.base.errors import JournalError
from hooke.journal.events import (
    Measured,
    PlainMeasured,
    PlanChecked,
    PlanMade,
    RunFinished,
    RunStarted,
    SearchStarted,
    StudyStarted,
    TaskChecked,
    TrialBegan,
    TrialEnded,
)
from hooke.journal.reader import SegmentReader, read
from hooke.journal.run_folders import RunsFolder
from hooke.journal.run_view import RunView
from hooke.journal.segments import SUFFIX
from hooke.journal.service_events import LoadMeasured
from hooke.journal.writer import Journal

__all__ = [
    "SEARCH_PREFIX",
    "STUDY_PREFIX",
    "PlansFolder",
    "SearchRecord",
    "StudyRecord",
    "TrialRecord",
    "check",
    "find_search",
    "find_studies",
    "read_search",
    "read_study",
]


# --- Searches: their trials and outcomes.

SEARCH_PREFIX = "search-"
"""The prefix of every search's id."""


class TrialRecord(msgspec.Struct, kw_only=True):
    """A trial and its status: `running`, `finished` with its value, `pruned` or `failed`."""

    trial: int
    run: str
    asked: dict[str, float]
    shown: dict[str, str]
    began_at: float
    ended_at: float | None = None
    status: str = "running"
    value: float | None = None
    message: str = ""


class SearchRecord(msgspec.Struct, kw_only=True):
    """A search, by its journal. `finished` is None while it runs, and if its driver died."""

    begun: RunStarted
    looked: SearchStarted
    trials: dict[int, TrialRecord] = msgspec.field(default_factory=dict)
    told: list[int] = msgspec.field(default_factory=list)
    """Trials that finished or were pruned, in the order in which they did."""
    finished: RunFinished | None = None

    def apply(self, event: object) -> None:
        """Fold one event."""
        match event:
            case RunStarted():
                self.begun, self.finished = event, None
            case TrialBegan():
                self.trials[event.trial] = TrialRecord(
                    trial=event.trial, run=event.run, asked=event.asked, shown=event.shown, began_at=event.at
                )
            case TrialEnded():
                trial = self.trials[event.trial]
                trial.status, trial.value, trial.message = event.status, event.value, event.message
                trial.ended_at = event.at
                if event.status != "failed":
                    self.told.append(event.trial)
            case RunFinished():
                self.finished = event
            case _:
                pass

    def best(self) -> TrialRecord | None:
        """The trial with the best value, the first of equal ones; None if none has finished."""
        sign = -1 if self.looked.direction == "maximize" else 1
        ended = [(sign * each.value, each.trial) for each in self.trials.values() if each.value is not None]
        return self.trials[min(ended)[1]] if ended else None


def read_search(folder: Path) -> SearchRecord | None:
    """The search in a run's folder; None if it is not a search. Raises JournalError as `read` does."""
    begun: RunStarted | None = None
    record: SearchRecord | None = None
    for segment in read(folder, "driver"):
        for event in segment.events:
            if record is not None:
                record.apply(event)
            elif isinstance(event, RunStarted):
                begun = event
            elif isinstance(event, SearchStarted) and begun is not None:
                record = SearchRecord(begun=begun, looked=event)
    return record


def find_search(runs: RunsFolder, key: str) -> str | None:
    """The newest search with this key. Raises JournalError."""
    for name in runs.names():
        file = runs.folder(name) / f"driver{SUFFIX}"
        if not name.startswith(SEARCH_PREFIX) or not file.exists():
            continue
        with SegmentReader(file) as reader:
            looked = next((event for event in reader if isinstance(event, SearchStarted)), None)
        if looked is not None and looked.key == key:
            return name
    return None


STUDY_PREFIX = "measure-"
"""The prefix of every study's id."""


class StudyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A study, by its journal. `finished` is None while it runs, and if its driver died."""

    started: StudyStarted
    measured: tuple[Measured, ...] = ()
    plain: tuple[PlainMeasured, ...] = ()
    loads: tuple[LoadMeasured, ...] = ()
    """Of a service: the services under load, in the order of `measured`."""
    finished: RunFinished | None = None

    @property
    def rounds(self) -> int:
        """How many rounds are complete: each N or size once, and the plain calls once if there are any."""
        levels = len(self.started.sizes or self.started.levels)
        counts = Counter(each.repeat for each in self.measured)
        if self.of_service:
            return sum(number == levels for number in counts.values())
        return sum(counts[each.repeat] == levels for each in self.plain)

    @property
    def repeats(self) -> tuple[int, int]:
        """How often the N or sizes that were measured at all were: the fewest and the most times."""
        counts = Counter((each.n, each.work) for each in self.measured).values()
        return min(counts, default=0), max(counts, default=0)

    @property
    def of_service(self) -> bool:
        """Whether it measures a service, which has no plain calls to compare with."""
        return self.started.unit == "requests"

    @property
    def of_gang(self) -> bool:
        """Whether it measures a gang, of which N is the number of ranks."""
        return self.started.unit == "calls"

    @property
    def counts(self) -> str:
        """What N counts: `workers`; `ranks` of a gang; for a service `replicas`, or `threads` of each replica."""
        if not self.of_service:
            return "ranks" if self.of_gang else "workers"
        return (
            "threads"
            if len({each.threads for each in self.loads}) > 1 == len({each.replicas for each in self.loads})
            else "replicas"
        )

    @property
    def complete(self) -> bool:
        """Whether all measurements are done."""
        return self.finished is not None and self.finished.status == "finished"


def read_study(folder: Path) -> StudyRecord | None:
    """The study in a run's folder; None if it is not a study. Raises JournalError as `read` does."""
    started: StudyStarted | None = None
    # By repeat, and N or size. What an earlier driver measured of a round that it did not finish counts too.
    measured: dict[tuple[int, int, float], Measured] = {}
    plain: dict[int, PlainMeasured] = {}
    loads: list[LoadMeasured] = []
    finished: RunFinished | None = None
    for segment in read(folder, "driver"):
        for event in segment.events:
            match event:
                case StudyStarted():
                    started, finished = event, None
                case Measured():
                    measured[event.repeat, event.n, event.work] = event
                case PlainMeasured():
                    plain[event.repeat] = event
                case LoadMeasured():
                    loads.append(event)
                case RunFinished():
                    finished = event
                case _:
                    pass
    if started is None:
        return None
    return StudyRecord(
        started=started,
        measured=tuple(measured.values()),
        plain=tuple(plain.values()),
        loads=tuple(loads),
        finished=finished,
    )


def find_studies(runs: RunsFolder, *, pipeline: str = "", task: str | None = None) -> Iterator[StudyRecord]:
    """The studies of a project, the newest first: those of one pipeline and task where these are given.

    `task` is "" for studies of a whole pipeline. What cannot be read is passed over: it is one study less, and
    `hooke runs` names it.
    """
    for name in runs.names():
        if not name.startswith(STUDY_PREFIX):
            continue
        try:
            found = read_study(runs.folder(name))
        except JournalError:
            continue
        if found is None or (pipeline and found.started.pipeline != pipeline):
            continue
        if task is None or found.started.task == task:
            yield found


# --- Plans, and how a run compares with its plan.

LOCAL = "local"
MOST_KEPT = 200
"""How many of a project's newest plans are kept."""
MOST_READ = 20
"""How many of a pipeline's newest plans are searched for the plan of a run."""


class PlansFolder:
    """All plans below `path`, which need not exist yet: a journal of one event each, `<plan id>.journal`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self, pipeline: str = "") -> list[str]:
        """Plan ids, the newest first; only those of `pipeline` if it is given."""
        try:
            found = [file.stem for file in self.path.iterdir() if file.suffix == SUFFIX]
        except FileNotFoundError:
            return []
        mine = [name for name in found if not pipeline or name.rsplit("-", 3)[0] == pipeline]
        return sorted(mine, key=lambda name: name.rsplit("-", 3)[1:], reverse=True)

    def add(self, made: PlanMade) -> None:
        """Keep a plan and remove the oldest ones. Raises JournalError and OSError if it cannot be written."""
        self.path.mkdir(parents=True, exist_ok=True)
        with Journal.create(self.path, made.plan, durable="none") as journal:
            journal.append(made)
        for name in self.names()[MOST_KEPT:]:
            (self.path / f"{name}{SUFFIX}").unlink(missing_ok=True)

    def read(self, name: str) -> PlanMade | None:
        """One plan; None if it cannot be read."""
        try:
            segments = read(self.path / f"{name}{SUFFIX}")
        except JournalError:
            return None
        return next(
            (event for each in segments for event in each.events if isinstance(event, PlanMade)), None
        )

    def made_for(self, started: RunStarted) -> PlanMade | None:
        """The newest plan for the pipeline and the parameters of a run, made before it began on its host."""
        for name in self.names(started.pipeline)[:MOST_READ]:
            made = self.read(name)
            if made is None or made.at > started.at or made.host != started.host:
                continue
            if made.times or made.scale is not None:  # it is for data that do not exist
                continue
            if made.entry == started.entry and made.shown == started.shown:
                return made
        return None


def check(made: PlanMade, view: RunView, *, seconds: float) -> PlanChecked | None:
    """A run's time on this machine against the prediction; None if the plan has no row for its workers."""
    slots = view.capacity.slots if view.capacity is not None else 0
    row = next((row for row in made.rows if row.machine == LOCAL and row.workers == slots), None)
    if row is None:
        return None
    planned = {each.task: each for each in made.tasks}
    return PlanChecked(
        plan=made.plan,
        configuration=row.configuration,
        level=made.level,
        predicted_s=row.seconds,
        seconds=seconds,
        tasks=tuple(
            TaskChecked(
                task=name,
                planned=planned[name].items if name in planned else 0,
                ran=task.done,
                predicted_s=row.work_s.get(name),
                seconds=task.seconds,
            )
            for name, task in view.tasks.items()
            if task.done or (name in planned and planned[name].items)
        ),
    )
