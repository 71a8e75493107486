"""What is known of several replicas from outside: one scrape for all of them, and `hooke serve status`."""

import json
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.services.supervisor.supervised import LIMIT_S, SERVICE, Supervised, end_all, hooke, kill

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "delays.py").write_text(SERVICE)
    yield tmp_path
    end_all(tmp_path)


@pytest.fixture
def supervised(folder):
    started = []

    def start(*words):
        started.append(Supervised(folder, "--healthy", "1", *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def asked(service, path="/-/metrics", *, method="GET", token=None, body=None, **headers):
    """Status and text of an answer."""
    shown = service.token if token is None else token
    sent = {"authorization": f"Bearer {shown}"} if shown else {}
    sent |= {"content-type": "application/json"} if body is not None else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(service.url + path, data, sent | headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def predict(service, times):
    for row in range(times):
        status, said = asked(service, "/predict", method="POST", body={"rows": [row]})
        assert (status, json.loads(said)) == (200, [2 * row])


class Scrape:
    """One, as Prometheus reads it."""

    def __init__(self, service):
        status, text = asked(service)
        assert status == 200, text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def samples(self, family, name=None):
        return [one for one in self.families[family].samples if name is None or one.name == name]

    def sum(self, family, name=None, **labels):
        found = [one for one in self.samples(family, name) if labels.items() <= one.labels.items()]
        return sum(one.value for one in found)

    def replicas(self, family):
        return {one.labels["replica"] for one in self.samples(family)}

    def counters(self):
        """Each counter of all replicas together, and each bucket."""
        sums = {}
        for family in self.families.values():
            for one in family.samples:
                if family.type in ("counter", "histogram") and "replica" in one.labels:
                    rest = tuple(sorted((k, v) for k, v in one.labels.items() if k != "replica"))
                    sums[one.name, rest] = sums.get((one.name, rest), 0) + one.value
        return sums


def until(service, holds):
    """The first scrape of which this holds: replicas tell five times a second."""
    ends = time.monotonic() + LIMIT_S
    while not holds(scrape := Scrape(service)):
        assert time.monotonic() < ends, {name: one.samples for name, one in scrape.families.items()}
        time.sleep(0.05)
    return scrape


def answered(scrape):
    return scrape.sum("hooke_requests", route="/predict", status="200")


@pytest.mark.long
def test_one_scrape_has_all_replicas_and_no_sum_falls_when_one_is_killed(supervised):
    service = supervised("--replicas", "2")
    facts = service.until_ready(2)
    predict(service, 40)
    first = until(service, lambda scrape: answered(scrape) == 40)
    assert first.replicas("hooke_ready") == {"1", "2"}
    assert first.sum("hooke_ready") == 2
    assert first.sum("hooke_replicas", state="ready") == first.sum("hooke_replicas_wanted") == 2
    kill(facts["replicas"][0]["pid"])
    predict(service, 40)
    service.until(r"replica 3 is ready")
    sent = 80
    while "3" not in Scrape(service).replicas("hooke_requests"):  # the proxy may hear of it a moment later
        predict(service, 10)
        sent += 10
        assert sent < 2000
    last = until(service, lambda scrape: answered(scrape) == sent and scrape.sum("hooke_ready") == 2)
    assert last.replicas("hooke_requests") == {"1", "2", "3"}
    assert last.replicas("hooke_ready") == {"2", "3"}
    after = last.counters()
    assert all(after[which] >= value for which, value in first.counters().items())
    took = "hooke_request_duration_seconds"
    assert last.sum(took, f"{took}_count", route="/predict") == sent
    assert last.sum(took, f"{took}_bucket", route="/predict", le="+Inf") == sent
    assert last.sum("hooke_batch_rows", "hooke_batch_rows_sum") == sent
    assert last.sum("hooke_replica_ends", cause="signal") == 1
    assert last.sum("hooke_supervisor_events", event="replica_started") == 3
    front = until(service, lambda scrape: scrape.sum("hooke_front_requests") >= sent)
    assert front.sum("hooke_front_answers", **{"class": "5xx"}) == 0
    assert front.sum("hooke_front_up") == 1
    assert service.end() == 0


@pytest.mark.long
def test_nobody_reads_it_without_the_token_and_a_dead_supervisor_is_said(supervised):
    service = supervised("--replicas", "2", "--lease", "20")
    service.until_ready(2)
    assert asked(service, token="")[0] == asked(service, token="0123456789abcdef")[0] == 401
    assert asked(service, host="evil.example")[0] == asked(service, origin="http://evil.example")[0] == 403
    assert asked(service, method="POST", body={})[0] == 405
    assert asked(service, method="HEAD") == (200, "")
    assert asked(service, "/-/metrics?x=1")[0] == 200
    service.process.kill()
    service.process.wait()
    status, said = asked(service)
    assert (status, json.loads(said)["title"]) == (503, "Service Unavailable")
    assert "the supervisor" in json.loads(said)["detail"]
    predict(service, 3)
    again = supervised("--replicas", "2")
    again.until(r"2 of 2 replicas answer")
    until(again, lambda scrape: scrape.replicas("hooke_ready") == {"1", "2"})
    assert again.end() == 0


@pytest.mark.long
def test_status_shows_each_replica_and_the_front(supervised, folder):
    service = supervised("--replicas", "2")
    service.until_ready(2)
    predict(service, 60)
    until(service, lambda scrape: answered(scrape) == 60 and scrape.sum("hooke_front_requests") >= 60)
    facts = service.status()
    assert facts["front"]["requests"] >= 60
    assert facts["front"]["answers"]["5xx"] == facts["front"]["ejected"] == 0
    assert {"retries", "not_retried", "connections", "memory_bytes"} <= facts["front"].keys()
    for one in facts["replicas"]:
        assert one["rate"] > 0
        assert 0 < one["p99_s"] < 30
    done = hooke(folder, "status")
    assert done.returncode == 0
    assert "p99" in done.stdout
    assert "Envoy" in done.stdout
    assert service.end() == 0


def test_envoy_is_asked_for_its_numbers_once_a_second():
    import dataclasses

    from hooke.services.supervisor.proxy_process import _ProxyProcess
    from hooke.serving.metrics import ProxyStats

    class Numbers:
        asked = 0

        def stats(self):
            self.asked += 1
            return ProxyStats(**{field.name: 0 for field in dataclasses.fields(ProxyStats)})

    process = object.__new__(_ProxyProcess)  # without an Envoy and a supervisor
    process._picker = process._keeper = process._stats = None
    process._proxy = numbers = Numbers()
    for seconds_ago, asked in ((1.0, 1), (-100.0, 1), (1.0, 2)):
        process._looked = time.monotonic() - seconds_ago
        assert process._stats_now() is not None
        assert numbers.asked == asked
