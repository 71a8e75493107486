"""Calls that certainly change nothing in their process: a worker prepares and sets back nothing for them."""

import importlib
import json
import os
import threading

import pytest

import hooke
from hooke.base.clock import SystemClock
from hooke.engines.serial import SerialEngine
from hooke.journal.events import AttemptFinished
from hooke.pipeline import execute
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


@pytest.mark.heavy  # one evaluates code, so all modules of this process are compiled
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
