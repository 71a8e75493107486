"""Exported steps that are pods: the place in hooke.toml that describes them, their manifest, and what a pod cannot do. Nothing is written.

A place of the engine `kubernetes` says which image, namespace and `pod_template` the pods have. How much each pod needs is its task's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.exporters.plan import ExportPlan, Refusal, Secret
from hooke.images.contents import CODE
from hooke.kubernetes.client import Manifest
from hooke.kubernetes.driver_job import PLACE_OPTIONS, home_mount, home_volume
from hooke.kubernetes.pods import INSTANCE_LABEL, RELEASE_GRACE_S, WORKER, PodOptions, merged, worker_pod
from hooke.project.folder import Project
from hooke.project.settings import FILE

__all__ = [
    "BASE",
    "PodSettings",
    "options_of_place",
    "plain_pod",
    "pod_settings",
    "refused_as_pods",
    "store_refusal",
]

BASE = "base"
"""The name of the container that works, as Airflow's operator and Kubernetes' own examples have it."""
PROJECT = f"/{CODE}"
"""Where the image has the project."""
STORE = ".hooke/store"
"""Where a project has its store by default."""
_OWN = ("configMap", "downwardAPI", "emptyDir", "ephemeral", "hostPath", "image", "projected", "secret")
"""Kinds of volumes that pods do not share, or cannot write to."""


class PodSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What all pods of an exported pipeline have in common."""

    image: str = ""
    namespace: str = ""
    manifest: Manifest
    """Of a pod without command and image; its first container is BASE, and has the resources of a task that says nothing of them."""


def options_of_place(project: Project, place: str) -> Mapping[str, Any]:
    """What `[places.NAME]` says, of the engine `kubernetes`. Raises UsageError for another name."""
    places = _places(project)
    if place not in places:
        valid = f"valid: {', '.join(places)}" if places else 'write [places.NAME] with engine = "kubernetes"'
        raise UsageError(
            f"no place {place!r} of the engine kubernetes",
            where=str(project.root / FILE),
            fix=did_you_mean(place, places) + valid,
        )
    return places[place]


def _places(project: Project) -> dict[str, Mapping[str, Any]]:
    return {
        name: each.options for name, each in project.settings.places.items() if each.engine == "kubernetes"
    }


def pod_settings(
    project: Project, *, place: str = "", image: str = "", secrets: Sequence[Secret] = ()
) -> PodSettings:
    """Those of the place, by default the only one of the engine `kubernetes`, if there is one. `image` overrides the place's.

    Raises UsageError for a place that does not exist, is not valid or has whole nodes, and where there are several.
    """
    places = _places(project)
    if not place and len(places) > 1:
        raise UsageError(
            f"{FILE} has several places of the engine kubernetes: {', '.join(places)}",
            why="one of them says which image the pods have, and what else",
            fix=f"--place {next(iter(places))}",
        )
    options = dict(options_of_place(project, place) if place else next(iter(places.values()), {}))
    image = image or str(options.get("image") or "")
    parsed = PodOptions.parse(options | {"image": image or "none"}, more=PLACE_OPTIONS)
    if parsed.instance:
        raise UsageError(
            f"a place with instance = {parsed.instance!r} gives each of its pods a node",
            why="an exported task is a pod that asks for what it needs, so several share a node",
            fix=f'another place, with nodes = "{INSTANCE_LABEL}={parsed.instance}" instead, and --place',
        )
    made = _manifest(parsed, home=str(options.get("home") or ""), secrets=secrets)
    return PodSettings(image=image, namespace=parsed.namespace, manifest=made)


def plain_pod() -> Manifest:
    """The manifest for a place that says nothing of its pods."""
    return _manifest(PodOptions(image="none"), home="", secrets=())


def _manifest(options: PodOptions, *, home: str, secrets: Sequence[Secret]) -> Manifest:
    """As the pods of a run, but in the project's folder, and without what each task says itself."""
    pod = worker_pod([], replace(options, pod_template={}))
    spec = pod["spec"]
    [container] = spec["containers"]
    for name in ("command", "image"):
        del container[name]
    container["resources"] = {"requests": {"cpu": "1"}}  # as a task has by default
    del spec["restartPolicy"]
    spec["terminationGracePeriodSeconds"] = int(RELEASE_GRACE_S)
    # Tasks write files to the project's folder, where the image's user may.
    del container["securityContext"]["readOnlyRootFilesystem"]
    container["workingDir"] = PROJECT
    container["env"] += [
        {
            "name": each.variable,
            "valueFrom": {"secretKeyRef": {"name": each.secret, "key": each.key}},
        }
        for each in secrets
    ]
    container["volumeMounts"].append(home_mount(PROJECT))
    spec["volumes"].append(home_volume(home))
    made = merged({"spec": spec}, options.pod_template)
    [container] = [each for each in made["spec"]["containers"] if each["name"] == WORKER]
    others = [each for each in made["spec"]["containers"] if each["name"] != WORKER]
    made["spec"]["containers"] = [{**container, "name": BASE}, *others]
    return made


# --- What is refused.


def refused_as_pods(plan: ExportPlan) -> Iterator[Refusal]:
    """What no pod can do, and what is missing to make one."""
    if not plan.image:
        yield Refusal(
            what="no image",
            why="each task is a pod, whose image has Hooke and the project",
            fix='--image REGISTRY/NAME:TAG, or image = "..." below a place of the engine kubernetes in hooke.toml; `hooke image build` makes one',
        )
    for step in plan.steps:
        if step.gpus != int(step.gpus):
            yield Refusal(
                what=f"{step.name}: gpus={step.gpus:g}",
                why="a pod has whole GPUs",
                fix=f"gpus={math.ceil(step.gpus)}",
            )


def store_refusal(project: Project, manifest: Manifest) -> Refusal | None:
    """Why the pods would not share the project's store; None where they do: at a URL, or in a folder on a volume that is mounted there."""
    url = project.settings.store.url
    parts = urlsplit(url)
    if parts.scheme not in ("", "file"):
        return None
    folder = PurePosixPath(PROJECT, parts.path or STORE)
    [container, *_] = manifest["spec"]["containers"]
    above = [
        each
        for each in container.get("volumeMounts", ())
        if folder.is_relative_to(PurePosixPath(each["mountPath"]))
    ]
    volumes = {each["name"]: each for each in manifest["spec"].get("volumes", ())}
    if above:
        nearest = max(above, key=lambda each: len(PurePosixPath(each["mountPath"]).parts))
        if not any(kind in _OWN for kind in volumes.get(nearest["name"], {"emptyDir": {}})):
            return None
    return Refusal(
        what=f"the store is the folder {url or STORE}",
        why=f"each pod would have a folder {folder} of its own, and find no result of another",
        fix='[store] url = "s3://BUCKET/PREFIX" in hooke.toml'
        + (
            f", or a volume that the place's pod_template mounts at {folder}"
            if url
            else ', or home = "CLAIM" below the place'
        ),
    )
