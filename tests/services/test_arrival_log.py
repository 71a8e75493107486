"""The log of arrivals: what is written is read, whatever was torn, full or restarted in between, and a year is small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.services.arrival_log import ArrivalLog, ServiceFacts, read_arrivals, read_facts

NOON = 1_790_000_000 - 1_790_000_000 % 60


def write(folder: Path, counts: list[int], *, first: int = NOON) -> None:
    log = ArrivalLog(folder)
    for second, count in enumerate(counts, start=first):
        log.add(second, count)
    log.end_block()
    log.flush()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=200), st.integers(0, 59))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], offset: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    write(folder, counts, first=NOON + offset)
    first, read = read_arrivals(folder)
    assert first == NOON
    assert read.tolist() == [0] * offset + counts


def test_a_restart_goes_on_in_the_same_minute_and_gaps_are_zeros(tmp_path: Path) -> None:
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [4, 5], first=NOON + 10)
    write(tmp_path, [6], first=NOON + 300)
    _, read = read_arrivals(tmp_path)
    assert read[:12].tolist() == [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 4, 5]
    assert read.sum() == 21
    assert read[300] == 6


def test_a_clock_that_goes_back_loses_no_request(tmp_path: Path) -> None:
    log = ArrivalLog(tmp_path)
    for second, count in ((30, 1), (31, 2), (30, 4), (32, 8), (3, 16)):
        log.add(NOON + second, count)
    log.end_block()
    log.flush()
    assert read_arrivals(tmp_path)[1].sum() == 31


def test_what_a_wrong_clock_has_dated_far_away_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [4], first=600)
    write(tmp_path, [5], first=2 * NOON)
    first, read = read_arrivals(tmp_path, until=NOON + 60.0)
    assert first == NOON
    assert read.tolist() == [1, 2, 3]


def test_a_torn_tail_costs_its_block_alone(tmp_path: Path) -> None:
    write(tmp_path, [5] * 120)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    for cut in range(1, len(whole), 7):
        path.write_bytes(whole[:-cut])
        before = read_arrivals(tmp_path)[1].sum()
        assert before in {0, 300}
        write(tmp_path, [7] * 60, first=NOON + 600)
        assert read_arrivals(tmp_path)[1].sum() == before + 420


def test_a_flipped_byte_costs_its_block_alone(tmp_path: Path) -> None:
    write(tmp_path, list(range(180)))
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        assert len(np.flatnonzero(read_arrivals(tmp_path)[1])) >= 118


def test_facts_stand_beside_the_counts(tmp_path: Path) -> None:
    log = ArrivalLog(tmp_path)
    fact = ServiceFacts(
        at=float(NOON + 5), seconds=300.0, requests=7, batches=3, rows=7, batch_s=0.4, starts_s=(1.5,)
    )
    log.facts(fact)
    log.add(NOON, 3)
    log.end_block()
    log.flush()
    assert read_facts(tmp_path) == [fact]
    assert read_arrivals(tmp_path)[1].sum() == 3
    assert read_facts(tmp_path, since=NOON + 6.0) == []


@pytest.mark.parametrize("rate", [0.2, 30.0, 20_000.0])
def test_a_year_takes_less_than_100_mb(tmp_path: Path, rate: float) -> None:
    hours = 6
    write(tmp_path, np.random.default_rng(0).poisson(rate, hours * 3600).tolist())
    log = ArrivalLog(tmp_path)
    for minute in range(0, hours * 60, 5):
        log.facts(
            ServiceFacts(at=NOON + minute * 60.0, seconds=300.0, requests=10**6, batch_s=0.1, squares=0.1)
        )
    log.flush()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size * 365 * 24 / hours < 100e6


@pytest.mark.needs("cpu")
def test_what_a_full_disk_refuses_is_written_when_there_is_room(tmp_path: Path) -> None:
    """A real limit on the size of files, in a process of its own: the write is cut, and then fails."""
    program = f"""
import resource, signal, pathlib
from tests.services.test_arrival_log import NOON, ArrivalLog, read_arrivals
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = ArrivalLog(pathlib.Path({str(tmp_path)!r}))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
for second in range(600):
    log.add(NOON + second, second)
log.end_block()
failed = 0
for _ in range(3):
    try:
        log.flush()
    except OSError:
        failed += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.flush()
print(failed, read_arrivals(log.folder)[1].tolist() == list(range(600)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout == "3 True\n", done.stderr
