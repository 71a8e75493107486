"""A driver to be killed: `python -m tests.support.chaos_driver FOLDER SALT` begins a run of the job, or resumes the last.

Exit codes: 0 finished, 1 failed, 130 stopped, 3 an error of ours that says what to do. Anything else is a bug.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from hooke.base.errors import HookeError, UsageError
from hooke.engines.local import LocalEngine
from hooke.pipeline.engine import EngineContext, EngineEvent
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.running.driver import Driver, RunOrder, prepare
from hooke.running.resume import last_resumable, resume

__all__ = ["CODES", "PLACE", "ScalingEngine", "main"]

PLACE = "chaos"
CODES = {"finished": 0, "failed": 1, "stopped": 130}
REFUSED = 3

MOST_WORKERS = 5


class ScalingEngine(LocalEngine):
    """The local engine under an autoscaler that cannot make up its mind."""

    def __init__(self, context: EngineContext, *, workers: tuple[int, int] | None = None) -> None:
        super().__init__(context, workers=workers)
        self._chance = Random()

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """As the local engine, after another size now and then."""
        if self._chance.random() < 0.02:
            self.scale(self._chance.randint(1, MOST_WORKERS))
        return super().wait(timeout_s)


def _driver(project: Project, salt: int) -> Driver | None:
    try:
        return resume(project, last_resumable(project))
    except UsageError:  # none is left, or it has no beginning yet
        pipeline, _ = load_entry(str(project.root / "chaos_job.py"))
        return prepare(RunOrder(pipeline=pipeline, params={"salt": salt}, on=PLACE, workers=2), project)


def main(folder: str, salt: int) -> int:
    """Drive one run as far as it goes."""
    try:
        driver = _driver(Project.find(Path(folder)), salt)
        return 0 if driver is None else CODES[driver.drive()]
    except HookeError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return CODES["stopped"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
