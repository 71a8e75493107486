"""MLflow's own calls in tasks: they log into the run of the task, in the project's server, whatever ran before them."""

import os
import subprocess
import sys
import textwrap

import pytest
from tests.sinks.mlflow_places import seen_in_mlflow

from hooke.project.folder import Project
from hooke.running.run import Run

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]

JOB = """
import hooke
from hooke import pipeline, task


@task
def fit(x: int) -> int:
    import mlflow

    if x % 2:
        hooke.log_metric("ours", x)
    mlflow.log_param("x", x)
    mlflow.log_metric("loss", x / 2, step=x)
    if x == 3:
        with mlflow.start_run(nested=True, run_name="inner"):
            mlflow.log_metric("inner", 1)
    return x


@task
def explicit(x: int) -> int:
    import mlflow

    with mlflow.start_run(run_name="mine"):
        mlflow.log_metric("first", x)
    with mlflow.start_run(run_name="second"):
        mlflow.log_metric("second", x)
    mlflow.log_metric("again", x)
    if x == 1:
        raise ValueError("left open")
    return x


@task
def learn(n: int) -> float:
    import mlflow
    from sklearn.linear_model import LinearRegression

    mlflow.sklearn.autolog(log_models=False, log_datasets=False)
    model = LinearRegression().fit([[float(i)] for i in range(n)], list(range(n)))
    mlflow.log_metric("own", n)
    return float(model.coef_[0])


@pipeline
def sweep() -> list[int]:
    return fit.map(range(4))


@pipeline
def blocks(n: int = 1) -> list[int]:
    return explicit.map(range(n))


@pipeline
def learning() -> float:
    return learn(5)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in [each for each in os.environ if each.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOOKE_SINKS", "mlflow")
    folder = tmp_path / "it's"
    folder.mkdir()
    (folder / "job.py").write_text(textwrap.dedent(JOB))
    return folder


@pytest.fixture
def tabled(project, lay_tables):
    lay_tables(project)
    return project


def hooke(folder, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "hooke", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def place(folder):
    return f"sqlite:///{folder / 'mlflow.db'}"


def numbers(run):
    return {name: value for name, value, _, _ in run.points}


@pytest.mark.long
@pytest.mark.parametrize("how", [["--workers", "1"], ["--workers", "2"], ["--on", "serial"]], ids="-".join)
def test_each_item_has_its_own_run_which_is_ended_and_nested(tabled, how):
    hooke(tabled, "run", "job.py:sweep", *how)
    hooke(tabled, "sync")
    seen = seen_in_mlflow(place(tabled), "sweep")
    (top,) = [key for key in seen if "/" not in key]
    items = {key: run for key, run in seen.items() if "/" in key and " of " not in key}
    assert len(items) == 4, "one run an item, also where both Hooke's and MLflow's calls log"
    for run in items.values():
        x = run.params["x"]
        assert run.params == {"x": x}
        assert run.name == f"fit[{x}]"
        assert run.parent == top
        assert run.status == "finished"
        assert numbers(run) == {"loss": int(x) / 2} | ({"ours": float(x)} if int(x) % 2 else {})
        assert run.tags["hooke.task"] == "fit"
    (inner,) = [key for key in seen if key.startswith("inner of ")]
    assert seen[inner].parent == next(key for key, run in items.items() if run.params["x"] == "3")
    assert {run.status for run in seen.values()} == {"finished"}
    assert not list(tabled.glob("mlruns")), "no other place"


@pytest.mark.long
def test_runs_that_a_task_opens_itself(tabled):
    hooke(tabled, "run", "job.py:blocks", "--n", "2", "--workers", "1", code=1)
    hooke(tabled, "sync")
    seen = seen_in_mlflow(place(tabled), "blocks")
    first = [run for key, run in seen.items() if key.endswith("/0") and run.name == "mine"]
    assert [numbers(run) for run in first] == [{"first": 0.0, "again": 0.0}]
    second = seen["second of " + next(key for key, run in seen.items() if run is first[0])]
    assert numbers(second) == {"second": 0.0}
    failed = [run for run in seen.values() if numbers(run).get("first") == 1.0]
    assert [run.status for run in failed] == ["failed"]
    assert "running" not in {run.status for run in seen.values()}, "a run that a task left open is ended"


@pytest.mark.long
def test_autologging_and_what_is_logged_after_it_are_one_run(tabled):
    hooke(tabled, "run", "job.py:learning", "--workers", "1")
    hooke(tabled, "sync")
    seen = seen_in_mlflow(place(tabled), "learning")
    (run,) = [run for key, run in seen.items() if "/" in key]
    assert {"training_mean_squared_error", "own"} <= numbers(run).keys()
    assert run.params["fit_intercept"] == "True"
    assert run.status == "finished"


@pytest.mark.long
def test_the_server_is_the_configured_one(project, server, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (project / "hooke.toml").write_text(
        f'[tracking]\nexperiment = "ours"\n[tracking.mlflow]\nuri = "{server}"\n'
    )
    hooke(project, "run", "job.py:sweep", "--workers", "2")
    hooke(project, "sync")
    seen = seen_in_mlflow(server, "ours")
    assert len([key for key in seen if "/" in key and " of " not in key]) == 4
    assert not (project / "mlflow.db").exists()


@pytest.mark.long
def test_without_mlflow_among_the_trackers_its_calls_are_its_own(project, monkeypatch):
    monkeypatch.setenv("HOOKE_SINKS", "none")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'own.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "own")
    hooke(project, "run", "job.py:sweep", "--workers", "1")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'own.db'}")
    runs = client.search_runs([client.get_experiment_by_name("own").experiment_id])
    assert len([run for run in runs if "x" in run.data.params]) == 4, "and still one a task, ended"
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not Run(Project.find(project), Project.find(project).runs.find()).logged().tags


OTHERS = """
from hooke import pipeline, task


@task
def with_wandb(x: int) -> str:
    import wandb

    run = wandb.init(mode="offline", project="p", dir=".")
    run.log({"x": x})
    return run.id


@task
def with_comet(x: int) -> bool:
    import comet_ml

    left = comet_ml.get_running_experiment()
    comet_ml.OfflineExperiment(offline_directory=".", api_key="none", log_code=False, log_git_metadata=False)
    return left is not None and left.alive


@pipeline
def wandbs() -> list[str]:
    return with_wandb.map(range(3))


@pipeline
def comets() -> list[bool]:
    return with_comet.map(range(3))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("library", "name", "right"),
    [
        ("wandb", "wandbs", lambda ids: len(set(ids)) == 3),
        ("comet_ml", "comets", lambda left: left == [False] * 3),
    ],
)
def test_runs_of_other_trackers_that_a_task_leaves_open_are_ended(project, monkeypatch, library, name, right):
    pytest.importorskip(library)
    monkeypatch.setenv("HOOKE_SINKS", "none")
    (project / "others.py").write_text(textwrap.dedent(OTHERS))
    hooke(project, "run", f"others.py:{name}", "--workers", "1")
    project = Project.find(project)
    assert right(Run(project, project.runs.find()).result())
