from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from hooke.base.errors import UsageError
from hooke.base.files import FileLock
from hooke.journal.run_folders import RunsFolder

NAMES = [
    "wind-rose-20261125-120000-bbbb",
    "delays-20261125-004622-x7k2",
    "delays-20261124-235959-zzzz",
    "delays-20251231-000000-aaaa",
]


@pytest.fixture
def runs(tmp_path) -> RunsFolder:
    runs = RunsFolder(tmp_path / "runs")
    for name in sorted(NAMES):
        runs.create(name)
    (runs.path / "a-file").write_text("")
    return runs


def test_runs_are_listed_newest_first_whatever_their_pipeline(runs):
    assert runs.names() == NAMES
    assert (runs.folder(NAMES[0]) / "logs").is_dir()


def test_a_folder_of_another_name_comes_last(runs):
    runs.create("odd")
    assert runs.names() == [*NAMES, "odd"]


def test_a_run_that_is_removed_meanwhile_hides_no_other(runs, monkeypatch):
    scan = os.scandir

    @contextmanager
    def scan_and_remove(path):
        with scan(path) as found:
            entries = list(found)
        monkeypatch.undo()
        shutil.rmtree(runs.folder(NAMES[0]))
        yield entries

    monkeypatch.setattr(os, "scandir", scan_and_remove)
    assert runs.names() == NAMES[1:]


def test_runs_are_found_by_a_unique_prefix_and_the_newest_without(runs):
    assert runs.find() == NAMES[0]
    assert runs.find("wind") == NAMES[0]
    assert runs.find("delays-20261125") == NAMES[1]
    assert runs.find(NAMES[3]) == NAMES[3]


def test_an_exact_name_wins_over_longer_ones(runs):
    runs.create("delays")
    assert runs.find("delays") == "delays"


def test_an_ambiguous_prefix_lists_the_candidates(runs):
    with pytest.raises(UsageError) as caught:
        runs.find("delays-2026")
    assert "2 runs begin with 'delays-2026'" in caught.value.what
    assert NAMES[1] in caught.value.fix
    assert NAMES[2] in caught.value.fix
    assert NAMES[3] not in caught.value.fix


def test_an_unknown_run_lists_near_ones_and_not_all_of_many(runs):
    with pytest.raises(UsageError) as caught:
        runs.find("delays-20261125-004622-x7k3")
    assert NAMES[1] in caught.value.fix
    for number in range(40):
        runs.create(f"many-20261125-0000{number:02d}-aaaa")
    with pytest.raises(UsageError) as caught:
        runs.find("?")
    assert "and 34 more" in caught.value.fix


def test_no_runs_at_all(tmp_path):
    runs = RunsFolder(tmp_path / "none")
    assert runs.names() == []
    with pytest.raises(UsageError, match="no runs yet"):
        runs.find()
    assert not (tmp_path / "none").exists()


def test_a_run_is_alive_while_its_driver_lives(runs):
    code = """
import sys
from hooke.base.files import FileLock
lock = FileLock(sys.argv[1])
assert lock.try_acquire()
print("driving", flush=True)
sys.stdin.read()
"""
    assert not runs.alive(NAMES[0])
    assert not runs.alive("never-was")
    lock = runs.folder(NAMES[0]) / "driver.lock"
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    driver.stdout.readline()
    assert runs.alive(NAMES[0])
    driver.kill()
    driver.communicate()
    assert not runs.alive(NAMES[0])
    with FileLock(lock):
        assert runs.alive(NAMES[0])


def test_a_stop_is_requested_seen_and_cleared(runs):
    assert runs.stop_requested(NAMES[0]) is None
    runs.request_stop(NAMES[0], "hooke stop by ümlaut")
    assert runs.stop_requested(NAMES[0]) == "hooke stop by ümlaut"
    assert runs.stop_requested(NAMES[1]) is None
    runs.clear_stop(NAMES[0])
    runs.clear_stop(NAMES[0])
    assert runs.stop_requested(NAMES[0]) is None


def test_a_stop_of_a_run_that_is_not_there_is_an_error(runs):
    with pytest.raises(UsageError, match="no run"):
        runs.request_stop("never-was", "me")
