"""A run from its first event to its result on stdout: what `run` and `resume` have in common."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec

from hooke.base.errors import HookeError, NotFingerprintable, TaskFailed, UsageError
from hooke.cli.result import result_json, result_text
from hooke.cli.screens import EXIT_STOPPED, Session, command, error_facts, error_screen, exit_code
from hooke.pipeline.failures import user_traceback
from hooke.pipeline.pipeline import Pipeline
from hooke.project.driving import Driver
from hooke.project.outcome import view_of
from hooke.project.progress.choice import Scene, open_progress, wanted_progress
from hooke.project.progress.progress import Progress
from hooke.project.running import Run
from hooke.project.shipping.report import refused_lines

__all__ = ["Conduct", "user_code"]


@dataclass(slots=True, kw_only=True)
class Conduct:
    """Drives one run and says how it ended. `observe` goes into its Order."""

    session: Session
    as_json: bool
    typed: str = ""
    """The command that asked for the run, to be typed again."""
    in_this_process: bool = False
    folder: Path | None = None
    """Where tasks are to work, if not here: a resumed run works where it began."""
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = open_progress(self._wanted(), Scene(in_this_process=self.in_this_process))

    def drive(self, driver: Driver) -> int:
        """Run it to its end; returns the exit code."""
        try:
            with contextlib.redirect_stdout(sys.stderr), self.progress, self.in_folder():
                status = driver.drive()
        except KeyboardInterrupt:  # a second one: it did not wait for anything
            return self._stopped(driver.run, "at once")
        except HookeError as error:
            error.next = error.next or self._again(error, driver)
            return self.refused(error, run=driver.run)
        if status == "stopped":
            return self._stopped(driver.run, "cleanly")
        return self.told(Run(driver.project, driver.run))

    def _wanted(self) -> str:
        """Nobody types a command to see nothing for a while: what `auto` would show late, is shown at once."""
        project = self.session.project
        wanted = wanted_progress("auto", project.settings.show.progress if project is not None else "auto")
        if self.as_json:
            return "none"
        return "table" if wanted == "auto" else wanted

    def in_folder(self) -> AbstractContextManager[None]:
        """The folder where tasks work."""
        return contextlib.chdir(self.folder) if self.folder is not None else contextlib.nullcontext()

    def told(self, run: Run) -> int:
        """Print a run's result, or why it has none; returns the exit code."""
        for line in refused_lines(run.folder):
            self._say(f"of what was logged {line}")
        try:
            value = run.result()
        except HookeError as error:
            return self.refused(error, run=run.id)
        if self.as_json:
            self._print_json(run, result=result_json(value))
        else:
            click.echo(result_text(value))
            sys.stdout.flush()
            self._say(f"next: {self._command(f'hooke show {run.id}')}")
        return 0

    def refused(self, error: HookeError, *, run: str = "") -> int:
        """Say an error as a screen, with `--json` also on stdout; returns its exit code."""
        if isinstance(error, TaskFailed):
            # Logs tell something where the task printed; resuming helps once the cause is mended.
            resume = f"hooke resume {run}"
            error.next = f"{error.next}    when mended: {resume}" if error.log_tail else resume
        if self.as_json:
            facts = error_facts(error, self.session)
            if run and self.session.project is not None:
                self._print_json(Run(self.session.project, run), error=facts)
            else:
                _print({"run": None, "status": "refused", "error": facts})
        click.echo(error_screen(error, self.session), err=True)
        return exit_code(error)

    def _again(self, error: HookeError, driver: Driver) -> str:
        """What goes on once the cause is mended: the run, if it has begun with anything, else the command itself."""
        with contextlib.suppress(HookeError):
            begun = view_of(driver.project.runs, driver.run).begun is not None
            if begun and not isinstance(error, NotFingerprintable):
                return f"hooke resume {driver.run}"
        return self.typed or f"hooke resume {driver.run}"

    def _stopped(self, run: str, how: str) -> int:
        next_command = self._command(f"hooke resume {run}")
        if self.as_json and self.session.project is not None:
            self._print_json(Run(self.session.project, run))
        self._say(f"run {run} stopped {how}; what had finished is kept\n  next: {next_command}")
        return EXIT_STOPPED

    def _print_json(self, run: Run, **more: Any) -> None:
        summary: dict[str, Any] = {"run": run.id, "status": "unknown", "tasks": []}
        with contextlib.suppress(HookeError):  # the journal itself may be what cannot be read
            summary |= {"status": run.status, "tasks": msgspec.to_builtins(run.tasks())}
        _print(summary | more)

    def _command(self, text: str) -> str:
        return command(text, self.session.project)

    def _say(self, line: str) -> None:
        click.echo(line, err=True)


def user_code(make: Callable[[], Any], pipeline: Pipeline[..., Any]) -> Any:
    """What `make()` gives. An exception out of the pipeline's own body is told as such; Hooke's own errors pass.

    Raises UsageError.
    """
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
            mend="nothing has run yet: the pipeline's own body raised, not a task",
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
