"""Processes that are started before they are asked for."""

import os
import signal

import pytest

from hooke.processes.start import end_ahead, start_ahead, start_with_socket

MODULE = "tests.support.echo_process"


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    yield
    end_ahead()


def answer_of(started):
    process, ours = started
    with ours:
        ours.sendall(b"who?")
        answer = ours.recv(100)
    assert process.wait(20) == 0
    return int(answer), process.pid


@pytest.mark.needs("cpu")
def test_who_asks_gets_the_one_that_was_started_ahead():
    start_ahead(MODULE)
    start_ahead(MODULE)  # one is enough
    first, pid = answer_of(start_with_socket(MODULE))
    second, other = answer_of(start_with_socket(MODULE))
    assert first == pid != second == other


@pytest.mark.needs("cpu")
def test_one_that_has_died_is_replaced():
    start_ahead(MODULE)
    process, ours = start_with_socket(MODULE)
    ours.close()
    process.wait(20)
    start_ahead(MODULE)
    pid = next(iter(_ahead().values())).process.pid
    os.kill(pid, signal.SIGKILL)
    next(iter(_ahead().values())).process.wait(20)
    answer, new = answer_of(start_with_socket(MODULE))
    assert answer == new != pid


def test_one_that_nobody_asks_for_is_ended():
    start_ahead(MODULE)
    process = next(iter(_ahead().values())).process
    end_ahead()
    assert process.returncode == -signal.SIGKILL
    assert not _ahead()


@pytest.mark.needs("cpu")
def test_a_forked_child_does_not_hold_it():
    start_ahead(MODULE)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b"%d" % len(_ahead()))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"0"
    os.close(read)
    os.close(write)
    answer, pid = answer_of(start_with_socket(MODULE))
    assert answer == pid


def _ahead():
    from hooke.processes import start

    return start._Ahead.started
