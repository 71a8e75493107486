"""A script of `start_run()` made again: there is no graph, so all of it runs, and what it logged is compared."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from hooke.base.errors import UsageError
from hooke.journal.events import RunStarted
from hooke.journal.made_of import MadeOf
from hooke.journal.runs import RunsFolder
from hooke.project.folder import Project
from hooke.project.logged import Logged, logged_in
from hooke.project.outcome import view_of
from hooke.project.reproducing.beside import run_beside
from hooke.project.reproducing.errand import Errand, Report
from hooke.project.reproducing.values import Likeness, compare_values
from hooke.project.reproducing.verdicts import Verdict, verdict

__all__ = ["replay_script"]


def replay_script(errand: Errand, begun: RunStarted, record: MadeOf) -> Report:
    """Run the script with the words that it had. Raises UsageError where it is no file of the restored tree."""
    if not begun.entry:
        raise UsageError(
            f"run {begun.run} was logged by a notebook or `python -c`, which lies in no file to run again",
            mend="put it into a script, or into a pipeline",
        )
    script = errand.moved(Path(begun.entry))
    if not script.is_file():
        raise UsageError(
            f"the script of run {begun.run} is not in the tree that it recorded: {begun.entry}",
            why="git ignores it, or it lies outside the repository",
            mend="--here runs it where it is",
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
        return Report(status="failed", message=f"the script ended with exit code {code} and logged no run")
    status = view_of(runs, new[-1]).status
    if status != "finished":
        return Report(status="failed", message=f"the script's run {new[-1]} {status}, exit code {code}")
    was = logged_in(Project.find(Path(errand.project)).runs.folder(errand.run))
    return Report(status="finished", outputs=list(_verdicts(was, logged_in(runs.folder(new[-1])), errand)))


def _title(runs: RunsFolder, name: str) -> str:
    view = view_of(runs, name)
    return view.begun.pipeline if view.begun is not None else ""


def _module_path(errand: Errand) -> dict[str, str]:
    parts = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    paths = dict.fromkeys(str(errand.moved(Path(each))) for each in (*errand.paths, *parts))
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}


def _verdicts(was: Logged, now: Logged, errand: Errand) -> Iterator[Verdict]:
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


def _like(was: Any, now: Any, errand: Errand) -> Likeness:
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
