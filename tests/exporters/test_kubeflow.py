"""Exported packages of Kubeflow Pipelines, compiled in an environment of their own, compute what the pipelines do.

Lightweight components run by its SubprocessRunner, which cannot run container components; those run command by command.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.exporters.exported import Exported, environment_of
from tests.exporters.kubeflow_package import Package, processes
from tests.exporters.shapes import some_of

from hooke.base.errors import UsageError
from hooke.exporters.plan import Secret
from hooke.exporters.targets import ExportOrder, export
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry

ROOT = Path(__file__).parents[2]
HOOKE = Path(sys.executable).with_name("hooke")
IMAGE = "registry.example.com/shapes:1"
NAMES = some_of("fan", "maps_of_maps", "nested", "gang", "optional", "delays")
LOOPING = [name for name in NAMES if name != "two_lists"]
"""A loop goes over one list: not the one that maps over two, of which one exists only at run time."""
SHARED = '[store]\nurl = "s3://results/shapes"\n'
"""What pods need. Here the containers run on one machine, so when they run the store is a folder."""
RUNNING = ("dynamic", "lossy")
"""Those that run as lightweight components: a loop, and items that fail."""

DEMANDING = """
from hooke import pipeline, task


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task(gpus={gpus}, cpus=2, memory="8GiB", retries=1, timeout="10m")
def fit(x: int, y: int = 0) -> int:
    return x + y


@pipeline
def demanding():
    return fit.map({lists})
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The project, and for each exported file its package and what it returned."""
    folder = tmp_path_factory.mktemp("kubeflow")
    python = environment_of("kfp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.chdir(folder)  # where pipelines write that are called as functions
        shapes = Exported(folder)
        (folder / "hooke.toml").write_text(SHARED)
        for name in LOOPING:
            shapes.export("kubeflow", name, folder / f"{name}_pods.py", image=IMAGE, pods=True)
        for name in RUNNING:
            shapes.export("kubeflow", name, folder / f"{name}_light.py", image=IMAGE)
        demanding(folder, gpus=1, lists="[1, 2]")
        (folder / "hooke.toml").write_text("")
        modules = [
            *(f"{name}_pods" for name in LOOPING),
            *(f"{name}_light" for name in RUNNING),
            "demanding_out",
        ]
        running = ",".join(f"{name}_light" for name in RUNNING)
        done = subprocess.run(
            [python, ROOT / "tests/exporters/kubeflow_cases.py", ",".join(modules), running, "told.json"],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        yield shapes, json.loads((folder / "told.json").read_text())
    sys.modules.pop("shapes_job", None)


def environment(folder):
    hidden = ("PYTEST", "HOOKE", "PYTHON")
    known = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return known | {"HOOKE": str(HOOKE), "HOOKE_PROJECT": str(folder)}


def demanding(folder, **given):
    """Export a pipeline that asks for much."""
    (folder / "hooke.toml").write_text(SHARED)
    (folder / "demanding.py").write_text(DEMANDING.format(**given))
    found, file = load_entry(str(folder / "demanding.py"))
    secrets = (Secret(variable="TOKEN", secret="service", key="token"),)
    out = folder / "demanding_out.py"
    order = ExportOrder(target="kubeflow", pipeline=found, file=file, out=out, image=IMAGE, secrets=secrets)
    try:
        out.write_text(export(order, Project.at(folder)))
    finally:
        sys.modules.pop("demanding")


@pytest.mark.needs("kubeflow")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_lightweight_components_compute_what_the_pipelines_do(told):
    shapes, found = told
    for name in RUNNING:
        assert shapes.value(found[f"{name}_light"]["output"]) == shapes.here(name)


@pytest.mark.needs("kubeflow")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_containers_of_shapes_compute_what_the_pipelines_do(told):
    shapes, found = told
    packages = {
        name: Package(found[f"{name}_pods"]["package"], processes(environment(shapes.folder)))
        for name in LOOPING
    }
    with ThreadPoolExecutor(3) as threads:
        returned = dict(zip(packages, threads.map(Package.run, packages.values()), strict=True))
    values = {name: shapes.value(each["Output"]) for name, each in returned.items()}
    assert packages["fan"].ran == ["shapes_job.py:double"] * 3 + ["shapes_job.py:total"]
    assert values.pop("gang") == {"sum": 7, "count": 2}, "called as a function a gang has one rank"
    assert values == {name: shapes.here(name) for name in values}


@pytest.mark.needs("kubeflow")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_package_says_what_its_tasks_need(told):
    _, found = told
    package, [platform] = found["demanding_out"]["package"], found["demanding_out"]["platform"]
    executors = package["deploymentSpec"]["executors"]
    resources = executors["exec-hooke-exec"]["container"]["resources"]
    assert resources["resourceCpuLimit"] == "2"
    assert resources["resourceMemoryLimit"] == "8589934592"
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert {each["container"]["image"] for each in executors.values()} == {IMAGE}
    task = package["root"]["dag"]["tasks"]["hooke-exec"]
    assert task["retryPolicy"]["maxRetryCount"] == 1
    assert task["inputs"]["parameters"]["timeout"]["runtimeValue"]["constant"] == 600
    assert "enableCache" not in task["cachingOptions"]
    secret = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-hooke-exec"][
        "secretAsEnv"
    ]
    assert [each["secretName"] for each in secret] == ["service"]
    assert "8589934592" not in json.dumps(executors["exec-hooke-exec-3"]), "the list of results needs nothing"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpus": 0.5, "lists": "[1, 2]"}, "fit: gpus=0.5: a pod has whole GPUs"),
        (
            {"gpus": 0, "lists": "range(201)"},
            "fit: 201 items: each item of a known list is a task of the package",
        ),
        ({"gpus": 0, "lists": "numbers(2), y=3"}, ""),
        ({"gpus": 0, "lists": "numbers(2), fit.map(numbers(2))"}, "a loop of KFP goes over one list"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, monkeypatch, given, said):
    monkeypatch.setattr(sys, "path", list(sys.path))
    if not said:
        demanding(tmp_path, **given)
        return
    with pytest.raises(UsageError) as refused:
        demanding(tmp_path, **given)
    assert said in refused.value.why
    assert not (tmp_path / "demanding_out.py").exists()


@pytest.mark.needs("cpu")
def test_a_map_over_two_lists_is_refused_and_an_image_is_asked_for_and_a_schedule_is_not_a_packages(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shapes_job", raising=False)  # another test's
    shapes = Exported(tmp_path)
    with pytest.raises(UsageError) as refused:
        shapes.export("kubeflow", "two_lists", tmp_path / "out.py", image=IMAGE)
    assert (
        "scaled: it is mapped over several lists, of which one exists only at run time" in refused.value.why
    )
    with pytest.raises(UsageError) as refused:
        shapes.export("kubeflow", "chain", tmp_path / "out.py", schedule="@daily", flavour="plain")
    for said in (
        "no image: each task is a pod",
        "--schedule: a package has no schedule",
        "--plain: a component",
    ):
        assert said in refused.value.why
    sys.modules.pop("shapes_job", None)
