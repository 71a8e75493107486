"""Replicas behind Envoy: the request log that they share, the client's trace through Envoy, and the page of the routes."""

import json
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from tests.services.supervisor.supervised import LIMIT_S, SERVICE, Supervised, end_all
from tests.serving.observing.collector import Collector

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def observed(tmp_path, monkeypatch):
    (tmp_path / "delays.py").write_text(SERVICE)
    (tmp_path / "nightly").write_text("nightly-nightly-nightly")
    (tmp_path / "nightly").chmod(0o600)
    (tmp_path / "hooke.toml").write_text(
        '[services.Delay.keys.nightly]\nfile = "nightly"\npriority = "low"\n'
    )
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        service = Supervised(tmp_path, "--replicas", "2", "--trace", "--request-log", "logs/requests.jsonl")
        try:
            service.until_ready(2)
            yield service, collector
        finally:
            if service.process.poll() is None:
                service.process.kill()
                service.process.wait()
            end_all(tmp_path)


def send(service, path, body, **headers):
    given = {"authorization": f"Bearer {service.token}", "content-type": "application/json"} | headers
    request = urllib.request.Request(service.url + path, body, given)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.needs("cpu")
def test_replicas_share_a_log_and_go_on_with_the_clients_trace_and_show_their_routes(observed):
    service, collector = observed
    (docs,) = service.until(r"docs: (http://127\.0\.0\.1:\d+)/-/docs$")
    assert docs[1] == service.url
    traces = [secrets.token_hex(16) for _ in range(20)]
    for trace in traces:
        parent = {"traceparent": f"00-{trace}-1111111111111111-01", "x-request-id": trace}
        assert send(service, "/predict", b'{"rows": [1]}', **parent) == (200, b"[2]")
    for trace in traces:
        request = collector.trace(trace, 3)["POST /predict"]
        assert (request["parent"], request["attributes"]["http.route"]) == ("1" * 16, "/predict")
    assert send(service, "/predict", b'{"rows": 1}', authorization="Bearer nightly-nightly-nightly")[0] == 422
    path, ends = service.folder / "logs" / "requests.jsonl", time.monotonic() + LIMIT_S
    while len(lines := path.read_text().splitlines()) < len(traces) + 1:
        assert time.monotonic() < ends, lines
        time.sleep(0.02)
    logged = [json.loads(line) for line in lines]
    assert {one["id"] for one in logged if one["status"] == 200} == set(traces)
    assert {one["trace"] for one in logged if one["status"] == 200} == set(traces)
    assert {one["replica"] for one in logged} <= {"1", "2"}
    (refused,) = [one for one in logged if one["status"] == 422]
    assert (refused["key"], refused["low"]) == ("nightly", True)
    status, page = send(service, "/-/docs", None)
    assert (status, f"{service.url}/predict".encode() in page) == (200, True)
    form = urllib.parse.urlencode({"token": "wrong"}).encode()
    as_form = {
        "content-type": "application/x-www-form-urlencoded",
        "authorization": "",
        "origin": service.url,
    }
    assert send(service, "/-/docs", form, **as_form)[0] == 401
    form = urllib.parse.urlencode({"token": service.token}).encode()
    assert send(service, "/-/docs", form, **as_form) == (200, page)


@pytest.mark.needs("cpu")
def test_several_replicas_do_not_log_to_stdout(tmp_path):
    (tmp_path / "delays.py").write_text(SERVICE)
    service = Supervised(tmp_path, "--replicas", "2", "--request-log", "-")
    assert service.process.wait(LIMIT_S) == 2
    assert "--request-log -: several replicas have no stdout of their own" in service.text
