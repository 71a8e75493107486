"""What a task reads without declaring it: the recorder in a worker.

Python tells an audit hook of each file that is opened and each folder that is listed, `os.environ` of each variable that is read
(see `isolation`), and wrapped functions of the files that libraries read by code of their own (see `native_readers`). A forked child writes what
it reads to a file that it shares with the worker. Nothing is done for what does not happen: an attempt that reads nothing pays for an empty dict.

What was read while a module was imported, or by a function that keeps what it read, is charged to that code: each later attempt of
the process whose code reaches it has read it, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import glob
import importlib.util
import os
import shlex
import stat
import sys
import tempfile
import threading
import time
import types
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import PurePath
from typing import Any, Self

import msgspec

from hooke.base.files import stamp_of
from hooke.base.observed import describe, first_changed, is_left_out, observed_variable
from hooke.base.ref import ItemsObserved, Observed
from hooke.base.user_code import is_hooke, is_users
from hooke.keys.reached_code import ReachedCode, reached_code
from hooke.pipeline.observed_events import AttemptRecord, PathRules, ReadEvent, Settled, settle

__all__ = ["Observer", "iterated", "note_missing", "note_path", "note_processes", "variable_read"]

_MOST_ARGUMENTS = 1000
"""Arguments that are looked at for names of files."""


_records: tuple[AttemptRecord, ...] = ()
"""Of the attempts that run in this process: one in a worker, one a thread with the serial engine."""
_idle: AttemptRecord | None = None
"""In a worker: what happens outside attempts, such as the import of a task's module."""
_inside: set[int] = set()
"""Threads that are recording: what the recorder does itself is no input."""
_boundaries: frozenset[types.CodeType] = frozenset()
_pid = 0
_reports: int | None = None
"""The file in which forked children write."""
_local = threading.local()
_memos: dict[types.CodeType | str, dict[Observed, None]] = {}
"""Code, or a module's file -> what was read for it and may be kept in memory."""
_reports_at = 0
_root = ""


def _audit(event: str, args: tuple[Any, ...]) -> None:
    handler = _HANDLERS.get(event)
    if handler is not None and (_records or _idle):
        _recording(handler, args)


def _recording(handler: Callable[..., None], args: Sequence[Any]) -> None:
    thread = threading.get_ident()
    if thread in _inside:
        return
    _inside.add(thread)
    try:
        handler(*args)
    except Exception as error:  # noqa: BLE001 - it must not reach the user's code; the result is not reused
        for record in _active(thread):
            record.trouble = f"what it read could not be recorded ({type(error).__name__}: {error})"
    finally:
        _inside.discard(thread)


@functools.cache
def _install() -> None:
    """Once a process: a hook cannot be removed."""
    sys.addaudithook(_audit)


def _active(thread: int) -> Iterator[AttemptRecord]:
    if not _records and _idle is not None:
        yield _idle
    for record in _records:
        if thread not in record.others:
            yield record


# --- What Python tells.


def _opened(path: Any, mode: object, flags: int) -> None:
    if not isinstance(path, (str, bytes)) or (mode is None and _is_in_open_folder(path)):
        return
    reads = flags & os.O_ACCMODE != os.O_WRONLY
    writes = flags & os.O_ACCMODE != os.O_RDONLY
    if not writes:
        _happened("read", _source_of(path))
    elif not os.path.lexists(path):
        _happened("truncate" if flags & os.O_CREAT else "read", path)
    elif flags & os.O_CREAT and flags & os.O_EXCL:
        return  # it fails
    elif flags & os.O_TRUNC:
        _happened("truncate", path)
    else:
        if reads:
            _happened("read", path)
        _happened("change", path)


def _source_of(path: str | bytes) -> str | bytes:
    """The source of a compiled module, which is what counts; any other path as it is."""
    if isinstance(path, str) and path.endswith(".pyc"):
        with contextlib.suppress(ValueError):
            return importlib.util.source_from_cache(path)
    return path


def _is_in_open_folder(path: str | bytes) -> bool:
    """Whether `shutil.rmtree` or `os.fwalk` walks through open folders: the event has only the name there."""
    frame = _first_frame()
    return (
        not os.path.isabs(path) and frame is not None and frame.f_globals.get("__name__") in ("os", "shutil")
    )


def _listed(path: Any, *_: object) -> None:
    if not isinstance(path, int):
        _happened("list", "." if path is None else path)


def _globbed(pattern: Any, *_: object) -> None:
    if not isinstance(pattern, (str, bytes)):
        return
    text = os.fsdecode(pattern)
    if not any(sign in text for sign in "*?[") and not os.path.lexists(text):
        _happened("read", text)


def _renamed(source: Any, target: Any, source_folder: int = -1, target_folder: int = -1) -> None:
    source, target = _in_folder(source, source_folder), _in_folder(target, target_folder)
    if os.path.lexists(source):
        _happened("truncate", target)
        _happened("remove", source)


def _linked(_source: Any, target: Any, *folders: int) -> None:
    _made(target, *folders[-1:])


def _made(path: Any, *numbers: int) -> None:
    """Of a folder: its mode comes before the descriptor of the folder that it is made in."""
    path = _in_folder(path, *numbers[-1:])
    if not os.path.lexists(path):
        _happened("truncate", path)


def _removed(path: Any, folder: int = -1) -> None:
    _happened("remove", _in_folder(path, folder))


def _cut(path: Any, *_: object) -> None:
    if not isinstance(path, int):  # an open file, whose opening was noted
        _happened("change", path)


def _in_folder(path: Any, folder: int = -1) -> str:
    """A path that is relative to an open folder, if there is one."""
    return os.path.join(_path_of(folder) if folder >= 0 else "", os.fsdecode(path))


def _path_of(descriptor: int) -> str:
    if sys.platform == "darwin":
        return os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _connected(database: Any, *_: object) -> None:
    if isinstance(database, (str, bytes, os.PathLike)):
        path = os.fsdecode(database)
        if path.startswith("file:"):
            address = urllib.parse.urlsplit(path)
            path = "" if "mode=memory" in address.query else urllib.parse.unquote(address.path)
        if path and path != ":memory:":
            _happened("read" if os.path.lexists(path) else "truncate", path)


def _started(executable: Any, arguments: Any, folder: Any = None, *_: object) -> None:
    words = [arguments] if isinstance(arguments, (str, bytes, os.PathLike)) else [*(arguments or ())]
    _handed(words or [executable], folder)


def _spawned(executable: Any, arguments: Any, *_: object) -> None:
    _started(executable, arguments)


def _spawned_in_mode(_mode: object, executable: Any, arguments: Any, *_: object) -> None:
    _started(executable, arguments)


def _ordered(command: Any, *_: object) -> None:
    _handed([command], None)


def _unpickled(module: Any, name: Any) -> None:
    """An object in a file names code of the user's by this; where the task's own code doesn't reach it, its files are inputs."""
    found: Any = sys.modules.get(module)
    if module == "__main__" or _owner(str(getattr(found, "__file__", None) or "<frozen>")) != "user":
        return
    for part in str(name).split("."):
        found = getattr(found, part, None)
    reached = reached_code(found)
    if reached.codes and all(
        reached.codes <= record.reach.codes for record in _active(threading.get_ident())
    ):
        return
    for file in sorted(reached.files):
        _happened("read", file)


def _forking(*_: object) -> None:
    global _reports  # noqa: PLW0603 - one file a process, which its children inherit
    if _reports is None and os.getpid() == _pid:
        with tempfile.TemporaryFile(buffering=0) as file:
            _reports = os.dup(file.fileno())


_HANDLERS: Mapping[str, Callable[..., None]] = {
    "open": _opened,
    "os.listdir": _listed,
    "os.scandir": _listed,
    "glob.glob": _globbed,
    "os.rename": _renamed,
    "os.link": _linked,
    "os.symlink": _linked,
    "os.mkdir": _made,
    "os.remove": _removed,
    "os.rmdir": _removed,
    "os.truncate": _cut,
    "sqlite3.connect": _connected,
    "subprocess.Popen": _started,
    "os.posix_spawn": _spawned,
    "os.exec": _spawned,
    "os.spawn": _spawned_in_mode,
    "os.system": _ordered,
    "os.fork": _forking,
    "os.forkpty": _forking,
    "pickle.find_class": _unpickled,
}


def note_processes() -> None:
    """Python processes that are not forked from this one get work: files and variables count that the task's code names."""
    if _records or _idle:
        _recording(_handed, ((), None))
        _recording(_handed_variables, ())


def _handed_variables() -> None:
    callers = _callers() or ()
    for record in _active(threading.get_ident()):
        for name in sorted(record.reach.texts):
            if name.isupper() and name.isidentifier() and not is_left_out(name):
                _note_variable(record, name, os.environ.get(name), callers)


def note_missing(path: Any) -> None:
    """There is no such file, by `os.stat`. One that the attempt makes later is its own."""
    if _records and isinstance(path, (str, bytes, os.PathLike)):
        _recording(_happened, ("handed", path))


def note_path(path: Any, mode: str = "r") -> None:
    """A library opens this file, or reads this folder, by code of its own. Patterns are expanded. `mode` is as for `open`."""
    if _records or _idle:
        _recording(_opened_natively, (path, mode))


def _opened_natively(path: Any, mode: str) -> None:
    for each in _expanded(path):
        if os.path.isdir(each):
            _happened("list", each)
        elif mode[0] in "wx" or (mode[0] == "a" and not os.path.lexists(each)):
            _happened("truncate", each)
        else:
            _happened("read", each)


def _expanded(path: Any) -> Iterator[str]:
    if isinstance(path, (list, tuple, set)):
        for each in path:
            yield from _expanded(each)
        return
    if not isinstance(path, (str, bytes, os.PathLike)):
        return
    text = os.fsdecode(path).removeprefix("file://")
    if "://" in text or "\0" in text or "\n" in text or not text:
        return
    if any(sign in text for sign in "*?[") and not os.path.lexists(text):
        yield text.partition("*")[0].rpartition("/")[0] or "."
        yield from sorted(glob.iglob(text, recursive=True))
        return
    yield text
    if os.path.isdir(text):
        for folder, folders, files in os.walk(text):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (os.path.join(folder, name) for name in folders)
            yield from (os.path.join(folder, name) for name in sorted(files))


# --- Who reads, and does it count?

_IMPORTS = "<frozen importlib"
_SOURCE_READERS = frozenset({"linecache"})


@functools.lru_cache(maxsize=4096)
def _owner(file: str) -> str:
    if is_hooke(file):
        return "hooke"
    return "user" if is_users(file) else "library"


def _first_frame() -> types.FrameType | None:
    """The frame that made the recorder work."""
    frame: types.FrameType | None = sys._getframe(1)  # noqa: SLF001 - who reads is what counts
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def _callers(path: str = "") -> tuple[types.CodeType, ...] | None:
    """The user's code on the stack, the innermost first; None where an import, Hooke or a traceback reads, not the task.

    `path`: the file that is read, which may be that of a module that only the task finds; empty for what is no such file.
    """
    frame = _first_frame()
    found: list[types.CodeType] = []
    while frame is not None and frame.f_code not in _boundaries:
        code, above = frame.f_code, frame.f_back
        owner = _owner(code.co_filename)
        if owner == "user":
            found.append(code)
        elif not found:
            if owner == "hooke" and not _passes(frame.f_globals.get("__name__", "")):
                return None
            if frame.f_globals.get("__name__") in _SOURCE_READERS and not _is_asked_by_user(above):
                return None
            importing = code.co_filename.startswith(_IMPORTS)
            if importing and above is not None and above.f_code.co_filename.startswith(_IMPORTS):
                return _importers(frame, path)
        frame = above
    return tuple(found)


def _is_asked_by_user(frame: types.FrameType | None) -> bool:
    """Whether the task itself has `linecache` read a line."""
    while frame is not None and frame.f_globals.get("__name__") in _SOURCE_READERS:
        frame = frame.f_back
    return frame is not None and _owner(frame.f_code.co_filename) == "user"


def _passes(name: str) -> bool:
    """Whether a module of Hooke reads what the task names, as if the task did."""
    if name in ("hooke.data.cache_folder", "hooke.data.remote_files"):  # copies of what is far
        return False
    return name.startswith("hooke.data.") or name.endswith(_PASSING)


_PASSING = ("pipeline.isolation", "pipeline.native_readers", "base.pinned_modules")


def _importers(frame: types.FrameType | None, path: str) -> tuple[types.CodeType, ...] | None:
    """The functions of the task in whose call a module is loaded that its key does not have; None for other imports.

    The worker has computed the task's key, and so has imported all modules that the key covers. What a call still loads is
    found by a path of the task's own: `sys.path.insert` in a body, a loader, a pickled object of another module.
    """
    if not path or not _records:
        return None
    found: list[types.CodeType] = []
    while frame is not None and frame.f_code not in _boundaries:
        owner = _owner(frame.f_code.co_filename)
        if owner == "hooke" and not found:
            return None
        if owner == "user" and frame.f_code.co_name != "<module>":
            found.append(frame.f_code)
        frame = frame.f_back
    if not found:
        return None
    for record in _active(threading.get_ident()):
        if record.reach.may_import(path):
            return None
        record.imported.add(path)
    return tuple(found)


def _handed(words: Iterable[Any], folder: Any) -> None:
    """Files whose names another process gets: those in its command, in the task's arguments, code and variables."""
    callers = _callers()
    if callers is None:
        return
    here = os.path.abspath(os.fsdecode(folder) if folder else os.getcwd())
    paths = dict.fromkeys(path for word in words for path in _paths_in(word, here))
    for record in _active(threading.get_ident()):
        for path in dict.fromkeys((*paths, *_names(record, here))):
            if os.path.isfile(path) and _counts(record, path):
                _note(record, "handed", path, callers)


def _paths_in(word: Any, folder: str) -> Iterator[str]:
    if not isinstance(word, (str, bytes, os.PathLike)):
        return
    text = os.fsdecode(word)
    pieces = {text, text.rpartition("=")[2]}
    if " " in text:
        try:
            pieces.update(shlex.split(text))
        except ValueError:  # an open quotation mark
            pieces.update(text.split())
    for piece in pieces:
        if piece and "\0" not in piece:
            yield os.path.normpath(os.path.join(folder, piece))


def _named_by(arguments: Iterable[Any], folder: str) -> Iterator[str]:
    """Absolute paths that arguments name: texts and paths, also in lists, tuples and dicts."""
    waiting, seen = list(arguments), 0
    while waiting and seen < _MOST_ARGUMENTS:
        each, seen = waiting.pop(), seen + 1
        if isinstance(each, (str, PurePath)):
            text = str(each)
            if text and len(text) < 4096 and "\0" not in text:
                yield os.path.normpath(os.path.join(folder, os.path.expanduser(text)))
        elif isinstance(each, (list, tuple, set)):
            waiting += each
        elif isinstance(each, dict):
            waiting += each.values()
        elif not isinstance(each, (type, types.ModuleType, types.FunctionType)):
            waiting += _attributes(each)


def _attributes(value: Any) -> Iterator[Any]:
    """What an object of the user's holds, such as the settings in a dataclass."""
    if dataclasses.is_dataclass(value):
        yield from (getattr(value, each.name, None) for each in dataclasses.fields(value))
    elif isinstance(held := getattr(value, "__dict__", None), dict):
        yield from held.values()


def _names(record: AttemptRecord, folder: str) -> set[str]:
    """Absolute paths that the code, the arguments and the variables that were looked up name."""
    given = (*record.arguments(record.item), *record.variables)
    return {*record.reach.named(folder), *_named_by(given, folder)}


def _counts(record: AttemptRecord, path: str) -> bool:
    if record.rules.counts(path):
        return True
    if record.rules.is_below(path) or not record.rules.may_be_named(path):
        return False
    names = _names(record, os.getcwd())
    while len(path) > 1 and path not in record.rules.temporary:
        if path in names:
            return True
        path = os.path.dirname(path)
    return False


def _happened(kind: str, given: Any) -> None:
    path = os.path.normpath(os.path.join(os.getcwd(), os.fsdecode(given)))
    callers: tuple[types.CodeType, ...] | None = None
    for record in _active(threading.get_ident()):
        if (record.item, kind, path) in record.events or not _counts(record, path):
            continue
        if callers is None and (callers := _callers(path if kind == "read" else "")) is None:
            return
        _note(record, kind, path, callers)


def _note(record: AttemptRecord, kind: str, path: str, callers: tuple[types.CodeType, ...]) -> None:
    try:
        facts = os.stat(path)
    except OSError:
        facts = None
    names: tuple[str, ...] = ()
    if kind == "list":
        if facts is not None and not stat.S_ISDIR(facts.st_mode):
            return
        names = tuple(os.listdir(path)) if facts is not None else ()
    elif kind in ("read", "handed", "change") and facts is not None and not stat.S_ISREG(facts.st_mode):
        return
    stamp = None if facts is None else stamp_of(facts)
    _keep(record, ReadEvent(record.number, record.item, kind, path, stamp, names), callers)


def _keep(record: AttemptRecord, event: ReadEvent, callers: tuple[types.CodeType, ...]) -> None:
    key = (event.item, event.kind, event.name)
    if key in record.events:
        return
    event = msgspec.structs.replace(event, at=time.monotonic_ns())
    record.events[key] = event, callers
    if os.getpid() != _pid and _reports is not None:
        data = msgspec.msgpack.encode(event)
        os.write(_reports, len(data).to_bytes(4, "little") + data)


# --- Variables.


def variable_read(name: object, value: object) -> None:
    """A variable of `os.environ` was looked up, as text or bytes. Counts if the user's own code did that, not as a part of a copy."""
    if not (_records or _idle):
        return
    expected: Iterator[str] | None = getattr(_local, "expected", None)
    if expected is not None:
        if next(expected, None) == name:
            return
        _local.expected = None
    name, value = (os.fsdecode(each) if isinstance(each, bytes) else each for each in (name, value))
    if not isinstance(name, str) or is_left_out(name):
        return
    callers = _variable_callers()
    if not callers:
        return
    for record in _active(threading.get_ident()):
        _note_variable(record, name, value, callers)


def _note_variable(
    record: AttemptRecord, name: str, value: object, callers: tuple[types.CodeType, ...]
) -> None:
    found = None if value is None else str(value)
    if record.baseline is not None:
        before = record.baseline.get(os.fsencode(name))
        if (None if found is None else os.fsencode(found)) != before:
            return  # the attempt has set it
    if found is not None:
        record.variables.add(found)
    digest = observed_variable(name, found, record.rules.secret).digest
    _keep(record, ReadEvent(record.number, record.item, "variable", name, None, (), digest), callers)


def iterated(names: Sequence[str]) -> None:
    """All names were taken: what is looked up next, in this order, makes a copy."""
    _local.expected = iter(names)


_OF_ENVIRONMENT = frozenset(
    {"os", "posixpath", "string", "re", "collections", "collections.abc", "_collections_abc"}
)
"""Modules that look up for their caller: `os.path.expandvars` and `string.Template`, too."""


def _variable_callers() -> tuple[types.CodeType, ...]:
    """As `_callers`, but empty where a library looks a variable up."""
    frame: types.FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and (
        frame.f_globals.get("__name__") in _OF_ENVIRONMENT or _owner(frame.f_code.co_filename) == "hooke"
    ):
        if frame.f_code in _boundaries:
            return ()
        frame = frame.f_back
    if frame is None or _owner(frame.f_code.co_filename) != "user":
        return ()
    return _callers() or ()


def memos_kept() -> bool:
    """Whether something was read in this process for code that may keep it in memory."""
    return bool(_memos)


# --- An attempt.


class Attempt(AttemptRecord):
    """An attempt whose calls run while it is entered."""

    def __enter__(self) -> Self:
        global _records  # noqa: PLW0603
        _records = (*_records, self)
        return self

    def __exit__(self, *_: object) -> None:
        global _records  # noqa: PLW0603
        _records = tuple(each for each in _records if each is not self)
        if self.imported:
            _forget_modules(self.imported)


def _forget_modules(files: Collection[str]) -> None:
    """Take modules out of memory that only a call found: the next one finds its own, and its key those of the driver."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in files:
            del sys.modules[name]
            package, _, last = name.rpartition(".")
            if vars(sys.modules.get(package, object)).get(last) is module:
                delattr(sys.modules[package], last)


class Observer:
    """Records the attempts of one worker: the files that count by its rules, and variables."""

    def __init__(self, rules: PathRules, *, alone: bool, boundaries: Iterable[types.CodeType]) -> None:
        """`boundaries`: the code that calls tasks. `alone` is whether the process is a worker: all of it is the task's."""
        global _pid, _idle, _boundaries, _root  # noqa: PLW0603 - of the process, as the hook is
        self.rules = rules
        if rules.root != _root:  # names of paths are relative to it
            _memos.clear()
            _root = rules.root
        self._alone = alone
        self._attempts = 0
        self._reached: OrderedDict[int, tuple[Any, ReachedCode]] = OrderedDict()
        _boundaries |= frozenset(boundaries)
        _pid = os.getpid()
        _install()
        if alone:
            _idle = AttemptRecord(rules=self.rules, number=0)

    def close(self) -> None:
        """The worker's run is over: what happens until the next one is nobody's."""
        global _idle  # noqa: PLW0603
        if _idle is not None and _idle.rules is self.rules:
            _idle = None

    def outdated(self, function: Any) -> str:
        """What functions that this one reaches keep in memory and is not so any more; empty if there is nothing.

        Another attempt of it must not run in this process. What modules read while they were imported is as the driver has it.
        """
        self._charge_imports()
        if not _memos:
            return ""
        return self._changed(key for key in self._keys(function) if not isinstance(key, str))

    def imports_outdated(self) -> str:
        """What modules read while they were imported and is not so any more; empty if there is nothing."""
        self._charge_imports()
        return self._changed(key for key in _memos if isinstance(key, str))

    def _changed(self, keys: Iterable[types.CodeType | str]) -> str:
        kept = dict.fromkeys(
            each for key in keys for each in _memos.get(key, ()) if each not in self.rules.copied
        )
        changed = first_changed(kept, root=self.rules.root, environment=os.environ, secret=self.rules.secret)
        return "" if changed is None else describe(changed, root=self.rules.root)

    def attempt(
        self,
        function: Any,
        *,
        lo: int,
        arguments: Callable[[int], Iterable[Any]],
        baseline: Mapping[bytes, bytes] | None,
    ) -> Attempt:
        """To surround the calls of an attempt, whose items' arguments `arguments` gives when they are needed."""
        if _idle is not None and _idle.events:
            self._charge_imports()
        stale = "" if self._alone or not _memos else self.outdated(function)
        self._attempts += 1
        record = Attempt(
            rules=self.rules,
            number=self._attempts,
            reach=self._reach(function),
            lo=lo,
            baseline=baseline,
            arguments=arguments,
            stale=stale,
        )
        if not self._alone:
            record.others = frozenset(threading._active) - {threading.get_ident()}  # type: ignore[attr-defined] # noqa: SLF001
        if _memos:
            self._note_hits(record)
        return record

    def finish(
        self, record: AttemptRecord, *, hi: int, declared: Iterable[str] = ()
    ) -> tuple[ItemsObserved, ...]:
        """What the items up to `hi` read. `declared`: paths whose content is in the key."""
        self._read_reports(record)
        if not record.events and not _memos and not record.trouble:
            return ()
        events = sorted((event for event, _ in record.events.values()), key=attrgetter("at"))
        settled = settle(events, self.rules, declared)
        kept = self._kept(record)
        self._charge(record, settled)
        kept = {**self._kept_since(record, settled), **kept}
        trouble = record.trouble
        if kept and record.stale:
            trouble = trouble or f"it may have used what this process kept in memory, and {record.stale}"
        if trouble:
            for item in range(record.lo, hi):
                settled.unsettled.setdefault(item, trouble)
        return settled.items(record.lo, hi, kept)

    def _reach(self, function: Any) -> ReachedCode:
        known = self._reached.get(id(function))
        if known is None or known[0] is not function:
            known = self._reached[id(function)] = function, reached_code(function)
            while len(self._reached) > _REMEMBERED:
                self._reached.popitem(last=False)
        return known[1]

    def _keys(self, function: Any) -> set[types.CodeType | str]:
        """Code that a function reaches and for which something was read that may be kept."""
        reach = self._reach(function)
        return _memos.keys() & (reach.codes | reach.files)

    def _note_hits(self, record: AttemptRecord) -> None:
        for code, info in record.reach.caches.items():
            if code in _memos:
                record.hits[code] = info().hits

    def _kept(self, record: AttemptRecord) -> dict[Observed, int]:
        """What earlier attempts, and imports, read for code that this attempt reaches."""
        if not _memos:
            return {}
        found: dict[Observed, int] = {}
        for key in _memos.keys() & (record.reach.codes | record.reach.files):
            info = record.reach.caches.get(key) if isinstance(key, types.CodeType) else None
            if info is not None and key in record.hits and info().hits == record.hits[key]:
                continue  # the cache has given it nothing
            found.update(dict.fromkeys(_memos[key], record.lo))
        return found

    def _kept_since(self, record: AttemptRecord, settled: Settled) -> dict[Observed, int]:
        """What an item read for code that keeps it: the items after it may have used it."""
        found: dict[Observed, int] = {}
        for event, callers in record.events.values():
            observed = settled.inputs.get(_input_key(event))
            if observed is not None and any(_is_kept(record, each) for each in callers):
                found[observed] = min(event.item, found.get(observed, event.item))
        return found

    def _charge(self, record: AttemptRecord, settled: Settled) -> None:
        for event, callers in record.events.values():
            observed = settled.inputs.get(_input_key(event))
            if observed is None:
                continue
            module = next((each.co_filename for each in callers if each.co_name == "<module>"), None)
            keys = [module, *(each for each in callers if each in record.reach.keeping)]
            for key in filter(None, keys):
                _memos.setdefault(key, {})[observed] = None

    def _charge_imports(self) -> None:
        if _idle is not None and _idle.events:
            self._charge(_idle, settle([event for event, _ in _idle.events.values()], self.rules))
            _idle.events.clear()

    def _read_reports(self, record: AttemptRecord) -> None:
        """What forked children wrote."""
        global _reports_at  # noqa: PLW0603
        if _reports is None:
            return
        data = os.pread(_reports, os.fstat(_reports).st_size - _reports_at, _reports_at)
        at = 0
        while at + 4 <= len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            if at + 4 + size > len(data):
                break
            event = msgspec.msgpack.decode(data[at + 4 : at + 4 + size], type=ReadEvent)
            at += 4 + size
            if (
                event.attempt != record.number
            ):  # a child that outlives its attempt: which item asked it is unknown
                event = msgspec.structs.replace(event, attempt=record.number, item=record.lo)
            record.events.setdefault((event.item, event.kind, event.name), (event, ()))
        _reports_at += at


_REMEMBERED = 16
"""How many functions a worker remembers."""


def _input_key(event: ReadEvent) -> tuple[str, str]:
    if event.kind == "list" and event.stamp is not None:
        return "listing", event.name
    return ("variable" if event.kind == "variable" else "file"), event.name


def _is_kept(record: AttemptRecord, code: types.CodeType) -> bool:
    return code.co_name == "<module>" or code in record.reach.keeping
