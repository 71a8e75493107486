"""What calls would share in a worker: each has its own copy, as it would have in a process of its own."""

import functools
import threading

import numpy as np
import polars as pl
import pytest

from hooke.base.clock import SystemClock
from hooke.journal.events import AttemptFailed
from hooke.pipeline.execute import AttemptRunner, WorkerCall
from hooke.pipeline.references import pack
from hooke.store.store import Store

ITEMS = 6
LARGE = dict.fromkeys(range(-50_000, 0))
"""It takes longer to copy than a call may take, so calls share it until one changes it."""


def packed(value):
    return pack(value, lambda promise: pytest.fail(f"{promise} is no promise"))


@pytest.fixture
def worker(tmp_path):
    return AttemptRunner(name="w", store=Store.open(tmp_path / "store"), clock=SystemClock())


def mapped(worker, function, columns, **constants):
    """The results of a map in one chunk, or its failure."""
    payload = packed((packed(constants), packed(("columns", columns))))
    size = len(columns[0])
    work = WorkerCall(
        attempt=1, node=0, kind="map", lo=0, hi=size, function=function, payload=payload, shown=""
    )
    done = worker.run(work)
    return done if isinstance(done, AttemptFailed) else worker.store.get(done.ref)


def collect(x, into):
    into.append(x)
    return len(into)


def default(x, into=[]):  # noqa: B006 - this is what the test is about
    into.append(x)
    return len(into)


def keyword_default(x, *, into={}):  # noqa: B006 - as above
    into[x] = x
    return len(into)


@functools.wraps(default)
def wrapper(*args):
    return default(*args)


def add_to(x, array):
    array[0] += x
    return float(array[0])


def add_to_table(x, table):
    table[x] = x
    return len(table)


def add_column(x, frame):
    frame.insert_column(0, pl.Series(f"c{x}", [x]))
    return frame.width


def add_late(x, table):
    if x == 3:
        table[x] = x
    return len(table)


def fail_after_a_change(x, table):
    if x in table:
        raise ValueError("seen")
    table.update(dict.fromkeys(range(ITEMS)))
    return x


NUMBERS = list(range(ITEMS))


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("function", "constants", "expected"),
    [
        (collect, {"into": []}, [1] * ITEMS),
        (default, {}, [1] * ITEMS),
        (keyword_default, {}, [1] * ITEMS),
        (wrapper, {}, [1] * ITEMS),
        (functools.partial(collect, into=[]), {}, [1] * ITEMS),
        (add_to, {"array": np.zeros(2)}, [float(n) for n in NUMBERS]),
        (add_column, {"frame": pl.DataFrame({"a": [1]})}, [2] * ITEMS),
        (add_to_table, {"table": LARGE}, [len(LARGE) + 1] * ITEMS),
        (add_late, {"table": LARGE}, [len(LARGE) + (n == 3) for n in NUMBERS]),
        (fail_after_a_change, {"table": LARGE}, NUMBERS),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_no_call_of_a_map_sees_what_another_changed(worker, function, constants, expected):
    assert mapped(worker, function, [NUMBERS], **constants) == expected
    assert mapped(worker, function, [NUMBERS], **constants) == expected, "in the next chunk"
    assert default.__defaults__ == ([],)
    assert keyword_default.__kwdefaults__ == {"into": {}}


def test_items_that_are_one_object_are_copies_for_the_calls(worker):
    shared = [0]
    nested = [{"a": shared, "b": n} for n in NUMBERS]
    arrays = [np.zeros(1)] * ITEMS
    assert mapped(worker, collect, [NUMBERS, [shared] * ITEMS]) == [2] * ITEMS
    assert mapped(worker, lambda each: collect(1, each["a"]), [nested]) == [2] * ITEMS
    assert mapped(worker, add_to, [NUMBERS, arrays]) == [float(n) for n in NUMBERS]


def test_immutable_arguments_are_shared_and_so_is_what_has_no_copy(worker):
    def same(x, *values, lock=threading.Lock()):
        return [id(each) for each in values], id(lock)

    frozen = {"a": (1, "b" * 99, frozenset({2})), "f": len}

    def seen(x, a, f):
        return same(x, a, f)

    assert len({repr(each) for each in mapped(worker, seen, [NUMBERS], **frozen)}) == 1


def test_a_default_that_one_task_fills_is_empty_for_the_next(worker):
    for number in NUMBERS:
        work = WorkerCall(
            attempt=1,
            node=number,
            kind="call",
            lo=0,
            hi=1,
            function=default,
            payload=packed(((number,), {})),
            shown="",
        )
        assert worker.store.get(worker.run(work).ref) == 1
    assert default.__defaults__ == ([],)
