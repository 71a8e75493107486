"""Runs on pods as room comes and goes: from one pod to five to none, across a watch that is cut, and pods that make way for others."""

import json
import sys

import pytest
from tests.kubernetes.manifests import phase, pod, wait
from tests.kubernetes.test_runs import events, running, unended
from tests.support import REPOSITORY

from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    BackendTrouble,
    CapacityChanged,
)

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

MOST = 5
"""Pods at one time. On two cores that others use as well, the programs of twenty took longer to start than a run waits for one."""
MANY = 40
JOB = f"""
import time
from hooke import pipeline, task

@task(retries=2)
def waits(x, hold, after=None):
    time.sleep(hold)
    return x

@task
def total(parts):
    return sum(parts)

@pipeline
def sizes(n: int = {MANY}, hold: float = 6.0):
    first = waits(0, 1.0)
    return total([waits(x, hold, first) for x in range(1, n)])

@pipeline
def few(n: int = 2, hold: float = 15.0):
    return [waits(x, hold) for x in range(n)]
"""
RELAY = """
import asyncio, socket, sys
sys.path.insert(0, sys.argv[2])
from tests.kubernetes.relay import serve
asyncio.run(serve(socket.create_server(("127.0.0.1", 7443)), sys.argv[1], 6443))
"""


class Way:
    """The driver's only way to the API server. Each end of it cuts all its connections."""

    def __init__(self, driver):
        self._host, self._to = driver.host, driver.cluster.control_address
        self._process = None
        self.open()
        user = f"runner-{driver.namespace}"
        driver.put("kubeconfig", driver.cluster.config(user, server="https://127.0.0.1:7443"))

    def open(self):
        self._process = self._host.popen([sys.executable, "-c", RELAY, self._to, REPOSITORY])

    def cut(self):
        self._host.end(self._process)


@pytest.fixture
def way(driver):
    made = Way(driver)
    yield made
    made.cut()


def alive(driver):
    """The pods of the namespace that work or begin to."""
    return [
        each
        for each in driver.admin.list("v1/Pod", namespace=driver.namespace)[0]
        if each["status"].get("phase") in ("Pending", "Running")
        and not each["metadata"].get("deletionTimestamp")
    ]


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


def test_from_one_pod_to_five_to_none_across_a_watch_that_is_cut(driver, admin, way):
    """The tasks wait, so that two cores bear their pods."""
    driver.put("job.py", JOB)
    driver.configure(
        workers=f"[0, {MOST}]", memory="300 MiB", cpus=0.05, more=f'listen = "{driver.host.address}"'
    )
    process = driver.start("run", "job.py:sizes", "--on", "pods", "--json")
    [run] = wait(lambda: unended(driver))
    wait(lambda: len(alive(driver)) == 1)
    wait(lambda: len(alive(driver)) == MOST, within_s=400)
    wait(lambda: max(each.workers for each in events(driver, run, CapacityChanged)) > 2, within_s=400)
    # What happens while nobody watches is seen afterwards: a pod that is gone has a successor.
    way.cut()
    [lost, *_] = alive(driver)
    admin.delete("v1/Pod", lost["metadata"]["name"], namespace=driver.namespace, grace_s=0)
    before = {each["metadata"]["uid"] for each in alive(driver)}
    way.open()
    wait(lambda: {each["metadata"]["uid"] for each in alive(driver)} - before, within_s=200)
    printed, complaint = process.communicate(timeout=500)
    assert process.returncode == 0, complaint
    assert json.loads(printed)["result"] == MANY * (MANY - 1) // 2
    assert max(each.workers for each in events(driver, run, CapacityChanged)) <= MOST
    wait(lambda: not driver.left(), within_s=60)


def said(driver, run):
    return [each.message for each in events(driver, run, BackendTrouble)]
