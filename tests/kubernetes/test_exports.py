"""Exported pipelines whose tasks are pods run on a real cluster: from Airflow, and the containers of a package of Kubeflow Pipelines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.exporters.airflow_home import airflow_python, ended, migrated, settings_of
from tests.exporters.exported import Exported, environment_of
from tests.exporters.kubeflow_package import ContainerFailed, Package, with_outputs_at
from tests.kubernetes.images import PYTHON
from tests.kubernetes.manifests import wait
from tests.kubernetes.test_runs import HOME, STORE, toml

from hooke.exporters.plan import Secret

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long, pytest.mark.timeout(900)]

CASES = Path(__file__).parents[1] / "exporters" / "kubeflow_cases.py"
TERMINATION_LOG = "/dev/termination-log"
"""Where a container leaves a short text in its pod's status."""
TOKEN = "the token of a service"
SECRETS = (Secret(variable="TOKEN", secret="service", key="token"),)
JOB = """
import hashlib, os, time
from pathlib import Path
from hooke import File, pipeline, task

# What Jinja, Kubernetes and a shell would fill in.
WORD = "{{ ds }} {% raw %} $(HOME) $$ `id` 'a' " + '"b"'

@task
def numbers(n: int) -> list[int]:
    return list(range(n))

@task(retries=1, cpus=0.05, memory="300 MiB", timeout="5m")
def signed(x: int, word: str) -> File:
    if x == 1 and not Path("tried").exists():
        Path("tried").touch()
        raise ValueError("the first try")
    path = Path("rows", f"{x}.txt")  # in a folder that each pod has for itself
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{x} {word} {hashlib.sha256(os.environ['TOKEN'].encode()).hexdigest()}")
    return File(path)

@task
def count(rows: list[File], first: int) -> dict[str, object]:
    return {"rows": [Path(row).read_text() for row in rows], "first": first}

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

@pipeline
def pairs():
    return signed.map(numbers(2), ["a", WORD])
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
    spec["volumes"] += [
        {"name": "project", "persistentVolumeClaim": {"claimName": "project"}},
        {"name": "rows", "emptyDir": {}},
    ]
    container["volumeMounts"] += [
        {"name": "project", "mountPath": "/app"},
        {"name": "rows", "mountPath": "/app/rows"},
    ]
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


@pytest.mark.needs("cpu")
def test_tasks_of_a_dag_are_pods(exported, expected, driver, cluster, admin, airflow_home):
    """By KubernetesPodOperator: one pod fails and is tried again, one is ended at its deadline."""
    for name in ("job", "late", "pairs"):  # the last is only loaded
        file = airflow_home / "dags" / f"{name}.py"
        text = exported.export("airflow", name, file, pods=True, secrets=SECRETS)
        assert "seconds=10)" in text and "startup_timeout_seconds=600" in text
        often = "startup_timeout_seconds=600, startup_check_interval_seconds=1"
        file.write_text(
            text.replace("seconds=10)", "seconds=1)").replace("startup_timeout_seconds=600", often)
        )
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
    late, _ = admin.list("v1/Event", namespace=driver.namespace, fields="reason=DeadlineExceeded")
    assert {each["involvedObject"]["name"].rpartition("-")[0] for each in late} == {"k8s-airflow-pod-sleeps"}
    wait(lambda: not driver.there("v1/Pod"))


@pytest.mark.needs("cpu")
def test_the_containers_of_a_package_are_pods(exported, expected, driver, admin):
    """In the order of its graph, as KFP's launcher starts them: one fails, and is tried again as the package says."""
    file = exported.folder / "job_package.py"
    exported.export("kubeflow", "job", file, pods=True, secrets=SECRETS)
    python = environment_of("kfp")
    done = subprocess.run(
        [python, CASES, "job_package", "", "told.json"],
        cwd=exported.folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((exported.folder / "told.json").read_text())["job_package"]
    pods = Pods(admin, driver.namespace)
    package = Package(told["package"], pods.start, platform=told["platform"][0])
    assert value(exported, driver, package.run()["Output"]) == expected
    signed = ["shapes_job.py:signed"] * 3
    assert package.ran == ["shapes_job.py:numbers", "items", *signed, "items", "shapes_job.py:count"]
    assert pods.failed == 1
    [asked] = {json.dumps(each) for each in pods.asked if each["limits"]}
    assert json.loads(asked) == {
        "requests": {"cpu": "0.05", "memory": "314572800"},
        "limits": {"cpu": "0.05", "memory": "314572800"},
    }


class Pods:
    """Starts containers of a package as pods."""

    def __init__(self, admin, namespace):
        self.admin, self.namespace = admin, namespace
        self.failed, self.asked = 0, []

    def start(self, container, platform, words, outputs):
        """The text of the only output, which the pod leaves in its status."""
        [output] = outputs
        command = with_outputs_at({output: TERMINATION_LOG}, words)
        pod = self._pod(container, platform, command)
        name = self.admin.create(pod)["metadata"]["name"]
        ended = wait(lambda: self._ended(name), within_s=180)
        with self.admin.logs(name, namespace=self.namespace) as lines:
            log = b"\n".join(lines)
        self.admin.delete("v1/Pod", name, namespace=self.namespace, grace_s=0)
        if ended["exitCode"]:
            self.failed += 1
            raise ContainerFailed(f"{command}: {log.decode()}")
        return {output: ended["message"]}

    def _ended(self, name):
        status = self.admin.get("v1/Pod", name, namespace=self.namespace)["status"]
        return status.get("containerStatuses", [{}])[0].get("state", {}).get("terminated")

    def _pod(self, container, platform, command):
        secrets = [
            {
                "name": each["envVar"],
                "valueFrom": {"secretKeyRef": {"name": secret["secretName"], "key": each["secretKey"]}},
            }
            for secret in platform.get("secretAsEnv", ())
            for each in secret["keyToEnv"]
        ]
        places = [(each["mountPath"], {"emptyDir": {}}) for each in platform.get("emptyDirMounts", ())]
        places += [
            (each["mountPath"], {"persistentVolumeClaim": {"claimName": each["constant"]}})
            for each in platform.get("pvcMount", ())
        ]
        asked = container.get("resources", {})
        kinds = {"cpu": "Cpu", "memory": "Memory"}
        resources = {
            f"{what.lower()}s": {
                kind: asked[f"resource{key}{what}"]
                for kind, key in kinds.items()
                if f"resource{key}{what}" in asked
            }
            for what in ("Request", "Limit")
        }
        self.asked.append(resources)
        about = {"generateName": "package-", "namespace": self.namespace}
        spec = {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": f"v{number}", **volume} for number, (_, volume) in enumerate(places)],
            "containers": [
                {
                    "name": "main",
                    "image": container["image"],
                    "imagePullPolicy": "Never",
                    "command": command,
                    "env": [*container.get("env", ()), *secrets],
                    "resources": resources,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": f"v{number}", "mountPath": at} for number, (at, _) in enumerate(places)
                    ],
                }
            ],
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}
