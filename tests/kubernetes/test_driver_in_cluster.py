"""Runs whose driver is a pod: begun from a machine that is then gone, followed, stopped and resumed from there, and not lost with their pod.

The machine outside is the cluster's node as nobody, who has the rights of a run; pods take Hooke and its packages from claims.
"""

import contextlib
import json
import os
import re
import sysconfig
import time

import pytest
from tests.kubernetes.manifests import namespace, wait
from tests.kubernetes.test_runs import ROLE, STORE, Driver, toml
from tests.support import REPOSITORY

from hooke.journal.events import AttemptFinished, RunStarted
from hooke.journal.run_folders import RunsFolder

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

SHARED = "/var/tmp/home"
PLACE = """
home = "{home}"
account = "{account}"

[places.pods.driver_template.spec]
volumes = {volumes}

[[places.pods.driver_template.spec.containers]]
name = "driver"
imagePullPolicy = "Never"
env = [{{ name = "PYTHONPATH", value = "{path}" }}, {{ name = "HOOKE_SINKS", value = "none" }}]
volumeMounts = {mounts}
resources = {{ requests = {{ cpu = "0.1" }} }}
"""
JOB = """
import os, time
from hooke import pipeline, task

@task
def square(x):
    print("square of", x)
    return x * x

@task
def slow(x, hold):
    time.sleep(hold)
    return x + 1

@task
def total(parts):
    return sum(parts)

@pipeline
def squares(n: int = 8):
    return total(square.map(range(n)))

@pipeline
def slowly(n: int = 4, hold: float = 6.0):
    done = slow(0, 0.0)
    for _ in range(n):
        done = slow(done, hold)
    return done

@task
def refuses():
    raise ValueError("no such table")

@pipeline
def fails():
    return refuses()
"""


class Laptop(Driver):
    """A machine outside the cluster, from which runs are begun."""

    def __init__(self, cluster, admin, where):
        self.home, self.account = f"{where}-home", "hooke"
        super().__init__(cluster, admin, where)
        self.host.run(["sh", "-c", f"mkdir -p {SHARED} && chown 65534:65534 {SHARED}"])
        self._volume(self.home, SHARED)
        self.put("job.py", JOB)
        rbac = "rbac.authorization.k8s.io"
        about = {"name": "hooke", "namespace": where}
        admin.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about})
        subject = {"kind": "ServiceAccount", "name": "hooke", "namespace": where}
        admin.create(
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": about,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "runner"},
                "subjects": [subject],
            }
        )

    def configure(self, **more):
        names = [each for each in self.volumes if each != self.home]
        volumes = [
            {"name": f"v{at}", "persistentVolumeClaim": {"claimName": name}} for at, name in enumerate(names)
        ]
        mounts = [
            {"name": f"v{at}", "mountPath": self.volumes[name][0], "readOnly": self.volumes[name][1]}
            for at, name in enumerate(names)
        ]
        path = os.pathsep.join([sysconfig.get_path("purelib"), f"{REPOSITORY}/src"])
        home = PLACE.format(
            home=self.home, account=self.account, volumes=toml(volumes), mounts=toml(mounts), path=path
        )
        super().configure(more=home, **more)

    def detach(self, *words):
        code, printed, said = self.hooke("run", *words, "--on", "pods", "--detach")
        assert code == 0, said
        return printed.strip()

    def drivers(self):
        """The pods of drivers, the newest last."""
        pods, _ = self.admin.list(
            "v1/Pod", namespace=self.namespace, labels="app.kubernetes.io/managed-by=hooke"
        )
        found = [pod for pod in pods if pod["spec"]["containers"][0]["name"] == "driver"]
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def events(self, run):
        with contextlib.suppress(FileNotFoundError):
            return RunsFolder(self.host.path(f"{SHARED}/runs")).events(run)
        return []

    def finished(self, run):
        """Keys of attempts' nodes, as often as they finished."""
        return [event.node for event in self.events(run) if isinstance(event, AttemptFinished)]


@pytest.fixture(scope="module")
def laptop(cluster, admin):
    name = admin.create(namespace("drivers-"))["metadata"]["name"]
    wait(lambda: admin.list("v1/ServiceAccount", namespace=name)[0])
    yield Laptop(cluster, admin, name)
    admin.delete("v1/Namespace", name)


def test_a_detached_run_ends_as_a_local_one_without_the_machine_that_began_it(laptop):
    run = laptop.detach("job.py:squares")
    assert re.fullmatch(r"squares-\d{8}-\d{6}-\w{4}", run)
    # Nothing of it runs here: the command has returned, and the pod has the rest.
    code, printed, said = laptop.hooke("attach", run)
    assert code == 0, said
    assert printed == "140\n"
    assert "started on pods" in said
    code, printed, said = laptop.hooke("attach", run, "--json")
    assert (code, json.loads(printed)["result"]) == (0, 140), said
    code, printed, said = laptop.hooke("logs", run)
    assert code == 0, said
    assert sorted(re.findall(r"square of (\d)", printed)) == [str(x) for x in range(8)]
    code, printed, said = laptop.hooke("show", run)
    assert (code, "finished" in printed) == (0, True), said
    code, printed, said = laptop.hooke("runs")
    assert re.search(rf"{run} +squares +in the cluster", printed), said
