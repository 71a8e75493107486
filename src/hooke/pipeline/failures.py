"""Turns an exception inside a task into the facts of a Failure, and a Failure back into an error to raise."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

import msgspec

from hooke.base.errors import (
    GangResized,
    HookeError,
    InputChanged,
    Permanent,
    StoreUnavailable,
    TaskFailed,
    Temporary,
)
from hooke.base.formats import clip, readable, short_repr
from hooke.base.user_code import is_hooke, with_cells_named
from hooke.journal.events import GANG_RESIZED, AttemptFailed, AttemptFinished, Failure
from hooke.store.store import Store

__all__ = [
    "failed_in_cell",
    "failed_instead",
    "failure_of",
    "missing_module_fix",
    "task_failed",
    "user_traceback",
]

_LONGEST_TEXT = 16 * 1024
"""Characters of a message or a traceback that a journal keeps."""
_LARGEST_PICKLE = 64 * 1024


def failure_of(
    error: BaseException,
    *,
    arguments: str,
    limit_bytes: int | None = None,
    store: Store | None = None,
    log: Callable[[str], None] | None = None,
) -> Failure:
    """The facts of an exception of a task, or of reading its inputs. It comes along, sealed as values of `store` are.

    A message or a traceback that is too long for a journal goes to `log` as it is.
    """
    if isinstance(error, GangResized):
        return Failure(kind=GANG_RESIZED, message="it ended at a checkpoint", arguments=arguments)
    own = _is_own(error)
    kind = "OutOfMemory" if isinstance(error, MemoryError) and limit_bytes is not None else "TaskError"
    message = _message(error)
    trace = error.why if isinstance(error, HookeError) and own else user_traceback(error)
    in_log = False
    if log is not None and max(len(message), len(trace)) > _LONGEST_TEXT:
        with contextlib.suppress(OSError):  # a full disk: the journal has the beginning and the end
            log(f"{trace or message}\n")
            in_log = True
    return Failure(
        kind=type(error).__name__ if own else kind,
        message=clip(readable(message), _LONGEST_TEXT),
        error_type="" if own else _type_name(error),
        traceback=clip(readable(trace), _LONGEST_TEXT),
        in_log=in_log,
        arguments=arguments,
        limit_bytes=limit_bytes,
        fix=_fix(error),
        retryable=isinstance(error, Temporary | StoreUnavailable | InputChanged)
        or not isinstance(error, HookeError),
        delay_s=error.delay_s if isinstance(error, Temporary) else None,
        pickled=None
        if own or store is None
        else _sealed(error, store),  # the fields above say everything about Hooke's own errors
    )


_FACTS = ("at", "attempt", "node", "lo", "hi", "worker", "seconds", "cpu_s", "peak_bytes", "log", "logs")


def failed_instead(event: AttemptFinished | AttemptFailed, failure: Failure) -> AttemptFailed:
    """The event that an attempt has failed so, instead of what its worker said."""
    return AttemptFailed(failure=failure, **{name: getattr(event, name) for name in _FACTS})


def failed_in_cell(event: AttemptFinished | AttemptFailed) -> AttemptFinished | AttemptFailed:
    """The same event with `Cell In[3]` in its traceback for a cell of the notebook that drives the run, whose number no worker knows."""
    if not isinstance(event, AttemptFailed) or not event.failure.traceback:
        return event
    named = with_cells_named(event.failure.traceback)
    if named == event.failure.traceback:
        return event
    return msgspec.structs.replace(event, failure=msgspec.structs.replace(event.failure, traceback=named))


def _fix(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return missing_module_fix(error.name, where=" where the task ran")
    if isinstance(error, HookeError):
        return error.fix
    if isinstance(error, FileNotFoundError) and _is_relative(error.filename):
        return f"check the path: it is relative to {os.getcwd()}, where the task ran; or pass hooke.File(path), which is checked before anything runs"
    if isinstance(error, ValueError) and "read-only" in _message(error):
        return "the result of another task is read-only, because tasks share it: change a copy (x = x.copy())"
    return ""


def missing_module_fix(module: str, *, where: str = "") -> str:
    """How to get a module that is not found."""
    return (
        f"install the package of the module {module.partition('.')[0]!r}{where}: {sys.executable} -m pip install ...; "
        "if it is a file of yours, start in its folder or add the folder to PYTHONPATH"
    )


def _is_relative(name: object) -> bool:
    return isinstance(name, str) and name != "" and not os.path.isabs(name)


def _is_own(error: BaseException) -> bool:
    """Whether it is Hooke's error about the task, not one that the task raised."""
    return isinstance(error, HookeError) and not isinstance(error, Permanent | Temporary)


def _message(error: BaseException) -> str:
    if isinstance(error, HookeError):
        return error.what
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        text = "<no text: __str__ raised>"
    return f"{_type_name(error)}: {text}" if text else _type_name(error)


def _type_name(error: BaseException) -> str:
    cls = type(error)
    return (
        cls.__qualname__
        if cls.__module__ in ("builtins", "__main__")
        else f"{cls.__module__}.{cls.__qualname__}"
    )


def user_traceback(error: BaseException) -> str:
    """The traceback as Python prints it, with the frames of the user's code only."""
    shown = traceback.TracebackException(type(error), error, _from_user(error.__traceback__))
    return "".join(shown.format()).rstrip()


def _from_user(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from its first frame outside Hooke; all of it if there is none."""
    at = trace
    while at is not None and is_hooke(at.tb_frame.f_code.co_filename):
        at = at.tb_next
    return at or trace


def _sealed(error: BaseException, store: Store) -> bytes | None:
    """The exception, for the `__cause__` of the error; None if nothing of it can be pickled.

    Its class and arguments travel past its `__init__`, which may ask for more than them; attributes that do not pickle, and
    text or attributes too large for a journal, stay behind. Type, message and traceback travel as text anyway.
    """
    for part in (error, _Portable(error)):
        with contextlib.suppress(Exception):  # whatever a user's __reduce__ raises
            data = store.seal(part)
            again = store.unseal(data)
            # A library may have changed how exceptions are pickled (tblib does): some then come back empty, or without what is in slots.
            same = type(again) is type(error) and (part is not error or _told(again) == _told(error))
            if same and len(data) <= _LARGEST_PICKLE:
                return data
    return None


def _told(error: BaseException) -> tuple[str, set[str]]:
    """What an exception says, and the names of what it holds."""
    return str(error), {name for name, _ in _attributes(error)}


class _Portable:
    """Pickles as an exception of the same class with what is portable of its arguments and attributes."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        args = tuple(map(_portable, self._error.args))
        state = {name: value for name, value in _attributes(self._error) if _is_portable(value)}
        return _rebuilt, (type(self._error), args, state)


def _rebuilt(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    if isinstance(cls.__init__, types.WrapperDescriptorType):  # Python's own, which may set more than `args`
        error = cls(*args)
    else:
        error = cls.__new__(cls, *args)
        error.args = args
    _set_attributes(error, state.items())
    return error


_LARGEST_PART = 4 * 1024


def _portable(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LARGEST_PART:
        return clip(value, _LARGEST_PART)
    return value if _is_portable(value) else short_repr(value)


def _is_portable(value: Any) -> bool:
    try:
        import cloudpickle

        data = cloudpickle.dumps(value)
        pickle.loads(data)
    except Exception:  # noqa: BLE001 - whatever a user's __reduce__ raises
        return False
    return len(data) <= _LARGEST_PART + 100


def task_failed(  # noqa: PLR0913 - the facts of one message
    event: AttemptFailed,
    *,
    task: str,
    run: str,
    unseal: Callable[[bytes], BaseException],
    item: int | None = None,
    tries: tuple[int, int] = (0, 0),
    declared: int | None = None,
    next: str = "",
    joined: bool = True,
) -> TaskFailed:
    """The error that `Run.result()` raises for a failed attempt, at this `item` of a map. `declared` is the memory of the task in bytes.

    Its `__cause__` is the user's exception, and it is an instance of that one's class, too, if it is to be `joined`, and if `unseal` (that of the run's
    store) trusts and opens it: where the store has a secret, bytes of a worker or a journal that are not signed with it are
    never unpickled.
    """
    failure = event.failure
    outgrown = declared is not None and failure.limit_bytes is not None and failure.limit_bytes > declared
    error = TaskFailed.from_facts(
        msgspec.structs.asdict(failure) | ({"outgrown_bytes": declared} if outgrown else {}),
        task=task,
        item=item,
        attempt=event.attempt,
        tries=tries,
        worker=event.worker,
        run=run,
        next=next,
    )
    if failure.pickled is not None:
        # This process may not be able to import its class, or may not trust it; the error has its text.
        with contextlib.suppress(Exception):
            cause = unseal(failure.pickled)
            error.__cause__ = cause
            return _also(error, cause) if joined else error
    return error


# --- The error of a task is caught as the user's exception, too.


_NOT_JOINED = (StopIteration, StopAsyncIteration, SyntaxError)


def _also(error: TaskFailed, cause: BaseException) -> TaskFailed:
    """`error` caused by `cause`, of a class that is also that of `cause`, with its `args` and attributes.

    Unchanged but for its cause if there is no such class: Python does not allow all combinations, does other things with one that is no Exception or that
    ends an iteration, and prints a SyntaxError without its text.
    """
    error.__cause__ = cause
    if not isinstance(cause, Exception) or isinstance(cause, _NOT_JOINED):
        return error
    try:
        made = _joined(error, cause)
    except Exception:  # noqa: BLE001 - whatever the user's class does when it is subclassed or made
        return error
    made.__cause__ = cause
    error.__cause__ = None  # tblib, which Dask uses, would pickle it along, and it may not come back
    return made


def _joined(error: TaskFailed, cause: Exception) -> TaskFailed:
    own, kind = type(error), type(cause)

    def reduce(_: TaskFailed) -> tuple[Any, ...]:
        portable = _Portable(cause)  # the class of the error has no name to be unpickled by
        return (_also, (error, portable)) if _pickles(portable) else error.__reduce__()

    names: dict[str, Any] = {
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
        "__reduce__": reduce,
    }
    joined = types.new_class(own.__name__, (own, kind), exec_body=lambda body: body.update(names))
    made: Any = joined.__new__(joined, *cause.args)
    built_in = next(cls for cls in kind.__mro__ if cls.__module__ == "builtins")
    if built_in is not Exception:
        built_in.__init__(made, *cause.args)
    made.args = cause.args
    _set_attributes(made, _attributes(cause))
    _set_attributes(made, vars(error).items())
    if not isinstance(made, TaskFailed):  # a metaclass of the user's
        raise TypeError(f"{joined} makes no TaskFailed")
    return made


def _pickles(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever a user's __reduce__ raises
        return False
    return True


def _set_attributes(error: BaseException, attributes: Iterable[tuple[str, Any]]) -> None:
    for name, value in attributes:
        with contextlib.suppress(AttributeError, TypeError):  # one that can only be read
            setattr(error, name, value)


def _attributes(error: BaseException) -> Iterator[tuple[str, Any]]:
    """What an exception holds besides its `args`: in slots, in fields of Python's own classes, and in its dict."""
    for cls in type(error).__mro__:
        if cls in (Exception, BaseException):
            break
        for name, field in vars(cls).items():
            if (
                isinstance(field, types.MemberDescriptorType | types.GetSetDescriptorType)
                and name[:2] != "__"
            ):
                with contextlib.suppress(AttributeError):
                    yield name, getattr(error, name)
    yield from vars(error).items()
