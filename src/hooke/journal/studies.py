"""Studies of scaling, read back from their journals: what was measured, as plain facts.

A study is a folder among the runs, `measure-<pipeline>-<time>-<letters>`. Its driver's segment holds a StudyStarted,
then Measured and PlainMeasured events, then a RunFinished; the attempts behind each Measured are in a segment of its own.
A later driver that goes on with it says StudyStarted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hooke.base.errors import JournalError
from hooke.journal.events import Measured, PlainMeasured, RunFinished, StudyStarted
from hooke.journal.reader import read
from hooke.journal.runs import RunsFolder
from hooke.journal.services import LoadMeasured

__all__ = ["PREFIX", "StudyRecord", "find_studies", "read_study"]

PREFIX = "measure-"
"""What the id of every study begins with."""


class StudyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A study as its journal tells it. `finished` is None while it goes on, and for one whose driver died."""

    started: StudyStarted
    measured: tuple[Measured, ...] = ()
    plain: tuple[PlainMeasured, ...] = ()
    loads: tuple[LoadMeasured, ...] = ()
    """Of a service: what was under load, in the order of `measured`."""
    finished: RunFinished | None = None

    @property
    def rounds(self) -> int:
        """How many rounds are whole: each N, or size, once, and the plain calls once where there are any."""
        levels = len(self.started.sizes or self.started.levels)
        counts = Counter(each.repeat for each in self.measured)
        if self.of_service:
            return sum(number == levels for number in counts.values())
        return sum(counts[each.repeat] == levels for each in self.plain)

    @property
    def of_service(self) -> bool:
        """Whether it is of a service; there are no plain calls to compare with then."""
        return self.started.unit == "requests"

    @property
    def counts(self) -> str:
        """What N counts: `workers`, or of a service `replicas`, or `threads` of each."""
        if not self.of_service:
            return "workers"
        return (
            "threads"
            if len({each.threads for each in self.loads}) > 1 == len({each.replicas for each in self.loads})
            else "replicas"
        )

    @property
    def complete(self) -> bool:
        """Whether all that was to be measured has been."""
        return self.finished is not None and self.finished.status == "finished"


def read_study(folder: Path) -> StudyRecord | None:
    """The study in a run's folder; None where that holds a run. Raises JournalError as `read` does."""
    started: StudyStarted | None = None
    # A round that an earlier driver did not finish is measured anew, and what it had of it no longer counts.
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
        if not name.startswith(PREFIX):
            continue
        try:
            found = read_study(runs.folder(name))
        except JournalError:
            continue
        if found is None or (pipeline and found.started.pipeline != pipeline):
            continue
        if task is None or found.started.task == task:
            yield found
