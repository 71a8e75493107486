"""Runs on pods as room comes and goes: from one pod to five to none, across a watch that is cut, and pods that make way for others."""

import json

import pytest
from tests.kubernetes.manifests import phase, pod, wait
from tests.kubernetes.room import JOB, RECORD, Way, alive, grow
from tests.kubernetes.test_runs import events, running

from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    BackendTrouble,
)

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long, pytest.mark.timeout(900)]

MOST = 5
"""Pods at one time; `make soak-kubernetes-room` has twenty."""


@pytest.fixture
def way(driver):
    made = Way(driver)
    yield made
    made.cut()


@pytest.fixture
def important(admin):
    """A class of pods that go first."""
    name = admin.create(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "important"},
            "value": 1000,
        }
    )["metadata"]["name"]
    yield name
    admin.delete("scheduling.k8s.io/v1/PriorityClass", name)


def goes_first(admin, namespace, important, cpus):
    made = pod("first", "import time; time.sleep(600)", priorityClassName=important)
    made["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": str(cpus), "memory": "32Mi"},
        "limits": {"memory": "64Mi"},
    }
    admin.create(made, namespace=namespace)


def test_a_fleet_names_the_pod_that_has_a_machines_place(pods, admin, important, restricted):
    cpus = 0.6 * int(admin.get("v1/Node", "node1")["status"]["allocatable"]["cpu"])
    provider = pods(cpus=cpus)
    provider.launch("one")
    wait(lambda: [each for each in provider.list() if each.phase == "ready"])
    goes_first(admin, restricted, important, cpus)
    whys = set()
    wait(lambda: whys.update(each.why for each in provider.list()) or not provider.list())
    named = f"the pod {restricted}/first, of higher priority, took its place (PreemptionByScheduler)"
    assert any(named in each for each in whys), whys


def test_a_pod_of_higher_priority_takes_a_workers_place_and_the_run_goes_on_when_there_is_room(
    driver, admin, important
):
    cpus = 0.6 * int(admin.get("v1/Node", "node1")["status"]["allocatable"]["cpu"])
    driver.put("job.py", JOB)
    driver.configure(workers="1", cpus=cpus)
    process = driver.start("run", "job.py:few", "--on", "pods")
    run = wait(lambda: running(driver, 1))
    [worker] = alive(driver)
    goes_first(admin, driver.namespace, important, cpus)
    wait(lambda: phase(admin, "first", driver.namespace) == "Running", within_s=200)
    assert worker["metadata"]["name"] not in driver.there("v1/Pod")
    # Its successor has to wait, and says that.
    wait(lambda: [each for each in said(driver, run) if "no node has room for it" in each])
    [taken] = [each for each in said(driver, run) if "PreemptionByScheduler" in each]
    assert f"the pod {driver.namespace}/first, of higher priority, took its place" in taken
    finished = len(events(driver, run, AttemptFinished))
    assert finished == len(events(driver, run, AttemptStarted)), "it finished what it did"
    assert finished < 2, "the other task waits"
    admin.delete("v1/Pod", "first", namespace=driver.namespace, grace_s=0)
    printed, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    assert json.loads(printed) == [0, 1]
    assert taken in complaint
    assert not events(driver, run, AttemptFailed)
    wait(lambda: not driver.left(), within_s=60)


def test_from_one_pod_to_five_to_none_across_a_watch_that_is_cut(driver, way):
    found = grow(driver, way, most=MOST, tasks=40, hold_s=6.0)
    assert found["pods_at_once"] == MOST
    assert found["workers_at_once"] <= MOST


def test_the_committed_record_is_of_twenty_pods_and_none_for_the_rest():
    made = json.loads(RECORD.read_text())
    assert made["cap"] == made["pods_at_once"] == made["workers_at_once"] == 20
    assert made["seconds_from_the_last_task_until_no_pod"] < 60 < made["rest_s"]
    assert made["seconds_from_the_next_request_until_the_retry"] > 0
    assert made["left"] == 0


def said(driver, run):
    return [each.message for each in events(driver, run, BackendTrouble)]
