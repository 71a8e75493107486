"""Work that begins later: on time, not at all once cancelled, and in a child only what the child asked for."""

import os
import threading
import time

import pytest

from hooke.base import later
from hooke.base.later import Later


def wait_until(is_so):
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_each_begins_when_it_is_due_and_not_before():
    started, begun, waiting = time.monotonic(), {}, Later()
    for name, seconds in [("late", 0.2), ("soon", 0.05), ("middle", 0.1)]:
        waiting.after(seconds, lambda name=name: begun.update({name: time.monotonic()}), name=name)
    wait_until(lambda: len(begun) == 3)
    for name, seconds in [("soon", 0.05), ("middle", 0.1), ("late", 0.2)]:
        assert begun[name] - started >= seconds


def test_what_is_cancelled_before_starts_no_thread():
    names, waiting = [], Later()
    work = waiting.after(0.02, lambda: names.append("cancelled"), name="t")
    work.cancel()
    waiting.after(0.1, lambda: names.append(threading.current_thread().name), name="other")
    wait_until(lambda: names)
    assert names == ["other"]


def test_cancelling_waits_for_what_has_begun():
    begun, may_end, ended = threading.Event(), threading.Event(), []
    work = Later().after(0.0, lambda: (begun.set(), may_end.wait(30), ended.append(1)), name="t")
    assert begun.wait(30)
    threading.Timer(0.05, may_end.set).start()
    work.cancel()
    assert ended == [1]


def test_work_that_takes_long_keeps_no_other_from_beginning():
    may_end, begun, waiting = threading.Event(), threading.Event(), Later()
    first = waiting.after(0.0, lambda: may_end.wait(30), name="long")
    waiting.after(0.01, begun.set, name="short")
    assert begun.wait(30)
    may_end.set()
    first.cancel()


def test_the_thread_that_waits_ends_and_another_one_starts(monkeypatch):
    monkeypatch.setattr(later, "IDLE_S", 0.02)
    waiting, begun = Later(), []
    for count in range(3):
        waiting.after(0.0, lambda: begun.append(1), name="t")
        wait_until(lambda count=count: len(begun) == count + 1 and waiting._thread is None)


@pytest.mark.needs("cpu")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_begins_what_it_asked_for_itself(tmp_path):
    waiting = Later()
    waiting.after(60.0, lambda: None, name="parent")
    child = os.fork()
    if not child:
        begun = threading.Event()
        waiting.after(0.01, begun.set, name="child")
        os._exit(0 if begun.wait(30) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_where_no_thread_can_start_it_is_tried_again(monkeypatch, error):
    monkeypatch.setattr(later, "AGAIN_S", 0.01)
    refusals, begun, start = [], [], threading.Thread.start

    def refused_twice(self):
        if self.name == "refused" and len(refusals) < 2:
            refusals.append(1)
            raise error("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refused_twice)
    Later().after(0.0, lambda: begun.append(1), name="refused")
    wait_until(lambda: begun)
    assert len(refusals) == 2


def test_what_could_not_start_can_be_cancelled(monkeypatch):
    monkeypatch.setattr(later, "AGAIN_S", 60.0)
    refused, begun, start = threading.Event(), [], threading.Thread.start

    def refuse(self):
        if self.name == "refused":
            refused.set()
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    work = Later().after(0.0, lambda: begun.append(1), name="refused")
    assert refused.wait(30)
    work.cancel()
    assert begun == []


def test_work_for_which_no_thread_could_wait_never_begins(monkeypatch):
    waiting, begun, start = Later(), [], threading.Thread.start

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        waiting.after(0.0, lambda: begun.append("refused"), name="refused")
    monkeypatch.setattr(threading.Thread, "start", start)
    waiting.after(0.01, lambda: begun.append("other"), name="other")
    wait_until(lambda: "other" in begun)
    assert begun == ["other"]
