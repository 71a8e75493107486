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
import yaml
from tests.kubernetes.manifests import namespace, wait
from tests.kubernetes.test_runs import HOME, STORE, Driver, toml
from tests.support import REPOSITORY

from hooke.journal.events import AttemptFinished, AttemptStarted, RunStarted
from hooke.journal.run_folders import RunsFolder
from hooke.kubernetes.driver_job import end_of_job
from hooke.kubernetes.rights import RUN_RIGHTS, role_manifests

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long, pytest.mark.timeout(900)]

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
def held(marks):
    while not os.path.exists(f"{marks}/over"):
        time.sleep(0.1)
    return 0

@task
def after(x, mark):
    while not os.path.exists(mark):
        time.sleep(0.1)
    return x + 1

@pipeline
def chained(mark: str, hold: float = 4.0):
    done = slow(0, 0.0)
    for _ in range(3):
        done = slow(done, hold)
    return after(done, mark)

@pipeline
def many(marks: str, n: int = 50, hold: float = 2.0):
    return total([slow(x, hold) for x in range(n)] + [held(marks)])

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

    def drivers(self, run):
        """The pods of its driver, the newest last."""
        labels = f"job-name={self.job(run)['metadata']['name']}"
        found, _ = self.admin.list("v1/Pod", namespace=self.namespace, labels=labels)
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def job(self, run):
        """The job of a run's driver."""
        record = json.loads(self.host.path(f"{HOME}/.hooke/runs/{run}/cluster.json").read_text())
        return self.admin.get("batch/v1/Job", record["job"], namespace=self.namespace)

    def left(self):
        """What is in the namespace but for jobs that have ended, which are kept to be read."""
        jobs, _ = self.admin.list("batch/v1/Job", namespace=self.namespace)
        ended = {
            job["metadata"]["uid"]
            for job in jobs
            if any(
                each["type"] in ("Complete", "Failed") for each in job.get("status", {}).get("conditions", ())
            )
        }
        kinds = ("batch/v1/Job", "v1/Pod", "v1/Secret")
        found = [each for kind in kinds for each in self.admin.list(kind, namespace=self.namespace)[0]]
        return [
            each["metadata"]["name"]
            for each in found
            if each["metadata"]["uid"] not in ended
            and not any(owner["uid"] in ended for owner in each["metadata"].get("ownerReferences", ()))
        ]

    def events(self, run):
        with contextlib.suppress(FileNotFoundError):
            return RunsFolder(self.host.path(f"{SHARED}/runs")).events(run)
        return []

    def starts(self, run):
        return [event for event in self.events(run) if isinstance(event, RunStarted)]

    def finished(self, run):
        """The nodes of finished attempts."""
        return [event.node for event in self.events(run) if isinstance(event, AttemptFinished)]

    def started_since(self, run, since):
        """The nodes of attempts that began after that time."""
        found = [event for event in self.events(run) if isinstance(event, AttemptStarted)]
        return [event.node for event in found if event.at > since]


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


def test_a_driver_whose_pod_is_lost_goes_on_in_another(laptop, admin):
    mark = f"{STORE}/chained"
    run = laptop.detach("job.py:chained", "--mark", mark)
    follower = laptop.start("attach", run)
    wait(lambda: len(laptop.finished(run)) >= 2, within_s=180)
    [deleted] = laptop.drivers(run)
    admin.delete("v1/Pod", deleted["metadata"]["name"], namespace=laptop.namespace, grace_s=0)
    wait(lambda: len(laptop.starts(run)) == 2 and len(laptop.finished(run)) >= 3, within_s=180)
    evicted = laptop.drivers(run)[-1]
    admin.evict(evicted["metadata"]["name"], namespace=laptop.namespace)
    wait(lambda: len(laptop.starts(run)) == 3, within_s=180)
    laptop.host.path(mark).touch()
    printed, said = follower.communicate(timeout=240)
    assert follower.returncode == 0, said
    assert printed == "5\n"
    last = laptop.drivers(run)[-1]
    assert len({pod["metadata"]["uid"] for pod in (deleted, evicted, last)}) == 3
    assert [event.resumed for event in laptop.starts(run)] == [False, True, True]
    # What was finished before a fault was not run again: each of the five calls finished once.
    assert len(laptop.finished(run)) == len(set(laptop.finished(run))) == 5
    assert [said.count(f"run {run} {how}") for how in ("started on pods", "resumed on pods")] == [1, 2]


def test_a_storm_around_a_driver_in_the_cluster(laptop, cluster, admin):
    """The API server is away for half a minute, in which its workers go on; then its own pod is deleted."""
    run = laptop.detach("job.py:many", "--marks", STORE)
    wait(lambda: len(laptop.finished(run)) >= 3, within_s=180)
    before, finished = cluster.pid("kube-apiserver"), len(laptop.finished(run))
    cluster.kill("kube-apiserver")
    try:
        time.sleep(30.0)
        wait(lambda: len(laptop.finished(run)) >= finished + 5, within_s=180)
    finally:
        cluster.start("kube-apiserver")
    assert cluster.pid("kube-apiserver") != before
    assert len(laptop.starts(run)) == 1, "its driver has borne it"
    [deleted] = laptop.drivers(run)
    durable = set(laptop.finished(run))
    admin.delete("v1/Pod", deleted["metadata"]["name"], namespace=laptop.namespace, grace_s=0)
    wait(lambda: len(laptop.starts(run)) == 2, within_s=180)
    laptop.host.path(f"{STORE}/over").touch()
    code, printed, said = laptop.hooke("attach", run, within_s=400)
    assert (code, printed) == (0, f"{sum(range(51))}\n"), said
    assert [event.resumed for event in laptop.starts(run)] == [False, True]
    again = [each for each in laptop.started_since(run, laptop.starts(run)[1].at) if each in durable]
    assert not again, "nothing durable runs again"
    assert len(laptop.finished(run)) == len(set(laptop.finished(run))) == 52
    wait(lambda: not laptop.left(), within_s=90)


def test_a_run_is_stopped_and_resumed_from_outside(laptop):
    run = laptop.detach("job.py:slowly", "--hold", "4.5")  # no other test has stored these
    wait(lambda: len(laptop.finished(run)) >= 2, within_s=180)
    code, printed, said = laptop.hooke("stop", run)
    assert (code, printed) == (0, f"run {run}: stopped\n"), said
    wait(lambda: not laptop.left(), within_s=60)
    done = laptop.finished(run)
    code, printed, said = laptop.hooke("stop", run)
    assert code == 2
    assert "is not running" in said
    code, _, said = laptop.hooke("attach", run)
    assert code == 130, said
    assert f"hooke resume {run}" in said
    code, printed, said = laptop.hooke("resume", run)
    assert (code, printed) == (0, "5\n"), said
    assert laptop.finished(run)[: len(done)] == done
    assert sorted(laptop.finished(run)) == sorted(set(laptop.finished(run)))


def test_a_run_that_fails_is_not_repeated(laptop):
    run = laptop.detach("job.py:fails")
    code, _, said = laptop.hooke("attach", run)
    assert code == 1
    assert "no such table" in said
    ends = {each["type"] for each in laptop.job(run)["status"]["conditions"] if each["status"] == "True"}
    assert "Failed" in ends
    assert len(laptop.drivers(run)) == 1


def test_the_deletion_of_its_job_ends_a_run_and_leaves_nothing(laptop, admin):
    run = laptop.detach("job.py:slowly", "--hold", "60")
    wait(lambda: len(laptop.finished(run)) >= 1, within_s=180)
    name = laptop.job(run)["metadata"]["name"]
    admin.delete("batch/v1/Job", name, namespace=laptop.namespace)
    wait(lambda: not laptop.left(), within_s=90)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"home": "nowhere"}, "the claim 'nowhere' is not there"),
        ({"account": "nobody"}, "the service account 'nobody' is not there"),
    ],
)
def test_what_keeps_a_driver_from_starting_is_said(laptop, change, said):
    before = {name: getattr(laptop, name) for name in change}
    for name, value in change.items():
        setattr(laptop, name, value)
    laptop.configure()
    try:
        there = laptop.there("batch/v1/Job")
        code, _, errors = laptop.hooke("run", "job.py:squares", "--on", "pods", "--detach")
        assert code == 2
        assert said in errors
        assert laptop.there("batch/v1/Job") == there
    finally:
        for name, value in before.items():
            setattr(laptop, name, value)
        laptop.configure()


def test_a_driver_whose_account_lacks_a_right_says_which_before_it_has_a_worker(laptop, admin):
    """The machine outside has all of them, so only the driver in the cluster can notice."""
    rbac = "rbac.authorization.k8s.io"
    where = laptop.namespace
    fewer = [each for each in RUN_RIGHTS if str(each) != "delete pods"]
    for each in role_manifests(fewer, account="lesser", namespace=where):
        admin.create(each, namespace=where)
    laptop.account = "lesser"
    laptop.configure()
    try:
        run = laptop.detach("job.py:squares")
        code, _, said = laptop.hooke("attach", run)
        assert code == 2, said
        assert f"the account may not delete pods in the namespace {where}" in said
        assert "hooke fleet rbac" in said
        assert not laptop.left()
        admin.delete(f"{rbac}/v1/RoleBinding", "lesser", namespace=where)
    finally:
        laptop.account = "hooke"
        laptop.configure()


def test_a_pipeline_with_an_error_is_said_before_the_command_returns(laptop):
    code, _, said = laptop.hooke("run", "job.py:squares", "--n", "many", "--on", "pods", "--detach")
    assert code == 2
    assert "many" in said
    laptop.put("broken.py", JOB + "\n@pipeline\ndef broken():\n    raise ValueError('no wheels')\n")
    code, _, said = laptop.hooke("run", "broken.py:broken", "--on", "pods", "--detach")
    assert code == 2
    assert "no wheels" in said


@pytest.mark.needs("cpu")
def test_a_job_of_a_cron_job_is_a_run(laptop, admin):
    """What `hooke schedule` prints, with the project on a claim where an image would have it."""
    words = ("--render", "k8s", "--place", "pods", "--at", "0 0 29 2 *", "--time-zone", "Europe/Berlin")
    code, printed, said = laptop.hooke("schedule", "job.py:squares", *words)
    assert code == 0, said
    laptop._volume("project", HOME)
    cron_job = yaml.safe_load(printed)
    pod = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["volumes"].append({"name": "project", "persistentVolumeClaim": {"claimName": "project"}})
    pod["containers"][0]["volumeMounts"].append({"name": "project", "mountPath": "/app"})
    made = admin.create(cron_job)
    assert made["spec"]["timeZone"] == "Europe/Berlin"
    # As `kubectl create job --from=cronjob/squares` does it.
    about = {"name": "squares-now", "namespace": laptop.namespace}
    admin.create({"apiVersion": "batch/v1", "kind": "Job", **made["spec"]["jobTemplate"], "metadata": about})
    job = wait(
        lambda: end_of_job(admin.get("batch/v1/Job", "squares-now", namespace=laptop.namespace)), within_s=180
    )
    assert job["type"] == "Complete"
    runs = RunsFolder(laptop.host.path(f"{SHARED}/runs"))
    assert any(
        isinstance(event, RunStarted) and event.place == "pods"
        for run in runs.names()
        for event in runs.events(run)
    )
    admin.delete("batch/v1/CronJob", "squares", namespace=laptop.namespace)
