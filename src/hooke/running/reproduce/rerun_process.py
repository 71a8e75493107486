"""The process that runs a pipeline again: `python -m hooke.running.reproduce.rerun_process FOLDER`.

A new process imports its modules from the restored tree. It reads request.json in FOLDER and writes report.json there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

import msgspec
from msgspec.structs import replace

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import write_atomic
from hooke.journal.run_view import RunView, view_of
from hooke.keys.file import File
from hooke.pipeline.node_keys import GraphKeys
from hooke.progress.choice import Scene, open_progress, wanted_progress
from hooke.project.backends import find_backend
from hooke.project.folder import Project
from hooke.project.settings import StoreSettings, TrackingSettings
from hooke.running.driver import Driver, RunOrder, prepare
from hooke.running.reproduce.conditions import modules_elsewhere, planned_conditions
from hooke.running.reproduce.rerun import RerunReport, RerunRequest
from hooke.running.reproduce.result_comparison import ReproducedRun, compare_outputs, compare_tasks
from hooke.running.resume import arguments_of, pipeline_of

__all__ = ["REPORT", "REQUEST", "main"]

REQUEST = "request.json"
REPORT = "report.json"
LOOK_S = 0.5
STOPPED = 130


def main(folder: Path) -> int:
    """Do what the request says and write the report. SIGTERM ends the process and its workers at once."""
    signal.signal(signal.SIGTERM, _interrupt)
    request = msgspec.json.decode((folder / REQUEST).read_bytes(), type=RerunRequest)
    sys.path[:] = list(
        dict.fromkeys([str(request.moved(Path(each))) for each in (*request.paths, *sys.path)])
    )
    report = RerunReport()
    try:
        _rerun(request, report)
    except HookeError as error:
        report.status, report.message = "failed" if report.status == "not run" else report.status, str(error)
    write_atomic(folder / REPORT, msgspec.json.encode(report))
    return 0


def _rerun(request: RerunRequest, report: RerunReport) -> None:
    project = Project.at(Path(request.project))
    was = RunView.fold(project.runs.events(request.run))
    assert was.begun is not None
    driver = _driver(request, project, was)
    keys = GraphKeys(driver.graph, run=request.run, seed=driver.seed)
    report.conditions = planned_conditions(was, driver.graph, keys, seeded_alike=driver.seed == request.seed)
    report.conditions += modules_elsewhere(Path(request.root or "/nowhere"), Path(request.tree or "/nowhere"))
    if report.conditions and not request.best_effort:
        return
    report.status = _drive(driver)
    now = view_of(driver.project.runs, request.run)
    if report.status != "finished":
        failed = now.error(request.run)
        report.message = str(failed) if failed is not None else "the run was stopped"
        return
    report.status = "running"
    old = ReproducedRun(was, project.store(), project.root, keys)
    new = ReproducedRun(now, driver.project.store(), project.root)
    report.tasks = compare_tasks(old, new, request.tolerance)
    report.outputs = compare_outputs(old, new, request.tolerance)
    report.status = "finished"


def _driver(request: RerunRequest, project: Project, was: RunView) -> Driver:
    """The run, traced from the code in `request.tree`, with its own store and journals."""
    begun = was.begun
    assert begun is not None
    found = Project.at(request.moved(project.root))
    tracking = TrackingSettings(sinks=(), system_metrics_s=0)
    mine = Project(
        root=found.root,
        settings=msgspec.structs.replace(found.settings, store=StoreSettings(), tracking=tracking),
        kept=Path(request.data),
    )
    store = project.store()
    file, _, name = begun.entry.rpartition(":")
    entry = f"{request.moved(Path(file))}:{name}" if begun.pickled is None else begun.entry
    args, params = arguments_of(begun, store)
    order = RunOrder(
        pipeline=pipeline_of(msgspec.structs.replace(begun, entry=entry), store),
        args=tuple(_moved(each, request) for each in args),
        params={each: _moved(value, request) for each, value in params.items()},
        on=begun.place,
        workers=begun.workers,
        new_id=request.run,
    )
    try:
        return prepare(order, mine)
    except HookeError:
        raise
    except Exception as error:
        raise UsageError(
            f"pipeline {order.pipeline.name!r} raised {type(error).__name__}: {error}",
            fix="files that git ignores are not in the restored tree: pass them as hooke.File, or use --here",
        ) from error


def _moved(value: Any, request: RerunRequest) -> Any:
    """The value with paths of the repository moved to the restored tree, also inside lists, tuples and dicts."""
    kind = type(value)
    if kind is File:
        return File(request.moved(value.path)) if value.path.is_absolute() else value
    if isinstance(value, PurePath) and value.is_absolute():
        return kind(request.moved(Path(value)))
    if kind in (list, tuple):
        return kind(_moved(each, request) for each in value)
    return {key: _moved(each, request) for key, each in value.items()} if kind is dict else value


def _drive(driver: Driver) -> str:
    settings = driver.project.settings
    serial = find_backend(driver.order.on, workers=None, places=settings.places).engine == "serial"
    shown = open_progress(wanted_progress("auto", settings.show.progress), Scene(in_this_process=serial))
    driver.order = replace(driver.order, observers=(shown.observe,))
    with shown:
        return driver.drive()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Act like a double Ctrl-C: the first one alone asks for a clean stop, which may take as long as a task."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def _arguments(words: Sequence[str]) -> Path:
    (folder,) = words
    return Path(folder)


def _end_with(parent: int) -> None:
    """End this process, and its workers with it, when the parent ends: nobody waits for the report then."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    os.environ["HOOKE_SINKS"] = "none"
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(_arguments(sys.argv[1:])))
    sys.exit(STOPPED)
