"""What a journal keeps of an exception, and what the caller of a run gets back."""

from __future__ import annotations

import copyreg
import pickle
import threading
import traceback

import msgspec
import numpy as np
import pytest
from tblib.pickling_support import pickle_exception

from hooke.base.clock import SystemClock
from hooke.base.errors import Permanent, TaskError, TaskFailed
from hooke.journal.events import AttemptFailed, Failure
from hooke.pipeline.execute import AttemptRunner, WorkerCall
from hooke.pipeline.failures import failure_of, task_failed
from hooke.pipeline.isolation import KEY_BYTES
from hooke.store.backends.memory import MemoryBackend
from hooke.store.store import Store


class Asks(Exception):
    """Its `__init__` asks for more than what it passes on."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class Refuses(Exception):
    def __reduce__(self):
        raise TypeError("not this one")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - to be handed on
        return caught


def told_of(error: BaseException) -> TaskFailed:
    store = Store(MemoryBackend())
    failure = failure_of(raised(error), arguments="", store=store)
    data = msgspec.msgpack.encode(AttemptFailed(attempt=1, node=0, lo=0, hi=1, failure=failure))
    event = msgspec.msgpack.decode(data, type=AttemptFailed)
    return task_failed(event, task="t", run="r", unseal=store.unseal)


def cause_of(error: BaseException) -> BaseException | None:
    return told_of(error).__cause__


def test_an_exception_comes_back_past_an_init_that_asks_for_more():
    cause = cause_of(Asks(7, hint="look there"))
    assert type(cause) is Asks
    assert (str(cause), cause.code, cause.hint) == ("code 7", 7, "look there")


def test_an_exception_comes_back_without_what_does_not_pickle():
    error = Asks(7, hint="look there")
    error.lock = threading.Lock()
    error.args = ("code 7", threading.Lock())
    cause = cause_of(error)
    assert type(cause) is Asks
    assert cause.hint == "look there" and not hasattr(cause, "lock")
    assert cause.args[0] == "code 7" and "lock" in cause.args[1]


@pytest.mark.parametrize(
    "error",
    [
        Refuses("no"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        OSError(2, "gone", "a.csv"),
        KeyError("k"),
    ],
)
def test_exceptions_of_every_shape_come_back(error):
    cause = cause_of(error)
    assert type(cause) is type(error)
    assert str(cause) == str(error)


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_a_huge_exception_takes_little_room_and_comes_back():
    error = ValueError("x" * 50_000_000)
    error.table = list(range(1_000_000))
    failure = failure_of(raised(error), arguments="", store=Store(MemoryBackend()))
    assert len(msgspec.msgpack.encode(failure)) < 150_000
    assert failure.message.startswith("ValueError: xxx") and "characters left out" in failure.message
    assert len(failure.said) <= 200
    cause = cause_of(error)
    assert type(cause) is ValueError
    assert len(str(cause)) < 10_000 and not hasattr(cause, "table")


def test_what_an_exception_says_does_not_move_the_cursor_and_encodes():
    failure = failure_of(
        raised(ValueError("\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eback\udcff")), arguments=""
    )
    assert failure.message == r"ValueError: red \x1b]0;title\x07 \u202eback\udcff"
    failure.traceback.encode("utf-8")
    assert "\x1b" not in failure.traceback


def test_said_is_one_line():
    failure = Failure(kind="TaskError", message="ValueError: one\n  two")
    assert failure.said == "TaskError: ValueError: one"
    assert Failure(kind="TaskError", message="m" * 5000).said.startswith("TaskError: mmm")


def test_an_exception_comes_back_whole_where_a_library_changed_how_exceptions_are_pickled(monkeypatch):
    def emptied(_error):
        return UnicodeDecodeError.__new__, (UnicodeDecodeError,)

    monkeypatch.setitem(copyreg.dispatch_table, UnicodeDecodeError, emptied)
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")
    assert str(cause_of(error)) == str(error)


class Slotted(ValueError):
    __slots__ = ("place",)

    def __init__(self, place: str) -> None:
        super().__init__(f"at {place}")
        self.place = place


class Named(Exception):
    """It has attributes that a TaskFailed has, too."""

    def __init__(self) -> None:
        super().__init__("mine")
        self.task = self.what = self.next = "of the user's"
        self.code = 7


class Sealed(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (KeyError("k"), {}),
        (Asks(7, hint="look there"), {"code": 7, "hint": "look there"}),
        (Slotted("home"), {"place": "home"}),
        (Named(), {"code": 7, "task": "t"}),
        (OSError(2, "gone", "a.csv"), {"errno": 2, "strerror": "gone", "filename": "a.csv"}),
        (FileNotFoundError(2, "gone", "a.csv"), {"errno": 2}),
        (ModuleNotFoundError("no m", name="m"), {"name": "m"}),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), {"object": b"\xff", "start": 0, "reason": "no"}),
        (ExceptionGroup("both", [ValueError("a")]), {"message": "both"}),
        (TimeoutError("late"), {}),
        (Permanent("never"), {}),
    ],
)
@pytest.mark.parametrize("tblib", [False, True], ids=["alone", "with tblib"])
def test_the_error_of_a_task_is_caught_as_the_users_too(error, facts, tblib, monkeypatch):
    for kind in (TaskFailed, TaskError, type(error)) if tblib else ():  # as Dask does when it is imported
        monkeypatch.setitem(copyreg.dispatch_table, kind, pickle_exception)
    with pytest.raises(type(error)) as caught:
        raise told_of(error)
    told = caught.value
    assert isinstance(told, TaskError)
    assert type(told.__cause__) is type(error)
    assert repr(told.args) == repr(error.args)
    assert {name: getattr(told, name) for name in facts} == facts
    assert str(told).startswith("t() failed: ")
    assert "next: hooke debug r t" in str(told)
    assert told.what in "".join(traceback.format_exception(told))
    again = pickle.loads(pickle.dumps(told))
    assert isinstance(again, type(error)) and isinstance(again, TaskError)
    assert str(again) == str(told)


@pytest.mark.parametrize(
    "error", [StopIteration(1), SyntaxError("no", ("f.py", 1, 1, "x =")), SystemExit(3), Sealed("no")]
)
def test_an_exception_whose_class_cannot_be_joined_is_the_cause(error):
    told = told_of(error)
    assert type(told) is TaskError
    assert type(told.__cause__) is type(error)
    assert str(pickle.loads(pickle.dumps(told))) == str(told)


def test_a_message_too_long_for_the_journal_is_whole_in_the_log():
    written: list[str] = []
    short = failure_of(raised(ValueError("short")), arguments="", log=written.append)
    assert not short.in_log and not written
    text = "".join(f"line {at} \x1b[31m\n" for at in range(5000))
    failure = failure_of(raised(ValueError(text)), arguments="", log=written.append)
    assert failure.in_log
    assert text in "".join(written), "as it is"
    assert "\x1b" not in failure.message + failure.traceback

    def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    assert not failure_of(raised(ValueError(text)), arguments="", log=full).in_log


class Unseeded(np.random.PCG64):
    """`numpy.random.seed` makes a new one with the seed as its argument."""

    def __init__(self) -> None:
        super().__init__(7)


def leave_a_generator_that_cannot_be_seeded(x):
    np.random.set_bit_generator(Unseeded())
    return x


@pytest.fixture
def bit_generator():
    before = np.random.get_bit_generator()
    yield
    np.random.set_bit_generator(before)


@pytest.mark.usefixtures("bit_generator")
def test_an_item_that_cannot_begin_is_named_with_its_own_arguments(tmp_path):
    worker = AttemptRunner(name="w", store=Store.open(tmp_path / "store"), clock=SystemClock(), alone=True)
    items = [10, 11, 12]
    payload = pickle.dumps((pickle.dumps({}), pickle.dumps(("columns", [items]))))
    keys = b"".join(bytes([x]) * KEY_BYTES for x in items)
    where = {"attempt": 1, "node": 0, "lo": 4, "hi": 4 + len(items), "shown": "", "keys": keys}
    function = leave_a_generator_that_cannot_be_seeded
    done = worker.run(WorkerCall(kind="map", function=function, payload=payload, **where))
    assert isinstance(done, AttemptFailed)
    assert "takes 1 positional argument but 2 were given" in done.failure.message
    assert (done.done, done.failure.arguments) == (1, "item 5: 11")
