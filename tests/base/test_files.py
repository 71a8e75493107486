from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.fixtures.small_disk import fill

from hooke.base import files
from hooke.base.clock import SystemClock
from hooke.base.files import FileLock, file_clock_ns, write_all, write_atomic


def python(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# -- writing -----------------------------------------------------------------------------------------


def test_write_all_raises_enospc_on_a_full_disk(small_disk):
    fd = os.open(small_disk / "f", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="space") as caught:
        write_all(fd, bytes(200_000))
    os.close(fd)
    assert caught.value.errno == errno.ENOSPC


def test_write_atomic_replaces(tmp_path):
    target = tmp_path / "f"
    for data in (b"first", memoryview(b"second"), bytearray(b"third")):
        write_atomic(target, data, sync=True)
        assert target.read_bytes() == bytes(data)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_write_atomic_on_a_full_disk_keeps_the_old_file(small_disk):
    target = small_disk / "f"
    write_atomic(target, b"old")
    ballast = fill(small_disk)
    with pytest.raises(OSError, match="space"):
        write_atomic(target, bytes(10_000))
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "f"]
    ballast.unlink()
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new"


@pytest.mark.needs("cpu")
def test_write_atomic_past_the_file_size_limit_keeps_the_old_file(tmp_path):
    code = """
import resource, sys
from hooke.base.files import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(sys.argv[1], bytes(5000))
except OSError as error:
    print(error.errno)
"""
    (tmp_path / "f").write_bytes(b"old")
    out, _ = python(code, tmp_path / "f").communicate(timeout=120)
    assert int(out) == errno.EFBIG
    assert (tmp_path / "f").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


# -- locks -------------------------------------------------------------------------------------------

HOLD = """
import sys
from hooke.base.files import FileLock
lock = FileLock(sys.argv[1])
print(lock.try_acquire(), flush=True)
sys.stdin.read()
"""


def test_two_objects_exclude_each_other_in_one_process(tmp_path):
    one, two = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert not one.taken()
    assert not (tmp_path / "l").exists()
    assert one.try_acquire()
    assert one.try_acquire()
    assert one.held
    assert one.taken()
    assert two.taken()
    assert not two.try_acquire()
    assert not two.held
    one.release()
    one.release()
    assert not two.taken()
    with two:
        assert two.held
        with pytest.raises(BlockingIOError):
            one.__enter__()
    assert not two.held


@pytest.mark.needs("cpu")
def test_a_lock_holds_between_processes_and_sigkill_frees_it(tmp_path):
    other = python(HOLD, tmp_path / "l")
    assert other.stdout.readline().strip() == "True"
    lock = FileLock(tmp_path / "l")
    assert lock.taken()
    assert not lock.try_acquire()
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert not lock.taken()
    assert lock.try_acquire()
    lock.release()


@pytest.mark.needs("cpu")
def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path):
    code = """
import os, sys, time
from hooke.base.files import FileLock
lock = FileLock(sys.argv[1])
assert lock.try_acquire()
child = os.fork()
if child == 0:
    os.close(1)
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""
    parent = python(code, tmp_path / "l")
    child = int(parent.stdout.readline())
    lock = FileLock(tmp_path / "l")
    assert lock.taken()
    parent.kill()
    parent.communicate()
    try:
        os.kill(child, 0)
        # The child may not have run a line yet.
        assert wait_for(lock.try_acquire)
    finally:
        os.kill(child, signal.SIGKILL)
        lock.release()


@pytest.mark.needs("cpu")
def test_looking_at_a_lock_does_not_turn_an_owner_away(tmp_path):
    code = """
import sys
from hooke.base.files import FileLock
print("ready", flush=True)
while True:
    FileLock(sys.argv[1]).taken()
"""
    lock = FileLock(tmp_path / "l")
    with lock:
        pass
    looker = python(code, tmp_path / "l")
    looker.stdout.readline()
    try:
        refused = 0
        for _ in range(300):
            refused += not lock.try_acquire()
            lock.release()
    finally:
        looker.kill()
        looker.communicate()
    assert refused <= 3


def test_the_system_clock_runs():
    clock = SystemClock()
    before = clock.monotonic()
    assert abs(clock.now() - time.time()) < 5
    assert clock.monotonic() >= before


def wait_for(condition, timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_paths_may_be_text(tmp_path):
    write_atomic(str(tmp_path / "f"), b"x")
    assert FileLock(str(tmp_path / "l")).path == Path(tmp_path / "l")


@pytest.mark.parametrize("spare", [True, False], ids=["as usual", "no descriptor left"])
def test_a_file_that_is_written_later_is_not_older_than_the_clock_of_files(tmp_path, monkeypatch, spare):
    if not spare:

        def refused(*_):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(files, "_clock", None)
        monkeypatch.setattr(os, "memfd_create", refused)
    for number in range(100):
        before, path = file_clock_ns(), tmp_path / str(number)
        path.write_bytes(b"")
        assert 0 <= path.stat().st_ctime_ns - before < 60_000_000_000


def test_the_clock_of_files_stands_a_task_that_closes_and_reuses_its_descriptor(tmp_path):
    file_clock_ns()
    fd = files._clock[0]
    os.close(fd)
    path = tmp_path / "users"
    path.write_text("x")
    os.utime(path, ns=(1, 1))
    other = os.open(path, os.O_RDONLY)
    os.dup2(other, fd)
    try:
        before = file_clock_ns()
        assert path.stat().st_mtime_ns == 1
        (tmp_path / "new").write_text("x")
        assert (tmp_path / "new").stat().st_ctime_ns >= before
        assert files._clock[0] != fd
    finally:
        for each in {fd, other}:  # one number, if that was the lowest free one
            os.close(each)


def test_the_clock_of_files_goes_on_in_a_forked_process(tmp_path):
    before = file_clock_ns()
    child = os.fork()
    if not child:
        os._exit(0 if file_clock_ns() >= before else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert file_clock_ns() >= before
