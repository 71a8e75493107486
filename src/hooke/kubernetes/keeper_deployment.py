"""The keeper of a fleet as a Deployment: its options in hooke.toml, its manifest, and the order that its process reads. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hooke.kubernetes.client import Manifest
from hooke.kubernetes.pods import COMPONENT, MANAGED, PodOptions, merged, options_of, worker_pod

__all__ = [
    "KEEPER",
    "KEEPER_OPTIONS",
    "ORDER",
    "KeeperOptions",
    "check_fleet",
    "fleet_id",
    "keeper_deployment",
    "keeper_labels",
    "keeper_name",
]

KEEPER = "keeper"
"""The container of the keeper's pod; `keeper_template` changes it by that."""
KEEPER_OPTIONS = ("account", "keeper_image", "keeper_template")
"""Options of a fleet that only its keeper in the cluster uses."""
ORDER = "HOOKE_FLEET"
"""The variable with what the keeper is to do, as JSON."""
ENDS_S = 10
"""From SIGTERM to SIGKILL: a keeper ends between two calls of the API server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperOptions:
    """What `[fleets.NAME]` says of its keeper in the cluster."""

    account: str = "hooke"
    """The service account of the keeper's pod, which creates and deletes the fleet's pods."""
    keeper_image: str = ""
    """An image with Hooke; empty: that of the fleet's pods."""
    keeper_template: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Those of a fleet, the others ignored. Raises UsageError."""
        return cls(**options_of(options, KEEPER_OPTIONS, table="keeper_template"))


def check_fleet(options: Mapping[str, Any]) -> None:
    """Raise UsageError for options of a fleet that are not valid; the provider checks its command and its image."""
    pods = {name: value for name, value in options.items() if name != "command"}
    PodOptions.parse({**pods, "image": options.get("image") or "none"}, more=KEEPER_OPTIONS)
    KeeperOptions.parse(options)


def fleet_id(tag: str) -> str:
    """The fleet's id, which all that is its own has as a label. Pure."""
    return hashlib.blake2b(tag.encode(), digest_size=8).hexdigest()


def keeper_name(tag: str) -> str:
    """The name of the Deployment, the ledger and the lease of a fleet. Pure."""
    return f"hooke-fleet-{fleet_id(tag)}"


def keeper_labels(tag: str) -> dict[str, str]:
    """The labels of these three."""
    return {MANAGED: "hooke", COMPONENT: KEEPER, "hooke.dev/kept-fleet": fleet_id(tag)}


def keeper_deployment(tag: str, order: str, *, image: str, own: KeeperOptions) -> Manifest:
    """The Deployment of one pod that keeps a fleet, as Pod Security `restricted` asks for, with the token of its account alone. Pure."""
    command = ["python", "-P", "-m", "hooke.fleets.keeper_process"]
    plain = PodOptions(image=own.keeper_image or image, cpus=0.1, memory=256 << 20, drain_s=ENDS_S)
    pod = worker_pod(command, plain)
    pod["spec"]["containers"][0]["name"] = KEEPER
    more = {
        "automountServiceAccountToken": True,
        "serviceAccountName": own.account,
        "restartPolicy": "Always",
        # Kubernetes puts variables in place of `$(NAME)`, and `$` in place of `$$`.
        "containers": [{"name": KEEPER, "env": [{"name": ORDER, "value": order.replace("$", "$$")}]}],
    }
    pod = merged(merged(pod, {"spec": more}), own.keeper_template)
    labels = keeper_labels(tag)
    about = {"labels": {**pod["metadata"].get("labels", {}), **labels}}
    spec = {
        "replicas": 1,
        "revisionHistoryLimit": 0,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "Recreate"},
        "template": {"metadata": pod["metadata"] | about, "spec": pod["spec"]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": keeper_name(tag), "labels": labels},
        "spec": spec,
    }
