"""A fleet of pods under its keeper while pods, nodes and the control plane fail, in an order that a seed determines.

    python -m tests.kubernetes.storm --seconds 60 --seed 7
    make soak-kubernetes     the same for twenty minutes; writes benchmarks/records/kubernetes_storm.json

Each fault is real, and is believed only on evidence of the cluster's own: a UID that is gone, a condition, an exit code, a
new process. After each the fleet must have its size again, and the ledger a sentence about it; at no time may there be
more pods than the fleet's cap.
"""

import argparse
import contextlib
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Self

import psutil
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.manifests import POD_TEMPLATE, PROGRAM, PYTHON, namespace, wait

from hooke.base.clock import SystemClock
from hooke.fleets.fleet_folder import line_of
from hooke.journal.fleet_events import MachineGone, MachineReleased, ProviderAnswered, ProviderFailed
from hooke.kubernetes.client import ApiError, ApiUnreachable, Kubernetes, NotThere
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.watch import Watch
from hooke.machines.controller import Caps
from hooke.machines.keeper import FleetKeeper, Ledger
from hooke.providers.kubernetes_pods import KubernetesPods
from hooke.providers.processes import FLEET, MACHINE

__all__ = ["FAULTS", "RECORD", "Storm", "main"]

RECORD = Path(__file__).parents[2] / "benchmarks" / "records" / "kubernetes_storm.json"
SIZE, MOST = 3, 4
"""The machines that are wanted, and the cap."""
SILENT_S = 8
WITHIN_S = 120.0
"""Each thing happens within seconds; a machine that others use as well may need longer."""
WORKS = """
import signal, sys, time
def fill(*_):
    held = [bytearray(b"x" * (1 << 20)) for _ in range(500)]
signal.signal(signal.SIGUSR1, fill)
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(3), sys.exit(0)))  # long enough to be looked at
while True:
    time.sleep(0.05)
"""
"""A program that takes more memory than it may when it is told, and finishes when it is told."""


@dataclass
class Struck:
    """A fault that occurred."""

    name: str
    proof: str
    """What the cluster showed of it."""
    said: list[str] = field(default_factory=list)
    """The ledger's sentences from the fault until the fleet had its size again."""
    seconds: float = 0.0
    """Until then."""


class Storm:
    """A cluster of two nodes with a fleet of three pods. Leaving it ends all of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.cluster = Cluster(nodes=2, silent_s=SILENT_S)
        self.admin = Kubernetes(find_access(self.cluster.kubeconfig))
        self.namespace = self.admin.create(namespace("storm-"))["metadata"]["name"]
        wait(lambda: self.admin.list("v1/ServiceAccount", namespace=self.namespace)[0])
        self.tag = f"storm-{seed}"
        self.records: list[object] = []
        self.struck: list[Struck] = []
        self.peak = 0
        """The most pods that had not ended at one time."""
        self.seen: dict[str, dict] = {}
        """UID -> the pod as it was seen last."""
        self.left: dict[str, set[str]] = {}
        """UID -> why the cluster took its place, as far as that was seen."""
        self._watch = Watch(self.admin, "v1/Pod", namespace=self.namespace)
        self.settled = False
        self._ended = threading.Event()
        self._asked = 0
        self._error: BaseException | None = None
        self._folder = folder
        self._threads = [threading.Thread(target=each) for each in (self._keep, self._look)]
        for each in self._threads:
            each.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.stop()
        for each in self._threads:
            each.join()
        self.admin.close()
        self.cluster.close()

    # -- the fleet ---------------------------------------------------------------------------------

    def _keep(self) -> None:
        """The keeper, as `hooke fleet scale --keep` runs it."""
        provider = KubernetesPods(
            self.tag,
            [PROGRAM, "-u", "-c", WORKS],
            logs=self._folder / "logs",
            image=PYTHON,
            kubeconfig=str(self.cluster.kubeconfig),
            namespace=self.namespace,
            cpus=0.05,
            memory="64 MiB",
            drain="60 s",
            pod_template=POD_TEMPLATE,
        )
        caps = Caps(workers=MOST, dead_looks=3, dead_s=4.0)
        try:
            with Ledger.open(self._folder / "ledger", durable="none") as ledger:
                keeper = FleetKeeper(
                    "storm", provider, ledger, caps=caps, clock=SystemClock(), tell=self.records.append
                )
                while not self._ended.is_set():
                    if self._asked != keeper.fleet.wanted:
                        keeper.want(self._asked, "the storm") if self._asked else keeper.down("the storm")
                    time.sleep(max(keeper.turn(), 0.02))
                    self.settled = keeper.fleet.settled and keeper.fleet.aim == self._asked
        except BaseException as error:  # noqa: BLE001 - told where the faults are made
            self._error = error
        finally:
            provider.close()

    def _look(self) -> None:
        for change in self._watch:
            pod = change.object
            uid, status = pod["metadata"]["uid"], pod["status"]
            self.seen[uid] = pod
            for each in status.get("conditions", ()):
                if each["type"] == "DisruptionTarget" and each["status"] == "True":
                    self.left.setdefault(uid, set()).add(each["reason"])
            alive = [each for each in self._watch.known.values() if _alive(each)]
            self.peak = max(self.peak, len(alive))

    def wait(self, holds: Callable[[], object]) -> object:
        """The value of the condition once it holds. Raises what ended the keeper."""

        def tried() -> object:
            if self._error is not None:
                raise AssertionError("the keeper ended") from self._error
            try:
                return holds()
            except (ApiUnreachable, ApiError):
                return None

        return wait(tried, within_s=WITHIN_S)

    def scale(self, machines: int) -> None:
        """Have the fleet have so many, and wait for it."""
        self._asked, self.settled = machines, False
        self.wait(lambda: self.settled and len(self.pods()) == machines)

    def pods(self) -> list[dict]:
        """Those that work or begin to, as the API server has them."""
        return [each for each in self.admin.list("v1/Pod", namespace=self.namespace)[0] if _alive(each)]

    def said(self, since: int, *kinds: type) -> list[str]:
        return [line_of(each) for each in self.records[since:] if isinstance(each, kinds or (object,))]

    # -- faults ------------------------------------------------------------------------------------

    def strike(self, name: str) -> Struck:
        """Have a fault happen, and wait until the fleet has its size again."""
        self.wait(lambda: self.settled and len(self.pods()) == SIZE and self._sees())
        since, began = len(self.records), time.monotonic()
        struck = Struck(name=name, proof=FAULTS[name](self))
        self.wait(lambda: self.settled and len(self.pods()) == SIZE and all(map(_runs, self.pods())))
        struck.seconds = round(time.monotonic() - began, 1)
        struck.said = self.said(since)
        self.struck.append(struck)
        return struck

    def _sees(self) -> bool:
        """Whether the watch goes on, and has seen all pods that are there."""
        return self._watch.lost_at is None and {each["metadata"]["uid"] for each in self.pods()} <= {
            *self.seen
        }

    def any_pod(self) -> dict:
        return self.chance.choice(sorted(self.pods(), key=lambda each: each["metadata"]["name"]))

    def gone(self, pod: dict) -> bool:
        """Whether that very pod is no more."""
        try:
            found = self.admin.get("v1/Pod", pod["metadata"]["name"], namespace=self.namespace)
        except NotThere:
            return True
        return found["metadata"]["uid"] != pod["metadata"]["uid"]

    def in_ledger(self, since: int, kind: type, text: str) -> None:
        self.wait(lambda: [line for line in self.said(since, kind) if text in line])


def _alive(pod: dict) -> bool:
    return pod["status"].get("phase") in ("Pending", "Running")


def _runs(pod: dict) -> bool:
    return pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def deleted(storm: Storm) -> str:
    """Somebody deletes a pod, without any grace."""
    pod, since = storm.any_pod(), len(storm.records)
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    storm.admin.delete("v1/Pod", name, namespace=storm.namespace, grace_s=0, uid=uid)
    storm.wait(lambda: storm.gone(pod))
    storm.in_ledger(since, MachineGone, f"{name} is gone")
    return "its UID is gone"


def evicted(storm: Storm) -> str:
    """A pod is evicted."""
    pod, since = storm.any_pod(), len(storm.records)
    return _evict(storm, [pod], since)


def _evict(storm: Storm, pods: list[dict], since: int) -> str:
    for pod in pods:
        storm.admin.evict(pod["metadata"]["name"], namespace=storm.namespace)
    for pod in pods:
        storm.wait(lambda pod=pod: "EvictionByEvictionAPI" in storm.left.get(pod["metadata"]["uid"], ()))
        storm.wait(lambda pod=pod: storm.gone(pod))
        storm.in_ledger(since, MachineGone, f"{pod['metadata']['name']} is gone")
    return f"{len(pods)} with the condition DisruptionTarget, EvictionByEvictionAPI, and their UIDs are gone"


def killed_for_memory(storm: Storm) -> str:
    """The program of a pod takes more memory than its limit."""
    pod, since = storm.any_pod(), len(storm.records)
    token = pod["metadata"]["annotations"]["hooke.dev/token"]
    (process,) = [each for each in psutil.process_iter() if _of_pod(each, storm.tag, token)]
    process.send_signal(10)  # SIGUSR1

    def ended() -> dict | None:
        status = storm.seen[pod["metadata"]["uid"]]["status"].get("containerStatuses", [{}])[0]
        found = status.get("state", {}).get("terminated")
        return found if found and found["reason"] == "OOMKilled" else None

    found = storm.wait(ended)
    storm.in_ledger(since, MachineGone, "used more memory than its limit (OOMKilled); raise `memory`")
    return f"its container ended with {found['exitCode']}, {found['reason']}"


def _of_pod(process: psutil.Process, tag: str, token: str) -> bool:
    try:
        variables = process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return variables.get(FLEET) == tag and variables.get(MACHINE) == token


def node_drained(storm: Storm) -> str:
    """A node takes no more pods, and those on it are evicted, as `kubectl drain` does."""
    since = len(storm.records)
    node = storm.any_pod()["spec"]["nodeName"]
    storm.admin.patch("v1/Node", node, {"spec": {"unschedulable": True}})
    try:
        proof = _evict(storm, [each for each in storm.pods() if each["spec"].get("nodeName") == node], since)
        storm.wait(lambda: len(storm.pods()) == SIZE and all(map(_runs, storm.pods())))
        assert node not in {each["spec"]["nodeName"] for each in storm.pods()}
    finally:
        storm.admin.patch("v1/Node", node, {"spec": {"unschedulable": None}})
    return f"{node}: {proof}"


def node_cut_off(storm: Storm) -> str:
    """No packet leaves or reaches a node until its pods count as dead."""
    since = len(storm.records)
    node = storm.any_pod()["spec"]["nodeName"]
    on_it = [each for each in storm.pods() if each["spec"].get("nodeName") == node]
    storm.cluster.nodes[node].cut()
    try:
        storm.wait(lambda: _ready(storm, node) == "Unknown")
        for pod in on_it:
            storm.in_ledger(
                since, MachineReleased, f"{pod['metadata']['name']} is ended: it was not healthy in"
            )
        elsewhere = MOST - len(on_it)  # those that may still run count
        storm.wait(
            lambda: len([each for each in storm.pods() if _runs(each)]) >= min(SIZE, max(elsewhere, 0))
        )
    finally:
        storm.cluster.nodes[node].heal()
    storm.wait(lambda: _ready(storm, node) == "True")
    for pod in on_it:
        storm.wait(lambda pod=pod: storm.gone(pod))
    return f"{node} was Unknown, and Ready again; UIDs of {len(on_it)} pods are gone"


def _ready(storm: Storm, node: str) -> str:
    conditions = storm.admin.get("v1/Node", node)["status"]["conditions"]
    return next(each["status"] for each in conditions if each["type"] == "Ready")


def server_killed(storm: Storm) -> str:
    """The API server is away for some seconds."""
    since = len(storm.records)
    with _away(storm, "kube-apiserver") as proof:
        time.sleep(5.0)
        storm.in_ledger(since, ProviderFailed, "the provider failed, and is asked again: ")
    storm.in_ledger(since, ProviderAnswered, "the provider lists its machines again, after ")
    return proof[0]


def etcd_restarted(storm: Storm) -> str:
    """The API server's database is away for some seconds: answers come later, and nobody sees more of it."""
    with _away(storm, "etcd") as proof:
        time.sleep(3.0)
    return proof[0]


def etcd_away(storm: Storm) -> str:
    """The API server's database is away for longer than a client waits for an answer."""
    since = len(storm.records)
    with _away(storm, "etcd") as proof:
        storm.in_ledger(since, ProviderFailed, "the provider failed, and is asked again: ")
    storm.in_ledger(since, ProviderAnswered, "the provider lists its machines again, after ")
    return proof[0]


@contextlib.contextmanager
def _away(storm: Storm, program: str) -> Iterator[list[str]]:
    """Without a program of the control plane; then there is the proof of that."""
    before, proof = storm.cluster.pid(program), []
    storm.cluster.kill(program)
    assert not psutil.pid_exists(before)
    try:
        yield proof
    finally:
        storm.cluster.start(program)
    after = storm.cluster.pid(program)
    assert after != before
    proof.append("its process ended, and another one is in its place")


def server_frozen(storm: Storm) -> str:
    """The API server takes connections, and answers nothing for longer than a client waits."""
    since = len(storm.records)
    storm.cluster.freeze("kube-apiserver")
    try:
        process = psutil.Process(storm.cluster.pid("kube-apiserver"))
        storm.wait(lambda: process.status() == psutil.STATUS_STOPPED)
        storm.in_ledger(since, ProviderFailed, "does not answer")
    finally:
        storm.cluster.thaw("kube-apiserver")
    storm.in_ledger(since, ProviderAnswered, "the provider lists its machines again, after ")
    return "its process was stopped (SIGSTOP) until a request had no answer in time"


FAULTS: dict[str, Callable[[Storm], str]] = {
    "deleted": deleted,
    "evicted": evicted,
    "killed for memory": killed_for_memory,
    "node drained": node_drained,
    "node cut off": node_cut_off,
    "API server killed": server_killed,
    "etcd restarted": etcd_restarted,
    "API server frozen": server_frozen,
    "etcd away": etcd_away,
}
"""By name; the last two take longer than a client waits for an answer."""


def rounds(storm: Storm, *, names: list[str], seconds: float, tell: Callable[[str], None]) -> None:
    """All of them once in a drawn order, and again until the time is over."""
    until = time.monotonic() + seconds
    storm.scale(SIZE)
    while True:
        for name in storm.chance.sample(names, len(names)):
            struck = storm.strike(name)
            tell(f"{struck.name}: {struck.proof}; its size again after {struck.seconds:g} s")
        if time.monotonic() >= until:
            break
    storm.scale(0)
    storm.wait(
        lambda: not storm.admin.list("v1/Pod", namespace=storm.namespace)[0]
    )  # what has ended is on its way


def record(storm: Storm, *, seed: int, seconds: float) -> dict:
    """What is committed: counts and times, and of the machine only what they depend on."""
    by_name = {name: [each for each in storm.struck if each.name == name] for name in FAULTS}
    return {
        "machine": "two cores",
        "seed": seed,
        "seconds": round(seconds),
        "machines_wanted": SIZE,
        "cap": MOST,
        "most_pods_at_once": storm.peak,
        "pods": len(storm.seen),
        "left_after_down": len(storm.admin.list("v1/Pod", namespace=storm.namespace)[0]),
        "faults": {
            name: {
                "times": len(found),
                "seconds_until_its_size_again": {
                    "median": median(each.seconds for each in found),
                    "longest": max(each.seconds for each in found),
                },
                "first_proof": found[0].proof,
            }
            for name, found in by_name.items()
            if found
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Storm(Path(folder), given.seed) as storm:
        rounds(storm, names=list(FAULTS), seconds=given.seconds, tell=lambda line: print(line, flush=True))
        made = record(storm, seed=given.seed, seconds=time.monotonic() - began)
    print(json.dumps(made, indent=1))
    if given.record:
        RECORD.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
