from __future__ import annotations

import inspect
import pickle
import signal
import traceback

import pytest

from hooke.base import errors
from hooke.base.errors import HookeError, OutOfMemory, Permanent, TaskError, TaskFailed, Temporary, WorkerDied

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HookeError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_pickling(kind):
    error = kind("it failed", where="here", why="because", fix="do this", next="hooke show")
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
    assert again.args == error.args


def test_every_public_error_is_documented_and_in_the_tree():
    for name in errors.__all__:
        assert getattr(errors, name).__doc__
        assert name in errors.__doc__, name


def test_text_is_what_then_the_lines_that_are_set():
    error = HookeError("it failed", why="first\nsecond", next="hooke show")
    assert str(error) == "it failed\n  why: first\n      second\n  next: hooke show"
    assert str(HookeError("alone")) == "alone"


def test_temporary_keeps_its_delay():
    again = pickle.loads(pickle.dumps(Temporary("rate limit", delay_s=30.0, why="429")))
    assert again.delay_s == 30.0
    assert again.why == "429"
    assert Temporary("later").delay_s is None
    assert str(Permanent("bad row")) == "bad row"


def test_a_failed_task_carries_its_facts_through_pickling():
    error = TaskFailed(
        "x", task="t", arguments="a=1", attempt=3, worker="w", log_tail=["l"], details={"signal": 9}
    )
    again = pickle.loads(pickle.dumps(error))
    assert (again.task, again.arguments, again.attempt, again.worker) == ("t", "a=1", 3, "w")
    assert again.log_tail == ("l",)
    assert again.details == {"signal": 9}


def test_a_user_error_shows_the_users_frames_and_the_next_command():
    try:
        parse("{")
    except ValueError:
        text = traceback.format_exc()
    facts = {
        "kind": "TaskError",
        "message": "Expecting property name",
        "error_type": "JSONDecodeError",
        "traceback": text,
        "arguments": "month=3",
        "log_tail": tuple(f"line {i}" for i in range(50)),
        "fix": "look at the file",
        "pickled": b"never shown",
    }
    error = TaskFailed.from_facts(
        facts, task="features", attempt=7, worker="local-2", next="hooke logs r features"
    )
    assert type(error) is TaskError
    shown = str(error)
    assert shown.startswith("features(month=3) failed: JSONDecodeError: Expecting property name\n")
    assert "attempt 7 on worker local-2" in shown
    assert "in parse" in shown
    assert "raised in raw_decode" in shown
    assert "in loads" not in shown
    assert "line 49" in shown
    assert "line 29" not in shown
    assert shown.endswith("  fix: look at the file\n  next: hooke logs r features")
    assert len(shown.splitlines()) < 45
    assert "pickled" not in error.details
    assert error.details["traceback"] == text


def parse(text):
    import json

    return json.loads(text)


def test_a_death_says_signal_and_memory():
    facts = {
        "kind": "OutOfMemory",
        "message": "over its memory limit",
        "signal": int(signal.SIGKILL),
        "peak_bytes": 3 * 2**30,
        "limit_bytes": 2 * 2**30,
    }
    error = TaskFailed.from_facts(facts, task="train", attempt=1, worker="w1")
    assert type(error) is OutOfMemory
    assert str(error).splitlines() == [
        "train() failed: over its memory limit",
        "  where: attempt 1 on worker w1",
        "  why: killed by SIGKILL (9); peak memory 3.00 GiB of 2.00 GiB allowed",
    ]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"exit_code": 3}, "exit code 3"),
        ({"signal": 64}, "SIGRTMAX (64)"),
        ({"signal": 99}, "signal 99"),
        ({"signal": 11, "exit_code": -11}, "killed by SIGSEGV (11)"),
        ({"peak_bytes": 1024}, "peak memory 1.00 KiB"),
        ({"limit_bytes": 1024}, "memory limit 1.00 KiB"),
        ({}, "WorkerDied"),
    ],
)
def test_what_is_known_of_a_death_is_said_and_no_more(facts, words):
    error = TaskFailed.from_facts({"kind": "WorkerDied", "message": "", **facts}, task="t")
    assert type(error) is WorkerDied
    assert words in error.what
    assert "None" not in str(error)


def test_an_unknown_kind_is_a_plain_failure():
    assert type(TaskFailed.from_facts({"kind": "Novel", "message": "m"}, task="t")) is TaskFailed


def test_a_long_failure_stays_on_one_screen():
    frames = "".join(f'  File "/project/f.py", line {i}, in f\n    f()\n' for i in range(500))
    facts = {
        "kind": "TaskError",
        "message": "deep " * 500 + "\nmore",
        "error_type": "RecursionError",
        "traceback": f"Traceback (most recent call last):\n{frames}RecursionError: deep",
        "log_tail": ["x"] * 1000,
    }
    assert len(str(TaskFailed.from_facts(facts, task="t", attempt=1)).splitlines()) < 60


def test_arguments_that_are_a_whole_call_are_not_wrapped_again():
    error = TaskFailed.from_facts({"kind": "TaskError", "message": "m", "arguments": "t(x=1)"}, task="t")
    assert error.what == "t(x=1) failed: m"
