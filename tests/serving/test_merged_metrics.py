"""What all replicas counted: no sum falls when one ends, and nothing is counted twice."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from hooke.journal.service_events import ReplicaEnded
from hooke.services.supervisor.status import RecentCounts, SupervisorView
from hooke.serving.metrics import (
    BOUNDS_S,
    KEPT,
    Counts,
    GatheredCounts,
    Meter,
    ProcessCounts,
    ReplicaSetMetrics,
    RouteCounts,
    add_counts,
    service_prometheus_text,
)
from hooke.serving.stats_windows import quantile_s


def counts_of(answers, *, route="/predict"):
    meter = Meter()
    for status, seconds in answers:
        meter.done(status, seconds)
    routes = {route: RouteCounts(meter.statuses, meter.buckets, meter.seconds)} if answers else {}
    return Counts(
        service="Delay", routes=routes, rows=len(answers), process=ProcessCounts(began=1.0, cpu_s=1.0)
    )


answers = st.lists(st.tuples(st.sampled_from([200, 422, 500]), st.floats(0, 60)), max_size=8)


@pytest.mark.needs("cpu")
@given(answers, answers)
def test_two_together_are_as_one_that_did_both(some, others):
    both, one = add_counts(counts_of(some), counts_of(others)), counts_of(some + others)
    assert both.requests() == one.requests() == len(some) + len(others)
    assert both.buckets() == one.buckets()
    assert {path: route.statuses for path, route in both.routes.items()} == {
        path: route.statuses for path, route in one.routes.items()
    }
    assert both.rows == one.rows
    assert both.process.cpu_s == 2


@pytest.mark.needs("cpu")
@given(st.lists(st.booleans(), max_size=3 * KEPT), st.randoms(use_true_random=False))
def test_no_sum_falls_and_no_series_jumps_when_replicas_end(ends, chance):
    gathered, total, series = GatheredCounts(), 0, {}
    for name, end in enumerate(ends):
        gathered.take(str(name), counts_of([(200, 0.1)] * (name % 5)))
        total += name % 5
        if end:
            gathered.end(chance.choice(list(gathered.live)))
        all_of_them = {**gathered.ended, **gathered.live}
        assert len(all_of_them) == len(gathered.ended) + len(gathered.live)
        assert sum(counts.requests() for counts in all_of_them.values()) == total
        # A rate adds what each series grew by; all that was counted was there when its series began.
        assert all(
            series.get(name, counts.requests()) == counts.requests() for name, counts in all_of_them.items()
        )
        series |= {name: counts.requests() for name, counts in all_of_them.items()}
        assert len(gathered.ended) <= KEPT + 1


@given(st.lists(st.floats(0, 29), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_answer_that_it_is(seconds, part):
    meter = Meter()
    for took in seconds:
        meter.done(200, took)
    true = sorted(seconds)[max(math.ceil(part * len(seconds)) - 1, 0)]
    low = max((bound for bound in BOUNDS_S if bound < true), default=0.0)
    high = min(bound for bound in BOUNDS_S if bound >= true)
    found = quantile_s(dict(enumerate(meter.buckets)), 100 * part, BOUNDS_S)
    assert low <= found <= high * (1 + 1e-9)


def test_a_quantile_of_nothing_is_none_and_one_above_all_bounds_is_the_highest():
    assert quantile_s(dict.fromkeys(range(len(Meter().buckets)), 0), 50.0, BOUNDS_S) is None
    assert quantile_s({len(BOUNDS_S): 3}, 50.0, BOUNDS_S) == BOUNDS_S[-1]


def test_a_rate_is_of_the_last_minute():
    lately = RecentCounts()
    assert lately.rate() is None
    assert lately.p99_s() is None
    for second in range(200):
        done = second if second < 100 else 100 + 3 * (second - 100)
        lately.take(second, counts_of([(200, 0.3)] * done))
    assert lately.rate() == 3
    assert 0.25 < lately.p99_s() <= 0.5
    assert len(lately._seen) < 70  # it does not grow with the age of the replica


def test_what_is_written_says_which_replica_and_gauges_of_ended_ones_are_gone():
    watched = SupervisorView()
    for name in ("1", "2"):
        watched.take(name, counts_of([(200, 0.1)] * 2), 0.0)
    watched.end("1")
    watched.record(ReplicaEnded(replica="1", cause="killed", expected=False, kind="signal"))
    text = service_prometheus_text(watched.metrics()).decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    requests = {one.labels["replica"]: one.value for one in found["hooke_requests"].samples}
    assert requests == {"1": 2, "2": 2}
    assert [one.labels for one in found["hooke_ready"].samples] == [{"replica": "2"}]
    assert [one.labels for one in found["hooke_replica_ends"].samples] == [{"cause": "signal"}]
    assert [one.labels for one in found["hooke_supervisor_events"].samples] == [{"event": "replica_ended"}]
    assert found["hooke_front_up"].samples[0].value == 0
    names = {one.name for family in found.values() for one in family.samples}
    assert not {"hooke_front_requests_total", "hooke_front_connections"} & names


def test_a_fleet_without_a_replica_can_be_written():
    text = service_prometheus_text(ReplicaSetMetrics(live={}, wanted=2)).decode()
    assert "hooke_replicas_wanted 2.0" in text
