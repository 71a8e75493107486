"""A script of `start_run()` made again: there is no graph, so all of it runs, and what it logged is compared."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from hooke.base.errors import UsageError
from hooke.journal.events import MadeOf, RunStarted
from hooke.journal.run_folders import RunsFolder
from hooke.journal.run_view import view_of
from hooke.project.folder import Project
from hooke.running.reproduce.conditions import Anchor
from hooke.running.reproduce.result_comparison import (
    Closeness,
    ResultVerdict,
    Tolerance,
    compare_values,
    verdict,
)
from hooke.tracking.logged_values import Logged, logged_in

__all__ = ["Errand", "RerunReport", "replay_script", "run_beside"]


# --- A process that runs the user's code beside this one, and ends with Ctrl-C without a word.

STDERR = 2
"""What the run prints itself: on stdout stands the report alone."""
END_S = 10.0
SHOW_CURSOR = "\x1b[?25h"
"""A live table hides it, and cannot put it back when it is ended."""


def run_beside(command: Sequence[str], *, folder: Path | None, environment: Mapping[str, str]) -> int:
    """Run it to its end; returns the exit code. KeyboardInterrupt ends it first."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=STDERR, process_group=0
    )
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        process.kill()
        process.wait()
        if sys.stderr.isatty():
            sys.stderr.write(SHOW_CURSOR)
        raise


# --- What the process that makes a run again is told, and what it answers: two small files.


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


class RerunReport(msgspec.Struct, kw_only=True):
    """What came of it. `status` is `finished`, another status of a run, or `not run` where an anchor is not met."""

    status: str = "not run"
    message: str = ""
    anchors: list[Anchor] = []
    """Those that only a trace shows: code and inputs of tasks. Here are those alone that are not met."""
    tasks: list[ResultVerdict] = []
    outputs: list[ResultVerdict] = []


def replay_script(errand: Errand, begun: RunStarted, record: MadeOf) -> RerunReport:
    """Run the script with the words that it had. Raises UsageError where it is no file of the restored tree."""
    if not begun.entry:
        raise UsageError(
            f"run {begun.run} was logged by a notebook or `python -c`, which lies in no file to run again",
            fix="put it into a script, or into a pipeline",
        )
    script = errand.moved(Path(begun.entry))
    if not script.is_file():
        raise UsageError(
            f"the script of run {begun.run} is not in the tree that it recorded: {begun.entry}",
            why="git ignores it, or it lies outside the repository",
            fix="--here runs it where it is",
        )
    runs = Project.find(script).runs
    before = set(runs.names())
    folder = errand.moved(Path(begun.folder))
    code = run_beside(
        [sys.executable, str(script), *record.argv],
        folder=folder if folder.is_dir() else script.parent,
        environment=os.environ | {"HOOKE_SINKS": "none"} | _module_path(errand),
    )
    new = [name for name in runs.names() if name not in before and _title(runs, name) == begun.pipeline]
    if not new:
        return RerunReport(
            status="failed", message=f"the script ended with exit code {code} and logged no run"
        )
    status = view_of(runs, new[-1]).status
    if status != "finished":
        return RerunReport(status="failed", message=f"the script's run {new[-1]} {status}, exit code {code}")
    was = logged_in(Project.find(Path(errand.project)).runs.folder(errand.run))
    return RerunReport(
        status="finished", outputs=list(_verdicts(was, logged_in(runs.folder(new[-1])), errand))
    )


def _title(runs: RunsFolder, name: str) -> str:
    view = view_of(runs, name)
    return view.begun.pipeline if view.begun is not None else ""


def _module_path(errand: Errand) -> dict[str, str]:
    parts = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    paths = dict.fromkeys(str(errand.moved(Path(each))) for each in (*errand.paths, *parts))
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}


def _verdicts(was: Logged, now: Logged, errand: Errand) -> Iterator[ResultVerdict]:
    for kind, before, after in (
        ("metric", _metrics(was), _metrics(now)),
        ("parameter", _notes(was), _notes(now)),
        ("artifact", _artifacts(was), _artifacts(now)),
    ):
        for name, value in before.items():
            title = f"{kind} {name}"
            if name not in after:
                yield verdict(title, (), missing=1)
            elif isinstance(value, list) and len(value) == len(after[name]):
                pairs = zip(value, after[name], strict=True)
                yield verdict(title, ((f"[{at}]", _like(a, b, errand)) for at, (a, b) in enumerate(pairs)))
            else:
                yield verdict(title, [("", _like(value, after[name], errand))])


def _like(was: Any, now: Any, errand: Errand) -> Closeness:
    return compare_values(was, now, errand.tolerance)


def _metrics(logged: Logged) -> dict[str, list[tuple[int, float]]]:
    """The values by step; those of the machine's use are no results."""
    found: dict[str, list[tuple[int, float]]] = {}
    for point in logged.points:
        if not point.name.startswith("system/"):
            found.setdefault(point.name, []).append((point.step, point.value))
    return found


def _notes(logged: Logged) -> dict[str, str]:
    return {note.name: note.value for note in logged.params}


def _artifacts(logged: Logged) -> dict[str, str]:
    return {
        each.path: blake3(each.file.read_bytes()).hexdigest() if each.file.exists() else ""
        for each in logged.artifacts
    }
