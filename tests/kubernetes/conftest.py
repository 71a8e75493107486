import pytest
from tests.kubernetes import build
from tests.kubernetes.cluster import Cluster
from tests.support.hosts import why_not

from hooke.kubernetes.client import Kubernetes
from hooke.kubernetes.kubeconfig import find_access


@pytest.fixture(scope="package")
def cluster():
    """A cluster with one node, started once for all tests of this folder."""
    if reason := why_not():
        pytest.skip(f"no cluster: {reason}")
    try:
        started = Cluster()
    except build.CannotBuild as error:
        pytest.fail(str(error), pytrace=False)
    with started:
        yield started


@pytest.fixture(scope="package")
def admin(cluster):
    """Its administrator's client."""
    client = Kubernetes(find_access(cluster.kubeconfig))
    yield client
    client.close()


@pytest.fixture
def namespace(admin, request):
    """A namespace of the test's own, gone after it."""
    made = admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "test-"}})
    name = made["metadata"]["name"]
    yield name
    admin.delete("v1/Namespace", name)
