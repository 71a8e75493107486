"""A run whose pods go from one to many to none and back to one, across a watch that is cut, while it goes on.

    python -m tests.kubernetes.room --most 20
    make soak-kubernetes-room      twenty pods; writes benchmarks/records/kubernetes_room.json

The tasks wait, so that two cores bear their pods. Their starts are not waited for with a time limit of their own: twenty programs that
import Dask at the same time take minutes where other work goes on.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.manifests import namespace, wait
from tests.kubernetes.test_runs import HOME, STORE, Driver, events, unended
from tests.support import REPOSITORY

from hooke.journal.events import AttemptFailed, CapacityChanged
from hooke.journal.fleet_events import LaunchIntended, MachineGone
from hooke.kubernetes.client import Kubernetes
from hooke.kubernetes.kubeconfig import find_access
from hooke.machines.keeper import records_of

__all__ = ["JOB", "RECORD", "Way", "alive", "grow", "main", "table"]

RECORD = Path(__file__).parents[2] / "benchmarks" / "records" / "kubernetes_room.json"
JOB = """
import os, time
from hooke import Temporary, pipeline, task

@task(retries=2)
def waits(x, hold, after=None):
    time.sleep(hold)
    return x

@task
def total(parts):
    return sum(parts)

@task(retries=1)
def rests(done, marks, rest):
    try:
        os.close(os.open(f"{marks}/rested", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return done
    if rest:
        raise Temporary("not yet", delay_s=rest)
    return done

@pipeline
def sizes(n: int, hold: float, rest: float, marks: str):
    first = waits(0, 1.0)
    return rests(total([waits(x, hold, first) for x in range(1, n)]), marks, rest)

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


def alive(driver):
    """The pods of the namespace that work or begin to."""
    return [
        each
        for each in driver.admin.list("v1/Pod", namespace=driver.namespace)[0]
        if each["status"].get("phase") in ("Pending", "Running")
        and not each["metadata"].get("deletionTimestamp")
    ]


def grow(
    driver: Any, way: Way, *, most: int, tasks: int, hold_s: float, rest_s: float = 0.0
) -> dict[str, Any]:
    """A run of so many tasks on at most so many pods; `rest_s`: how long its last task waits for a retry. Returns what happened."""
    driver.put("job.py", JOB)
    driver.configure(
        workers=f"[0, {most}]", memory="300 MiB", cpus=0.02, more=f'listen = "{driver.host.address}"'
    )
    words = {"n": tasks, "hold": hold_s, "rest": rest_s, "marks": STORE}
    given = [part for name, value in words.items() for part in (f"--{name}", str(value))]
    process, began = driver.start("run", "job.py:sizes", "--on", "pods", "--json", "--", *given), time.time()
    [run] = wait(lambda: unended(driver))
    wait(lambda: len(alive(driver)) == 1)
    wait(lambda: len(alive(driver)) == most, within_s=400)
    there = time.time() - began
    # In CI not all of them: the last starts may take longer than the tasks.
    wanted = most if rest_s else min(most, 3)
    wait(lambda: max(each.workers for each in events(driver, run, CapacityChanged)) >= wanted, within_s=900)
    worked = time.time() - began
    # What happens while nobody watches is seen afterwards: a pod that is gone has a successor.
    way.cut()
    [lost, *_] = alive(driver)
    driver.admin.delete("v1/Pod", lost["metadata"]["name"], namespace=driver.namespace, grace_s=0)
    before = {each["metadata"]["uid"] for each in alive(driver)}
    way.open()
    wait(lambda: {each["metadata"]["uid"] for each in alive(driver)} - before, within_s=200)
    printed, complaint = process.communicate(timeout=1500)
    assert process.returncode == 0, complaint
    assert json.loads(printed)["result"] == tasks * (tasks - 1) // 2
    wait(lambda: not driver.left(), within_s=60)
    return {
        "pods_at_once": _most_at_once(driver, run),
        "workers_at_once": max(each.workers for each in events(driver, run, CapacityChanged)),
        "seconds_until_all_pods": round(there, 1),
        "seconds_until_enough_work": round(worked, 1),
        "seconds_until_all_ended": round(time.time() - began, 1),
        "pods": len(_of(driver, run, LaunchIntended)),
        "left": len(driver.left()),
    } | (_rest(driver, run) if rest_s else {})


def _of(driver, run, kind):
    return [
        each for each in records_of(driver.host.path(f"{HOME}/.hooke/runs/{run}")) if isinstance(each, kind)
    ]


def _most_at_once(driver, run):
    """By the ledger: a pod counts from the request for it until it is known to be gone."""
    there = most = 0
    for each in sorted(_of(driver, run, LaunchIntended | MachineGone), key=lambda each: each.at):
        there += 1 if isinstance(each, LaunchIntended) else -1
        most = max(most, there)
    return most


def _rest(driver, run):
    """How soon no pod was left after the last task had failed, and how long before its retry the next was asked for."""
    failed = events(driver, run, AttemptFailed)[-1]
    due = failed.at + failed.failure.delay_s
    next_one = min(each.at for each in _of(driver, run, LaunchIntended) if each.at > failed.at)
    gone = max(each.at for each in _of(driver, run, MachineGone) if each.at < next_one)
    return {
        "seconds_from_the_last_task_until_no_pod": round(gone - failed.at, 1),
        "seconds_from_the_next_request_until_the_retry": round(due - next_one, 1),
    }


def table(made: dict[str, Any]) -> str:
    """The record as a page has it."""
    rows = {
        "pods allowed": made["cap"],
        "most pods at one time, by the ledger": made["pods_at_once"],
        "most workers that took tasks at one time": made["workers_at_once"],
        "from the start of the command until twenty pods were there": f"{made['seconds_until_all_pods']:g} s",
        "until twenty workers took tasks": f"{made['seconds_until_enough_work']:g} s",
        "from the last task until no pod was left": f"{made['seconds_from_the_last_task_until_no_pod']:g} s",
        "from the request for the next pod until its retry was due": f"{made['seconds_from_the_next_request_until_the_retry']:g} s",
        "pods in all, with the one that was deleted": made["pods"],
        "left after the run": made["left"],
        "load of the machine before, on two cores": made["load_before"],
    }
    return "".join(["| | |\n|---|---|\n", *(f"| {name} | {value} |\n" for name, value in rows.items())])


def main() -> None:
    """On a cluster of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=240)
    parser.add_argument("--hold", type=float, default=10.0, metavar="SECONDS")
    # Pods end at once where it is two starts or longer, and twenty starts at the same time take minutes.
    parser.add_argument("--rest", type=float, default=450.0, metavar="SECONDS")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    given = parser.parse_args()
    load = psutil.getloadavg()[0]
    with Cluster() as cluster:
        admin = Kubernetes(find_access(cluster.kubeconfig))
        name = admin.create(namespace("room-"))["metadata"]["name"]
        wait(lambda: admin.list("v1/ServiceAccount", namespace=name)[0])
        driver = Driver(cluster, admin, name)
        way = Way(driver)
        found = grow(driver, way, most=given.most, tasks=given.tasks, hold_s=given.hold, rest_s=given.rest)
        way.cut()
        admin.close()
    made = {
        "machine": {"cores": psutil.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30)},
        "load_before": round(load, 1),
        "seed": "nothing is drawn",
        "cap": given.most,
        "tasks": given.tasks,
        "seconds_of_a_task": given.hold,
        "rest_s": given.rest,
    } | found
    print(json.dumps(made, indent=1))
    if given.record:
        RECORD.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
