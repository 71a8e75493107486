"""Exported DAGs run in Airflow 3, which has an environment of its own, and compute what the pipelines do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.environments import environment_python
from tests.exporters.exported import Exported
from tests.exporters.shapes import NAMES

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
HOOKE = Path(sys.executable).with_name("hooke")
RESULTS = {"chain": "double", "fan": "total", "gang": "total"}
"""The step whose result is that of the pipeline, where it is not called `result`."""


@pytest.fixture(scope="module")
def python():
    """Python with Airflow."""
    return environment_python(
        *("airflow", "apache-airflow", "apache-airflow-providers-cncf-kubernetes"),
        *("apache-airflow-providers-postgres", "asyncpg", "psycopg2-binary"),
        shared=False,
    )


def airflow(python, home, *command, **more):
    """Run a command of Airflow's environment to its end."""
    known = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "HOOKE", "AIRFLOW"))
    }
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "HOOKE": str(HOOKE),
        "HOOKE_PROJECT": str(home / "project"),
    }
    done = subprocess.run(
        [python, *command],
        env=known | settings | more,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]


@pytest.fixture(scope="module")
def home(python, tmp_path_factory):
    """Airflow's folder, with a database of SQLite."""
    home = tmp_path_factory.mktemp("airflow")
    for name in ("dags", "project"):
        (home / name).mkdir()
    airflow(python, home, "-m", "airflow", "db", "migrate")
    return home


def test_ten_shapes_compute_what_the_pipelines_do(python, home, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    shapes = Exported(home / "project")
    for name in NAMES:
        shapes.export("airflow", name, home / "dags" / f"{name}.py")
    shapes.export("airflow", "dynamic", home / "dags" / "empty.py")
    (home / "dags" / "empty.py").write_text(
        (home / "dags" / "empty.py").read_text().replace('dag_id="dynamic"', 'dag_id="empty"')
    )
    cases = {name: {"result": RESULTS.get(name, "result")} for name in NAMES}
    cases["empty"] = {"result": "result", "conf": {"n": 0}}
    told = home / "told.json"
    airflow(
        python,
        home,
        str(ROOT / "tests" / "exporters" / "airflow_cases.py"),
        str(home / "dags"),
        json.dumps(cases),
        str(told),
    )
    found = json.loads(told.read_text())
    assert found.pop("errors") == {}
    assert {name: each["state"] for name, each in found.items()} == dict.fromkeys(cases, "success")
    values = {name: shapes.value(each["result"]) for name, each in found.items()}
    assert values.pop("gang") == {"sum": 7, "count": 2}, "called as a function a gang has one rank"
    assert values.pop("empty") == shapes.here("dynamic", n=0)
    assert values == {name: shapes.here(name) for name in values}
    mapped = [index for task, index, _ in found["fan"]["tasks"] if task == "double"]
    assert mapped == [0, 1, 2, 3], "each item is a task of its own"
    sys.modules.pop("shapes_job", None)
