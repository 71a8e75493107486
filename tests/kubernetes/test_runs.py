"""Runs on pods of a real cluster: results, sizes, what is lost and what is left, and what is said of pods that cannot run.

The driver is a process on the cluster's node, so pods reach it; it is nobody, as pods are, so both can write to the store, a claim.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tests.kubernetes.images import PYTHON
from tests.kubernetes.manifests import wait
from tests.support import REPOSITORY

from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    BackendTrouble,
    CapacityChanged,
    NodePlanned,
    RunFinished,
    RunStarted,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.reader import read
from hooke.kubernetes.client import Kubernetes
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.lease import LEASE
from hooke.kubernetes.rights import RUN_RIGHTS, lacking_rights, role_manifests

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long, pytest.mark.timeout(600)]

STORE = "/var/tmp/store"
HOME = "/var/tmp/driver"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
JOB = """
import os, socket, time
from hooke import pipeline, task

@task
def square(x, hold):
    time.sleep(hold)
    return {"square": x * x, "data": bytes([x]) * 300_000}

@task(retries=0)
def total(parts):
    return sum(part["square"] for part in parts)

@pipeline
def squares(n: int = 12, hold: float = 0.05):
    return total([square(x, hold) for x in range(n)])

@task(retries=2, observe=False)
def slow(x, hold):
    time.sleep(hold)
    while os.path.exists("/var/tmp/store/held"):
        time.sleep(0.1)
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

@task(gang=2, results="all")
def meet(value):
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ["RANK"] == "0":
        with socket.create_server(place) as server, server.accept()[0] as other:
            return value + int.from_bytes(other.recv(8)), os.uname().nodename
    while True:
        try:
            with socket.create_connection(place) as first:
                first.sendall((value + 1).to_bytes(8))
            return value, os.uname().nodename
        except ConnectionRefusedError:
            time.sleep(0.05)

@pipeline
def met():
    return meet(10)

@task(observe=False)
def long(parts):
    while os.path.exists("/var/tmp/store/held"):
        time.sleep(0.1)
    return len(parts)

@task
def part(x, hold):
    time.sleep(hold)
    return x

@pipeline
def narrows(n: int = 20, wide: float = 4.0):
    # A task of its own, of which no law is known, and more work than the start of a pod takes.
    return long([part(x, wide) for x in range(n)])
"""

TOML = """
[store]
url = "{store}"
secret_file = "store.secret"

[places.pods]
engine = "kubernetes"
image = "{image}"
namespace = "{namespace}"
kubeconfig = "{home}/kubeconfig"
cpus = {cpus}
memory = "{memory}"
drain = "60 s"
workers = {workers}
{more}

[places.pods.pod_template]
spec = {spec}
"""


def rules(rights):
    """Those of a Role, as `hooke fleet rbac` prints it."""
    return role_manifests(rights, account="runner", namespace="")[1]["rules"]


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

    def __init__(self, cluster, admin, where, *, claims=(), variables=None):
        """`claims`: folders of each node that pods have, too, besides the store; `variables`: of the driver and its pods."""
        self.cluster, self.admin, self.namespace = cluster, admin, where
        self.host = cluster.nodes["node1"]
        self.variables = variables or {}
        self.started = []
        # Runs of another module that were not to end are none of this one's, and neither are its results.
        self.host.run(
            ["sh", "-ec", f"mkdir -p {STORE} && find {STORE} -mindepth 1 -delete && rm -rf {HOME}/.hooke"]
        )
        self.host.run(["sh", "-ec", f"mkdir -p {HOME} && chown 65534:65534 {STORE} {HOME}"])
        self.volumes = {
            f"{where}-{number}": (str(folder), True) for number, folder in enumerate(folders())
        } | {f"{where}-{os.path.basename(each)}": (each, False) for each in (STORE, *claims)}
        for name, (path, _) in self.volumes.items():
            self._volume(name, path)
        self._role()
        self.put("kubeconfig", cluster.config(f"runner-{where}", server=cluster.inside))
        self.put("store.secret", "a secret of sixteen bytes or more")
        self.put("job.py", JOB)
        self.configure()

    def _volume(self, name, path):
        """A claim of the namespace on a folder of the node. Volumes are of the whole cluster, so the name of one has the namespace in it."""
        claim = {"namespace": self.namespace, "name": name}
        spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        volume = {"capacity": {"storage": "1Gi"}, "hostPath": {"path": path}, "claimRef": claim}
        self.admin.create(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"{self.namespace}-{name}"},
                "spec": spec | volume,
            }
        )
        asked = {"volumeName": f"{self.namespace}-{name}", "resources": {"requests": {"storage": "1Gi"}}}
        self.admin.create(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim, "spec": spec | asked}
        )

    def _role(self):
        about = {"name": "runner", "namespace": self.namespace}
        rbac = "rbac.authorization.k8s.io"
        subject = {"apiGroup": rbac, "kind": "User", "name": f"runner-{self.namespace}"}
        self.admin.create(
            {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": about, "rules": rules(RUN_RIGHTS)}
        )
        self.admin.create(
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": about,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "runner"},
                "subjects": [subject],
            }
        )

    def allow(self, rights):
        """Have the driver's user have these rights and no others. Returns when the API server goes by that."""
        role = "rbac.authorization.k8s.io/v1/Role"
        self.admin.patch(role, "runner", {"rules": rules(rights)}, namespace=self.namespace)
        user = f"runner-{self.namespace}"
        client = Kubernetes(find_access(self.cluster.write_config(user)))
        lacking = [each for each in RUN_RIGHTS if each not in rights]
        try:
            wait(lambda: lacking_rights(client, RUN_RIGHTS, namespace=self.namespace) == lacking)
        finally:
            client.close()

    def put(self, name, content):
        at = self.host.path(f"{HOME}/{name}")
        at.write_text(content)
        os.chown(at, 65534, 65534)
        if name == "kubeconfig":
            at.chmod(0o600)

    def pod_spec(self):
        """What pods have beyond those of users: Hooke, its packages and the store from claims."""
        volumes = [
            {"name": f"v{number}", "persistentVolumeClaim": {"claimName": name}}
            for number, name in enumerate(self.volumes)
        ]
        mounts = [
            {"name": f"v{number}", "mountPath": path, "readOnly": read_only}
            for number, (path, read_only) in enumerate(self.volumes.values())
        ]
        path = os.pathsep.join([sysconfig.get_path("purelib"), f"{REPOSITORY}/src"])
        variables = [
            {"name": name, "value": value} for name, value in ({"PYTHONPATH": path} | self.variables).items()
        ]
        container = {
            "name": "worker", "imagePullPolicy": "Never", "env": variables, "volumeMounts": mounts
        }  # fmt: skip
        return {"volumes": volumes, "containers": [container]}

    def configure(self, *, image=PYTHON, workers="[1, 3]", more="", store=STORE, memory="500 MiB", cpus=0.1):
        content = TOML.format(
            store=store, image=image, namespace=self.namespace, home=HOME, workers=workers, more=more,
            spec=toml(self.pod_spec()), memory=memory, cpus=cpus,
        )  # fmt: skip
        self.put("hooke.toml", content)

    def start(self, *words, **more):
        """`hooke WORDS` on the node, as nobody."""
        environment = {"HOME": HOME, "HOOKE_SINKS": "none", "HOOKE_PROGRESS": "lines", **self.variables}
        command = [*NOBODY, sys.executable, "-m", "hooke", *words]
        process = self.host.popen(
            command, cwd=HOME, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )  # fmt: skip
        self.started.append(process)
        return process

    def end_all(self):
        """A run that a failed test left would be taken for that of the next one."""
        going = [each for each in self.started if each.poll() is None]
        self.started = []
        for process in going:
            self.host.end(process)
            process.communicate()
        if going:
            wait(lambda: not self.left(), within_s=150)

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
        code, printed, said = self.hooke("run", "--json", *words, within_s=within_s)
        assert code == 0, said
        return json.loads(printed) | {"said": said}

    def alone(self, *words):
        """The keys of a run on this machine alone, and what it stores in a store of its own."""
        self.host.run(
            [
                "sh",
                "-ec",
                f"rm -rf /var/tmp/alone && mkdir /var/tmp/alone && cp {HOME}/job.py {HOME}/store.secret /var/tmp/alone",
            ]
        )
        self.host.path("/var/tmp/alone/hooke.toml").write_text('[store]\nsecret_file = "store.secret"\n')
        command = [sys.executable, "-m", "hooke", "run", "--on", "local:8", *words]
        process = self.host.popen(command, cwd="/var/tmp/alone", stdin=subprocess.DEVNULL)
        assert process.wait(timeout=120) == 0
        [run] = os.listdir(self.host.path("/var/tmp/alone/.hooke/runs"))
        planned = events(self, run, NodePlanned, home="/var/tmp/alone")
        return [each.key for each in planned], objects(self.host, "/var/tmp/alone/.hooke/store")

    @contextlib.contextmanager
    def held(self):
        """No task `slow` that has begun inside ends there: pods start one after the other, and far apart on busy cores."""
        file = self.host.path(f"{STORE}/held")
        file.touch()
        try:
            yield
        finally:
            file.unlink()

    def there(self, kind):
        return [each["metadata"]["name"] for each in self.admin.list(kind, namespace=self.namespace)[0]]

    def state(self, run):
        """What can be seen of a run and its pods, in text."""
        pods = self.admin.list("v1/Pod", namespace=self.namespace)[0]
        shown = [
            f"{each['metadata']['name']}: {each['status'].get('phase')}"
            f"{', being deleted' if 'deletionTimestamp' in each['metadata'] else ''}"
            for each in pods
        ]
        told = (
            AttemptStarted | AttemptFinished | AttemptFailed | CapacityChanged | WorkerStarted | WorkerStopped
        )
        return "\n".join([*shown, *(f"{event!r:.300}" for event in events(self, run, told)[-60:])])

    def left(self):
        """What of runs is in the namespace."""
        return self.there("v1/Pod") + self.there("batch/v1/Job") + self.there("v1/Secret")


@pytest.fixture(autouse=True)
def _nothing_goes_on(driver):
    yield
    driver.end_all()


def objects(host, store):
    """What is stored: name -> bytes."""
    root = host.path(store) / "objects"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def events(driver, run, kind, *, home=HOME):
    found = read(driver.host.path(f"{home}/.hooke/runs/{run}"))
    return [event for segment in found for event in segment.events if isinstance(event, kind)]


def unended(driver):
    """The names of runs that are in progress."""
    runs = driver.host.path(f"{HOME}/.hooke/runs")
    found = [run.name for run in (runs.iterdir() if runs.is_dir() else ())]
    return [run for run in found if events(driver, run, RunStarted) and not events(driver, run, RunFinished)]


def running(driver, attempts):
    """The name of the run in progress, once so many attempts of it run."""
    over = AttemptFinished | AttemptFailed
    for run in unended(driver):
        if len(events(driver, run, AttemptStarted)) - len(events(driver, run, over)) >= attempts:
            return run
    return ""


def test_a_run_on_pods_equals_a_local_one_grows_and_leaves_nothing(driver):
    result = driver.result("job.py:squares", "--on", "pods", "--", "--n", "16", "--hold", "2")
    assert result["result"] == sum(x * x for x in range(16))
    run = result["run"]
    sizes = [event.workers for event in events(driver, run, CapacityChanged)]
    assert sizes[0] == 0 and max(sizes) >= 2
    wait(lambda: not driver.left(), within_s=60)
    keys, local = driver.alone("job.py:squares", "--", "--n", "16", "--hold", "2")
    assert [each.key for each in events(driver, run, NodePlanned)] == keys
    on_pods = objects(driver.host, STORE)
    results = {name: content for name, content in local.items() if len(content) >= 300_000}
    assert len(results) == 16
    assert {name: on_pods.get(name) for name in results} == results
    again = driver.result("job.py:squares", "--on", "pods", "--", "--n", "16", "--hold", "2")
    assert not events(driver, again["run"], AttemptStarted)


def test_a_pod_that_is_no_longer_needed_is_deleted_while_the_run_goes_on(driver):
    """Not yet all of them: one whose last attempt Dask still counts, now and then for a minute and more, stays."""
    with driver.held():
        process = driver.start("run", "job.py:narrows", "--on", "pods", "--json")
        wait(lambda: len(driver.there("v1/Pod")) > 1)
        [run] = unended(driver)
        wait(
            lambda: len(events(driver, run, AttemptFinished)) >= 20,
            within_s=240,
            told=lambda: driver.state(run),
        )
        began = len({each.host for each in events(driver, run, WorkerStarted)})
        wait(
            lambda: (
                len(driver.there("v1/Pod")) < began
                and any(each.cause == "retired" for each in events(driver, run, WorkerStopped))
            ),
            within_s=240,
            told=lambda: driver.state(run),
        )
    printed, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert json.loads(printed)["result"] == 20
    assert not events(driver, run, AttemptFailed), "nothing was lost on the way"
    wait(lambda: not driver.left(), within_s=60)


def test_work_of_a_pod_that_is_deleted_or_evicted_goes_on_elsewhere(driver, admin):
    driver.configure(workers="2")
    process = driver.start("run", "job.py:slowly", "--on", "pods", "--json", "--", "--n", "2", "--hold", "1")
    with driver.held():
        run = wait(lambda: running(driver, 2))
        first, second = driver.there("v1/Pod")
        admin.delete("v1/Pod", first, namespace=driver.namespace, grace_s=0)
        admin.evict(second, namespace=driver.namespace)
        wait(lambda: events(driver, run, AttemptFailed))
    printed, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert json.loads(printed)["result"] == [1, 2]
    [failed] = events(driver, run, AttemptFailed)
    assert failed.failure.host_lost
    assert f"pod {first}, which ran it, is gone: it was deleted" in failed.failure.message
    causes = [event.cause for event in events(driver, run, WorkerStopped)]
    assert any(f"pod {first} is gone: it was deleted" in cause for cause in causes)
    wait(lambda: not driver.left(), within_s=90)


def test_pods_end_when_their_driver_is_killed_and_the_run_is_resumed(driver):
    driver.configure(workers="2")
    process = driver.start("run", "job.py:slowly", "--on", "pods", "--", "--n", "3", "--hold", "1.5")
    with driver.held():
        run = wait(lambda: running(driver, 2))
        driver.host.end(process)
    process.communicate()
    wait(lambda: not driver.left(), within_s=110)
    code, printed, said = driver.hooke("resume", run, "--json")
    assert code == 0, said
    assert json.loads(printed)["result"] == [1, 2, 3]
    wait(lambda: not driver.left(), within_s=60)


def test_a_run_ends_although_the_api_server_is_frozen_and_says_what_may_be_left(driver, admin):
    """It would wait 35 s for each of its requests, of which there are two for each pod."""
    driver.configure(workers="3")
    process = driver.start("run", "job.py:slowly", "--on", "pods", "--json", "--", "--n", "3", "--hold", "2")
    with driver.held():
        run = wait(lambda: running(driver, 3))
        driver.cluster.freeze("kube-apiserver")
    try:
        printed, said = process.communicate(timeout=150)
    finally:
        driver.cluster.thaw("kube-apiserver")
    assert process.returncode == 0, said
    assert json.loads(printed)["result"] == [1, 2, 3]
    assert re.search(
        r"3 pods and the lease hooke-\w+ may be left in the namespace .* nothing for 20 s\)?\.", said
    ), said
    assert [each.status for each in events(driver, run, RunFinished)] == ["finished"]
    [lease] = driver.there(LEASE)
    admin.delete(LEASE, lease, namespace=driver.namespace)  # Jobs, pods and Secrets go with it
    wait(lambda: not driver.left(), within_s=150)


def test_a_task_that_uses_too_much_memory_a_gang_and_dask_inside_a_task(driver):
    driver.configure(workers="2")
    code, _, said = driver.hooke("run", "job.py:too_much", "--on", "pods")
    assert code != 0
    assert "the memory of its container was used up" in said and "`memory`" in said, said
    assert driver.result("job.py:arrays", "--on", "pods")["result"] == 1.0
    [[first, one], [second, other]] = driver.result("job.py:met", "--on", "pods")["result"]
    assert (first, second) == (21, 10)
    assert one != other, "a rank in each pod"
    wait(lambda: not driver.left(), within_s=60)


def said_while_it_waits(driver, **more):
    """What a run that cannot have pods says in its journal and on its terminal, before Ctrl-C."""
    driver.configure(**more)
    before = set(unended(driver))
    process = driver.start("run", "job.py:squares", "--on", "pods", "--", "--n", "6")
    [run] = wait(lambda: set(unended(driver)) - before)
    [trouble] = wait(lambda: events(driver, run, BackendTrouble))
    driver.host.end(process, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert trouble.message in said
    wait(lambda: not driver.left(), within_s=60)
    return trouble.message


def test_a_run_waits_for_a_node_or_a_quota_and_says_so(driver, admin):
    """Nodes may be added, and other pods end, so it does not end at once."""
    gpus = said_while_it_waits(driver, more="gpus = 1")
    assert "no node has room for it" in gpus and "Insufficient nvidia.com/gpu" in gpus
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    quota |= {"apiVersion": "v1", "kind": "ResourceQuota"}
    admin.create(quota, namespace=driver.namespace)
    wait(lambda: admin.get("v1/ResourceQuota", "none", namespace=driver.namespace)["status"].get("hard"))
    try:
        assert "exceeded quota: none" in said_while_it_waits(driver)
    finally:
        admin.delete("v1/ResourceQuota", "none", namespace=driver.namespace)


def test_what_keeps_a_run_from_its_pods_is_said(driver, admin):
    def said(**more):
        driver.configure(**more)
        code, _, complaint = driver.hooke("run", "job.py:squares", "--on", "pods", "--", "--n", "5")
        assert code != 0
        return complaint

    assert "did you mean priority" in said(more='prioritty = "high"')
    missing = said(image="hooke.test/nothing:1")
    assert "the node does not have its image" in missing and "correct `image`" in missing
    elsewhere = said(store=f"{HOME}/store")
    assert "cannot use this run's store" in elsewhere and "pod_template" in elsewhere, elsewhere
    unreached = said(more='listen = "127.0.0.1"')
    assert (
        "its worker has not reached the driver at tls://127.0.0.1:" in unreached and "`listen`" in unreached
    )
    assert not driver.left()


def test_without_any_one_right_a_run_says_which_before_it_has_a_pod(driver, admin):
    driver.configure()
    pods = {each["metadata"]["uid"] for each in admin.list("v1/Pod", namespace=driver.namespace)[0]}
    for right in RUN_RIGHTS:
        driver.allow([each for each in RUN_RIGHTS if each != right])
        code, _, complaint = driver.hooke("run", "job.py:squares", "--on", "pods", "--", "--n", "7")
        assert code == 2, (right, complaint)
        assert f"the account may not {right} in the namespace {driver.namespace}" in complaint, complaint
        assert "hooke fleet rbac" in complaint
    driver.allow(RUN_RIGHTS)
    assert {each["metadata"]["uid"] for each in admin.list("v1/Pod", namespace=driver.namespace)[0]} <= pods
    assert not driver.left()
    assert driver.result("job.py:squares", "--on", "pods", "--", "--n", "7")["result"] == 91
