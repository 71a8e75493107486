"""The Role that `hooke fleet rbac` prints is enough for a fleet, and nothing of it is too much; and what its pods may not do."""

import json
import time

import pytest
import yaml
from click.testing import CliRunner
from tests.kubernetes.manifests import POD_TEMPLATE, PROGRAM, PYTHON, WORKS, job, wait

from hooke.base.errors import HookeError
from hooke.cli.entry import hooke
from hooke.cli.screens import CommandSession
from hooke.fleets.cluster_keeper import KEEPER_NOTE, ClusterKeeper
from hooke.journal.fleet_events import FleetWanted
from hooke.kubernetes.client import ApiForbidden, Kubernetes
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.lease import LEASE, ClusterLease
from hooke.kubernetes.pods import DRIVER_LABEL, MANAGED, RUN_LABEL
from hooke.kubernetes.rights import (
    FLEET_RIGHTS,
    KEEPER_RIGHTS,
    REAP_RIGHTS,
    RUN_RIGHTS,
    lacking_rights,
    role_manifests,
)
from hooke.machines.cluster_ledger import ClusterLedger
from hooke.machines.controller import Caps
from hooke.machines.provider import NotAllowed
from hooke.project.settings import read_settings

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long]

ACCOUNT = "hooke"


def call(*words):
    """What `hooke fleet` prints. Raises what it raises."""
    return (
        CliRunner()
        .invoke(hooke, ["fleet", *words], obj=CommandSession(), catch_exceptions=False, standalone_mode=False)
        .stdout
    )


def inline(value):
    """A value as TOML has it in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {inline(each)}" for name, each in value.items()) + "}"
    return f"[{', '.join(map(inline, value))}]" if isinstance(value, list) else json.dumps(value)


@pytest.fixture
def project(tmp_path, monkeypatch, restricted):
    """A project whose only fleet is in the namespace; its kubeconfig is not there yet."""
    settings = {
        "provider": "kubernetes",
        "image": PYTHON,
        "command": [PROGRAM, "-u", "-c", WORKS],
        "namespace": restricted,
        "kubeconfig": str(tmp_path / "account.yaml"),
        "cpus": 0.05,
        "memory": "64 MiB",
        "drain": "60 s",
        "pod_template": POD_TEMPLATE,
    }
    lines = [f"{name} = {inline(value)}" for name, value in settings.items()]
    (tmp_path / "hooke.toml").write_text("\n".join(["[fleets.pool]", *lines]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def account(admin, kubeconfig, restricted, tmp_path):
    """Makes the kubeconfig of a service account that is there, and a client of it."""
    clients = []

    def make():
        token = admin._json(
            "POST",
            admin._object("v1/ServiceAccount", ACCOUNT, restricted, "token"),
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        )["status"]["token"]
        config = yaml.safe_load(kubeconfig.read_text())
        context = next(
            each["context"] for each in config["contexts"] if each["name"] == config["current-context"]
        )
        context["user"], context["namespace"] = ACCOUNT, restricted
        config["users"] = [{"name": ACCOUNT, "user": {"token": token}}]
        (tmp_path / "account.yaml").write_text(yaml.safe_dump(config))
        clients.append(Kubernetes(find_access(tmp_path / "account.yaml")))
        return clients[-1]

    yield make
    for each in clients:
        each.close()


def grant(admin, client, rights, namespace, *, of=FLEET_RIGHTS):
    """Have the account have these rights and no others, as far as they are `of` these. Returns when the API server goes by that."""
    for each in role_manifests(rights, account=ACCOUNT, namespace=namespace):
        admin.apply(each)
    lacking = [each for each in of if each not in rights]
    # Each process of an API server learns of a Role by a watch of its own.
    wait(lambda: lacking_rights(client, of, namespace=namespace) == lacking)


def without_each(rights, admin, client, namespace, *, beside=()):
    """Each of these rights, while the account has all others, and those `beside`."""
    all_of_them = (*rights, *beside)
    for right in rights:
        grant(admin, client, [each for each in all_of_them if each != right], namespace, of=all_of_them)
        yield right


def refusal(right):
    """What the API server says where it is lacking."""
    return f'cannot {right.verb} resource "{right.resource}" in API group "{right.group}"'


def test_a_fleet_lives_its_whole_life_with_the_role_that_is_printed(project, admin, account, restricted):
    for each in yaml.safe_load_all(call("rbac", "--account", ACCOUNT)):
        admin.apply(each)
    client = account()
    wait(lambda: not lacking_rights(client, FLEET_RIGHTS, namespace=restricted))
    assert call("scale", "2") == "pool: 2 machines\n"
    first, second = json.loads(call("ls", "--json"))
    assert {first["state"], second["state"]} == {"ready"}
    admin.delete("v1/Pod", first["machine"], namespace=restricted, grace_s=0)
    wait(lambda: [each["machine"] for each in json.loads(call("ls", "--json"))] == [second["machine"]])
    assert call("scale", "2") == "pool: 2 machines\n"
    assert call("scale", "1") == "pool: 1 machine\n"
    logs = sorted((project / ".hooke" / "fleets" / "pool" / "logs").iterdir())
    assert [each.read_text().splitlines()[0] for each in logs] == ["ready"]
    (left,) = wait(lambda: one(json.loads(call("ls", "--json"))))
    assert call("reap") == f"pool: {left['machine']} is wanted and stays\n"
    assert call("down") == "pool: 0 machines\n"
    wait(lambda: admin.list("v1/Pod", namespace=restricted)[0] == [])


def one(rows):
    return rows if len(rows) == 1 else None


def test_without_any_one_right_a_fleet_says_which_and_what_to_do(
    project, pods, admin, account, restricted, tmp_path
):
    for each in role_manifests((), account=ACCOUNT, namespace=restricted):
        admin.apply(each)
    client = account()
    grant(admin, client, FLEET_RIGHTS, restricted)
    provider = pods(kubeconfig=str(tmp_path / "account.yaml"))
    machine = provider.launch("one")
    wait(lambda: provider.list()[0].phase == "ready")
    calls = {
        "list pods": provider.list,
        "create pods": lambda: provider.launch("two"),
        "delete pods": lambda: provider.release(machine),
    }
    for right in FLEET_RIGHTS:
        grant(admin, client, [each for each in FLEET_RIGHTS if each != right], restricted)
        # A fleet without a machine is told before it has one that it could not end.
        with pytest.raises(HookeError, match="the fleet pool lacks a right") as caught:
            call("scale", "1", "--wait", "60s")
        assert f"{right.verb} pods" in caught.value.why or f"{right.verb} resource" in caught.value.why
        assert "hooke fleet rbac" in caught.value.fix
        if str(right) in calls:  # one that has machines already
            with pytest.raises(NotAllowed, match=f'cannot {right.verb} resource "pods" in API') as refused:
                calls[str(right)]()
            assert "hooke fleet rbac" in refused.value.fix
    # The last one of them: a machine is ended also where its log may not be read, and the log says that.
    assert str(right) == "get pods/log"
    provider.release(machine)
    wait(lambda: not provider.list())
    log = (tmp_path / "logs" / "one.log").read_text()
    assert 'cannot get resource "pods/log"' in log
    assert "hooke fleet rbac" in log


def test_without_any_one_right_of_a_keeper_it_is_not_asked_for_and_the_command_says_which(
    project, admin, account, restricted
):
    for each in role_manifests((), account=ACCOUNT, namespace=restricted):
        admin.apply(each)
    for right in without_each(KEEPER_RIGHTS, admin, account(), restricted, beside=FLEET_RIGHTS):
        with pytest.raises(HookeError, match=f"the account may not {right} in the namespace") as caught:
            call("scale", "1", "--detach")
        assert "hooke fleet rbac pool --keeper" in caught.value.fix
    for kind in ("v1/Pod", "apps/v1/Deployment", LEASE):
        assert not admin.list(kind, namespace=restricted)[0]
    assert not (project / ".hooke" / "fleets" / "pool" / KEEPER_NOTE).exists()


def test_each_right_of_a_keeper_is_needed(project, admin, account, restricted, tmp_path):
    """What it does with a right is refused where that is lacking, so the Role has none that nothing needs."""
    for each in role_manifests((), account=ACCOUNT, namespace=restricted):
        admin.apply(each)
    client = account()
    grant(admin, client, KEEPER_RIGHTS, restricted, of=KEEPER_RIGHTS)
    keeper = ClusterKeeper("pool", project, read_settings(project).fleets["pool"])
    name, place = keeper.deployment, {"namespace": restricted}
    lease = ClusterLease(client, name, labels={"app": "test"}, **place)
    lease.hold()
    ledger = ClusterLedger.open(client, name, labels={"app": "test"}, **place)
    record = FleetWanted(at=1.0, before=0, after=1, by="the test")
    deployment = keeper.manifest(1, Caps(workers=1), 0.0)
    deployment["spec"]["replicas"] = 0  # no pod is needed for this
    admin.apply(deployment, **place)
    other = {**deployment, "metadata": {**deployment["metadata"], "name": "another"}}
    calls = {
        "get configmaps": keeper.records,
        "create configmaps": lambda: ClusterLedger.open(client, "another", labels={}, **place),
        "patch configmaps": lambda: ledger.write(record),
        "delete configmaps": lambda: keeper.take_back(None, ()),
        "get leases": lease.take,
        "create leases": ClusterLease(client, "another", labels={}, **place).hold,
        "patch leases": lease.hold,
        "delete leases": lease.release,
        "get deployments": keeper.lives,
        "create deployments": lambda: client.apply(other, **place),
        "patch deployments": lambda: client.apply(deployment, **place),
        "delete deployments": lambda: keeper.take_back(None, ()),
    }
    assert [*calls] == [str(each) for each in KEEPER_RIGHTS]
    for right in without_each(KEEPER_RIGHTS, admin, client, restricted, beside=FLEET_RIGHTS):
        with pytest.raises(HookeError) as caught:
            calls[str(right)]()
        assert refusal(right) in caught.value.what + caught.value.why, right
        admin.apply(deployment, **place)
    keeper.close()


def test_without_any_one_right_reap_says_which_and_looks_for_the_rest(project, admin, account, restricted):
    with (project / "hooke.toml").open("a") as settings:
        options = f'image = "none:1"\nnamespace = "{restricted}"\nkubeconfig = "{project}/account.yaml"'
        settings.write(f'\n[places.pods]\nengine = "kubernetes"\n{options}\n')
    for each in role_manifests((), account=ACCOUNT, namespace=restricted):
        admin.apply(each)
    needed = [each for each in RUN_RIGHTS if str(each) in ("list jobs", "delete jobs", "list pods")]

    def reap():
        # What a driver left that has no lease any more: a Job that does not start.
        left = job(f"left-{time.monotonic_ns()}", "pass", suspend=True)
        left["metadata"]["labels"] = {MANAGED: "hooke", RUN_LABEL: "run-1", DRIVER_LABEL: "dead"}
        admin.create(left, namespace=restricted)
        words = ["fleet", "reap", "pods", "--wait", "5s"]
        done = CliRunner().invoke(hooke, words, obj=CommandSession(), standalone_mode=False)
        return done.return_value, done.stderr

    for right in without_each((*REAP_RIGHTS, *needed), admin, account(), restricted):
        code, said = reap()
        assert refusal(right) in said, said
        if right.resource in ("secrets", "services"):
            assert code == 0, said
            assert f"{right.resource} were not looked for: " in said
            assert not admin.list("batch/v1/Job", namespace=restricted)[0], "the rest is removed all the same"
        else:
            assert code != 0, right
            assert "hooke fleet rbac pods --reap" in said


def test_where_an_account_may_not_ask_for_its_rights_each_call_says_what_it_lacks(
    cluster, pods, admin, account, restricted, tmp_path
):
    for each in role_manifests(FLEET_RIGHTS, account=ACCOUNT, namespace=restricted):
        admin.apply(each)
    client = account()
    grant(admin, client, [each for each in FLEET_RIGHTS if each.verb != "create"], restricted)
    binding = admin.get("rbac.authorization.k8s.io/v1/ClusterRoleBinding", "system:basic-user")
    admin.delete("rbac.authorization.k8s.io/v1/ClusterRoleBinding", "system:basic-user")
    try:
        wait(lambda: forbidden(client, restricted))
        provider = pods(kubeconfig=str(tmp_path / "account.yaml"))
        with pytest.raises(NotAllowed, match='cannot create resource "pods" in API'):
            provider.launch("one")
        for each in role_manifests(FLEET_RIGHTS, account=ACCOUNT, namespace=restricted):
            admin.apply(each)
        wait(lambda: launched(provider))
    finally:
        del binding["metadata"]["resourceVersion"], binding["metadata"]["uid"]
        admin.create(binding)


def forbidden(client, namespace):
    try:
        lacking_rights(client, FLEET_RIGHTS, namespace=namespace)
    except ApiForbidden:
        return True
    return False


def launched(provider):
    try:
        return provider.launch("one")
    except NotAllowed:  # the API server has not seen the new Role yet
        return None


def test_a_machine_that_may_not_be_ended_is_told_at_once(project, admin, account, restricted):
    for each in role_manifests(FLEET_RIGHTS, account=ACCOUNT, namespace=restricted):
        admin.apply(each)
    client = account()
    grant(admin, client, FLEET_RIGHTS, restricted)
    call("scale", "1")
    grant(admin, client, [each for each in FLEET_RIGHTS if each.verb != "delete"], restricted)
    for verb in ("drain", "down"):
        with pytest.raises(HookeError, match="the fleet pool lacks a right") as caught:
            call(verb, "--wait", "1h")
        assert 'cannot delete resource "pods"' in caught.value.why
    assert "the provider failed, and is asked again: Kubernetes refused: pods" in call("why", "pool")
    grant(admin, client, FLEET_RIGHTS, restricted)
    assert call("down") == "pool: 0 machines\n"


TRIES = """
import json, os
def written(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.strerror
    return "written"
print(json.dumps({
    "uid": os.getuid(),
    "writes": {path: written(path) for path in ("/file", "/etc/file", "/tmp/file")},
    "token": os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount"),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")],
    "privileges": [line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")],
    "addresses": [name for name in os.environ if name.endswith("_SERVICE_HOST") and name != "KUBERNETES_SERVICE_HOST"],
}))
"""


def test_a_pod_is_not_root_and_can_neither_write_to_its_files_nor_speak_for_its_account(pods, tmp_path):
    provider = pods(code=TRIES)
    provider.launch("one")
    log = tmp_path / "logs" / "one.log"
    wait(lambda: provider.list() is not None and log.exists())
    assert json.loads(log.read_text()) == {
        "uid": 65534,
        "writes": {
            "/file": "Read-only file system",
            "/etc/file": "Read-only file system",
            "/tmp/file": "written",
        },
        "token": False,
        "capabilities": ["0000000000000000"],
        "privileges": ["1"],
        "addresses": [],
    }
