"""A Node Pool of CoreWeave: the nodes that pods of a fleet or of a run's place run on, as a manifest for `kubectl apply`.

The fields are those of docs.coreweave.com, "Node Pool reference", "Autoscale Node Pools" and "Spot Node Pools", read 2026-11-29.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hooke.base.errors import UsageError
from hooke.base.yaml_text import write_yaml
from hooke.kubernetes.client import Manifest

__all__ = ["NODES_OF_A_RACK", "node_labels", "node_pool", "print_node_pool"]

NODES_OF_A_RACK = 18
"""CoreWeave rents GB200 and GB300 by the rack."""
_RACKS = re.compile(r"gb[23]00", re.IGNORECASE)
_SUPERCHIPS = re.compile(r"g[bh][23]00", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_THEIRS = ("kubernetes.io", "k8s.io", "nvidia.com", "coreweave.com", "coreweave.cloud")
"""Domains of labels that nodes have without us."""


def node_pool(
    name: str,
    *,
    instance: str,
    nodes: int,
    most: int | None = None,
    spot: bool = False,
    labels: Mapping[str, str] | None = None,
) -> Manifest:
    """A pool of so many nodes of a type; with `most`, CoreWeave's autoscaler has between `nodes` and `most`. Pure.

    Raises UsageError for what CoreWeave's documentation excludes: parts of a rack, racks that grow by themselves, spot superchips.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name of a Node Pool",
            fix="use lower-case letters, digits and hyphens, 63 at most: --name POOL",
        )
    if nodes < 0 or (most is not None and most < max(nodes, 1)):
        shown = f"{nodes}-{most}" if most is not None else str(nodes)
        raise UsageError(f"{shown} nodes are not valid", fix="write --nodes 4, or --nodes 0-4 to autoscale")
    if _RACKS.search(instance):
        _check_racks(instance, nodes, most)
    if spot and _SUPERCHIPS.search(instance):
        raise UsageError(
            f"CoreWeave has no spot nodes of {instance}",
            fix="remove spot, or use another instance type",
        )
    spec: dict[str, Any] = {"instanceType": instance, "targetNodes": nodes}
    if spot:
        spec["computeClass"] = "Spot"
    if most is not None:
        spec |= {"autoscaling": True, "minNodes": nodes, "maxNodes": most}
    if labels:
        spec["nodeLabels"] = dict(labels)
    return {
        "apiVersion": "compute.coreweave.com/v1alpha1",
        "kind": "NodePool",
        "metadata": {"name": name},
        "spec": spec,
    }


def _check_racks(instance: str, nodes: int, most: int | None) -> None:
    if most is not None:
        raise UsageError(
            f"CoreWeave does not autoscale {instance}, which comes in racks",
            fix=f"write one number: --nodes {NODES_OF_A_RACK}",
        )
    if nodes % NODES_OF_A_RACK:
        less = nodes - nodes % NODES_OF_A_RACK
        valid = [str(each) for each in (less, less + NODES_OF_A_RACK) if each]
        raise UsageError(
            f"CoreWeave rents {instance} in racks of {NODES_OF_A_RACK} nodes, and {nodes} is not a multiple of {NODES_OF_A_RACK}",
            fix=f"write --nodes {' or --nodes '.join(valid)}",
        )


def node_labels(pod_template: Mapping[str, Any]) -> dict[str, str]:
    """The labels that pods with this template want their nodes to have, without those that Kubernetes and clouds set themselves. Pure."""
    wanted = pod_template.get("spec", {}).get("nodeSelector", {})
    return {
        name: value
        for name, value in wanted.items()
        if not name.partition("/")[0].endswith(_THEIRS) or "/" not in name
    }


def print_node_pool(pool: Manifest, notes: Sequence[str]) -> str:
    """The manifest as YAML for `kubectl apply -f -`, below the notes as comments. Pure."""
    return "".join(f"# {note}\n" for note in notes) + write_yaml(pool)
