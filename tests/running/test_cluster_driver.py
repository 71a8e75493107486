"""What is known of drivers in a cluster before one is asked: the archive of the project, the manifest, and what is said of settings and runs."""

import io
import json
import os
import subprocess
import sys
import tarfile

import pytest

from hooke.base.errors import UsageError
from hooke.kubernetes.driver_job import DriverOptions, DriverPaths, driver_job, owner_here
from hooke.kubernetes.pods import PodOptions
from hooke.project.folder import Project
from hooke.running.cluster_driver_client import MOST_BYTES, _secret, pack_project

TOML = """
[store]
secret_file = "store.secret"

[places.pods]
engine = "kubernetes"
image = "flights:1"
"""
JOB = """
from hooke import pipeline, task

@task
def one():
    return 1

@pipeline
def ones():
    return one()
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "hooke.toml").write_text(TOML)
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "store.secret").write_text("0123456789abcdef")
    return Project.at(tmp_path)


def names(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return sorted(tar.getnames())


def hooke(folder, *words):
    environment = os.environ | {"HOME": str(folder), "KUBECONFIG": str(folder / "none")}
    return subprocess.run(
        [sys.executable, "-m", "hooke", *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_the_archive_depends_on_the_files_alone_and_holds_the_secret_of_the_store(project):
    subprocess.run(["git", "init", "--quiet", str(project.root)], check=True)
    (project.root / ".gitignore").write_text("*.secret\ndata/\n")
    (project.root / "data").mkdir()
    (project.root / "data" / "rows").write_bytes(os.urandom(2 * MOST_BYTES))
    first = pack_project(project)
    os.utime(project.root / "job.py", (1, 1))
    assert pack_project(project) == first
    assert names(first) == [".gitignore", "hooke.toml", "job.py", "store.secret"]
    (project.root / "job.py").write_text(JOB + "\n")
    assert pack_project(project) != first


def test_an_archive_that_is_too_large_names_the_largest_file(project):
    (project.root / "rows.bin").write_bytes(os.urandom(2 * MOST_BYTES))
    with pytest.raises(UsageError, match=r"rows\.bin \(1\.91 MiB\)") as caught:
        pack_project(project)
    assert "git ignore" in caught.value.fix


def test_only_the_pod_that_drives_a_run_has_the_token_of_its_account():
    options = PodOptions.parse({"image": "flights:1"})
    own = DriverOptions.parse({"home": "claim", "account": "robot"})
    paths = DriverPaths(project="/project", code="/run/hooke/project.tar.gz")
    drives = driver_job("hooke-a", ["true"], paths, options=options, own=own, run="a")
    looks = driver_job("hooke-b", ["true"], paths, options=options, own=own)
    pods = [each["spec"]["template"]["spec"] for each in (drives, looks)]
    assert [pod["automountServiceAccountToken"] for pod in pods] == [True, False]
    assert [pod.get("serviceAccountName") for pod in pods] == ["robot", None]
    assert [pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] for pod in pods] == [True, True]
    assert drives["spec"]["backoffLimit"] > looks["spec"]["backoffLimit"] == 0
    assert drives["metadata"]["annotations"] == {"hooke.dev/run": "a"}


def test_all_of_a_driver_has_the_label_of_its_run():
    own, paths = (
        DriverOptions.parse({"home": "claim"}),
        DriverPaths(project="/project", code="/run/hooke/a.gz"),
    )
    job = driver_job("hooke-a", ["true"], paths, options=PodOptions(image="i"), own=own, run="a-1")
    secret = _secret(job, "uid", b"")
    for each in (job, job["spec"]["template"], secret):
        assert each["metadata"]["labels"]["hooke.dev/run"] == "a-1"
        assert each["metadata"]["labels"]["app.kubernetes.io/component"] == "driver"


def test_a_template_changes_the_driver_by_its_name():
    container = {"name": "driver", "resources": {"limits": {"memory": "4Gi"}}}
    template = {"metadata": {"labels": {"team": "ours"}}, "spec": {"containers": [container]}}
    own = DriverOptions.parse({"home": "claim", "driver_template": template})
    paths = DriverPaths(project="/project", code="/run/hooke/project.tar.gz")
    job = driver_job("hooke-a", ["true"], paths, options=PodOptions(image="i"), own=own, run="a")
    pod = job["spec"]["template"]
    assert [each["name"] for each in pod["spec"]["containers"]] == ["driver"]
    assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "4Gi"
    assert pod["metadata"]["labels"]["team"] == "ours"


def test_what_a_driver_makes_is_owned_by_its_pod():
    assert owner_here({}) == []
    [owner] = owner_here({"HOOKE_POD_NAME": "driver-x", "HOOKE_POD_UID": "1-2"})
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "driver-x", "1-2")


@pytest.mark.needs("cpu")
def test_without_a_claim_it_is_said_which_to_apply(project):
    done = hooke(project.root, "run", "job.py", "--on", "pods", "--detach")
    assert done.returncode == 2
    assert 'write home = "CLAIM"' in done.stderr
    assert "kind: PersistentVolumeClaim" in done.stderr
    assert "[places.pods]" in done.stderr
    assert project.runs.names() == []


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("line", "said"), [("home = 1", "home = 1"), ('driver_template = "x"', "driver_template")]
)
def test_options_of_another_type_are_said(project, line, said):
    (project.root / "hooke.toml").write_text(f"{TOML}\n{line}\n")
    done = hooke(project.root, "run", "job.py", "--on", "pods", "--detach")
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_a_run_in_a_cluster_is_listed_and_its_lost_place_named(project):
    note = {"place": "other", "namespace": "ns", "job": "hooke-ones-1", "pipeline": "ones", "started_at": 1e9}
    folder = project.runs.create("ones-20261129-000000-abcd")
    (folder / "cluster.json").write_text(json.dumps(note | {"typed": ["job.py", "--on", "other"]}))
    listed = hooke(project.root, "runs")
    assert "in the cluster" in listed.stdout
    assert "job.py --on other" in listed.stdout
    [facts] = json.loads(hooke(project.root, "runs", "--json").stdout)
    assert (facts["status"], facts["job"]) == ("in the cluster", "hooke-ones-1")
    for verb in ("attach", "stop", "resume", "logs", "show"):
        done = hooke(project.root, verb, "ones")
        assert done.returncode == 2, verb
        assert "[places.other]" in done.stderr, verb
    (folder / "cluster.json").write_text("{")
    done = hooke(project.root, "show", "ones")
    assert done.returncode == 1
    assert "cluster.json" in done.stderr
