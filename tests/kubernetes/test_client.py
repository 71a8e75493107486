"""The client on a real API server: what it applies, watches, reads and evicts, and what it says when it is refused."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.kubernetes.manifests import deployment, pod, wait

from hooke.base.errors import UsageError
from hooke.kubernetes.client import (
    ApiError,
    ApiForbidden,
    ApiUnreachable,
    Conflicting,
    Kubernetes,
    NotThere,
    key_of,
    selector,
)
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.watch import Watch

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long]


def settings(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def test_a_field_that_the_server_does_not_know_is_refused(admin, namespace):
    wrong = pod("one", "pass")
    wrong["spec"]["nodeSelecter"] = {"disk": "ssd"}
    for write in (admin.create, admin.apply):
        with pytest.raises(ApiError, match="nodeSelecter"):
            write(wrong, namespace=namespace)
    admin.create(settings("two", a="1"), namespace=namespace)
    with pytest.raises(ApiError, match="dta"):
        admin.patch("v1/ConfigMap", "two", {"dta": {"a": "2"}}, namespace=namespace)


def running(client, name, namespace):
    wait(lambda: client.get("v1/Pod", name, namespace=namespace)["status"].get("phase") == "Running")


@pytest.fixture
def other(kubeconfig):
    """A client of the administrator that applies under another name."""
    client = Kubernetes(find_access(kubeconfig), manager="somebody")
    yield client
    client.close()


class Following:
    """A watch in a thread, and what came out of it."""

    def __init__(self, client, namespace, labels=""):
        self.changes = []
        self.error = None
        self.watch = Watch(client, "v1/ConfigMap", namespace=namespace, labels=labels)
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()

    def _follow(self):
        try:
            for change in self.watch:
                self.changes.append(
                    (change.how, change.object["metadata"]["name"], change.object.get("data"))
                )
        except ApiError as error:
            self.error = error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.watch.stop()
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()

    def of(self, name):
        return [(how, data) for how, of, data in self.changes if of == name]


# -- objects -------------------------------------------------------------------------------------


def test_an_object_is_created_read_changed_and_deleted(admin, namespace):
    made = admin.create(settings("one", a="1"), namespace=namespace)
    assert key_of(made) == (namespace, "one")
    with pytest.raises(Conflicting, match='configmaps "one" already exists') as caught:
        admin.create(settings("one"), namespace=namespace)
    assert (caught.value.code, caught.value.reason) == (409, "AlreadyExists")
    changed = admin.patch("v1/ConfigMap", "one", {"data": {"a": None, "b": "2"}}, namespace=namespace)
    assert changed["data"] == {"b": "2"}
    with pytest.raises(Conflicting, match="UID in the precondition"):
        admin.delete("v1/ConfigMap", "one", namespace=namespace, uid="another")
    admin.delete("v1/ConfigMap", "one", namespace=namespace, uid=made["metadata"]["uid"])
    with pytest.raises(NotThere, match='configmaps "one" not found'):
        admin.get("v1/ConfigMap", "one", namespace=namespace)
    with pytest.raises(NotThere, match="knows no kind Nothing of v1"):
        admin.get("v1/Nothing", "one")


def test_lists_come_by_pages_and_selectors(admin, namespace, monkeypatch):
    monkeypatch.setattr("hooke.kubernetes.client.PAGE", 3)
    for number in range(8):
        made = settings(f"c{number}")
        made["metadata"]["labels"] = {"odd": str(number % 2), "of": "us"}
        admin.create(made, namespace=namespace)
    chosen = selector({"of": "us"})
    found, version = admin.list("v1/ConfigMap", namespace=namespace, labels=chosen)
    assert [each["metadata"]["name"] for each in found] == [f"c{number}" for number in range(8)]
    assert {each["kind"] for each in found} == {"ConfigMap"}
    assert int(version) > 0
    odd, _ = admin.list("v1/ConfigMap", namespace=namespace, labels=selector({"of": "us", "odd": "1"}))
    assert len(odd) == 4
    one, _ = admin.list("v1/ConfigMap", namespace=namespace, fields="metadata.name=c3")
    assert len(one) == 1


def test_a_list_can_be_of_all_namespaces(cluster, admin, namespace):
    for where in (namespace, "default"):
        made = settings("everywhere")
        made["metadata"]["labels"] = {"of": namespace}
        admin.create(made, namespace=where)
    found, _ = admin.list("v1/ConfigMap", namespace="*", labels=selector({"of": namespace}))
    assert {key_of(each)[0] for each in found} == {namespace, "default"}
    admin.delete("v1/ConfigMap", "everywhere", namespace="default")


def test_what_is_applied_no_more_is_gone_and_what_others_own_is_refused(admin, other, namespace):
    admin.apply(settings("one", ours="1", shared="1"), namespace=namespace)
    assert admin.apply(settings("one", ours="2"), namespace=namespace)["data"] == {"ours": "2"}
    other.apply(settings("one", theirs="1"), namespace=namespace)
    assert admin.apply(settings("one", ours="3"), namespace=namespace)["data"] == {"ours": "3", "theirs": "1"}
    with pytest.raises(Conflicting, match='conflict with "somebody"'):
        admin.apply(settings("one", theirs="2"), namespace=namespace)
    assert admin.apply(settings("one", theirs="2"), namespace=namespace, force=True)["data"] == {
        "theirs": "2"
    }


def test_a_deployment_is_scaled(admin, namespace):
    admin.apply(deployment("web", "import time; time.sleep(600)", replicas=0), namespace=namespace)
    assert admin.replicas("apps/v1/Deployment", "web", namespace=namespace) == 0
    admin.scale("apps/v1/Deployment", "web", 2, namespace=namespace)
    assert admin.replicas("apps/v1/Deployment", "web", namespace=namespace) == 2
    wait(lambda: len(admin.list("v1/Pod", namespace=namespace)[0]) == 2)


# -- logs and evictions --------------------------------------------------------------------------


def test_a_log_is_read_as_it_comes(admin, namespace):
    code = "import time\nfor n in range(100): print(n); time.sleep(0.2)"
    admin.create(pod("counts", code), namespace=namespace)
    running(admin, "counts", namespace)
    with admin.logs("counts", namespace=namespace, follow=True) as lines:
        assert list(itertools.islice(lines, 3)) == [b"0", b"1", b"2"]
        stopping = threading.Timer(0.5, lines.end)
        stopping.start()
        assert 1 <= len(list(lines)) < 90
        stopping.join()
    with pytest.raises(ApiError, match="previous terminated container"):
        admin.logs("counts", namespace=namespace, previous=True)


def test_a_disruption_budget_keeps_a_pod_from_being_evicted(admin, namespace):
    admin.create(pod("kept", "import time; time.sleep(600)", labels={"app": "kept"}), namespace=namespace)
    running(admin, "kept", namespace)
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "kept"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "kept"}}},
    }
    admin.apply(budget, namespace=namespace)
    wait(
        lambda: admin.get("policy/v1/PodDisruptionBudget", "kept", namespace=namespace)["status"].get(
            "observedGeneration"
        )
    )
    with pytest.raises(ApiError, match="disruption budget") as caught:
        admin.evict("kept", namespace=namespace)
    assert caught.value.code == 429
    admin.delete("policy/v1/PodDisruptionBudget", "kept", namespace=namespace)
    admin.evict("kept", namespace=namespace, grace_s=0)
    wait(lambda: not admin.list("v1/Pod", namespace=namespace)[0])


def test_requests_that_are_too_many_at_a_time_wait_as_the_server_says(cluster, admin, namespace):
    user, kind = "hasty", "flowcontrol.apiserver.k8s.io/v1"
    limit = {"nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}
    level = {"metadata": {"name": user}, "spec": {"type": "Limited", "limited": limit}}
    rule = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}
    subject = {"kind": "User", "user": {"name": user}}
    schema = {
        "priorityLevelConfiguration": {"name": user},
        "matchingPrecedence": 100,
        "rules": [{"subjects": [subject], "resourceRules": [rule]}],
    }
    admin.create({"apiVersion": kind, "kind": "PriorityLevelConfiguration", **level})
    admin.create({"apiVersion": kind, "kind": "FlowSchema", "metadata": {"name": user}, "spec": schema})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}
    about = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": user}}
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]
    admin.create({**about, "roleRef": role, "subjects": subjects}, namespace=namespace)
    file = cluster.logs / "hasty.kubeconfig"
    file.write_text(cluster.config(user))
    client = Kubernetes(find_access(file))
    try:
        wait(lambda: f'priority_level="{user}"' in cluster.metrics())
        asked = 0
        while not refused_at(cluster, user):
            with ThreadPoolExecutor(24) as pool:
                found = [pool.submit(client.list, "v1/ConfigMap", namespace=namespace) for _ in range(200)]
                asked += sum(1 for each in found if each.result())
        assert asked % 200 == 0  # none of them failed
    finally:
        client.close()
        admin.delete(f"{kind}/FlowSchema", user)
        admin.delete(f"{kind}/PriorityLevelConfiguration", user)


def refused_at(cluster, level):
    """How many requests of a priority level the API server has refused with 429."""
    name = "apiserver_flowcontrol_rejected_requests_total{"
    lines = [
        line for line in cluster.metrics().splitlines() if line.startswith(name) and f'"{level}"' in line
    ]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


# -- watches -------------------------------------------------------------------------------------


def test_a_watch_tells_each_change_once(admin, namespace):
    made = settings("before", n="0")
    made["metadata"]["labels"] = {"of": "us"}
    admin.create(made, namespace=namespace)
    with Following(admin, namespace, "of=us") as following:
        wait(lambda: following.of("before"))
        admin.create(settings("not-ours"), namespace=namespace)
        for number in ("1", "2"):
            admin.patch("v1/ConfigMap", "before", {"data": {"n": number}}, namespace=namespace)
        admin.delete("v1/ConfigMap", "before", namespace=namespace)
        wait(lambda: len(following.changes) == 4)
    assert following.of("before") == [
        ("added", {"n": "0"}),
        ("modified", {"n": "1"}),
        ("modified", {"n": "2"}),
        ("deleted", {"n": "2"}),
    ]
    assert following.watch.known == {}
    assert following.watch.lists == 1


def test_a_watch_goes_on_where_the_server_ended_it(admin, namespace, monkeypatch):
    monkeypatch.setattr(
        Kubernetes.watch_from, "__kwdefaults__", {**Kubernetes.watch_from.__kwdefaults__, "for_s": 1}
    )
    with Following(admin, namespace) as following:
        for number in range(20):
            admin.create(settings(f"c{number}"), namespace=namespace)
            time.sleep(0.2)
        wait(lambda: len([each for each in following.changes if each[1].startswith("c")]) == 20)
    assert following.watch.lists == 1


def test_a_watch_lists_anew_when_its_version_is_forgotten(cluster, admin, namespace):
    for name in ("stays", "goes", "changes"):
        admin.create(settings(name, n="0"), namespace=namespace)
    watch = Watch(admin, "v1/ConfigMap", namespace=namespace, fields="metadata.name!=kube-root-ca.crt")
    changes = ((change.how, change.object["metadata"]["name"]) for change in watch)
    first = sorted(itertools.islice(changes, 3))
    assert first == [("added", "changes"), ("added", "goes"), ("added", "stays")]
    admin.create(settings("later"), namespace="default")
    cluster.kill("kube-apiserver")
    cluster.forget_versions()
    with pytest.raises(ApiUnreachable, match="does not answer"):
        admin.get("v1/ConfigMap", "stays", namespace=namespace)
    cluster.start("kube-apiserver")
    wait(lambda: reached(admin, namespace))
    admin.delete("v1/ConfigMap", "goes", namespace=namespace)
    admin.patch("v1/ConfigMap", "changes", {"data": {"n": "1"}}, namespace=namespace)
    admin.create(settings("comes"), namespace=namespace)
    assert sorted(itertools.islice(changes, 3)) == [
        ("added", "comes"),
        ("deleted", "goes"),
        ("modified", "changes"),
    ]
    assert watch.lists == 2
    assert watch.lost_at is None
    assert {name for _, name in watch.known} == {"stays", "changes", "comes"}
    admin.delete("v1/ConfigMap", "later", namespace="default")


def reached(client, namespace):
    try:
        return client.list("v1/ConfigMap", namespace=namespace)[0]
    except (ApiError, ApiUnreachable):
        return None


def test_a_watch_outlives_a_refusal_for_a_moment(cluster, admin, namespace):
    """An API server that has just started refuses everything until it has read all roles."""
    rbac = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{rbac}/v1",
        "kind": "Role",
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}],
    }
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": f"reader-{namespace}"}],
    }
    for each in (role, binding):
        admin.create(each, namespace=namespace)
    reader = Kubernetes(find_access(cluster.write_config(f"reader-{namespace}")))
    wait(lambda: reached(reader, namespace) is not None)
    with Following(reader, namespace) as following:
        wait(lambda: following.watch.lists and following.watch._stream)
        admin.delete(f"{rbac}/v1/RoleBinding", "reader", namespace=namespace)
        wait(lambda: reached(reader, namespace) is None)
        following.watch._stream.end()
        wait(lambda: following.watch.lost_at)
        admin.create(settings("one"), namespace=namespace)
        admin.create(binding, namespace=namespace)
        wait(lambda: following.of("one"))
    assert following.error is None
    assert following.watch.lost_at is None
    reader.close()


def test_a_bookmark_moves_the_version_on(admin, namespace):
    watch = Watch(admin, "v1/ConfigMap", namespace=namespace)
    seen = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "77"}}}
    assert list(watch._read(seen)) == []
    assert watch.version == "77"


# -- refusals and outages ------------------------------------------------------------------------


def test_a_right_that_is_lacking_is_named(cluster, admin, namespace):
    config = cluster.logs.parent / "nobody"
    config.write_text(cluster.config("nobody"))
    client = Kubernetes(find_access(config))
    with pytest.raises(ApiForbidden, match='User "nobody" cannot list resource "pods"'):
        client.list("v1/Pod", namespace=namespace)
    client.close()


def test_a_pod_speaks_for_its_service_account(cluster, admin, namespace, tmp_path):
    wait(lambda: admin.list("v1/ServiceAccount", namespace=namespace)[0])
    token = admin._json(
        "POST",
        admin._object("v1/ServiceAccount", "default", namespace, "token"),
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )["status"]["token"]
    for name, content in (
        ("token", token),
        ("namespace", namespace),
        ("ca.crt", admin.access.authority.decode()),
    ):
        (tmp_path / name).write_text(content)
    host, _, port = cluster.server.removeprefix("https://").partition(":")
    where = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    client = Kubernetes(find_access(environment=where, account=tmp_path))
    with pytest.raises(ApiForbidden, match=f"system:serviceaccount:{namespace}:default.* cannot list"):
        client.list("v1/Pod")
    (tmp_path / "token").write_text("no token")
    client.access.credentials.forget()
    with pytest.raises(ApiForbidden, match="Unauthorized"):
        client.list("v1/Pod")
    client.close()


def test_a_server_of_another_authority_is_not_believed(cluster, tmp_path):
    from tests.kubernetes.cluster import _Authority, _kubeconfig

    stranger = _Authority()
    (tmp_path / "config").write_text(_kubeconfig(cluster.server, stranger.pem, *stranger.signed("me")))
    with pytest.raises(ApiUnreachable, match="does not answer") as caught:
        Kubernetes(find_access(tmp_path / "config")).list("v1/Pod")
    assert "CERTIFICATE_VERIFY_FAILED" in caught.value.why
    (tmp_path / "config").write_text(_kubeconfig(cluster.server, b"no certificate", *stranger.signed("me")))
    with pytest.raises(UsageError, match="cannot be read"):
        Kubernetes(find_access(tmp_path / "config")).list("v1/Pod")


def test_calls_from_threads_share_connections(admin, namespace):
    errors = []

    def call(number):
        try:
            for turn in range(10):
                admin.apply(settings(f"c{number}", n=str(turn)), namespace=namespace)
        except (ApiError, ApiUnreachable) as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    assert 1 <= len(admin._idle) <= 8
    found, _ = admin.list("v1/ConfigMap", namespace=namespace, fields="metadata.name!=kube-root-ca.crt")
    assert [each["data"] for each in found] == [{"n": "9"}] * 8


def test_a_connection_that_was_ended_while_it_was_idle_is_not_used_for_a_create(admin, namespace):
    """A create is not sent twice, so it must not be lost on a connection that is known to be over."""
    admin.get("v1/Namespace", namespace)
    admin._idle[-1].cut()
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "once"}}
    assert admin.create(made, namespace=namespace)["metadata"]["name"] == "once"
