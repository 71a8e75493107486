"""The Role that `hooke fleet rbac` prints is enough for a fleet, and nothing of it is too much; and what its pods may not do."""

import json

import pytest
import yaml
from click.testing import CliRunner
from tests.kubernetes.manifests import POD_TEMPLATE, PROGRAM, PYTHON, WORKS, wait

from hooke.base.errors import HookeError
from hooke.cli.entry import hooke
from hooke.cli.screens import CommandSession
from hooke.kubernetes.client import ApiForbidden, Kubernetes
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.rights import FLEET_RIGHTS, lacking_rights, role_manifests
from hooke.machines.provider import NotAllowed

pytestmark = pytest.mark.heavy

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


def grant(admin, client, rights, namespace):
    """Have the account have these rights and no others. Returns when the API server goes by that."""
    for each in role_manifests(rights, account=ACCOUNT, namespace=namespace):
        admin.apply(each)
    lacking = [each for each in FLEET_RIGHTS if each not in rights]
    # Each process of an API server learns of a Role by a watch of its own.
    wait(lambda: lacking_rights(client, FLEET_RIGHTS, namespace=namespace) == lacking)


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
