"""Comet's own uploader, talking to a server of these tests: what would reach the service. The service itself was never tried."""

import gzip
import json
import math
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np
import pytest

from hooke.base.errors import ConfigError, HookeError, MissingExtra
from hooke.sinks.comet import CometSink
from hooke.sinks.comet_limits import IN_FULL
from hooke.sinks.comet_messages import experiment_key
from hooke.sinks.sink import LoggedBatch, LoggedPoints, Media, ShippedRun, SinkAway
from hooke.tracking.log import histogram_bytes, image_bytes

RUN = ShippedRun(
    key="r/1", parent="r", name="fit", experiment="e", started_at=1_795_600_000.0, tags={"hooke.task": "fit"}
)


class Comet:
    """Answers what the uploader of comet_ml 3.58 asks, and keeps what it is sent. `fails` is the end of a path it refuses."""

    def __init__(self) -> None:
        self.fails, self.code = "", 500
        self.metrics: list[tuple[str, object, int, int]] = []
        self.params: dict[str, str] = {}
        self.others: dict[str, str] = {}
        self.assets: dict[str, bytes] = {}
        self.images: list[tuple[str, int, str]] = []
        self.uploads: list[dict[str, list[str]]] = []
        self.runs: list[dict] = []
        self.told: list[dict] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/clientlib/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        where = urlsplit(path)
        if where.path.endswith("visualizations/upload"):
            asked = parse_qs(where.query)
            self.images.append((asked["figName"][0], int(asked["step"][0]), asked["imageId"][0]))
            return
        if where.path.endswith("asset/upload"):
            self.uploads.append(parse_qs(where.query))
            self.assets[parse_qs(where.query)["fileName"][0]] = (
                body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0].rstrip(b"\r\n-")
            )
            return
        sent = json.loads(body)
        assert sent["experimentKey"] == experiment_key(RUN.key)
        match where.path.rpartition("/")[2]:
            case "run":
                self.runs.append(sent)
            case "metric":
                values = sent["values"]
                self.metrics += [
                    (v["metricName"], v["metricValue"], v["step"], v["timestamp"]) for v in values
                ]
            case "parameter":
                self.params |= {v["parameterName"]: v["parameterValue"] for v in sent["values"]}
            case "log-other":
                self.others[sent["key"]] = sent["value"]
            case _:
                self.told.append(sent)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        comet = self
        beat = {
            "is_alive_beat_duration_millis": 10_000,
            "gpu_monitor_interval_millis": 10_000,
            "cpu_monitor_interval_millis": 10_000,
        }
        answer = {
            "runId": "run",
            "projectId": "p",
            "focusUrl": "http://127.0.0.1/",
            "msg": "ok",
            "version": "3.3.0",
        } | beat

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                refused = bool(comet.fails) and urlsplit(self.path).path.endswith(comet.fails)
                if body and not refused:
                    comet.take(self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(comet.code if refused else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def comet(tmp_path, monkeypatch):
    served = Comet()
    monkeypatch.setenv("COMET_API_KEY", "k" * 25)
    monkeypatch.setenv("COMET_URL_OVERRIDE", served.url)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield served
    served.server.shutdown()
    served.server.server_close()


def points(*values: float, name: str = "x", first: int = 0) -> LoggedPoints:
    steps = list(range(first, first + len(values)))
    return LoggedPoints(
        [name] * len(values), list(values), steps, [RUN.started_at + step / 100 for step in steps]
    )


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_the_uploader_sends_all_of_a_batch(comet, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("note")
    sink = CometSink(tmp_path, workspace="ours")
    receipt = sink.write(
        LoggedBatch(
            run=RUN,
            points=points(1.0, math.nan, math.inf),
            params={"rate": "0.1"},
            tags={"team": "us", "hooke.git.commit": "c0ffee"},
            artifacts={"deep/note.txt": note},
        )
    )
    assert receipt.notes == []
    assert sorted(comet.metrics, key=lambda each: each[2]) == [
        ("x", 1.0, 0, 1_795_600_000_000),
        ("x", "NaN", 1, 1_795_600_000_010),
        ("x", "Infinity", 2, 1_795_600_000_020),
    ]
    assert comet.params == {"rate": "0.1"}
    assert comet.others == {
        "Name": "fit",
        "hooke.run_id": "r/1",
        "hooke.task": "fit",
        "hooke.parent": "r",
        "hooke.status": "running",
        "team": "us",
        "hooke.git.commit": "c0ffee",
    }
    assert any("c0ffee" in str(told) for told in comet.told), "Comet's own page of git has it"
    assert comet.assets == {"deep/note.txt": b"note"}
    assert (comet.runs[0]["projectName"], comet.runs[0]["teamName"]) == ("e", "ours")
    sink.finish(msgspec.structs.replace(RUN, status="failed", ended_at=RUN.started_at + 9))
    assert comet.others["hooke.status"] == "failed"
    assert any(told.get("error") == "the run was failed" for told in comet.told)
    assert any(told.get("endTimestamp") == 1_795_600_009_000 for told in comet.told)
    sink.close()
    assert not (tmp_path / "comet").exists()


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "fails", ["add/run", "experiment/metric", "experiment/parameter", "log-other", "asset/upload"]
)
def test_what_the_uploader_could_not_send_is_sent_again(comet, tmp_path, fails):
    note = tmp_path / "note.txt"
    note.write_text("note")
    batch = LoggedBatch(
        run=RUN, points=points(1.0, 2.0), params={"rate": "0.1"}, artifacts={"note.txt": note}
    )
    sink = CometSink(tmp_path)
    comet.fails = fails
    began = time.monotonic()
    with pytest.raises(SinkAway, match="Comet is not available") as away:
        sink.write(batch)
    print(fails, time.monotonic() - began, away.value.why)
    assert time.monotonic() - began < 60, "the shipper is not held up by Comet's own retries"
    assert away.value.why
    comet.fails = ""
    sink.write(batch)
    assert {value for _, value, _, _ in comet.metrics} == {1.0, 2.0}
    assert comet.params == {"rate": "0.1"}
    assert comet.assets == {"note.txt": b"note"}
    assert comet.others["Name"] == "fit"


@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_images_and_histograms_arrive_as_such_each_with_an_id_that_stays(comet, tmp_path):
    image, histogram = tmp_path / "0.png", tmp_path / "0.json"
    image.write_bytes(image_bytes(np.zeros((2, 2))))
    histogram.write_bytes(histogram_bytes([1.0, 2.0]))
    files = {"images/x/3.png": image, "images/x/4.png": image, "histograms/w/3.json": histogram}
    media = {
        "images/x/3.png": Media("image", "x", 3, 5.0),
        "images/x/4.png": Media("image", "x", 4, 6.0),
        "histograms/w/3.json": Media("histogram", "w", 3, 5.0),
    }
    batch = LoggedBatch(run=RUN, points=points(), artifacts=files, media=media)
    for _ in range(2):
        sink = CometSink(tmp_path)
        assert sink.write(batch).notes == []
        sink.close()
    assert len(comet.images) == 4
    assert {(name, step) for name, step, _ in comet.images} == {("x", 3), ("x", 4)}
    assert len({unique for _, _, unique in comet.images}) == 2
    first, again = comet.uploads
    assert first["assetId"] == again["assetId"]
    assert (first["type"], first["fileName"], first["step"]) == (["histogram3d"], ["w"], ["3"])
    assert sum(count for _, count in json.loads(comet.assets["w"])["index_values"]) == 2


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("fails", "code"), [("experiment/parameter", 400), ("asset/upload", 413)])
def test_what_comet_will_never_take_is_said_and_holds_up_nothing_else(comet, tmp_path, fails, code):
    note = tmp_path / "note.txt"
    note.write_text("note")
    comet.fails, comet.code = fails, code
    sink = CometSink(tmp_path)
    receipt = sink.write(
        LoggedBatch(run=RUN, points=points(1.0, 2.0), params={"rate": "0.1"}, artifacts={"note.txt": note})
    )
    (said,) = receipt.notes
    assert said.startswith("Comet refused: ") and str(code) in said
    assert [value for _, value, _, _ in comet.metrics] == [1.0, 2.0]
    assert comet.others["Name"] == "fit"
    comet.fails = "log-other"
    with pytest.raises(HookeError, match="Comet does not accept the run's end"):
        sink.finish(msgspec.structs.replace(RUN, status="failed", ended_at=RUN.started_at + 9))


class Turned:
    """A clock that the sink's sleep turns."""

    def __init__(self) -> None:
        self.time, self.slept = 1000.0, []

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_long_run_keeps_its_extremes_and_stays_below_the_limits(comet, tmp_path):
    from hooke.sinks.comet_online import CometService

    clock = Turned()
    service = CometService("k" * 25, clock=clock, sleep=clock.sleep)
    service.write(LoggedBatch(run=RUN, points=points(*map(float, range(IN_FULL)))))
    assert len(comet.metrics) == IN_FULL
    assert sum(clock.slept) == pytest.approx((IN_FULL - 2000) / 150, rel=0.01)
    late = [5.0, 1e9, -1e9, 5.0, 7.0]
    receipt = service.write(LoggedBatch(run=RUN, points=points(*late, first=IN_FULL)))
    assert [value for _, value, _, _ in comet.metrics[IN_FULL:]] == [1e9, -1e9, 7.0]
    (said,) = receipt.notes
    assert said.startswith("Comet keeps 15,000 values of metric 'x'")


def test_which_way_it_goes_follows_from_the_key_and_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("COMET_API_KEY", "k" * 25)
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    monkeypatch.delitem(sys.modules, "comet_ml.offline", raising=False)
    with pytest.raises(MissingExtra, match="sending to Comet needs comet_ml") as missing:
        CometSink(tmp_path)
    assert missing.value.fix == 'pip install "hooke-ml[comet]"'
    sink = CometSink(tmp_path, online=False)
    sink.write(LoggedBatch(run=RUN, points=points(1.0)))
    sink.close()
    assert len(list((tmp_path / "comet").iterdir())) == 1
    monkeypatch.delenv("COMET_API_KEY")
    CometSink(tmp_path).close()
    with pytest.raises(ConfigError, match="online = true") as refused:
        CometSink(tmp_path, online=True)
    assert refused.value.why == "COMET_API_KEY is not set"
    with pytest.raises(ConfigError, match=r"tracking.comet.archives = 5 must be text"):
        CometSink(tmp_path, archives=5)
    with pytest.raises(ConfigError, match=r"tracking.comet.online = 'yes'"):
        CometSink(tmp_path, online="yes")
