"""A run whose journals a test writes."""

from hooke.base.files import FileLock
from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Failure,
    NodePlanned,
    RunFinished,
    RunStarted,
)
from hooke.journal.run_folders import LOCK, RunsFolder
from hooke.journal.writer import Journal
from hooke.tracking.tracker import Tracker

__all__ = ["Logbook"]


class Logbook:
    """A run whose journals a test writes, and what must arrive of it."""

    def __init__(
        self, runs: RunsFolder, run: str = "sweep-20261125-120000-abcd", pipeline: str = "sweep"
    ) -> None:
        self.runs, self.run = runs, run
        self.folder = runs.create(run)
        self.lock = FileLock(self.folder / LOCK)
        assert self.lock.try_acquire()
        self.driver = Journal.create(self.folder, "driver", durable="none")
        self.driver.append(RunStarted(run=run, pipeline=pipeline, entry="job.py:sweep", shown={"n": "4"}))
        self.driver.append(NodePlanned(node=0, task="fit", key="k", kind="map", items=8))
        self.driver.append(NodePlanned(node=1, task="best", key="l"))
        self.trackers = [Tracker(self.folder, f"local-{at}", durable="none") for at in range(2)]

    def begin(self, attempt: int, node: int = 0, number: int = 1) -> None:
        self.driver.append(AttemptStarted(attempt=attempt, node=node, lo=0, hi=1, number=number))

    def log(self, attempt: int | None, item: int | None, value: float, worker: int = 0) -> None:
        tracker = self.trackers[worker]
        tracker.attempt, tracker.item = attempt, item
        tracker.log_metric("loss", value)

    def succeed(self, attempt: int) -> None:
        self.driver.append(
            AttemptFinished(attempt=attempt, node=0, lo=0, hi=1, ref=Ref(digest="0" * 64, size=1))
        )

    def fail(self, attempt: int) -> None:
        failure = Failure(kind="TaskError", message="too bad")
        self.driver.append(AttemptFailed(attempt=attempt, node=0, lo=0, hi=1, failure=failure))

    def end(self, status: str | None = "finished") -> None:
        if status is not None:
            self.driver.append(RunFinished(status=status))
        self.driver.close()
        for tracker in self.trackers:
            tracker.close()
        self.lock.release()
