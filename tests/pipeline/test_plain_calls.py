"""Calls that certainly change nothing in their process: a worker prepares and sets back nothing for them."""

import importlib
import json
import os
import sys
import threading

import pytest

import hooke
from hooke.base.clock import SystemClock
from hooke.engines.serial import SerialEngine
from hooke.journal.events import AttemptFinished, AttemptStarted, CallsFinished
from hooke.pipeline import execute
from hooke.pipeline.engine import AlsoCall
from hooke.pipeline.execute import AttemptRunner, TaskUsage, WorkerCall
from hooke.pipeline.isolation import ProcessState
from hooke.pipeline.observed_events import PathRules
from hooke.pipeline.references import MADE_KEPT, Awaited, StoredValue, pack
from hooke.store.store import Store
from hooke.tracking.tracker import VARIABLE, Tracker

SEEN = [0]


def doubled(x: int) -> int:
    return 2 * x


def remembered(x: int) -> int:
    SEEN.append(x)
    return len(SEEN)


def collected(x: int, into: list[int] = []) -> int:  # noqa: B006 - this is what the test is about
    into.append(x)
    return len(into)


def read(name: str) -> int:
    with open(name) as file:
        return len(file.read())


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    store = Store.open(tmp_path / "store", durable="none")
    made = AttemptRunner(name="w", store=store, clock=SystemClock(), alone=True, root=tmp_path / "project")
    made.observe(PathRules(str(tmp_path / "project"), None))
    yield made
    made.forget()


@pytest.fixture
def set_back(monkeypatch):
    """How often the process was set back."""
    times = []
    original = ProcessState.set_back
    monkeypatch.setattr(ProcessState, "set_back", lambda self: (times.append(1), original(self))[1])
    return times


def answer(worker, function, *args, plain=True, **more):
    payload = pack((list(args), {}), lambda promise: pytest.fail(f"{promise} is no promise"))
    work = WorkerCall(
        attempt=1,
        node=0,
        kind="call",
        lo=0,
        hi=1,
        function=function,
        payload=payload,
        shown="",
        plain=plain,
        **more,
    )
    done = worker.run(work)
    assert isinstance(done, AttemptFinished), done
    return done


def result(worker, function, *args, **more):
    return worker.store.get(answer(worker, function, *args, **more).ref)


def test_nothing_is_set_back_after_a_plain_call(worker, set_back):
    assert result(worker, doubled, 1) == 2
    assert set_back, "a worker's first attempt notes how its process is"
    set_back.clear()
    assert [result(worker, doubled, x) for x in range(3)] == [0, 2, 4]
    assert not set_back
    assert result(worker, doubled, 1, plain=False) == 2
    assert set_back == [1], "once a call: a number needs no second look"


def test_a_plain_call_after_an_import_is_surrounded_like_any_other(worker, set_back, monkeypatch):
    result(worker, doubled, 1)
    set_back.clear()
    monkeypatch.setitem(execute.sys.modules, "hooke_tests_imported_meanwhile", json)
    result(worker, doubled, 1)
    assert set_back


def test_a_plain_call_with_other_variables_is_surrounded_like_any_other(worker, set_back):
    result(worker, doubled, 1)
    set_back.clear()
    result(worker, doubled, 1, variables={"HOOKE_TESTS_VARIABLE": "1"})
    assert set_back


def test_globals_and_defaults_are_as_they_were_for_each_plain_call(worker):
    assert [result(worker, remembered, x) for x in range(3)] == [2, 2, 2]
    assert [result(worker, collected, x) for x in range(3)] == [1, 1, 1]


def in_a_list(x: int) -> list[int]:
    return [x]


def same(x: object) -> object:
    return x


def test_a_call_that_gets_numbers_of_others_is_plain(worker, set_back):
    made = [answer(worker, doubled, x).ref for x in range(3)]
    set_back.clear()
    assert [result(worker, doubled, StoredValue(ref), keys=bytes(16)) for ref in made] == [0, 4, 8]
    assert result(worker, doubled, Awaited(), awaited=made[1], keys=bytes(16)) == 4
    assert not set_back


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param(lambda worker: StoredValue(answer(worker, in_a_list, 7).ref), id="a list"),
        pytest.param(lambda worker: StoredValue(answer(worker, in_a_list, 7).ref, (0,)), id="a part"),
        pytest.param(lambda worker: StoredValue(worker.store.put(7)), id="made elsewhere"),
        pytest.param(lambda worker: [StoredValue(answer(worker, doubled, 7).ref)], id="within a list"),
    ],
)
def test_a_call_that_gets_other_results_is_surrounded_like_any_other(worker, set_back, argument):
    given = argument(worker)
    set_back.clear()
    result(worker, same, given, keys=bytes(16))
    assert set_back


def test_the_results_that_a_worker_remembers_are_bounded(worker):
    for x in range(MADE_KEPT + 10):
        answer(worker, doubled, x)
    assert len(worker.made) == MADE_KEPT


def test_what_a_plain_call_reads_is_an_input(worker, tmp_path):
    (tmp_path / "project" / "d.txt").write_text("abc")
    for _ in range(2):
        done = answer(worker, read, "d.txt")
        assert [(each.kind, each.name) for piece in done.observed for each in piece.inputs] == [
            ("file", "d.txt")
        ]


def test_attempts_of_two_runs_in_one_process_leave_its_variables_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "of the outside")
    store = Store.open(tmp_path / "store", durable="none")
    one, two = (
        AttemptRunner(
            name=name, store=store, clock=SystemClock(), tracker=Tracker(tmp_path / name, "w", durable="none")
        )
        for name in "ab"
    )
    both, first_ended, seen = threading.Barrier(2, timeout=20), threading.Event(), []

    def first(x):
        both.wait()
        return x

    def second(x):
        both.wait()
        assert first_ended.wait(20)
        seen.append(os.environ.get(VARIABLE, ""))
        return x

    def run_first():
        assert result(one, first, 1, plain=False) == 1
        first_ended.set()

    thread = threading.Thread(target=run_first)
    thread.start()
    assert result(two, second, 1, plain=False) == 1
    thread.join()
    assert str(tmp_path / "b") in seen[0], "the other one goes on"
    assert os.environ[VARIABLE] == "of the outside"


# --- Groups of plain calls.


def grouped(worker, function, rows):
    """What a worker says of a group, and how many of its calls it left to others."""
    calls = [
        AlsoCall(10 + at, at, pack((list(row), {}), lambda promise: pytest.fail(f"{promise}")), f"{row}")
        for at, row in enumerate(rows)
    ]
    work = WorkerCall(
        attempt=10, node=0, kind="call", lo=0, hi=1, function=function, payload=b"", shown="", plain=True
    )
    answer(worker, function, *rows[0])  # a worker's first attempt notes how its process is
    assert worker.goes_plainly(work)
    said, rest = [], iter(calls)
    worker.run_calls(work, rest, said.append)
    together = {attempt for each in said if isinstance(each, CallsFinished) for attempt in each.attempts}
    return as_ended(said), together, len([*rest])


def as_ended(said):
    """The end of each call."""
    singly = [each.singly() if isinstance(each, CallsFinished) else [each] for each in said]
    return [each for events in singly for each in events if not isinstance(each, AttemptStarted)]


def halved(x: int) -> float:
    return 1 / x if x > 0 else x


def importing(x: int) -> int:
    if x == 2:
        import colorsys  # noqa: F401 - this is what the test is about
    return x


def test_calls_that_leave_small_results_are_answered_together(worker):
    ended, together, left = grouped(worker, doubled, [(x,) for x in range(5)])
    assert left == 0
    assert together == {10, 11, 12, 13, 14}
    assert [(each.attempt, each.node) for each in ended] == [(10 + x, x) for x in range(5)]
    assert [worker.store.get(each.ref) for each in ended] == [0, 2, 4, 6, 8]
    assert all(each.seconds > 0 for each in ended)
    assert worker.made.arguments(pack(([StoredValue(ended[3].ref)], {}), lambda _: None)) == ([6], {})


def test_a_call_that_fails_is_answered_alone_and_others_go_on(worker):
    ended, together, left = grouped(worker, halved, [(1,), (2,), ("text",), (4,), (5,)])
    assert left == 0
    assert [each.attempt for each in ended] == [10, 11, 12, 13, 14]
    assert together == {10, 11, 13, 14}
    assert (ended[2].node, ended[2].failure.arguments) == (2, "('text',)")
    assert ended[2].failure.error_type == "TypeError"


def test_a_call_that_reads_is_answered_alone(worker, tmp_path):
    (tmp_path / "project" / "d.txt").write_text("abc")
    ended, together, _ = grouped(worker, read, [("d.txt",), ("d.txt",)])
    assert not together
    assert [each.attempt for each in ended] == [10, 11]
    for each in ended:
        assert [each.name for piece in each.observed for each in piece.inputs] == ["d.txt"]


def test_after_an_import_the_rest_of_a_group_is_left(worker, monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    ended, together, left = grouped(worker, importing, [(x,) for x in range(6)])
    assert [each.attempt for each in ended] == [10, 11, 12]
    assert together == {10, 11}
    assert left == 3


@pytest.mark.parametrize("function", [remembered, collected])
def test_functions_that_keep_something_are_not_called_in_a_group(worker, function):
    answer(worker, function, 1)
    work = WorkerCall(
        attempt=1, node=0, kind="call", lo=0, hi=1, function=function, payload=b"", shown="", plain=True
    )
    assert not worker.goes_plainly(work)


def test_results_wait_no_longer_for_a_call_that_takes_long(worker):
    released, said = threading.Event(), []

    def waiting(x):
        assert x < 3 or released.wait(20)
        return x

    def say(event):
        said.append(event)
        if 2 in event.attempts:
            released.set()

    answer(worker, waiting, 0)
    calls = [AlsoCall(x, x, pack(([x], {}), lambda _: None), "") for x in range(1, 6)]
    work = WorkerCall(
        attempt=1, node=1, kind="call", lo=0, hi=1, function=waiting, payload=b"", shown="", plain=True
    )
    worker.run_calls(work, iter(calls), say)
    assert 3 not in said[0].attempts, "told while the third one ran, or before"
    assert [each.attempt for each in as_ended(said)] == [1, 2, 3, 4, 5]


# --- Which calls are plain.

KINDS = """
import decimal
import pathlib
import random

import hooke


@hooke.task
def adds(x: int, y: int = 1) -> int:
    return x + y


@hooke.task
def draws(x: int) -> float:
    return x + random.random()


@hooke.task
def counts_exactly(x: int) -> str:
    decimal.getcontext().prec = 3
    return str(decimal.Decimal(x) / 7)


@hooke.task
def writes(x: int) -> pathlib.Path:
    path = pathlib.Path(f"{x}.txt")
    path.write_text(str(x))
    return path


@hooke.task
def evaluates(x: int) -> int:
    return int(eval(str(x)))


@hooke.task
def adds_up(several: list[int]) -> int:
    return sum(several)


@hooke.pipeline
def all_kinds() -> list[object]:
    one = adds(1)
    return [one, draws(2), counts_exactly(3), writes(4), evaluates(5), adds_up([6]), adds(one, 2)]
"""


@pytest.mark.needs("processes")  # one evaluates code, so all modules of this process are compiled
def test_only_what_surely_changes_nothing_is_plain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hooke.toml").write_text("")
    (tmp_path / "plain_kinds.py").write_text(KINDS)
    seen = []
    submit = SerialEngine.submit
    monkeypatch.setattr(
        SerialEngine, "submit", lambda self, calls: (seen.extend(calls), submit(self, calls))[1]
    )
    hooke.run(importlib.import_module("plain_kinds").all_kinds, on="serial")
    assert len(seen) == 7
    plain = [call for call in seen if call.plain]
    alone, gets_a_result = plain
    assert (alone.image.name, alone.shown, gets_a_result.image.name) == ("adds", "x=1, y=1", "adds")
    assert not alone.keys
    assert alone.checkpoints is None
    assert gets_a_result.keys, "its worker finds out whether the result is a number"
    assert gets_a_result.checkpoints is not None
    assert all(call.keys for call in seen if not call.plain)


# --- How much memory a short attempt took.


def test_the_peak_of_an_attempt_that_waited_for_a_core_is_not_read():
    usage = TaskUsage()
    usage.reset()
    assert usage.measure(0.02)[1] is None, "it used no CPU"
    long = usage.measure(1.0)[1]
    while usage.measure(0.02)[0] < 0.002:
        pass
    assert (usage.measure(0.02)[1] is None) == (long is None), "it used enough to fill megabytes"
