"""The reloader of `hooke serve --dev`: holds the socket, watches the files, and starts and ends processes as `handover` decides."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hooke.base.errors import HookeError
from hooke.processes.channel import Channel
from hooke.processes.start import start_with_channel, with_parent
from hooke.project.settings import FILE
from hooke.services.reload import handover
from hooke.services.reload.handover import (
    DrainedReply,
    Event,
    Failed,
    FilesChanged,
    Gone,
    Handover,
    Interrupted,
    NowServing,
    Ready,
    ServeRefused,
    decode,
    step,
)
from hooke.services.reload.handover import ImportedModules as ImportedFiles

__all__ = [
    "Command",
    "Reloader",
    "SourceSnapshot",
    "Sources",
    "Stamp",
    "Watcher",
    "changed_files",
    "is_source",
    "snapshot",
]


# --- The source files of a service: its file, the project's modules that it imports, and hooke.toml.

Stamp: TypeAlias = tuple[int, int, int]
"""Modification time (ns), size and inode: an editor that saves by renaming makes another file."""

SKIPPED = frozenset({"__pycache__", "mlartifacts", "mlruns", "node_modules", "site-packages"})
VENV = "pyvenv.cfg"
"""The file in every virtual environment, whatever the folder is called."""


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """Folders that may hold sources, and the sources in them."""

    folders: frozenset[Path]
    stamps: Mapping[Path, Stamp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of a service in `file`, in the project at `root`; both paths resolved."""

    root: Path
    file: Path

    def counts(self, path: Path, imported: Collection[Path] | None) -> bool:
        """Whether a change of `path` needs a new version. `imported` is None if unknown: any module may then be the missing one."""
        if path in (self.file, self.root / FILE):
            return True
        if path.suffix != ".py" or not self.holds(path):
            return False
        return imported is None or path in imported

    def holds(self, path: Path) -> bool:
        """Whether a path belongs to the project, by its name."""
        return path.is_relative_to(self.root) and not any(
            _is_skipped(part) for part in path.relative_to(self.root).parts[:-1]
        )

    def own(self, files: Collection[str]) -> frozenset[Path]:
        """The project's own files among those of modules. One that is no absolute path is none: `torch.classes` says `_classes.py`."""
        paths = (Path(file) for file in files if os.path.isabs(file))
        found = (path.parent.resolve() / path.name for path in paths)
        return frozenset(path for path in found if path.suffix == ".py" and self.holds(path))


def snapshot(root: Path) -> SourceSnapshot:
    """All modules and hooke.toml below `root`, except in environments, caches and hidden folders."""
    folders: set[Path] = set()
    stamps: dict[Path, Stamp] = {}
    for folder, below, names in os.walk(root):
        if VENV in names:
            below.clear()
            continue
        below[:] = [name for name in below if not _is_skipped(name)]
        here = Path(folder)
        folders.add(here)
        for name in names:
            if is_source(name) and (name != FILE or here == root):
                stamp = _stamp(here / name)
                if stamp is not None:
                    stamps[here / name] = stamp
    return SourceSnapshot(frozenset(folders), stamps)


def is_source(name: str) -> bool:
    """Whether a file with this name or path is watched."""
    return name.endswith(".py") or os.path.basename(name) == FILE


def changed_files(before: SourceSnapshot, after: SourceSnapshot) -> frozenset[Path]:
    """The paths that are new, changed or gone."""
    return frozenset(
        path
        for path in before.stamps.keys() | after.stamps.keys()
        if before.stamps.get(path) != after.stamps.get(path)
    )


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in SKIPPED


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:  # it is gone by now, or a broken link
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


Command: TypeAlias = Callable[[int, int], Sequence[str]]
"""Makes the command of a serving process from the descriptors of the listening socket and of its channel to the reloader."""

LAST_S = 1.0
"""How long to wait for the last messages of an ended process: one of its own children may hold the channel open."""


@dataclass(frozen=True, slots=True)
class _Imported:
    number: int
    files: frozenset[Path]


_Message: TypeAlias = Event | _Imported | frozenset[Path] | OSError


class Reloader:
    """Serves one service, from `run` to its end. `tell` gets text for people."""

    def __init__(
        self, sources: Sources, listening: socket.socket, command: Command, tell: Callable[[str], None]
    ) -> None:
        """Raises ModuleNotFoundError without watchfiles, before anything starts."""
        import watchfiles  # noqa: F401

        self.run_id = ""
        """The run of the version that ended last."""
        self._sources = sources
        self._listening = listening
        self._command = command
        self._tell = tell
        self._state = Handover()
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._imported: Collection[Path] | None = None
        self._broken: OSError | None = None
        """The error that ended the watch."""
        self._done = False

    def run(self) -> bool:
        """Run until Ctrl-C or SIGTERM; returns whether all requests were answered.

        Raises HookeError if files cannot be watched, or no longer; then the version that answers drains first.
        """
        former = {
            number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)
        }
        watcher = Watcher(self._sources.root, self._inbox.put)
        try:
            watcher.start()
            self._step(FilesChanged((), _now()))
            while not self._done:
                self._take(self._inbox.get())
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            for child in self._children.values():
                self._kill(child)
            watcher.stop()
            self._listening.close()
        if self._broken is not None:
            raise HookeError(
                f"{self._sources.root} cannot be watched for changes: {self._broken.strerror or self._broken}",
                fix="raise fs.inotify.max_user_watches, or poll the files: WATCHFILES_FORCE_POLLING=true",
            ) from self._broken
        return not self._state.failed

    def _take(self, message: _Message) -> None:
        if isinstance(message, OSError):
            self._broken = message
            if not self._state.interrupted:
                self._tell("changes are no longer seen: the watch of the files ended")
                self._step(Interrupted())
        elif isinstance(message, _Imported):
            serving = self._state.serving
            if self._state.coming is None and serving is not None and serving.number == message.number:
                self._imported = message.files
        elif isinstance(message, frozenset):
            counted = sorted(path for path in message if self._sources.counts(path, self._imported))
            if counted:
                self._step(FilesChanged(tuple(_named(path, self._sources.root) for path in counted), _now()))
        else:
            self._step(message)
            if isinstance(message, Gone):
                self._children.pop(message.number, None)

    def _step(self, event: Event) -> None:
        self._state, actions = step(self._state, event)
        for action in actions:
            self._do(action)

    def _do(self, action: handover.Action) -> None:
        match action:
            case handover.StartProcess(version):
                self._imported = None  # until it is ready, any module may be the one that it lacks
                self._start(version.number)
            case handover.Say(text):
                self._tell(text)
            case handover.HandoverDone():
                self._done = True
            case handover.KillProcess(number):
                self._kill(self._children[number])
            case handover.DrainProcess(number) | handover.CutProcess(number):
                cut = isinstance(action, handover.CutProcess)
                self._children[number].send_signal(signal.SIGINT if cut else signal.SIGTERM)

    def _start(self, number: int) -> None:
        listening = self._listening.fileno()
        try:
            child, channel = start_with_channel(
                lambda theirs: [*with_parent(), *self._command(listening, theirs)], descriptors=[listening]
            )
        except OSError as error:
            self._step(Failed(number, ServeRefused(what=f"no process could be started: {error}")))
            self._step(Gone(number, "was none"))
            return
        self._children[number] = child
        threading.Thread(target=self._follow, args=(number, child, channel), daemon=True).start()

    def _follow(self, number: int, child: subprocess.Popen[bytes], channel: Channel) -> None:
        """In a thread of the child's own: its messages, then its end."""
        served: list[DrainedReply] = []
        listening = threading.Thread(target=self._read, args=(number, channel, served), daemon=True)
        listening.start()
        code = child.wait()
        listening.join(LAST_S)
        self._inbox.put(Gone(number, _exit_words(code), served[0] if served else None))

    def _read(self, number: int, channel: Channel, served: list[DrainedReply]) -> None:
        with contextlib.suppress(EOFError, OSError):  # it has ended
            while True:
                match decode(channel.receive()):
                    case NowServing(lines=said):
                        self._inbox.put(Ready(number, said))
                    case ImportedFiles(files=files):
                        self._inbox.put(_Imported(number, frozenset(map(Path, files))))
                    case ServeRefused() as refused:
                        self._inbox.put(Failed(number, refused))
                    case DrainedReply() as done:
                        self.run_id = done.run
                        served.append(done)
        channel.close()

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        """Kill it and its children."""
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def _signalled(self, *_: object) -> None:
        self._inbox.put(Interrupted())


def _now() -> str:
    return time.strftime("%H:%M:%S")


def _named(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _exit_words(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


# --- Watching the files of a project, by watchfiles.

STEP_MS = 100
"""A change is complete after so long without another: a checkout writes file after file."""
MOST_MS = 2000
"""The longest wait for that."""
TURN_MS = 500
"""How soon `stop` takes effect."""


class Watcher:
    """A thread that calls `seen` with the paths below `root` that are new, changed or gone; or with the error that ended it."""

    def __init__(self, root: Path, seen: Callable[[frozenset[Path] | OSError], None]) -> None:
        self._root = root
        self._seen = seen
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hooke-watch", daemon=True)
        self._before = SourceSnapshot(frozenset(), {})

    def start(self) -> None:
        """Begin. Later changes are not missed."""
        self._before = snapshot(self._root)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._before.folders:
                    self._watch(self._before.folders)
                else:  # the project's folder is gone, and may come back
                    self._stop.wait(TURN_MS / 1000)
                    self._look()
            except FileNotFoundError:  # a folder disappeared before it was watched
                self._look()
            except (OSError, RuntimeError) as error:
                self._seen(error if isinstance(error, OSError) else OSError(str(error)))
                return

    def _watch(self, folders: frozenset[Path]) -> None:
        """Return when the set of folders changes. Folders are watched one by one: environments and caches would be too many."""
        import watchfiles

        turns = watchfiles.watch(
            *folders,
            watch_filter=lambda _change, path: (
                is_source(path) or Path(path) in folders or os.path.isdir(path)
            ),
            debounce=MOST_MS,
            step=STEP_MS,
            stop_event=self._stop,
            rust_timeout=TURN_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
        )
        first = True
        for events in turns:
            if (events or first) and self._look() != folders:
                return
            first = False  # what was written between the look and the watch has been seen now

    def _look(self) -> frozenset[Path]:
        after = snapshot(self._root)
        different = changed_files(self._before, after)
        self._before = after
        if different:
            self._seen(different)
        return after.folders
