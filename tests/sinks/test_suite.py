"""Every sink passes the suite: the one in memory, MLflow's SQLite store and a real MLflow server."""

import math
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.sinks.mlflow_places import seen_in_mlflow

import hooke
from hooke.base.errors import HookeError
from hooke.journal.events import RunStarted
from hooke.journal.run_folders import RunsFolder
from hooke.journal.writer import Journal
from hooke.sinks.sink import LoggedBatch, LoggedPoints, Media, ShippedRun, SinkAway
from hooke.sync import outbox
from hooke.sync.shipper import Shipper
from hooke.testing import MemorySink, check_sink
from hooke.tracking.log import image_bytes
from hooke.tracking.mlflow_runs import tracking_uri
from hooke.tracking.tracker import Tracker, logging_into

HEAVY = pytest.mark.needs("processes")


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
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_sqlite(tmp_path, monkeypatch):
    from hooke.sinks.mlflow import MlflowSink

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = os.getcwd()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    check_sink(lambda: MlflowSink(tmp_path), lambda name: seen_in_mlflow(uri, name))
    assert os.getcwd() == before
    assert (tmp_path / "mlruns").is_dir()


class DropsMedia(MemorySink):
    """Takes images and histograms for something that it need not keep."""

    def write(self, batch):
        kept = {
            path: file for path, file in batch.artifacts.items() if path not in batch.media and file.exists()
        }
        receipt = super().write(
            msgspec.structs.replace(batch, artifacts=kept, tags=batch.run.tags | batch.tags)
        )
        receipt.notes += map(str, batch.artifacts)
        return receipt


class DoublesMedia(DropsMedia):
    """Makes another image of one that comes again, as with a random id."""

    def write(self, batch):
        receipt = super().write(batch)
        self.runs[batch.run.key].media += [(each.kind, each.name, each.step) for each in batch.media.values()]
        return receipt


class ForgetsSteps(DropsMedia):
    """Keeps one image of each name."""

    def write(self, batch):
        receipt = super().write(batch)
        self.runs[batch.run.key].media = list({(each.kind, each.name, 0) for each in batch.media.values()})
        return receipt


@pytest.mark.parametrize(
    ("weak", "broken"),
    [
        (DropsMedia, "every image and histogram is there, by name and step"),
        (DoublesMedia, "an image that comes again is there once"),
        (ForgetsSteps, "every image and histogram is there, by name and step"),
    ],
)
def test_a_sink_that_loses_or_doubles_images_fails_the_suite(weak, broken):
    sink = weak()
    with pytest.raises(AssertionError, match=broken):
        check_sink(lambda: sink, lambda _: dict(sink.runs))


def an_image(folder: Path, name: str, content: bytes, step: int = 0) -> LoggedBatch:
    file = folder / f"{step}.png"
    file.write_bytes(content)
    path = f"images/{name}/{step}.png"
    return LoggedBatch(
        run=ShippedRun(key="r", parent=None, name="r", experiment="e", started_at=1.0),
        points=LoggedPoints([], [], [], []),
        artifacts={path: file},
        media={path: Media("image", name, step, 7.5)},
    )


def image_files(client: Any, run_id: str) -> list[str]:
    return sorted(each.path for each in client.list_artifacts(run_id, "images"))


@pytest.mark.long
@HEAVY
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_images_lie_where_mlflow_itself_puts_them_and_the_small_one_is_small(tmp_path, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from PIL import Image

    from hooke.sinks.mlflow import MlflowSink

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    pixels = np.arange(300 * 600, dtype=np.uint8).reshape(300, 600)
    receipt = MlflowSink(tmp_path).write(an_image(tmp_path, "val/sample 1", image_bytes(pixels), step=3))
    assert receipt.notes == []
    client = MlflowClient(tracking_uri=uri)
    (ours,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    theirs = client.create_run(ours.info.experiment_id)
    client.log_image(theirs.info.run_id, pixels, key="val/sample 1", step=3, timestamp=7500)
    shapes = [
        [re.sub("[-0-9a-f]{36}", "UUID", each) for each in image_files(client, run.info.run_id)]
        for run in (ours, theirs)
    ]
    assert shapes[0] == shapes[1] and len(shapes[0]) == 2
    assert ours.data.tags["mlflow.loggedImages"] == "True"
    assert client.get_run(theirs.info.run_id).data.tags["mlflow.loggedImages"] == "True"
    small, whole = (
        Image.open(download_artifacts(run_id=ours.info.run_id, artifact_path=each, tracking_uri=uri))
        for each in image_files(client, ours.info.run_id)
    )
    assert (small.size, small.format, whole.size) == ((256, 128), "WEBP", (600, 300))
    assert np.array_equal(np.asarray(whole), pixels)


@pytest.mark.long
@HEAVY
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_images_that_mlflow_or_pillow_cannot_take_as_they_are_hold_nothing_up(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    from hooke.sinks.mlflow import MlflowSink

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sink = MlflowSink(tmp_path)
    odd = "größe+1%" * 40
    receipt = sink.write(an_image(tmp_path, odd, image_bytes(np.zeros((2, 2)))))
    (said,) = receipt.notes
    assert "in MLflow, which does not accept that name" in said
    torn = b"\x89PNG\r\n\x1a\n" + b"torn"
    receipt = sink.write(an_image(tmp_path, "torn", torn, step=1))
    (said,) = receipt.notes
    assert said.startswith("image 'torn' has no small version in MLflow: ")
    monkeypatch.setitem(sys.modules, "PIL", None)
    receipt = sink.write(an_image(tmp_path, "bare", image_bytes(np.zeros((2, 2))), step=2))
    assert "no small version in MLflow" in receipt.notes[0]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert len(image_files(client, run.info.run_id)) == 6
    assert [step for _, _, step in sorted(seen_in_mlflow(uri, "e")["r"].media)] == [2, 0, 1]
    gone = an_image(tmp_path, "gone", b"")
    next(iter(gone.artifacts.values())).unlink()
    (said,) = sink.write(gone).notes
    assert said.startswith("image 'gone' is not there any more")


@pytest.mark.long
@HEAVY
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_shipper_that_dies_after_mlflow_has_an_image_does_not_double_it(tmp_path, monkeypatch):
    from hooke.sinks.mlflow import MlflowSink

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(outbox, "MOST_EVENTS", 2)
    runs = RunsFolder(tmp_path / ".hooke" / "runs")
    name = "sweep-20261125-120000-abcd"
    folder = runs.create(name)
    driver = Journal.create(folder, "driver", durable="none")
    driver.append(RunStarted(run=name, pipeline="sweep", entry="job.py:sweep"))
    tracker = Tracker(folder, "local-0", durable="none")
    with logging_into(tracker):
        for at in range(5):
            hooke.log_image("x", np.full((2, 2), at, np.uint8))
            hooke.log_histogram("w", [at, at + 1])
    tracker.close()
    driver.close()

    class Dying(MlflowSink):
        """Dies as soon as MLflow has the batch, before the shipper has noted it: each second time."""

        writes = 0

        def write(self, batch: LoggedBatch):
            receipt = super().write(batch)
            Dying.writes += 1
            if Dying.writes % 2:
                raise SystemExit
            return receipt

    deaths = 0
    while True:
        try:
            with Shipper(runs=runs, sinks={"mlflow": Dying(tmp_path)}) as shipper:
                assert shipper.ship(name)
            break
        except SystemExit:
            deaths += 1
    assert deaths >= 3
    seen = seen_in_mlflow(f"sqlite:///{tmp_path / 'mlflow.db'}", "sweep")[name]
    assert sorted(seen.media) == [("image", "x", step) for step in range(5)]
    assert sorted(seen.artifacts) == [f"histograms/w/{step}.json" for step in range(5)]


@HEAVY
@pytest.mark.timeout(600)
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


@pytest.mark.long
@HEAVY
@pytest.mark.timeout(1200)
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
