"""Pods, nodes and the control plane of a cluster fail under a fleet or a run, in an order that a seed determines.

    python -m tests.kubernetes.storm --under fleet --seconds 60 --seed 7
    make soak-kubernetes     both for longer; writes benchmarks/records/kubernetes_storm.json and kubernetes_run_storm.json

Each fault is real, and is believed only on evidence of the cluster's own: a UID that is gone, a condition, an exit code, a
new process. After each the fleet or the run must have its size again, and its ledger or journal a sentence about it.
"""

import argparse
import contextlib
import json
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any, ClassVar, Self

import psutil
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.manifests import namespace, wait

from hooke.kubernetes.client import ApiError, ApiUnreachable, Kubernetes, NotThere
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.watch import Watch

__all__ = [
    "FAULTS",
    "RECORDS",
    "SILENT_S",
    "SLOW",
    "WITHIN_S",
    "Storm",
    "Struck",
    "main",
    "record_of",
    "rounds",
    "runs",
]

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"
SILENT_S = 8
"""A node that says nothing for so long is not ready."""
WITHIN_S = 300.0
"""Each thing happens within seconds; a machine that others use as well may need longer."""
LOOK_S = 0.5


@dataclass
class Struck:
    """A fault that occurred."""

    name: str
    proof: str
    """What the cluster showed of it."""
    said: list[str] = field(default_factory=list)
    """The sentences of the ledger or the journal from the fault until all was whole again."""
    seconds: float = 0.0
    """Until then."""


class Storm(ABC):
    """What is common to storms: a cluster of two nodes, a watch of all pods, and what a fault needs of what it strikes.

    `long`: outages last as long as in the full campaign. Leaving it ends all of it but the cluster.
    """

    size: ClassVar[int]
    """The pods that work while nothing fails."""
    record: ClassVar[Path]
    own_faults: ClassVar[dict[str, Callable[[Any], str]]] = {}
    """Those that only this kind has."""

    def __init__(self, cluster: Cluster, seed: int, *, long: bool = False) -> None:
        self.chance = random.Random(seed)
        self.cluster, self.long = cluster, long
        self.admin = Kubernetes(find_access(cluster.kubeconfig))
        self.namespace = self.admin.create(namespace("storm-"))["metadata"]["name"]
        wait(lambda: self.admin.list("v1/ServiceAccount", namespace=self.namespace)[0])
        self.faults: dict[str, Callable[[Any], str]] = FAULTS | self.own_faults
        self.struck: list[Struck] = []
        self.peak = 0
        """The most pods that had not ended at one time."""
        self.seen: dict[str, dict] = {}
        """UID -> the pod as it was seen last."""
        self.left: dict[str, set[str]] = {}
        """UID -> why the cluster took its place, as far as that was seen."""
        self._watch = Watch(self.admin, "v1/Pod", namespace=self.namespace)
        self._threads = [threading.Thread(target=self._look)]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.stop()
        for each in self._threads:
            each.join()
        self.admin.delete("v1/Namespace", self.namespace)
        self.admin.close()

    # -- what each kind of storm has of its own ----------------------------------------------------

    @abstractmethod
    def begin(self) -> None:
        """Start the work, and wait until it has its size."""

    @abstractmethod
    def spread(self, faults: int, seconds: float) -> None:
        """Have the work last for so many faults more, of so many seconds each."""

    @abstractmethod
    def end(self) -> dict[str, Any]:
        """Let it end, check that nothing is left, and return what belongs into the record."""

    @abstractmethod
    def check(self) -> None:
        """Raise what has ended the work too early."""

    @abstractmethod
    def whole(self) -> bool:
        """Whether it has its size, and works."""

    @abstractmethod
    def mark(self) -> Any:
        """Where its ledger or journal stands, for `said`."""

    @abstractmethod
    def said(self, since: Any) -> list[str]:
        """Its sentences since a mark."""

    @abstractmethod
    def take_memory(self, pod: dict) -> None:
        """Have what runs in the pod take more memory than it may."""

    @abstractmethod
    def says_gone(self, since: Any, pod: dict) -> bool:
        """Whether it says that the pod is gone."""

    @abstractmethod
    def says_memory(self, since: Any, pod: dict) -> bool:
        """Whether it says that the pod used too much memory."""

    @abstractmethod
    def says_cut_off(self, since: Any, pods: list[dict]) -> bool:
        """Whether it says that these are not to be reached, and goes on without them."""

    @abstractmethod
    def is_healed(self, pods: list[dict]) -> bool:
        """Whether nothing of the time when these were not to be reached is left."""

    @abstractmethod
    def says_away(self, since: Any) -> bool:
        """Whether it bears a control plane that does not answer."""

    @abstractmethod
    def says_back(self, since: Any) -> bool:
        """Whether it has noticed that it answers again."""

    def victim(self) -> dict:
        """A pod that works."""
        return self.chance.choice(sorted(self.pods(), key=lambda each: each["metadata"]["name"]))

    def node(self) -> str:
        """The node that fails next; pods are on it."""
        return self.victim()["spec"]["nodeName"]

    # ----------------------------------------------------------------------------------------------

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

    def wait(self, holds: Callable[[], object]) -> Any:
        """The value of the condition once it holds. Raises what ended the work."""

        def tried() -> object:
            self.check()
            try:
                return holds()
            except (ApiUnreachable, ApiError):
                return None

        return wait(tried, within_s=WITHIN_S, every_s=LOOK_S)

    def pods(self) -> list[dict]:
        """Those that work or begin to, as the API server has them."""
        return [each for each in self.admin.list("v1/Pod", namespace=self.namespace)[0] if _alive(each)]

    def pods_on(self, node: str) -> list[dict]:
        """Those of a node."""
        return [each for each in self.pods() if each["spec"].get("nodeName") == node]

    def strike(self, name: str) -> Struck:
        """Have a fault happen while there is work, and wait until all is whole again."""
        self.wait(lambda: self.whole() and self._sees())
        since, began = self.mark(), time.monotonic()
        struck = Struck(name=name, proof=self.faults[name](self))
        self.wait(lambda: self.whole() and all(map(runs, self.pods())))
        struck.seconds = round(time.monotonic() - began, 1)
        struck.said = self.said(since)
        self.struck.append(struck)
        return struck

    def _sees(self) -> bool:
        """Whether the watch goes on, and has seen all pods that are there."""
        return self._watch.lost_at is None and {each["metadata"]["uid"] for each in self.pods()} <= {
            *self.seen
        }

    def gone(self, pod: dict) -> bool:
        """Whether that very pod is no more."""
        try:
            found = self.admin.get("v1/Pod", pod["metadata"]["name"], namespace=self.namespace)
        except NotThere:
            return True
        return found["metadata"]["uid"] != pod["metadata"]["uid"]


def _alive(pod: dict) -> bool:
    return pod["status"].get("phase") in ("Pending", "Running")


def runs(pod: dict) -> bool:
    """Whether a pod works, and nobody ends it."""
    return pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


# -- faults ----------------------------------------------------------------------------------------


def deleted(storm: Storm) -> str:
    """Somebody deletes a pod, without any grace."""
    pod, since = storm.victim(), storm.mark()
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    storm.admin.delete("v1/Pod", name, namespace=storm.namespace, grace_s=0, uid=uid)
    storm.wait(lambda: storm.gone(pod))
    storm.wait(lambda: storm.says_gone(since, pod))
    return "its UID is gone"


def evicted(storm: Storm) -> str:
    """A pod is evicted."""
    return _evict(storm, [storm.victim()], storm.mark())


def _evict(storm: Storm, pods: list[dict], since: Any) -> str:
    for pod in pods:
        storm.admin.evict(pod["metadata"]["name"], namespace=storm.namespace)
    for pod in pods:
        storm.wait(lambda pod=pod: "EvictionByEvictionAPI" in storm.left.get(pod["metadata"]["uid"], ()))
        storm.wait(lambda pod=pod: storm.gone(pod))
        storm.wait(lambda pod=pod: storm.says_gone(since, pod))
    return f"{len(pods)} with the condition DisruptionTarget, EvictionByEvictionAPI, and their UIDs are gone"


def killed_for_memory(storm: Storm) -> str:
    """What runs in a pod takes more memory than its limit."""
    pod, since = storm.victim(), storm.mark()
    storm.take_memory(pod)

    def ended() -> dict | None:
        status = storm.seen[pod["metadata"]["uid"]]["status"].get("containerStatuses", [{}])[0]
        found = status.get("state", {}).get("terminated")
        return found if found and found["reason"] == "OOMKilled" else None

    found = storm.wait(ended)
    storm.wait(lambda: storm.says_memory(since, pod))
    return f"its container ended with {found['exitCode']}, {found['reason']}"


def node_drained(storm: Storm) -> str:
    """A node takes no more pods, and those on it are evicted, as `kubectl drain` does."""
    node, since = storm.node(), storm.mark()
    storm.admin.patch("v1/Node", node, {"spec": {"unschedulable": True}})
    try:
        proof = _evict(storm, storm.pods_on(node), since)
        storm.wait(lambda: storm.whole() and all(map(runs, storm.pods())))
        assert node not in {each["spec"]["nodeName"] for each in storm.pods()}
    finally:
        storm.admin.patch("v1/Node", node, {"spec": {"unschedulable": None}})
    return f"{node}: {proof}"


def node_cut_off(storm: Storm) -> str:
    """No packet leaves or reaches a node until its pods count as lost; in the full campaign for a minute at least."""
    node, since, began = storm.node(), storm.mark(), time.monotonic()
    on_it = storm.pods_on(node)
    storm.cluster.nodes[node].cut()
    try:
        storm.wait(lambda: _ready(storm, node) == "Unknown")
        storm.wait(lambda: storm.says_cut_off(since, on_it))
        _remain(began, 60.0 if storm.long else 0.0)
    finally:
        storm.cluster.nodes[node].heal()
    storm.wait(lambda: _ready(storm, node) == "True")
    lasted = time.monotonic() - began
    storm.wait(lambda: storm.is_healed(on_it))
    return f"{node} was Unknown, and Ready again after {lasted:.0f} s; {len(on_it)} pods were on it"


def _ready(storm: Storm, node: str) -> str:
    conditions = storm.admin.get("v1/Node", node)["status"]["conditions"]
    return next(each["status"] for each in conditions if each["type"] == "Ready")


def _remain(began: float, seconds: float) -> None:
    """Wait until so long after that."""
    time.sleep(max(0.0, began + seconds - time.monotonic()))


def server_killed(storm: Storm) -> str:
    """The API server is away for some seconds; in the full campaign for half a minute."""
    since, began = storm.mark(), time.monotonic()
    with _away(storm, "kube-apiserver") as proof:
        _remain(began, 30.0 if storm.long else 5.0)
        storm.wait(lambda: storm.says_away(since))
    storm.wait(lambda: storm.says_back(since))
    return proof[0]


def etcd_restarted(storm: Storm) -> str:
    """The API server's database is away for some seconds: answers come later, and nobody sees more of it."""
    with _away(storm, "etcd") as proof:
        time.sleep(3.0)
    return proof[0]


def etcd_away(storm: Storm) -> str:
    """The API server's database is away for longer than a client waits for an answer."""
    since, began = storm.mark(), time.monotonic()
    with _away(storm, "etcd") as proof:
        storm.wait(lambda: storm.says_away(since))
        _remain(began, 35.0)
    storm.wait(lambda: storm.says_back(since))
    return proof[0]


@contextlib.contextmanager
def _away(storm: Storm, program: str) -> Iterator[list[str]]:
    """Without a program of the control plane; then there is the proof of that."""
    before, proof = storm.cluster.pid(program), []
    storm.cluster.kill(program)
    assert not psutil.pid_exists(before)
    began = time.monotonic()
    try:
        yield proof
    finally:
        lasted = time.monotonic() - began
        storm.cluster.start(program)
    after = storm.cluster.pid(program)
    assert after != before
    proof.append(f"its process ended, and another one is in its place after {lasted:.0f} s")


def server_frozen(storm: Storm) -> str:
    """The API server takes connections, and answers nothing for longer than a client waits."""
    since, began = storm.mark(), time.monotonic()
    storm.cluster.freeze("kube-apiserver")
    try:
        process = psutil.Process(storm.cluster.pid("kube-apiserver"))
        storm.wait(lambda: process.status() == psutil.STATUS_STOPPED)
        storm.wait(lambda: storm.says_away(since))
        _remain(began, 35.0)
    finally:
        storm.cluster.thaw("kube-apiserver")
    storm.wait(lambda: storm.says_back(since))
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
"""By name."""
SLOW = ("API server frozen", "etcd away")
"""Each takes as long as a client waits for an answer, 35 s: `make soak-kubernetes` has them."""


def rounds(storm: Storm, *, names: list[str], seconds: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """All of them once in a drawn order, and again until the time is over. Returns the record."""
    began = time.monotonic()
    storm.begin()
    tell(f"begun after {time.monotonic() - began:.0f} s")
    while True:
        for at, name in enumerate(storm.chance.sample(names, len(names))):
            each_s = mean([each.seconds for each in storm.struck] or [60.0 if storm.long else 12.0])
            more_s = max(began + seconds - time.monotonic(), each_s * (len(names) - at))
            storm.spread(round(more_s / each_s), each_s)
            struck = storm.strike(name)
            tell(f"{struck.name}: {struck.proof}; its size again after {struck.seconds:g} s")
        if time.monotonic() - began >= seconds:
            break
    own = storm.end()
    return record_of(storm, seconds=time.monotonic() - began) | own


def record_of(storm: Storm, *, seconds: float) -> dict[str, Any]:
    """What is committed: counts and times, and of the machine only what they depend on."""
    by_name = {name: [each for each in storm.struck if each.name == name] for name in storm.faults}
    return {
        "machine": "two cores",
        "seconds": round(seconds),
        "machines_wanted": storm.size,
        "most_pods_at_once": storm.peak,
        "pods": len(storm.seen),
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
    """The full campaign of a fleet or of a run."""
    from tests.kubernetes.storm_of_fleet import FleetStorm
    from tests.kubernetes.storm_of_run import RunStorm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = {"fleet": FleetStorm, "run": RunStorm}
    parser.add_argument("--under", choices=list(kinds), default="fleet")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="write its record below benchmarks/records")
    given = parser.parse_args()
    made: dict[str, Any] = {}
    kind = kinds[given.under]
    with Cluster(nodes=2, silent_s=SILENT_S) as cluster, kind(cluster, given.seed, long=True) as storm:
        made = {"seed": given.seed} | rounds(
            storm, names=list(storm.faults), seconds=given.seconds, tell=lambda line: print(line, flush=True)
        )
    print(json.dumps(made, indent=1))
    if given.record:
        kind.record.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
