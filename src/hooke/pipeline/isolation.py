"""A call finds its process as the first call did: random numbers that follow from its key, and state that is set back.

Random numbers do not depend on where or when a call runs. Hooke seeds `random`, NumPy's legacy global state and PyTorch, the latter two if they are imported, or as soon as the
call imports them. It does not seed generators that a task creates (`numpy.random.default_rng()`).

What a call changes in its process is set back after it: working directory, umask, environment variables, the module path, locale,
filters of warnings, the limit of recursion, and whatever lives in context variables (decimal's context, NumPy's handling of errors
and print options); after an attempt also signal handlers and resource limits. In a worker, globals of the user's code that it
reads are set back, too, and a worker in which code was replaced is not used again. What a module sets while it is imported stays,
since it is imported once. Arguments that calls would share, such as a mutable default, are copied for each.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import datetime
import decimal
import enum
import functools
import gc
import hashlib
import io
import locale
import os
import pickle
import random
import re
import resource
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import FrameType, ModuleType
from typing import Any

from blake3 import blake3

from hooke.base.observed import StoredPart, renew_results
from hooke.base.user_code import is_users
from hooke.keys.file import File
from hooke.keys.reached_code import binds_globals, is_filled
from hooke.pipeline import observation
from hooke.pipeline.native_readers import AfterImport, noting_missing
from hooke.store import by_value
from hooke.store.by_value import ByValuePickler
from hooke.tracking import tracker

__all__ = [
    "KEY_BYTES",
    "ProcessState",
    "SeededAttempt",
    "folder_here",
    "isolated_randomness",
    "own_rows",
    "seed_from",
    "watched_environment",
]

KEY_BYTES = 16
"""Length of an item's key in `Call.keys`."""


class SeededAttempt:
    """Surrounds an attempt that calls `seed_from`. With `restored` the generators get their earlier state back."""

    __slots__ = ("_before", "_restored")

    def __init__(self, *, restored: bool) -> None:
        self._restored = restored

    def __enter__(self) -> None:
        self._before = _states() if self._restored else {}
        sys.meta_path.insert(0, _after_import)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(_after_import)
        _seed.number = None
        for set_state, state in self._before.values():
            set_state(state)


@contextlib.contextmanager
def isolated_randomness(name: str) -> Iterator[None]:
    """Inside, random numbers follow from the name; afterwards the generators continue as if nothing had been drawn."""
    before, number = _states(), _seed.number
    seed_from(hashlib.blake2b(name.encode(), digest_size=KEY_BYTES).digest())
    try:
        yield
    finally:
        for set_state, state in before.values():
            set_state(state)
        _seed.number = number
        for library in _SEEDED.keys() - before.keys():  # imported inside
            if library in sys.modules and number is not None:
                _SEEDED[library](sys.modules[library], number)


def seed_from(key: bytes) -> None:
    """Seed the global generators with the first eight bytes of a key."""
    number = int.from_bytes(key[:8], "little")
    _seed_random(number)
    _seed.number = number
    for name, seed in _SEEDED.items():
        module = sys.modules.get(name)
        if module is not None:
            seed(module, number)


def _seed_random(number: int) -> None:
    """`random.seed` for an int, in half the time."""
    generator: Any = random._inst  # type: ignore[attr-defined]  # noqa: SLF001 - whose methods the functions of the module are
    super(random.Random, generator).seed(number)
    generator.gauss_next = None


def _seed_numpy(module: Any, number: int) -> None:
    if (seed := getattr(module, "seed", None)) is not None:
        seed(number & 0xFFFF_FFFF)


def _seed_torch(module: Any, number: int) -> None:
    if not hasattr(module, "manual_seed"):  # another thread imports it now
        return
    if getattr(module.version, "cuda", None) or getattr(module.version, "hip", None):
        module.manual_seed(number)
    else:
        module.default_generator.manual_seed(
            number
        )  # manual_seed would record a stack trace for each missing GPU


_SEEDED = {"numpy.random": _seed_numpy, "torch": _seed_torch}


def _states() -> dict[str, tuple[Any, Any]]:
    states: dict[str, tuple[Any, Any]] = {"random": (random.setstate, random.getstate())}
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None and hasattr(numpy_random, "get_state"):
        states["numpy.random"] = (numpy_random.set_state, numpy_random.get_state())
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_rng_state"):
        states["torch"] = (torch.set_rng_state, torch.get_rng_state())
    return states


def _seed_imported(module: ModuleType) -> None:
    if _seed.number is not None:
        _SEEDED[module.__name__](module, _seed.number)


class _Seed:
    """The number that the running call's generators are seeded with; None outside calls."""

    number: int | None = None


_seed = _Seed()
_after_import: Any = AfterImport(_SEEDED, _seed_imported)


# --- The state of the process.

_SIGNALS = tuple(
    int(getattr(signal, f"SIG{name}"))
    for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "PIPE", "ALRM", "TERM", "CHLD", "PROF")
)
_handler: Callable[[int], Any] = signal._signal.getsignal  # type: ignore[attr-defined] # noqa: SLF001 - without enums, ten times as fast
_LIMITS = tuple(
    getattr(resource, f"RLIMIT_{name}") for name in ("AS", "CORE", "CPU", "FSIZE", "NOFILE", "NPROC", "STACK")
)


class ProcessState:
    """The state of this process when an attempt begins, to be set back after each of its calls and after itself.

    `alone` is whether the process is a worker. In a process of the user's own, only its main thread sets anything back: in
    another thread a change may be that of the program around the run.
    """

    def __init__(self, *, alone: bool) -> None:
        self.names: ReachedNames | None = None
        """Of the function that is called, in a worker."""
        self._alone = alone
        self._active = alone
        self._modules = -1
        self.may_differ = True
        """Whether code of the user's may have run since the process was last set back."""
        if alone:
            self._note_handlers()

    def _note_handlers(self) -> None:
        self._handlers = [_handler(number) for number in _SIGNALS]
        self._limits = [resource.getrlimit(limit) for limit in _LIMITS]

    def _begin(self) -> None:
        """What an attempt finds. A worker's handlers and limits are those of its first attempt, since reading them takes long."""
        if (
            self._modules == len(sys.modules) and self._alone
        ):  # all was set back, and nothing was imported since
            self._decimals = decimal.getcontext().copy()
            if _variables() != self._environment:
                self._environment = _variables().copy()
            return
        if not self._alone:
            self._note_handlers()
        self._folder = os.getcwd()
        self._decimals = decimal.getcontext().copy()
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._environment = _variables().copy()
        self._path, self._path_items = sys.path, list(sys.path)
        self._filters = list(warnings.filters)
        self._modules = len(sys.modules)
        self._locale = locale.setlocale(locale.LC_ALL)
        self._recursion = sys.getrecursionlimit()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`function(*args, **kwargs)`, after which the process is as it was."""
        if not self._active:
            return function(*args, **kwargs)
        self._note_passed_on()
        context = contextvars.copy_context()
        context.run(decimal.setcontext, self._decimals.copy())  # a call may change the one that it finds
        try:
            return context.run(function, *args, **kwargs)
        finally:
            self.set_back()
            self.may_differ = False

    def _note_passed_on(self) -> None:
        """Hooke's own variable, which follows the item, is no change of the call's."""
        passed = _variables().get(_PASSED_ON)
        if passed is None:
            self._environment.pop(_PASSED_ON, None)
        else:
            self._environment[_PASSED_ON] = passed

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Surrounds an attempt."""
        self._active = self._alone or threading.current_thread() is threading.main_thread()
        if not self._active:
            yield
            return
        self._begin()
        self.may_differ = True
        _imported.clear()
        _imported_filters.clear()
        try:
            watched = self._alone and _watchers  # a worker always watches
            with _NO_CHANGE if watched else watched_environment():
                yield
        finally:
            if self.may_differ:
                self.set_back()
            self._set_back_signals()
            self._set_back_limits()

    @property
    def is_as_left(self) -> bool:
        """Whether an attempt finds this worker as the last one left it: all was set back, and nothing was imported since."""
        return self._alone and self._modules == len(sys.modules)

    @property
    def environment(self) -> Mapping[bytes, bytes] | None:
        """The variables that a call finds; None where nothing is set back."""
        return self._environment if self._active else None

    def set_back(self) -> None:
        """Set back what a call changed."""
        if not self._active:
            return
        if self._modules != len(sys.modules):  # an import may have changed these
            self._modules = len(sys.modules)
            self._keep_what_imports_changed()
        os.umask(self._umask)
        if folder_here() != self._folder:
            os.chdir(self._folder)
        if _variables() != self._environment:
            self._set_back_environment()
        if sys.path is not self._path or self._path != self._path_items:
            sys.path = self._path
            sys.path[:] = self._path_items
        if warnings.filters != self._filters:
            warnings.resetwarnings()  # which also forgets what was shown with the others
            filters: list[Any] = warnings.filters  # type: ignore[assignment]
            filters[:] = self._filters
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)
        if self.names is not None:
            self.names.set_back()

    def _keep_what_imports_changed(self) -> None:
        """Folders of libraries on `sys.path`, and filters of warnings that were added while a module was imported."""
        added = [
            each for each in sys.path if each not in self._path_items and not is_users(f"{each}{os.sep}")
        ]
        self._path_items += added
        for item, append in _imported_filters:
            if item not in warnings.filters:  # it was there for a moment, by `catch_warnings`
                continue
            if item in self._filters and not append:
                self._filters.remove(item)
            if item not in self._filters:
                self._filters.insert(len(self._filters) if append else 0, item)
        _imported_filters.clear()

    def _set_back_environment(self) -> None:
        now = _variables()
        for name in _imported:  # what a module sets on import stays
            if name in now:
                self._environment[name] = now[name]
            else:
                self._environment.pop(name, None)
        _imported.clear()
        changed = {
            name
            for name in now.keys() | self._environment.keys()
            if now.get(name) != self._environment.get(name)
        }
        for name in changed:
            was = self._environment.get(name)
            if was is None:
                os.unsetenv(name)
                del now[name]
            else:
                os.putenv(name, was)
                now[name] = was
        if b"TZ" in changed:
            time.tzset()

    def _set_back_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            # None: it was not set from Python, and cannot be.
            if handler is not None and _handler(number) != handler:
                signal.signal(number, handler)
                if number == signal.SIGALRM:
                    signal.alarm(0)

    def _set_back_limits(self) -> None:
        for limit, was in zip(_LIMITS, self._limits, strict=True):
            if resource.getrlimit(limit) != was:
                # A lowered hard limit stays: only root may raise one.
                with contextlib.suppress(ValueError, PermissionError):
                    resource.setrlimit(limit, was)


_PASSED_ON = tracker.VARIABLE.encode()
_imported: set[bytes] = set()
"""Variables that modules set while they were imported, since the last look."""
_imported_filters: list[tuple[Any, bool]] = []
"""Filters of warnings that modules added while they were imported, since the last look, and whether at the end."""


_watching = threading.Lock()
_watchers = 0
_NO_CHANGE = contextlib.nullcontext()


@contextlib.contextmanager
def watched_environment() -> Iterator[None]:
    """Inside, `os.environ` knows what an import sets, and says what is read. Earlier references to it are the same object."""
    global _watchers  # noqa: PLW0603 - runs in several threads share os.environ
    with _watching:
        _watchers += 1
        os.environ.__class__ = _BYTES.__class__ = _Environment
        noting_missing(on=True)
        warnings._add_filter = _noted_filter  # type: ignore[attr-defined] # noqa: SLF001 - all ways to add one lead there
    try:
        yield
    finally:
        with _watching:
            _watchers -= 1
            if not _watchers:
                os.environ.__class__ = _BYTES.__class__ = _PLAIN_ENVIRONMENT
                noting_missing(on=False)
                warnings._add_filter = _add_filter  # type: ignore[attr-defined] # noqa: SLF001


_PLAIN_ENVIRONMENT: Any = type(os.environ)
_BYTES: Any = os.environb


class _Environment(type(os.environ)):  # type: ignore[misc]
    """`os.environ` while an attempt runs: knows what an import sets, and says what is read."""

    def __getitem__(self, key: str) -> str:
        try:
            value: str = super().__getitem__(key)
        except KeyError:
            observation.variable_read(key, None)
            raise
        observation.variable_read(key, value)
        return value

    def __iter__(self) -> Iterator[str]:
        names = list(super().__iter__())
        observation.iterated(names)
        return iter(names)

    def __setitem__(self, key: str, value: str) -> None:
        super().__setitem__(key, value)
        self._note(key)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._note(key)

    def _note(self, key: str) -> None:
        if _is_importing():
            _imported.add(os.fsencode(key))


def _is_importing() -> bool:
    """Whether a call imports a module now."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - the frames of an import are what tells it
    while frame is not None and frame.f_code is not _CALL:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


_add_filter: Any = getattr(warnings, "_add_filter")  # noqa: B009 - it is not in the stubs


def _noted_filter(*item: Any, append: bool) -> None:
    _add_filter(*item, append=append)
    if _is_importing():
        _imported_filters.append((item, append))


_CALL = ProcessState.call.__code__


def _variables() -> dict[bytes, bytes]:
    """The variables of `os.environ` as bytes: to compare them decoded would take ten times as long."""
    found: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001
    return found


def folder_here() -> str:
    """The working directory; empty if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


# --- Names that a task's code reads, and that a call may bind anew.

_CODE = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, functools.partial)
_CONTAINERS = (list, dict, set)
_ABSENT: Any = object()


class ReachedNames:
    """The globals, module attributes and methods that a function and the user's functions below it read, as they are now.

    A global that was bound anew, or a list, dict or set in one that was changed, is set back after each call, since its value is
    in the key. One that was None or empty may be filled (a model that is loaded when it is first needed). Code that was
    replaced is not set back: who else has a reference to it is unknown.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._code: list[tuple[Any, str, Any]] = []
        self._values: list[tuple[dict[str, Any], str, Any, Any]] = []
        self._seen: set[int] = set()
        self._binds = False
        self._walk(function)
        self.may_change = self._binds or any(copied is not None for *_, copied in self._values)
        """Whether calls may bind or change a global, so that it must be looked at after each."""

    def replaced(self) -> str:
        """The name of code that was replaced since; empty if there is none."""
        return next((name for owner, name, was in self._code if _held(owner, name) is not was), "")

    def set_back(self) -> None:
        """Set back the values that a call bound anew or changed."""
        for at, (scope, name, was, copied) in enumerate(self._values):
            now = scope.get(name, _ABSENT)
            if was is None or (copied is not None and not copied):
                if now is not was:
                    self._values[at] = (scope, name, now, _copied(now))
                continue
            if now is not was:
                scope[name] = was
            if copied is not None and not _same(was, copied):
                was.clear()
                was.extend(copied) if isinstance(was, list) else was.update(copied)

    def _walk(self, function: Any) -> None:
        waiting = [function]
        while waiting:
            each = _plain(waiting.pop())
            if id(each) in self._seen:
                continue
            self._seen.add(id(each))
            if isinstance(each, type):
                methods = [(name, value) for name, value in vars(each).items() if _is_users_function(value)]
                self._code += [(each, name, value) for name, value in methods]
                waiting += [value for _, value in methods]
            elif _is_users_function(each):
                names = _names(each.__code__)
                self._binds = self._binds or binds_globals(each.__code__)
                waiting += [cell.cell_contents for cell in each.__closure__ or () if is_filled(cell)]
                waiting += self._read(each.__globals__, names)

    def _read(self, scope: dict[str, Any], names: set[str]) -> list[Any]:
        """Note the names of a scope; returns the code behind them."""
        below: list[Any] = []
        for name in names & scope.keys():
            value = scope[name]
            if isinstance(value, _CODE) or isinstance(_plain(value), types.FunctionType):
                self._code.append((scope, name, value))
                if isinstance(value, types.ModuleType):
                    if id(value) not in self._seen:
                        self._seen.add(id(value))
                        below += self._read(vars(value), names)
                elif not isinstance(value, type) or is_users(
                    getattr(sys.modules.get(value.__module__), "__file__", "") or ""
                ):
                    below.append(value)
            elif name not in _OF_EVERY_MODULE:
                self._values.append((scope, name, value, _copied(value)))
        return below


_OF_EVERY_MODULE = frozenset(
    {"__builtins__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__spec__"}
)


def _held(owner: Any, name: str) -> Any:
    return (owner if isinstance(owner, dict) else vars(owner)).get(name, _ABSENT)


def _plain(value: Any) -> Any:
    """The function behind a task, a partial or a bound method."""
    for name in ("function", "func", "__func__"):
        inner = (
            getattr(value, name, None)
            if not isinstance(value, types.FunctionType | types.ModuleType | type)
            else None
        )
        if isinstance(inner, types.FunctionType):
            return inner
    return value


def _is_users_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and is_users(value.__code__.co_filename)


def _names(code: types.CodeType) -> set[str]:
    names, waiting = set[str](), [code]
    while waiting:
        each = waiting.pop()
        names.update(each.co_names)
        waiting += [part for part in each.co_consts if isinstance(part, types.CodeType)]
    return names


def _copied(value: Any) -> Any:
    """A copy of a list, dict or set, to tell whether it was changed; None for anything else."""
    return value.copy() if type(value) in _CONTAINERS else None


def _same(value: Any, before: Any) -> bool:
    """Whether a container holds the same objects, in the same order."""
    if len(value) != len(before):
        return False
    if isinstance(value, dict):
        pairs = zip(value.items(), before.items(), strict=True)
        return all(mine[0] is other[0] and mine[1] is other[1] for mine, other in pairs)
    if isinstance(value, set):
        return {id(each) for each in value} == {id(each) for each in before}
    return all(mine is other for mine, other in zip(value, before, strict=True))


# --- What calls would share: a map's constants, the function's defaults, equal items. Each call has its own.

_CHEAP_S = 100e-6
"""What takes longer to copy is shared, and compared after a chunk: copies could take longer than the calls."""


class SharedArguments:
    """The constants of a map and the defaults of its function: a call may change them without effect on other calls.

    Immutable ones are shared, others copied for each call. Where that takes long, they are shared until a chunk has
    changed them: then its calls run again with copies. What has no copy, such as a connection, is shared.
    """

    __slots__ = (
        *("_by_call", "_constants", "_copied", "_digest", "_frames", "_holders", "_load"),
        *("files", "function", "results"),
    )

    def __init__(self, function: Callable[..., Any], load: Callable[[], Mapping[str, Any]]) -> None:
        started = time.perf_counter()
        self.function = function
        self.files: list[File] = []
        """Its constants that are files."""
        self.results: tuple[StoredPart, ...] = ()
        """Its constants that are results of tasks."""
        self._load = load
        self._constants = load()
        kept = {
            name: each for name, each in self._constants.items() if getattr(each, "__hooke_shared__", False)
        }
        if kept:  # these are one for all calls of this process, by their class's wish
            self._load = lambda: {**load(), **kept}
        self._copied = not all(map(_is_frozen, self._constants.values()))
        self._frames = any(_clone(value) is not value for value in self._constants.values())
        self._holders = [each for each in _holders(function) if not _is_frozen(each.held) and each.can_copy()]
        changeable = self._copied or bool(self._holders)
        self._by_call = changeable and time.perf_counter() - started < _CHEAP_S
        self._digest = self._content() if changeable and not self._by_call else b""

    @property
    def constants(self) -> Mapping[str, Any]:
        """The constants themselves, to look at."""
        return self._constants

    @property
    def compares(self) -> bool:
        """Whether `changed` pickles what calls share, and so may run code of the user's."""
        return bool(self._digest)

    @property
    def fixed(self) -> Mapping[str, Any] | None:
        """The constants, if all calls may have the same."""
        return None if self._by_call or self._frames else self._constants

    def take(self) -> Mapping[str, Any]:
        """The constants for a call that begins at once. The function has its defaults as they were."""
        for holder in self._holders if self._by_call else ():
            holder.renew()
        if self._by_call and self._copied:
            renew_results()
            return self._load()
        if not self._frames:
            return self._constants
        cloned = {name: _clone(value) for name, value in self._constants.items()}
        renew_results(zip(self._constants.values(), cloned.values(), strict=True))
        return cloned

    def changed(self) -> bool:
        """Whether calls changed what they shared. From then on each call has copies, whatever that takes."""
        if not self._digest or self._content() == self._digest:
            return False
        self._by_call, self._digest = True, b""
        for holder in self._holders:
            holder.forget_changes()
        return True

    def put_back(self) -> None:
        """Give the function its own defaults again."""
        for holder in self._holders:
            holder.put_back()

    def _content(self) -> bytes:
        hasher, file = blake3(), io.BytesIO()
        held = [self._constants if self._copied else None, *(each.held for each in self._holders)]
        pickler = ByValuePickler(file, protocol=5, buffer_callback=lambda each: _hash_writable(hasher, each))
        pickler.dump(held)
        return hasher.update(file.getbuffer()).digest()


def _hash_writable(hasher: Any, buffer: pickle.PickleBuffer) -> None:
    with buffer.raw() as view:
        if not view.readonly:
            hasher.update(view)


class _Holder:
    """A function's defaults or a partial's arguments, which all its calls would share."""

    __slots__ = ("_before", "_name", "_owner", "held")

    def __init__(self, owner: Any, name: str) -> None:
        self._owner, self._name = owner, name
        self.held: Any = (owner.args, owner.keywords) if name == "arguments" else getattr(owner, name)
        self._before: Any = None

    def can_copy(self) -> bool:
        """Whether there can be a copy for each call."""
        try:
            self._before = copy.deepcopy(self.held)
        except Exception:  # noqa: BLE001 - a lock, a connection, or whatever a class of the user's raises
            return False
        return True

    def renew(self) -> None:
        """Give the owner a copy of what it had."""
        self._set(copy.deepcopy(self._before))

    def forget_changes(self) -> None:
        """Have a copy of what the owner had, as what to put back."""
        self.held = copy.deepcopy(self._before)

    def put_back(self) -> None:
        """Give the owner what it had."""
        self._set(self.held)

    def _set(self, held: Any) -> None:
        if self._name == "arguments":
            self._owner.__setstate__((self._owner.func, *held, vars(self._owner)))
        else:
            setattr(self._owner, self._name, held)


def _holders(function: Any) -> Iterator[_Holder]:
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        if isinstance(function, functools.partial):
            yield _Holder(function, "arguments")
            function = function.func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        else:
            if isinstance(function, types.FunctionType):
                yield _Holder(function, "__defaults__")
                yield _Holder(function, "__kwdefaults__")
            function = getattr(function, "__wrapped__", None)


_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None), range, type(...)})
_FROZEN = (
    *(datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, PurePath, re.Pattern, enum.Enum),
    *(type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType),
)


def _is_frozen(value: Any) -> bool:
    """Whether a call can't change a value. False where that isn't known."""
    kind = type(value)
    if kind in _ATOMS or isinstance(value, _FROZEN):
        return True
    if kind in (tuple, frozenset):
        return all(map(_is_frozen, value))
    if kind.__module__ == "numpy":
        dtype, flags = getattr(value, "dtype", None), getattr(value, "flags", None)
        return not getattr(dtype, "hasobject", False) and not getattr(flags, "writeable", False)
    return kind.__module__.partition(".")[0] in {"polars", "pyarrow"}


def _clone(value: Any) -> Any:
    """A frame of Polars has immutable columns, but a call may add one: a clone takes a microsecond."""
    return value.clone() if type(value).__module__.startswith("polars.dataframe") else value


def own_rows(rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """The items' arguments; an item gets copies where an earlier one has a part of it that a call could change."""
    seen: set[int] = set()
    for row in rows:
        parts = _changeable(row)
        yield row if seen.isdisjoint(parts) else pickle.loads(by_value.dumps(row))
        seen |= parts


def _changeable(row: Sequence[Any]) -> set[int]:
    found: set[int] = set()
    waiting = [each for each in row if type(each) not in _ATOMS]
    while waiting:
        each = waiting.pop()
        if id(each) in found or _is_frozen(each):
            continue
        found.add(id(each))
        waiting += [part for part in gc.get_referents(each) if type(part) not in _ATOMS]
    return found
