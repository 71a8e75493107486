"""What a service went through, from its journal: nothing of a window is lost or counted twice, and replicas are counted right."""

import resource
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving.answers import wait_until

from hooke import service
from hooke.journal.service_events import (
    BatchWindow,
    ReplicaAdopted,
    ReplicaEnded,
    ReplicaLeft,
    ReplicaReady,
    ReplicaStarted,
    ServiceScaled,
)
from hooke.project.folder import Project
from hooke.services.service_report import read_service
from hooke.services.service_runs import ServiceRun, replica_counts, start_times_s, time_slice, time_slices
from hooke.serving.service import service_of

WINDOWS = st.lists(
    st.builds(
        BatchWindow,
        at=st.floats(100.0, 200.0),
        seconds=st.floats(0.5, 20.0),
        replica=st.sampled_from("123"),
        arrived=st.integers(0, 500),
        requests=st.integers(0, 500),
        refused=st.integers(0, 9),
        late=st.integers(0, 9),
        gone_over_slo=st.integers(0, 9),
        latencies=st.just(((3, 7), (9, 1))),
    ),
    max_size=20,
)


@pytest.mark.needs("cpu")
@settings(max_examples=40)
@given(WINDOWS, st.integers(1, 40))
def test_stretches_hold_all_of_every_window_once(windows, most):
    parts = time_slices(windows, (), began=105.0, ended=200.0, most=most)
    assert len(parts) <= most + 1
    assert all(part.seconds >= 2.5 for part in parts)
    assert (parts[0].began, sum(part.seconds for part in parts)) == (105.0, pytest.approx(95.0))
    assert all(part.began % 5 == 0 for part in parts)
    for name, of in [
        ("answered", lambda each: each.requests),
        ("asked", lambda each: each.arrived or each.ended),
        ("unanswered", lambda each: each.refused + each.late + each.gone_over_slo),
    ]:
        assert sum(getattr(part, name) for part in parts) == pytest.approx(sum(map(of, windows)))
    assert sum(sum(part.latencies.values()) for part in parts) == pytest.approx(8 * len(windows))


def test_a_window_across_a_border_is_shared_by_time():
    windows = [BatchWindow(at=13.0, seconds=4.0, requests=8, over_slo=4, arrived=8)]
    first, second = time_slices(windows, (), began=0.0, ended=19.0, most=2)
    assert (first.answered, second.answered) == (pytest.approx(2.0), pytest.approx(6.0))
    assert first.within == pytest.approx(0.5)
    assert time_slice(windows, (), began=12.0, ended=20.0).asked == pytest.approx(2.0)
    assert time_slice(windows, (), began=14.0, ended=20.0).within is None


def test_replicas_over_time():
    events = [
        ReplicaStarted(at=0.0, replica="1", pid=1, port=1, reason="1 wanted"),
        ReplicaReady(at=2.0, replica="1", seconds=2.0),
        ServiceScaled(at=10.0, before=1, after=3, reason="more"),
        ReplicaStarted(at=10.0, replica="2", pid=2, port=2, reason="3 wanted"),
        ReplicaReady(at=11.0, replica="2", seconds=1.0),
        ReplicaEnded(at=12.0, replica="3", cause="it died while it started", expected=False),
        ReplicaEnded(at=14.0, replica="1", cause="it died", expected=False),
        ReplicaReady(at=15.0, replica="4", seconds=1.5),
        ServiceScaled(at=20.0, before=3, after=1, reason="less"),
        ReplicaLeft(at=20.0, replica="4", reason="1 wanted"),
        ReplicaEnded(at=21.0, replica="4", cause="", expected=True),
    ]
    staff = replica_counts(events, low=1)
    steps = [(each.at, each.ready, each.wanted) for each in staff]
    assert steps[:3] == [(0.0, 0, 1), (2.0, 1, 1), (10.0, 1, 3)]
    assert steps[-1] == (21.0, 1, 1)
    assert max(each.ready for each in staff) == 2
    assert start_times_s(events) == [2.0, 1.0, 1.5]
    part = time_slice([], staff, began=10.0, ended=12.0)
    assert (part.ready, part.wanted) == (pytest.approx(1.5), 3)
    assert time_slice([], staff, began=-5.0, ended=-1.0).ready == 0
    assert time_slice([], staff, began=30.0, ended=40.0).ready == 1


def test_one_that_was_taken_over_answers_from_then_on():
    staff = replica_counts([ReplicaAdopted(at=1.0, replica="7", pid=1, port=1)], low=2)
    assert [(each.ready, each.wanted) for each in staff] == [(1, 2)]
    assert replica_counts([], low=1) == ()


@service
class Counted:
    def predict(self, x: float) -> float:
        return x


def window(replica="1", arrived=7, **given):
    return BatchWindow(at=100.0, seconds=5.0, replica=replica, arrived=arrived, requests=arrived, **given)


@pytest.fixture
def full():
    """A function that leaves this process no room in files beyond so many bytes, as a full disk does; undone at the end."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, former[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, former)
    signal.signal(signal.SIGXFSZ, ignored)


def room(full, run):
    """Call with True for room, with False for none."""
    segment = next(run.project.runs.folder(run.id).glob("*.journal"))
    return lambda there: full(resource.RLIM_INFINITY if there else segment.stat().st_size)


def test_what_found_no_room_is_written_when_there_is_and_in_order(tmp_path, full):
    project = Project.find(tmp_path)
    project.create()
    with ServiceRun(project, service_of(Counted), entry="", shown={}) as run:
        may = room(full, run)
        may(False)
        run.say(ReplicaReady(at=101.0, replica="1", seconds=2.0))
        run.window(window())
        run.say(ReplicaLeft(at=102.0, replica="1", reason="1 wanted"))
        wait_until(lambda: len(run._unwritten) == 2 and run._pending)
        may(True)
    record = read_service(project.runs.folder(run.id))
    assert [type(event) for event in record.replicas] == [ReplicaReady, ReplicaLeft]
    assert sum(each.requests for each in record.windows) == 7
    assert run.lost == ""


def test_what_never_found_room_is_counted_and_said(tmp_path, full, caplog):
    project = Project.find(tmp_path)
    project.create()
    with ServiceRun(project, service_of(Counted), entry="", shown={}) as run:
        room(full, run)(False)
        for replica in ("1", "2"):
            run.window(window(replica))
        run.say(ReplicaReady(at=101.0, replica="1", seconds=2.0))
    full(resource.RLIM_INFINITY)
    assert run.lost == "14 requests and 1 events of replicas"
    assert "lacks 14 requests and 1 events of replicas" in caplog.text
