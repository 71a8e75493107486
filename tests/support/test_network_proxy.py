"""A bad network on one machine: what each side sees of it."""

import contextlib
import socket
import threading
import time

import pytest
from tests.support.network_proxy import ChaosProxy


@pytest.fixture
def echo():
    """The address of a server that sends everything back."""
    server = socket.create_server(("127.0.0.1", 0))
    threads = []

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=answer, args=(server.accept()[0],)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield server.getsockname()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for thread in (accepting, *threads):
        thread.join()


@pytest.fixture
def proxy(echo):
    with ChaosProxy(echo) as between:
        yield between


def connected(proxy):
    connection = socket.create_connection(proxy.address, timeout=10)
    connection.sendall(b"a")
    assert connection.recv(1) == b"a"
    return connection


def gone(connection):
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    return True


def test_bytes_pass_unchanged_and_the_end_too(proxy) -> None:
    sent = bytes(range(256)) * 4096
    with connected(proxy) as connection:
        sending = threading.Thread(
            target=lambda: (connection.sendall(sent), connection.shutdown(socket.SHUT_WR))
        )
        sending.start()
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        sending.join()
    assert received == sent


@pytest.mark.needs("cpu")
def test_a_delay_is_of_each_direction_and_takes_nothing_from_the_rate(proxy) -> None:
    with connected(proxy) as connection:
        proxy.delay_s = 0.1
        begun = time.monotonic()
        sent = threading.Thread(target=connection.sendall, args=(bytes(16 << 20),))
        sent.start()
        missing = 16 << 20
        while missing:
            missing -= len(connection.recv(1 << 16))
        took = time.monotonic() - begun
        sent.join()
    assert took >= 0.2
    assert took < 256 * 0.2 / 2, "256 pieces of 64 KiB, one after the other, take 51 s"


@pytest.mark.needs("cpu")
def test_a_half_open_connection_says_nothing_and_is_reset_when_healed(proxy) -> None:
    with connected(proxy) as connection:
        proxy.swallow()
        connection.sendall(b"lost")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.heal()
        connection.settimeout(10)
        assert gone(connection)
    with connected(proxy):
        pass


def test_reset_ends_what_is_open(proxy) -> None:
    with connected(proxy) as one, connected(proxy) as other:
        proxy.reset()
        for connection in (one, other):
            assert gone(connection)
    assert proxy.connections == 0


def test_a_refused_connection_is_refused_and_open_ones_go_on(proxy) -> None:
    with connected(proxy) as connection:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(proxy.address, timeout=10)
        connection.sendall(b"b")
        assert connection.recv(1) == b"b"
    address = proxy.address
    proxy.heal()
    assert proxy.address == address
    with connected(proxy):
        pass


def test_a_target_that_is_not_there_resets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()
    with (
        ChaosProxy(nobody) as proxy,
        pytest.raises(ConnectionResetError),  # as early as in connect
        socket.create_connection(proxy.address, timeout=10) as connection,
    ):
        connection.recv(1)


def test_a_taken_port_is_said_and_nothing_is_left(echo) -> None:
    before = threading.enumerate()
    with pytest.raises(OSError, match="in use"):
        ChaosProxy(echo, listen=echo)
    assert {*threading.enumerate()} <= {*before}


def test_it_is_closed_once_or_twice(echo) -> None:
    proxy = ChaosProxy(echo)
    proxy.close()
    proxy.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address, timeout=10)
