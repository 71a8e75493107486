"""Windows of batches: nothing is lost in them, however they are cut and put together again."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.small_disk import fill
from tests.serving.services import Rows, Slow

from hooke import service
from hooke.journal.reader import read
from hooke.journal.service_events import BatchWindow, MethodBatches
from hooke.project.folder import Project
from hooke.services.service_runs import ServiceRun
from hooke.serving.service import service_of
from hooke.serving.stats_windows import (
    StatsWindow,
    merge_windows,
    next_window_end_s,
    size_bin,
    window_length_s,
)
from hooke.testing import client

BATCHES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.integers(1, 5000),
        st.sampled_from([0.25, 0.5, 2.0]),  # exact in binary: sums are equal in any order
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=30,
)


def kept(batches, now=0.0):
    windows = StatsWindow(now)
    for batch in batches:
        windows.add(*batch)
    return windows


@pytest.mark.needs("cpu")
@given(BATCHES)
def test_a_window_is_the_sum_of_its_batches(batches):
    made = kept(batches).take(10.0)
    assert made.seconds == 10.0
    assert made.batches == len(batches)
    assert made.rows == sum(rows for _, rows, *_ in batches)
    assert made.requests == sum(answered for *_, answered, _ in batches)
    assert made.busy_s == sum(took for _, _, took, *_ in batches)
    assert made.request_s == sum(took * active for _, _, took, _, active in batches)
    for method in made.methods:
        own = [(rows, took) for name, rows, took, *_ in batches if name == method.method]
        for size in method.sizes:
            there = [
                (rows, took) for rows, took in own if size_bin(rows) == size_bin(size.rows // size.batches)
            ]
            assert (size.batches, size.rows, size.seconds, size.squares) == (
                len(there),
                sum(rows for rows, _ in there),
                sum(took for _, took in there),
                sum(took**2 for _, took in there),
            )


@pytest.mark.needs("cpu")
@given(BATCHES, st.lists(st.integers(0, 30), max_size=4))
def test_windows_put_together_are_the_window_of_all(batches, cuts):
    ends = [0, *sorted(cuts), len(batches)]
    parts = [kept(batches[start:end]).take(1.0) for start, end in pairwise(ends)]
    whole = kept(batches).take(float(len(parts)))
    assert merge_windows(parts) == whole
    assert merge_windows(parts, side_by_side=True) == msgspec.structs.replace(whole, seconds=1.0)


@given(st.integers(1, 10**9))
def test_a_bin_is_narrow_and_bins_are_in_order(rows):
    assert size_bin(rows) <= size_bin(rows + 1) <= size_bin(rows) + 1
    if rows <= 16:
        assert size_bin(rows - 1) < size_bin(rows)
    assert size_bin(rows) < size_bin(rows + rows // 8 + 1)


def test_a_window_that_was_taken_leaves_nothing_behind():
    windows = kept([("a", 3, 0.5, 2, 2)])
    windows.refused = windows.late = windows.raised = windows.over_slo = windows.most_waiting = 4
    windows.unbatched(0.5)
    windows.failure("a", 0.5, 1, blamed=True)
    windows.arrived = 4
    windows.answered(2.0)
    windows.gone(3.0)
    windows.take(1.0)
    assert windows.take(3.0) == BatchWindow(seconds=2.0)


@given(st.floats(0, 2e9))
def test_windows_of_all_replicas_end_together(wall):
    left = next_window_end_s(wall)
    assert 0.5 <= left <= 5.5 + 1e-6
    assert min((wall + left) % 5.0, 5.0 - (wall + left) % 5.0) == pytest.approx(0.0, abs=1e-6)


def test_windows_of_a_month_are_few():
    at, count = 0.0, 0
    while at < 30 * 86400:
        at += window_length_s(at)
        count += 1
        if at < 3600:
            assert window_length_s(at) == 5.0
    assert count < 12_500


def test_what_a_replica_counts():
    @service(max_batch=4, slo="p99 < 1us")
    class Over(Rows):
        pass

    with client(Over) as over, ThreadPoolExecutor(4) as threads:
        asked = [[[1.0, 1.0]] * 2, [[1.0, 2.0]], [[-1.0, 0.0]], [[3.0, 3.0]]]
        codes = sorted(threads.map(lambda rows: over.post("/predict", {"rows": rows}).status, asked))
        assert codes == [200, 200, 200, 500]
        window = over.replica.dispatch.windows.take(over.replica.dispatch._loop.time())
    assert (window.requests, window.failed, window.over_slo, window.refused, window.late) == (3, 1, 3, 0, 0)
    assert (window.arrived, window.ended, window.gone) == (4, 4, 0)
    assert sum(count for _, count in window.latencies) == 3
    assert window.rows == 4
    assert window.busy_s > 0
    assert window.request_s >= window.busy_s
    (method,) = window.methods
    assert method.method == "predict"
    assert method.failed >= 1
    assert sum(size.batches for size in method.sizes) == window.batches >= 1


def test_calls_that_are_in_no_batch_count_too():
    with client(Slow) as slow:
        codes = [slow.post("/wait", {"s": s}).status for s in (0.01, 0.0, 0.5)]
        assert codes == [200, 200, 504]
        window = slow.replica.dispatch.windows.take(slow.replica.dispatch._loop.time())
    assert (window.requests, window.late, window.batches, window.arrived) == (2, 1, 0, 3)
    (first, _), *_ = window.latencies
    assert first == 0, "one gave its answer at once"
    assert window.request_s >= 0.01


@pytest.mark.needs("cpu")
def test_late_requests_are_no_answered_ones():
    with client(Slow) as slow:
        assert slow.post("/sleep", {"s": 0.3}).status == 504
        assert slow.post("/sleep", {"s": 0.0}).status in (200, 504)
        window = slow.replica.dispatch.windows.take(slow.replica.dispatch._loop.time())
    assert window.late >= 1
    assert window.requests + window.late == 2


def test_who_goes_after_the_limit_counts_against_the_promise():
    windows = StatsWindow(0.0, limit_s=0.5)
    for after in (0.1, 0.6, 0.7):
        windows.gone(after)
    window = windows.take(5.0)
    assert (window.gone, window.gone_over_slo, window.ended) == (3, 2, 2)
    both = merge_windows([window, window])
    assert (both.gone, both.gone_over_slo) == (6, 4)


class Hours:
    """A clock that is told what time it is."""

    def __init__(self):
        self.at = 1000.0

    def now(self):
        return self.at

    monotonic = now


def events_of(run):
    (driver,) = read(run.project.runs.folder(run.id), "driver")
    return list(driver.events)


@pytest.mark.needs("cpu")
@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 7]), max_size=30))
def test_a_run_holds_all_windows(tmp_path_factory, counts):
    project = Project.find(tmp_path_factory.mktemp("project"))
    with ServiceRun(project, service_of(Rows), entry="delays.py:Delay", shown={"a": "1"}) as run:
        for count in counts:
            run.window(BatchWindow(seconds=2.0, requests=count))
    started, _, *windows, finished = events_of(run)
    assert (started.kind, started.pipeline, started.shown) == ("service", "Rows", {"a": "1"})
    assert finished.status == "finished"
    assert sum(each.requests for each in windows) == sum(counts)
    assert all(each.requests for each in windows)


def test_the_first_window_of_a_replica_stays_by_itself(tmp_path):
    """It ends where those of all replicas do, and the next ones are whole."""
    with ServiceRun(Project.find(tmp_path), service_of(Rows), entry="", shown={}) as run:
        for seconds in (1.5, 5.0, 5.0):
            run.window(BatchWindow(seconds=seconds, requests=1, replica="1"))
    assert [each.seconds for each in events_of(run)[2:-1]] == [1.5, 5.0, 5.0]


@pytest.mark.needs("cpu")
def test_windows_grow_with_the_age_of_the_service_and_replicas_are_apart(tmp_path):
    clock = Hours()
    with ServiceRun(Project.find(tmp_path), service_of(Rows), entry="", shown={}, clock=clock) as run:
        for _ in range(3000):
            clock.at += 5.0
            for replica in ("r1", "r2"):
                run.window(BatchWindow(seconds=5.0, requests=1, replica=replica))
            if run._said.qsize() > 2:
                threading.Event().wait(0.0001)  # the clock is read when a window is written
    windows = events_of(run)[2:-1]
    for replica in ("r1", "r2"):
        own = [each for each in windows if each.replica == replica]
        assert sum(each.requests for each in own) == 3000
        assert len(own) < 2300
        assert own[0].seconds == pytest.approx(5.0, abs=15.0)
        assert own[-2].seconds >= 15.0


def test_a_service_that_failed_says_so(tmp_path):
    with (
        pytest.raises(ValueError, match="no weights"),
        ServiceRun(Project.find(tmp_path), service_of(Rows), entry="", shown={}) as run,
    ):
        raise ValueError("no weights")
    assert (events_of(run)[-1].status, events_of(run)[-1].message) == ("failed", "no weights")


def test_a_full_disk_ends_no_service_and_loses_no_count(small_disk, caplog):
    with ServiceRun(Project.find(small_disk), service_of(Rows), entry="", shown={}) as run:
        ballast = fill(small_disk)
        for name in "abc":
            run.window(BatchWindow(seconds=5.0, requests=1, methods=(MethodBatches(method=name * 5000),)))
        while run._said.qsize() or not run._warned:
            threading.Event().wait(0.001)
        ballast.unlink()
    assert sum(each.requests for each in events_of(run)[2:-1]) == 3
    assert caplog.text.count("the journal cannot be written") == 1
