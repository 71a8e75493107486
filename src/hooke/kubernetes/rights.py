"""What an account may do in a namespace: the rights that Hooke needs for what it does there, as manifests, and which are lacking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hooke.base.yaml_text import write_yaml
from hooke.kubernetes.client import Kubernetes, Manifest

__all__ = [
    "FLEET_RIGHTS",
    "KEEPER_RIGHTS",
    "REAP_RIGHTS",
    "RUN_RIGHTS",
    "Right",
    "lacking_rights",
    "lacking_text",
    "print_rights",
    "role_manifests",
]

_RBAC, _LEASES = "rbac.authorization.k8s.io", "coordination.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One verb on one resource of an API group, and what needs it."""

    verb: str
    resource: str
    """`pods`, or a part of it: `pods/log`."""
    group: str = ""
    needed_to: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


FLEET_RIGHTS = (
    Right(verb="list", resource="pods", needed_to="know the fleet's machines"),
    Right(verb="watch", resource="pods", needed_to="see what becomes of them without listing all each time"),
    Right(verb="create", resource="pods", needed_to="start a machine"),
    Right(verb="delete", resource="pods", needed_to="retire and end a machine"),
    Right(verb="get", resource="pods/log", needed_to="keep the log of a machine that ends"),
)
"""What `hooke fleet` does in a namespace."""

KEEPER_RIGHTS = (
    Right(verb="get", resource="configmaps", needed_to="read the ledger of a keeper in the cluster"),
    Right(verb="create", resource="configmaps", needed_to="begin it"),
    Right(verb="patch", resource="configmaps", needed_to="write to it"),
    Right(verb="delete", resource="configmaps", needed_to="take it back"),
    Right(verb="get", resource="leases", group=_LEASES, needed_to="see whether another keeper lives"),
    Right(verb="create", resource="leases", group=_LEASES, needed_to="be the only keeper"),
    Right(verb="patch", resource="leases", group=_LEASES, needed_to="stay it"),
    Right(verb="delete", resource="leases", group=_LEASES, needed_to="end as a keeper"),
    Right(verb="get", resource="deployments", group="apps", needed_to="see whether the keeper runs"),
    Right(verb="create", resource="deployments", group="apps", needed_to="start the keeper"),
    Right(verb="patch", resource="deployments", group="apps", needed_to="give the keeper another size"),
    Right(verb="delete", resource="deployments", group="apps", needed_to="end the keeper"),
)
"""What `hooke fleet scale --detach` and the keeper do beside the rights of a fleet."""

RUN_RIGHTS = (
    Right(
        verb="create", resource="jobs", group="batch", needed_to="start a worker, or a driver in the cluster"
    ),
    Right(
        verb="list",
        resource="jobs",
        group="batch",
        needed_to="know the run's machines, also those that an earlier driver left",
    ),
    Right(verb="delete", resource="jobs", group="batch", needed_to="end a worker, or a driver"),
    Right(
        verb="create", resource="secrets", needed_to="give a worker its certificate, and a driver its code"
    ),
    Right(verb="list", resource="pods", needed_to="know the run's pods"),
    Right(verb="watch", resource="pods", needed_to="see what becomes of them"),
    Right(verb="delete", resource="pods", needed_to="end the very pod that has finished its work"),
    Right(verb="get", resource="pods/log", needed_to="keep the log of a pod that ends, and follow a driver"),
    Right(verb="list", resource="events", needed_to="say which quota or rule forbids a pod"),
    Right(verb="create", resource="leases", group=_LEASES, needed_to="say that the driver lives"),
    Right(verb="patch", resource="leases", group=_LEASES, needed_to="go on saying it"),
    Right(verb="delete", resource="leases", group=_LEASES, needed_to="say that it has ended"),
)
"""What a run on a place of the engine `kubernetes` does in its namespace, from outside and inside the cluster."""

REAP_RIGHTS = (
    Right(
        verb="list",
        resource="leases",
        group=_LEASES,
        needed_to="tell drivers that live from those that are gone",
    ),
    Right(verb="list", resource="secrets", needed_to="show that no certificate and no code is left"),
    Right(verb="list", resource="services", needed_to="show that no service is left"),
)
"""What `hooke fleet reap` needs for a place beside the rights of its runs."""


def role_manifests(rights: Iterable[Right], *, account: str, namespace: str) -> list[Manifest]:
    """A service account, a Role with exactly these rights, and the binding of both. Pure."""
    named = {"name": account, "namespace": namespace}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": named, "rules": _rules(rights)},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": named,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        },
    ]


def print_rights(rights: Sequence[Right], *, account: str, namespace: str) -> str:
    """The manifests as YAML for `kubectl apply -f -`; a comment says what needs each right. Pure."""
    reasons = "".join(f"# {right}: to {right.needed_to}\n" for right in rights)
    manifests = role_manifests(rights, account=account, namespace=namespace)
    return reasons + "---\n".join(map(write_yaml, manifests))


def lacking_rights(client: Kubernetes, rights: Iterable[Right], *, namespace: str) -> list[Right]:
    """Those that the client's account does not have, as the API server says. Raises ApiError, ApiUnreachable."""
    return [right for right in rights if not _allowed(client, right, namespace)]


def lacking_text(lacking: Iterable[Right], *, namespace: str) -> str:
    """What an account may not do, in a sentence. Pure."""
    return f"the account may not {', '.join(map(str, lacking))} in the namespace {namespace}"


def _allowed(client: Kubernetes, right: Right, namespace: str) -> bool:
    resource, _, part = right.resource.partition("/")
    asked = {
        "group": right.group,
        "namespace": namespace or client.access.namespace,
        "resource": resource,
        "subresource": part,
        "verb": right.verb,
    }
    review: Manifest = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "metadata": {},
        "spec": {"resourceAttributes": asked},
    }
    return bool(client.create(review)["status"]["allowed"])


def _rules(rights: Iterable[Right]) -> list[Manifest]:
    verbs: dict[tuple[str, str], list[str]] = {}
    for right in rights:
        verbs.setdefault((right.group, right.resource), []).append(right.verb)
    return [
        {"apiGroups": [group], "resources": [resource], "verbs": each}
        for (group, resource), each in verbs.items()
    ]
