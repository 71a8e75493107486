"""What a replica counts, as Prometheus reads it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.serving.services import Kinds, Rows

from hooke.serving.auth import Auth
from hooke.serving.metrics import BOUNDS_S, Meter, size_bucket
from hooke.serving.replica import METRICS
from hooke.serving.service import service_of
from hooke.testing import client
from hooke.testing.service_client import ServiceClient


def families(made):
    answer = made.get(METRICS)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(answer.body.decode())}


def samples(family):
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_requests_by_route_and_status_and_how_long_they_took():
    with client(Kinds) as made:
        for body in ({"a": 1}, {"a": 2}, {"a": "x"}):
            made.post("/plain", body)
        made.post("/count", {"n": 2})
        made.get("/plain")
        made.get("/nope")
        made.request("GET", "/plain", headers={"host": "evil.example"})
        made.request("GET", "/plain", headers={"origin": "http://evil.example"})
        found = families(made)
    assert samples(found["hooke_requests"]) == {
        ("/plain", "200"): 2, ("/plain", "422"): 1, ("/plain", "405"): 1, ("/count", "200"): 1, ("", "404"): 1, ("", "403"): 2,
    }  # fmt: skip
    took = found["hooke_request_duration_seconds"]
    counts = {
        sample.labels["route"]: sample.value for sample in took.samples if sample.name.endswith("_count")
    }
    assert counts == {"/plain": 4, "/count": 1, "": 3}
    assert samples(found["hooke_refused"]) == {
        ("unprocessable entity",): 1, ("method not allowed",): 1, ("not found",): 1, ("host",): 1, ("origin",): 1,
    }  # fmt: skip
    assert samples(found["hooke_requests_in_flight"]) == {(): 1}
    assert samples(found["hooke_ready"]) == {(): 1}


def test_batches_and_the_process():
    with client(Rows) as made:
        for rows in ([[1]], [[1]] * 3, [[1]] * 8):
            made.post("/predict", {"rows": rows})
        found = families(made)
    sizes = {sample.labels.get("le"): sample.value for sample in found["hooke_batch_rows"].samples}
    assert [sizes[le] for le in ("1.0", "2.0", "4.0", "8.0", "+Inf")] == [1, 1, 2, 3, 3]
    assert found["hooke_batch_rows"].samples[-1].value == 12
    assert found["hooke_model_busy_seconds"].samples[0].value > 0
    assert found["process_resident_memory_bytes"].samples[0].value > 1 << 20
    assert found["hooke_startup_seconds"].samples[0].value > 0
    assert found["hooke_service_info"].samples[0].labels == {"service": "Rows"}


def test_names_are_those_of_the_conventions():
    with client(Rows) as made:
        made.post("/predict", {"rows": [[1]]})
        found = families(made)
        text = made.get(METRICS).body.decode()
    for name, family in found.items():
        assert re.fullmatch(r"(hooke|process)_[a-z_]+", name)
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}
    assert all(f"{name}_total" in text for name, family in found.items() if family.type == "counter")
    assert not re.search("milli|_ms|percent|kilo|minutes", text)


def test_nobody_reads_them_without_the_token():
    with ServiceClient(service_of(Rows), {}, auth=Auth(token="0123456789abcdef")) as made:
        assert made.get(METRICS).status == 401
        answer = made.request("GET", METRICS, headers={"authorization": "Bearer 0123456789abcdef"})
        assert 'hooke_refused_total{reason="token"} 1.0' in answer.body.decode()


@pytest.mark.needs("cpu")
@given(st.lists(st.tuples(st.sampled_from([200, 404]), st.floats(0, 100)), max_size=20))
def test_a_meter_counts_each_once(answers):
    meter = Meter()
    for status, seconds in answers:
        meter.done(status, seconds)
    assert sum(meter.buckets) == sum(meter.statuses.values()) == len(answers)
    for at, bound in enumerate(BOUNDS_S):
        assert sum(meter.buckets[: at + 1]) == sum(seconds <= bound for _, seconds in answers)
    assert meter.seconds == pytest.approx(sum(seconds for _, seconds in answers))


@given(st.integers(1, 1 << 40))
def test_sizes(rows):
    bucket = size_bucket(rows)
    assert 2**bucket >= rows
    assert bucket == 0 or 2 ** (bucket - 1) < rows
