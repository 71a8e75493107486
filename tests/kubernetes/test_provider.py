"""Pods of a real cluster as a fleet's machines: started, found, retired, ended, and what is said of those that cannot run."""

import re
import time

import pytest
import yaml
from tests.kubernetes.images import ROOT
from tests.kubernetes.manifests import POD_TEMPLATE, PULL, wait

from hooke.base.clock import SystemClock
from hooke.base.errors import HookeError
from hooke.fleets.fleet_folder import find_fleet, settle
from hooke.kubernetes.client import NotThere, selector
from hooke.kubernetes.pods import WORKER_LABELS, merged
from hooke.machines.controller import Caps
from hooke.machines.keeper import FleetKeeper, Ledger
from hooke.machines.provider import Impossible, NotAllowed, OverQuota, Unreachable
from hooke.project.folder import Project
from hooke.testing import check_provider

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long]

NO_IMAGE = ("the node does not have its image", "its image cannot be pulled")
"""What is said of an image that is nowhere: where pods may not pull it, and where they may."""


def phases(provider):
    return {machine.id: machine.phase for machine in provider.list()}


def whys(provider):
    return {machine.id: machine.why for machine in provider.list()}


def why(provider):
    """What is said of its one machine, once anything is."""
    return wait(lambda: next((each.why for each in provider.list() if each.why), ""))


def test_it_keeps_the_suite(pods):
    check_provider(pods)


def test_a_fleet_of_pods_grows_and_shrinks_and_one_that_dies_is_replaced(tmp_path, pods, admin, restricted):
    with Ledger.open(tmp_path / "ledger", durable="none") as ledger:
        keeper = FleetKeeper("pool", pods(), ledger, caps=Caps(workers=3), clock=SystemClock())
        keeper.want(2, "the test")
        wait(lambda: keeper.turn() is not None and keeper.fleet.settled)
        first, second = sorted(phases(pods()))
        admin.delete("v1/Pod", first, namespace=restricted, grace_s=0)
        wait(lambda: keeper.turn() is not None and first not in phases(pods()) and keeper.fleet.settled)
        assert second in phases(pods())
        keeper.want(1, "the test")
        wait(lambda: keeper.turn() is not None and keeper.fleet.settled)
    with Ledger.open(tmp_path / "ledger", durable="none") as ledger:  # a later controller
        keeper = FleetKeeper("pool", pods(), ledger, caps=Caps(workers=3), clock=SystemClock())
        keeper.down("the test")
        wait(lambda: keeper.turn() is not None and keeper.fleet.settled)
    wait(lambda: admin.list("v1/Pod", namespace=restricted)[0] == [])


def test_a_fleet_that_is_ended_leaves_no_pod_whose_program_had_ended_before(
    tmp_path, pods, admin, restricted
):
    with Ledger.open(tmp_path / "ledger", durable="none") as ledger:
        keeper = FleetKeeper("pool", pods(code="pass"), ledger, caps=Caps(workers=3), clock=SystemClock())
        keeper.want(2, "the test")
        wait(lambda: keeper.turn() is not None and len(phases(pods())) == 2)
        wait(lambda: set(phases(pods()).values()) == {"ended"})
    with Ledger.open(tmp_path / "ledger", durable="none") as ledger:
        keeper = FleetKeeper("pool", pods(), ledger, caps=Caps(workers=3), clock=SystemClock())
        keeper.down("the test")
        wait(lambda: keeper.turn() is not None and keeper.fleet.settled)
    wait(lambda: admin.list("v1/Pod", namespace=restricted)[0] == [])


def test_a_pod_finishes_its_work_when_it_is_retired(pods, admin, restricted):
    provider = pods()
    machine = provider.launch("one")
    wait(lambda: phases(provider) == {machine: "ready"})
    with admin.logs(machine, namespace=restricted, follow=True) as lines:
        log = iter(lines)
        assert next(log) == b"ready"
        provider.retire(machine)
        assert list(log) == [b"finishing"]
    wait(lambda: not phases(provider))
    provider.retire(machine)
    provider.release(machine)


def test_the_log_of_a_pod_that_ends_by_itself_outlives_it(pods, tmp_path, admin, restricted):
    provider = pods(code="print('worked'); raise SystemExit(3)")
    machine = provider.launch("one")
    assert why(provider) == "its container worker ended with 3; see its log"
    assert phases(pods()) == {machine: "ended"}  # for each controller, until one has taken note
    provider.release(machine)
    wait(lambda: not phases(provider))
    assert (tmp_path / "logs" / "one.log").read_text() == "worked\n"
    with pytest.raises(NotThere):
        admin.get("v1/Pod", machine, namespace=restricted)


def test_a_launch_that_is_repeated_after_a_lost_answer_is_one_pod(pods):
    assert pods().launch("one") == pods().launch("one")
    assert len(phases(pods())) == 1


def test_a_pod_of_another_fleet_is_left_alone(pods, admin, restricted):
    theirs = pods("theirs").launch("one")
    ours = pods("ours")
    ours.retire(theirs)
    ours.release(theirs)
    assert ours.list() == []
    assert "deletionTimestamp" not in admin.get("v1/Pod", theirs, namespace=restricted)["metadata"]


def test_what_keeps_a_pod_from_starting_is_said(pods):
    missing = pods("missing", image="hooke.test/nothing:1")
    missing.launch("one")
    assert why(missing).startswith(NO_IMAGE)
    large = pods("large", cpus=1000)
    large.launch("one")
    assert re.match(r"no node has room for it: 0/\d+ nodes are available: \d+ Insufficient cpu", why(large))
    gpus = pods("gpus", gpus=1)
    gpus.launch("one")
    assert "Insufficient nvidia.com/gpu" in why(gpus)


def test_pods_of_an_instance_type_have_a_node_each(cluster, pods, admin):
    """So the price of a node is that of a machine."""
    label = {"metadata": {"labels": {"node.kubernetes.io/instance-type": "gd-8xh100ib-i128"}}}
    provider = pods(instance="gd-8xh100ib-i128")
    earlier = {"namespace": "*", "labels": selector(WORKER_LABELS), "fields": "spec.nodeName=node1"}
    # One of an earlier test would be in the way, and its end be missed by Kubernetes for five minutes, as it was in another namespace.
    wait(lambda: not admin.list("v1/Pod", **earlier)[0], within_s=150)
    first = provider.launch("first")
    assert "no node has room for it" in why(provider)  # no node is one of these
    admin.patch("v1/Node", "node1", label)
    try:
        wait(lambda: phases(provider)[first] == "ready", told=lambda: whys(provider))
        second = provider.launch("second")
        wait(lambda: "didn't match pod anti-affinity rules" in whys(provider)[second])
        provider.release(first)
        wait(lambda: phases(provider) == {second: "ready"})
        provider.release(second)  # before the next test: on this node no other pod may start beside it
        wait(lambda: not phases(provider))
    finally:
        label["metadata"]["labels"]["node.kubernetes.io/instance-type"] = None
        admin.patch("v1/Node", "node1", label)


SPOT = "cloud.google.com/gke-spot"


def taint_node(admin, *taints):
    made = [{"key": key, "value": "true", "effect": effect} for key, effect in taints]
    admin.patch("v1/Node", "node1", {"spec": {"taints": made or None}})


def test_pods_go_to_spot_nodes_which_others_keep_off_and_say_when_their_node_is_taken_back(
    cluster, pods, admin
):
    provider = pods(nodes=f"{SPOT}=true")
    provider.launch("one")
    assert "no node has room for it" in why(provider)  # no node has the label
    admin.patch("v1/Node", "node1", {"metadata": {"labels": {SPOT: "true"}}})
    taint_node(admin, (SPOT, "NoSchedule"))
    try:
        wait(lambda: list(phases(provider).values()) == ["ready"], within_s=300, told=lambda: why(provider))
        elsewhere = pods("other")
        elsewhere.launch("one")
        assert "untolerated taint" in why(elsewhere)
        taint_node(admin, (SPOT, "NoSchedule"), ("reclaimed", "NoExecute"))
        said = "its node node1 ended, or was taken back (DeletionByTaintManager)"
        wait(lambda: any(said in each for each in whys(provider).values()))
        assert all(each.taken for each in provider.list()), "a successor comes at once"
    finally:
        taint_node(admin)
        admin.patch("v1/Node", "node1", {"metadata": {"labels": {SPOT: None}}})


@pytest.mark.usefixtures("cluster")  # whose nodes have such an image
def test_an_image_that_runs_as_root_is_told_from_a_missing_secret(pods):
    root = pods("root", image=ROOT)
    root.launch("one")
    assert "its image runs as root" in why(root)


def test_a_pod_that_uses_more_memory_than_its_limit_says_so(pods):
    greedy = pods(code="held = [bytearray(b'x' * (1 << 20)) for _ in range(500)]")
    greedy.launch("one")
    assert "used more memory than its limit (OOMKilled); raise `memory`" in why(greedy)


def test_a_pod_that_is_evicted_says_so(pods, admin, restricted):
    provider = pods()
    machine = provider.launch("one")
    wait(lambda: phases(provider) == {machine: "ready"})
    admin.evict(machine, namespace=restricted)
    wait(lambda: not phases(provider))


def test_quotas_rights_and_rules_are_told_apart(pods, admin, cluster, restricted, tmp_path):
    with pytest.raises(Impossible, match="violates PodSecurity"):
        pods(pod_template=merged(POD_TEMPLATE, {"spec": {"hostNetwork": True}})).launch("host")
    with pytest.raises(Impossible, match="namespaces .* not found"):
        pods(namespace="nowhere").launch("one")
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }
    admin.create(quota, namespace=restricted)
    wait(lambda: admin.get("v1/ResourceQuota", "none", namespace=restricted)["status"].get("hard"))
    with pytest.raises(OverQuota, match="exceeded quota: none"):
        pods().launch("one")
    (tmp_path / "nobody").write_text(cluster.config("nobody"))
    with pytest.raises(
        NotAllowed, match="the account may not list pods, watch pods, .* in the namespace restricted-"
    ):
        pods(kubeconfig=str(tmp_path / "nobody")).launch("one")
    away = yaml.safe_load(cluster.kubeconfig.read_text())
    away["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "away").write_text(yaml.safe_dump(away))
    with pytest.raises(Unreachable, match="does not answer"):
        pods(kubeconfig=str(tmp_path / "away")).list()


def test_a_fleet_of_hooke_toml_says_why_it_does_not_start(tmp_path, kubeconfig, restricted):
    settings = f"""
[fleets.pool]
provider = "kubernetes"
image = "hooke.test/nothing:1"
command = ["true"]
namespace = "{restricted}"
kubeconfig = "{kubeconfig}"
pod_template.spec.containers = [{{ name = "worker", imagePullPolicy = "{PULL}" }}]
"""
    (tmp_path / "hooke.toml").write_text(settings)
    fleet = find_fleet(Project.find(tmp_path), "pool")
    with fleet.kept() as keeper:
        keeper.want(1, "the test")
        with pytest.raises(HookeError, match="0 of 1 machines|1 of 1 machines") as caught:
            settle(keeper, patience_s=15.0, logs=fleet.path / "logs")
        assert caught.value.why.startswith(NO_IMAGE)
        keeper.down("the test")
        until = time.monotonic() + 60
        while not keeper.fleet.settled:
            keeper.turn()
            assert time.monotonic() < until
            time.sleep(0.1)
