"""A project on disk: its folder, settings, store and runs."""

from __future__ import annotations

import errno
import logging
import os
import platform
import random
import re
import shlex
import socket
import stat
import string
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hooke.base.clock import Clock
from hooke.base.distributions import HOOKE_VERSION
from hooke.base.errors import ConfigError, HookeError, UsageError
from hooke.base.files import FileLock, writing
from hooke.base.formats import readable
from hooke.base.observed import InputsNow
from hooke.base.user_code import is_users
from hooke.journal.events import Event, RunStarted, StudyStarted
from hooke.journal.run_folders import DRIVER, LOCK, RunsFolder
from hooke.journal.study_records import SEARCH_PREFIX, STUDY_PREFIX, PlansFolder
from hooke.journal.writer import Journal
from hooke.pipeline.pipeline import Pipeline
from hooke.project.settings import FILE, Settings, read_settings
from hooke.store.store import Store

__all__ = [
    "DATA",
    "MARKERS",
    "SEED",
    "Project",
    "check_run_name",
    "lock_run",
    "new_run_id",
    "open_run",
    "project_of",
    "start_of",
]


SEED = "HOOKE_SEED"
"""The environment variable that overrides `[run] seed`."""


MARKERS = (FILE, "pyproject.toml", ".git")
"""What makes a folder a project. `.git` is a file in a worktree or a submodule."""
DATA = ".hooke"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The nearest folder with `hooke.toml`, `pyproject.toml` or `.git` above a script or the working directory."""

    root: Path
    settings: Settings
    kept: Path | None = None
    """The folder of store and journals, if not `.hooke`."""
    start: Path | None = field(default=None, compare=False)
    """The folder that it was found from; None if it was named."""

    @classmethod
    def find(cls, start: Path) -> Project:
        """The project of a file or folder. Where no folder above is one, its own folder, or that of its outermost package.

        Raises UsageError for a name that is not UTF-8, ConfigError.
        """
        return cls.at(cls.root_of(start), start=_folder_of(start))

    @classmethod
    def named(cls, folder: Path) -> Project:
        """The project that a user names: a folder with a `.hooke` as it is, else as `find`."""
        return cls.at(folder.resolve()) if (folder / DATA).is_dir() else cls.find(folder)

    @classmethod
    def at(cls, root: Path, *, start: Path | None = None) -> Project:
        """The project in exactly this folder. Raises as `find`."""
        try:
            str(root).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"the name of the folder {readable(str(root))} is not UTF-8",
                why="journals and messages name it as text",
                fix="rename it",
            ) from None
        settings = read_settings(root) if os.path.isfile(root / FILE) else Settings()
        return cls(root=root, settings=settings, start=start)

    @staticmethod
    def root_of(start: Path) -> Path:
        """The folder of that project; does not read its settings."""
        folder = _folder_of(start)
        marked = next((one for one in (folder, *folder.parents) if _marker(one)), None)
        return _outside_packages(folder) if marked is None else marked

    @property
    def data(self) -> Path:
        """`.hooke`, the folder of store and journals. It may not exist yet: reading a project creates nothing."""
        return self.kept or self.root / DATA

    @property
    def marker(self) -> str | None:
        """What makes the folder a project; None if it is one because no folder above is."""
        return _marker(self.root)

    def create(self) -> Path:
        """Create `.hooke`, for its owner alone, and its .gitignore if they do not exist, and say the `notes`. Raises HookeError."""
        folder = self.data
        new = not (folder / ".gitignore").is_file()
        self.say_notes(below=new)
        if new:
            with writing("the project's folder", folder):
                self._make(folder)
        return folder

    def _make(self, folder: Path) -> None:
        try:
            # Journals have what was passed to runs. Who shares a project with others opens the folder himself.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        except OSError as error:
            if self.marker is None or error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise
            raise HookeError(
                "the project's folder cannot be written",
                where=str(error.filename or folder),
                why=f"{type(error).__name__}: {error.strerror}; {self.root} is the project because it has {self.marker}",
                fix=f"make it writable; or put an empty {FILE} into a folder below it that is, and work there",
            ) from error

    # -- what is not used

    def say_notes(self, *, below: bool = False) -> None:
        """Log each of the `notes` that this process has not logged yet."""
        for note in self.notes(below=below):
            if note not in _said:
                _said.add(note)
                _log.warning("note: %s", note)

    def notes(self, *, below: bool = False) -> list[str]:
        """What is not used, and what to do: a line for each other `.hooke` in the project, and for a hooke.toml above it.

        Earlier versions kept `.hooke` beside the script, or with a hooke.toml above it. `below` also looks into up to a thousand
        folders of the project, the nearest first, and for a project that has no `.hooke` yet into those above.
        """
        if self.kept is not None or self.start is None:
            return []
        found = [self.start] if self.start != self.root and (self.start / DATA).is_dir() else []
        found += [each for each in (_kept_below(self.root) if below else ()) if each not in found]
        lines = [_unused_line(each, self.root, self.marker) for each in found]
        above = next((one for one in (self.root, *self.root.parents) if _counts(one, FILE)), self.root)
        if above != self.root:
            lines.append(_unread_line(above, self.root, self.marker))
        elif below and not self.data.is_dir():
            lines += [_other_line(each, self.root, self.marker) for each in _kept_above(self.root)]
        return lines

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


# --- Where a project is.


def _folder_of(start: Path) -> Path:
    """Where to look from: for a file that is installed, the working directory."""
    if start.is_dir():
        return start.resolve()
    return start.parent.resolve() if is_users(str(start.absolute())) else Path.cwd()


def _marker(folder: Path) -> str | None:
    """What makes the folder a project, if anything does."""
    return next((name for name in MARKERS if _counts(folder, name)), None)


def _counts(folder: Path, name: str) -> bool:
    found = folder / name
    # In a home folder `.git` has the settings of programs, and not what the user works on.
    there = os.path.lexists(found) and not _is_home(folder) if name == ".git" else os.path.isfile(found)
    return there and not (_is_shared(folder) and found.lstat().st_uid != os.getuid())


def _is_home(folder: Path) -> bool:
    return str(folder) == os.path.realpath(os.path.expanduser("~"))


def _is_shared(folder: Path) -> bool:
    """Whether it is like /tmp, where anybody may put a marker and a store, whose results are code that runs."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_ISVTX and mode & stat.S_IWOTH)


def _outside_packages(folder: Path) -> Path:
    """A package may be packed and sent away with all that is in it."""
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        folder = folder.parent
    return folder


# --- Where earlier versions kept runs and results.

_log = logging.getLogger("hooke")
_said: set[str] = set()
_MOST_FOLDERS = 1000
_NO_CODE = frozenset({"__pycache__", "node_modules", "site-packages"})


def _kept_below(root: Path) -> Iterator[Path]:
    """Folders of the project with a `.hooke` of their own, the nearest first; not those that are projects."""
    looked, folders = 0, deque([root])
    while folders and looked < _MOST_FOLDERS:
        folder = folders.popleft()
        looked += 1
        try:
            with os.scandir(folder) as entries:
                below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError:
            continue  # unreadable, or gone meanwhile
        if folder != root:
            if _marker(folder) or os.path.lexists(folder / "pyvenv.cfg"):
                continue
            if DATA in below:
                yield folder
        folders += [folder / name for name in below if not name.startswith(".") and name not in _NO_CODE]


def _kept_above(root: Path) -> list[Path]:
    """The nearest folder above with a `.hooke`: that of a larger project, to which the scripts may have belonged."""
    kept = (one for one in root.parents if (one / DATA).is_dir() and not (_is_home(one) or _is_shared(one)))
    return [*islice(kept, 1)]


def _other_line(folder: Path, root: Path, marker: str | None) -> str:
    because = f", because it has {marker}" if marker else ""
    return (
        f"{_short(folder / DATA)} belongs to another project: this one is {root}{because}. To see the runs there: hooke runs "
        f"--project {shlex.quote(_short(folder))}"
    )


def _unused_line(folder: Path, root: Path, marker: str | None) -> str:
    because = f", because it has {marker}" if marker else ""
    return (
        f"{_short(folder / DATA)} is not used: the project is {root}{because}. To see its runs: hooke runs --project "
        f"{shlex.quote(_short(folder))}. To go on with it, put an empty {FILE} into {_short(folder)}; otherwise remove it when "
        "you no longer need its runs"
    )


def _unread_line(above: Path, root: Path, marker: str | None) -> str:
    link = f"ln -s {shlex.quote(os.path.relpath(above / FILE, root))} {shlex.quote(_short(root / FILE))}"
    runs = f". Its earlier runs: hooke runs --project {shlex.quote(_short(above))}"
    return (
        f"{_short(above / FILE)} is not read: the project is {root}, because it has {marker}. To share the settings: {link}. "
        f"To keep them apart, put an empty {FILE} into {_short(root)}{runs if (above / DATA).is_dir() else ''}"
    )


def _short(path: Path) -> str:
    """The path from the working directory, if that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)


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

_NAME = re.compile(r"\w[\w.-]*")


def check_run_name(name: str, *, said: str) -> None:
    """Raise UsageError for a name that cannot begin a run's id. `said` shows it as it was given, such as `name='a b'`."""
    taken = next((prefix for prefix in (STUDY_PREFIX, SEARCH_PREFIX) if name.startswith(prefix)), "")
    if not _NAME.fullmatch(name) or taken:
        raise UsageError(
            f"{said} is not a valid beginning of a run id",
            why=f"ids that begin with {taken!r} are those of studies and searches" if taken else "",
            fix="use letters, digits, '-', '_' and '.', a letter or digit first; a tag may be any text",
        )


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
            "hooke": HOOKE_VERSION,
        }
        journal.append(msgspec.structs.replace(begun, **facts))
    except BaseException:
        journal.close()
        raise
    return journal
