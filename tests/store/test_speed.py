"""What must not grow: opening is flat in size, a digest is computed once per host, marks are synced."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from hooke.base.errors import CorruptObject
from hooke.store import background_fsync as settle
from hooke.store.background_fsync import ONE_BY_ONE, Settler

OPEN = """
import re, sys
import numpy
from hooke.store.store import Ref, Store

def touched():
    return int(re.search(r"RssFile:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024

store = Store.open(sys.argv[1])
before = touched()
value = store.get(Ref(sys.argv[2], int(sys.argv[3])))
opened = touched()
total = value.sum()
print(opened - before, touched() - before, total)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_opening_touches_nothing_and_another_process_of_this_host_need_not_hash(store, tmp_path):
    ref = store.put(np.zeros(12_500_000))
    command = [sys.executable, "-c", OPEN, tmp_path / "store", ref.digest, str(ref.size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    opened, summed, total = map(float, done.stdout.split())
    assert total == 0
    assert opened < 4, "MiB of the file in memory after opening: hashing it would touch its 95"
    assert summed > 90, "and reading it touches them, so the figure above means something"


def test_a_file_that_was_touched_since_is_hashed_again(store, tmp_path):
    ref = store.put(np.zeros(50_000))
    store.get(ref)
    (path,) = (path for path in (tmp_path / "store" / "objects").rglob("*") if path.is_file())
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(200_000)
        file.write(b"\x01")
    with pytest.raises(CorruptObject):
        store.get(ref)


@pytest.mark.parametrize("files", [3, ONE_BY_ONE + 10])
def test_marked_files_are_synced_soon(tmp_path, files):
    settler = Settler(tmp_path, interval_s=0.05)
    for number in range(files):
        path = tmp_path / str(number)
        path.write_bytes(b"x")
        settler.mark(str(path))
    settler.mark(str(tmp_path / "gone" / "long ago"))
    until = time.monotonic() + 5
    while settler.pending and time.monotonic() < until:
        time.sleep(0.01)
    assert settler.pending == 0
    settler.sync()


def test_what_is_marked_after_a_while_is_synced_too_and_no_thread_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(settle, "IDLE_S", 0.02)
    settler = Settler(tmp_path, interval_s=0.01)
    path = tmp_path / "a"
    path.write_bytes(b"x")
    until = time.monotonic() + 30
    for _ in range(20):
        settler.mark(str(path))
        while settler.pending or settler._thread is not None:
            assert time.monotonic() < until
            time.sleep(0.001)


def test_a_failed_sync_is_told_at_the_next(tmp_path):
    settler = Settler(tmp_path, interval_s=60)
    path = tmp_path / "secret"
    path.symlink_to(path)
    settler.mark(str(path))
    with pytest.raises(OSError, match="symbolic links"):
        settler.sync()
    settler.sync()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_settling_goes_on_in_a_forked_child(tmp_path):
    settler = Settler(tmp_path, interval_s=0.01)
    (tmp_path / "a").write_bytes(b"x")
    settler.mark(str(tmp_path / "a"))
    child = os.fork()
    if not child:
        settler.mark(str(tmp_path / "a"))
        until = time.monotonic() + 10
        while settler.pending and time.monotonic() < until:
            time.sleep(0.01)
        os._exit(settler.pending)
    assert os.waitpid(child, 0)[1] == 0
