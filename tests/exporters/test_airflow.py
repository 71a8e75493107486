"""Exported DAGs run in Airflow 3, which has an environment of its own, and compute what the pipelines do."""

import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
from tests.exporters.airflow_home import airflow, airflow_python, ended, migrated, settings_of
from tests.exporters.airflow_server import airflow_server, postgres
from tests.exporters.exported import Exported
from tests.exporters.shapes import SOURCE, some_of

pytestmark = [pytest.mark.needs("airflow"), pytest.mark.timeout(900), pytest.mark.long]

ROOT = Path(__file__).parents[2]
NAMES = some_of("chain", "fan", "dynamic", "gang", "lossy")
RESULTS = {"chain": "double", "fan": "total", "gang": "total"}
"""The step whose result is that of the pipeline, where it is not called `result`."""

PLAIN = ("dynamic",)
"""One of those that run on Airflow without Hooke, too."""


@pytest.fixture(scope="module")
def python():
    """Python with Airflow."""
    return airflow_python()


@pytest.fixture(scope="module")
def database(python):
    """A database of SQLite with Airflow's tables, to copy."""
    return migrated(python)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Airflow's folder, with one for DAGs and the project."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("dags", "project"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "project")  # where pipelines write that are called as functions
    yield tmp_path
    sys.modules.pop("shapes_job", None)


def test_shapes_compute_what_the_pipelines_do(python, home, database):
    """By `dag.test()`, with a database of SQLite."""
    settings, shapes = settings_of(home), Exported(home / "project")
    shutil.copy(database, home)
    for name in NAMES:
        shapes.export("airflow", name, home / "dags" / f"{name}.py")
    renamed = {"empty": ("dynamic", "reference")} | {f"plain_{name}": (name, "plain") for name in PLAIN}
    for dag, (name, flavour) in renamed.items():
        file = home / "dags" / f"{dag}.py"
        text = shapes.export("airflow", name, file, flavour=flavour)
        file.write_text(text.replace(f'dag_id="{name}"', f'dag_id="{dag}"'))
    cases = {name: {"result": RESULTS.get(name, "result")} for name in NAMES}
    cases |= {f"plain_{name}": {"result": RESULTS.get(name, "result")} for name in PLAIN}
    cases["empty"] = {"result": "result", "conf": {"n": 0}}
    found = ended(python, settings, home, cases)
    assert {name: each["state"] for name, each in found.items()} == dict.fromkeys(cases, "success")
    assert {name: found.pop(f"plain_{name}")["result"] for name in PLAIN} == {
        name: shapes.here(name) for name in PLAIN
    }
    values = {name: shapes.value(each["result"]) for name, each in found.items()}
    assert values.pop("gang") == {"sum": 7, "count": 2}, "called as a function a gang has one rank"
    assert values.pop("empty") == shapes.here("dynamic", n=0)
    assert values == {name: shapes.here(name) for name in values}
    mapped = [index for task, index, _, _ in found["fan"]["tasks"] if task == "double"]
    assert mapped == [0, 1, 2], "each item is a task of its own"


@pytest.mark.needs("cpu")
def test_a_run_inside_a_task_reports_its_state_and_is_not_tried_twice_over(python, home, database):
    """The page's DAG, with Hooke in the environment; in another one, the pipeline fails."""
    shutil.copy(database, home)
    text = (ROOT / "docs" / "how-to" / "inside-orchestrators.md").read_text("utf-8")
    blocks = dict(re.findall(r"^```python[^\n]*\n# (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    fails = '\n    with open("tries", "a") as file:\n        file.write(".")\n    raise ValueError("no such day")\n'
    (home / "dags" / "hooke.toml").touch()
    (home / "dags" / "training.py").write_text(blocks["training.py"])
    (home / "dags" / "failing.py").write_text(
        blocks["training.py"].replace('    print("loading day", day)', fails)
    )
    (home / "dags" / "nightly.py").write_text(blocks["dags/nightly.py"])
    bad = blocks["dags/nightly.py"].replace("def nightly", "def bad").replace("\nnightly()", "\nbad()")
    (home / "dags" / "bad.py").write_text(
        bad.replace("from training", "from failing").replace("train(3)", "train(1)")
    )
    # Hooke and what it needs, behind what Airflow has itself.
    site = home / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import site\nsite.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    settings = settings_of(home) | {"PYTHONPATH": str(site), "HOOKE_SINKS": "none"}
    found = ended(python, settings, home, {"nightly": {"result": "train"}, "bad": {"result": "train"}})
    assert (found["nightly"]["state"], found["nightly"]["result"]) == ("success", 9)
    assert found["bad"]["tasks"] == [["train", -1, "failed", 1]]
    assert (home / "tries").read_text() == "...", "three tries of the task, and not of the run"


TRYING = """
import time
from pathlib import Path
from hooke import pipeline, task

@task(retries=1)
def fails_once(x: int) -> int:
    if not Path("failed").exists():
        Path("failed").touch()
        raise ValueError("the first try")
    return x + 1

@task(timeout="15s")  # it begins within that on a busy machine, too
def sleeps(x: int) -> int:
    Path("began").touch()
    time.sleep(120)
    return x

@pipeline
def again(x: int = 1):
    return fails_once(x)

@pipeline
def late():
    return sleeps(1)
"""


def test_a_real_server_runs_retries_and_times_out(python, home):
    """PostgreSQL, API server, DAG processor, scheduler with LocalExecutor."""
    settings, shapes = settings_of(home), Exported(home / "project")
    shapes.export("airflow", "delays", home / "dags" / "delays.py")
    shapes.file.write_text(TRYING)
    sys.modules.pop("shapes_job")
    for name in ("again", "late"):
        text = shapes.export("airflow", name, home / "dags" / f"{name}.py")
        assert "seconds=10" in text
        (home / "dags" / f"{name}.py").write_text(text.replace("seconds=10", "seconds=1"))
    shapes.file.write_text(SOURCE + TRYING)
    with postgres() as address:
        settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = address
        airflow(python, settings, "-m", "airflow", "db", "migrate")
        with airflow_server(python, settings, home, {"delays", "again", "late"}) as server:
            conf = {"delays": {"scale": 2.0}, "again": {"x": 5}, "late": {}}
            runs = {name: server.start(name, given) for name, given in conf.items()}
            assert {name: server.ended(run) for name, run in runs.items()} == {
                "delays": "success",
                "again": "success",
                "late": "failed",
            }

            def told(dag, task, part):
                return server.call(f"{runs[dag]}/taskInstances/{task}{part}")

            tries = told("again", "fails_once", "")["try_number"]
            results = {
                name: told(name, task, "/xcomEntries/return_value")["value"]
                for name, task in (("delays", "result"), ("again", "fails_once"))
            }
    sys.modules.pop("shapes_job")
    assert shapes.value(results["delays"]) == shapes.here("delays", scale=2.0)
    assert shapes.value(results["again"]) == 6 and tries == 2
    assert (home / "project" / "began").exists()
