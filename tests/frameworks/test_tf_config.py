"""TF_CONFIG for the ranks of a gang: how they meet, without TensorFlow, and what happens where one does not come."""

import json
import multiprocessing
import os
import random
import socket
import threading
import time
from contextlib import closing, suppress

import pytest

from hooke import HookeError, UsageError
from hooke.engines.gang import RankRange, Rendezvous, StartRanks, environment_of
from hooke.frameworks.tensorflow import set_tf_config

LOOPBACKS = ["127.0.0.1"]
if socket.has_ipv6:
    with suppress(OSError), closing(socket.socket(socket.AF_INET6)) as probe:
        probe.bind(("::1", 0))
        LOOPBACKS.append("::1")


def as_rank(environment, pipe, timeout_s):
    """In a process: what a rank ends with."""
    os.environ.update(environment)
    try:
        set_tf_config(timeout_s=timeout_s)
    except HookeError as error:
        pipe.send((type(error).__name__, str(error)))
    else:
        pipe.send(json.loads(os.environ["TF_CONFIG"]))
        pipe.recv()  # so that its port is kept until the test has looked


class Gang:
    """Ranks as processes, which meet at a port that is kept for them."""

    def __init__(self, ranks, address="127.0.0.1"):
        self.ranks = ranks
        self.meeting = Rendezvous(address)
        self._started = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, _ in self._started.values():
            process.kill()
            process.join()
        self.meeting.close()

    def environment(self, rank):
        meet = StartRanks(try_id=0, address=self.meeting.address, port=self.meeting.port)
        return environment_of(rank, RankRange(try_id=0, lo=0, hi=self.ranks, ranks=self.ranks), meet)

    def start(self, rank, timeout_s=60.0, **changed):
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=as_rank, args=(self.environment(rank) | changed, there, timeout_s)
        )
        process.start()
        key = rank if rank not in self._started else (rank, len(self._started))
        self._started[key] = process, here
        return key

    def end(self, rank):
        """What the rank has said."""
        assert self._started[rank][1].poll(60)
        return self._started[rank][1].recv()

    def kill(self, rank):
        process, _ = self._started.pop(rank)
        process.kill()
        process.join()

    def connect(self, deadline_s=30.0):
        """A connection to rank 0, once it listens."""
        until = time.monotonic() + deadline_s
        while True:
            try:
                return socket.create_connection((self.meeting.address, self.meeting.port))
            except ConnectionRefusedError:
                assert time.monotonic() < until
                time.sleep(0.01)


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")


def check(gang):
    """All ranks have the same list, each its own number, and each port is free for a server alone that reuses it."""
    told = [gang.end(rank) for rank in range(gang.ranks)]
    workers = told[0]["cluster"]["worker"]
    assert [each["cluster"] for each in told] == [{"worker": workers}] * gang.ranks
    assert [each["task"] for each in told] == [
        {"type": "worker", "index": rank} for rank in range(gang.ranks)
    ]
    assert len(set(workers)) == gang.ranks
    address = gang.meeting.address
    joined = f"[{address}]" if ":" in address else address
    assert workers[0] == f"{joined}:{gang.meeting.port}"
    for worker in workers:
        host, _, port = worker.rpartition(":")
        assert host == joined
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with closing(socket.socket(family)) as plain, pytest.raises(OSError, match="in use"):
            plain.bind((address, int(port)))
        with closing(socket.create_server((address, int(port)), family=family)):
            pass


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("address", LOOPBACKS)
@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_tell_one_another_where_they_listen(ranks, address):
    """They start in any order."""
    with Gang(ranks, address) as gang:
        for rank in random.Random(ranks).sample(range(ranks), ranks):
            gang.start(rank)
        check(gang)


def test_where_there_is_one_rank_nothing_is_set(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    set_tf_config()
    set_tf_config()
    with Gang(1) as gang:
        for name, value in gang.environment(0).items():
            monkeypatch.setenv(name, value)
    set_tf_config()
    assert "TF_CONFIG" not in os.environ


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_a_rank_that_never_comes_is_named():
    with Gang(4) as gang:
        gang.start(0, timeout_s=10)
        for rank in (1, 3):
            gang.start(rank)
        kind, text = gang.end(0)
        assert kind == "HookeError"
        assert "rank 2 of 4 did not come to rank 0" in text
        for rank in (1, 3):
            assert "rank 0 says: rank 2 of 4 did not come" in gang.end(rank)[1]


@pytest.mark.needs("cpu")
def test_a_rank_0_that_never_comes_is_named():
    with Gang(3) as gang:
        gang.start(1, timeout_s=0.3)
        assert "rank 1 of 3 got no list of all ranks from rank 0 at 127.0.0.1:" in gang.end(1)[1]


@pytest.mark.needs("cpu")
def test_a_rank_that_dies_may_come_again():
    with Gang(3) as gang:
        gang.start(0)
        gang.start(1)
        with gang.connect() as one_more:
            one_more.sendall(b"{}\n")
            assert one_more.recv(10) == b"", "rank 1 was surely before this connection, or comes after it"
        gang.kill(1)
        gang.start(1)
        gang.start(2)
        check(gang)


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\n",
    b"\xff\xfe\x00\n",
    b"x" * (1 << 17),
    b"[" * 5000 + b"\n",
    b'{"message": "hooke_rank", "x": ' + b"[" * 60_000 + b"\n",
    b'{"message": "hooke_rank", "rank": "1", "ranks": 3, "worker": "a:1"}\n',
    b'{"message": "hooke_rank", "rank": 1, "ranks": 3}\n',
    b'{"message": "hooke_ranks", "workers": []}\n',
]


@pytest.mark.needs("cpu")
def test_strangers_on_the_port_are_ignored():
    with Gang(3) as gang:
        gang.start(0)
        strangers = []
        for garbage in GARBAGE:
            stranger = gang.connect()
            with suppress(OSError):  # it may be cut off before all was sent
                stranger.sendall(garbage)
            strangers.append(stranger)
        strangers += [gang.connect(), gang.connect()]  # that say nothing
        strangers[-2].close()
        for rank in (1, 2):
            gang.start(rank)
        check(gang)
        for stranger in strangers:
            stranger.close()


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("seed", range(3))
def test_random_garbage_in_random_pieces(seed):
    chance = random.Random(seed)
    with Gang(2) as gang:
        gang.start(0)
        for _ in range(20):
            with gang.connect() as stranger:
                for _ in range(chance.randrange(4)):
                    try:
                        stranger.sendall(chance.randbytes(chance.randrange(1, 300)))
                    except OSError:
                        break
        gang.start(1)
        check(gang)


def test_a_message_may_come_in_pieces():
    with Gang(2) as gang:
        gang.start(0)
        with gang.connect() as rank:
            for byte in b'{"message":"hooke_rank","rank":1,"ranks":2,"worker":"127.0.0.1:9"}\n':
                rank.sendall(bytes([byte]))
            assert json.loads(rank.makefile("rb").readline())["workers"][1] == "127.0.0.1:9"
        assert gang.end(0)["cluster"]["worker"][1] == "127.0.0.1:9"


@pytest.mark.needs("cpu")
def test_ranks_that_count_other_numbers_are_told():
    with Gang(3) as gang:
        gang.start(0)
        gang.start(1, WORLD_SIZE="4")
        for rank in (0, 1):
            assert "counts 4 ranks, and rank 0 counts 3" in gang.end(rank)[1]


@pytest.mark.needs("cpu")
def test_two_processes_of_one_rank_are_told():
    with Gang(3) as gang:
        gang.start(0)
        one, other = gang.start(1), gang.start(1)
        for rank in (0, one, other):
            assert "two processes are rank 1" in gang.end(rank)[1]


def test_what_is_not_rank_0_is_told():
    with Gang(2) as gang, closing(socket.create_server((gang.meeting.address, gang.meeting.port))) as server:

        def answer():
            with server.accept()[0] as rank:
                rank.sendall(b"\x00\x00\x12\x04 settings of HTTP/2\n")
                rank.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        gang.start(1)
        assert "is not rank 0" in gang.end(1)[1]
        thread.join()


def test_a_port_that_is_taken_is_told():
    with Gang(2) as gang, closing(socket.create_server((gang.meeting.address, gang.meeting.port))):
        gang.start(0)
        assert "rank 0 cannot listen at 127.0.0.1:" in gang.end(0)[1]


def test_it_is_called_once(monkeypatch):
    with Gang(2) as gang:
        for name, value in gang.environment(0).items():
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(UsageError, match="TF_CONFIG is set already"):
        set_tf_config()
    monkeypatch.delenv("TF_CONFIG")
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(UsageError, match="WORLD_SIZE is 2, and MASTER_PORT is not set"):
        set_tf_config()
