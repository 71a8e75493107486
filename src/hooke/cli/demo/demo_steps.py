"""The end of `hooke demo`: the champion answers for real flights, by two replicas, three, and two again."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

from hooke.base.errors import HookeError
from hooke.base.formats import format_seconds
from hooke.cli.screens import EXIT_FAILED, EXIT_STOPPED
from hooke.journal.run_view import RunView, view_of
from hooke.processes.devices import cpus_here
from hooke.processes.start import python_module
from hooke.project.folder import Project
from hooke.project.settings import FILE

__all__ = [
    "DemoCommand",
    "Pass",
    "as_typed",
    "compare_workers",
    "run_pass",
    "scale_features",
    "serve_champion",
    "show_line",
    "typed",
]


# --- A command of `hooke demo`: a fresh process, as if it were typed.


def as_typed(arguments: list[str]) -> str:
    """The line that one would type."""
    return f"hooke {shlex.join(arguments)}"


def show_line(line: str) -> None:
    """As a shell shows what is typed; before what it prints, wherever that goes."""
    click.secho(f"$ {line}", dim=True)
    sys.stdout.flush()


def typed(
    arguments: list[str], *, live: bool = False, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Show the line and run it. Its output is kept, and what it says beside that too, or, `live`, is seen as it comes."""
    show_line(as_typed(arguments))
    process = subprocess.Popen(
        python_module("hooke", *arguments),
        stdout=subprocess.PIPE,
        stderr=None if live else subprocess.PIPE,
        text=True,
        env=env,
    )
    # Ctrl-C reaches the command itself, which keeps what it has and says how to go on.
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        output, errors = process.communicate()
    finally:
        signal.signal(signal.SIGINT, former)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


# --- One run of `hooke demo`: a process as if it were typed, and what its journal says of it.

FRAMES = {
    "POLARS_FMT_MAX_ROWS": "20",
    "POLARS_FMT_MAX_COLS": "12",
    "POLARS_FMT_STR_LEN": "40",
    "POLARS_TABLE_WIDTH": "100",
    "POLARS_FMT_TABLE_HIDE_COLUMN_DATA_TYPES": "1",
    "POLARS_FMT_TABLE_HIDE_DATAFRAME_SHAPE_INFORMATION": "1",
}
"""How Polars shows the tables of the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One run of the demo: its exit code, what it printed, its id and what its journal says."""

    code: int
    output: str = ""
    run: str = ""
    view: RunView | None = None

    @property
    def work_s(self) -> float:
        """Seconds that its tasks worked, over all workers."""
        return sum(task.seconds for task in self.view.tasks.values()) if self.view is not None else 0.0

    @property
    def cpu_s(self) -> float:
        """Seconds of a cpu that its tasks had: less than `work_s` where they waited for one."""
        return sum(task.cpu_s for task in self.view.tasks.values()) if self.view is not None else 0.0

    @property
    def wall_s(self) -> float:
        """Seconds from start to end, as its journal has them."""
        return self.view.seconds(self.view.last_at) if self.view is not None else 0.0

    def facts(self) -> dict[str, object]:
        """For `--json`."""
        facts: dict[str, object] = {"run": self.run, "exit_code": self.code}
        if self.view is not None:
            row = self.view.row(self.view.last_at)
            facts |= {"place": row.place, "calls": row.items, "ran": row.done}
            facts |= {"work_s": self.work_s, "cpu_s": self.cpu_s, "wall_s": self.wall_s}
        return facts


def run_pass(arguments: list[str], project: Project, *, quiet: bool = False) -> Pass:
    """A fresh process, as if it were typed. Its result is kept; its progress is seen as it comes, or, `quiet`, if it fails."""
    ended = typed(arguments, live=not quiet, env=os.environ | FRAMES)
    if ended.returncode:
        # Who stopped a quiet run needs no advice on how to resume it.
        if ended.stderr and ended.returncode != EXIT_STOPPED:
            click.echo(ended.stderr, err=True, nl=False)
        return Pass(code=ended.returncode)
    run = project.runs.find()
    return Pass(code=0, output=ended.stdout, run=run, view=view_of(project.runs, run))


# --- The end of `hooke demo`: how far the features scale, whether that beats one plain thread, and what 100 times as much would take.

TASK = "features"
PLAIN = "features_at_once"
"""One Polars call over all months: what one would write without Hooke."""
WORKERS = "1,2,3,4"
"""Four N can contradict a law; on two cores they also show where the cores end."""
REPEATS = "2"
"""Measured to its end however noisy the machine is, and what that leaves open is said: with more it would give up."""
TIMES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCommand:
    """A command of this part, and how it ended."""

    command: str
    exit_code: int

    @property
    def code(self) -> int:
        """0 where it got as far as an answer; that the measurements do not tell is one."""
        return 0 if self.exit_code in (0, EXIT_FAILED) else self.exit_code

    def facts(self) -> dict[str, object]:
        """For `--json`."""
        return {"command": self.command, "exit_code": self.exit_code}


def scale_features(main: Path, months: list[str]) -> list[DemoCommand]:
    """Measure, draw and plan; each command as if it were typed. Ends with the first that is broken."""
    file, where = str(main), ["--project", str(main.parent)]
    longer = [f"--times={task}={TIMES}" for task in ("month", TASK)]
    how = ["--task", TASK, "--workers", WORKERS, "--repeats", REPEATS, "--plain", PLAIN]
    commands = (
        ["measure", file, *how, *months],
        ["curve", TASK, *where],
        ["plan", file, *longer, *months],
    )
    said: list[DemoCommand] = []
    for arguments in commands:
        said.append(_said(arguments))
        if said[-1].code:
            break
    return said


def _said(arguments: list[str]) -> DemoCommand:
    """What it prints is printed, and what it says instead where it has no answer."""
    click.echo()
    ended = typed(arguments)
    click.echo(ended.stdout.rstrip())
    said = DemoCommand(command=as_typed(arguments), exit_code=ended.returncode)
    if ended.returncode:
        click.echo(ended.stderr.rstrip(), err=bool(said.code))
    return said


REGISTER, SERVICE, ASK, CLASS = "register.py", "service.py", "ask.py", "Delay"
RATE = "25"
"""Requests a second: two shared cores answer them, and ask them as well."""
ENOUGH_S = 2.0
"""How long each number of replicas is asked."""
LONGEST_S = 120.0
"""A machine that is busy with other things may take long to start three processes; longer than this something is wrong."""


def serve_champion(folder: Path, months: int) -> list[DemoCommand]:
    """Register, serve, ask, scale and drain; each command as if it were typed. Ends with the first that is broken."""
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
    """`hooke serve` of the champion, its lines shown as they come; what asks how it is, and the process."""
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
    """What asks, from its first request until the block ends; then what it says is to be had."""
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
    """What `hooke serve status --json` says; nothing while there is no service yet."""
    asked = subprocess.run(
        python_module("hooke", "serve", "status", "--json", "--project", str(folder)),
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(asked.stdout) if not asked.returncode else {"replicas": []}
    return found


def _are(status: dict[str, Any], replicas: int) -> bool:
    """Whether there are so many, each ready, and none that is starting or leaving."""
    return [replica["state"] for replica in status["replicas"]] == ["ready"] * replicas


def _until(so: Callable[[], bool], served: subprocess.Popen[str], what: str) -> None:
    ends = time.monotonic() + LONGEST_S
    while not so():
        if served.poll() is not None:
            raise HookeError(
                f"the service ended with {served.returncode} before there were {what}",
                next=f"hooke serve logs {CLASS}",
            )
        if time.monotonic() > ends:
            raise HookeError(f"{LONGEST_S:g} s were not enough for {what}", next=f"hooke serve logs {CLASS}")
        time.sleep(0.2)


# --- The last part of `hooke demo`: the same work from nothing by one worker and by two, and what the second brings.

MONTHS = 3
"""The fewest that the pipeline takes: the whole demo is to stay under two minutes on two shared cores."""

MUCH = 0.15
"""From this share of a worker's time spent in waiting for a cpu, the figures say less of Hooke than of the machine."""

COLUMNS = ("wall time", "on a cpu", "waiting for a cpu", "without a task")


def compare_workers(files: Sequence[Path], main: str) -> list[Pass]:
    """Run `main`, one of `files`, with one worker, then with two, and say how they compare.

    Returns both passes, only the first where that one failed, none where this process may use one cpu only.
    """
    if cpus_here() < 2:
        click.echo("this machine gives Hooke one cpu, which two workers would only share: not measured")
        return []
    click.echo("from an empty cache each time, in a folder that is then deleted")
    one = _fresh(files, main, workers=1)
    if one.code:
        return [one]
    two = _fresh(files, main, workers=2)
    if not two.code:
        click.echo("\n" + "\n".join(_compared(one, two)))
    return [one, two]


def _fresh(files: Sequence[Path], main: str, *, workers: int) -> Pass:
    with tempfile.TemporaryDirectory(prefix="hooke-demo-") as name:
        folder = Path(name)
        # A project of its own, whatever lies above: with nothing in its cache and no settings.
        (folder / FILE).touch()
        for file in files:
            shutil.copy(file, folder)
        command = ["run", str(folder / main), "--months", str(MONTHS), "--on", f"local:{workers}"]
        return run_pass(command, Project.find(folder), quiet=True)


def _compared(one: Pass, two: Pass) -> list[str]:
    """Both as rows, by what share of the workers' time went where; then how much faster two were, and why not more."""
    spent = [_spent(done, workers) for workers, done in enumerate((one, two), start=1)]
    rows: list[tuple[str, ...]] = [("", *COLUMNS)]
    for name, done, shares in zip(("1 worker", "2 workers"), (one, two), spent, strict=True):
        rows.append((name, format_seconds(done.wall_s), *(f"{share:.0%}" for share in shares)))
    return [*_aligned(rows), *_verdict(one, two, waiting=max(shares[1] for shares in spent))]


def _spent(done: Pass, workers: int) -> tuple[float, float, float]:
    """Shares of the workers' time: on a cpu for a task, waiting for a cpu in one, without a task."""
    whole = workers * done.wall_s
    on_cpu = min(done.cpu_s, done.work_s) / whole
    return on_cpu, done.work_s / whole - on_cpu, 1 - done.work_s / whole


def _verdict(one: Pass, two: Pass, *, waiting: float) -> list[str]:
    times = one.wall_s / two.wall_s
    result = "the same result" if one.output == two.output else "another result"
    if times > 1:
        lines = [f"two workers are {times:.2f} times as fast as one, {times / 2:.0%} of the ideal; {result}"]
    else:
        lines = [f"two workers were not faster here ({times:.2f} times as fast as one); {result}"]
    if waiting >= MUCH:
        lines.append("waiting for a cpu: other programs had it; on a quiet machine the figures are others")
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]
