"""The driver of a run as a job: its options in hooke.toml, its manifest, and what a process knows that runs in one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from hooke.base.errors import UsageError
from hooke.base.units import parse_seconds
from hooke.kubernetes.client import Manifest
from hooke.kubernetes.pods import (
    COMPONENT,
    MANAGED,
    RUN_LABEL,
    PodOptions,
    label_of,
    merged,
    options_of,
    worker_pod,
)

__all__ = [
    "CLAIM_FIX",
    "DRIVER",
    "DRIVER_OPTIONS",
    "PLACE_OPTIONS",
    "DriverOptions",
    "DriverPaths",
    "check_place",
    "driver_cron_job",
    "driver_job",
    "end_of_job",
    "home_mount",
    "home_volume",
    "is_driver_pod",
    "owner_here",
]

DRIVER = "driver"
"""The name of the container that drives a run; `driver_template` changes it by that."""
DRIVER_OPTIONS = ("account", "home", "driver_template")
"""Options of a place that only its drivers use."""
PLACE_OPTIONS = ("listen", "lifetime", *DRIVER_OPTIONS)
"""Options of a place that are not of its pods."""
DRIVER_ENDS_S = 60
"""From SIGTERM to SIGKILL: a driver stops its tasks, writes what it knows and ends within seconds."""
DRIVER_TRIES = 6
"""How many pods a run may lose by its own fault, such as too little memory. The number is Kubernetes' own default."""
DRIVER_KEPT_S = 86400
"""How long an ended job is kept: a day, to read what it printed."""
LOOK_KEPT_S = 60
"""The same for a job that only looked: it is deleted when it was read."""
FINAL_CODES = (1, 2, 70, 130)
"""Exit codes of a run that ended and is not to be repeated."""
RUN_NOTE = "hooke.dev/run"
"""The annotation of a driver's job with the run's id; empty where it only looks at runs."""
_POD_NAME, _POD_UID = "HOOKE_POD_NAME", "HOOKE_POD_UID"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverOptions:
    """What `[places.NAME]` says of drivers that run in the cluster."""

    account: str = "hooke"
    """The service account of the driver's pod, which creates the pods of workers."""
    home: str = ""
    """The claim for the project's `.hooke`."""
    driver_template: Mapping[str, Any] = field(default_factory=dict)
    works: bool = False
    """Whether tasks run in its own pod, too, which then asks for what the place says of pods, else for little. Not of the file."""

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Those of a place, the others ignored. Raises UsageError."""
        made = cls(**options_of(options, DRIVER_OPTIONS, table="driver_template"))
        if not made.home:
            raise UsageError(
                "the driver's pod needs a claim for the run's folder, which outlives the pod",
                fix=f'write home = "CLAIM" below the place in hooke.toml; {CLAIM_FIX}',
            )
        return made


def check_place(options: Mapping[str, Any]) -> None:
    """Raise UsageError for options of a place that are not valid, whoever uses them; the image may be given later."""
    PodOptions.parse({**options, "image": options.get("image") or "none"}, more=PLACE_OPTIONS)
    options_of(options, DRIVER_OPTIONS, table="driver_template")
    parse_seconds(options.get("lifetime") or 0, name="lifetime")


CLAIM_FIX = """a claim is made by `kubectl apply -f -` with
    apiVersion: v1
    kind: PersistentVolumeClaim
    metadata: {name: CLAIM}
    spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 10Gi}}}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverPaths:
    """Where a driver's pod has the project, its archive, and the working directory."""

    project: str
    code: str = ""
    """Empty where the image has the project."""
    folder: str = ""
    """Empty: that of the image."""


def driver_job(
    name: str,
    command: Sequence[str],
    paths: DriverPaths,
    *,
    options: PodOptions,
    own: DriverOptions,
    run: str = "",
) -> Manifest:
    """A job of one pod with the project's folder; its archive is in the Secret of the same name. Pure.

    One that drives a `run` has the rights of its account, and another pod takes the place of a lost one.
    """
    mounts, volumes = _driver_mounts(paths), _driver_volumes(name, paths, own.home)
    spec = _job_spec(command, {"volumeMounts": mounts}, volumes, options=options, own=own, run=run)
    # It has the label of its run, as each object of it; its pod too, so that one selector finds them all.
    labels = {MANAGED: "hooke", COMPONENT: DRIVER} | ({RUN_LABEL: label_of(run)} if run else {})
    about = spec["template"]["metadata"]
    about["labels"] = about["labels"] | labels
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": {RUN_NOTE: run}},
        "spec": spec,
    }


def driver_cron_job(
    name: str,
    command: Sequence[str],
    when: Mapping[str, Any],
    *,
    paths: DriverPaths,
    options: PodOptions,
    own: DriverOptions,
) -> Manifest:
    """A CronJob whose jobs each drive a run of the project that the image has. Pure.

    `when` is the part of its spec that says when a job starts.
    """
    labels = {MANAGED: "hooke", COMPONENT: DRIVER}
    container = {"workingDir": paths.folder, "volumeMounts": [home_mount(paths.project)]}
    volumes = [home_volume(own.home)]
    spec = _job_spec(command, container, volumes, options=options, own=own, run=name)
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {**when, "jobTemplate": {"metadata": {"labels": dict(labels)}, "spec": spec}},
    }


def _job_spec(
    command: Sequence[str],
    container: Manifest,
    volumes: Sequence[Manifest],
    *,
    options: PodOptions,
    own: DriverOptions,
    run: str,
) -> Manifest:
    """A job of one pod, which has the rights of its account where it drives a `run`."""
    plain = PodOptions(
        image=options.image, cpus=0.5, drain_s=DRIVER_ENDS_S if run else 1, priority=options.priority
    )
    if own.works:
        plain = replace(plain, cpus=options.cpus, memory=options.memory, gpus=options.gpus)
    pod = worker_pod(command, plain)
    pod["spec"]["containers"][0]["name"] = DRIVER
    account = {"automountServiceAccountToken": True, "serviceAccountName": own.account} if run else {}
    more = {
        "containers": [{"name": DRIVER, "env": _driver_environment(run), **container}],
        "volumes": [*volumes],
    }
    pod = merged(merged(pod, {"spec": more | account}), own.driver_template)
    labels = {**pod["metadata"].get("labels", {}), MANAGED: "hooke", COMPONENT: DRIVER}
    return {
        "backoffLimit": DRIVER_TRIES if run else 0,
        "podFailurePolicy": {"rules": _rules_of_failures()},
        "ttlSecondsAfterFinished": DRIVER_KEPT_S if run else LOOK_KEPT_S,
        "template": {"metadata": pod["metadata"] | {"labels": labels}, "spec": pod["spec"]},
    }


def _driver_environment(run: str) -> list[Manifest]:
    fields_of = {_POD_NAME: "metadata.name", _POD_UID: "metadata.uid"} if run else {}
    named = [
        {"name": each, "valueFrom": {"fieldRef": {"fieldPath": path}}} for each, path in fields_of.items()
    ]
    return [*named, {"name": "HOOKE_PROGRESS", "value": "lines"}]


def home_mount(project: str) -> Manifest:
    """Where a pod has the `.hooke` of the project in that folder. Pure."""
    return {"name": "hooke-home", "mountPath": f"{project}/.hooke"}


def home_volume(claim: str) -> Manifest:
    """What `home_mount` mounts: the claim, or a folder of the pod's own where it is empty. Pure."""
    nothing: Manifest = {}
    if not claim:
        return {"name": "hooke-home", "emptyDir": nothing}
    return {"name": "hooke-home", "persistentVolumeClaim": {"claimName": claim}}


def _driver_mounts(paths: DriverPaths) -> list[Manifest]:
    return [
        {"name": "hooke-project", "mountPath": paths.project},
        home_mount(paths.project),
        {"name": "hooke-code", "mountPath": paths.code.rpartition("/")[0], "readOnly": True},
    ]


def _driver_volumes(secret: str, paths: DriverPaths, claim: str) -> list[Manifest]:
    nothing: Manifest = {}
    file = paths.code.rpartition("/")[2]
    code = {"secretName": secret, "defaultMode": 0o444, "items": [{"key": file, "path": file}]}
    return [
        {"name": "hooke-project", "emptyDir": nothing},
        home_volume(claim),
        {"name": "hooke-code", "secret": code},
    ]


def _rules_of_failures() -> list[Manifest]:
    """A run that failed is not repeated; a pod that the cluster took away does not count."""
    codes = {"containerName": DRIVER, "operator": "In", "values": [*FINAL_CODES]}
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return [
        {"action": "FailJob", "onExitCodes": codes},
        {"action": "Ignore", "onPodConditions": [disrupted]},
    ]


def end_of_job(job: Manifest) -> Mapping[str, Any] | None:
    """The condition that says how a job ended; None while it goes on."""
    for each in job.get("status", {}).get("conditions", ()):
        if each["type"] in ("Complete", "Failed") and each["status"] == "True":
            found: Mapping[str, Any] = each
            return found
    return None


def is_driver_pod(environment: Mapping[str, str]) -> bool:
    """Whether this process runs in a driver's pod: it is who the pod is, and workers reach it at the pod's address."""
    return _POD_UID in environment


def owner_here(environment: Mapping[str, str]) -> list[Manifest]:
    """The driver's pod that this process runs in, as the owner of what it makes: the cluster removes it with the pod. Else none."""
    if not is_driver_pod(environment):
        return []
    name, uid = environment[_POD_NAME], environment[_POD_UID]
    return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]
