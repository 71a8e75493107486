"""Searches, read back from their journals: what was tried, and what came of it.

A search is a folder among the runs, `search-<pipeline>-<time>-<letters>`. Its driver's segment holds a RunStarted, a SearchStarted, then
TrialBegan and TrialEnded events, then a RunFinished; each trial is a run of its own. A later driver that goes on with it says
RunStarted again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hooke.journal.events import RunFinished, RunStarted
from hooke.journal.reader import SegmentReader, read
from hooke.journal.runs import RunsFolder
from hooke.journal.segments import SUFFIX
from hooke.journal.trials import SearchStarted, TrialBegan, TrialEnded

__all__ = ["PREFIX", "SearchRecord", "TrialRecord", "find_search", "read_search"]

PREFIX = "search-"
"""What the id of every search begins with."""


@dataclass(slots=True, kw_only=True)
class TrialRecord:
    """A trial as it stands: `running`, `finished` with its value, `pruned` or `failed`."""

    trial: int
    run: str
    asked: dict[str, float]
    shown: dict[str, str]
    began_at: float
    ended_at: float | None = None
    status: str = "running"
    value: float | None = None
    message: str = ""


@dataclass(slots=True, kw_only=True)
class SearchRecord:
    """A search as its journal tells it. `finished` is None while it goes on, and for one whose driver died."""

    begun: RunStarted
    looked: SearchStarted
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    told: list[int] = field(default_factory=list)
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
        """The trial with the best value, of equal ones the first; None where none has finished."""
        sign = -1 if self.looked.direction == "maximize" else 1
        ended = [(sign * each.value, each.trial) for each in self.trials.values() if each.value is not None]
        return self.trials[min(ended)[1]] if ended else None


def read_search(folder: Path) -> SearchRecord | None:
    """The search in a run's folder; None where that holds a run. Raises JournalError as `read` does."""
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
        if not name.startswith(PREFIX) or not file.exists():
            continue
        with SegmentReader(file) as reader:
            looked = next((event for event in reader if isinstance(event, SearchStarted)), None)
        if looked is not None and looked.key == key:
            return name
    return None
