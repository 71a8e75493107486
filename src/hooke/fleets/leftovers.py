"""What drivers that are gone left in a cluster: found by its labels, told from what lives by leases, removed, and shown by a list to be gone.

A driver renews its lease while it lives. It is gone when it has no lease, or one that was not renewed for a minute. The driver of a run
that goes on in the cluster is a Job: that one is gone when it has ended.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hooke.fleets.fleet_folder import line_of
from hooke.journal.fleet_events import MachineGone
from hooke.journal.run_folders import RunsFolder
from hooke.kubernetes.client import ApiForbidden, Conflicting, Kubernetes, Manifest, NotThere, selector
from hooke.kubernetes.driver_job import DRIVER, end_of_job
from hooke.kubernetes.lease import LEASE, lapsed
from hooke.kubernetes.pods import COMPONENT, DRIVER_LABEL, MANAGED, RELEASE_GRACE_S, RUN_LABEL
from hooke.machines.keeper import Ledger, records_of

__all__ = ["KINDS", "Leftover", "Leftovers", "close_ledgers", "counted"]

JOB, POD = "batch/v1/Job", "v1/Pod"
KINDS: Mapping[str, str] = {
    "pods": POD,
    "jobs": JOB,
    "secrets": "v1/Secret",
    "services": "v1/Service",
    "leases": LEASE,
}
"""What drivers make: in words -> the kind."""
REMOVED = (LEASE, JOB, POD)
"""What is removed, in this order. Secrets and Services are owned by these, and the cluster removes them."""
LOOK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One thing in the cluster that works for a run."""

    what: str
    """`pods`, `jobs`, ..."""
    name: str
    uid: str
    driver: str
    """Of a worker, the id of its driver; else the name of the driver's job."""
    run: str
    """As its label says; empty for a driver's job."""


class Leftovers:
    """What works for runs in one namespace. All methods raise ApiError and ApiUnreachable."""

    def __init__(
        self, client: Kubernetes, namespace: str, *, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._wait = wait
        self.unseen: dict[str, str] = {}
        """Kinds that the account may not list -> the refusal."""

    def found(self) -> Sequence[Leftover]:
        """All that is there, of living drivers, too."""
        out: list[Leftover] = []
        for what, kind in KINDS.items():
            try:
                listed = self._list(kind)
            except ApiForbidden as error:
                if what not in ("secrets", "services"):
                    raise
                self.unseen[what] = error.what
                continue
            out += (made for each in listed if (made := _of_run(what, each)) is not None)
        return out

    def dead(self) -> set[str]:
        """The drivers that are gone. It takes a minute where there is a lease that nobody renews, and seconds where all are renewed."""
        drivers = {each.driver for each in self.found()}
        if not drivers:
            return set()
        late = lapsed(self._leases, wait=self._wait)
        alive = {
            each["metadata"]["labels"][DRIVER_LABEL]
            for each in self._leases()
            if each["metadata"]["name"] not in late
        }
        jobs, _ = self._client.list(
            JOB, namespace=self._namespace, labels=selector({MANAGED: "hooke", COMPONENT: DRIVER})
        )
        alive |= {each["metadata"]["name"] for each in jobs if end_of_job(each) is None}
        return drivers - alive

    def remove(self, drivers: Iterable[str], *, patience_s: float) -> Sequence[Leftover]:
        """Remove what these drivers left, and list until nothing is; returns what is left after `patience_s`."""
        gone = set(drivers)
        until = time.monotonic() + patience_s
        while left := [each for each in self.found() if each.driver in gone]:
            for each in left:
                if KINDS[each.what] in REMOVED:
                    self._delete(each)
            if time.monotonic() > until:
                break
            self._wait(LOOK_S)
        return left

    def _leases(self) -> Sequence[Manifest]:
        return [each for each in self._list(LEASE) if DRIVER_LABEL in each["metadata"]["labels"]]

    def _list(self, kind: str) -> Sequence[Manifest]:
        found, _ = self._client.list(kind, namespace=self._namespace, labels=selector({MANAGED: "hooke"}))
        return found

    def _delete(self, each: Leftover) -> None:
        grace_s = RELEASE_GRACE_S if each.what == "pods" else None
        with contextlib.suppress(NotThere, Conflicting):  # it is another one of that name now
            self._client.delete(
                KINDS[each.what], each.name, namespace=self._namespace, grace_s=grace_s, uid=each.uid
            )


def _of_run(what: str, found: Manifest) -> Leftover | None:
    """Who made it; None for what is of a fleet."""
    about = found["metadata"]
    labels = about["labels"]
    if labels.get(COMPONENT) == DRIVER:
        driver, run = labels.get("job-name", about["name"]), ""
    elif RUN_LABEL in labels:
        driver, run = labels[DRIVER_LABEL], labels[RUN_LABEL]
    else:
        return None
    return Leftover(what=what, name=about["name"], uid=about["uid"], driver=driver, run=run)


def counted(found: Iterable[Leftover], kinds: Iterable[str] = ()) -> str:
    """`1 pod, 2 jobs`; of `kinds` also what there is nothing of: `0 pods, 0 jobs`. Pure."""
    numbers = Counter(each.what for each in found)
    kinds = list(kinds) or [each for each in KINDS if numbers[each]]
    return ", ".join(f"{numbers[each]} {each if numbers[each] != 1 else each[:-1]}" for each in kinds)


def close_ledgers(runs: RunsFolder, gone: Iterable[str], say: Callable[[str], None]) -> None:
    """Note in the ledgers of these runs, as far as they are here and nobody drives them, that their machines are gone."""
    for run in gone:
        folder = runs.folder(run)
        if not records_of(folder) or runs.alive(run):
            continue
        with Ledger.open(folder) as ledger:
            for member in ledger.fleet("run").members.values():
                record = MachineGone(
                    at=time.time(), machine=member.id, token=member.token, how="hooke fleet reap removed it"
                )
                ledger.write(record)
                say(f"{run}: {line_of(record)}")
