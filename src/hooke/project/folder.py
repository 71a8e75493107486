"""A project on disk: its folder, settings, store and runs."""

from __future__ import annotations

import os
import platform
import random
import socket
import string
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hooke.base.clock import Clock
from hooke.base.errors import ConfigError, UsageError
from hooke.base.files import FileLock, writing
from hooke.base.formats import readable
from hooke.base.observed import InputsNow
from hooke.base.user_code import is_users
from hooke.journal.events import Event, RunStarted, StudyStarted
from hooke.journal.run_folders import DRIVER, LOCK, RunsFolder
from hooke.journal.study_records import PlansFolder
from hooke.journal.writer import Journal
from hooke.pipeline.pipeline import Pipeline
from hooke.project.settings import FILE, Settings, read_settings
from hooke.store.store import Store

__all__ = ["SEED", "Project", "lock_run", "new_run_id", "open_run", "project_of", "start_of"]


SEED = "HOOKE_SEED"
"""The environment variable that overrides `[run] seed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The folder with `hooke.toml`; without one, the script's folder."""

    root: Path
    settings: Settings
    kept: Path | None = None
    """The folder of store and journals, if not `.hooke`."""

    @classmethod
    def find(cls, start: Path) -> Project:
        """The project of a file or folder: the nearest parent folder with a hooke.toml; without one, its own folder."""
        root = cls.root_of(start)
        try:
            str(root).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"the name of the folder {readable(str(root))} is not UTF-8",
                why="journals and messages name it as text",
                fix="rename it",
            ) from None
        return cls(root=root, settings=read_settings(root) if (root / FILE).is_file() else Settings())

    @staticmethod
    def root_of(start: Path) -> Path:
        """The folder of that project; does not read its settings."""
        folder = (start if start.is_dir() else start.parent).resolve()
        return next((one for one in (folder, *folder.parents) if (one / FILE).is_file()), folder)

    @property
    def data(self) -> Path:
        """`.hooke`, the folder of store and journals. It may not exist yet: reading a project creates nothing."""
        return self.kept or self.root / ".hooke"

    def create(self) -> Path:
        """Create `.hooke` and its .gitignore if they do not exist. Raises HookeError."""
        folder = self.data
        if not (folder / ".gitignore").is_file():
            with writing("the project's folder", folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        return folder

    @property
    def runs(self) -> RunsFolder:
        """The runs of this project."""
        return RunsFolder(self.data / "runs")

    @property
    def plans(self) -> PlansFolder:
        """The plans of this project."""
        return PlansFolder(self.data / "plans")

    def store(self) -> Store:
        """The store of this project. Raises ConfigError if a shared store has no secret."""
        settings = self.settings.store
        url = settings.url or str(self.data / "store")
        if not urlsplit(url).scheme:
            url = str(self.root / url)
        return Store.open(url, secret=self.secret(), durable=self.settings.journal.durable)

    @property
    def seed(self) -> int:
        """The seed, which is part of every key: HOOKE_SEED, else `[run] seed`, else 0. Raises ConfigError."""
        said = os.environ.get(SEED)
        if said is None:
            return self.settings.run.seed
        try:
            return int(said)
        except ValueError:
            raise ConfigError(
                f"{SEED}={said!r} is not a whole number", fix=f"{SEED}=7, or unset it"
            ) from None

    def inputs_now(self, *, unshared: bool = False) -> InputsNow:
        """The files and variables that results may have been made from, as they are now. Raises ConfigError.

        `unshared`: tasks run on hosts that may not share this machine's files.
        """
        return InputsNow(root=self.root, environment=os.environ, secret=self.secret(), unshared=unshared)

    def secret(self) -> bytes | None:
        """The secret that signs the objects of a shared store; None if hooke.toml names no file. Raises ConfigError."""
        name = self.settings.store.secret_file
        if not name:
            return None
        path = self.root / name
        try:
            secret = path.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"store.secret_file: {path} cannot be read", why=str(error)) from error
        if len(secret) < 16:
            raise ConfigError(
                f"store.secret_file: {path} has {len(secret)} bytes; at least 16 are needed",
                fix="python -c 'import secrets; print(secrets.token_hex())' > " + name,
            )
        return secret


# --- The project that code belongs to.


def project_of(pipeline: Pipeline[..., Any]) -> Project:
    """The project of a pipeline that Python code runs."""
    return Project.find(start_of(sys.modules.get(pipeline.function.__module__)))


def start_of(module: ModuleType | None = None) -> Path:
    """Where to look for the project: the running script, else the module's file, else the working directory.

    The script may not be the user's: pytest, IPython or a Hooke worker can run the code.
    """
    for each in (sys.modules.get("__main__"), module):
        file = Path(getattr(each, "__file__", None) or "")
        if file.is_file() and (each is module or file.suffix == ".py") and is_users(str(file.resolve())):
            return file
    return Path.cwd()


# --- Names of runs.


def new_run_id(pipeline: str, now: float) -> str:
    """`delays-20261125-004622-x7k2`: sorts by time within a pipeline, and a short prefix is enough to type."""
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
    letters = string.ascii_lowercase + string.digits
    return f"{pipeline}-{moment}-{''.join(random.SystemRandom().choices(letters, k=4))}"


# --- How every run begins: its folder, its lock, and a first event with the facts of the process that drives it.


def lock_run(project: Project, run: str) -> FileLock:
    """Make the run's folder and take its lock.

    Raises UsageError where another process drives the run, HookeError where the folder cannot be written.
    """
    folder = project.runs.folder(run)
    with writing("the run's folder", folder):
        project.create()
        lock = FileLock(project.runs.create(run) / LOCK)
        acquired = lock.try_acquire()
    if not acquired:
        raise UsageError(f"run {run} is being driven by another process", next=f"hooke show {run}")
    return lock


def open_run(
    project: Project,
    begun: RunStarted | StudyStarted,
    *,
    clock: Clock,
    observers: Sequence[Callable[[Event], None]] = (),
) -> Journal:
    """The driver's journal of a run whose folder exists; its first event is `begun`, with the facts of this process.

    Raises JournalError.
    """
    run = begun.run if isinstance(begun, RunStarted) else begun.study
    durable = project.settings.journal.durable
    journal = Journal.create(project.runs.folder(run), DRIVER, durable=durable, clock=clock)
    try:
        journal.observers.extend(observers)
        facts = {
            "folder": os.getcwd(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "hooke": version("hooke"),
        }
        journal.append(msgspec.structs.replace(begun, **facts))
    except BaseException:
        journal.close()
        raise
    return journal
