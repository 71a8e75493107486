"""Marked files are synced soon, in groups, and failures are kept for the owner."""

import os
import threading
import time

import pytest

from hooke.base import background_fsync
from hooke.base.background_fsync import ONE_BY_ONE, GroupSync
from hooke.base.later import Later


def wait_until_synced(group):
    until = time.monotonic() + 10
    while group.pending:
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("files", [3, ONE_BY_ONE + 10])
def test_marked_files_are_synced_soon(tmp_path, files):
    group = GroupSync(tmp_path, interval_s=0.05)
    for number in range(files):
        path = tmp_path / str(number)
        path.write_bytes(b"x")
        group.mark(str(path))
    group.mark(str(tmp_path / "gone" / "long ago"))
    wait_until_synced(group)
    group.sync()


def test_what_is_marked_after_a_while_is_synced_too(tmp_path):
    group = GroupSync(tmp_path, interval_s=0.01)
    path = tmp_path / "a"
    path.write_bytes(b"x")
    until = time.monotonic() + 30
    for _ in range(20):
        group.mark(str(path))
        while group.pending:
            assert time.monotonic() < until
            time.sleep(0.001)


def test_a_mark_without_a_thread_is_synced_after_the_next_one(tmp_path, monkeypatch):
    group, start = GroupSync(tmp_path, interval_s=0.01), threading.Thread.start
    path = tmp_path / "a"
    path.write_bytes(b"x")
    monkeypatch.setattr(background_fsync, "LATER", Later())

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        group.mark(str(path))
    monkeypatch.setattr(threading.Thread, "start", start)
    group.mark(str(path))
    wait_until_synced(group)


def test_a_failure_in_the_background_is_kept_and_ends_nothing(tmp_path):
    group = GroupSync(tmp_path, interval_s=0.01)
    path = tmp_path / "secret"
    path.symlink_to(path)
    group.mark(str(path))
    wait_until_synced(group)
    (tmp_path / "a").write_bytes(b"x")
    group.mark(str(tmp_path / "a"))
    wait_until_synced(group)
    with pytest.raises(OSError, match="symbolic links"):
        group.close()


def test_closing_syncs_what_is_marked(tmp_path):
    group = GroupSync(tmp_path, interval_s=60)
    (tmp_path / "a").write_bytes(b"x")
    group.mark(str(tmp_path / "a"))
    group.close()
    assert group.pending == 0


def test_the_next_sync_raises_a_failure_once(tmp_path):
    group = GroupSync(tmp_path, interval_s=60)
    path = tmp_path / "secret"
    path.symlink_to(path)
    group.mark(str(path))
    with pytest.raises(OSError, match="symbolic links"):
        group.sync()
    group.sync()


@pytest.mark.needs("cpu")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_thread_of_its_own(tmp_path):
    group = GroupSync(tmp_path, interval_s=0.01)
    (tmp_path / "a").write_bytes(b"x")
    group.mark(str(tmp_path / "a"))
    child = os.fork()
    if not child:
        group.mark(str(tmp_path / "a"))
        wait_until_synced(group)
        os._exit(group.pending)
    assert os.waitpid(child, 0)[1] == 0
