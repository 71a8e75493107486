"""A run from its first event to its result on stdout, shared by `run` and `resume`."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec

from hooke.base.errors import HookeError, NotFingerprintable, TaskError, TaskFailed, UsageError
from hooke.base.formats import short_repr
from hooke.cli.options import check_target
from hooke.cli.screens import (
    EXIT_FAILED,
    EXIT_STOPPED,
    CommandSession,
    command,
    error_facts,
    error_screen,
    exit_code,
)
from hooke.journal.events import FINISHED
from hooke.journal.run_view import RunView, failed_items_text, view_of
from hooke.pipeline.failures import user_traceback
from hooke.pipeline.pipeline import Pipeline
from hooke.progress.choice import Scene, open_progress, wanted_progress
from hooke.progress.progress import Progress
from hooke.project.pipeline_file import load_entry
from hooke.running.driver import Driver
from hooke.running.run import Run
from hooke.sync.sync_report import refused_lines

__all__ = ["DrivenRun", "load_pipeline", "result_json", "result_text", "user_code"]


# --- The result as text and as JSON.

MOST_LINES = 40
"""A value with a longer text is shown by its shape."""
LONGEST_LINE = 160
MOST_ELEMENTS = 20
MOST_JSON = 10_000
"""`--json` writes arrays and frames with at most this many elements or rows."""


def result_text(value: Any) -> str:
    """The value in a few lines: dicts entry by entry, frames as they print, large values by shape."""
    return "\n".join(_lines(value))


def result_json(value: Any) -> Any:
    """The value as JSON. Other types become short text, numbers that are not finite become null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): result_json(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [result_json(each) for each in value]
    if isinstance(value, AbstractSet):
        return sorted((result_json(each) for each in value), key=repr)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: result_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return _table_json(value)


def _lines(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.splitlines() or [""]
    if isinstance(value, Mapping) and value and not _fits(value):
        return _entries([(str(key), each) for key, each in value.items()])
    if isinstance(value, (list, tuple)) and value and not _fits(value):
        return _entries([(f"[{at}]", each) for at, each in enumerate(value)])
    return _own_text(value)


def _entries(entries: list[tuple[str, Any]]) -> list[str]:
    width = min(max(len(name) for name, _ in entries), 24)
    lines: list[str] = []
    for name, value in entries[:MOST_ELEMENTS]:
        own = _lines(value)
        if len(own) == 1:
            lines.append(f"{name.ljust(width)}  {own[0]}")
        else:
            lines += [name, *(f"  {line}" for line in own)]
    if len(entries) > MOST_ELEMENTS:
        lines.append(f"... and {len(entries) - MOST_ELEMENTS} more")
    return lines


def _fits(value: Any) -> bool:
    """Whether the repr of a list or dict fits on one line."""
    plain = all(each is None or isinstance(each, bool | int | float | str) for each in _parts(value))
    return plain and len(value) <= MOST_ELEMENTS and len(repr(value)) <= 100


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else list(value)


def _own_text(value: Any) -> list[str]:
    if isinstance(value, (Mapping, list, tuple)) or value is None:
        return [repr(value)]
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - whatever a user's __str__ does
        return [short_repr(value)]
    lines = text.splitlines()
    # The default repr is an address, which says nothing.
    bare = type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__
    if bare or not lines or len(lines) > MOST_LINES or max(map(len, lines)) > LONGEST_LINE:
        return [short_repr(value)]
    array = hasattr(value, "shape") and not hasattr(value, "columns")
    return [short_repr(value), *lines] if array and len(lines) > 1 else lines


def _table_json(value: Any) -> Any:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return result_json(value.item())
    if hasattr(value, "item") and not hasattr(value, "shape"):
        return result_json(value.item())
    if not _is_small(value):
        return short_repr(value)
    if hasattr(value, "to_dicts"):
        return result_json(value.to_dicts())
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return result_json(value.to_dict("records"))
    if hasattr(value, "tolist"):
        return result_json(value.tolist())
    return (
        short_repr(value) if hasattr(value, "shape") else str(value) if _is_text(value) else short_repr(value)
    )


def _is_small(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return not isinstance(shape, tuple) or math.prod(shape) <= MOST_JSON


def _is_text(value: Any) -> bool:
    """Whether the text of the value is its meaning: paths, dates, decimals."""
    kinds = (os.PathLike, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)
    return isinstance(value, kinds)


@dataclass(slots=True, kw_only=True)
class DrivenRun:
    """Drives one run and reports how it ended."""

    session: CommandSession
    as_json: bool
    typed: str = ""
    """The command that started the run, to type again."""
    in_this_process: bool = False
    folder: Path | None = None
    """The working directory of tasks, if not the current one: a resumed run works where it started."""
    earlier: RunView | None = None
    """A resumed run so far: what it counts, its progress counts."""
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        scene = Scene(in_this_process=self.in_this_process)
        self.progress = open_progress(self._wanted(), scene, self.earlier)

    def drive(self, driver: Driver) -> int:
        """Run it to its end; returns the exit code."""
        try:
            with contextlib.redirect_stdout(sys.stderr), self.progress, self.in_folder():
                status = driver.drive()
        except KeyboardInterrupt:  # a second Ctrl-C stops at once
            return self.stopped(driver.run, "at once")
        except HookeError as error:
            error.next = error.next or self._again(error, driver)
            return self.refused(error, run=driver.run)
        if status == "stopped":
            return self.stopped(driver.run, "cleanly")
        return self.told(Run(driver.project, driver.run))

    def _wanted(self) -> str:
        """The progress setting. A typed command shows the table at once, where `auto` would wait."""
        project = self.session.project
        wanted = wanted_progress("auto", project.settings.show.progress if project is not None else "auto")
        if self.as_json:
            return "none"
        return "table" if wanted == "auto" else wanted

    def in_folder(self) -> AbstractContextManager[None]:
        """Changes to the working directory of tasks."""
        return contextlib.chdir(self.folder) if self.folder is not None else contextlib.nullcontext()

    def told(self, run: Run) -> int:
        """Print the result of a run, or its error; returns the exit code."""
        for line in refused_lines(run.folder):
            self._say(f"not logged: {line}")
        try:
            value = run.result()
        except HookeError as error:
            return self.refused(error, run=run.id)
        if self.as_json:
            self._print_json(run, result=result_json(value), failures=self._failures(run))
        else:
            click.echo(result_text(value))
            sys.stdout.flush()
        if run.status != FINISHED:
            self._say(failed_items_text(view_of(run.project.runs, run.id), run.id))
        if not self.as_json:
            self._say(f"next: {self._command(f'hooke show {run.id}')}")
        return 0 if run.status == FINISHED else EXIT_FAILED

    def _failures(self, run: Run) -> list[dict[str, Any]]:
        return [error_facts(error, self.session) for error in run.failures]

    def refused(self, error: HookeError, *, run: str = "") -> int:
        """Print an error screen, with `--json` also facts on stdout; returns the exit code."""
        if isinstance(error, TaskFailed):
            # Logs help if the task printed something; resuming helps after the cause is fixed.
            resume = f"hooke resume {run}"
            looks = error.log_tail or isinstance(error, TaskError)
            error.next = f"{error.next}\nwhen fixed: {resume}" if looks else resume
        if self.as_json:
            facts = error_facts(error, self.session)
            if run and self.session.project is not None:
                self._print_json(Run(self.session.project, run), error=facts)
            else:
                _print({"run": None, "status": "refused", "error": facts})
        click.echo(error_screen(error, self.session), err=True)
        return exit_code(error)

    def _again(self, error: HookeError, driver: Driver) -> str:
        """The command to type after the cause is fixed: resume the run if it has started, else the command itself."""
        with contextlib.suppress(HookeError):
            begun = view_of(driver.project.runs, driver.run).begun is not None
            if begun and not isinstance(error, NotFingerprintable):
                return f"hooke resume {driver.run}"
        return self.typed or f"hooke resume {driver.run}"

    def stopped(self, run: str, how: str) -> int:
        """Print that a run was stopped; returns the exit code."""
        assert self.session.project is not None
        next_command = self._command(view_of(self.session.project.runs, run).resume_command)
        if self.as_json and self.session.project is not None:
            self._print_json(Run(self.session.project, run))
        self._say(f"run {run} stopped {how}; finished results are kept\n  next: {next_command}")
        return EXIT_STOPPED

    def _print_json(self, run: Run, **more: Any) -> None:
        summary: dict[str, Any] = {"run": run.id, "status": "unknown", "tasks": []}
        with contextlib.suppress(HookeError):  # the journal may be unreadable
            summary |= {"status": run.status, "tasks": msgspec.to_builtins(run.tasks())}
        _print(summary | more)

    def _command(self, text: str) -> str:
        return command(text, self.session.project)

    def _say(self, line: str) -> None:
        click.echo(line, err=True)


def load_pipeline(target: str) -> tuple[Pipeline[..., Any], Path]:
    """The pipeline of FILE.py[:NAME] and its file. What the file prints on import goes to stderr. Raises UsageError."""
    check_target(target)
    with contextlib.redirect_stdout(sys.stderr):
        return load_entry(target)


def user_code(make: Callable[[], Any], pipeline: Pipeline[..., Any]) -> Any:
    """The result of `make()`. Hooke's errors pass; an exception from the pipeline's body becomes a UsageError."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return make()
    except HookeError:
        raise
    except Exception as error:
        if not _came_through(error, pipeline):
            raise
        raise UsageError(
            f"pipeline {pipeline.name!r} raised {type(error).__name__}: {error}",
            why=user_traceback(error),
            fix="correct the body of the pipeline; no task has run yet",
        ) from error


def _came_through(error: BaseException, pipeline: Pipeline[..., Any]) -> bool:
    code, frame = getattr(pipeline.function, "__code__", None), error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code is code:
            return True
        frame = frame.tb_next
    return False


def _print(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))
