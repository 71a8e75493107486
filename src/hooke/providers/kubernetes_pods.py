"""Pods of a Kubernetes cluster as a fleet's machines.

A pod has a name made of the fleet's tag and its launch's token, so a launch is done once at most, and labels by which any controller
finds it. Its deletion retires it: the kubelet sends SIGTERM, which the program takes as "finish and end", and waits for `drain`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hooke.base.files import write_atomic
from hooke.kubernetes.client import (
    ApiError,
    ApiForbidden,
    Conflicting,
    Kubernetes,
    Manifest,
    NotThere,
    key_of,
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
    is_preempted,
    is_taken,
    log_of,
    merged,
    preemptors_in,
    trim_pod,
    trouble_of,
    worker_pod,
)
from hooke.kubernetes.rights import FLEET_RIGHTS, Right, lacking_rights, lacking_text
from hooke.kubernetes.watch import Watch
from hooke.machines.kubernetes_calls import reached
from hooke.machines.provider import Machine, NotAllowed, ProviderError, ProviderFacts
from hooke.providers.processes import FLEET, MACHINE, check_command

__all__ = ["KubernetesPods"]

LIST_AGAIN_S = 300.0
"""After this time all pods are listed anew, whatever was seen of them."""
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
            calls=8,
            keeps_ended=True,
        )
        self._tag = tag
        self._fleet = fleet_id(tag)
        self._prefix = f"hooke-{self._fleet}-"
        self._logs = logs
        parsed = PodOptions.parse({"image": image, **options}, more=KEEPER_OPTIONS)
        self._namespace = parsed.namespace
        self._pod = worker_pod(command, parsed)
        self._client = Kubernetes(find_access(parsed.kubeconfig, context=parsed.context))
        self._may = False
        """Whether the account has all rights that a fleet needs."""
        self._asking = threading.Lock()
        """Calls run side by side, and one of them asks for what all need to know."""
        self._saved: set[str] = set()
        """Pods that have ended and whose whole log is saved."""
        self._pods: dict[str, Manifest] | None = None
        """By name, as they were listed last; None before the first time."""
        self._new: set[str] = set()
        """Pods that were launched, or may have been, and that the watch has not told yet."""
        self._gone: set[str] = set()
        """Pods that a list did not have any more, and that the watch still has: their names never come again."""
        self._preemptors: dict[str, str] = {}
        """UID of a pod that was preempted -> by which one."""
        self._may_list_events = True
        self._follower: _Follower | None = None
        self._machines: dict[str, tuple[str, Machine]] = {}
        """Name of a pod -> its version, and what that says of the machine."""

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
        self._new.add(name)  # also where no answer comes
        with reached(), contextlib.suppress(Conflicting):
            self._client.create(merged(self._pod, own), namespace=self._namespace)
        return name

    def list(self) -> Sequence[Machine]:
        """All pods of the fleet. One that has ended is listed so until it is released; its log is saved once."""
        with reached():
            self._pods = self._known_pods()
            self._name_preemptors(self._pods.values())
            before = dict(self._machines)
            self._machines.clear()
            for name, pod in self._pods.items():
                preemptor = self._preemptors.get(pod["metadata"]["uid"], "")
                version = pod["metadata"]["resourceVersion"] + preemptor
                known = before.get(name)
                # What has ended stays so, also where a watch that is behind still has it running.
                same = known is not None and (known[0] == version or known[1].phase == "ended")
                machine = known[1] if known is not None and same else _machine(pod, preemptor)
                self._machines[name] = version, machine
                if machine.phase == "ended" and name not in self._saved:
                    self._save_log(pod)
                    self._saved.add(name)
            self._saved &= self._pods.keys()
        return [machine for _, machine in self._machines.values()]

    def retire(self, machine: str) -> None:
        """Delete its pod: it gets SIGTERM and then as long as `drain` says. A pod that does not run yet is gone at once."""
        with reached():
            pod = self._found(machine)
            if pod is None or not pod["metadata"].get("deletionTimestamp"):
                self._save_log(pod)
                self._delete(machine, None)

    def release(self, machine: str) -> None:
        """Delete its pod, with a few seconds between SIGTERM and SIGKILL, also where it was given longer before."""
        with reached():
            pod = self._found(machine)
            about = pod["metadata"] if pod is not None else {}
            if (
                about.get("deletionTimestamp")
                and about.get("deletionGracePeriodSeconds", 0) <= RELEASE_GRACE_S
            ):
                return  # it is on its way already
            if machine not in self._saved:
                self._save_log(pod)
            self._delete(machine, RELEASE_GRACE_S)

    def close(self) -> None:
        """Close the connections; the pods stay."""
        if self._follower is not None:
            self._follower.stop()
        self._client.close()

    # -- inside ------------------------------------------------------------------------------------

    def _name(self, token: str) -> str:
        plain = token if re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", token) and len(token) <= 40 else ""
        return f"{self._prefix}{plain or hashlib.blake2b(token.encode(), digest_size=8).hexdigest()}"

    def _known_pods(self) -> dict[str, Manifest]:
        """By name, from a watch where one follows them all; else from a list. One request that costs little tells whether the server answers.

        A watch may be behind a list. So what a list had and the watch has not told yet is listed until it has, and what a list
        lacked does not come back.
        """
        if self._follower is not None and (followed := self._follower.pods()) is not None:
            self._new -= followed.keys()
            self._gone &= followed.keys()
            if not self._new:
                self._client.check_listing("v1/Pod", namespace=self._namespace, labels=self._labels)
                return {name: pod for name, pod in followed.items() if name not in self._gone}
        found, version = self._client.list(
            "v1/Pod", namespace=self._namespace, labels=self._labels, trim=trim_pod
        )
        there = {pod["metadata"]["name"]: pod for pod in found}
        self._new &= there.keys()
        self._gone |= (self._pods or {}).keys() - there.keys()
        looks_again = self._pods is not None  # who looks once needs no watch
        if looks_again and (self._follower is None or self._follower.is_old):
            if self._follower is not None:
                self._follower.stop()
            watch = Watch(
                self._client, "v1/Pod", namespace=self._namespace, labels=self._labels, trim=trim_pod
            )
            self._follower = _Follower(watch, found, version)
            self._gone.clear()
        return there

    @property
    def _labels(self) -> str:
        return selector({FLEET_LABEL: self._fleet})

    def _found(self, machine: str) -> Manifest | None:
        """The pod as it was listed last, if it was; all are listed where they were not yet."""
        with self._asking:
            if self._pods is None:
                self.list()
        return (self._pods or {}).get(machine)

    def _delete(self, machine: str, grace_s: float | None) -> None:
        if machine.startswith(self._prefix):  # no other fleet's
            with contextlib.suppress(NotThere):
                self._client.delete("v1/Pod", machine, namespace=self._namespace, grace_s=grace_s)

    def _check_rights(self) -> None:
        with self._asking:
            if not self._may:
                self._ask_rights()

    def _ask_rights(self) -> None:
        lacking: Sequence[Right] = ()
        # Accounts may not ask everywhere; there, each call says what it lacks.
        with reached(), contextlib.suppress(ApiForbidden):
            lacking = lacking_rights(self._client, FLEET_RIGHTS, namespace=self._namespace)
        if lacking:
            namespace = self._namespace or self._client.access.namespace
            raise NotAllowed(lacking_text(lacking, namespace=namespace), fix=RIGHTS_FIX)
        self._may = True

    def _name_preemptors(self, pods: Iterable[Manifest]) -> None:
        """Find out which pods have the places of those that were preempted. A fleet works without the right to list events, and then says it without a name."""
        uids = [each["metadata"]["uid"] for each in pods if is_preempted(each)]
        if self._may_list_events and any(uid not in self._preemptors for uid in uids):
            try:
                by = preemptors_in(self._client, namespace=self._namespace)
            except ApiForbidden:
                self._may_list_events = False
            else:
                self._preemptors = {uid: by[uid] for uid in uids if uid in by}

    def _save_log(self, pod: Manifest | None) -> None:
        """Write what the pod has written until now to its file; where it may not be read, that. A machine is ended also without its log."""
        if pod is None:  # it was not listed yet, so it has not written anything that is known of
            return
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


class _Follower:
    """The pods of a list, and what a watch in a thread has told of them since."""

    def __init__(self, watch: Watch, pods: Sequence[Manifest], version: str) -> None:
        self._watch = watch
        watch.known = {key_of(pod): pod for pod in pods}
        watch.version = version
        self._until = time.monotonic() + LIST_AGAIN_S
        self._error: ApiError | None = None
        self._thread = threading.Thread(target=self._follow, name="hooke-fleet", daemon=True)
        self._thread.start()

    @property
    def is_old(self) -> bool:
        """Whether another one is to take its place."""
        return time.monotonic() > self._until or not self._thread.is_alive()

    def pods(self) -> dict[str, Manifest] | None:
        """By name; None where the watch does not follow them now. Raises ApiError, once, where the server refuses it."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self.is_old or not self._watch.follows:
            return None
        return {pod["metadata"]["name"]: pod for pod in list(self._watch.known.values())}

    def stop(self) -> None:
        """End the thread."""
        self._watch.stop()
        self._thread.join()

    def _follow(self) -> None:
        try:
            for _ in self._watch:
                pass
        except ApiError as error:
            self._error = error


def _machine(pod: Manifest, preemptor: str = "") -> Machine:
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
        why=trouble_of(pod, preemptor=preemptor),
        taken=is_taken(pod) or "deletionTimestamp" in about,
    )


def _is_silent(pod: Manifest) -> bool:
    """Whether its node says nothing: the cluster, not the node, says that it is not ready, and gives no reason. Its log would take 30 s to fail."""
    return any(
        each["type"] == "Ready" and each["status"] == "False" and not each.get("reason")
        for each in pod.get("status", {}).get("conditions", ())
    )
