from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.journal.histories import any_event, as_read, call_event, ref, small_events

from hooke.base.errors import JournalError, UsageError
from hooke.base.ref import Ref
from hooke.journal import events, segments
from hooke.journal.events import (
    AttemptFinished,
    AttemptStarted,
    CallsFinished,
    Failure,
    RunFinished,
    StopRequested,
)
from hooke.journal.reader import SegmentReader, last_event, read
from hooke.journal.writer import Journal


@pytest.mark.needs("cpu")
@given(st.lists(any_event(), max_size=8), st.sampled_from(["group", "each", "none"]))
def test_what_is_appended_is_read_back(written, durable):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Journal.create(folder, "driver", durable=durable, clock=Hand(5.0)) as journal:
            for event in written:
                journal.append(event)
        (segment,) = read(folder)
        assert list(segment.events) == as_read(stamped(event) for event in written)
        assert segment.name == "driver"
        assert segment.torn is None
        assert last_event(folder, "driver") == (segment.events[-1] if written else None)
        assert last_event(folder, "other") is None


class Hand:
    """A clock turned by hand."""

    def __init__(self, now: float) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


def stamped(event):
    return event if event.at else msgspec.structs.replace(event, at=5.0)


GROUP = CallsFinished(
    at=10.0,
    attempts=(4, 7, 5),
    nodes=(1, 2, 3),
    refs=(ref(1), ref(2), ref(3)),
    seconds=(1.0, 0.5, 2.0),
    cpu_s=(0.5, 0.25, 1.0),
    worker="w1",
)


def test_calls_that_were_answered_together_are_read_one_by_one(tmp_path):
    seen = []
    with Journal.create(tmp_path, "driver") as journal:
        journal.observers.append(seen.append)
        journal.append(GROUP)
        journal.append(call_event(9))
    first, second, third, fourth, fifth, last = seen
    assert [each.attempt for each in seen] == [4, 7, 7, 5, 5, 9]
    assert [type(each) for each in seen[:3]] == [AttemptFinished, AttemptStarted, AttemptFinished]
    assert [each.at for each in (first, second, third, fourth, fifth)] == [7.5, 7.5, 8.0, 8.0, 10.0]
    assert (third.node, third.ref, third.seconds, third.cpu_s, third.worker) == (2, ref(2), 0.5, 0.25, "w1")
    (segment,) = read(tmp_path)
    assert list(segment.events) == seen
    assert last == last_event(tmp_path, "driver")


def test_a_reader_may_stop_among_calls_that_were_answered_together(tmp_path):
    with Journal.create(tmp_path, "driver") as journal:
        journal.append(call_event(2))
        journal.append(GROUP)
        journal.append(call_event(9))
    with SegmentReader(tmp_path / "driver.journal") as reader:
        events = iter(reader)
        before = [next(events) for _ in range(4)]
        with SegmentReader(tmp_path / "driver.journal", reader.offset) as other:
            assert [*other] == [*as_read([GROUP]), call_event(9)], "the whole record again"
        assert [*before, *reader] == as_read([call_event(2), GROUP, call_event(9)])


def test_a_segment_goes_on_where_it_ended(tmp_path):
    for event in small_events():
        with Journal.create(tmp_path, "driver") as journal:
            assert journal.torn is None
            journal.append(event)
    (segment,) = read(tmp_path)
    assert list(segment.events) == small_events()


def test_with_each_the_name_of_a_new_segment_is_on_the_disk_before_its_events(tmp_path, monkeypatch):
    """The events of a file whose name is lost in a power loss are lost with it."""
    folder, synced = tmp_path / "run", []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    with Journal.create(folder, "driver", durable="each") as journal:
        assert journal.path.is_file()
        assert folder.stat().st_ino in synced


def test_observers_see_each_event_once_in_order_after_it_is_written(tmp_path):
    seen = []

    def observer(event):
        (segment,) = read(tmp_path)
        assert segment.events[-1] == event
        seen.append(event)
        if isinstance(event, RunFinished):
            journal.append(StopRequested(at=9.0, by="the observer"))

    with Journal.create(tmp_path, "driver") as journal:
        journal.observers.append(observer)
        for event in [*small_events(), RunFinished(at=8.0, status="finished")]:
            journal.append(event)
    assert list(read(tmp_path)[0].events) == seen
    assert len(seen) == 6


def test_an_observers_exception_passes_and_its_event_is_written(tmp_path):
    def observer(event):
        raise ZeroDivisionError

    with Journal.create(tmp_path, "driver") as journal:
        journal.observers.append(observer)
        with pytest.raises(ZeroDivisionError):
            journal.append(call_event(1))
        journal.observers.clear()
        journal.append(call_event(2))
    assert list(read(tmp_path)[0].events) == [call_event(1), call_event(2)]


def test_text_that_was_never_text_is_escaped_and_not_lost(tmp_path):
    failure = Failure(kind="TaskError", message="no file caf\udce9", log_tail=("\udcff",), pickled=b"\xff")
    event = events.AttemptFailed(at=1.0, attempt=1, node=0, lo=0, hi=1, failure=failure)
    with Journal.create(tmp_path, "driver") as journal:
        journal.append(event)
    (read_back,) = read(tmp_path)[0].events
    assert read_back.failure.message == "no file caf\\udce9"
    assert read_back.failure.log_tail == ("\\udcff",)
    assert read_back.failure.pickled == b"\xff"


def test_a_large_event_spans_the_readers_blocks(tmp_path):
    large = msgspec.structs.replace(call_event(1), ref=Ref("a" * 64, 900_000, bytes(900_000)))
    blob = Failure(kind="TaskError", message="m" * 3_000_000)
    failed = events.AttemptFailed(at=1.0, attempt=2, node=0, lo=0, hi=1, failure=blob)
    written = [large, failed, large, failed]
    with Journal.create(tmp_path, "driver") as journal:
        for event in written:
            journal.append(event)
    assert list(read(tmp_path)[0].events) == written


def test_folders_segments_and_files_can_be_read(tmp_path):
    for name in ("worker-b", "driver", "worker-a"):
        with Journal.create(tmp_path, name) as journal:
            journal.append(StopRequested(at=1.0, by=name))
    assert [segment.name for segment in read(tmp_path)] == ["driver", "worker-a", "worker-b"]
    assert [segment.name for segment in read(tmp_path, "worker-a")] == ["worker-a"]
    assert [segment.name for segment in read(tmp_path / "worker-b.journal")] == ["worker-b"]
    assert read(tmp_path, "nobody") == []


def test_a_journal_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(JournalError) as caught:
        read(tmp_path / "none")
    assert "none" in caught.value.where
    assert caught.value.fix


def test_a_closed_journal_says_so(tmp_path):
    journal = Journal.create(tmp_path, "driver")
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.append(call_event(1))


def test_a_wrong_durability_lists_the_right_ones(tmp_path):
    with pytest.raises(UsageError, match="each"):
        Journal.create(tmp_path, "driver", durable="always")


def test_two_writers_of_one_segment_are_refused(tmp_path):
    with Journal.create(tmp_path, "driver") as journal:
        journal.append(call_event(1))
        with pytest.raises(JournalError, match="another process is writing") as caught:
            Journal.create(tmp_path, "driver")
        assert "driver.journal" in caught.value.where
        journal.append(call_event(2))
    assert len(read(tmp_path)[0].events) == 2


# -- versions ----------------------------------------------------------------------------------------


def test_a_newer_vocabulary_names_both_versions_and_the_mend(tmp_path):
    path = tmp_path / "driver.journal"
    path.write_bytes(
        segments.header(events.VERSION + 1) + segments.frame(msgspec.msgpack.encode(call_event(1)))
    )
    for reader in (lambda: read(tmp_path), lambda: Journal.create(tmp_path, "driver")):
        with pytest.raises(JournalError) as caught:
            reader()
        assert f"version {events.VERSION + 1}" in caught.value.why
        assert f"version {events.VERSION}" in caught.value.why
        assert str(path) in caught.value.where
        assert caught.value.fix == "pip install --upgrade hooke-ml"


def test_an_unknown_event_names_itself_and_both_versions(tmp_path):
    path = tmp_path / "driver.journal"
    strange = msgspec.msgpack.encode({"event": "moon_landed", "at": 1.0})
    path.write_bytes(
        segments.header() + segments.frame(msgspec.msgpack.encode(call_event(1))) + segments.frame(strange)
    )
    with pytest.raises(JournalError) as caught:
        read(tmp_path)
    assert "moon_landed" in caught.value.what
    assert caught.value.why.count(f"{events.VERSION}") >= 2
    assert caught.value.fix == "pip install --upgrade hooke-ml"


def test_a_field_that_is_new_is_passed_over(tmp_path):
    path = tmp_path / "driver.journal"
    newer = msgspec.msgpack.encode({"event": "stop_requested", "at": 1.0, "by": "me", "mood": "calm"})
    path.write_bytes(segments.header() + segments.frame(newer))
    assert list(read(tmp_path)[0].events) == [StopRequested(at=1.0, by="me")]


def test_what_is_no_journal_is_said(tmp_path):
    path = tmp_path / "driver.journal"
    path.write_bytes(b"PK\x03\x04 not a journal")
    with pytest.raises(JournalError, match="not a journal") as caught:
        read(tmp_path)
    assert str(path) in caught.value.where


def test_a_reader_goes_on_where_it_was(tmp_path):
    with Journal.create(tmp_path, "driver") as journal, SegmentReader(journal.path) as reader:
        assert list(reader) == []
        for number in range(1, 5):
            journal.append(call_event(number))
            assert list(reader) == [call_event(number)]


def test_held_events_are_one_write_in_order(tmp_path):
    with Journal.create(tmp_path, "driver", durable="none") as journal:
        seen = []
        journal.observers.append(seen.append)
        for number in (1, 2, 3):
            journal.hold(call_event(number))
        assert not seen
        assert list(read(tmp_path)[0].events) == []
        journal.flush()
        journal.flush()
        assert seen == list(read(tmp_path)[0].events) == [call_event(number) for number in (1, 2, 3)]


def test_an_append_writes_what_is_held_before_it(tmp_path):
    with Journal.create(tmp_path, "driver", durable="none") as journal:
        journal.hold(call_event(1))
        journal.append(call_event(2))
    assert list(read(tmp_path)[0].events) == [call_event(1), call_event(2)]


def test_what_is_held_at_the_end_is_not_written(tmp_path):
    with Journal.create(tmp_path, "driver", durable="none") as journal:
        journal.append(call_event(1))
        journal.hold(call_event(2))
    assert list(read(tmp_path)[0].events) == [call_event(1)]


def test_a_forked_process_does_not_write_what_its_parent_holds(tmp_path):
    with Journal.create(tmp_path, "driver", durable="none") as journal:
        journal.hold(call_event(1))
        child = os.fork()
        if not child:
            journal.append(call_event(2))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        journal.flush()
    assert [list(segment.events) for segment in read(tmp_path)] == [[call_event(1)], [call_event(2)]]


def test_an_observer_that_appends_is_told_of_that_after_the_events_before_it(tmp_path):
    with Journal.create(tmp_path, "driver", durable="none") as journal:
        seen = []

        def observer(event):
            seen.append(event)
            if event == call_event(1):
                journal.append(call_event(3))

        journal.observers += [observer, seen.append]
        journal.hold(call_event(1))
        journal.hold(call_event(2))
        journal.flush()
    assert seen == [call_event(number) for number in (1, 1, 2, 2, 3, 3)]
    assert list(read(tmp_path)[0].events) == [call_event(number) for number in (1, 2, 3)]
