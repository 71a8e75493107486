"""What the process that makes a run again is told, and what it answers: two small files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hooke.project.reproducing.anchors import Anchor
from hooke.project.reproducing.values import Tolerance
from hooke.project.reproducing.verdicts import Verdict

__all__ = ["Errand", "Report"]


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """Which run, and where its code and its new results lie."""

    run: str
    project: str
    """The project's folder, which has the run's journal and store."""
    root: str
    """The repository that the run's code lay in; empty where it lay in none."""
    tree: str
    """Where that code lies now: a worktree, or the same as `root`."""
    data: str
    """The folder for the new journal and store."""
    paths: tuple[str, ...] = ()
    """Where Python looked for modules in the repository then."""
    seed: int = 0
    """What it had then."""
    best_effort: bool = False
    rtol: float = 0.0
    atol: float = 0.0

    @property
    def tolerance(self) -> Tolerance:
        """How far apart two numbers may be."""
        return Tolerance(rtol=self.rtol, atol=self.atol)

    def moved(self, path: Path) -> Path:
        """Where a file of then lies now: in the restored tree, if it lay in the repository."""
        if not self.root or not path.is_relative_to(self.root):
            return path
        return Path(self.tree) / path.relative_to(self.root)


class Report(msgspec.Struct, kw_only=True):
    """What came of it. `status` is `finished`, another status of a run, or `not run` where an anchor is not met."""

    status: str = "not run"
    message: str = ""
    anchors: list[Anchor] = []
    """Those that only a trace shows: code and inputs of tasks. Here are those alone that are not met."""
    tasks: list[Verdict] = []
    outputs: list[Verdict] = []
