"""Node Pools of CoreWeave, on a cluster that knows what CoreWeave documents of them. None was ever tried at CoreWeave."""

from pathlib import Path

import pytest
import yaml
from tests.kubernetes.manifests import wait

from hooke.kubernetes.client import ApiError, NotThere
from hooke.kubernetes.node_pool import node_pool

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long]

KIND = "compute.coreweave.com/v1alpha1/NodePool"
DEFINITION = yaml.safe_load(Path(__file__).with_name("nodepool_crd.yaml").read_text())


@pytest.fixture
def defined(cluster, admin):
    """A cluster that knows Node Pools."""
    admin.create(DEFINITION)
    wait(lambda: is_known(admin))
    yield admin
    named = "apiextensions.k8s.io/v1/CustomResourceDefinition", DEFINITION["metadata"]["name"]
    admin.delete(*named)
    wait(lambda: is_gone(admin, *named))


def is_gone(admin, *named):
    try:
        return not admin.get(*named)
    except NotThere:
        return True


def is_known(admin):
    try:
        return admin.list(KIND) is not None
    except NotThere:
        return False


@pytest.mark.parametrize(
    "pool",
    [
        node_pool("gpus", instance="gd-8xh100ib-i128", nodes=4),
        node_pool("grows", instance="gd-8xh100ib-i128", nodes=0, most=4, spot=True, labels={"team": "blue"}),
        node_pool("rack", instance="gb200-4x", nodes=36),
    ],
    ids=lambda each: each["metadata"]["name"],
)
def test_the_cluster_takes_it_and_drops_no_field(defined, pool):
    made = defined.apply(pool)
    assert made["spec"] == pool["spec"]


def test_what_is_refused_here_would_be_refused_there_too(defined):
    pool = node_pool("gpus", instance="gd-8xh100ib-i128", nodes=4)
    autoscaled = {**pool["spec"], "instanceType": "gb200-4x", "autoscaling": True}
    for wrong, says in (
        ({"instanceType": "a"}, "exactly one of targetNodes and targetRacks"),
        (autoscaled, "rack-based instance types are not autoscaled"),
        (pool["spec"] | {"computeClass": "spot"}, "Unsupported value"),
    ):
        with pytest.raises(ApiError, match=says):
            defined.create(pool | {"spec": wrong})
