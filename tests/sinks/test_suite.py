"""Every sink passes the suite: the one in memory, MLflow's SQLite store and a real MLflow server."""

import math
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.sinks.mlflow_places import seen_in_mlflow

from hooke.base.errors import HookeError
from hooke.sinks.sink import LoggedBatch, LoggedPoints, ShippedRun, SinkAway
from hooke.testing import MemorySink, check_sink
from hooke.tracking.mlflow_runs import tracking_uri

HEAVY = pytest.mark.heavy


def test_memory():
    sink = MemorySink()
    experiments: dict[str, set[str]] = {}
    write = sink.write

    def noted(batch: LoggedBatch):
        experiments.setdefault(batch.run.experiment, set()).add(batch.run.key)
        missing = {path: file for path, file in batch.artifacts.items() if not file.exists()}
        kept = {path: file for path, file in batch.artifacts.items() if path not in missing}
        receipt = write(
            LoggedBatch(
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


@HEAVY
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_infinite_values_are_said_to_be_changed(tmp_path, monkeypatch):
    from hooke.sinks.mlflow import MlflowSink

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    started = ShippedRun(key="r", parent=None, name="r", experiment="e", started_at=1.0)
    points = LoggedPoints(["x", "x", "y"], [math.inf, math.inf, -math.inf], [0, 1, 0], [1.0, 2.0, 3.0])
    sink = MlflowSink(tmp_path)
    receipt = sink.write(LoggedBatch(run=started, points=points))
    sink.close()
    assert receipt.notes == [
        "metric 'x' has infinite values: MLflow keeps 1.8e+308",
        "metric 'y' has infinite values: MLflow keeps -1.8e+308",
    ]


@HEAVY
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_real_mlflow_server_also_one_that_goes_away(server, tmp_path):
    from hooke.sinks.mlflow import MlflowSink

    check_sink(lambda: MlflowSink(tmp_path), lambda name: seen_in_mlflow(server.uri, name))
    batch = LoggedBatch(
        run=ShippedRun(key="away", parent=None, name="away", experiment="outage", started_at=1.0),
        points=LoggedPoints(["x"], [1.0], [0], [1.0]),
    )
    sink = MlflowSink(tmp_path)
    sink.write(batch)
    server.stop()
    began = time.monotonic()
    with pytest.raises(SinkAway, match="MLflow is not available"):
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
    sink.write(LoggedBatch(run=run, points=LoggedPoints(["x"], [1.0], [0], [1.0])))
    client = MlflowClient(tracking_uri=uri)
    (known,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    client.delete_run(known.info.run_id)
    more = LoggedBatch(run=run, points=LoggedPoints(["x", "x"], [2.0, 3.0], [1, 2], [2.0, 3.0]))
    with pytest.raises(HookeError, match="the run gone has been deleted in MLflow") as refused:
        sink.write(more)
    assert not isinstance(refused.value, SinkAway)
    client.restore_run(known.info.run_id)
    sink.write(more)
    assert len(seen_in_mlflow(uri, "e")["k"].points) == 3


class Refusing(BaseHTTPRequestHandler):
    """What MLflow's own basic authentication answers to a wrong password, and a proxy to one who may not."""

    status = 401

    def do_POST(self):
        body = b"You are not authenticated."
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.do_POST()

    def log_message(self, *words):
        pass


@HEAVY
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_waited_for(tmp_path, monkeypatch, status):
    from hooke.sinks.mlflow import MlflowSink

    monkeypatch.setattr(Refusing, "status", status)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    run = ShippedRun(key="k", parent=None, name="n", experiment="e", started_at=1.0)
    try:
        with pytest.raises(SinkAway, match=f"(?s)is not available.*{status}"):
            MlflowSink(tmp_path).write(LoggedBatch(run=run, points=LoggedPoints(["x"], [1.0], [0], [1.0])))
    finally:
        server.shutdown()
        server.server_close()


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
    assert tracking_uri(Path("/project"), uri) == meant
