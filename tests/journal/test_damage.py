"""Torn tails at every byte, every byte damaged, and what a reader says of them."""

from __future__ import annotations

import os

import pytest
from tests.journal.histories import call_event, small_events

from hooke.base.errors import JournalError
from hooke.journal.reader import SegmentReader, read
from hooke.journal.segments import HEADER_BYTES, MARKER
from hooke.journal.writer import Journal


@pytest.fixture
def whole(tmp_path) -> bytes:
    """The bytes of a small segment."""
    with Journal.create(tmp_path / "whole", "driver", durable="none") as journal:
        for event in small_events():
            journal.append(event)
    return journal.path.read_bytes()


@pytest.fixture
def ends(tmp_path, whole) -> list[int]:
    """Where each record of it ends; the header's end first."""
    with SegmentReader(tmp_path / "whole" / "driver.journal") as reader:
        out = [HEADER_BYTES, *(reader._scan.offset for _ in reader)]
    assert out[-1] == len(whole)
    return out


@pytest.mark.needs("cpu")
def test_a_tail_torn_at_every_byte_is_cut_and_reported(tmp_path, whole, ends):
    path = tmp_path / "driver.journal"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends[1:])
        end = ends[kept] if size >= HEADER_BYTES else 0
        (segment,) = read(tmp_path)[:1]
        assert list(segment.events) == small_events()[:kept]
        if size == end:
            assert segment.torn is None
        else:
            assert (segment.torn.path, segment.torn.offset, segment.torn.cut) == (path, end, size - end)
        with Journal.create(tmp_path, "driver", durable="none") as journal:
            assert journal.torn == segment.torn
            journal.append(call_event(99))
        (segment,) = read(path)
        assert list(segment.events) == [*small_events()[:kept], call_event(99)]
        assert segment.torn is None


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_damaged_byte_is_found(tmp_path, whole, ends, mask):
    path = tmp_path / "driver.journal"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
        kept = sum(end <= at for end in ends[1:])
        following = len(small_events()) - kept - 1
        if at < HEADER_BYTES:
            with pytest.raises(JournalError, match="header is damaged"):
                read(path)
        elif following:
            with pytest.raises(JournalError, match="damaged in the middle") as caught:
                read(path)
            assert f"{path}, offset {ends[kept]}" in caught.value.where
            assert f"{kept} whole records lie before it and {following} after it" in caught.value.why
            assert f"truncate -s {ends[kept]} {path}" in caught.value.fix
            with pytest.raises(JournalError, match="damaged in the middle"):
                Journal.create(tmp_path, "driver")
            assert path.stat().st_size == len(whole)
        else:
            (segment,) = read(path)
            assert list(segment.events) == small_events()[:kept]
            assert segment.torn.offset == ends[kept]
            assert segment.torn.cut == len(whole) - ends[kept]


def test_zeros_that_a_power_loss_leaves_are_a_torn_tail(tmp_path, whole):
    path = tmp_path / "driver.journal"
    path.write_bytes(whole + bytes(4096))
    (segment,) = read(tmp_path)[:1]
    assert list(segment.events) == small_events()
    assert segment.torn.cut == 4096
    assert "no record begins there" in str(segment.torn)
    assert str(path) in str(segment.torn)


def test_the_events_before_damage_are_told_before_it(tmp_path, whole, ends):
    path = tmp_path / "driver.journal"
    path.write_bytes(whole[: ends[1]] + b"?" + whole[ends[1] + 1 :])
    seen = []
    with SegmentReader(path) as reader, pytest.raises(JournalError):
        seen.extend(reader)
    assert seen == small_events()[:1]


def test_the_mend_of_damage_works(tmp_path, whole, ends):
    path = tmp_path / "driver.journal"
    path.write_bytes(whole[: ends[2] - 1] + b"?" + whole[ends[2] :])
    with pytest.raises(JournalError) as caught:
        read(path)
    command = caught.value.fix.rpartition("truncate -s ")[2]
    with path.open("r+b") as file:
        file.truncate(int(command.split()[0]))
    (segment,) = read(path)
    assert list(segment.events) == small_events()[:1]


def test_a_marker_within_a_payload_does_not_confuse(tmp_path):
    from hooke.journal.events import StopRequested, WorkerStopped

    strange = WorkerStopped(at=1.0, worker=MARKER.decode("latin-1") * 10, cause="\n".join(["HK"] * 100))
    with Journal.create(tmp_path, "driver") as journal:
        for _ in range(3):
            journal.append(strange)
        journal.append(StopRequested(at=2.0, by="x"))
    assert len(read(tmp_path)[0].events) == 4


def test_a_writer_that_cuts_and_writes_anew_while_it_is_read_is_not_called_damaged(
    tmp_path, whole, ends, monkeypatch
):
    """The first read sees half an old record and half a new one; what lies on the disk is whole."""
    (tmp_path / "driver.journal").write_bytes(whole)
    reads = []

    def torn_read(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        reads.append(offset)
        at = ends[1] - offset - 3
        return data[:at] + b"???" + data[at + 3 :] if len(reads) == 2 else data

    pread = os.pread
    monkeypatch.setattr(os, "pread", torn_read)
    assert list(read(tmp_path / "driver.journal")[0].events) == small_events()
    assert len(reads) >= 3
