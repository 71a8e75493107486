"""The process that makes a run again: `python -m hooke.running.reproduce.again FOLDER`.

A fresh one, so that modules come from the restored tree. FOLDER has errand.json; report.json is what it leaves there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import write_atomic
from hooke.journal.run_view import RunView, view_of
from hooke.keys.file import File
from hooke.pipeline.node_keys import GraphKeys
from hooke.progress.choice import Scene, open_progress, wanted_progress
from hooke.project.backends import find_place
from hooke.project.folder import Project
from hooke.project.settings import StoreSettings, TrackingSettings
from hooke.running.driver import Driver, RunOrder, prepare
from hooke.running.reproduce.child_runs import Errand, RerunReport
from hooke.running.reproduce.conditions import modules_elsewhere, planned_anchors
from hooke.running.reproduce.result_comparison import ReproducedRun, compare_outputs, compare_tasks
from hooke.running.resume import arguments_of, pipeline_of

__all__ = ["ERRAND", "REPORT", "main"]

ERRAND = "errand.json"
REPORT = "report.json"
LOOK_S = 0.5
STOPPED = 130


def main(folder: Path) -> int:
    """Do the errand; what ends it is in the report. SIGTERM ends it at once, and with it the workers."""
    signal.signal(signal.SIGTERM, _interrupt)
    errand = msgspec.json.decode((folder / ERRAND).read_bytes(), type=Errand)
    sys.path[:] = list(dict.fromkeys([str(errand.moved(Path(each))) for each in (*errand.paths, *sys.path)]))
    report = RerunReport()
    try:
        _again(errand, report)
    except HookeError as error:
        report.status, report.message = "failed" if report.status == "not run" else report.status, str(error)
    write_atomic(folder / REPORT, msgspec.json.encode(report))
    return 0


def _again(errand: Errand, report: RerunReport) -> None:
    project = Project.find(Path(errand.project))
    was = RunView.fold(project.runs.events(errand.run))
    assert was.begun is not None
    driver = _driver(errand, project, was)
    keys = GraphKeys(driver.graph, run=errand.run, seed=driver.seed)
    report.anchors = planned_anchors(was, driver.graph, keys, seeded_alike=driver.seed == errand.seed)
    report.anchors += modules_elsewhere(Path(errand.root or "/nowhere"), Path(errand.tree or "/nowhere"))
    if report.anchors and not errand.best_effort:
        return
    report.status = _drive(driver)
    now = view_of(driver.project.runs, errand.run)
    if report.status != "finished":
        failed = now.error(errand.run)
        report.message = str(failed) if failed is not None else "it was stopped"
        return
    report.status = "running"
    old = ReproducedRun(was, project.store(), keys)
    new = ReproducedRun(now, driver.project.store())
    report.tasks = compare_tasks(old, new, errand.tolerance)
    report.outputs = compare_outputs(old, new, errand.tolerance)
    report.status = "finished"


def _driver(errand: Errand, project: Project, was: RunView) -> Driver:
    """The run, traced from the code that lies in `errand.tree`, with a store and journals of its own."""
    begun = was.begun
    assert begun is not None
    found = Project.find(errand.moved(project.root))
    tracking = TrackingSettings(sinks=(), system_metrics_s=0)
    mine = Project(
        root=found.root,
        settings=msgspec.structs.replace(found.settings, store=StoreSettings(), tracking=tracking),
        kept=Path(errand.data),
    )
    store = project.store()
    file, _, name = begun.entry.rpartition(":")
    entry = f"{errand.moved(Path(file))}:{name}" if begun.pickled is None else begun.entry
    args, params = arguments_of(begun, store)
    order = RunOrder(
        pipeline=pipeline_of(msgspec.structs.replace(begun, entry=entry), store),
        args=tuple(_moved(each, errand) for each in args),
        params={each: _moved(value, errand) for each, value in params.items()},
        on=begun.place,
        workers=begun.workers,
        name=errand.run,
    )
    try:
        return prepare(order, mine)
    except HookeError:
        raise
    except Exception as error:
        raise UsageError(
            f"pipeline {order.pipeline.name!r} raised {type(error).__name__}: {error}",
            fix="a file that git ignores is not in the restored tree: pass it as a hooke.File, or use --here",
        ) from error


def _moved(value: Any, errand: Errand) -> Any:
    """Paths of the repository as they are in the restored tree, in nestings of lists, tuples and dicts."""
    kind = type(value)
    if kind is File:
        return File(errand.moved(value.path)) if value.path.is_absolute() else value
    if isinstance(value, PurePath) and value.is_absolute():
        return kind(errand.moved(Path(value)))
    if kind in (list, tuple):
        return kind(_moved(each, errand) for each in value)
    return {key: _moved(each, errand) for key, each in value.items()} if kind is dict else value


def _drive(driver: Driver) -> str:
    settings = driver.project.settings
    serial = find_place(driver.order.on, workers=None, places=settings.places).engine == "serial"
    shown = open_progress(wanted_progress("auto", settings.show.progress), Scene(in_this_process=serial))
    driver.order = replace(driver.order, observers=(shown.observe,))
    with shown:
        return driver.drive()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """As Ctrl-C twice: the first asks a run to stop cleanly, which may take as long as its tasks do."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def _arguments(words: Sequence[str]) -> Path:
    (folder,) = words
    return Path(folder)


def _end_with(parent: int) -> None:
    """Whoever asked is gone, and nobody waits for the report. What this process started ends with it."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    os.environ["HOOKE_SINKS"] = "none"
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(_arguments(sys.argv[1:])))
    sys.exit(STOPPED)
