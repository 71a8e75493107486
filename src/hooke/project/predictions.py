"""Plans that were made, and how a run turned out against the one made for it."""

from __future__ import annotations

from pathlib import Path

from hooke.base.errors import JournalError
from hooke.journal.events import RunStarted
from hooke.journal.plans import PlanChecked, PlanMade, TaskChecked
from hooke.journal.reader import read
from hooke.journal.segments import SUFFIX
from hooke.journal.view import RunView
from hooke.journal.writer import Journal

__all__ = ["PlansFolder", "check"]

LOCAL = "local"
MOST_KEPT = 200
"""Plans of a project that are kept, the newest."""
MOST_READ = 20
"""How many of a pipeline's newest plans are looked at for the one that a run is like."""


class PlansFolder:
    """All plans below `path`, which need not exist yet: a journal of one event each, `<plan id>.journal`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self, pipeline: str = "") -> list[str]:
        """Plan ids, the newest first; of one pipeline where it is given."""
        try:
            found = [file.stem for file in self.path.iterdir() if file.suffix == SUFFIX]
        except FileNotFoundError:
            return []
        mine = [name for name in found if not pipeline or name.rsplit("-", 3)[0] == pipeline]
        return sorted(mine, key=lambda name: name.rsplit("-", 3)[1:], reverse=True)

    def add(self, made: PlanMade) -> None:
        """Keep a plan; the oldest go. Raises JournalError and OSError where it cannot be written."""
        self.path.mkdir(parents=True, exist_ok=True)
        with Journal.create(self.path, made.plan, durable="none") as journal:
            journal.append(made)
        for name in self.names()[MOST_KEPT:]:
            (self.path / f"{name}{SUFFIX}").unlink(missing_ok=True)

    def read(self, name: str) -> PlanMade | None:
        """One plan; None where it cannot be read."""
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
            if made is None or made.at > started.at or made.host != started.host or made.times:
                continue
            if made.entry == started.entry and made.shown == started.shown:
                return made
        return None


def check(made: PlanMade, view: RunView, *, seconds: float) -> PlanChecked | None:
    """What a run took on this machine against what was predicted of it; None where the plan has no row for its workers."""
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
