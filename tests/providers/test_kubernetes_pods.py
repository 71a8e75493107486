"""Options of the provider of pods, which is tested on a cluster in tests/kubernetes."""

import pytest

from hooke.base.errors import UsageError
from hooke.kubernetes.client import NotThere
from hooke.providers.kubernetes_pods import KubernetesPods


def test_options_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown options: cpu") as caught:
        KubernetesPods("t", ["x"], logs=tmp_path, image="i", cpu=2)
    assert "cpus" in caught.value.fix
    with pytest.raises(UsageError, match="not a program with its arguments"):
        KubernetesPods("t", "x", logs=tmp_path, image="i")


@pytest.mark.parametrize("command", [5, None, "dask worker", [], ["dask", 1]])
def test_a_command_that_is_no_list_of_words(command, tmp_path):
    with pytest.raises(UsageError, match="is not a program with its arguments"):
        KubernetesPods("tag", command, logs=tmp_path, image="a:1")


KUBECONFIG = """
current-context: here
contexts: [{name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: none}}]
"""


class Listed:
    """What an API server lists, and which is asked for it."""

    def __init__(self, access):
        self.access = access
        self.pods = {}
        self.lists = 0

    def change(self, name, phase, version):
        about = {
            "name": name,
            "uid": name,
            "resourceVersion": version,
            "creationTimestamp": "2026-11-30T00:00:00Z",
        }
        self.pods = {**self.pods, name: {"metadata": about, "status": {"phase": phase}}}

    def list(self, kind, **_):
        self.lists += 1
        return list(self.pods.values()), "1"

    def check_listing(self, kind, **_):
        pass

    def logs(self, pod, **_):
        raise NotThere("its node is gone")

    def create(self, manifest, **_):
        if manifest["kind"] == "Pod":
            self.change(manifest["metadata"]["name"], "Pending", "1")
        return {"status": {"allowed": True}}


class Behind:
    """A watch that tells only what `catch_up` has let it see."""

    is_old = False

    def __init__(self, server):
        self.server = server
        self.catch_up()

    def catch_up(self):
        self.told = dict(self.server.pods)

    def pods(self):
        return dict(self.told)


def test_a_watch_that_is_behind_hides_no_launched_pod_and_brings_none_back(tmp_path):
    (tmp_path / "config").write_text(KUBECONFIG)
    pods = KubernetesPods("t", ["x"], logs=tmp_path, image="i", kubeconfig=str(tmp_path / "config"))
    server = pods._client = Listed(pods._client.access)
    watch = pods._follower = Behind(server)

    def there():
        return {machine.id: machine.phase for machine in pods.list()}

    first = pods.launch("a")
    assert there() == there() == there() == {first: "starting"}, "listed as long as the watch lacks it"
    assert server.lists == 3
    watch.catch_up()
    assert there() == {first: "starting"}
    assert server.lists == 3
    server.change(first, "Running", "2")
    watch.catch_up()
    assert there() == {first: "ready"}
    second = pods.launch("b")
    server.change(first, "Failed", "3")
    assert there() == {first: "ended", second: "starting"}
    watch.told[second] = server.pods[second]
    assert there() == {first: "ended", second: "starting"}, "the watch still has it running"
    third = pods.launch("c")
    server.pods = {name: pod for name, pod in server.pods.items() if name != first}
    assert there() == {second: "starting", third: "starting"}
    watch.told[third] = server.pods[third]
    assert there() == {second: "starting", third: "starting"}, "the watch still has the first"
    watch.catch_up()
    assert there() == {second: "starting", third: "starting"}
