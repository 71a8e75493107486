"""A scheduler against an object server that answers after 30 ms: nodes a second, new and stored, beside one another and in chains."""

from __future__ import annotations

import itertools

import pytest
from tests.store.counted_files import counted
from tests.store.test_requests import SLOTS, chains, drive, wide

LATENCY_S = 0.03


@pytest.fixture
def server():
    with counted(LATENCY_S) as server:
        yield server


GRAPHS = {"2,000 calls": (wide, 2000, 2000), "40 chains of 25 calls": (chains, 25, 25 * SLOTS)}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
@pytest.mark.benchmark(group="store: a driver and 30 ms a request")
def test_driver(benchmark, server, tmp_path, graph, stored):
    """The driver runs the tasks itself, which takes most of its time where other work is on the machine, too."""
    body, size, nodes = GRAPHS[graph]
    runs = itertools.count()
    drive(tmp_path, body, size, run="before")

    def new():
        if not stored:
            server.files.clear()
        server.reset()

    ran = benchmark.pedantic(
        lambda: drive(tmp_path, body, size, run=f"run-{next(runs)}"), setup=new, rounds=3
    )
    assert ran == (0 if stored else nodes)
    benchmark.extra_info["nodes a second"] = nodes / benchmark.stats.stats.median
    benchmark.extra_info["requests a node"] = len(server.requests) / nodes
    benchmark.extra_info["seconds of waiting"] = server.rounds * LATENCY_S
