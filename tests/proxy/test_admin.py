"""Envoy's own socket, and an Envoy that dies while it answers there."""

import socket
import threading

import pytest

from hooke.base.errors import HookeError
from hooke.proxy.envoy import Admin

PART = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"


@pytest.mark.parametrize(("said", "kind"), [(PART, HookeError), (b"HTTP", HookeError), (b"", OSError)])
def test_an_answer_that_breaks_off_is_an_error_that_its_keeper_knows(tmp_path, said, kind):
    path = tmp_path / "admin.sock"

    def answer():
        connection, _ = listening.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(said)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(kind):
            Admin(path).heap_bytes()
        answering.join(60)
