"""Attempts on their way to hosts and back, without any host."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.remote.test_placement import call, peer

from hooke.base.errors import NotPicklable
from hooke.base.ref import Ref
from hooke.engines.remote.remote_queue import RemoteQueue
from hooke.engines.worker.worker_process import Begun
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, Failure
from hooke.pipeline.engine import FunctionImage


class RecordingTransport:
    """Records what it is asked to carry."""

    def __init__(self) -> None:
        self.went: list[tuple[str, int]] = []
        self.functions: list[bool] = []
        self.connected: list[bool] = []
        self.cancelled: list[tuple[str, int]] = []
        self.asked_back: list[tuple[str, int]] = []

    def ship(self, address, orders):
        self.went += [(address, order.task.attempt) for order in orders]
        self.functions += [order.task.pickle is not None for order in orders]
        self.connected += [order.task.uses_library for order in orders]

    def cancel(self, address, attempt):
        self.cancelled.append((address, attempt))

    def withdraw(self, address, attempts):
        self.asked_back += [(address, attempt) for attempt in attempts]


def dispatch(*peers):
    transport = RecordingTransport()
    made = RemoteQueue(transport, session="s", sys_path=list)
    made.placement.peers = {each.address: each for each in peers}
    return made, transport


def gone(made, address):
    made.left(
        address, 1.0, cause="gone", failure=lambda call: Failure(kind="WorkerDied", message=str(call.attempt))
    )


def finished(attempt):
    ref = Ref(digest="", size=0, inline=b"")
    return msgspec.msgpack.encode(
        AttemptFinished(at=2.0, attempt=attempt, node=0, lo=0, hi=1, worker="w", seconds=0.5, ref=ref)
    )


def of(made, kind):
    return [event.attempt for event in made.events if isinstance(event, kind)]


def test_a_host_that_is_drained_ends_what_it_runs_and_what_waits_there_goes_elsewhere():
    made, transport = dispatch(peer("a"), peer("b"))
    made.submit([call(n, short=True) for n in range(6)], 0.0)
    there = [attempt for address, attempt in transport.went if address == "a"]
    made.told("a", [Begun(at=0.5, attempt=there[0], worker="w")], 0.5, 0.5)
    made.drain("a")
    assert transport.asked_back == [("a", attempt) for attempt in there[1:]]
    del transport.went[:]
    made.returned("a", there[1:], 0.6)
    made.submit([call(n) for n in range(6, 12)], 0.6)
    made.answered("a", finished(there[0]), 0.7)
    made.send(0.8)
    assert {address for address, _ in transport.went} == {"b"}
    assert of(made, AttemptFinished) == [there[0]]
    assert of(made, AttemptFailed) == []


def test_the_function_goes_once_to_each_host_and_again_where_it_did_not_come():
    made, transport = dispatch(peer("a", threads=2), peer("b"))
    made.submit([call(n) for n in range(3)], 0.0)
    assert transport.went == [("a", 0), ("a", 2), ("b", 1)]
    assert transport.functions == [True, False, True]
    made.returned("a", [2], 0.0, lacks=True)
    made.send(0.0)
    assert transport.went[-1] == ("a", 2)
    assert transport.functions[-1]


def test_what_ran_on_a_lost_host_fails_and_what_waited_there_goes_elsewhere():
    made, transport = dispatch(peer("a"))
    made.submit([call(n, short=True) for n in range(4)], 0.0)
    made.told("a", [Begun(0.5, 0, "w")], 0.5, 0.5)
    made.placement.peers["b"] = peer("b")
    gone(made, "a")
    # 1 was next in line: it may have begun a moment before the host was lost.
    assert of(made, AttemptFailed) == [0, 1]
    assert transport.went[-2:] == [("b", 2), ("b", 3)]


def test_a_lost_host_is_not_heard_any_more():
    made, _ = dispatch(peer("a"), peer("b"))
    made.submit([call(0)], 0.0)
    gone(made, "a")
    gone(made, "a")
    made.told("a", [Begun(1.0, 0, "w")], 1.0, 1.0)
    made.answered("a", finished(0), 1.0)
    made.returned("a", [0], 0.0)
    assert (of(made, AttemptFailed), of(made, AttemptStarted), of(made, AttemptFinished)) == ([0], [], [])


def test_a_late_word_of_the_host_where_it_was_before_changes_nothing():
    made, transport = dispatch(peer("a"))
    made.submit([call(0)], 0.0)
    made.returned("a", [0], 0.0)
    made.placement.peers["a"].retiring = True
    made.placement.peers["b"] = peer("b")
    made.send(0.0)
    made.returned("a", [0], 0.0, lacks=True)
    assert made.placement.where(0) is made.placement.peers["b"]
    assert transport.went == [("a", 0), ("b", 0)]
    made.answered("b", finished(0), 2.0)
    assert (of(made, AttemptStarted), of(made, AttemptFinished)) == ([0], [0])


def test_what_is_given_up_is_ended_where_it_is_and_room_is_used():
    made, transport = dispatch(peer("a"))
    made.submit([call(0), call(1), call(2)], 0.0)
    made.cancel(1, 0.0)
    made.cancel(0, 0.0)
    made.cancel(0, 0.0)
    assert transport.cancelled == [("a", 0)]
    assert transport.went == [("a", 0), ("a", 2)]
    assert made.events == []


def test_what_cannot_travel_fails_and_holds_no_room():
    def refuse():
        raise NotPicklable("a lock", fix="leave it")

    image = FunctionImage(digest="x", name="f", code_key="k", parts={}, function=len, pickle=refuse)
    made, transport = dispatch(peer("a"))
    made.submit([msgspec.structs.replace(call(0), image=image), call(1)], 0.0)
    assert of(made, AttemptFailed) == [0]
    assert transport.went == [("a", 1)]


def test_a_host_without_an_answer_ends_what_ran_and_gives_back_what_did_not():
    made, transport = dispatch(peer("a", threads=2))
    made.submit([call(0), call(1), call(2)], 0.0)
    made.told("a", [Begun(0.5, 0, "w")], 0.5, 0.5)

    def failure(call):
        return Failure(kind="WorkerDied", message=str(call.attempt))

    for attempt in (0, 1, 2):
        made.lost("a", attempt, 1.0, failure)
        made.lost("b", attempt, 1.0, failure, surely=True)
    made.send(1.0)
    assert of(made, AttemptFailed) == [0]
    assert transport.went == [("a", 0), ("a", 1), ("a", 1), ("a", 2)]
    made.lost("a", 2, 1.0, failure, surely=True)
    assert of(made, AttemptFailed) == [0, 2]


def test_only_what_uses_the_engine_s_library_is_given_it():
    transport = RecordingTransport()
    made = RemoteQueue(transport, session="s", sys_path=list, library=frozenset({"dask"}))
    made.placement.peers = {"a": peer("a", threads=2)}
    image = replace(call(0).image, digest="e", parts={"dask": "1"})
    made.submit([call(0), msgspec.structs.replace(call(1), image=image)], 0.0)
    assert transport.connected == [False, True]


@pytest.mark.needs("cpu")
@given(st.lists(st.sampled_from(["come", "go", "finish", "begin", "cancel", "late"]), max_size=40), st.data())
def test_each_attempt_is_answered_once_whatever_happens(steps, data):
    made, transport = dispatch()
    made.submit([call(n) for n in range(12)], 0.0)
    given_up = set()
    for number, step in enumerate(steps):
        there = [*made.placement.peers]
        where = {each: made.placement.where(each) for each in range(12)}
        running = [each for each, at in where.items() if at is not None]
        if step == "come":
            made.placement.peers[f"p{number}"] = peer(f"p{number}", threads=2)
            made.send(0.0)
        elif step == "go" and there:
            gone(made, data.draw(st.sampled_from(there)))
        elif step == "cancel":
            given_up.add(attempt := data.draw(st.integers(0, 11)))
            made.cancel(attempt, 0.0)
        elif step == "late":
            made.answered("nobody", finished(data.draw(st.integers(0, 11))), 0.0)
        elif running:
            attempt = data.draw(st.sampled_from(running))
            if step == "begin":
                made.told(where[attempt].address, [Begun(0.0, attempt, "w")], 0.0, 0.0)
            else:
                made.answered(where[attempt].address, finished(attempt), 0.0)
                made.send(0.0)
    answers = of(made, AttemptFailed) + of(made, AttemptFinished)
    assert len(answers) == len(set(answers))
    starts = of(made, AttemptStarted)
    assert len(starts) == len(set(starts))
    went = [attempt for _, attempt in transport.went]
    for attempt in set(went):
        assert attempt in answers or attempt in given_up or made.placement.where(attempt) is not None


def test_what_asks_for_more_gpus_than_any_host_has_is_not_waited_for_for_ever():
    """Two hosts with one each have two for the scheduler, and for one call they have not."""
    made, transport = dispatch(*(peer(name, gpus=1) for name in "ab"))
    made.submit([msgspec.structs.replace(call(1), gpus=2.0), msgspec.structs.replace(call(2), gpus=1.0)], 0.0)
    assert [attempt for _, attempt in transport.went] == [2]
    made.give_up(0.0, 100.0)
    made.give_up(9.0, 109.0)
    assert of(made, AttemptFailed) == []
    made.placement.peers["c"] = peer("c", gpus=2)
    made.give_up(11.0, 111.0)
    assert of(made, AttemptFailed) == []
    del made.placement.peers["c"]
    made.give_up(12.0, 112.0)
    made.give_up(22.0, 122.0)
    assert of(made, AttemptFailed) == [1]
    assert "needs 2 gpus, and no worker of this backend has more than 1" in made.events[-1].failure.message
    made.send(23.0)
    assert len(transport.went) == 1


def test_what_a_lost_host_has_is_ended_there_since_it_may_only_be_silent():
    made, transport = dispatch(peer("a"))
    made.submit([call(n, short=True) for n in range(4)], 0.0)
    made.told("a", [Begun(0.5, 0, "w")], 0.5, 0.5)
    gone(made, "a")
    assert sorted(transport.cancelled) == [("a", n) for n in range(4)]
