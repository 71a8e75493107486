"""Every sink passes the suite: the one in memory, MLflow's SQLite store and a real MLflow server."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from hooke.base.errors import HookeError
from hooke.journal.sink import Batch, Points, ShippedRun, SinkAway
from hooke.testing import MemorySink, check_sink
from hooke.testing.sink_suite import SeenRun

HEAVY = pytest.mark.heavy


def test_memory():
    sink = MemorySink()
    experiments: dict[str, set[str]] = {}
    write = sink.write

    def noted(batch: Batch):
        experiments.setdefault(batch.run.experiment, set()).add(batch.run.key)
        missing = {path: file for path, file in batch.artifacts.items() if not file.exists()}
        kept = {path: file for path, file in batch.artifacts.items() if path not in missing}
        receipt = write(
            Batch(
                run=batch.run,
                points=batch.points,
                params=batch.params,
                tags=batch.run.tags | batch.tags,
                artifacts=kept,
            )
        )
        receipt.notes += list(missing)
        return receipt

    sink.write = noted
    check_sink(lambda: sink, lambda name: {key: sink.runs[key] for key in experiments[name]})


def seen_in_mlflow(uri: str, experiment: str) -> dict[str, SeenRun]:
    """Through MLflow's own client."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    client = MlflowClient(tracking_uri=uri)
    (known,) = [each for each in client.search_experiments() if each.name == experiment]
    runs = client.search_runs([known.experiment_id])
    keys = {run.info.run_id: run.data.tags["hooke.run_id"] for run in runs}
    found = {}
    for run in runs:
        points = [
            (name, point.value, point.step, point.timestamp)
            for name in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, name)
        ]
        artifacts = {}
        stack = [""]
        while stack:
            for each in client.list_artifacts(run.info.run_id, stack.pop()):
                if each.is_dir:
                    stack.append(each.path)
                else:
                    file = download_artifacts(
                        run_id=run.info.run_id, artifact_path=each.path, tracking_uri=uri
                    )
                    artifacts[each.path] = Path(file).read_bytes()
        parent = run.data.tags.get("mlflow.parentRunId")
        status = {"RUNNING": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}
        found[keys[run.info.run_id]] = SeenRun(
            name=run.info.run_name,
            parent=keys[parent] if parent else None,
            status=status[run.info.status],
            points=points,
            params=dict(run.data.params),
            tags=dict(run.data.tags),
            artifacts=artifacts,
        )
    return found


@HEAVY
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_sqlite(tmp_path, monkeypatch):
    from hooke.sinks.mlflow import MlflowSink

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = os.getcwd()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    check_sink(lambda: MlflowSink(tmp_path), lambda name: seen_in_mlflow(uri, name))
    assert os.getcwd() == before
    assert (tmp_path / "mlruns").is_dir()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A real `mlflow server` in its light form; stopped and started again by the test."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    running = Server(port, folder)
    running.start()
    yield running
    running.stop()


class Server:
    def __init__(self, port: int, folder: Path) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._port, self._folder = port, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | light
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@HEAVY
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_real_mlflow_server_also_one_that_goes_away(server, tmp_path):
    from hooke.sinks.mlflow import MlflowSink

    check_sink(lambda: MlflowSink(tmp_path), lambda name: seen_in_mlflow(server.uri, name))
    batch = Batch(
        run=ShippedRun(key="away", parent=None, name="away", experiment="outage", started_at=1.0),
        points=Points(["x"], [1.0], [0], [1.0]),
    )
    sink = MlflowSink(tmp_path)
    sink.write(batch)
    server.stop()
    began = time.monotonic()
    with pytest.raises(SinkAway, match="MLflow does not take it now"):
        sink.write(batch)
    assert time.monotonic() - began < 60, "the shipper is not held up by MLflow's own retries"
    server.start()
    sink.write(batch)
    assert len(seen_in_mlflow(server.uri, "outage")["away"].points) == 1


@HEAVY
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_was_deleted_in_mlflow_loses_no_points(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    from hooke.sinks.mlflow import MlflowSink

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = ShippedRun(key="k", parent=None, name="gone", experiment="e", started_at=1.0)
    sink = MlflowSink(tmp_path)
    sink.write(Batch(run=run, points=Points(["x"], [1.0], [0], [1.0])))
    client = MlflowClient(tracking_uri=uri)
    (known,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    client.delete_run(known.info.run_id)
    more = Batch(run=run, points=Points(["x", "x"], [2.0, 3.0], [1, 2], [2.0, 3.0]))
    with pytest.raises(HookeError, match="the run gone has been deleted in MLflow") as refused:
        sink.write(more)
    assert not isinstance(refused.value, SinkAway)
    client.restore_run(known.info.run_id)
    sink.write(more)
    assert len(seen_in_mlflow(uri, "e")["k"].points) == 3


@HEAVY
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("", "sqlite:////project/mlflow.db"),
        ("sqlite:///runs.db", "sqlite:////project/runs.db"),
        ("sqlite:////data/runs.db", "sqlite:////data/runs.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_where_mlflow_is(uri, meant):
    from hooke.sinks.mlflow import tracking_uri

    assert tracking_uri(Path("/project"), uri) == meant
