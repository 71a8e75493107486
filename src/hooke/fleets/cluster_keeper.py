"""The keeper of a fleet in the cluster, from outside: the fleet is handed over to it with its ledger, and taken back from it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import write_atomic, writing
from hooke.base.formats import format_seconds
from hooke.journal.fleet_events import LedgerRecord
from hooke.kubernetes.client import (
    ApiError,
    ApiForbidden,
    ApiUnreachable,
    Conflicting,
    Kubernetes,
    Manifest,
    NotThere,
    selector,
)
from hooke.kubernetes.keeper_deployment import (
    KEEPER_OPTIONS,
    KeeperOptions,
    keeper_deployment,
    keeper_labels,
    keeper_name,
)
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.lease import LEASE
from hooke.kubernetes.pods import refusal_of, trouble_of
from hooke.kubernetes.rights import FLEET_RIGHTS, KEEPER_RIGHTS, lacking_rights, lacking_text
from hooke.machines.cluster_ledger import CONFIG_MAP, ledger_manifest, records_in
from hooke.machines.controller import Caps
from hooke.machines.keeper import Ledger
from hooke.machines.provider import Provider
from hooke.project.settings import FleetSettings

__all__ = ["KEEPER_NOTE", "ClusterKeeper", "KeeperOrder"]

KEEPER_NOTE = "keeper.json"
"""In the fleet's folder while its keeper is in the cluster."""
DEPLOYMENT, POD = "apps/v1/Deployment", "v1/Pod"
LOCAL = ("kubeconfig", "context", "command", "namespace", *KEEPER_OPTIONS)
"""Options that count only outside, or are given apart."""
LOOK_S = 0.5
GONE_S = 60.0


class KeeperOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a keeper in the cluster is to do."""

    tag: str
    name: str
    wanted: int
    namespace: str
    command: tuple[str, ...]
    options: dict[str, Any]
    """Of the pods, as in hooke.toml."""
    usd_per_hour: float = 0.0
    workers: int
    max_usd_per_hour: float | None = None
    lifetime_s: float | None = None

    @property
    def caps(self) -> Caps:
        """The limits of the fleet."""
        usd, lifetime_s = self.max_usd_per_hour or math.inf, self.lifetime_s or math.inf
        return Caps(workers=self.workers, usd_per_hour=usd, lifetime_s=lifetime_s)


class ClusterKeeper:
    """The keeper of one fleet of pods. Methods raise HookeError where the cluster refuses or does not answer."""

    def __init__(self, name: str, folder: Path, settings: FleetSettings) -> None:
        """Raises UsageError where the fleet is not on Kubernetes, or its options are not valid."""
        if settings.provider != "kubernetes":
            raise UsageError(
                f"the fleet {name} cannot have a keeper in a cluster: its provider is {settings.provider!r}",
                fix="only the keeper of pods can be a pod; others are kept by `hooke fleet scale --keep`",
            )
        self._name = name
        self._folder = folder
        self._tag = str(folder)
        self._settings = settings
        self._own = KeeperOptions.parse(settings.options)
        options = settings.options
        self._client = Kubernetes(find_access(options.get("kubeconfig"), context=options.get("context", "")))
        self.namespace: str = options.get("namespace") or self._client.access.namespace
        self.deployment = keeper_name(self._tag)

    def manifest(self, wanted: int, caps: Caps, usd_per_hour: float) -> Manifest:
        """The Deployment that keeps the fleet at that size."""
        options = self._settings.options
        order = KeeperOrder(
            tag=self._tag,
            name=self._name,
            wanted=wanted,
            namespace=self.namespace,
            command=tuple(options["command"]),
            options={key: value for key, value in options.items() if key not in LOCAL},
            usd_per_hour=usd_per_hour,
            workers=caps.workers,
            max_usd_per_hour=None if math.isinf(caps.usd_per_hour) else caps.usd_per_hour,
            lifetime_s=None if math.isinf(caps.lifetime_s) else caps.lifetime_s,
        )
        text = msgspec.json.encode(order).decode()
        return keeper_deployment(self._tag, text, image=options["image"], own=self._own)

    def hand_over(self, manifest: Manifest, records: Sequence[LedgerRecord]) -> None:
        """Have the cluster keep the fleet, whose ledger begins with these records where the cluster has none yet.

        That there may be a keeper is noted here before it is asked for, so no later command acts beside one. Raises UsageError
        where the account lacks a right: a keeper that cannot be ended would stay.
        """
        self._check_rights()
        file, is_first = self._folder / KEEPER_NOTE, not (self._folder / KEEPER_NOTE).exists()
        note = {"namespace": self.namespace, "deployment": self.deployment}
        with writing("the fleet's folder", self._folder):
            write_atomic(file, msgspec.json.encode(note))
        ledger = ledger_manifest(self.deployment, records, labels=keeper_labels(self._tag))
        with self._called():
            try:
                with contextlib.suppress(Conflicting):
                    self._client.create(ledger, namespace=self.namespace)
                self._client.apply(manifest, namespace=self.namespace, force=True)
            except ApiForbidden:  # there is no keeper, and whoever may not make one may not end one
                if is_first:
                    with contextlib.suppress(ApiError):
                        self._delete(CONFIG_MAP)
                    file.unlink()
                raise

    def _check_rights(self) -> None:
        rights = (*FLEET_RIGHTS, *KEEPER_RIGHTS)
        with self._called(), contextlib.suppress(ApiForbidden):  # not all accounts may ask
            if lacking := lacking_rights(self._client, rights, namespace=self.namespace):
                fix = f"have the cluster's administrator apply what `hooke fleet rbac {self._name} --keeper` prints"
                raise UsageError(lacking_text(lacking, namespace=self.namespace), fix=fix)

    def lives(self) -> bool:
        """Whether its Deployment is there, or what it owns."""
        with self._called():
            try:
                self._client.get(DEPLOYMENT, self.deployment, namespace=self.namespace)
            except NotThere:
                return False
        return True

    def records(self) -> list[LedgerRecord]:
        """The ledger in the cluster; nothing where it was removed."""
        with self._called():
            try:
                found = self._client.get(CONFIG_MAP, self.deployment, namespace=self.namespace)
            except NotThere:
                return []
        return records_in(found)

    def wait(self, wanted: int, provider: Provider, *, patience_s: float) -> None:
        """Return when the fleet has that size. Raises HookeError where it has not after `patience_s`; the request stays in force."""
        until = time.monotonic() + patience_s
        while True:
            machines = provider.list()
            ready = [each for each in machines if each.phase == "ready"]
            if len(ready) == len(machines) == wanted and self._pods_ready():
                return
            if time.monotonic() > until:
                why = next((each.why for each in machines if each.why), "")
                raise HookeError(
                    f"after {format_seconds(patience_s)} the fleet {self._name} has {len(ready)} of {wanted} machines",
                    where=f"deployment {self.deployment}, namespace {self.namespace}",
                    why=self._trouble() or why,
                    next=f"hooke fleet why {self._name}",
                )
            time.sleep(LOOK_S)

    def take_back(self, ledger: Ledger, known: Sequence[LedgerRecord]) -> None:
        """End the keeper, and take up its ledger; then nothing of it is left in the cluster, and the machines stay."""
        with self._called():
            self._delete(DEPLOYMENT, owned_first=True)
            until = time.monotonic() + GONE_S
            while self.lives() or self._pods():  # it stays until its ReplicaSet and its pod are gone
                if time.monotonic() > until:
                    raise HookeError(
                        f"the keeper of the fleet {self._name} does not end",
                        where=f"deployment {self.deployment}, namespace {self.namespace}",
                        fix="see why its pod stays, then run the command again: kubectl describe pod",
                    )
                time.sleep(LOOK_S)
        before = set(known)
        for record in self.records():
            if record not in before:
                ledger.write(record)
        with self._called():
            self._delete(CONFIG_MAP)
            self._delete(LEASE)
        (self._folder / KEEPER_NOTE).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # -- inside ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _called(self) -> Iterator[None]:
        try:
            yield
        except ApiError as error:
            raise UsageError(
                f"the keeper of the fleet {self._name} cannot be in the cluster",
                where=f"namespace {self.namespace}",
                why=error.what,
                fix=f"{refusal_of(error).fix}; the keeper's rights: hooke fleet rbac {self._name} --keeper",
            ) from error
        except ApiUnreachable as error:
            raise HookeError(error.what, why=error.why, next=f"hooke fleet ls {self._name}") from error

    def _delete(self, kind: str, *, owned_first: bool = False) -> None:
        with contextlib.suppress(NotThere):
            self._client.delete(kind, self.deployment, namespace=self.namespace, owned_first=owned_first)

    def _pods(self) -> Sequence[Manifest]:
        labels = selector(keeper_labels(self._tag))
        found, _ = self._client.list(POD, namespace=self.namespace, labels=labels)
        return found

    def _pods_ready(self) -> bool:
        """Whether its pod runs: of an earlier order none is left, since two are never there at once."""
        with self._called():
            there = self._client.get(DEPLOYMENT, self.deployment, namespace=self.namespace)
        status = there.get("status", {})
        is_new = status.get("observedGeneration") == there["metadata"]["generation"]
        return bool(is_new and status.get("updatedReplicas") == status.get("readyReplicas") == 1)

    def _trouble(self) -> str:
        with self._called():
            return next((said for each in self._pods() if (said := trouble_of(each))), "")
