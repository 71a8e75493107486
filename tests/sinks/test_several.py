"""Several trackers at once, and those that other distributions bring."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tests.house import snippets

import hooke
from hooke.base.errors import ConfigError, UsageError
from hooke.project.folder import Project
from hooke.sync.background import SINKS, open_sinks
from hooke.sync.shipper import Shipper, standing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "write-a-sink.md"


@pytest.fixture
def ours(tmp_path, monkeypatch) -> Path:
    """A project, and on the path a distribution whose sink is the one on the page."""
    site = tmp_path / "site"
    about = site / "ours-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[hooke.sinks]\nfolder = ours:FolderSink\nbroken = ours:Gone\n")
    sink, *_ = [each for each in snippets.blocks_of(PAGE.read_text("utf-8")) if each.language == "python"]
    (site / "ours.py").write_text(sink.body, "utf-8")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("ours", None)


def settings(folder: Path, text: str) -> Project:
    (folder / "hooke.toml").write_text(textwrap.dedent(text))
    return Project.find(folder)


def test_a_sink_of_another_distribution_is_used_by_its_name(ours, monkeypatch):
    project = settings(ours, '[tracking]\nsinks = ["folder"]\n[tracking.folder]\nfolder = "kept"\n')
    with hooke.start_run("tried") as run:
        hooke.log_metric("loss", 0.5)
    monkeypatch.delenv("HOOKE_SINKS")
    with Shipper(runs=project.runs, sinks=open_sinks(project)) as shipper:
        assert shipper.ship(run.id)
    (file,) = (ours / "kept").glob("*/run.json")
    assert '"loss", 0.5, 0' in file.read_text()
    assert standing(project.runs, run.id, "folder").told
    assert "folder" in SINKS.names()


def test_a_sink_that_is_not_there_or_takes_no_such_key_is_said(ours, monkeypatch):
    monkeypatch.delenv("HOOKE_SINKS")
    with pytest.raises(UsageError, match="there is no sink named 'comett'") as refused:
        open_sinks(settings(ours, '[tracking]\nsinks = ["comett"]\n'))
    assert refused.value.fix == "valid names: broken, comet, folder, mlflow"
    with pytest.raises(UsageError, match="the sink 'broken' of ours cannot be imported"):
        open_sinks(settings(ours, '[tracking]\nsinks = ["broken"]\n'))
    with pytest.raises(ConfigError, match=r"unknown key tracking.comet.archive\b") as wrong:
        open_sinks(settings(ours, '[tracking]\nsinks = ["comet"]\n[tracking.comet]\narchive = "a"\n'))
    assert wrong.value.fix == "did you mean tracking.comet.archives? valid: archives, workspace, online"
    with pytest.raises(ConfigError, match="archives = 'hooke.toml' is not a folder"):
        open_sinks(
            settings(ours, '[tracking]\nsinks = ["comet"]\n[tracking.comet]\narchives = "hooke.toml"\n')
        )


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_both_trackers_get_everything(tmp_path, monkeypatch):
    from mlflow import MlflowClient
    from tests.sinks.test_comet import seen_in_archives

    monkeypatch.delenv("HOOKE_SINKS")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = settings(tmp_path, '[tracking]\nsinks = ["mlflow", "comet"]\n')
    (tmp_path / "train.py").write_text(
        "import hooke\n"
        "with hooke.start_run('both', params={'rate': 0.1}):\n"
        "    for at in range(2500):\n"
        "        hooke.log_metric('loss', 1 / (at + 1))\n"
        "    hooke.log_text('as it was', 'note.txt')\n"
    )
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=180)
    subprocess.run([sys.executable, "-m", "hooke", "sync", "--patience", "200"], cwd=tmp_path, check=True)
    run = project.runs.find()
    deadline = time.monotonic() + 120
    while not all(standing(project.runs, run, name).told for name in ("mlflow", "comet")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (known,) = client.search_runs([client.get_experiment_by_name("both").experiment_id])
    history = client.get_metric_history(known.info.run_id, "loss")
    ours = seen_in_archives(tmp_path / "comet", "both")[run]
    logged = [("loss", 1 / (at + 1), at) for at in range(2500)]
    assert sorted(("loss", point.value, point.step) for point in history) == sorted(logged)
    losses = [point for point in ours.points if point[0] == "loss"]
    assert [(name, value, step) for name, value, step, _ in losses] == logged
    assert {(point.step, point.timestamp) for point in history} == {(step, at) for _, _, step, at in losses}
    assert known.data.params["rate"] == ours.params["rate"] == "0.1"
    assert (
        [each.path for each in client.list_artifacts(known.info.run_id)]
        == list(ours.artifacts)
        == ["note.txt"]
    )
