"""A guard in passing: what a request costs on Hooke, beside a bare ASGI app on uvicorn in the same run. The table has the peers."""

from __future__ import annotations

import pytest
from benchmarks.serving.__main__ import Comparison, Plan
from benchmarks.serving.peers import BARE, HOOKE


@pytest.mark.benchmark(group="serving: CPU of a request")
@pytest.mark.parametrize("kind", ["echo", "rows", "predict"])
def test_a_request_beside_bare_uvicorn(benchmark, tmp_path, kind):
    """Rounds alternate, and the least of each counts."""
    comparison = Comparison(Plan(rounds=4, seconds=1.0), tmp_path, only=["none"])
    benchmark.pedantic(lambda: comparison.run([kind]), rounds=1, iterations=1)
    ours, bare = (comparison.rows[peer.title, kind].best for peer in (HOOKE, BARE))
    benchmark.extra_info |= {"ours": f"{ours.cpu_us:.1f} us", "bare": f"{bare.cpu_us:.1f} us"}
    benchmark.extra_info["mean batch"] = f"{ours.mean_batch:.0f}, {bare.mean_batch:.0f}"
    print("\nCPU of a request:", benchmark.extra_info)
    assert ours.cpu_us < 1.5 * bare.cpu_us
