"""Runs a script of `start_run()` again and compares what it logs; the messages between this process and a rerun's."""

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
from hooke.running.reproduce.conditions import RunCondition
from hooke.running.reproduce.result_comparison import (
    Closeness,
    ResultVerdict,
    Tolerance,
    compare_values,
    verdict,
)
from hooke.tracking.logged_values import Logged, logged_in

__all__ = ["RerunReport", "RerunRequest", "replay_script", "run_beside"]


# --- A child process that runs the user's code.

STDERR = 2
"""The run prints to stderr, because stdout has only the report."""
END_S = 10.0
SHOW_CURSOR = "\x1b[?25h"
"""A live table hides the cursor, and cannot restore it if it is killed."""


def run_beside(command: Sequence[str], *, folder: Path | None, environment: Mapping[str, str]) -> int:
    """Run the command to its end and return the exit code. KeyboardInterrupt ends the child first."""
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


# --- The request to the process that runs a pipeline again, and its report: two small files.


class RerunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which run to repeat, and where its code and its new results are."""

    run: str
    project: str
    """The project's folder, with the run's journal and store."""
    root: str
    """The repository of the run's code; empty if it had none."""
    tree: str
    """Where the code is now: a worktree, or the same as `root`."""
    data: str
    """The folder for the new journal and store."""
    paths: tuple[str, ...] = ()
    """The run's `sys.path` entries inside the repository."""
    seed: int = 0
    """The run's seed."""
    best_effort: bool = False
    rtol: float = 0.0
    atol: float = 0.0

    @property
    def tolerance(self) -> Tolerance:
        """How much two numbers may differ."""
        return Tolerance(rtol=self.rtol, atol=self.atol)

    def moved(self, path: Path) -> Path:
        """The current path of a file of the run: inside the restored tree if it was in the repository."""
        if not self.root or not path.is_relative_to(self.root):
            return path
        return Path(self.tree) / path.relative_to(self.root)


class RerunReport(msgspec.Struct, kw_only=True):
    """The outcome. `status` is `finished`, another status of a run, or `not run` if a condition is not met."""

    status: str = "not run"
    message: str = ""
    conditions: list[RunCondition] = []
    """The unmet conditions that only a trace shows: code and inputs of tasks."""
    tasks: list[ResultVerdict] = []
    outputs: list[ResultVerdict] = []


def replay_script(request: RerunRequest, begun: RunStarted, record: MadeOf) -> RerunReport:
    """Run the script with its original arguments. Raises UsageError if it is not a file of the restored tree."""
    if not begun.entry:
        raise UsageError(
            f"run {begun.run} was logged by a notebook or `python -c`, so there is no file to run again",
            fix="move the code into a script or a pipeline",
        )
    script = request.moved(Path(begun.entry))
    if not script.is_file():
        raise UsageError(
            f"the script of run {begun.run} is not in the recorded tree: {begun.entry}",
            why="git ignores it, or it is outside the repository",
            fix="use --here to run it where it is",
        )
    runs = Project.find(script).runs
    before = set(runs.names())
    folder = request.moved(Path(begun.folder))
    code = run_beside(
        [sys.executable, str(script), *record.argv],
        folder=folder if folder.is_dir() else script.parent,
        environment=os.environ | {"HOOKE_SINKS": "none"} | _module_path(request),
    )
    new = [name for name in runs.names() if name not in before and _title(runs, name) == begun.pipeline]
    if not new:
        return RerunReport(
            status="failed", message=f"the script ended with exit code {code} and logged no run"
        )
    status = view_of(runs, new[-1]).status
    if status != "finished":
        return RerunReport(status="failed", message=f"the script's run {new[-1]} {status}, exit code {code}")
    was = logged_in(Project.at(Path(request.project)).runs.folder(request.run))
    return RerunReport(
        status="finished", outputs=list(_verdicts(was, logged_in(runs.folder(new[-1])), request))
    )


def _title(runs: RunsFolder, name: str) -> str:
    view = view_of(runs, name)
    return view.begun.pipeline if view.begun is not None else ""


def _module_path(request: RerunRequest) -> dict[str, str]:
    parts = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    paths = dict.fromkeys(str(request.moved(Path(each))) for each in (*request.paths, *parts))
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}


def _verdicts(was: Logged, now: Logged, request: RerunRequest) -> Iterator[ResultVerdict]:
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
                yield verdict(title, ((f"[{at}]", _like(a, b, request)) for at, (a, b) in enumerate(pairs)))
            else:
                yield verdict(title, [("", _like(value, after[name], request))])


def _like(was: Any, now: Any, request: RerunRequest) -> Closeness:
    return compare_values(was, now, request.tolerance)


def _metrics(logged: Logged) -> dict[str, list[tuple[int, float]]]:
    """The values by step, without system metrics."""
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
