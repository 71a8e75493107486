"""Exported pipelines whose tasks are pods run on a real cluster: from Airflow, and the containers of a package of Kubeflow Pipelines."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.environments import environment_python
from tests.exporters.airflow_home import airflow_python, ended, migrated, settings_of
from tests.exporters.exported import Exported
from tests.exporters.kubeflow_package import ContainerFailed, Package, with_outputs_at
from tests.kubernetes.images import PYTHON
from tests.kubernetes.manifests import CONTAINER, NOBODY, wait
from tests.kubernetes.test_runs import HOME, STORE, toml

from hooke.exporters.plan import Secret

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

CASES = Path(__file__).parents[1] / "exporters" / "kubeflow_cases.py"
TERMINATION_LOG = "/dev/termination-log"
"""Where a container leaves a short text in its pod's status."""
TOKEN = "the token of a service"
SECRETS = (Secret(variable="TOKEN", secret="service", key="token"),)
JOB = """
import hashlib, os, time
from pathlib import Path
from hooke import pipeline, task

# What Jinja, Kubernetes and a shell would fill in.
WORD = "{{ ds }} {% raw %} $(HOME) $$ `id` 'a' " + '"b"'

@task
def numbers(n: int) -> list[int]:
    return list(range(n))

@task(retries=1, cpus=0.05, memory="300 MiB", timeout="5m")
def signed(x: int, word: str) -> tuple[int, str, str]:
    if x == 1 and not Path("tried").exists():
        Path("tried").touch()
        raise ValueError("the first try")
    return x, word, hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest()

@task
def count(rows: list[tuple[int, str, str]], first: int) -> dict[str, object]:
    return {"rows": rows, "sum": first + sum(row[0] for row in rows)}

@task(timeout="2s")
def sleeps(x: int) -> int:
    time.sleep(120)
    return x

@pipeline
def job(n: int = 2):
    listed = numbers(n)
    return count(signed.map(listed, word=WORD), first=listed[1])

@pipeline
def late():
    return sleeps(1)
"""
PLACE = """
[store]
url = "{store}"
secret_file = "store.secret"

[places.pods]
engine = "kubernetes"
image = "{image}"
namespace = "{namespace}"

[places.pods.pod_template]
spec = {spec}
"""


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory):
    """Airflow's folder, with one for DAGs and one with the project."""
    home = tmp_path_factory.mktemp("airflow")
    for name in ("dags", "project"):
        (home / name).mkdir()
    return home


@pytest.fixture(scope="module")
def exported(driver, admin, airflow_home):
    """The project, whose store is on a claim and which pods have in /app, as an image would."""
    driver._volume("project", HOME)
    data = {"stringData": {"token": TOKEN}, "metadata": {"name": "service", "namespace": driver.namespace}}
    admin.create({"apiVersion": "v1", "kind": "Secret", **data})
    spec = driver.pod_spec()
    [container] = spec["containers"]
    spec["volumes"].append({"name": "project", "persistentVolumeClaim": {"claimName": "project"}})
    container["volumeMounts"].append({"name": "project", "mountPath": "/app"})
    container["env"].append({"name": "PATH", "value": f"{sys.prefix}/bin:/usr/bin:/bin"})
    settings = PLACE.format(store=STORE, image=PYTHON, namespace=driver.namespace, spec=toml(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        shapes = Exported(airflow_home / "project")
        shapes.file.write_text(JOB)
        (shapes.folder / "hooke.toml").write_text(settings)
        for name in ("shapes_job.py", "hooke.toml"):
            driver.put(name, (shapes.folder / name).read_text())
        yield shapes
    sys.modules.pop("shapes_job", None)


@pytest.fixture
def expected(exported, driver, monkeypatch, tmp_path):
    """What the pipeline returns here; then the project's store is that of the cluster's node, and the first try is to come."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKEN", TOKEN)
    Path("tried").touch()
    driver.host.run(["sh", "-ec", f"rm -f {HOME}/tried; find {STORE} -mindepth 1 -delete"])
    return exported.here("job")


def value(exported, driver, reference):
    """What a reference stands for, by the store as it is seen from here."""
    settings = exported.folder / "hooke.toml"
    kept = settings.read_text()
    (exported.folder / "store.secret").write_text("a secret of sixteen bytes or more")
    settings.write_text(f'[store]\nurl = "{driver.host.path(STORE)}"\nsecret_file = "store.secret"\n')
    try:
        return exported.value(reference)
    finally:
        settings.write_text(kept)


def test_tasks_of_a_dag_are_pods(exported, expected, driver, cluster, airflow_home):
    """By KubernetesPodOperator: one pod fails and is tried again, one is ended at its deadline."""
    for name in ("job", "late"):
        file = airflow_home / "dags" / f"{name}.py"
        text = exported.export("airflow", name, file, pods=True, secrets=SECRETS)
        assert "seconds=10" in text
        file.write_text(text.replace("seconds=10", "seconds=1"))
    python = airflow_python()
    (airflow_home / "airflow.db").write_bytes(migrated(python).read_bytes())
    connection = {"kube_config_path": str(cluster.kubeconfig), "xcom_sidecar_container_image": PYTHON}
    settings = settings_of(airflow_home) | {
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps({"conn_type": "kubernetes", "extra": connection})
    }
    found = ended(python, settings, airflow_home, {"job": {"result": "count"}, "late": {"result": "sleeps"}})
    assert (found["job"]["state"], found["late"]["state"]) == ("success", "failed")
    assert value(exported, driver, found["job"]["result"]) == expected
    tries = {(task, index): number for task, index, _, number in found["job"]["tasks"]}
    assert tries == {
        **dict.fromkeys([("numbers", -1), ("numbers_items", -1), ("signed", 0), ("count", -1)], 1),
        ("signed", 1): 2,
    }
    assert driver.there("v1/Pod") == []
