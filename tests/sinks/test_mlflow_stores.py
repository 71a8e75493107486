"""The SQLite store and a real MLflow server show the same: every run, point, parameter, tag and file."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from tests.sinks.mlflow_places import seen_in_mlflow

from hooke.project.folder import Project

JOB = """
import hooke
from hooke import pipeline, run, task


@task
def fit(depth):
    hooke.log_params({"depth": depth, "words": "ä" * 7000})
    hooke.set_tag("kind", "tree")
    for epoch in range(50):
        hooke.log_metrics({"loss": 1 / (epoch + depth), "auc": float("nan") if epoch == 3 else epoch / 50})
    hooke.log_text(f"depth {depth}", "notes/summary.txt")
    if depth == 3:
        raise ValueError("too deep")
    return depth


@task
def choose(depths):
    hooke.log_metric("best", min(depths), step=7)
    hooke.log_table({"depth": depths}, "table.json")
    return min(depths)


@pipeline
def sweep(last: int = 2):
    hooke.set_tag("team", "ours")
    return choose(fit.map(range(1, last + 1)))
"""


ITS_OWN = {"mlflow.parentRunId": "an identifier of MLflow's, of another place"}


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_sqlite_and_a_server_show_identical_runs(tmp_path, server, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "job.py").write_text(textwrap.dedent(JOB))
    hooke = [sys.executable, "-m", "hooke"]
    for last, code in (("2", 0), ("3", 1)):
        ran = subprocess.run(
            [*hooke, "run", "job.py", "--last", last], cwd=folder, capture_output=True, check=False
        )
        assert ran.returncode == code, ran.stderr
    project = Project.find(folder)
    file = f"sqlite:///{folder / 'mlflow.db'}"
    for uri in (file, server.uri):
        environment = os.environ | {"HOOKE_SINKS": "mlflow", "MLFLOW_TRACKING_URI": uri}
        synced = subprocess.run(
            [*hooke, "sync"], cwd=folder, env=environment, capture_output=True, check=False
        )
        assert synced.returncode == 0, synced.stderr
        for name in project.runs.names():  # it is told anew, in another place
            shutil.rmtree(project.runs.folder(name) / "sinks")
    in_file, in_server = seen_in_mlflow(file, "sweep"), seen_in_mlflow(server.uri, "sweep")
    assert in_file.keys() == in_server.keys()
    assert sum(run.parent is None for run in in_file.values()) == 2
    for key, run in in_file.items():
        other = in_server[key]
        assert repr(sorted(run.points, key=repr)) == repr(sorted(other.points, key=repr))
        assert (run.name, run.parent, run.status) == (other.name, other.parent, other.status)
        assert (run.params, run.artifacts) == (other.params, other.artifacts)
        assert run.tags | ITS_OWN == other.tags | ITS_OWN
    values = [value for run in in_file.values() for name, value, step, at in run.points if name == "loss"]
    assert len(values) == 3 * 50
    assert sorted(run.status for run in in_file.values()).count("failed") == 2
