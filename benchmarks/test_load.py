"""Why a load test must be an open loop: what both kinds say of one server that stalls now and then, in the same run."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from tests.loadtest.servers import Known, serving

from hooke.loadtest.generator_protocol import Goal
from hooke.loadtest.load_test import Generator, outcomes_of
from hooke.loadtest.target import Target, poisson, request_bytes

SECONDS, STALL_EVERY_S, STALL_S = 6.0, 1.0, 0.2
CONNECTIONS = 8


def stalling() -> Known:
    """A server of 1 ms an answer that stops for 200 ms once a second."""
    last = time.monotonic()

    def answer(_count: int) -> tuple[int, bool]:
        nonlocal last
        if time.monotonic() - last > STALL_EVERY_S - STALL_S:
            time.sleep(STALL_S)
            last = time.monotonic()
        return 200, True

    return Known(latency_s=0.001, answer=answer)


def closed(port: int, request: bytes) -> np.ndarray:
    """As wrk and its like: each connection asks again when it has its answer, and the time counts from when it asked."""
    took: list[float] = []

    async def one(ends: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < ends:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rpartition(b"content-length: ")[2]))
            took.append(time.perf_counter() - began)
        writer.close()
        await writer.wait_closed()

    async def all_of_them() -> None:
        ends = time.perf_counter() + SECONDS
        await asyncio.gather(*(one(ends) for _ in range(CONNECTIONS)))

    asyncio.run(all_of_them())
    return np.array(took)


@pytest.mark.benchmark(group="load: what a stall costs its users")
def test_an_open_loop_beside_a_closed_one(benchmark):
    """The server stalls for a fifth of the time; who comes then waits 100 ms on the average. Only the open loop says so."""
    said: dict[str, np.ndarray] = {}

    def both() -> None:
        with serving(stalling()) as port:
            here = Target(host="127.0.0.1", port=port, path="", tls=False)
            request = request_bytes(here, "/predict", b"{}")
            said["closed"] = closed(port, request)
            due = poisson(300, SECONDS, 1)
            with Generator(Goal(host="127.0.0.1", port=port, requests=(request,))) as generator:
                outcomes = outcomes_of(due, generator.run(due, timeout_s=5))
            assert outcomes.answered.all()
            said["open"] = outcomes.latency

    benchmark.pedantic(both, rounds=1, iterations=1)
    p95 = {name: float(np.quantile(took, 0.95)) for name, took in said.items()}
    late = {name: float((took > 0.05).mean()) for name, took in said.items()}
    benchmark.extra_info |= {
        name: f"p95 {p95[name] * 1e3:.1f} ms, {late[name]:.2%} over 50 ms of {len(took):,}"
        for name, took in said.items()
    }
    benchmark.extra_info["ratio of p95"] = f"{p95['open'] / p95['closed']:.1f}"
    print("\nWhat a stall costs:", benchmark.extra_info)
    assert p95["open"] > 0.1, "a tenth of all wait for half of a stall or longer"
    assert late["open"] > 5 * late["closed"]
