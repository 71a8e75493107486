"""Real replicas, a real Envoy, and an open-loop load of several times their capacity: shares and counts, not times."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from tests.services.supervisor.supervised import LIMIT_S, Supervised, end_all
from tests.services.supervisor.waiting_service import BATCH, BATCH_S

from hooke.loadtest.generator_protocol import Goal
from hooke.loadtest.load_test import Generator, outcomes_of
from hooke.loadtest.target import parse_target, poisson, request_bytes

pytestmark = pytest.mark.needs("processes")

REPLICAS = 2
CAPACITY = REPLICAS * BATCH / BATCH_S
"""Requests a second."""
SLO_S = 0.8


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overload")
    shutil.copy(Path(__file__).with_name("waiting_service.py"), folder)
    service = Supervised(folder, "--replicas", str(REPLICAS), file="waiting_service.py")
    try:
        service.until_ready(REPLICAS)
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
        end_all(folder)


def asked(service, *, priority=""):
    """The bytes of one request."""
    target = parse_target(service.url)
    made = request_bytes(target, "/predict", b'{"rows": [1]}', token=service.token)
    head, blank, body = made.partition(b"\r\n\r\n")
    return head + (b"\r\nx-hooke-priority: " + priority.encode() if priority else b"") + blank + body


def load(service, rate, seconds, *, requests):
    target = parse_target(service.url)
    goal = Goal(host=target.host, port=target.port, requests=requests, connections=512)
    due = poisson(rate, seconds, 7)
    with Generator(goal) as generator:
        generator.run(np.zeros(1), timeout_s=10.0)  # its process has begun
        return outcomes_of(due, generator.run(due, timeout_s=10.0))


def front(service):
    return service.status()["front"]


@pytest.mark.long
def test_the_excess_is_refused_by_envoy_itself_and_the_goodput_stays(waiting):
    requests = (asked(waiting),)
    load(waiting, 0.5 * CAPACITY, 3.0, requests=requests)  # the law is measured
    seen = load(waiting, 5 * CAPACITY, 10.0, requests=requests)
    ok = seen.status == 200
    refused = np.isin(seen.status, (429, 503))
    assert (ok | refused).all(), np.unique(seen.status, return_counts=True)
    assert ok.sum() >= 0.5 * CAPACITY * 10.0
    took = seen.ended - seen.due
    # A busy machine adds to each; without admission by the SLO the median answer takes the timeout.
    assert np.median(took[ok]) < 2 * SLO_S
    assert np.median(took[refused]) < np.median(took[ok]) / 2
    assert metric(waiting, "hooke_front_shed_total") >= 0.5 * refused.sum()


@pytest.mark.long
def test_after_the_overload_nothing_is_refused(waiting):
    requests = (asked(waiting),)
    load(waiting, 4 * CAPACITY, 3.0, requests=requests)
    time.sleep(1.0)
    seen = load(waiting, 0.3 * CAPACITY, 4.0, requests=requests)
    assert (seen.status == 200).mean() >= 0.98


@pytest.mark.long
def test_low_priority_is_shed_first(waiting):
    requests = (asked(waiting), *[asked(waiting, priority="low")] * 7)
    seen = load(waiting, 4 * CAPACITY, 8.0, requests=requests)
    high = np.arange(len(seen)) % len(requests) == 0
    answered = seen.status == 200
    assert answered[high].mean() >= 0.8
    assert answered[~high].mean() <= 0.5
    assert answered[~high].any()


def metric(service, name):
    """A counter of the scrape."""
    import urllib.request

    request = urllib.request.Request(
        f"{service.url}/-/metrics", headers={"Authorization": f"Bearer {service.token}"}
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])
