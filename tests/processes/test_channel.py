"""A channel whose system lacks memory for a moment, or fails for good: nothing that was sent is lost without a word."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from hooke.processes import channel as channels
from hooke.processes.channel import Channel


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
