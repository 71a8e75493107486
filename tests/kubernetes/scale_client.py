"""Hooke's own side of `scale.py`, in a process of its own: a fleet or a run's pods, from none to many and back to none.

    python -m tests.kubernetes.scale_client fleet --config FILE --namespace NAME --pods 100 --steady 5

It prints a line of JSON when a phase has ended: its name, its seconds, the CPU time and the most memory of this process.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hooke.base.clock import SystemClock
from hooke.certificates.authority import Authority
from hooke.engines.dask.pod_jobs import VALID_S, PodJobs, PodKeeper
from hooke.kubernetes.client import Kubernetes
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.pods import PodOptions
from hooke.machines.controller import Caps
from hooke.machines.keeper import FleetKeeper, Ledger
from hooke.providers.kubernetes_pods import KubernetesPods

IMAGE = "simulated:1"
CPUS, MEMORY = 0.1, 64 << 20
LOOK_S = 0.5
"""How often the engine looks for news of its pods."""


def fleet(given: argparse.Namespace) -> Iterator[str]:
    """A keeper's fleet, as `hooke fleet scale` and `hooke fleet down` have it; the ledger as by default."""
    provider = KubernetesPods(
        "scale",
        ["work"],
        logs=Path(given.folder) / "logs",
        image=IMAGE,
        kubeconfig=given.config,
        namespace=given.namespace,
        cpus=CPUS,
        memory=f"{MEMORY}",
    )
    with Ledger.open(Path(given.folder) / "ledger") as ledger:
        keeper = FleetKeeper("scale", provider, ledger, caps=Caps(workers=given.pods), clock=SystemClock())
        yield "start"
        keeper.want(given.pods, "the test")
        _turn_until(keeper, lambda: keeper.fleet.settled)
        yield "up"
        until = time.monotonic() + given.steady
        _turn_until(keeper, lambda: time.monotonic() > until)
        yield "steady"
        keeper.down("the test")
        _turn_until(keeper, lambda: keeper.fleet.settled and not keeper.fleet.members)
        yield "down"
    provider.close()


def _turn_until(keeper: FleetKeeper, holds: Callable[[], object]) -> None:
    while not holds():
        time.sleep(max(keeper.turn(), 0.02))
        if keeper.denied is not None or keeper.refused is not None:
            raise keeper.denied or keeper.refused or AssertionError


def run(given: argparse.Namespace) -> Iterator[str]:
    """The pods of one run: jobs with their certificates, kept as a run's driver keeps them."""
    client = Kubernetes(find_access(given.config))
    options = PodOptions(image=IMAGE, namespace=given.namespace, cpus=CPUS, memory=MEMORY)
    authority = Authority.make("run", now=time.time(), valid_s=VALID_S)
    jobs = PodJobs(client, options, run="scale", threads=1, authority=authority)
    jobs.scheduler = "tls://10.0.0.1:1"
    keeper = PodKeeper(jobs, Path(given.folder), caps=Caps(workers=given.pods), clock=SystemClock())
    yield "start"
    keeper.start()
    keeper.want(given.pods)
    running: set[int] = set()
    _read_news(jobs, running, lambda: len(running) == given.pods)
    yield "up"
    until = time.monotonic() + given.steady
    _read_news(jobs, running, lambda: time.monotonic() > until)
    yield "steady"
    keeper.end()
    while running:
        time.sleep(LOOK_S)
        running -= {state.number for state in jobs.news() if state.ended}
    keeper.close()
    yield "down"


def _read_news(jobs: PodJobs, running: set[int], holds: Callable[[], object]) -> None:
    while not holds():
        for state in jobs.news():
            if state.ended:
                raise AssertionError(f"{state.shown} has ended: {state.trouble}")
            if state.runs_since is not None:
                running.add(state.number)
        time.sleep(LOOK_S)


def _told(name: str, began: float, cpu: float) -> dict[str, Any]:
    return {
        "phase": name,
        "seconds": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu,
        "most_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("fleet", "run"))
    parser.add_argument("--config", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--pods", type=int, required=True)
    parser.add_argument("--steady", type=float, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as given.folder:
        began, cpu = time.monotonic(), time.process_time()
        for name in {"fleet": fleet, "run": run}[given.what](given):
            print(json.dumps(_told(name, began, cpu)), flush=True)
            input()  # until the other side has read what it wants to know
            began, cpu = time.monotonic(), time.process_time()


if __name__ == "__main__":
    main()
