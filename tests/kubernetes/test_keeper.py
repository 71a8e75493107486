"""The keeper of a fleet as a Deployment: it replaces what is lost, is itself replaced with its ledger, and is taken back."""

import os
import re
import sysconfig

import pytest
import yaml
from tests.kubernetes.images import PYTHON
from tests.kubernetes.manifests import PROGRAM, WORKS, namespace, wait
from tests.kubernetes.test_runs import HOME, Driver, toml
from tests.support import REPOSITORY

from hooke.base.errors import JournalError
from hooke.journal.fleet_events import FleetWanted, LaunchAnswered, LaunchIntended, MachineGone
from hooke.kubernetes.lease import LEASE
from hooke.kubernetes.rights import FLEET_RIGHTS, KEEPER_RIGHTS, role_manifests
from hooke.machines import cluster_ledger
from hooke.machines.cluster_ledger import CONFIG_MAP, ClusterLedger, ledger_manifest, records_in
from hooke.machines.controller import MachinePhase
from hooke.machines.keeper import records_of

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long, pytest.mark.timeout(600)]

RIGHTS = (*FLEET_RIGHTS, *KEEPER_RIGHTS)
ROLE = "rbac.authorization.k8s.io/v1/Role"
SETTINGS = """
[fleets.pool]
provider = "kubernetes"
image = "{image}"
command = {command}
namespace = "{namespace}"
kubeconfig = "{home}/kubeconfig"
machines = 3
cpus = 0.05
memory = "64 MiB"
drain = "20 s"
usd_per_hour = 0.5
account = "keeper"
pod_template.spec.containers = [{{ name = "worker", imagePullPolicy = "Never" }}]

[fleets.pool.keeper_template.spec]
volumes = {volumes}

[[fleets.pool.keeper_template.spec.containers]]
name = "keeper"
imagePullPolicy = "Never"
env = [{{ name = "PYTHONPATH", value = "{path}" }}]
volumeMounts = {mounts}
"""


class Outside(Driver):
    """A machine outside the cluster, with a fleet in it."""

    def configure(self):
        names = list(self.volumes)
        volumes = [
            {"name": f"v{at}", "persistentVolumeClaim": {"claimName": name}} for at, name in enumerate(names)
        ]
        mounts = [
            {"name": f"v{at}", "mountPath": self.volumes[name][0], "readOnly": True}
            for at, name in enumerate(names)
        ]
        path = os.pathsep.join([sysconfig.get_path("purelib"), f"{REPOSITORY}/src"])
        command = toml([PROGRAM, "-u", "-c", WORKS])
        content = SETTINGS.format(
            image=PYTHON, command=command, namespace=self.namespace, home=HOME,
            volumes=toml(volumes), mounts=toml(mounts), path=path,
        )  # fmt: skip
        self.put("hooke.toml", content)

    def fleet(self, *words):
        code, printed, said = self.hooke("fleet", *words, within_s=240)
        assert code == 0, said
        return printed + said

    def pods(self, labels):
        found, _ = self.admin.list("v1/Pod", namespace=self.namespace, labels=labels)
        running = [each for each in found if each["status"].get("phase") == "Running"]
        return [each["metadata"]["name"] for each in running if "deletionTimestamp" not in each["metadata"]]

    def machines(self):
        return self.pods("hooke.dev/fleet")

    def keepers(self):
        return self.pods("app.kubernetes.io/component=keeper")

    def ledger(self):
        [found] = [
            each
            for each in self.admin.list(CONFIG_MAP, namespace=self.namespace)[0]
            if each["metadata"]["name"].startswith("hooke-fleet-")
        ]
        return records_in(found)


@pytest.fixture(scope="module")
def outside(cluster, admin):
    name = admin.create(namespace("keeper-"))["metadata"]["name"]
    wait(lambda: admin.list("v1/ServiceAccount", namespace=name)[0])
    for each in role_manifests(RIGHTS, account="keeper", namespace=name):
        admin.apply(each)
    made = Outside(cluster, admin, name)
    rules = role_manifests(RIGHTS, account="runner", namespace="")[1]["rules"]
    admin.patch(ROLE, "runner", {"rules": rules}, namespace=name)
    yield made
    admin.delete("v1/Namespace", name)


def lose(outside, name):
    outside.admin.delete("v1/Pod", name, namespace=outside.namespace, grace_s=0)


def test_a_fleet_is_kept_from_inside_the_cluster_through_the_loss_of_its_keeper_and_taken_back(outside):
    said = outside.fleet("scale", "pool", "2", "--detach", "--wait", "3m")
    assert "pool: 2 machines" in said
    assert re.search(r"the deployment hooke-fleet-\w+ keeps them", said), said
    first, _ = outside.machines()
    lose(outside, first)
    wait(lambda: len(outside.machines()) == 2 and first not in outside.machines(), within_s=60)
    [keeper] = outside.keepers()
    before = outside.ledger()
    lose(outside, keeper)
    second = outside.machines()[0]
    lose(outside, second)  # nobody sees it but the next keeper
    wait(lambda: outside.keepers() and outside.keepers() != [keeper], within_s=120)
    wait(lambda: len(outside.machines()) == 2 and second not in outside.machines(), within_s=120)
    after = outside.ledger()
    assert after[: len(before)] == before, "the next keeper takes up the ledger"
    tokens = [each.token for each in after if isinstance(each, LaunchIntended)]
    assert len(tokens) == len(set(tokens)) == 4
    assert sum(isinstance(each, MachineGone) for each in after) == 2
    assert "is gone" in outside.fleet("why", "pool")
    assert "total $1/h" in outside.fleet("ls", "pool")
    assert "pool: 1 machine\n" in outside.fleet("scale", "pool", "1", "--detach", "--wait", "3m")
    assert "its keeper is in the cluster" in outside.fleet("reap", "pool")
    [wanted] = outside.machines()
    [deployment] = outside.there("apps/v1/Deployment")
    outside.admin.delete("apps/v1/Deployment", deployment, namespace=outside.namespace)
    wait(lambda: not outside.keepers())
    assert f"pool: {wanted} is wanted and stays" in outside.fleet("reap", "pool")
    assert outside.there(CONFIG_MAP) == ["kube-root-ca.crt"], "what the dead keeper left is gone"
    assert "pool: 0 machines" in outside.fleet("down", "pool")
    wait(lambda: not (outside.machines() or outside.keepers()))
    outside.fleet("scale", "pool", "1", "--detach", "--wait", "3m")
    outside.fleet("scale", "pool", "0")  # from a keeper that lives
    for kind in ("apps/v1/Deployment", "apps/v1/ReplicaSet", LEASE):
        assert not outside.there(kind)
    assert not (outside.machines() or outside.keepers())
    assert outside.there(CONFIG_MAP) == ["kube-root-ca.crt"]
    [*_, last] = records = records_of(outside.host.path(f"{HOME}/.hooke/fleets/pool"))
    assert records[: len(after)] == after
    assert isinstance(last, MachineGone)


def test_the_keeper_is_printed_as_a_restricted_deployment_of_one(outside):
    made = yaml.safe_load(outside.hooke("fleet", "scale", "pool", "2", "--detach", "--print")[1])
    assert (made["kind"], made["spec"]["replicas"], made["spec"]["strategy"]) == (
        "Deployment",
        1,
        {"type": "Recreate"},
    )
    spec = made["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["serviceAccountName"] == "keeper"
    assert not outside.there("apps/v1/Deployment")


# -- the ledger in the cluster ---------------------------------------------------------------------


def test_of_two_keepers_one_writes(admin, namespace):
    """The later one may know what the earlier one wrote, and never acts on less."""
    labels = {"app": "test"}
    early = ClusterLedger.open(admin, "ledger", namespace=namespace, labels=labels)
    early.write(FleetWanted(at=1.0, before=0, after=1, by="the test"))
    late = ClusterLedger.open(admin, "ledger", namespace=namespace, labels=labels)
    assert late.fleet("f").wanted == 1
    late.write(LaunchIntended(at=2.0, token="f-1", reason="", usd_per_hour=0.5))
    with pytest.raises(JournalError, match="another keeper writes to the ledger"):
        early.write(LaunchIntended(at=3.0, token="f-2", reason=""))
    late.write(LaunchAnswered(at=4.0, token="f-1", machine="m"))
    again = ClusterLedger.open(admin, "ledger", namespace=namespace, labels=labels)
    assert again.fleet("f") == late.fleet("f")
    [member] = again.fleet("f").members.values()
    assert (member.id, member.phase) == ("m", MachinePhase.STARTING)


def test_a_full_ledger_keeps_what_it_says_of_the_present(admin, namespace):
    past = [
        each
        for number in range(2 * cluster_ledger.MOST_RECORDS)
        for each in (
            LaunchIntended(
                at=float(number), token=f"f-{number}", reason="1 of 2 are there", usd_per_hour=0.5
            ),
            MachineGone(at=number + 0.5, machine=f"m{number}", token=f"f-{number}", how="it was deleted"),
        )
    ]
    live = [
        LaunchIntended(at=1.0, token="live", reason=""),
        LaunchAnswered(at=2.0, token="live", machine="m"),
    ]
    records = [FleetWanted(at=0.0, before=0, after=2, by="the test"), *live, *past]
    made = ledger_manifest("full", records, labels={"app": "test"})
    assert len(made["data"]) == cluster_ledger.MOST_RECORDS
    ledger = ClusterLedger(admin, admin.create(made, namespace=namespace), namespace=namespace)
    new = LaunchIntended(at=9.0, token="new", reason="")
    ledger.write(new)
    kept = records_in(admin.get(CONFIG_MAP, "full", namespace=namespace))
    assert len(kept) == cluster_ledger.MOST_RECORDS - cluster_ledger.DROPPED + 1
    assert kept[:3] == [records[0], *live]
    assert kept[-2:] == [past[-1], new]
    fleet = ledger.fleet("f")
    assert (fleet.wanted, list(fleet.members)) == (2, ["live", "new"])
