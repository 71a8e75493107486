"""The journal's speed: an append against the bare write(2) beneath it, reading and folding per event."""

from __future__ import annotations

import os

import pytest

from hooke.base.ref import Ref
from hooke.journal.events import AttemptFinished, AttemptStarted, LogSpan, NodePlanned
from hooke.journal.reader import read
from hooke.journal.run_view import RunView
from hooke.journal.writer import Journal

EVENT = AttemptFinished(
    at=1.0,
    attempt=5,
    node=1,
    lo=0,
    hi=1,
    ref=Ref("a" * 64, 100),
    worker="w1",
    seconds=1.0,
    cpu_s=0.5,
    peak_bytes=10**8,
    log=LogSpan("w1", 0, 10),
)
EVENTS = 10_000


@pytest.mark.benchmark(group="journal: one append")
def test_append(benchmark, tmp_path):
    with Journal.create(tmp_path, "driver") as journal:
        benchmark(journal.append, EVENT)
    assert benchmark.stats.stats.median < 5e-6


@pytest.mark.benchmark(group="journal: one append")
def test_bare_write_of_as_many_bytes(benchmark, tmp_path):
    with Journal.create(tmp_path, "driver") as journal:
        journal.append(EVENT)
        record = journal.path.read_bytes()[20:]
    fd = os.open(tmp_path / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    benchmark(os.write, fd, record)
    os.close(fd)


@pytest.fixture
def folder(tmp_path):
    with Journal.create(tmp_path, "driver", durable="none") as journal:
        for _ in range(EVENTS):
            journal.append(EVENT)
    return tmp_path


@pytest.mark.benchmark(group="journal: 10,000 events")
def test_read(benchmark, folder):
    (segment,) = benchmark(read, folder)
    assert len(segment.events) == EVENTS


@pytest.mark.benchmark(group="journal: 10,000 events")
def test_fold(benchmark):
    """Half of them starts, half ends, of chunks of a map of a million items."""
    events = [NodePlanned(node=0, task="f", key="k", kind="map", items=1_000_000)]
    for attempt, lo in enumerate(range(0, 1_000_000, 200)):
        chunk = {"attempt": attempt, "node": 0, "lo": lo, "hi": lo + 200, "worker": "w1"}
        events += [AttemptStarted(at=1.0, **chunk), AttemptFinished(at=2.0, ref=EVENT.ref, **chunk)]
    view = benchmark(RunView.fold, events)
    assert view.tasks["f"].done == 1_000_000
