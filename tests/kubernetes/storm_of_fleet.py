"""A fleet of pods under its keeper, for `tests.kubernetes.storm`: its ledger says what happened, and there are never more pods than its cap."""

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.manifests import POD_TEMPLATE, PROGRAM, PYTHON
from tests.kubernetes.storm import RECORDS, Storm, runs

from hooke.base.clock import SystemClock
from hooke.fleets.fleet_folder import line_of
from hooke.journal.fleet_events import MachineGone, MachineReleased, ProviderAnswered, ProviderFailed
from hooke.machines.controller import Caps
from hooke.machines.keeper import FleetKeeper, Ledger
from hooke.providers.kubernetes_pods import KubernetesPods
from hooke.providers.processes import FLEET, MACHINE

__all__ = ["MOST", "FleetStorm"]

MOST = 4
"""The cap."""
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


class FleetStorm(Storm):
    """A fleet of three pods."""

    size = 3
    record = RECORDS / "kubernetes_storm.json"

    def __init__(self, cluster: Cluster, seed: int, *, long: bool = False) -> None:
        super().__init__(cluster, seed, long=long)
        self.tag = f"storm-{seed}"
        self.records: list[object] = []
        self.settled = False
        self._ended = threading.Event()
        self._asked = 0
        self._error: BaseException | None = None
        self._folder = tempfile.TemporaryDirectory()
        self._threads.append(threading.Thread(target=self._keep))

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        super().__exit__(*error)
        self._folder.cleanup()

    def _keep(self) -> None:
        """The keeper, as `hooke fleet scale --keep` runs it."""
        folder = Path(self._folder.name)
        provider = KubernetesPods(
            self.tag,
            [PROGRAM, "-u", "-c", WORKS],
            logs=folder / "logs",
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
            with Ledger.open(folder / "ledger", durable="none") as ledger:
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

    def _scale(self, machines: int) -> None:
        self._asked, self.settled = machines, False
        self.wait(lambda: self.settled and len(self.pods()) == machines)

    def begin(self) -> None:
        self._scale(self.size)

    def spread(self, faults: int, seconds: float) -> None:
        """Its machines work until they are ended."""

    def end(self) -> dict[str, Any]:
        self._scale(0)
        self.wait(lambda: not self.admin.list("v1/Pod", namespace=self.namespace)[0])  # what has ended goes
        assert self.size <= self.peak <= MOST
        left = self.admin.list("v1/Pod", namespace=self.namespace)[0]
        return {"cap": MOST, "left_after_down": len(left)}

    def check(self) -> None:
        if self._error is not None:
            raise AssertionError("the keeper ended") from self._error

    def whole(self) -> bool:
        return self.settled and len(self.pods()) == self.size

    def mark(self) -> int:
        return len(self.records)

    def said(self, since: int) -> list[str]:
        return self._lines(since, object)

    def _lines(self, since: int, kind: type) -> list[str]:
        return [line_of(each) for each in self.records[since:] if isinstance(each, kind)]

    def _tells(self, since: int, kind: type, text: str) -> bool:
        return any(text in line for line in self._lines(since, kind))

    def take_memory(self, pod: dict) -> None:
        token = pod["metadata"]["annotations"]["hooke.dev/token"]
        (process,) = [each for each in psutil.process_iter() if _of_pod(each, self.tag, token)]
        process.send_signal(10)  # SIGUSR1

    def says_gone(self, since: int, pod: dict) -> bool:
        return self._tells(since, MachineGone, f"{pod['metadata']['name']} is gone")

    def says_memory(self, since: int, pod: dict) -> bool:
        return self._tells(since, MachineGone, "used more memory than its limit (OOMKilled); raise `memory`")

    def says_cut_off(self, since: int, pods: list[dict]) -> bool:
        elsewhere = max(MOST - len(pods), 0)  # those that may still run count
        return all(
            self._tells(since, MachineReleased, f"{pod['metadata']['name']} is ended: it was not healthy in")
            for pod in pods
        ) and len([each for each in self.pods() if runs(each)]) >= min(self.size, elsewhere)

    def is_healed(self, pods: list[dict]) -> bool:
        return all(map(self.gone, pods))

    def says_away(self, since: int) -> bool:
        return self._tells(since, ProviderFailed, "the provider failed, and is asked again: ")

    def says_back(self, since: int) -> bool:
        return self._tells(since, ProviderAnswered, "the provider lists its machines again, after ")


def _of_pod(process: psutil.Process, tag: str, token: str) -> bool:
    try:
        variables = process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return variables.get(FLEET) == tag and variables.get(MACHINE) == token
