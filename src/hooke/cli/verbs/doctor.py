"""`hooke doctor`: checks the installation and this machine, with a fix for each problem."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from hooke.base.distributions import DISTRIBUTION, HOOKE_VERSION, install_command, requirements
from hooke.base.errors import HookeError
from hooke.base.formats import format_bytes, format_seconds
from hooke.cli.options import json_option, project_option, the_project
from hooke.cli.screens import EXIT_FAILED, CommandSession
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import task
from hooke.processes.devices import cpus_here
from hooke.project.folder import Project
from hooke.store.store import Store

__all__ = ["DoctorFinding", "Extra", "checkup", "doctor", "extras"]


# --- Hooke's extras from its package metadata, and which of their packages are installed.

FOR_US = frozenset({"bench", "dev", "docs", "tests"})
"""Extras for the development of Hooke."""

_REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+)[^;]*;.*\bextra\s*==\s*['"](?P<extra>[\w-]+)['"]""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """An extra: its packages, each with the installed version or None."""

    name: str
    packages: dict[str, str | None]

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name, installed in self.packages.items() if installed is None]

    @property
    def command(self) -> str:
        """The command that installs it."""
        return install_command(self.name)


def extras() -> list[Extra]:
    """The extras for users, by name."""
    found: dict[str, dict[str, str | None]] = {}
    for line in requirements():
        match = _REQUIREMENT.match(line)
        if match and match["extra"] not in FOR_US:
            found.setdefault(match["extra"], {})[match["name"]] = _installed(match["name"])
    return [Extra(name=name, packages=packages) for name, packages in sorted(found.items())]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@task
def doubled(x: int) -> int:
    """A quick task with a known result."""
    return 2 * x


@task
def added(x: int, y: int) -> int:
    """A second task, which reads the first result from the store."""
    return x + y


@pipeline
def checkup(x: int) -> int:
    """Returns 42 for 20."""
    return added(doubled(x), y=2)


BACKENDS = ("serial", "local:1")
LOW_SPACE = 1 << 30
"""Warn below this much free space; a single result may need as much."""
SMALL_SHM = 64 << 20
"""The default of containers, too small for libraries that share arrays through it."""


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One check. `state` is ok, note, warning or broken; `fix` is what to type."""

    name: str
    state: str
    text: str
    fix: str = ""


@click.command()
@json_option
@project_option
@click.pass_obj
def doctor(session: CommandSession, *, as_json: bool, project: Path | None) -> int:
    """Check Python, extras, backends (by running a task), store, journal and machine.

    Exit code 1 if something that every run needs is broken.
    """
    findings: list[DoctorFinding] = []
    for finding in _findings(session, project):
        findings.append(finding)
        if not as_json:
            _say(finding)
    broken = [finding for finding in findings if finding.state == "broken"]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    elif broken:
        click.echo(f"\nbroken: {', '.join(finding.name for finding in broken)}", err=True)
    else:
        click.echo("\neverything that runs need works\nnext: hooke demo, or hooke run FILE.py", err=True)
    return EXIT_FAILED if broken else 0


def _say(finding: DoctorFinding) -> None:
    colour = {"ok": "green", "note": "blue", "warning": "yellow", "broken": "red"}[finding.state]
    click.echo(f"{click.style(finding.state.ljust(7), fg=colour)}  {finding.name.ljust(10)}  {finding.text}")
    if finding.fix:
        click.echo(f"{' ' * 21}fix: {finding.fix}")


def _findings(session: CommandSession, folder: Path | None) -> Iterator[DoctorFinding]:
    yield _python()
    yield _hooke()
    yield from map(_extra, extras())
    yield _machine()
    yield from _shared_memory()
    try:
        project = the_project(session, folder)
    except HookeError as error:
        yield DoctorFinding("project", "broken", error.what, fix=error.fix)
        return
    because = f", because it has {project.marker}" if project.marker else ""
    yield DoctorFinding("project", "ok", f"{project.root}{because}")
    for note in project.notes(below=True):
        yield DoctorFinding("unused", "note", note)
    yield _checked("store", lambda: _store(project))
    yield _checked("journal", lambda: _journal(project))
    for backend in BACKENDS:
        yield _checked(backend, partial(_backend, backend))


def _checked(name: str, check: Callable[[], DoctorFinding]) -> DoctorFinding:
    """The finding of a check; an exception is a finding too."""
    try:
        return check()
    except HookeError as error:
        return DoctorFinding(name, "broken", error.what, fix=error.fix or error.why)
    except Exception as error:  # noqa: BLE001 - an unexpected error is a finding
        return DoctorFinding(name, "broken", f"{type(error).__name__}: {error}")


def _python() -> DoctorFinding:
    text = f"{platform.python_version()} ({platform.python_implementation()}) at {sys.executable}"
    if sys.platform == "darwin":
        return DoctorFinding("python", "note", f"{text}; on macOS, use the backend serial: --on serial")
    return DoctorFinding("python", "ok", text)


def _hooke() -> DoctorFinding:
    text = f"{HOOKE_VERSION} in {Path(__file__).parents[2]}"
    if (other := _installed("hooke")) is not None:
        text += f"; the distribution hooke {other} is installed, too, whose files have the same names"
        return DoctorFinding(
            "hooke", "warning", text, fix=f"pip uninstall hooke {DISTRIBUTION}; {install_command()}"
        )
    if _installed(DISTRIBUTION) is None:
        text += f"; the distribution {DISTRIBUTION} is not installed, so extras are not known"
        return DoctorFinding("hooke", "note", text, fix=install_command())
    return DoctorFinding("hooke", "ok", text)


def _extra(extra: Extra) -> DoctorFinding:
    said = ", ".join(f"{name} {installed or '(missing)'}" for name, installed in extra.packages.items())
    if extra.missing:
        return DoctorFinding(f"[{extra.name}]", "note", f"not installed: {said}", fix=extra.command)
    return DoctorFinding(f"[{extra.name}]", "ok", said)


def _machine() -> DoctorFinding:
    import psutil

    cpus = cpus_here()
    memory = psutil.virtual_memory()
    text = f"{cpus} cpus, {format_bytes(memory.available)} of {format_bytes(memory.total)} memory free"
    return DoctorFinding("machine", "ok", f"{text}, {platform.system()} {platform.release()}")


def _shared_memory() -> Iterator[DoctorFinding]:
    if not Path("/dev/shm").is_dir():  # noqa: S108 - looked at, not written to
        return
    usage = shutil.disk_usage("/dev/shm")  # noqa: S108 - same
    small = usage.total <= SMALL_SHM
    text = f"{format_bytes(usage.free)} of {format_bytes(usage.total)} of shared memory free"
    fix = "give the container more shared memory: docker run --shm-size=1g" if small else ""
    yield DoctorFinding("shm", "warning" if small else "ok", text, fix=fix)


def _store(project: Project) -> DoctorFinding:
    """Writes an object in the store's folder, reads it back, and times an fsync."""
    store = project.store()
    folder, value = Path(store.place), b"hooke doctor\n" * 20_000
    if "://" in store.place:
        works = store.get(store.put(value)) == value
        return DoctorFinding("store", "ok" if works else "broken", f"{store.place} answers")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=folder) as temporary:
        trial = Store.open(temporary)
        works = trial.get(trial.put(value)) == value
    if not works:
        return DoctorFinding("store", "broken", f"{folder} returned other bytes than were written")
    free = shutil.disk_usage(folder).free
    text = f"{folder} writable, {format_bytes(free)} free, fsync {format_seconds(_sync_seconds(folder))}"
    if free < LOW_SPACE:
        return DoctorFinding("store", "warning", text, fix="hooke cache gc --max SIZE")
    return DoctorFinding("store", "ok", text)


def _sync_seconds(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096)
        file.flush()
        began = time.perf_counter()
        os.fsync(file.fileno())
        return time.perf_counter() - began


def _journal(project: Project) -> DoctorFinding:
    """Appends an event and reads it back, in a temporary folder beside the runs."""
    from hooke.base.clock import SystemClock
    from hooke.journal.events import StopRequested
    from hooke.journal.reader import read
    from hooke.journal.writer import Journal

    project.runs.path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=project.create()) as folder:
        with Journal.create(Path(folder), "driver", clock=SystemClock()) as journal:
            journal.append(StopRequested(by="doctor"))
        events = sum(len(segment.events) for segment in read(Path(folder)))
    runs = len(project.runs.names())
    state = "ok" if events == 1 else "broken"
    return DoctorFinding("journal", state, f"{project.runs.path} writable, {runs} runs")


def _backend(backend: str) -> DoctorFinding:
    """Runs two tasks on the backend, in a temporary folder."""
    from hooke.project.settings import Settings
    from hooke.running.driver import RunOrder, prepare
    from hooke.running.run import Run

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hooke-doctor-") as folder:
        project = Project(root=Path(folder), settings=Settings())
        driver = prepare(RunOrder(pipeline=checkup, args=(20,), on=backend), project)
        driver.drive()
        answer = Run(project, driver.run).result()
    seconds = time.perf_counter() - began
    if answer != 42:
        return DoctorFinding(backend, "broken", f"a task returned {answer!r} instead of 42")
    return DoctorFinding(
        backend, "ok", f"ran a pipeline in {format_seconds(seconds)}, including start and shutdown"
    )
