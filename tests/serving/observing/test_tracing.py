"""Spans of real services, as a collector reads them: parents and links over queue, batch and process; sampling; a dead collector."""

import http.client
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.serving.observing.collector import Collector

from hooke.base.errors import UsageError
from hooke.serving.observing.tracing import TraceSettings, start_tracing

pytestmark = pytest.mark.needs("processes")

SERVER, INTERNAL = 2, 1
ERROR = 2


class Serving:
    """`hooke serve` of one class, and requests to it."""

    def __init__(self, process, folder, port):
        self.process, self.folder, self.port = process, folder, port

    def ask(self, path, value, *, trace="", flags="01", **headers):
        """The answer's status and value. With a trace's id, the client's span is `1111111111111111`."""
        if trace:
            headers["traceparent"] = f"00-{trace}-1111111111111111-{flags}"
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(
                "POST", path, json.dumps(value), {"content-type": "application/json"} | headers
            )
            answer = connection.getresponse()
            body = answer.read()
            is_json = answer.headers["content-type"].endswith("json")
            return answer.status, json.loads(body) if is_json else body.decode()

    @property
    def said(self):
        return (self.folder / "said").read_text()


@contextmanager
def serving(folder, made_by, endpoint, *words, **environment):
    shutil.copy(Path(__file__).with_name("traced_service.py"), folder)
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"} | environment
    command = [
        sys.executable,
        "-m",
        "hooke",
        "serve",
        f"traced_service.py:{made_by}",
        "--port",
        "0",
        "--no-auth",
    ]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([*command, *words], cwd=folder, stderr=said, env=os.environ | given)
    try:
        made = Serving(process, folder, 0)
        ends = time.monotonic() + 120
        while (found := re.search(r"docs: http://127\.0\.0\.1:(\d+)/", made.said)) is None:
            assert process.poll() is None, made.said
            assert time.monotonic() < ends, made.said
            time.sleep(0.02)
        made.port = int(found[1])
        yield made
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def collector():
    with Collector() as made:
        yield made


@pytest.fixture(scope="module")
def traced(tmp_path_factory, collector):
    folder = tmp_path_factory.mktemp("traced")
    given = {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    log = ("--request-log", "requests.jsonl")
    with serving(folder, "Traced", collector.endpoint, "--trace", *log, **given) as made:
        yield made


@pytest.fixture
def trace():
    return secrets.token_hex(16)


@pytest.mark.needs("cpu")
def test_a_requests_spans_continue_the_clients_trace(traced, collector, trace):
    status, (seen,) = traced.ask("/predict", {"rows": [1]}, trace=trace, **{"x-request-id": "mine"})
    assert status == 200
    spans = collector.trace(trace, 4)
    request, queue, model, own = (spans[name] for name in ("POST /predict", "queue", "model predict", "own"))
    assert (request["kind"], request["parent"]) == (SERVER, "1" * 16)
    assert queue["parent"] == model["parent"] == request["id"]
    assert (own["parent"], own["id"], own["scope"]) == (model["id"], seen, "shop")
    assert request["began"] <= queue["began"] <= queue["ended"] == model["began"]
    assert model["began"] <= own["began"] <= own["ended"] <= model["ended"] <= request["ended"]
    told = request["attributes"]
    assert (told["http.request.method"], told["http.route"], told["http.response.status_code"]) == (
        "POST",
        "/predict",
        200,
    )
    assert (told["hooke.request_id"], told["hooke.batch_rows"]) == ("mine", 1)
    assert told["hooke.queue_ms"] >= 0
    assert request["resource"]["service.name"] == "shop"
    assert request["resource"]["deployment.environment.name"] == "test"


def test_requests_of_one_batch_are_linked_with_it(traced, collector):
    hold, begun = traced.folder / "hold", traced.folder / "begun"
    begun.unlink(missing_ok=True)
    hold.touch()
    traces = [secrets.token_hex(16) for _ in range(3)]
    answers = {}

    def ask(one):
        answers[one] = traced.ask("/predict", {"rows": [1, 2]}, trace=one)

    threads = [threading.Thread(target=ask, args=(one,)) for one in traces]
    threads[0].start()
    while not begun.exists():
        time.sleep(0.005)
    for thread in threads[1:]:
        thread.start()
    while metric(traced, "hooke_queue_rows") < 4:
        time.sleep(0.005)
    hold.unlink()
    for thread in threads:
        thread.join(60)
    assert {status for status, _ in answers.values()} == {200}
    found = {one: collector.trace(one, 3) for one in traces}
    (batch,) = [span for span in collector.spans if span["name"] == "batch predict"]
    first, second = sorted(traces[1:], key=lambda one: one != batch["trace"])
    requests = {one: found[one]["POST /predict"]["id"] for one in traces}
    assert set(batch["links"]) == {(one, requests[one]) for one in traces[1:]}
    assert batch["parent"] == collector.trace(first, 5)["model predict"]["id"]
    assert collector.trace(second, 3)["model predict"]["links"] == [(first, batch["id"])]
    assert batch["attributes"] == {
        "hooke.method": "predict",
        "hooke.batch_rows": 4,
        "hooke.batch_requests": 2,
    }
    assert found[traces[0]]["POST /predict"]["attributes"]["hooke.batch_rows"] == 2
    own = collector.trace(first, 5)["own"]
    assert (own["parent"], [own["id"]] * 2) == (batch["id"], answers[second][1])


def metric(served, name):
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection:
        connection.request("GET", "/-/metrics")
        text = connection.getresponse().read().decode()
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])


def test_a_failure_is_marked_without_its_text(traced, collector, trace):
    assert traced.ask("/fail", {}, trace=trace)[0] == 500
    spans = collector.trace(trace, 3)
    assert [spans[name]["status"] for name in ("POST /fail", "model fail")] == [ERROR] * 2
    assert spans["model fail"]["attributes"]["error.type"] == "ValueError"
    assert "secret" not in json.dumps(spans)


def test_items_of_a_stream_belong_to_its_request(traced, collector, trace):
    status, text = traced.ask("/count", {"to": 3}, trace=trace)
    spans = collector.trace(trace, 2)
    assert set(spans) == {"POST /count", "queue"}
    assert text.count(f'data: "{spans["POST /count"]["id"]}"') == 3


def test_a_service_sends_its_own_span_on(traced, collector, trace):
    _, outgoing = traced.ask("/outgoing", {}, trace=trace)
    assert outgoing == f"00-{trace}-{collector.trace(trace, 3)['POST /outgoing']['id']}-01"


def test_a_request_that_is_refused_and_one_without_a_trace_have_a_span(traced, collector, trace):
    assert traced.ask("/predict", {"rows": "x"}, trace=trace)[0] == 422
    refused = collector.trace(trace, 1)["POST /predict"]
    assert (refused["attributes"]["hooke.refused"], refused["status"]) == ("unprocessable entity", 0)
    _, outgoing = traced.ask("/outgoing", {}, traceparent="00-nonsense-1111111111111111-01")
    new = outgoing.split("-")[1]
    assert collector.trace(new, 3)["POST /outgoing"]["parent"] == ""
    ends = time.monotonic() + 60
    while trace not in (traced.folder / "requests.jsonl").read_text():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.mark.needs("cpu")
def test_an_async_method_sees_the_requests_span(tmp_path, collector, trace):
    with serving(tmp_path, "AsyncTraced", collector.endpoint, "--trace") as served:
        _, seen = served.ask("/look", {}, trace=trace)
        spans = collector.trace(trace, 2)
    assert (spans["own"]["id"], spans["own"]["parent"]) == (seen, spans["POST /look"]["id"])
    assert spans["own"]["resource"]["service.name"] == "AsyncTraced"


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_a_process_of_the_model_continues_the_trace_and_only_sampled_requests_are_sent(
    tmp_path, collector, trace
):
    given = {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    with serving(tmp_path, "ProcessTraced", collector.endpoint, "--trace", **given) as served:
        unsampled = secrets.token_hex(16)
        assert served.ask("/predict", {"rows": [1]}, trace=unsampled, flags="00")[0] == 200
        assert served.ask("/predict", {"rows": [1]})[0] == 200
        _, (seen,) = served.ask("/predict", {"rows": [1]}, trace=trace)
        spans = collector.trace(trace, 4)
        process = spans["process predict"]
        assert (process["id"], process["parent"]) == (seen, spans["model predict"]["id"])
        assert process["resource"]["service.name"] == "ProcessTraced"
        pids = [
            spans[name]["resource"]["service.instance.id"] for name in ("model predict", "process predict")
        ]
        assert len(set(pids)) == 2
        _, text = served.ask("/count", {"to": 2}, trace=trace)
        assert text.count("data: ") == 3
    mine = {trace}
    of_this = [one for one in collector.spans if one["resource"].get("service.name") == "ProcessTraced"]
    assert {one["trace"] for one in of_this} == mine
    assert len([one for one in of_this if one["name"] == "process count"]) == 3


@pytest.mark.needs("cpu")
def test_without_a_collector_requests_go_on_and_one_sentence_says_so(tmp_path):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: each connection is refused
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        given = {
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
        with serving(tmp_path, "AsyncTraced", endpoint, "--trace", **given) as served:
            assert {served.ask("/look", {})[0] for _ in range(60)} == {200}
            ends = time.monotonic() + 60
            while "spans could not be sent" not in served.said:
                assert time.monotonic() < ends
                time.sleep(0.05)
            assert metric(served, 'hooke_unseen_total{what="spans"}') >= 4
        said = served.said
    lines = [line for line in said.splitlines() if "WARNING" in line or "ERROR" in line]
    assert 1 <= len(lines) <= 2, said  # and once more at the end
    assert all(f"could not be sent to {endpoint}" in line for line in lines)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
    ],
)
def test_a_setting_that_is_not_supported_is_said(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as raised:
        start_tracing(TraceSettings(service="Shop"))
    assert variable in raised.value.what or "max_export_batch_size" in raised.value.what
    assert raised.value.fix


def test_a_disabled_sdk_traces_nothing(monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert start_tracing(TraceSettings(service="Shop")) is None
