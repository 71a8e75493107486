"""Hooke's own side of Kubernetes at sizes that no test machine has: nodes and pods that kwok plays, on a real control plane.

    python -m tests.kubernetes.scale --sizes 10:100
    make soak-kubernetes-scale     10, 100 and 1,000 nodes with ten pods each, half an hour; writes benchmarks/records/kubernetes_scale.json

What is under test is a fleet under its keeper, and the pods of a run, each as a process of its own whose account is no
administrator's. It has no pods, then all, then watches them, then has none again. Requests are counted by the API server's
audit, and processor time and memory by the kernel. What pods do is not played: no worker runs, and no Dask scheduler has them.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import stats
from tests.kubernetes.cluster import Cluster
from tests.support import environment

from hooke.kubernetes.rights import FLEET_RIGHTS, RUN_RIGHTS, role_manifests

__all__ = ["HEADING", "RECORD", "WHATS", "growth_table", "growths", "main", "measure", "table"]

RECORD = Path(__file__).parents[2] / "benchmarks" / "records" / "kubernetes_scale.json"
HEADING = "## Ten thousand pods"
"""Of the page's section that shows the record."""
WHATS = ("fleet", "run")
USER = "hooke-scale"
RATE = 500
"""Requests a second that the controllers and the scheduler may make, each: by default they may 20 and 50."""
SILENT_S = 300
"""A simulated node that says nothing for so long is not ready: kwok shares its cores with all else."""
INTERVAL = 95
"""Per cent, of an exponent's interval."""
COMPONENTS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kwok")
LOOK_S = 0.5
GROWING = ("seconds", "hooke_cpu_s", "requests", "most_memory_mb")
"""Whose growth with the number of pods is fitted, of each phase."""


class _Peaks:
    """The most memory of each component, while it is looked at."""

    def __init__(self, cluster: Cluster) -> None:
        self.mb: dict[str, float] = dict.fromkeys(COMPONENTS, 0.0)
        self._processes = {name: psutil.Process(cluster.pid(name)) for name in COMPONENTS}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def cpu_s(self) -> dict[str, float]:
        """The processor time of each until now."""
        return {name: sum(each.cpu_times()[:2]) for name, each in self._processes.items()}

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            for name, each in self._processes.items():
                self.mb[name] = max(self.mb[name], each.memory_info().rss / 2**20)


def measure(what: str, *, nodes: int, pods: int, steady_s: float) -> dict[str, Any]:
    """One time from no pod to none, on a cluster of its own."""
    busy = os.getloadavg()[0]
    with Cluster(nodes=0, silent_s=SILENT_S, rate=RATE, audited=USER) as cluster:
        cluster.simulate(nodes, {"type": "simulated"})
        config = _allow(cluster, FLEET_RIGHTS if what == "fleet" else RUN_RIGHTS)
        host = cluster.host("client")
        command = [sys.executable, "-m", "tests.kubernetes.scale_client", what, "--config", str(config)]
        command += ["--namespace", USER, "--pods", str(pods), "--steady", str(steady_s)]
        log = (cluster.logs / "client.log").open("wb")
        with log:
            process = host.popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={"PYTHONPATH": environment()["PYTHONPATH"]},
            )
        peaks = _Peaks(cluster)
        try:
            phases = _phases(cluster, process, peaks, pods)
        finally:
            peaks.stop()
            process.kill()
            process.communicate()
        left = len(cluster.get(f"/api/v1/namespaces/{USER}/pods?limit=5")["items"])
        return {
            "what": what,
            "nodes": nodes,
            "pods": pods,
            "load_before": round(busy, 1),
            "left": left,
            "most_memory_mb": {name: round(mb) for name, mb in peaks.mb.items()},
            "phases": phases,
        }


def _allow(cluster: Cluster, rights: Any) -> Path:
    """The kubeconfig of a user with exactly these rights in a namespace."""
    cluster.create("/api/v1/namespaces", {"metadata": {"name": USER}})
    _, role, binding = role_manifests(rights, account=USER, namespace=USER)
    user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}
    below = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{USER}"
    cluster.create(f"{below}/roles", role)
    cluster.create(f"{below}/rolebindings", {**binding, "subjects": [user]})
    cluster.await_that(
        "the namespace has its account",
        lambda: cluster.get(f"/api/v1/namespaces/{USER}/serviceaccounts")["items"],
    )
    config = cluster.logs.parent / "client.kubeconfig"
    config.write_text(cluster.config(USER, server=cluster.inside))
    return config


def _phases(
    cluster: Cluster, process: subprocess.Popen[Any], peaks: _Peaks, pods: int
) -> dict[str, dict[str, Any]]:
    assert process.stdin is not None
    assert process.stdout is not None
    found: dict[str, dict[str, Any]] = {}
    cpu, all_before, read = peaks.cpu_s(), _answered(cluster), 0
    for line in process.stdout:
        told = json.loads(line)
        lines = cluster.audit.read_text().splitlines() if cluster.audit.exists() else []
        after, all_after = peaks.cpu_s(), _answered(cluster)
        if told["phase"] == "up":
            there = cluster.get(f"/api/v1/namespaces/{USER}/pods?limit=1")
            there = 1 + there["metadata"].get("remainingItemCount", 0)
            assert there == pods, f"{there} pods instead of {pods}"
        asked = _requests(lines[read:])
        if told["phase"] != "down" and (lost := asked["delete pods"]):
            raise AssertionError(f"{lost} pods were lost while they were to run")
        if told["phase"] != "start":
            spent = {name: round(after[name] - cpu[name], 1) for name in COMPONENTS}
            found[told["phase"]] = _phase(told, asked, all_after - all_before, spent)
        cpu, all_before, read = after, all_after, len(lines)
        process.stdin.write("\n")
        process.stdin.flush()
    if process.wait() != 0 or set(found) != {"up", "steady", "down"}:
        raise AssertionError(f"the client ended in {[*found]}\n{cluster.log('client')[-3000:]}")
    return found


def _phase(
    told: Mapping[str, Any], requests: Counter[str], everybody: Counter[str], spent: dict[str, float]
) -> dict[str, Any]:
    seconds = told["seconds"]
    components = {**spent, "hooke": round(told["cpu_s"], 2)}
    most = max(components, key=lambda name: components[name])
    return {
        "seconds": round(seconds, 2),
        "hooke_cpu_s": round(told["cpu_s"], 2),
        "most_memory_mb": round(told["most_memory_mb"], 1),
        "requests": requests.total(),
        "requests_by_verb": dict(sorted(requests.items())),
        "requests_a_second": round(requests.total() / seconds, 1),
        "requests_of_all_a_second": round(everybody.total() / seconds, 1),
        "of_all_refused_with_429": everybody["429"],
        "cpu_s": components,
        "cores_in_use": round(sum(components.values()) / seconds, 2),
        "most_cpu": most,
    }


def _requests(lines: Iterable[str]) -> Counter[str]:
    """How often the audited user asked for what: a watch counts when it begins."""
    found: dict[str, str] = {}
    for line in lines:
        event = json.loads(line)
        what = event.get("objectRef", {})
        resource = "/".join(filter(None, (what.get("resource"), what.get("subresource"))))
        found[event["auditID"]] = f"{event['verb']} {resource}".strip()
    return Counter(found.values())


def _answered(cluster: Cluster) -> Counter[str]:
    """How many requests of anybody the API server has answered, by the HTTP code."""
    found: Counter[str] = Counter()
    for line in cluster.metrics().splitlines():
        if line.startswith("apiserver_request_total{"):
            labels, _, count = line.rpartition(" ")
            found[labels.partition('code="')[2].partition('"')[0]] += int(float(count))
    return found


# -- growth ----------------------------------------------------------------------------------------


def growths(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The exponent b of `a * pods ** b`, fitted to logarithms, with its interval, of each phase. A round with a note was disturbed."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for what in WHATS:
        these = [each for each in rounds if each["what"] == what]
        for phase in ("up", "steady", "down"):
            for name in GROWING:
                points = [
                    (each["pods"], each["phases"][phase][name])
                    for each in these
                    if phase != "steady" or not each.get("note")
                ]
                if (phase == "steady" and name == "seconds") or len({pods for pods, _ in points}) < 3:
                    continue
                found.setdefault(what, {}).setdefault(phase, {})[name] = _exponent(points)
    return found


def _exponent(points: Sequence[tuple[float, float]]) -> dict[str, float]:
    pods, values = np.array(points, dtype=float).T
    fit = stats.linregress(np.log(pods), np.log(np.maximum(values, 1e-3)))
    half = float(stats.t.ppf(0.5 + INTERVAL / 200, len(points) - 2)) * fit.stderr
    return {
        "exponent": round(float(fit.slope), 2),
        "low": round(float(fit.slope) - half, 2),
        "high": round(float(fit.slope) + half, 2),
    }


def record(rounds: Sequence[Mapping[str, Any]], *, seed: int, steady_s: float) -> dict[str, Any]:
    """What is committed."""
    return {
        "machine": {
            "cores": psutil.cpu_count(),
            "memory_gib": math.ceil(psutil.virtual_memory().total / 2**30),
        },
        "kubernetes": _versions(),
        "client_rate_of_controllers_and_scheduler": RATE,
        "node_is_silent_after_s": SILENT_S,
        "seed": seed,
        "steady_s": steady_s,
        "interval_percent": INTERVAL,
        "growth_with_pods": growths(rounds),
        "rounds": list(rounds),
    }


def table(made: Mapping[str, Any]) -> list[str]:
    """The rows of the page about it: medians of the rounds of each size."""
    lines = [
        "| what | nodes | pods | rounds | until all run | requests | until none is left | requests | watching | memory of Hooke | of the API server |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    sizes = sorted({(each["nodes"], each["pods"]) for each in made["rounds"]})
    for what in WHATS:
        for nodes, pods in sizes:
            these = [
                each
                for each in made["rounds"]
                if (each["what"], each["nodes"], each["pods"]) == (what, nodes, pods)
            ]
            if these:
                lines.append(_row(what, nodes, pods, these))
    return lines


def _row(what: str, nodes: int, pods: int, these: Sequence[Mapping[str, Any]]) -> str:
    def middle(phase: str, name: str) -> float:
        return float(np.median([each["phases"][phase][name] for each in these]))

    disturbed = any("delete pods" in each["phases"]["steady"]["requests_by_verb"] for each in these)
    server = float(np.median([each["most_memory_mb"]["kube-apiserver"] for each in these]))
    hooke = max(middle(phase, "most_memory_mb") for phase in ("up", "steady", "down"))
    cells = [
        f"a {what}",
        f"{nodes:,}",
        f"{pods:,}",
        f"{len(these)}",
        f"{middle('up', 'seconds'):.0f} s",
        f"{middle('up', 'requests'):,.0f}",
        f"{middle('down', 'seconds'):.0f} s",
        f"{middle('down', 'requests'):,.0f}",
        "disturbed" if disturbed else f"{middle('steady', 'requests_a_second'):.1f} requests/s",
        f"{hooke:.0f} MB",
        f"{server:,.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def growth_table(made: Mapping[str, Any]) -> list[str]:
    """The exponents on the page, each with its interval."""
    names = {
        "seconds": "seconds",
        "requests": "requests",
        "hooke_cpu_s": "Hooke's processor time",
        "most_memory_mb": "memory of Hooke",
    }
    lines = [f"| | {' | '.join(names.values())} |", f"|---|{'---|' * len(names)}"]
    for what, phases in made["growth_with_pods"].items():
        for phase, title in (("up", "gets its pods"), ("down", "ends them")):
            cells = [
                f"{each['exponent']} ({each['low']} to {each['high']})"
                for each in (phases[phase][name] for name in names)
            ]
            lines.append(f"| a {what} {title} | {' | '.join(cells)} |")
    return lines


def _versions() -> dict[str, str]:
    here = Path(__file__).parent
    found = {}
    for file, module in (("go.mod", "k8s.io/kubernetes"), ("kwok/go.mod", "sigs.k8s.io/kwok")):
        line = next(each for each in (here / file).read_text().splitlines() if f"{module} v" in each)
        found[module] = line.split(" v")[1].split()[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["10:100"], metavar="NODES:PODS", help="one a round; the order is drawn"
    )
    parser.add_argument("--what", nargs="+", choices=WHATS, default=WHATS)
    parser.add_argument("--steady", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--record", type=Path, help="add the rounds to this file, and fit the growth anew")
    given = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    if given.record is not None and given.record.exists():
        rounds = json.loads(given.record.read_text())["rounds"]
    wanted = [(what, size) for what in given.what for size in given.sizes]
    for what, size in np.random.default_rng(given.seed).permutation(wanted).tolist():
        nodes, pods = map(int, size.split(":"))
        began = time.monotonic()
        made = measure(what, nodes=nodes, pods=pods, steady_s=given.steady)
        rounds.append(made)
        print(json.dumps(made, indent=1), f"{time.monotonic() - began:.0f} s", flush=True)
        if given.record is not None:
            whole = record(rounds, seed=given.seed, steady_s=given.steady)
            given.record.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
