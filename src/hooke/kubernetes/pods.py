"""Pods that work for Hooke: their options in hooke.toml, their manifest with a patch, why one does not start or has ended, and refusals."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.base.units import parse_bytes, parse_seconds
from hooke.kubernetes.client import ApiError, ApiForbidden, Kubernetes, Manifest

__all__ = [
    "COMPONENT",
    "DELETED",
    "DRIVER_LABEL",
    "INSTANCE_LABEL",
    "MANAGED",
    "RELEASE_GRACE_S",
    "RIGHTS_FIX",
    "RUN_LABEL",
    "TOKEN_NOTE",
    "WORKER",
    "WORKER_LABELS",
    "PodOptions",
    "Trouble",
    "check_template",
    "is_preempted",
    "is_taken",
    "label_of",
    "lacks_right",
    "log_of",
    "merged",
    "options_of",
    "pod_trouble",
    "preemptors_in",
    "refusal_of",
    "trim_pod",
    "trouble_of",
    "worker_pod",
]

RELEASE_GRACE_S = 5.0
"""From SIGTERM to SIGKILL, for a pod that is ended and not retired."""
WORKER = "worker"
"""The name of the container that works; a template changes it by that."""
SCRATCH = "/tmp"  # noqa: S108 - of a pod, which it has for itself
"""The one folder of a pod that can be written to."""
MANAGED, COMPONENT = "app.kubernetes.io/managed-by", "app.kubernetes.io/component"
WORKER_LABELS = {MANAGED: "hooke", COMPONENT: WORKER}
"""Each pod that works for Hooke has them, with Kubernetes' own names."""
RUN_LABEL, DRIVER_LABEL = "hooke.dev/run", "hooke.dev/driver"
"""Of all that works for a run: which one, and for which of its drivers."""
TOKEN_NOTE = "hooke.dev/token"  # noqa: S105 - the name of an annotation
"""The annotation with the token of a machine's launch."""
INSTANCE_LABEL = "node.kubernetes.io/instance-type"
"""Where clouds say what kind of machine a node is."""


def label_of(run: str) -> str:
    """The value of RUN_LABEL: a run's id, or a digest where Kubernetes does not allow it as a label's value. Pure."""
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", run):
        return run
    return hashlib.blake2b(run.encode(), digest_size=16).hexdigest()


# -- options ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PodOptions:
    """What `[fleets.NAME]` and `[places.NAME]` say of pods."""

    image: str
    namespace: str = ""
    """Empty: that of the kubeconfig's context."""
    context: str = ""
    kubeconfig: str | None = None
    cpus: float = 1
    memory: int = 1 << 30
    """Bytes: the request and the limit."""
    gpus: int = 0
    drain_s: float = 3600.0
    """From SIGTERM to SIGKILL, for a pod that finishes its work."""
    priority: str = ""
    instance: str = ""
    """The type of the nodes; each node has one such pod."""
    nodes: str = ""
    """`KEY=VALUE`: only nodes with this label. A taint of the same key is tolerated, so that spot nodes can keep others away."""
    pod_template: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, options: Mapping[str, Any], *, more: Sequence[str] = ()) -> Self:
        """Options as in the file, without those named in `more`. Raises UsageError, which names the nearest valid option."""
        names = ["drain" if each.name == "drain_s" else each.name for each in fields(cls)]
        given = {name: value for name, value in options.items() if name not in more}
        for name in given:
            if name not in names:
                meant = did_you_mean(name, [*names, *more])
                raise UsageError(
                    f"unknown options: {name}", fix=f"{meant}valid: {', '.join([*names, *more])}"
                )
        if not given.get("image"):
            raise UsageError(
                "pods need an image",
                fix='write image = "REGISTRY/NAME:TAG" below [places.NAME] or [fleets.NAME]; `hooke image build` makes one of your project',
            )
        for name, valid, fix in _KINDS:
            value = given.get(name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, valid) or _negative(value)
            ):
                raise UsageError(f"{name} = {value!r} is not valid", fix=fix)
        check_template("pod_template", given.get("pod_template", {}))
        if given.get("nodes") and not re.fullmatch(r"[^=\s]+=[^=\s]*", str(given["nodes"])):
            raise UsageError(
                f"nodes = {given['nodes']!r} is not valid",
                fix='write a label of the nodes: nodes = "cloud.google.com/gke-spot=true"',
            )
        if "memory" in given:
            given["memory"] = parse_bytes(given["memory"], name="memory")
        if "drain" in given:
            given["drain_s"] = parse_seconds(given.pop("drain"), name="drain")
        return cls(**given)


_KINDS: tuple[tuple[str, Any, str], ...] = (
    ("image", str, "write a name in quotes"),
    ("namespace", str, "write a name in quotes"),
    ("context", str, "write a name in quotes"),
    ("kubeconfig", str, "write a path in quotes"),
    ("priority", str, "write the name of a PriorityClass in quotes"),
    ("instance", str, "write a type of nodes in quotes"),
    ("cpus", (int, float), "write a number, such as cpus = 0.5"),
    ("gpus", int, "write a whole number"),
    ("pod_template", Mapping, "write a table"),
)
"""Options, their types, and what to write."""


def check_template(name: str, template: Mapping[str, Any]) -> None:
    """Raise UsageError for what a pod does not have. The API server looks at the rest."""
    valid = ("metadata", "spec")
    for key, value in template.items():
        if key not in valid:
            meant = did_you_mean(key, valid)
            raise UsageError(f"{name} has an unknown key: {key}", fix=f"{meant}valid: {', '.join(valid)}")
        if value is not None and not isinstance(value, Mapping):
            raise UsageError(f"{name}.{key} = {value!r} is not valid", fix="write a table")


def options_of(options: Mapping[str, Any], names: Sequence[str], *, table: str) -> dict[str, Any]:
    """Those of these names, each a text; the one named `table` is a table. Raises UsageError."""
    given = {name: value for name, value in options.items() if name in names}
    for name, value in given.items():
        valid, kind = (Mapping, "a table") if name == table else (str, "a name")
        if not isinstance(value, valid):
            raise UsageError(f"{name} = {value!r} is not valid", fix=f"write {kind}")
    check_template(table, given.get(table, {}))
    return given


def _negative(value: Any) -> bool:
    return isinstance(value, (int, float)) and value < 0


# -- manifests -------------------------------------------------------------------------------------


def worker_pod(command: Sequence[str], options: PodOptions) -> Manifest:
    """A pod without a name that runs the command as Pod Security `restricted` asks for, unless its template says otherwise. Pure."""
    nothing: Manifest = {}
    limits = {"memory": str(options.memory)} | ({"nvidia.com/gpu": str(options.gpus)} if options.gpus else {})
    container = {
        "name": WORKER,
        "image": options.image,
        "command": list(command),
        "env": [{"name": "HOME", "value": SCRATCH}],
        "resources": {"requests": {"cpu": str(options.cpus)} | limits, "limits": limits},
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
        "terminationGracePeriodSeconds": int(options.drain_s),
        "volumes": [{"name": "tmp", "emptyDir": nothing}],
    } | ({"priorityClassName": options.priority} if options.priority else {})
    about = {"labels": WORKER_LABELS}
    made = merged(spec, _whole_node(options.instance) if options.instance else {})
    made = merged(made, _labelled_nodes(options.nodes) if options.nodes else {})
    return merged({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": made}, options.pod_template)


def _whole_node(instance: str) -> dict[str, Any]:
    """What keeps a pod to nodes of that type, one to a node: so the price of a node is that of a machine.

    The first term says nothing that the second does not. But Kubernetes 1.35 forgets to look again at a pod with a namespaceSelector when
    the pod in its way ends, for up to five minutes (kubernetes/kubernetes#141953); with the first term, pods of a namespace follow each
    other at once.
    """
    here = {"labelSelector": {"matchLabels": WORKER_LABELS}, "topologyKey": "kubernetes.io/hostname"}
    everywhere: Manifest = {}
    apart = [here, here | {"namespaceSelector": everywhere}]
    return {
        "nodeSelector": {INSTANCE_LABEL: instance},
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": apart}},
    }


def _labelled_nodes(label: str) -> dict[str, Any]:
    key, _, value = label.partition("=")
    return {"nodeSelector": {key: value}, "tolerations": [{"key": key, "operator": "Exists"}]}


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


# -- what became of a pod --------------------------------------------------------------------------

TroubleKind = Literal[
    "busy",
    "container",
    "disrupted",
    "ended",
    "failed",
    "image",
    "memory",
    "quota",
    "refused",
    "unreachable",
    "unschedulable",
]
"""Why a pod does not work. `busy`: the API server does not answer; `disrupted`: the cluster took its place, or somebody deleted it;
`refused`: a right is missing, or the cluster's rules forbid it; `ended`: its program ended without an error; `unreachable`: it does not
reach what it works for."""

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
_HOPELESS = frozenset({"ErrImageNeverPull", "InvalidImageName"})
_IMAGE_FIX = "correct `image`, or give the secret of its registry: imagePullSecrets in pod_template"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What keeps a pod from its work, or has ended it."""

    kind: TroubleKind
    says: str
    fix: str = ""
    final: bool = False
    """Whether waiting cannot help."""
    exit_code: int | None = None
    """Of a program that failed."""

    def __str__(self) -> str:
        return f"{self.says}; {self.fix}" if self.fix else self.says


_SIGNALLED = (137, 143)
"""Exit codes of a program that SIGKILL or SIGTERM ended."""
DELETED = Trouble(kind="disrupted", says="it was deleted", fix="its work goes elsewhere")


_KEPT = (
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "labels",
    "name",
    "namespace",
    "resourceVersion",
    "uid",
)


def trim_pod(pod: Manifest) -> Manifest:
    """What says who and where a pod is, and what becomes of it, without what it is made of. Pure."""
    about = pod["metadata"]
    kept = {name: about[name] for name in _KEPT if name in about}
    node = {"nodeName": pod.get("spec", {}).get("nodeName", "")}
    trimmed = {name: pod[name] for name in ("apiVersion", "kind", "status") if name in pod}
    return trimmed | {"metadata": kept, "spec": node}


def trouble_of(pod: Manifest, *, preemptor: str = "") -> str:
    """What keeps a pod from its work, or has ended it, in a sentence with its fix; empty where nothing does. Pure."""
    found = pod_trouble(pod, preemptor=preemptor)
    return str(found) if found else ""


def pod_trouble(pod: Manifest, *, preemptor: str = "") -> Trouble | None:
    """What keeps a pod from its work, or has ended it. `preemptor`: as `preemptors_in` names it. Pure."""
    status = pod.get("status", {})
    if taken := _taken_by(pod, preemptor):
        return taken
    if status.get("phase") in ("Failed", "Succeeded"):
        end = _end_of(status)
        # The end that a deletion brings may be seen before the pod is gone.
        by_signal = end.kind == "ended" or end.exit_code in _SIGNALLED
        return DELETED if by_signal and "deletionTimestamp" in pod.get("metadata", {}) else end
    for each in status.get("conditions", ()):
        if (
            each["type"] == "PodScheduled"
            and each["status"] == "False"
            and each.get("reason") == "Unschedulable"
        ):
            return Trouble(
                kind="unschedulable",
                says=f"no node has room for it: {each.get('message', '')}",
                fix="add nodes, or ask for fewer cpus, memory or gpus",
            )
    containers = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    return next((found for each in containers if (found := _wait_of(each))), None)


def _wait_of(container: Manifest) -> Trouble | None:
    """Why a container waits; None where it does not, or only for a moment."""
    waits = container.get("state", {}).get("waiting", {})
    reason, message = waits.get("reason", ""), waits.get("message", waits.get("reason", ""))
    meant = _WAITS.get(reason)
    if meant is None:
        return None
    if reason == "CreateContainerConfigError" and "root" in message:
        return Trouble(
            kind="container",
            says=f"its image runs as root, or names its user without a number ({container['image']}): {message}",
            fix="give the image a user by its number, as `hooke image build` does, or set securityContext.runAsUser in pod_template",
            final=True,
        )
    is_image = "image" in meant
    return Trouble(
        kind="image" if is_image else "container",
        says=f"{meant} ({container['image']}): {message}",
        fix=_IMAGE_FIX if is_image else "",
        final=reason in _HOPELESS,
    )


def is_taken(pod: Manifest) -> bool:
    """Whether the cluster takes a pod's place, or has taken it: an eviction, a preemption, a node that ends. Pure."""
    return _disruption(pod.get("status", {})) is not None


def is_preempted(pod: Manifest) -> bool:
    """Whether a pod of higher priority takes its place, or has taken it. Pure."""
    found = _disruption(pod.get("status", {}))
    return found is not None and found.get("reason") == _PREEMPTED


def preemptors_in(client: Kubernetes, *, namespace: str) -> dict[str, str]:
    """UID of each pod that was preempted -> namespace and name of the pod that has its place, as events tell. Raises ApiError, ApiUnreachable."""
    fields = "involvedObject.kind=Pod,reason=Preempted"
    found, _ = client.list("v1/Event", namespace=namespace, fields=fields)
    return {
        each["involvedObject"]["uid"]: f"{by.get('namespace', namespace)}/{by['name']}"
        for each in found
        if (by := each.get("related"))
    }


_PREEMPTED = "PreemptionByScheduler"
_NODE_ENDS = ("DeletionByPodGC", "DeletionByTaintManager")
"""Reasons of a disruption: a node that is gone, or that a taint empties, as spot nodes are before they are taken back."""
_SHUTDOWN = "Terminated"
"""The reason of a pod's status whose kubelet ended it since its machine shuts down."""


def _disruption(status: Manifest) -> Manifest | None:
    conditions = status.get("conditions", ())
    return next((x for x in conditions if x["type"] == "DisruptionTarget" and x["status"] == "True"), None)


def _taken_by(pod: Manifest, preemptor: str) -> Trouble | None:
    status = pod.get("status", {})
    if (each := _disruption(status)) is None:
        return None
    reason = each.get("reason", "")
    who = "the cluster took its place"
    if reason == _PREEMPTED:
        by = f"the pod {preemptor}, of higher priority," if preemptor else "a pod of higher priority"
        who = f"{by} took its place"
    elif reason in _NODE_ENDS or status.get("reason") == _SHUTDOWN:
        who = f"its node {pod.get('spec', {}).get('nodeName', '')} ended, or was taken back"
    says = f"{who} ({reason}): {each.get('message', '')}"
    return Trouble(kind="disrupted", says=says, fix="its work goes elsewhere")


def _end_of(status: Manifest) -> Trouble:
    if status.get("reason"):
        return Trouble(kind="disrupted", says=f"{status['reason']}: {status.get('message', '')}")
    for container in status.get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated")
        if not ended:
            continue
        name = container["name"]
        if ended.get("reason") == "OOMKilled":
            says = f"its container {name} used more memory than its limit (OOMKilled)"
            return Trouble(kind="memory", says=says, fix="raise `memory`")
        if ended.get("reason") in ("StartError", "ContainerCannotRun"):
            says = f"its program cannot be started: {ended.get('message', '')}"
            return Trouble(kind="container", says=says, fix="correct `image`, or pod_template")
        if ended.get("exitCode"):
            says = f"its container {name} ended with {ended['exitCode']}"
            return Trouble(kind="failed", says=says, fix="see its log", exit_code=ended["exitCode"])
    return Trouble(kind="ended", says="its program has ended")


_NO_LOG = re.compile(rb"unable to retrieve container logs for \S+\n")
"""What a kubelet answers, with the code of success, where its runtime is too busy to say where the log is."""
_LOG_PAUSES_S = (0.2, 1.0)


def log_of(client: Kubernetes, pod: str, *, namespace: str = "") -> bytes:
    """What the working container has written until now; empty where its node is gone, or it never was. Where it may not be read, that."""
    for pause_s in (*_LOG_PAUSES_S, None):
        found = _log_now(client, pod, namespace)
        if not _NO_LOG.fullmatch(found):
            return found
        if pause_s is not None:
            time.sleep(pause_s)
    return b""


def _log_now(client: Kubernetes, pod: str, namespace: str) -> bytes:
    try:
        with client.logs(pod, namespace=namespace, container=WORKER) as lines:
            return b"".join(line + b"\n" for line in lines)
    except ApiForbidden as error:
        return f"hooke: this log could not be read. {error.what}; {RIGHTS_FIX}\n".encode()
    except ApiError:
        return b""


# -- refusals --------------------------------------------------------------------------------------

RIGHTS_FIX = "have the cluster's administrator apply what `hooke fleet rbac NAME` prints, NAME being the fleet or the place"


def refusal_of(error: ApiError) -> Trouble:
    """What a refusal of the API server means: `busy`, `quota` or `refused`. Pure."""
    if error.code == 429 or error.code >= 500:
        return Trouble(kind="busy", says=error.what)
    if "exceeded quota" in error.what:
        fix = "wait for other pods to end, or have the quota raised"
        return Trouble(kind="quota", says=error.what, fix=fix)
    fix = error.fix
    if isinstance(error, ApiForbidden):
        fix = (
            RIGHTS_FIX
            if lacks_right(error)
            else "change what the cluster's rules refuse: pod_template, cpus, memory"
        )
    if "strict decoding error" in error.what:
        fix = "correct that name in pod_template or driver_template"
    if error.code == 401:
        fix = "log in to the cluster again, or get a new kubeconfig"
    return Trouble(kind="refused", says=error.what, fix=fix, final=True)


def lacks_right(error: ApiError) -> bool:
    """Whether the account may not do it; the message names the verb and the resource."""
    return error.code == 401 or " cannot " in error.what
