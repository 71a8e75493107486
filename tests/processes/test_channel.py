"""A channel whose system lacks memory for a moment, or fails for good: nothing that was sent is lost without a word."""

from __future__ import annotations

import errno
import os
import queue
import random
import socket
import threading
import time

import pytest

from hooke.processes import channel as channels
from hooke.processes.channel import Channel, Tickets


class Refusing:
    """A socket whose first `times` sends fail with `number`; with `after`, so many bytes of the next one still go."""

    def __init__(self, channel: Channel, number: int, times: int) -> None:
        self.socket = channel._socket
        self.number, self.times = number, times
        channel._socket = self

    def send(self, data: bytes) -> int:
        if self.times:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))
        return self.socket.send(data[: max(1, len(data) // 2)])

    def __getattr__(self, name: str):
        return getattr(self.socket, name)


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.setattr(channels, "_AGAIN_S", 0.0)
    ours, theirs = (Channel(end.detach()) for end in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_what_the_system_had_no_memory_for_is_sent_again(pair, number):
    ours, theirs = pair
    Refusing(ours, number, times=3)
    ours.hold(b"first")
    ours.send(b"second" * 1000)
    assert theirs.receive() == b"first"
    assert theirs.receive() == b"second" * 1000
    assert not ours.holds
    assert ours.error is None


@pytest.mark.parametrize(("number", "times"), [(errno.ENOBUFS, 10**6), (errno.EIO, 1)])
def test_a_connection_that_cannot_send_ends_for_both(pair, number, times):
    ours, theirs = pair
    Refusing(ours, number, times)
    with pytest.raises(OSError, match=os.strerror(number)):
        ours.send(b"lost")
    assert ours.error is not None and ours.error.errno == number
    assert theirs.take() == ([], False)
    assert ours.take() == ([], False)


@pytest.fixture
def tickets():
    read, write = os.pipe()
    os.set_blocking(read, False)
    issuer = Tickets(os.dup(read), write)
    taker = Tickets(read)
    yield issuer, taker
    issuer.close()
    taker.close()


def test_what_has_a_ticket_begins_once_or_is_taken_back(tickets):
    issuer, taker = tickets
    assert [issuer.issue() for _ in range(5)] == [1, 2, 3, 4, 5]
    assert not taker.take(1)
    issuer.flush()
    assert taker.take(1)
    assert taker.take(2)
    assert issuer.take_back() == {3, 4, 5}
    assert issuer.take_back() == frozenset()
    assert issuer.issue() == 6
    issuer.flush()
    assert [taker.take(number) for number in (3, 4, 5, 6)] == [False, False, False, True]
    assert issuer.take_back() == frozenset(), "the last one was taken"


def test_a_ticket_in_hand_is_of_the_one_that_has_it(tickets):
    """The other process comes to one that was taken back when there is a later ticket: that is for the later one."""
    issuer, taker = tickets
    issuer.issue()
    issuer.take_back()
    issuer.issue()
    issuer.flush()
    assert not taker.take(1)
    assert issuer.take_back() == frozenset(), "2 is in hand"
    assert taker.take(2)
    assert not taker.take(3)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("seed", range(5))
def test_each_ticket_is_of_one_process_however_they_meet(tickets, seed):
    issuer, taker = tickets
    chance, inbox, begun, back = random.Random(seed), queue.SimpleQueue(), [], set()

    def work():
        while (number := inbox.get()) is not None:
            if taker.take(number):
                begun.append(number)

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(500):
        new = [issuer.issue() for _ in range(chance.randrange(20))]
        issuer.flush()
        for number in new:
            inbox.put(number)
        if chance.random() < 0.3:
            back |= issuer.take_back()
        time.sleep(chance.choice([0, 0, 0, 1e-4]))
    inbox.put(None)
    worker.join()
    last = issuer.issue()
    back |= issuer.take_back()
    assert begun == sorted(begun)
    assert sorted([*begun, *back]) == [*range(1, last + 1)], "none is lost, and none of both"
