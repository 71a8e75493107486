"""Runs on pods of a real cluster: results, sizes, what is lost and what is left, and what is said of pods that cannot run.

The driver is a process on the cluster's node, so pods reach it; it is nobody, as pods are, so both can write to the store, a claim.
"""

import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from tests.kubernetes.images import PYTHON
from tests.kubernetes.manifests import namespace, wait
from tests.support import REPOSITORY

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

STORE = "/var/tmp/store"
HOME = "/var/tmp/driver"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
ROLE = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "list", "delete"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
]
"""All that a run may do, as docs/how-to/kubernetes.md says."""

JOB = """
import os, time
from hooke import pipeline, task

@task
def square(x, hold):
    time.sleep(hold)
    return {"square": x * x, "text": "x" * x}

@task(retries=0)
def total(parts):
    return sum(part["square"] for part in parts)

@pipeline
def squares(n: int = 12, hold: float = 0.05):
    return total([square(x, hold) for x in range(n)])

@task(retries=2)
def slow(x, hold):
    time.sleep(hold)
    return x + 1

@pipeline
def slowly(n: int = 3, hold: float = 20.0):
    return [slow(x, hold) for x in range(n)]

@task
def greedy():
    return len([bytearray(b"x" * (1 << 20)) for _ in range(2000)])

@pipeline
def too_much():
    return greedy()

@task
def average(size):
    import dask.array as da
    from distributed import worker_client
    with worker_client():
        return float(da.ones((size, size), chunks=(250, 250)).mean().compute())

@pipeline
def arrays(size: int = 1000):
    return average(size)
"""

TOML = """
[store]
url = "{store}"

[places.pods]
engine = "kubernetes"
image = "{image}"
namespace = "{namespace}"
kubeconfig = "{home}/kubeconfig"
cpus = 0.1
memory = "500 MiB"
drain = "60 s"
workers = {workers}
{more}

[places.pods.pod_template.spec]
volumes = {volumes}

[[places.pods.pod_template.spec.containers]]
name = "worker"
imagePullPolicy = "Never"
env = [{{ name = "PYTHONPATH", value = "{path}" }}]
volumeMounts = {mounts}
"""


def toml(value):
    """As TOML writes it in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(each) for each in value) + "]"
    return json.dumps(value)


def folders():
    """What pods need of this machine: the environment of the tests and the source."""
    found = [Path(REPOSITORY), Path(sys.prefix)]
    return [
        each for each in found if not any(each != other and each.is_relative_to(other) for other in found)
    ]


class Driver:
    """Runs of a project on the cluster's node."""

    def __init__(self, cluster, admin, where):
        self.cluster, self.admin, self.namespace = cluster, admin, where
        self.host = cluster.nodes["node1"]
        for folder in (STORE, HOME):
            self.host.run(["sh", "-c", f"mkdir -p {folder} && chown 65534:65534 {folder}"])
        self.volumes = {
            f"{where}-{number}": (str(folder), True) for number, folder in enumerate(folders())
        } | {f"{where}-store": (STORE, False)}
        for name, (path, _) in self.volumes.items():
            self._volume(name, path)
        self._role()
        self.put("kubeconfig", cluster.config(f"runner-{where}", server=cluster.inside))
        self.put("job.py", JOB)
        self.configure()

    def _volume(self, name, path):
        claim = {"namespace": self.namespace, "name": name}
        spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        volume = {"capacity": {"storage": "1Gi"}, "hostPath": {"path": path}, "claimRef": claim}
        self.admin.create(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": spec | volume,
            }
        )
        asked = {"volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}
        self.admin.create(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim, "spec": spec | asked}
        )

    def _role(self):
        about = {"name": "runner", "namespace": self.namespace}
        rbac = "rbac.authorization.k8s.io"
        subject = {"apiGroup": rbac, "kind": "User", "name": f"runner-{self.namespace}"}
        self.admin.create({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": about, "rules": ROLE})
        self.admin.create(
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": about,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "runner"},
                "subjects": [subject],
            }
        )

    def put(self, name, content):
        at = self.host.path(f"{HOME}/{name}")
        at.write_text(content)
        os.chown(at, 65534, 65534)
        if name == "kubeconfig":
            at.chmod(0o600)

    def configure(self, *, image=PYTHON, workers="[1, 3]", more=""):
        volumes = [
            {"name": f"v{number}", "persistentVolumeClaim": {"claimName": name}}
            for number, name in enumerate(self.volumes)
        ]
        mounts = [
            {"name": f"v{number}", "mountPath": path, "readOnly": read_only}
            for number, (path, read_only) in enumerate(self.volumes.values())
        ]
        path = os.pathsep.join([sysconfig.get_path("purelib"), f"{REPOSITORY}/src"])
        content = TOML.format(
            store=STORE, image=image, namespace=self.namespace, home=HOME, workers=workers, more=more,
            volumes=toml(volumes), mounts=toml(mounts), path=path,
        )  # fmt: skip
        self.put("hooke.toml", content)

    def start(self, *words, **more):
        """`hooke WORDS` on the node, as nobody."""
        environment = {"HOME": HOME, "HOOKE_SINKS": "none", "HOOKE_PROGRESS": "lines"}
        command = [*NOBODY, sys.executable, "-m", "hooke", *words]
        return self.host.popen(
            command, cwd=HOME, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )  # fmt: skip

    def hooke(self, *words, within_s=180.0):
        """Code, output and errors of `hooke WORDS`."""
        process = self.start(*words)
        try:
            printed, said = process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.host.end(process)
            printed, said = process.communicate()
            pytest.fail(f"{words} took longer than {within_s:g} s\n{printed}\n{said}")
        return process.returncode, printed, said

    def result(self, *words, within_s=180.0):
        code, printed, said = self.hooke("run", *words, "--json", within_s=within_s)
        assert code == 0, said
        return json.loads(printed) | {"said": said}

    def there(self, kind):
        return [each["metadata"]["name"] for each in self.admin.list(kind, namespace=self.namespace)[0]]

    def left(self):
        """What of runs is in the namespace."""
        return self.there("v1/Pod") + self.there("batch/v1/Job") + self.there("v1/Secret")


@pytest.fixture(scope="module")
def driver(cluster, admin):
    name = admin.create(namespace("runs-"))["metadata"]["name"]
    wait(lambda: admin.list("v1/ServiceAccount", namespace=name)[0])
    yield Driver(cluster, admin, name)
    admin.delete("v1/Namespace", name)


def test_a_run_on_pods_equals_a_local_one_and_leaves_nothing(driver):
    began = time.monotonic()
    result = driver.result("job.py:squares", "--on", "pods")
    print("SECONDS", time.monotonic() - began)
    print(result["said"])
    assert result["result"] == sum(x * x for x in range(12))
    wait(lambda: not driver.left(), within_s=60)
