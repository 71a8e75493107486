"""Leases: a process in or outside a cluster says there that it lives, or that it alone does something; and who of others still lives."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from hooke.kubernetes.client import Kubernetes, Manifest, NotThere

__all__ = ["LEASE", "LEASE_S", "ClusterLease", "lapsed"]

LEASE = "coordination.k8s.io/v1/Lease"
LEASE_S = 60.0
"""Whose lease was not renewed for this time is dead. An API server may be away for half of it."""
RENEWALS = 6.0
"""How often it is renewed within the time after which its holder is dead."""
LOOK_S = 1.0


class ClusterLease:
    """One lease, of a name that nobody else takes, renewed while its holder lives: by one thread at a time.

    What it owns the cluster removes with it. All methods raise ApiError and ApiUnreachable.
    """

    def __init__(
        self,
        client: Kubernetes,
        name: str,
        *,
        namespace: str,
        labels: Mapping[str, str],
        owners: Sequence[Manifest] = (),
        lasts_s: float = LEASE_S,
    ) -> None:
        self.name = name
        self._client = client
        self._namespace = namespace
        self._about = {"name": name, "labels": dict(labels), "ownerReferences": list(owners)}
        self._lasts_s = lasts_s
        self._uid = ""
        self._renewed = 0.0

    @property
    def owner(self) -> Manifest:
        """What is owned by it says so with this."""
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": self.name, "uid": self._uid}

    def hold(self) -> None:
        """Take the lease, or renew it."""
        spec = {
            "holderIdentity": _me(),
            "leaseDurationSeconds": int(self._lasts_s),
            "renewTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        made = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._about,
            "spec": spec,
        }
        there = self._client.apply(made, namespace=self._namespace, force=True)
        self._uid = there["metadata"]["uid"]
        self._renewed = time.monotonic()

    def take(self, *, wait: Callable[[float], object] = time.sleep) -> None:
        """Take it when nobody else holds it: at once where it is free or was this machine's, else when it was not renewed for its time."""
        while not self._is_free() and self.name not in lapsed(self._there, wait=wait, lasts_s=self._lasts_s):
            continue
        self.hold()

    def _is_free(self) -> bool:
        holders = [each["spec"].get("holderIdentity", "") for each in self._there()]
        return not holders or holders[0].partition("/")[0] == _me().partition("/")[0]

    def _there(self) -> Sequence[Manifest]:
        try:
            return [self._client.get(LEASE, self.name, namespace=self._namespace)]
        except NotThere:
            return []

    def renew(self) -> None:
        """Renew it when it is time; to be called often."""
        if time.monotonic() - self._renewed >= self._lasts_s / RENEWALS:
            self.hold()

    def release(self) -> None:
        """Give it up, with what it owns; nothing where it is not held."""
        if not self._uid:
            return
        with contextlib.suppress(NotThere):
            self._client.delete(LEASE, self.name, namespace=self._namespace)
        self._uid = ""


def _me() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"


def lapsed(
    look: Callable[[], Iterable[Manifest]],
    *,
    wait: Callable[[float], object] = time.sleep,
    lasts_s: float = LEASE_S,
) -> set[str]:
    """The names of leases whose holders are dead: those that stay as they are for `lasts_s`, whatever the clocks of their holders say.

    `look` lists them. Returns as soon as each of the others was renewed. Raises what `look` raises.
    """
    before = {each["metadata"]["name"]: _version(each) for each in look()}
    same, passed_s = dict(before), 0.0
    while same and passed_s < lasts_s:
        wait(LOOK_S)
        passed_s += LOOK_S
        now = {each["metadata"]["name"]: _version(each) for each in look()}
        same = {name: version for name, version in same.items() if now.get(name) == version}
    return set(same)


def _version(lease: Manifest) -> str:
    return str(lease["metadata"]["resourceVersion"])
