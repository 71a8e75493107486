"""Pods of a Kubernetes cluster as a fleet's machines.

A pod has a name made of the fleet's tag and its launch's token, so a launch is done once at most, and labels by which any controller
finds it. Its deletion retires it: the kubelet sends SIGTERM, which the program takes as "finish and end", and waits for `drain`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hooke.base.files import write_atomic
from hooke.kubernetes.client import (
    ApiError,
    ApiUnreachable,
    Conflicting,
    Kubernetes,
    Manifest,
    NotThere,
    selector,
)
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.rights import FLEET_RIGHTS, Right, lacking_rights
from hooke.providers.processes import FLEET, MACHINE, check_command
from hooke.providers.provider import (
    Impossible,
    Machine,
    NotAllowed,
    OverQuota,
    ProviderError,
    ProviderFacts,
    Unreachable,
)

__all__ = ["KubernetesPods"]

FLEET_LABEL, TOKEN_NOTE, TAG_NOTE = "hooke.dev/fleet", "hooke.dev/token", "hooke.dev/tag"
INSTANCE_LABEL = "node.kubernetes.io/instance-type"
"""Where clouds say what kind of machine a node is."""
RELEASE_GRACE_S = 5.0
"""From SIGTERM to SIGKILL, for a pod that is ended and not retired."""
WORKER = "worker"
"""The name of the container that works; a template changes it by that."""
SCRATCH = "/tmp"  # noqa: S108 - of a pod, which it has for itself
"""The one folder of a pod that can be written to."""

_WAITS = {
    "CreateContainerConfigError": "a secret or a config map that it needs is missing",
    "CreateContainerError": "its container cannot be made",
    "ErrImageNeverPull": "the node does not have its image, and may not pull it",
    "ErrImagePull": "its image cannot be pulled",
    "ImagePullBackOff": "its image cannot be pulled",
    "InvalidImageName": "its image's name is not valid",
    "RunContainerError": "its program cannot be started",
}
"""Why a container waits -> what that means."""
_RIGHTS_FIX = "have the cluster's administrator apply what `hooke fleet rbac` prints"
_IMAGE_FIX = "correct `image`, or give the secret of its registry: imagePullSecrets in pod_template"


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
        self._fleet = hashlib.blake2b(tag.encode(), digest_size=8).hexdigest()
        self._logs = logs
        config = options.pop("kubeconfig", None)
        context = options.pop("context", "")
        self._namespace = options.pop("namespace", "")
        self._pod = _pod(list(command), image, options)
        self._client = Kubernetes(find_access(config, context=context))
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
        with _reached(), contextlib.suppress(Conflicting):
            self._client.create(merged(self._pod, own), namespace=self._namespace)
        return name

    def list(self) -> Sequence[Machine]:
        """All pods of the fleet. One that has ended is listed so until it is released; its log is saved once."""
        with _reached():
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
        with _reached():
            pod = self._found(machine)
            if pod is not None and not pod["metadata"].get("deletionTimestamp"):
                self._save_log(pod)
                self._delete(machine, None)

    def release(self, machine: str) -> None:
        """Delete its pod, with a few seconds between SIGTERM and SIGKILL, also where it was given longer before."""
        with _reached():
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
        with _reached(), contextlib.suppress(ApiForbidden):
            lacking = lacking_rights(self._client, FLEET_RIGHTS, namespace=self._namespace)
        if lacking:
            namespace = self._namespace or self._client.access.namespace
            raise NotAllowed(
                f"the account may not {', '.join(map(str, lacking))} in the namespace {namespace}",
                fix=_RIGHTS_FIX,
            )
        self._may = True

    def _save_log(self, pod: Manifest) -> None:
        """Write what the pod has written until now to its file; where it may not be read, that. A machine is ended also without its log."""
        machine = _machine(pod)
        if machine.phase == "starting" or _is_silent(pod):
            return
        try:
            with self._client.logs(machine.id, namespace=self._namespace, container=WORKER) as lines:
                content = b"".join(line + b"\n" for line in lines)
        except ApiForbidden as error:
            content = f"hooke: this log could not be read. {error.what}; {_RIGHTS_FIX}\n".encode()
        except ApiError:  # its node is gone, or its container never was
            return
        path = self._logs / f"{machine.token or machine.id}.log"
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        except OSError as error:
            raise ProviderError(f"cannot write the log {path}: {error.strerror}") from error


def trouble_of(pod: Manifest) -> str:
    """What keeps a pod from its work, or has ended it, in a sentence with its fix; empty where nothing does. Pure."""
    status = pod.get("status", {})
    if taken := _taken_by(status):
        return taken
    if status.get("phase") in ("Failed", "Succeeded"):
        return _end_of(status)
    for each in status.get("conditions", ()):
        if (
            each["type"] == "PodScheduled"
            and each["status"] == "False"
            and each.get("reason") == "Unschedulable"
        ):
            return f"no node has room for it: {each.get('message', '')}; add nodes, or ask for fewer cpus, memory or gpus"
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waits = container.get("state", {}).get("waiting", {})
        meant = _WAITS.get(waits.get("reason", ""))
        if meant:
            fix = f"; {_IMAGE_FIX}" if "image" in meant else ""
            return f"{meant} ({container['image']}): {waits.get('message', waits['reason'])}{fix}"
    return ""


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with a patch on it: entries of lists that have a name are merged by it, other lists are replaced, None removes. Pure."""
    out = dict(base)
    for key, value in patch.items():
        before = out.get(key)
        if value is None:
            out.pop(key, None)
        elif isinstance(value, Mapping):
            out[key] = merged(before if isinstance(before, Mapping) else {}, value)
        elif (
            isinstance(value, list) and isinstance(before, list) and _are_named(value) and _are_named(before)
        ):
            named = {each["name"]: each for each in before}
            for each in value:
                named[each["name"]] = merged(named.get(each["name"], {}), each)
            out[key] = list(named.values())
        else:
            out[key] = value
    return out


def _are_named(entries: Sequence[Any]) -> bool:
    return all(isinstance(each, Mapping) and "name" in each for each in entries)


def _pod(command: list[str], image: str, options: dict[str, Any]) -> Manifest:
    """The pod of a fleet but for its name. Raises UsageError for an option that does not exist or is not valid."""
    cpus, memory = options.pop("cpus", 1), options.pop("memory", "1 GiB")
    gpus, drain = options.pop("gpus", 0), options.pop("drain", "1 h")
    priority, template = options.pop("priority", ""), options.pop("pod_template", {})
    instance = options.pop("instance", "")
    if options:
        raise UsageError(f"unknown options: {', '.join(sorted(options))}", fix=f"valid: {', '.join(OPTIONS)}")
    nothing: Manifest = {}
    limits = {"memory": str(parse_bytes(memory))} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    container = {
        "name": WORKER,
        "image": image,
        "command": command,
        "env": [{"name": "HOME", "value": SCRATCH}],
        "resources": {"requests": {"cpu": str(cpus)} | limits, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": SCRATCH}],
    }
    spec = {
        "automountServiceAccountToken": False,
        "containers": [container],
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": int(parse_seconds(drain)),
        "volumes": [{"name": "tmp", "emptyDir": nothing}],
    } | ({"priorityClassName": priority} if priority else {})
    made = merged(spec, _whole_node(instance)) if instance else spec
    return merged({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": made}, template)


def _whole_node(instance: str) -> dict[str, Any]:
    """What keeps a pod to nodes of that type, one of a fleet to a node: so the price of a node is that of a machine."""
    others = {"matchExpressions": [{"key": FLEET_LABEL, "operator": "Exists"}]}
    apart = {"labelSelector": others, "topologyKey": "kubernetes.io/hostname"}
    return {
        "nodeSelector": {INSTANCE_LABEL: instance},
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
    }


OPTIONS = (
    "image",
    "namespace",
    "context",
    "kubeconfig",
    "cpus",
    "memory",
    "gpus",
    "drain",
    "priority",
    "instance",
    "pod_template",
)


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    """Errors of the API server as a provider's."""
    try:
        yield
    except ApiUnreachable as error:
        raise Unreachable(f"{error.what}: {error.why}") from error
    except ApiError as error:
        raise _refused(error) from error


def _forbidden(error: ApiForbidden) -> ProviderError:
    if "exceeded quota" in error.what:
        return OverQuota(error.what, fix="wait for other pods to end, or have the quota raised")
    if error.code == 401:
        return NotAllowed(error.what, fix="log in to the cluster again, or get a new kubeconfig")
    if " cannot " in error.what:
        return NotAllowed(error.what, fix=_RIGHTS_FIX)
    return Impossible(error.what, fix="change what the cluster's rules refuse: pod_template, cpus, memory")


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
        taken=bool(_taken_by(status)) or "deletionTimestamp" in about,
    )


def _is_silent(pod: Manifest) -> bool:
    """Whether its node says nothing: the cluster, not the node, says that it is not ready, and gives no reason. Its log would take 30 s to fail."""
    return any(
        each["type"] == "Ready" and each["status"] == "False" and not each.get("reason")
        for each in pod.get("status", {}).get("conditions", ())
    )


def _taken_by(status: Manifest) -> str:
    """Why the cluster takes a pod's place or has taken it: an eviction, a preemption, a node that ends; empty where it does not."""
    for each in status.get("conditions", ()):
        if each["type"] == "DisruptionTarget" and each["status"] == "True":
            return f"the cluster took its place ({each.get('reason', '')}): {each.get('message', '')}; its work goes elsewhere"
    return ""


def _end_of(status: Manifest) -> str:
    if status.get("reason"):
        return f"{status['reason']}: {status.get('message', '')}"
    for container in status.get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated")
        if not ended:
            continue
        if ended.get("reason") == "OOMKilled":
            return f"its container {container['name']} used more memory than its limit (OOMKilled); raise `memory`"
        if ended.get("exitCode"):
            return f"its container {container['name']} ended with {ended['exitCode']}; see its log"
    return "its program has ended"
