"""A process in reserve: the next replica is a process that has imported the service's file already."""

import os
import signal
import time

import psutil
import pytest
from tests.services.supervisor.supervised import LIMIT_S, SERVICE, gone, hooke, post

from hooke.project.folder import Project
from hooke.services.supervisor.children import STANDBY
from hooke.services.supervisor.service_folder import ServiceFolder, is_alive

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]

PREPARED = SERVICE.replace("max_batch=8", "max_batch=8, replicas=(LEAST, 3), standby=True").replace(
    "from hooke import service", 'from hooke import service\nprint("imported by", os.getpid(), flush=True)'
)


@pytest.fixture
def prepared(supervised, folder):
    def serve(*words, least=1):
        (folder / "prepared.py").write_text(PREPARED.replace("LEAST", str(least)))
        return supervised(*words, file="prepared.py")

    return serve


def in_reserve(service, *, other_than=0):
    """The process in reserve, once there is one."""
    folder = ServiceFolder.of(Project.find(service.folder), "Delay")
    ends = time.monotonic() + LIMIT_S
    while True:
        for record in folder.children():
            if record.name == STANDBY and record.pid != other_than and is_alive(record):
                return record.pid
        assert time.monotonic() < ends, service.text
        time.sleep(0.05)


def pids(service, count):
    return [one["pid"] for one in service.until_ready(count)["replicas"]]


def imported(service, pid):
    """Once this process has imported the file: its log says so."""
    ends = time.monotonic() + LIMIT_S
    while not any(f"imported by {pid}\n" in log.read_text() for log in service.folder.rglob("replica-*.log")):
        assert time.monotonic() < ends, service.text
        time.sleep(0.05)


@pytest.mark.long
def test_the_next_replica_is_the_process_in_reserve_and_another_one_follows(prepared):
    service = prepared()
    (first,) = pids(service, 1)
    spare = in_reserve(service)
    imported(service, spare)
    assert hooke(service.folder, "scale", "2").returncode == 0
    assert set(pids(service, 2)) == {first, spare}
    logs = [log.read_text() for log in service.folder.rglob("replica-2.log")]
    assert [log.count("imported by") for log in logs] == [1]
    assert [post(service, "/predict", {"rows": [3]}) for _ in range(8)] == 8 * [[6]]
    second = in_reserve(service, other_than=spare)
    assert service.end() == 0
    assert gone([first, spare, second])


@pytest.mark.long
def test_one_that_is_killed_is_missed_by_nobody(prepared):
    service = prepared()
    (first,) = pids(service, 1)
    spare = in_reserve(service)
    os.kill(spare, signal.SIGKILL)
    service.until("the process in reserve has ended")
    assert hooke(service.folder, "scale", "2").returncode == 0
    (other,) = set(pids(service, 2)) - {first}
    assert other != spare
    assert in_reserve(service, other_than=spare)


@pytest.mark.long
def test_one_whose_log_cannot_be_renamed_is_ended_and_another_replica_starts(prepared):
    service = prepared()
    (first,) = pids(service, 1)
    spare = in_reserve(service)
    imported(service, spare)
    for log in service.folder.rglob(f"replica-{STANDBY}.log"):
        log.unlink()
    assert hooke(service.folder, "scale", "2").returncode == 0
    (other,) = set(pids(service, 2)) - {first}
    assert other != spare
    assert gone([spare])
    assert in_reserve(service, other_than=spare)


@pytest.mark.long
def test_a_supervisor_that_takes_over_ends_that_of_the_one_before(prepared):
    service = prepared()
    (first,) = pids(service, 1)
    spare = in_reserve(service)
    service.process.kill()
    service.process.wait()
    assert psutil.pid_exists(spare)
    after = prepared()
    assert pids(after, 1) == [first]
    assert gone([spare])
    assert in_reserve(after, other_than=spare)


def test_from_zero_the_process_in_reserve_answers(prepared):
    service = prepared("--keep-alive", "0.3s", least=0)
    service.until("no replica runs")
    spare = in_reserve(service)
    assert post(service, "/predict", {"rows": [4]}) == [8]
    started = service.until(r"replica \d+ starts \(pid (\d+)")
    assert str(spare) in {match[1] for match in started}
