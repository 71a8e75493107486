import os
from pathlib import Path

import pytest
from tests.kubernetes.cluster import Cluster
from tests.support.needs import is_there, skip_without

from hooke.kubernetes.client import Kubernetes, key_of
from hooke.kubernetes.kubeconfig import find_access
from hooke.providers.kubernetes_pods import KubernetesPods

THEIRS = "HOOKE_TEST_KUBERNETES"
"""The variable with the namespace of `--kubernetes`, which is set after this file was read."""
MADE = (
    "v1/Pod",
    "v1/ConfigMap",
    "v1/ResourceQuota",
    "v1/Secret",
    "v1/Service",
    "v1/ServiceAccount",
    "apps/v1/Deployment",
    "batch/v1/Job",
    "policy/v1/PodDisruptionBudget",
    "rbac.authorization.k8s.io/v1/Role",
    "rbac.authorization.k8s.io/v1/RoleBinding",
)
"""What tests make in a namespace, and remove again from one that is not theirs."""


@pytest.fixture(scope="package")
def cluster():
    """A cluster with one node, started once for all tests of this folder."""
    if named := os.environ.get(THEIRS):
        skip_without("kubernetes", f"a cluster of their own, and there is only the namespace {named}")
    if not is_there("kubernetes"):
        skip_without("kubernetes")
    with Cluster() as started:
        yield started


@pytest.fixture(scope="package")
def kubeconfig(request):
    """The file that says where the API server is: that of our own cluster, or with --kubernetes=NAMESPACE that of the user's."""
    if THEIRS not in os.environ:
        return request.getfixturevalue("cluster").kubeconfig
    return Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")


@pytest.fixture(scope="package")
def admin(kubeconfig):
    """The client of its user: an administrator of at least the namespace."""
    client = Kubernetes(find_access(kubeconfig))
    yield client
    client.close()


@pytest.fixture
def namespace(admin):
    """A namespace of the test's own, gone after it; in a user's cluster the one that was named, left as it was found."""
    yield from lent(admin, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "test-"}})


@pytest.fixture
def restricted(admin):
    """The same, where Pod Security `restricted` is enforced; in a user's cluster, what is enforced there."""
    from tests.kubernetes import manifests  # when the options are known

    yield from lent(admin, manifests.namespace("restricted-"))


def lent(admin, manifest):
    from tests.kubernetes.manifests import wait

    if named := os.environ.get(THEIRS):
        before = there(admin, named)
        if any(kind == "v1/Pod" for kind, _, _ in before):
            pytest.fail(f"the namespace {named} has pods; give --kubernetes one that has none", pytrace=False)
        yield named
        for kind, uid, name in there(admin, named) - before:
            admin.delete(kind, name, namespace=named, grace_s=0 if kind == "v1/Pod" else None, uid=uid)
        wait(lambda: there(admin, named) <= before)
        return
    name = admin.create(manifest)["metadata"]["name"]
    wait(lambda: admin.list("v1/ServiceAccount", namespace=name)[0])  # no pod is taken before
    yield name
    admin.delete("v1/Namespace", name)


def there(admin, namespace):
    """Kind, UID and name of what is in the user's namespace, but for what controllers make and remove themselves."""
    return {
        (kind, each["metadata"]["uid"], key_of(each)[1])
        for kind in MADE
        for each in admin.list(kind, namespace=namespace)[0]
        if not any(owner.get("controller") for owner in each["metadata"].get("ownerReferences", ()))
        and key_of(each)[1] not in ("default", "kube-root-ca.crt", "kubernetes")
    }


@pytest.fixture
def pods(kubeconfig, restricted, tmp_path):
    """Makes providers whose pods run some code."""
    from tests.kubernetes import manifests

    made = []

    def make(tag="fleet", code=manifests.WORKS, **options):
        options = {
            "cpus": 0.05,
            "memory": "64 MiB",
            "drain": "60 s",
            "pod_template": manifests.POD_TEMPLATE,
            "image": manifests.PYTHON,
            "kubeconfig": str(kubeconfig),
            "namespace": restricted,
        } | options
        made.append(
            KubernetesPods(tag, [manifests.PROGRAM, "-u", "-c", code], logs=tmp_path / "logs", **options)
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def driver(cluster, admin):
    """Runs of a project on the cluster's node, in a namespace of the module's own."""
    from tests.kubernetes.manifests import namespace as in_namespace
    from tests.kubernetes.manifests import wait
    from tests.kubernetes.test_runs import Driver

    name = admin.create(in_namespace("runs-"))["metadata"]["name"]
    wait(lambda: admin.list("v1/ServiceAccount", namespace=name)[0])
    yield Driver(cluster, admin, name)
    admin.delete("v1/Namespace", name)
