"""Metrics of language models: vLLM's names, from its text or from our own engine, and their sums over replicas."""

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serving.openai.engine_checks import get, samples
from tests.serving.openai.test_with_openais_client import LONG

from hooke.services.supervisor.status import RecentCounts
from hooke.serving.metrics import Counts, GatheredCounts, ReplicaSetMetrics, service_prometheus_text
from hooke.serving.token_metrics import FIRST_S, TokenMeter, add_families, read_families, token_rates

OF_VLLM = """# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 9000.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# HELP vllm:engine_sleep_state Engine sleep state.
# TYPE vllm:engine_sleep_state gauge
vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="awake"} 1.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 19.0
# HELP vllm:prompt_tokens_created Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 2.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 2.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.5
"""


def test_of_vllms_text_the_families_that_are_asked_for_pass():
    families = read_families(OF_VLLM)
    assert [(each.name, each.kind) for each in families] == [
        ("vllm:num_requests_running", "gauge"),
        ("vllm:prompt_tokens", "counter"),
        ("vllm:time_to_first_token_seconds", "histogram"),
    ]
    assert {each.name: each.value for family in families for each in family.samples} == {
        "vllm:num_requests_running": 3,
        "vllm:prompt_tokens_total": 19,
        "vllm:time_to_first_token_seconds_bucket": 2,
        "vllm:time_to_first_token_seconds_count": 2,
        "vllm:time_to_first_token_seconds_sum": 0.5,
    }


def test_totals_of_ended_replicas_stay_and_their_gauges_do_not():
    families = read_families(OF_VLLM)
    gathered = GatheredCounts()
    for name in ("1", "2"):
        gathered.take(name, Counts(service="chat", tokens=families))
        gathered.take(name, Counts(service="chat"))
    gathered.end("1")
    text = service_prometheus_text(ReplicaSetMetrics(live=gathered.live, ended=gathered.ended)).decode()
    found = [
        (each.name, each.labels["replica"])
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name in ("vllm:num_requests_running", "vllm:prompt_tokens_total")
    ]
    assert sorted(found) == [
        ("vllm:num_requests_running", "2"),
        ("vllm:prompt_tokens_total", "1"),
        ("vllm:prompt_tokens_total", "2"),
    ]
    both = {each.name: each for each in add_families(families, families)}
    assert "vllm:num_requests_running" not in both
    assert both["vllm:prompt_tokens"].samples[0].value == 38
    assert [each.value for each in both["vllm:time_to_first_token_seconds"].samples] == [0, 4, 4, 1.0]


def test_a_report_survives_its_way_to_the_supervisor():
    meter = TokenMeter("m")
    meter.first(0.0005)
    meter.first(1e6)
    meter.next(0.02)
    meter.tokens(7, 1, cached=4)
    meter.ended("stop", 3.0)
    counts = Counts(service="chat", tokens=meter.families({"vllm:num_requests_running": 2}))
    again = msgspec.json.decode(msgspec.json.encode(counts), type=Counts)
    assert again == counts
    first = next(each for each in again.tokens if each.name == "vllm:time_to_first_token_seconds")
    buckets = [each.value for each in first.samples if each.name.endswith("_bucket")]
    assert (len(buckets), buckets[0], buckets[-2], buckets[-1]) == (len(FIRST_S) + 1, 1, 1, 2)
    of = {each.name: each.value for family in again.tokens for each in family.samples}
    assert of["vllm:prefix_cache_hits_total"] == 4
    assert of["vllm:time_per_output_token_seconds_count"] == 1, "its former name, too"


def test_our_own_engine_gives_them_out(paged, client):
    before = samples(paged)
    answer = client.completions.create(model="Paged", prompt=LONG * 20, temperature=0, max_tokens=9)
    client.completions.create(model="Paged", prompt=LONG * 20, temperature=0, max_tokens=9)
    after = samples(paged)
    grown = {name: after[name] - before.get(name, 0.0) for name in after if name.startswith("vllm:")}
    used = answer.usage
    assert grown["vllm:prompt_tokens_total"] == 2 * used.prompt_tokens
    assert grown["vllm:generation_tokens_total"] == 2 * used.completion_tokens
    assert grown["vllm:time_to_first_token_seconds_count"] == 2
    assert grown["vllm:inter_token_latency_seconds_count"] == 2 * (used.completion_tokens - 1)
    assert grown["vllm:e2e_request_latency_seconds_count"] == 2
    assert grown["vllm:request_success_total"] == 2
    assert 0 < grown["vllm:prefix_cache_hits_total"] < grown["vllm:prefix_cache_queries_total"]
    assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
    assert after["vllm:kv_cache_usage_perc"] == pytest.approx(0)
    assert 'model_name="Paged"' in get(paged, "/-/metrics")


@pytest.mark.needs("cpu")
def test_tokens_a_second_and_times_are_those_of_the_last_minute():
    meter, lately = TokenMeter("m"), RecentCounts()
    for second in range(200):
        meter.tokens(0, 50 if second < 100 else 7)
        meter.first(30.0 if second < 100 else 0.05)
        meter.next(0.02)
        lately.take(second, Counts(service="chat"))
        families = meter.families({"vllm:num_requests_waiting": second})
        lately.take(second, Counts(service="chat", tokens=families))
    found = lately.tokens()
    assert found is not None
    assert (found.tokens_per_s, found.waiting, found.memory) == (7, 199, None)
    assert 0.04 < found.first_p95_s <= 0.06
    assert 0.01 < found.next_p95_s <= 0.025
    since = token_rates(meter.families({}), 200.0)
    assert since.tokens_per_s == (100 * 50 + 100 * 7) / 200
    assert since.first_p95_s > 20
    assert token_rates(read_families(OF_VLLM), 1.0).tokens_per_s is None, "it says only what it was told"
    assert RecentCounts().tokens() is None
