"""Nodes a second of a driver with eight workers and a store that takes 30 ms a request; `python -m benchmarks.latency` has more."""

from __future__ import annotations

from statistics import median

import pytest
from benchmarks.latency import GRAPHS, LATENCY_S, measured_often, slow_server

NODES = 2000


@pytest.fixture(scope="module")
def server():
    with slow_server(LATENCY_S) as found:
        yield found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.benchmark(group="store: eight workers and 30 ms a request")
def test_driver(benchmark, server, graph):
    """Beside the same with a store in a folder: on busy cores the workers limit both."""

    def measure():
        return list(measured_often(*server, graph, 8, NODES, rounds=3))

    for which, found in benchmark.pedantic(measure, rounds=1):
        benchmark.extra_info[f"{which}: nodes a second"] = median(each.nodes_s for each in found)
        benchmark.extra_info[f"{which}: requests a node"] = median(each.requests for each in found)
