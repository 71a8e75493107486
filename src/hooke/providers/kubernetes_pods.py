"""Pods of a Kubernetes cluster as a fleet's machines.

A pod has a name made of the fleet's tag and its launch's token, so a launch is done once at most, and labels by which any controller
finds it. Its deletion retires it: the kubelet sends SIGTERM, which the program takes as "finish and end", and waits for `drain`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hooke.base.files import write_atomic
from hooke.kubernetes.client import (
    ApiForbidden,
    Conflicting,
    Kubernetes,
    Manifest,
    NotThere,
    selector,
)
from hooke.kubernetes.keeper_deployment import KEEPER_OPTIONS, fleet_id
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.pods import (
    RELEASE_GRACE_S,
    RIGHTS_FIX,
    TOKEN_NOTE,
    WORKER,
    PodOptions,
    is_taken,
    log_of,
    merged,
    trouble_of,
    worker_pod,
)
from hooke.kubernetes.rights import FLEET_RIGHTS, Right, lacking_rights
from hooke.machines.kubernetes_calls import reached
from hooke.machines.provider import Machine, NotAllowed, ProviderError, ProviderFacts
from hooke.providers.processes import FLEET, MACHINE, check_command

__all__ = ["KubernetesPods"]

FLEET_LABEL, TAG_NOTE = "hooke.dev/fleet", "hooke.dev/tag"


class KubernetesPods:
    """Runs `command` in one pod for each machine, as Pod Security `restricted` asks for, unless `pod_template` says otherwise.

    A pod's log is in `logs/TOKEN.log` when it has ended by itself; of one that is retired or released, what it wrote until then.
    """

    def __init__(
        self,
        tag: str,
        command: Sequence[str],
        *,
        logs: Path,
        usd_per_hour: float = 0.0,
        image: str,
        **options: Any,
    ) -> None:
        """`options` are those of `PodOptions`, as in hooke.toml: resources of a pod, `drain` as in "10m", and a patch of the manifest.

        Raises UsageError where they are not valid, or there is no access to a cluster.
        """
        check_command(command, '["dask", "worker", "tls://HOST:PORT"]')
        # The list is read from the store of the cluster itself, so a pod that is not in it does not exist.
        self.facts = ProviderFacts(
            name="kubernetes",
            usd_per_hour=usd_per_hour,
            visible_s=5.0,
            look_s=1.0,
            sure=True,
            keeps_ended=True,
        )
        self._tag = tag
        self._fleet = fleet_id(tag)
        self._logs = logs
        parsed = PodOptions.parse({"image": image, **options}, more=KEEPER_OPTIONS)
        self._namespace = parsed.namespace
        self._pod = worker_pod(command, parsed)
        self._client = Kubernetes(find_access(parsed.kubeconfig, context=parsed.context))
        self._may = False
        """Whether the account has all rights that a fleet needs."""
        self._saved: set[str] = set()
        """Pods that have ended and whose whole log is saved."""

    def launch(self, token: str) -> str:
        """Create the pod. Raises OverQuota where the namespace's quota is used up, Impossible where the cluster refuses such a pod.

        Raises NotAllowed where the account lacks any right of a fleet: a pod that could not be deleted would cost money for ever.
        """
        self._check_rights()
        name = self._name(token)
        own = {
            "metadata": {
                "name": name,
                "labels": {FLEET_LABEL: self._fleet},
                "annotations": {TOKEN_NOTE: token, TAG_NOTE: self._tag},
            },
            "spec": {
                "containers": [
                    {
                        "name": WORKER,
                        "env": [{"name": FLEET, "value": self._tag}, {"name": MACHINE, "value": token}],
                    }
                ]
            },
        }
        # After a connection that was lost the pod may exist already: it is this launch's.
        with reached(), contextlib.suppress(Conflicting):
            self._client.create(merged(self._pod, own), namespace=self._namespace)
        return name

    def list(self) -> Sequence[Machine]:
        """All pods of the fleet. One that has ended is listed so until it is released; its log is saved once."""
        with reached():
            pods, _ = self._client.list(
                "v1/Pod", namespace=self._namespace, labels=selector({FLEET_LABEL: self._fleet})
            )
            machines = [_machine(pod) for pod in pods]
            for pod, machine in zip(pods, machines, strict=True):
                if machine.phase == "ended" and machine.id not in self._saved:
                    self._save_log(pod)
                    self._saved.add(machine.id)
            self._saved &= {machine.id for machine in machines}
        return machines

    def retire(self, machine: str) -> None:
        """Delete its pod: it gets SIGTERM and then as long as `drain` says. A pod that does not run yet is gone at once."""
        with reached():
            pod = self._found(machine)
            if pod is not None and not pod["metadata"].get("deletionTimestamp"):
                self._save_log(pod)
                self._delete(machine, None)

    def release(self, machine: str) -> None:
        """Delete its pod, with a few seconds between SIGTERM and SIGKILL, also where it was given longer before."""
        with reached():
            pod = self._found(machine)
            if pod is not None:
                if machine not in self._saved:
                    self._save_log(pod)
                self._delete(machine, RELEASE_GRACE_S)

    def close(self) -> None:
        """Close the connections; the pods stay."""
        self._client.close()

    # -- inside ------------------------------------------------------------------------------------

    def _name(self, token: str) -> str:
        plain = token if re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", token) and len(token) <= 40 else ""
        return f"hooke-{self._fleet}-{plain or hashlib.blake2b(token.encode(), digest_size=8).hexdigest()}"

    def _found(self, machine: str) -> Manifest | None:
        """The pod, if it is there and the fleet's."""
        try:
            pod = self._client.get("v1/Pod", machine, namespace=self._namespace)
        except NotThere:
            return None
        return pod if pod["metadata"].get("labels", {}).get(FLEET_LABEL) == self._fleet else None

    def _delete(self, machine: str, grace_s: float | None) -> None:
        with contextlib.suppress(NotThere):
            self._client.delete("v1/Pod", machine, namespace=self._namespace, grace_s=grace_s)

    def _check_rights(self) -> None:
        if self._may:
            return
        lacking: Sequence[Right] = ()
        # Accounts may not ask everywhere; there, each call says what it lacks.
        with reached(), contextlib.suppress(ApiForbidden):
            lacking = lacking_rights(self._client, FLEET_RIGHTS, namespace=self._namespace)
        if lacking:
            namespace = self._namespace or self._client.access.namespace
            raise NotAllowed(
                f"the account may not {', '.join(map(str, lacking))} in the namespace {namespace}",
                fix=RIGHTS_FIX,
            )
        self._may = True

    def _save_log(self, pod: Manifest) -> None:
        """Write what the pod has written until now to its file; where it may not be read, that. A machine is ended also without its log."""
        machine = _machine(pod)
        if machine.phase == "starting" or _is_silent(pod):
            return
        content = log_of(self._client, machine.id, namespace=self._namespace)
        if not content:
            return
        path = self._logs / f"{machine.token or machine.id}.log"
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        except OSError as error:
            raise ProviderError(f"cannot write the log {path}: {error.strerror}") from error


def _machine(pod: Manifest) -> Machine:
    about, status = pod["metadata"], pod.get("status", {})
    notes = about.get("annotations", {})
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    phase = {"Pending": "starting", "Running": "ready"}.get(status.get("phase", "Pending"), "ended")
    return Machine(
        id=about["name"],
        token=notes.get(TOKEN_NOTE, ""),
        phase=phase,
        started_at=datetime.datetime.fromisoformat(about["creationTimestamp"]).timestamp(),
        healthy=phase != "ready" or conditions.get("Ready", "True") == "True",
        why=trouble_of(pod),
        taken=is_taken(pod) or "deletionTimestamp" in about,
    )


def _is_silent(pod: Manifest) -> bool:
    """Whether its node says nothing: the cluster, not the node, says that it is not ready, and gives no reason. Its log would take 30 s to fail."""
    return any(
        each["type"] == "Ready" and each["status"] == "False" and not each.get("reason")
        for each in pod.get("status", {}).get("conditions", ())
    )
