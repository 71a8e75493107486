"""Gangs over several hosts, without any host: all or nothing, one answer, and whose death it was."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.remote.test_placement import call, peer
from tests.engines.remote.test_remote_queue import RecordingTransport, gone

from hooke.base.ref import Ref
from hooke.engines.gang import (
    BeginRanks,
    EndRanks,
    GatherResults,
    PortKept,
    RankAnswered,
    RankLeaves,
    RanksEnded,
    RanksReady,
    ResizeRanks,
    StartRanks,
)
from hooke.engines.gang_coordinator import BEGIN_WITHIN_S, MOST_UNBORN
from hooke.engines.remote.remote_queue import HOMELESS_S, RemoteQueue
from hooke.journal.events import GANG_RESIZED, AttemptFailed, AttemptFinished, AttemptStarted, Failure


class Hosts(RecordingTransport):
    """Hosts that do as they are told, at once or when they are asked to."""

    def __init__(self, *peers, slow: bool = False) -> None:
        super().__init__()
        self.made = RemoteQueue(self, session="s", sys_path=list)
        self.made.placement.peers = {each.address: each for each in peers}
        self.parts: dict[tuple[str, int], range] = {}
        """What runs: host and try_id -> ranks."""
        self.attempts: dict[int, int] = {}
        """try_id -> attempt."""
        self.inbox: list[tuple[str, object]] = []
        self.said: list[tuple[str, object]] = []
        self.slow = slow

    def ship(self, address, orders):
        super().ship(address, orders)
        for order in orders:
            if order.part is not None:
                self.parts[address, order.part.try_id] = range(order.part.lo, order.part.hi)
                self.attempts[order.part.try_id] = order.task.attempt
                if order.part.lo == 0:
                    self.note(address, PortKept(try_id=order.part.try_id, address=f"of {address}", port=1))

    def speak(self, address, attempt, word):
        self.said.append((address, word))
        ranks = self.parts.get((address, word.try_id), range(0))
        match word:
            case StartRanks():
                self.note(address, RanksReady(try_id=word.try_id, workers=[f"w{rank}" for rank in ranks]))
            case EndRanks():
                self.parts.pop((address, word.try_id), None)
                self.note(address, RanksEnded(try_id=word.try_id))

    def note(self, address, note):
        self.inbox.append((address, note))

    def step(self, number=0):
        first = next(at for at, each in enumerate(self.inbox) if each[0] == self.inbox[number][0])
        address, note = self.inbox.pop(first)  # what one host says comes in order
        if address in self.made.placement.peers:
            self.made.told(address, [note], 0.0, 0.0)
            self.made.send(0.0)

    def forget(self, address):
        self.parts = {key: ranks for key, ranks in self.parts.items() if key[0] != address}

    def lose(self, address):
        self.forget(address)
        gone(self.made, address)

    def go(self):
        while self.inbox:
            self.step()

    def answer(self, try_id, rank, failure=None):
        """A rank says what came of it."""
        (address,) = [at for (at, number), ranks in self.parts.items() if number == try_id and rank in ranks]
        ref = Ref(digest=f"r{rank}", size=9, inline=None)
        common = {"at": 2.0, "node": 0, "lo": 0, "hi": 1, "worker": f"w{rank}"}
        common["attempt"] = self.attempts[try_id]
        event = (
            AttemptFinished(**common, seconds=0.5, ref=ref)
            if failure is None
            else AttemptFailed(**common, failure=failure)
        )
        self.note(address, RankAnswered(try_id=try_id, rank=rank, answer=msgspec.msgpack.encode(event)))

    def of(self, kind):
        return [event for event in self.made.events if isinstance(event, kind)]

    def words(self, kind):
        return [address for address, word in self.said if isinstance(word, kind)]


def gang(attempt, ranks=3, **more):
    return msgspec.structs.replace(call(attempt, **more), gang=ranks)


def test_ranks_are_on_few_machines_and_begin_when_all_are_ready():
    hosts = Hosts(peer("a", machine="m"), peer("b", threads=2, machine="n"), peer("c", machine="n"))
    hosts.made.submit([gang(0)], 0.0)
    assert {at: list(ranks) for (at, _), ranks in hosts.parts.items()} == {"b": [0, 1], "c": [2]}
    hosts.step()
    assert {word.address for _, word in hosts.said} == {"of b"}
    hosts.step()
    assert hosts.of(AttemptStarted) == []
    hosts.step()
    assert hosts.words(BeginRanks) == ["b", "c"]
    (started,) = hosts.of(AttemptStarted)
    assert (started.worker, started.workers) == ("w0", ("w0", "w1", "w2"))


def test_its_answer_comes_when_no_rank_is_left_and_its_slots_are_free_then():
    hosts = Hosts(peer("a", threads=2), peer("b"))
    hosts.made.submit([gang(0), call(1)], 0.0)
    hosts.go()
    for rank in range(3):
        hosts.answer(1, rank)
        hosts.step()
    assert hosts.words(EndRanks) == ["a", "b"]
    assert ("a", 1) not in hosts.went
    assert hosts.of(AttemptFinished) == []
    hosts.go()
    assert [event.ref.digest for event in hosts.of(AttemptFinished)] == ["r0"]
    assert hosts.went[-1][1] == 1


def test_results_of_all_are_gathered_where_rank_0_is():
    hosts = Hosts(peer("a", threads=2), peer("b"))
    hosts.made.submit([msgspec.structs.replace(gang(0), results="all")], 0.0)
    hosts.go()
    for rank in range(3):
        hosts.answer(1, rank)
    hosts.go()
    assert hosts.words(GatherResults) == ["a"]
    assert hosts.of(AttemptFinished) == []
    hosts.answer(1, 0)
    hosts.go()
    assert len(hosts.of(AttemptFinished)) == 1


def test_two_gangs_of_three_on_four_slots_run_one_after_the_other_and_nothing_passes_for_ever():
    hosts = Hosts(peer("a", threads=2), peer("b"), peer("c"))
    hosts.made.submit([gang(0), gang(1), call(2), call(3)], 0.0)
    assert {attempt for _, attempt in hosts.went} == {0}, "room is kept for the second"
    hosts.go()
    for rank in range(3):
        hosts.answer(1, rank)
    hosts.go()
    assert {attempt for _, attempt in hosts.went} == {0, 1, 2}


def test_a_gang_that_no_place_is_large_enough_for_keeps_room_from_nobody():
    hosts = Hosts(peer("a", threads=2))
    hosts.made.submit([gang(0), call(1)], 0.0)
    assert hosts.went == [("a", 1)]
    hosts.made.placement.peers["b"] = peer("b", threads=2)
    hosts.made.send(0.0)
    assert {attempt for _, attempt in hosts.went} == {0, 1}


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ({"gpus": 1}, ["b", "b", "c"]),
        ({"cpus": 2}, ["a", "b", "c"]),
        ({"memory": 2 << 30}, ["a", "b", "c"]),
        ({"cpus": 4}, ["a", "b", "c"]),
        ({}, ["a", "a", "b"]),
    ],
)
def test_each_rank_has_what_is_asked_for_it(more, fits):
    peers = [
        peer("a", threads=2, machine="a"),
        peer("b", threads=2, gpus=2, machine="b"),
        peer("c", threads=2, gpus=1, machine="c"),
    ]
    for each in peers:
        each.report = msgspec.structs.replace(each.report, memory=3 << 30)
    hosts = Hosts(*peers)
    hosts.made.submit([gang(0, **more)], 0.0)
    assert [at for (at, _), ranks in sorted(hosts.parts.items()) for _ in ranks] == fits


def test_gpus_that_a_place_has_not_are_refused_once_it_has_the_slots():
    hosts = Hosts(peer("a", threads=2, gpus=1))
    hosts.made.submit([gang(0, gpus=1)], 0.0)
    for now_s in (0.0, 2 * HOMELESS_S):
        hosts.made.give_up(0.0, now_s)
    assert hosts.of(AttemptFailed) == [], "workers may be on their way"
    hosts.made.placement.peers["b"] = peer("b", threads=2, gpus=1)
    for now_s in (3 * HOMELESS_S, 4 * HOMELESS_S):
        hosts.made.give_up(0.0, now_s)
    (failed,) = hosts.of(AttemptFailed)
    assert "needs 3 times 1 gpus" in failed.failure.message


def test_a_host_that_forgot_the_run_ends_what_had_begun_and_gives_back_what_had_not():
    hosts = Hosts(peer("a", threads=2), peer("b"))
    hosts.made.submit([gang(0)], 0.0)
    hosts.forget("b")
    hosts.made.returned("b", [0], 0.0)
    hosts.go()
    assert [event.attempt for event in hosts.of(AttemptStarted)] == [0]
    hosts.forget("b")
    hosts.made.returned("b", [0], 0.0)
    hosts.go()
    assert [event.failure.rank for event in hosts.of(AttemptFailed)] == [2]


def test_what_asks_for_more_than_there_is_gets_all_of_it_alone():
    hosts = Hosts(peer("a", threads=4))
    hosts.made.submit([call(1), gang(0, cpus=3)], 0.0)
    assert hosts.went == [("a", 1)]
    hosts.made.returned("a", [1], 0.0)
    hosts.made.cancel(1, 0.0)
    hosts.made.send(0.0)
    assert hosts.went == [("a", 1), ("a", 0)]


def test_a_rank_that_dies_ends_all_and_is_named():
    hosts = Hosts(peer("a", threads=2), peer("b"))
    hosts.made.submit([gang(0)], 0.0)
    hosts.go()
    hosts.answer(1, 2, Failure(kind="WorkerDied", message="killed", signal=9))
    hosts.step()
    assert hosts.words(EndRanks) == ["a", "b"]
    assert hosts.of(AttemptFailed) == []
    hosts.go()
    (failed,) = hosts.of(AttemptFailed)
    assert (failed.failure.rank, failed.failure.ranks, failed.failure.signal) == (2, 3, 9)


def test_the_cause_is_waited_for():
    hosts = Hosts(peer("a", threads=2), peer("b"))
    hosts.made.submit([gang(0)], 0.0)
    hosts.go()
    hosts.answer(1, 0, Failure(kind="TaskError", message="Connection closed by peer"))
    hosts.go()
    assert hosts.words(EndRanks) == []
    hosts.made.check_deadlines(0.0, 5.0)
    hosts.go()
    assert [event.failure.rank for event in hosts.of(AttemptFailed)] == [0]


def test_a_lost_host_ends_its_gang_if_that_had_begun_else_it_is_tried_elsewhere():
    hosts = Hosts(peer("a", threads=2), peer("b"), peer("c"))
    hosts.made.submit([gang(0)], 0.0)
    hosts.lose("b")
    hosts.made.placement.peers["d"] = peer("d")
    hosts.go()
    assert hosts.of(AttemptFailed) == []
    assert len({number for _, number in hosts.parts}) == 1
    hosts.go()
    assert len(hosts.of(AttemptStarted)) == 1
    lost = next(at for (at, _), ranks in hosts.parts.items() if 2 in ranks)
    hosts.lose(lost)
    assert hosts.of(AttemptFailed) == [], "the others are told first"
    assert (lost, 0) in hosts.cancelled, "it may only be silent"
    hosts.go()
    (failed,) = hosts.of(AttemptFailed)
    assert (failed.failure.kind, failed.failure.rank) == ("WorkerDied", 2)


def test_a_gang_whose_workers_cannot_begin_is_not_tried_for_ever():
    hosts = Hosts(peer("a", threads=3))
    hosts.made.submit([gang(0)], 0.0)
    for number in range(1, MOST_UNBORN + 1):
        assert hosts.of(AttemptFailed) == []
        hosts.inbox.clear()  # they never get as far as to meet
        hosts.answer(number, 1, Failure(kind="WorkerDied", message="killed", signal=9))
        hosts.step()
        hosts.step()
    hosts.go()
    (failed,) = hosts.of(AttemptFailed)
    assert "could begin" in failed.failure.message
    assert hosts.parts == {}


def test_one_that_does_not_come_together_gives_its_slots_up_and_tries_again():
    hosts = Hosts(peer("a", threads=3))
    hosts.made.submit([gang(0)], 0.0)
    hosts.inbox.clear()  # it waits behind what others run there
    hosts.made.check_deadlines(0.0, 0.0)
    hosts.made.check_deadlines(0.0, BEGIN_WITHIN_S - 1)
    assert hosts.words(EndRanks) == []
    hosts.made.check_deadlines(0.0, BEGIN_WITHIN_S + 1)
    hosts.go()
    assert len(hosts.of(AttemptStarted)) == 1
    assert hosts.of(AttemptFailed) == []


def test_a_gang_that_is_given_up_says_nothing_and_frees_its_slots():
    hosts = Hosts(peer("a", threads=3))
    hosts.made.submit([gang(0), gang(1)], 0.0)
    hosts.go()
    hosts.made.cancel(0, 0.0)
    hosts.go()
    assert [event.attempt for event in hosts.of(AttemptStarted)] == [0, 1]
    assert hosts.of(AttemptFailed) == []


STEPS = ["come", "go", "next", "next", "next", "finish", "fail", "cancel", "late", "forget"]


@pytest.mark.needs("cpu")
@settings(max_examples=100)
@given(st.lists(st.sampled_from(STEPS), max_size=60), st.data())
def test_whatever_happens_each_gang_is_whole_and_answered_once(steps, data):
    hosts = Hosts(peer("p", threads=2))
    hosts.made.submit([gang(0), gang(1, 2), call(2), gang(3, 4)], 0.0)
    given_up = set()
    for number, step in enumerate(steps):
        there = hosts.made.placement.peers
        running = [(at, try_id, rank) for (at, try_id), ranks in hosts.parts.items() for rank in ranks]
        if step == "come":
            there[f"p{number}"] = peer(f"p{number}", threads=2)
            hosts.made.send(0.0)
        elif step == "go" and there:
            address = data.draw(st.sampled_from(sorted(there)))
            hosts.lose(address)
        elif step == "next" and hosts.inbox:
            hosts.step(data.draw(st.integers(0, len(hosts.inbox) - 1)))
        elif step == "cancel":
            given_up.add(attempt := data.draw(st.integers(0, 3)))
            hosts.made.cancel(attempt, 0.0)
        elif step == "late":
            hosts.made.check_deadlines(0.0, 1000.0 * number)
        elif step == "forget" and there:
            address = data.draw(st.sampled_from(sorted(there)))
            hosts.forget(address)
            hosts.made.returned(address, [0, 1, 3], 0.0)
        elif running:
            _, try_id, rank = data.draw(st.sampled_from(running))
            failure = Failure(kind="WorkerDied", message="x", signal=9) if step == "fail" else None
            begun = any(isinstance(word, BeginRanks) and word.try_id == try_id for _, word in hosts.said)
            if failure is not None or begun:
                hosts.answer(try_id, rank, failure)
        held = dict.fromkeys(there, 0)
        for (at, _), ranks in hosts.parts.items():
            held[at] = held.get(at, 0) + len(ranks)
        assert all(held[at] <= each.report.threads for at, each in there.items())
    answers = [
        event.attempt for event in hosts.made.events if isinstance(event, (AttemptFinished, AttemptFailed))
    ]
    assert len(answers) == len(set(answers))
    assert not given_up & set(answers[-1:]) or answers
    started = [event.attempt for event in hosts.of(AttemptStarted)]
    assert len(started) == len(set(started))


@pytest.mark.parametrize(("lost", "failed"), [("a", [0]), ("b", [])])
def test_a_host_that_is_lost_while_results_are_gathered(lost, failed):
    hosts = Hosts(peer("a", threads=2), peer("b"))
    hosts.made.submit([msgspec.structs.replace(gang(0), results="all")], 0.0)
    hosts.go()
    for rank in range(3):
        hosts.answer(1, rank)
    hosts.go()
    hosts.lose(lost)
    if not failed:
        hosts.answer(1, 0)
    hosts.go()
    assert [event.failure.rank for event in hosts.of(AttemptFailed)] == failed
    assert len(hosts.of(AttemptFinished)) == 1 - len(failed)


def test_rank_0_is_told_of_another_size_and_its_end_is_no_failure_of_others():
    hosts = Hosts(peer("a", threads=2), peer("b"))
    hosts.made.submit([gang(0)], 0.0)
    hosts.made.resize_gang(0, 2)  # it has not begun
    hosts.go()
    assert hosts.words(ResizeRanks) == []
    hosts.made.resize_gang(0, 2)
    assert [(at, word.ranks) for at, word in hosts.said if isinstance(word, ResizeRanks)] == [("a", 2)]
    hosts.note("a", RankLeaves(try_id=1))
    hosts.go()
    hosts.answer(1, 2, Failure(kind="TaskError", message="connection closed by peer"))
    hosts.go()
    hosts.made.check_deadlines(0.0, 100.0)
    assert hosts.of(AttemptFailed) == []
    hosts.answer(1, 0, Failure(kind=GANG_RESIZED, message="it ended"))
    hosts.go()
    (ended,) = hosts.of(AttemptFailed)
    assert ended.resized
    assert "to go on with 2 ranks: others wait for room" in ended.failure.message
    hosts.made.resize_gang(0, 3)  # it has ended
