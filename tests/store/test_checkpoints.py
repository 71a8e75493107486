"""Checkpoint folders: one holder at a time, removed whole, swept by a clear rule, with snapshots where the store is at a URL."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.base.clock import SystemClock
from hooke.base.errors import CorruptObject, UsageError
from hooke.keys.fingerprint import index_items
from hooke.store import checkpoints
from hooke.store.backends.memory import MemoryBackend
from hooke.store.checkpoints import (
    ABANDONED_S,
    CheckpointFolders,
    CheckpointOwner,
    Snapshots,
    TaskCheckpoints,
    checkpoint_dir,
    using_checkpoints,
)
from hooke.store.entries import Entry, Records
from hooke.store.store import Store

KEY, OTHER = "ab" * 16, "cd" * 16
SECRET = b"a secret of sixteen bytes or more"


def owner(**facts) -> CheckpointOwner:
    return CheckpointOwner(**{"task": "fit", "run": "r", "recipe": KEY, **facts})


def test_attempts_at_a_key_share_a_folder_one_after_the_other(store):
    first = store.checkpoints.open(KEY, owner(), 1)
    (first.path / "state").write_text("5")
    first.release()
    again = store.checkpoints.open(KEY, owner(run="another"), 1)
    assert (again.path / "state").read_text() == "5"
    assert again.path.parent == Path(store.place) / "checkpoints"
    other = store.checkpoints.open(OTHER, owner(recipe=OTHER), 1)
    assert not list(other.path.iterdir())
    again.release()
    other.release()


def test_a_second_attempt_waits_and_then_goes_on(store):
    first = store.checkpoints.open(KEY, owner(), 1)
    (first.path / "state").write_text("5")
    threading.Timer(0.2, first.release).start()
    second = store.checkpoints.open(KEY, owner(), 2)
    assert (second.path / "state").read_text() == "5"
    second.release()


def test_who_waits_in_vain_has_an_empty_folder_of_its_own_until_it_ends(store, caplog):
    first = store.checkpoints.open(KEY, owner(), 1)
    (first.path / "state").write_text("5")
    second = store.checkpoints.open(KEY, owner(), 2, wait_s=0.0)
    assert second.path != first.path
    assert not list(second.path.iterdir())
    assert "this attempt has one of its own" in caplog.text
    second.release()
    assert not second.path.exists()
    assert (first.path / "state").read_text() == "5"
    first.release()


def test_the_ranks_of_a_gang_share_it_and_keep_others_out_to_the_last(store):
    ranks = [store.checkpoints.open(KEY, owner(), 1, wait_s=0.0) for _ in range(3)]
    assert len({rank.path for rank in ranks}) == 1
    for rank in ranks:
        twin = store.checkpoints.open(KEY, owner(), 2, wait_s=0.0)
        assert twin.path != rank.path
        twin.release()
        rank.release()
    after = store.checkpoints.open(KEY, owner(), 2, wait_s=0.0)
    assert after.path == ranks[0].path
    after.release()


HOLDER = """
import sys, time
from hooke.store.checkpoints import CheckpointOwner
from hooke.store.store import Store
key = sys.argv[2]
held = Store.open(sys.argv[1]).checkpoints.open(key, CheckpointOwner(task="fit", run="r", recipe=key), int(sys.argv[3]))
(held.path / "state").write_text("5")
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.needs("cpu")
def test_a_killed_process_lets_go_at_once(store):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, store.place, KEY, "1"], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert store.checkpoints.remove([KEY]) == 0, "a folder in use stays"
        holder.send_signal(signal.SIGKILL)
    after = store.checkpoints.open(KEY, owner(), 2, wait_s=0.0)
    assert (after.path / "state").read_text() == "5"
    after.release()


def contend(place: str, attempt: int, ends: float) -> None:
    folders = Store.open(place).checkpoints
    while time.monotonic() < ends:
        held = folders.open(KEY, owner(), attempt)
        fd = os.open(held.path / "inside", os.O_CREAT | os.O_EXCL)  # raises if another is inside
        os.close(fd)
        (held.path / "count").write_text(str(int((held.path / "count").read_text() or 0) + 1))
        os.unlink(held.path / "inside")
        held.release()


@pytest.mark.long
@pytest.mark.needs("processes")
def test_no_two_attempts_are_inside_at_once(store):
    first = store.checkpoints.open(KEY, owner(), 0)
    (first.path / "count").write_text("0")
    first.release()
    spawn = multiprocessing.get_context("spawn")
    ends = time.monotonic() + 2.0
    workers = [spawn.Process(target=contend, args=(store.place, number, ends)) for number in range(1, 4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert [each.exitcode for each in workers] == [0, 0, 0]


def commit(store: Store, key: str) -> None:
    store.commit(Entry(key=key, ref=store.put(1), task="fit", run="r", seconds=1.0, at=time.time()))


def made(store: Store, key: str = KEY, **facts) -> Path:
    folder = store.checkpoints.open(key, owner(**{"recipe": key, **facts}), 1)
    (folder.path / "deep").mkdir()
    (folder.path / "deep" / "state").write_bytes(bytes(1000))
    folder.release()
    return folder.path


def test_a_sweep_removes_what_has_a_result_and_keeps_the_rest(store):
    done, waits, kept = made(store), made(store, OTHER), made(store, "ef" * 16, kept=True)
    commit(store, KEY)
    commit(store, "ef" * 16)
    assert store.clear_checkpoints() == 1
    assert [done.exists(), waits.exists(), kept.exists()] == [False, True, True]


def test_a_sweep_keeps_what_is_newer_than_the_result(store):
    commit(store, KEY)
    folder = made(store)  # the task is forced, or its result does not count any more
    assert store.clear_checkpoints() == 0
    assert folder.exists()


def test_a_sweep_knows_the_items_of_maps(store):
    keys = bytes.fromhex(KEY + OTHER)
    folders = [made(store, key, recipe="f" * 32, item=True) for key in (KEY, OTHER)]
    store.commit_items("f" * 32, keys[:16], store.put([1]), task="fit", run="r", seconds=1.0)
    assert store.clear_checkpoints() == 1
    assert [folder.exists() for folder in folders] == [False, True]


def test_a_sweep_finds_a_number_by_its_own_key(store):
    """The folder has the key of the item, which the store's index does not have."""
    indexed = index_items([(7,)], label="f" * 32)
    used = TaskCheckpoints(store.checkpoints, owner(recipe="f" * 32, item=True), 1)
    used.begin(bytes.fromhex(KEY), indexed)
    folder = used.folder()
    used.close(failed=True)
    assert store.clear_checkpoints() == 0
    store.commit_items("f" * 32, indexed, store.put([1]), task="fit", run="r", seconds=1.0)
    assert store.clear_checkpoints() == 1
    assert not folder.exists()


def test_an_uncached_task_keeps_its_folder_until_its_run_has_finished(store):
    folder = made(store, cached=False)
    assert store.clear_checkpoints(run="another") == 0
    assert store.clear_checkpoints(run="r") == 1
    assert not folder.exists()


def test_a_folder_that_nobody_used_for_a_month_is_abandoned(store):
    old, new, kept = made(store), made(store, OTHER), made(store, "ef" * 16, kept=True)
    commit(store, "ef" * 16)
    month_ago = time.time() - ABANDONED_S - 60
    for path in (*old.rglob("*"), old, *old.parent.glob("*.record"), *kept.rglob("*"), kept):
        os.utime(path, (month_ago, month_ago))
    os.utime(new.with_name(f"{new.name}.record"))
    assert store.clear_checkpoints() == 0
    assert store.clear_checkpoints(abandoned=True) == 1
    assert [old.exists(), new.exists(), kept.exists()] == [False, True, True]


def test_a_removed_result_takes_its_checkpoints_along(store):
    kept = made(store, kept=True)
    commit(store, KEY)
    assert store.remove(KEY)
    assert not kept.exists()


def test_the_rest_of_a_killed_removal_is_swept_and_never_found_by_the_key(store):
    folder = made(store)
    folder.rename(folder.with_name(f".removed-{KEY}-0"))  # killed between the renaming and the end
    again = store.checkpoints.open(KEY, owner(), 2)
    assert not list(again.path.iterdir())
    again.release()
    store.clear_checkpoints()
    assert not list(folder.parent.glob(".removed-*"))


def test_they_are_counted(store):
    made(store)
    assert 1000 <= store.usage().checkpoints < 2000
    assert store.usage().bytes == 0


def test_in_a_shared_store_each_user_has_a_private_folder(tmp_path):
    store = Store.open(tmp_path / "store", secret=SECRET)
    folder = made(store)
    assert folder.parent.name == f"user-{os.getuid()}"
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_outside_a_task_the_error_says_what_to_do():
    with pytest.raises(UsageError, match="outside a task"):
        checkpoint_dir()


def test_a_store_in_memory_has_none(memory):
    used = TaskCheckpoints(memory.checkpoints, owner(), 1)
    used.begin(bytes.fromhex(KEY))
    with using_checkpoints(used), pytest.raises(UsageError, match="in memory"):
        checkpoint_dir()


@pytest.mark.needs("cpu")
def test_threads_of_a_task_and_forked_processes_know_the_folder(store):
    used = TaskCheckpoints(store.checkpoints, owner(), 1)
    used.begin(bytes.fromhex(KEY))
    found = []
    with using_checkpoints(used):
        assert forked() == "UsageError", "a child must not take the folder before the task does"
        thread = threading.Thread(target=lambda: found.append(checkpoint_dir()))
        thread.start()
        thread.join()
        assert found == [checkpoint_dir()]
        assert forked() == str(found[0])
    used.finish()
    assert used.close(failed=False) == (KEY,)


def forked() -> str:
    reader, writer = multiprocessing.Pipe(duplex=False)

    def ask() -> None:
        try:
            writer.send(str(checkpoint_dir()))
        except UsageError as error:
            writer.send(type(error).__name__)

    child = multiprocessing.get_context("fork").Process(target=ask)
    child.start()
    child.join()
    return reader.recv()


# --- Snapshots of a store at a URL.


def hosts(tmp_path, count: int = 2) -> list[CheckpointFolders]:
    """The folders of hosts that share nothing but a store."""
    backend = MemoryBackend(clock=SystemClock())
    snapshots = Snapshots(backend, Records(backend, SECRET[:32]))
    return [CheckpointFolders(tmp_path / str(number), snapshots) for number in range(count)]


def fail(folders: CheckpointFolders, attempt: int, **files: str) -> Path:
    """An attempt that writes files and fails; returns its folder."""
    used = TaskCheckpoints(folders, owner(), attempt)
    used.begin(bytes.fromhex(KEY))
    for name, text in files.items():
        (used.folder() / name).write_text(text)
    folder = used.folder()
    used.close(failed=True)
    return folder


def test_another_host_goes_on_from_the_snapshot(tmp_path):
    here, there = hosts(tmp_path)
    fail(here, 1, state="5", other="x")
    second = there.open(KEY, owner(), 2)
    assert {file.name: file.read_text() for file in second.path.iterdir()} == {"state": "5", "other": "x"}
    second.release()


def test_a_host_that_continued_a_snapshot_keeps_what_is_newer_and_gives_up_what_is_older(tmp_path):
    here, there = hosts(tmp_path)
    folder = fail(here, 1, state="5")
    (folder / "state").write_text("6")  # killed before the next snapshot
    again = here.open(KEY, owner(), 2)
    assert (again.path / "state").read_text() == "6"
    again.release()
    fail(there, 3, state="9")
    assert (fail(here, 4) / "state").read_text() == "9"


def test_a_snapshot_is_taken_when_nothing_has_changed_for_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "QUIET_S", 0.05)
    here, there = hosts(tmp_path)
    held = here.open(KEY, owner(), 1)
    (held.path / "state").write_text("5")
    deadline = time.monotonic() + 60
    while not list(here.snapshots.records()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    other = there.open(KEY, owner(), 2)  # the first host is lost
    assert (other.path / "state").read_text() == "5"
    other.release()
    held.release()


def test_a_finished_attempt_leaves_nothing_on_its_host_and_the_driver_removes_the_snapshot(tmp_path):
    here, there = hosts(tmp_path)
    fail(here, 1, state="5")
    used = TaskCheckpoints(there, owner(), 2)
    used.begin(bytes.fromhex(KEY))
    folder = used.folder()
    used.finish()
    assert used.close(failed=False) == (KEY,)
    assert not folder.exists()
    assert there.remove([KEY])
    assert not list(there.snapshots.records())
    assert there.used_bytes() == 0


def test_parts_that_did_not_change_are_not_sent_again(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_PART", 4)
    here, there = hosts(tmp_path)
    fail(here, 1, state="aaaabbbbcccc")
    before = {name for name, _, _ in here.snapshots._backend.list("checkpoints/")}
    fail(here, 2, state="aaaabbbbdddd")
    after = {name for name, _, _ in here.snapshots._backend.list("checkpoints/")}
    assert len(before & after) == 3
    assert len(after) == 4
    assert (fail(there, 3) / "state").read_text() == "aaaabbbbdddd"


def test_a_damaged_part_is_an_error_that_names_the_fix(tmp_path):
    here, there = hosts(tmp_path)
    fail(here, 1, state="5")
    (name,) = [
        name for name, _, _ in here.snapshots._backend.list("checkpoints/") if not name.endswith("snapshot")
    ]
    here.snapshots._backend.remove(name)
    with pytest.raises(CorruptObject, match="damaged or missing"):
        there.open(KEY, owner(), 2)


@pytest.mark.long
@pytest.mark.needs("processes")
@given(st.dictionaries(st.from_regex(r"[a-z]{1,3}(/[a-z]{4,5})?", fullmatch=True), st.binary(max_size=99)))
def test_a_snapshot_is_the_folder(files):
    backend = MemoryBackend(clock=SystemClock())
    snapshots = Snapshots(backend, Records(backend, None))
    with tempfile.TemporaryDirectory() as made:
        here, there = (
            CheckpointFolders(Path(made, "1"), snapshots),
            CheckpointFolders(Path(made, "2"), snapshots),
        )
        held = here.open(KEY, owner(), 1)
        for name, data in files.items():
            file = held.path / name
            if file.is_dir() or file.parent.is_file():
                continue
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)
        written = {str(f.relative_to(held.path)): f.read_bytes() for f in held.path.rglob("*") if f.is_file()}
        held.push()
        held.release()
        other = there.open(KEY, owner(), 2)
        found = {str(f.relative_to(other.path)): f.read_bytes() for f in other.path.rglob("*") if f.is_file()}
        other.release()
    assert found == written


@pytest.mark.needs("cpu")
def test_a_store_at_a_url_carries_checkpoints_between_hosts(tmp_path):
    place = f"memory://checkpoints-{os.getpid()}-{tmp_path.name}"
    here, there = (Store.open(place, secret=SECRET, near=tmp_path / name) for name in ("here", "there"))
    folder = fail(here.checkpoints, 1, state="5")
    assert folder.is_relative_to(tmp_path / "here")
    held = there.checkpoints.open(KEY, owner(), 2)
    assert (held.path / "state").read_text() == "5"
    held.release()
    assert there.usage().checkpoints > 0
    commit(there, KEY)
    assert there.clear_checkpoints(abandoned=True) == 1
    assert not list(here.checkpoints.snapshots.records())
