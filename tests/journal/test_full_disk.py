"""A real full disk (tmpfs), a real limit on file sizes, real threads."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from tests.fixtures.small_disk import fill
from tests.journal.histories import call_event

from hooke.base.errors import JournalError
from hooke.journal.events import StopRequested, WorkerStopped
from hooke.journal.reader import read
from hooke.journal.writer import Journal


def test_a_full_disk_refuses_the_event_and_harms_nothing(small_disk):
    written = []
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(32 * 1024))
    with Journal.create(small_disk / "run", "driver") as journal:
        journal.observers.append(written.append)
        with pytest.raises(JournalError) as caught:
            append_many(journal)
        journal.observers.clear()
        assert len(written) > 10
        for _ in range(3):
            with pytest.raises(JournalError, match="cannot be written"):
                journal.append(WorkerStopped(at=1.0, worker="w", cause="y" * 5000))
        (segment,) = read(small_disk / "run")
        assert list(segment.events) == written
        assert segment.torn is None
        error = caught.value
        assert "ENOSPC" in error.why
        assert "all earlier events are intact" in error.why
        assert "df -h" in error.fix
        assert str(journal.path) in error.where
        ballast.unlink()
        after = [call_event(number) for number in range(1, 50)]
        for event in after:
            journal.append(event)
    (segment,) = read(small_disk / "run")
    assert list(segment.events) == written + after
    assert segment.torn is None


def append_many(journal: Journal) -> None:
    for number in range(1, 10_000):
        journal.append(WorkerStopped(at=float(number), worker="w", cause="x" * (number % 700)))


def test_a_small_event_may_fit_where_a_large_one_did_not(small_disk):
    with Journal.create(small_disk, "driver") as journal:
        ballast = fill(small_disk)
        with pytest.raises(JournalError):
            journal.append(WorkerStopped(at=1.0, worker="w", cause="x" * 100_000))
        journal.append(StopRequested(at=2.0, by="fits the last page"))
        ballast.unlink()
        journal.append(call_event(3))
    assert list(read(small_disk)[0].events) == [StopRequested(at=2.0, by="fits the last page"), call_event(3)]


def test_a_journal_begun_on_a_full_disk_can_be_begun_later(small_disk):
    ballast = fill(small_disk)
    with pytest.raises(JournalError, match="cannot be") as caught:
        Journal.create(small_disk, "driver")
    assert "ENOSPC" in caught.value.why
    ballast.unlink()
    with Journal.create(small_disk, "driver") as journal:
        journal.append(call_event(1))
    assert list(read(small_disk)[0].events) == [call_event(1)]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.create(tmp_path / "file" / "run", "driver")


@pytest.mark.needs("cpu")
def test_a_limit_on_file_sizes_is_a_short_write(tmp_path):
    code = """
import resource, sys
from pathlib import Path
from hooke.base.errors import JournalError
from hooke.journal.events import StopRequested
from hooke.journal.writer import Journal
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
with Journal.create(Path(sys.argv[1]), "driver", durable="none") as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    count = 0
    try:
        while True:
            journal.append(StopRequested(at=1.0, by="x" * 77))
            count += 1
    except JournalError as error:
        assert "EFBIG" in error.why and "ulimit" in error.fix, error
    assert journal.path.stat().st_size <= 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    journal.append(StopRequested(at=2.0, by="after"))
print(count)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=180, check=False
    )
    assert run.returncode == 0, run.stderr
    (segment,) = read(tmp_path)
    assert len(segment.events) == int(run.stdout) + 1
    assert segment.torn is None


def test_threads_on_a_disk_that_fills_and_empties_lose_nothing(small_disk):
    """Each thread's returned appends are in the file, in its order, once; refused ones are not."""
    returned = {name: [] for name in "abcd"}
    refused = []
    with Journal.create(small_disk / "run", "driver") as journal:

        def write(name: str) -> None:
            for number in range(200):
                event = WorkerStopped(at=1.0 + number, worker=name, cause="x" * (50 + number % 100))
                try:
                    journal.append(event)
                except JournalError:
                    refused.append(event)
                else:
                    returned[name].append(event)

        threads = [threading.Thread(target=write, args=(name,)) for name in returned]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (segment,) = read(small_disk / "run")
    assert refused
    for name, events in returned.items():
        assert [event for event in segment.events if event.worker == name] == events
    assert sum(map(len, returned.values())) == len(segment.events)


def test_of_held_events_as_many_are_written_as_there_is_room_for(small_disk):
    written = []
    ballast = small_disk / "ballast"
    events = [WorkerStopped(at=float(number), worker="w", cause="x" * 1000) for number in range(1, 21)]
    with Journal.create(small_disk / "run", "driver") as journal:
        journal.observers.append(written.append)
        fill(small_disk)
        for event in events:
            journal.hold(event)
        with pytest.raises(JournalError, match="cannot be written"):
            journal.flush()
        assert len(written) < 20
        assert list(read(small_disk / "run")[0].events) == written == events[: len(written)]
        with pytest.raises(JournalError, match="cannot be written"):
            journal.append(WorkerStopped(at=30.0, worker="w", cause="y" * 5000))
        ballast.unlink()
        journal.append(call_event(40))
    (segment,) = read(small_disk / "run")
    assert list(segment.events) == written == [*events, call_event(40)]
    assert segment.torn is None
