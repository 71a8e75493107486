"""The activator over real sockets: what it holds, forwards, refuses and drops, byte by byte."""

import json
import socket
import threading
import time

import pytest

from hooke.base.errors import UsageError
from hooke.processes.channel import connect_to
from hooke.proxy.activator import ACTIVATOR_SOCKET, Activator
from hooke.proxy.held_requests import HoldLimits

LIMIT_S = 60.0
TOKEN = "x" * 20
HEAD = (
    b"POST /say HTTP/1.1\r\nhost: a\r\nauthorization: Bearer "
    + TOKEN.encode()
    + b"\r\nconnection: keep-alive\r\n"
)


class Replica:
    """Takes one request a connection, keeps what it read, and answers with `answer`; None: it ends without one."""

    def __init__(self, answer=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"):
        self.answer = answer
        self.got = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                self.got.append(self.whole(connection))
                if self.answer is not None:
                    connection.sendall(self.answer)

    def whole(self, connection):
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.startswith(b"content-length")
        )
        read = bytearray(body)
        while len(read) < length:
            read += connection.recv(65536)
        return head + b"\r\n\r\n" + bytes(read)

    def close(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join(LIMIT_S)


@pytest.fixture
def replica():
    made = Replica()
    yield made
    made.close()


@pytest.fixture
def activator(tmp_path):
    made = []

    def start(tokens=lambda: [TOKEN], **limits):
        given = {"timeout_s": LIMIT_S} | limits
        made.append(Activator(tmp_path, HoldLimits(**given), tokens=tokens, changed=lambda: None))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.close()
    assert not (tmp_path / ACTIVATOR_SOCKET).exists()


def send(folder, data):
    connection = connect_to(folder / ACTIVATOR_SOCKET)
    connection.settimeout(LIMIT_S)
    connection.sendall(data)
    return connection


def request(body=b"abc", head=HEAD):
    return head + b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body


def answer(connection):
    with connection:
        data = bytearray()
        while more := connection.recv(65536):
            data += more
    return bytes(data)


def until(holds):
    ends = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_request_waits_for_the_replica_and_has_its_connection_to_itself(activator, replica, tmp_path):
    found = activator()
    asked = send(tmp_path, request())
    until(lambda: found.facts().held == 1)
    assert not replica.got
    found.serve([replica.port], holding=True)
    assert answer(asked) == replica.answer
    (got,) = replica.got
    assert got.startswith(b"POST /say HTTP/1.1\r\nconnection: close\r\nhost: a\r\n")
    assert got.endswith(b"\r\n\r\nabc")
    assert b"keep-alive" not in got
    (cold,) = found.take_cold_starts()
    assert (cold.held, cold.refused, cold.gone) == (1, 0, 0)
    assert cold.seconds > 0
    assert found.take_cold_starts() == []


def test_bodies_and_answers_of_many_megabytes_stream_through_and_little_of_them_is_held(
    activator, replica, tmp_path
):
    body = bytes(range(256)) * (4 << 12)
    replica.answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body
    found = activator()
    connection = connect_to(tmp_path / ACTIVATOR_SOCKET)
    sending = threading.Thread(target=lambda: connection.sendall(request(body)), daemon=True)
    sending.start()
    until(lambda: found._core.bytes >= 64 << 10)
    time.sleep(0.1)
    assert found._core.bytes < 1 << 20, "the rest waits at its client"
    assert sending.is_alive()
    found.serve([replica.port], holding=True)
    assert answer(connection) == replica.answer
    sending.join(LIMIT_S)
    assert replica.got[0].endswith(body)
    assert len(replica.got[0]) > len(body) > 4_000_000


def test_a_client_that_leaves_is_forgotten(activator, replica, tmp_path):
    found = activator()
    gone, stays = send(tmp_path, request(b"gone")), send(tmp_path, request(b"stays"))
    until(lambda: found.facts().held == 2)
    gone.close()
    until(lambda: found.facts().held == 1)
    found.serve([replica.port], holding=True)
    assert answer(stays) == replica.answer
    assert [got[-5:] for got in replica.got] == [b"stays"]
    assert found.take_cold_starts()[0].gone == 1


def problem(data):
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), head.lower(), json.loads(body)


def test_beyond_the_bound_it_is_refused_with_the_time_to_come_back(activator, tmp_path):
    found = activator(most_requests=1)
    with send(tmp_path, request()):
        until(lambda: found.facts().held == 1)
        status, head, said = problem(answer(send(tmp_path, request())))
    assert status == 503
    assert b"retry-after: 5" in head
    assert said["detail"] == "the first replica is starting, and 1 requests wait for it already"


def test_the_deadline_is_kept(activator, tmp_path):
    found = activator(timeout_s=0.2)
    status, _, said = problem(answer(send(tmp_path, request())))
    assert (status, said["detail"]) == (504, "no replica was ready within 0.2 s; one may be starting")
    assert found.facts().held == 0


def test_who_lacks_the_token_starts_nothing(activator, tmp_path):
    found = activator()
    for head in (HEAD.replace(b"xxx", b"yyy"), b"POST /say HTTP/1.1\r\nhost: a\r\n"):
        assert problem(answer(send(tmp_path, request(head=head))))[0] == 401
    assert found.facts().arrived == 0


def test_a_key_of_a_client_is_as_good_as_the_token(activator, replica, tmp_path):
    found = activator(lambda: ["another-token-0123", TOKEN])
    asked = send(tmp_path, request())
    until(lambda: found.facts().held == 1)
    found.serve([replica.port], holding=True)
    assert answer(asked) == replica.answer


def test_a_token_that_cannot_be_read_is_said(activator, tmp_path):
    def unreadable():
        raise UsageError("the token is away")

    activator(unreadable)
    assert problem(answer(send(tmp_path, request())))[0] == 503


@pytest.mark.parametrize(
    ("path", "said"), [(b"/-/ready", b'{"state":"idle"}'), (b"/v2/health/ready", b'{"ready":true}')]
)
def test_health_checks_neither_start_a_replica_nor_need_the_token(activator, tmp_path, path, said):
    found = activator()
    data = answer(send(tmp_path, b"GET " + path + b" HTTP/1.1\r\nhost: a\r\n\r\n"))
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(said)
    assert found.facts().arrived == 0


def test_a_replica_that_ends_before_its_answer_ends_the_connection_so_that_envoy_decides(
    activator, replica, tmp_path
):
    replica.answer = None
    found = activator()
    asked = send(tmp_path, request())
    found.serve([replica.port], holding=True)
    assert answer(asked) == b""
    assert len(replica.got) == 1, "it may have been done"


def test_a_replica_that_cannot_be_reached_is_tried_until_there_is_another(activator, replica, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = activator(tokens=lambda: None)
    asked = send(tmp_path, request())
    found.serve([port], holding=True)
    time.sleep(0.2)
    found.serve([replica.port], holding=True)
    assert answer(asked) == replica.answer
    assert len(replica.got) == 1


def test_where_none_will_come_it_says_so(activator, tmp_path):
    found = activator()
    asked = send(tmp_path, request())
    until(lambda: found.facts().held == 1)
    found.serve([], holding=False, why="the supervisor is gone, and starts no replica")
    status, _, said = problem(answer(asked))
    assert (status, said["detail"]) == (503, "the supervisor is gone, and starts no replica")
