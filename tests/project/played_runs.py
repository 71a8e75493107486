"""Runs that were never driven: their journals, written as a driver and its workers write them."""

from pathlib import Path

from hooke.base.clock import SystemClock
from hooke.base.ref import Ref
from hooke.journal.events import (
    ArtifactLogged,
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Failure,
    NodePlanned,
    NotesLogged,
    PointsLogged,
    RunFinished,
    RunStarted,
)
from hooke.journal.writer import Journal

START = 1_795_000_000.0


class Played:
    """A run whose tasks are named; `log` writes what one of its attempts logged, or the run itself."""

    def __init__(
        self, root: Path, run: str, *, pipeline: str = "sweep", at: float = START, **shown: str
    ) -> None:
        self.run, self.at = run, at
        self.folder = root / ".hooke" / "runs" / run
        self.folder.mkdir(parents=True)
        self.driver = Journal.create(self.folder, "driver", durable="none", clock=SystemClock())
        self.driver.append(RunStarted(at=at, run=run, pipeline=pipeline, entry="job.py:sweep", shown=shown))
        self.nodes: dict[str, int] = {}
        self.attempts = 0

    def task(self, name: str, *, items: int | None = None, code: dict[str, str] | None = None) -> None:
        self.nodes[name] = len(self.nodes)
        kind = "call" if items is None else "map"
        self.driver.append(
            NodePlanned(
                at=self.at,
                node=self.nodes[name],
                task=name,
                key=name,
                kind=kind,
                items=items or 1,
                code=code or {},
            )
        )

    def attempt(self, task: str, *, items: int = 1, failed: bool = False, ended: bool = True) -> int:
        if task not in self.nodes:
            self.task(task)
        self.attempts += 1
        where = {"attempt": self.attempts, "node": self.nodes[task], "lo": 0, "hi": items}
        self.driver.append(AttemptStarted(at=self.at, worker="w1", **where))
        if failed:
            failure = Failure(kind="TaskError", message="no")
            self.driver.append(AttemptFailed(at=self.at + 1, failure=failure, seconds=1.0, **where))
        elif ended:
            ref = Ref(digest="0" * 64, size=1)
            self.driver.append(AttemptFinished(at=self.at + 1, ref=ref, seconds=2.0, **where))
        return self.attempts

    def log(self, *points, segment="track-w1-1", attempt=None, item=None, at=None, **notes) -> None:
        """`points` are (name, value, step); `notes` are `params` and `tags`."""
        at = self.at if at is None else at
        with Journal.create(self.folder, segment, durable="none", clock=SystemClock()) as journal:
            if points:
                journal.append(PointsLogged(at=at, points=points, attempt=attempt, item=item))
            if notes:
                journal.append(NotesLogged(at=at, attempt=attempt, item=item, **notes))

    def keep(self, name: str, text: str) -> None:
        """An artifact of the run."""
        file = self.folder / "artifacts" / "run" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        with Journal.create(self.folder, "track-w1-1", durable="none", clock=SystemClock()) as journal:
            journal.append(
                ArtifactLogged(at=self.at, path=name, file=f"artifacts/run/{name}", size=len(text.encode()))
            )

    def end(self, status: str = "finished", seconds: float = 5.0) -> None:
        self.driver.append(RunFinished(at=self.at + seconds, status=status, seconds=seconds))
        self.driver.close()
