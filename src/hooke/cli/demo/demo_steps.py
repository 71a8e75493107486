"""The steps of `hooke demo`: commands in fresh processes, and what their journals say."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

from hooke.base.errors import HookeError
from hooke.cli.screens import EXIT_FAILED
from hooke.journal.run_view import RunView, view_of
from hooke.processes.devices import cpus_here
from hooke.processes.start import python_module
from hooke.project.folder import Project

__all__ = ["DemoCommand", "Pass", "measure_scaling", "run_pass", "serve_champion"]


# --- A command in a fresh process.


def as_typed(arguments: list[str]) -> str:
    """The command line to type."""
    return f"hooke {shlex.join(arguments)}"


def show_line(line: str) -> None:
    """Print the command like a shell, before its output."""
    click.secho(f"$ {line}", dim=True)
    sys.stdout.flush()


def typed(
    arguments: list[str], *, live: bool = False, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Print the command and run it. Its stdout is captured, its stderr too unless `live`."""
    show_line(as_typed(arguments))
    process = subprocess.Popen(
        python_module("hooke", *arguments),
        stdout=subprocess.PIPE,
        stderr=None if live else subprocess.PIPE,
        text=True,
        env=env,
    )
    # Ctrl-C also reaches the command, which keeps its results and says how to continue.
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        output, errors = process.communicate()
    finally:
        signal.signal(signal.SIGINT, former)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


# --- A run.

FRAMES = {
    "POLARS_FMT_MAX_ROWS": "20",
    "POLARS_FMT_MAX_COLS": "12",
    "POLARS_FMT_STR_LEN": "40",
    "POLARS_TABLE_WIDTH": "100",
    "POLARS_FMT_TABLE_HIDE_COLUMN_DATA_TYPES": "1",
    "POLARS_FMT_TABLE_HIDE_DATAFRAME_SHAPE_INFORMATION": "1",
}
"""Settings for Polars' tables in the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One run of the demo: its exit code, output, id and the facts of its journal."""

    code: int
    output: str = ""
    run: str = ""
    view: RunView | None = None

    @property
    def work_s(self) -> float:
        """Task seconds over all workers."""
        return sum(task.seconds for task in self.view.tasks.values()) if self.view is not None else 0.0

    @property
    def cpu_s(self) -> float:
        """CPU seconds of tasks; less than `work_s` if they waited for a CPU."""
        return sum(task.cpu_s for task in self.view.tasks.values()) if self.view is not None else 0.0

    @property
    def wall_s(self) -> float:
        """Seconds from start to end, from its journal."""
        return self.view.seconds(self.view.last_at) if self.view is not None else 0.0

    def facts(self) -> dict[str, object]:
        """For `--json`."""
        facts: dict[str, object] = {"run": self.run, "exit_code": self.code}
        if self.view is not None:
            row = self.view.row(self.view.last_at)
            facts |= {"place": row.place, "calls": row.items, "ran": row.done}
            facts |= {"work_s": self.work_s, "cpu_s": self.cpu_s, "wall_s": self.wall_s}
        return facts


def run_pass(arguments: list[str], project: Project) -> Pass:
    """Run in a fresh process. Its result is captured, and its progress is shown."""
    ended = typed(arguments, live=True, env=os.environ | FRAMES)
    if ended.returncode:
        return Pass(code=ended.returncode)
    run = project.runs.find()
    return Pass(code=0, output=ended.stdout, run=run, view=view_of(project.runs, run))


# --- Scaling.

PIPELINE, TASK = "certainty.py", "resample"
REPEATS = "3"
"""With these, a quiet machine's law has narrow intervals; a noisy one's report says how many more would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCommand:
    """A command of this step and its exit code."""

    command: str
    exit_code: int

    @property
    def code(self) -> int:
        """0 if the command answered; "the data do not determine it" is an answer."""
        return 0 if self.exit_code in (0, EXIT_FAILED) else self.exit_code

    def facts(self) -> dict[str, object]:
        """For `--json`."""
        return {"command": self.command, "exit_code": self.exit_code}


def measure_scaling(folder: Path, months: list[str]) -> DemoCommand:
    """Measure up to 4 workers, or 8 with more than two CPUs here: past the CPUs, where a law has its knee; 16 items divide evenly."""
    workers = "1,2,4,8" if cpus_here() > 2 else "1,2,4"
    return _said(
        [
            "measure",
            str(folder / PIPELINE),
            *months,
            "--task",
            TASK,
            "--workers",
            workers,
            "--repeats",
            REPEATS,
        ],
        live=True,
    )


def _said(arguments: list[str], *, live: bool = False) -> DemoCommand:
    """Run the command, and print its output or its refusal; `live` shows its progress."""
    ended = typed(arguments, live=live)
    click.echo(ended.stdout.rstrip())
    said = DemoCommand(command=as_typed(arguments), exit_code=ended.returncode)
    if ended.returncode and not live:
        click.echo(ended.stderr.rstrip(), err=bool(said.code))
    return said


# --- Serving.

REGISTER, SERVICE, ASK, CLASS = "register.py", "service.py", "ask.py", "Delay"
RATE = "25"
"""Requests per second that two shared cores can both send and answer."""
ENOUGH_S = 2.0
"""Seconds of load per number of replicas."""
LONGEST_S = 120.0
"""The timeout for starting processes, generous for a busy machine."""


def serve_champion(folder: Path, months: int) -> list[DemoCommand]:
    """Register, serve, request, scale and drain, up to the first failed command."""
    said = [_register(folder, months)]
    if said[-1].code:
        return said
    with _served(folder) as (status, served):
        _until(lambda: _are(status(), 2), served, "two replicas to be ready")
        with _asking(folder, months, status()["url"]) as asking:
            for replicas in (3, 2):
                time.sleep(ENOUGH_S)
                typed(["serve", "scale", str(replicas), "--project", str(folder)])
                _until(lambda n=replicas: _are(status(), n), served, f"{replicas} replicas")
            time.sleep(ENOUGH_S)
        said.append(asking())
        drained = typed(["serve", "drain", "--project", str(folder)])
        said.append(
            DemoCommand(command="hooke serve drain", exit_code=drained.returncode or served.wait(LONGEST_S))
        )
    return said


def _register(folder: Path, months: int) -> DemoCommand:
    line = f"python {shlex.quote(str(folder / REGISTER))} {months}"
    show_line(line)
    done = subprocess.run(
        [sys.executable, folder / REGISTER, str(months)], check=False, capture_output=True, text=True
    )
    click.echo(
        done.stdout.rstrip() if not done.returncode else done.stderr.rstrip(), err=bool(done.returncode)
    )
    return DemoCommand(command=line, exit_code=done.returncode)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[tuple[Callable[[], dict[str, Any]], subprocess.Popen[str]]]:
    """Runs `hooke serve` of the champion and shows its output; yields the process."""
    arguments = [
        "serve",
        str(folder / SERVICE),
        "--with",
        "model=flights@champion",
        "--replicas",
        "2",
        "--port",
        "0",
    ]
    show_line(as_typed(arguments))
    process = subprocess.Popen(python_module("hooke", *arguments), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    shown = threading.Thread(target=_show, args=(process.stderr,), daemon=True)
    shown.start()
    try:
        yield lambda: _status(folder), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LONGEST_S)
        if process.poll() is None:
            process.kill()
        shown.join(5.0)


@contextlib.contextmanager
def _asking(folder: Path, months: int, url: str) -> Iterator[Callable[[], DemoCommand]]:
    """Sends requests until the block ends, then reports."""
    arguments = [
        str(folder / ASK),
        url,
        "--months",
        str(months),
        "--rate",
        RATE,
        "--seconds",
        f"{LONGEST_S:g}",
    ]
    line = f"python {shlex.join(arguments)}"
    show_line(line)
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    def ended() -> DemoCommand:
        return DemoCommand(command=line, exit_code=process.returncode)

    try:
        click.echo(process.stdout.readline().rstrip())
        yield ended
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=LONGEST_S)[0]
        click.echo(said.rstrip())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _show(lines: IO[str]) -> None:
    for line in lines:
        click.echo(f"  {line.rstrip()}", err=True)


def _status(folder: Path) -> dict[str, Any]:
    """The facts of `hooke serve status --json`; empty before the service exists."""
    asked = subprocess.run(
        python_module("hooke", "serve", "status", "--json", "--project", str(folder)),
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(asked.stdout) if not asked.returncode else {"replicas": []}
    return found


def _are(status: dict[str, Any], replicas: int) -> bool:
    """Whether exactly this many replicas exist, all ready."""
    return [replica["state"] for replica in status["replicas"]] == ["ready"] * replicas


def _until(so: Callable[[], bool], served: subprocess.Popen[str], what: str) -> None:
    ends = time.monotonic() + LONGEST_S
    while not so():
        if served.poll() is not None:
            raise HookeError(
                f"the service exited with code {served.returncode} before it had {what}",
                next=f"hooke serve logs {CLASS}",
            )
        if time.monotonic() > ends:
            raise HookeError(
                f"the service did not have {what} within {LONGEST_S:g} s", next=f"hooke serve logs {CLASS}"
            )
        time.sleep(0.2)
