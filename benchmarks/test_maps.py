"""A map of a million items: per item, and what the driver needs for it. Maps on warm clusters beside the same work chunked by hand."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from benchmarks.private_network import enter_private_network

SOURCE = """
import resource, sys, time
from hooke import task, pipeline, run

@task
def inc(x: int) -> int: return x + 1

@task
def total(xs: list[int]) -> int: return sum(xs)

@pipeline
def mapped(n: int): return total(inc.map(range(n)))

if __name__ == "__main__":
    begun = time.perf_counter()
    run(mapped, on="local:2", n=int(sys.argv[1]))
    seconds = time.perf_counter() - begun
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measure(project, n: int) -> tuple[float, int]:
    """`(seconds, peak MB of the driver)` in a fresh process and store; worker start-up included."""
    shutil.rmtree(project / ".hooke", ignore_errors=True)
    (project / "job.py").write_text(SOURCE)
    done = subprocess.run(
        [sys.executable, "job.py", str(n)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


@pytest.mark.benchmark(group="a map of a million items")
def test_a_million_items(benchmark, project):
    figures = {n: measure(project, n) for n in (250_000, 1_000_000)}
    benchmark.extra_info |= {str(n): f"{s:.2f} s, driver {mb} MB" for n, (s, mb) in figures.items()}
    benchmark.pedantic(measure, args=(project, 1000), rounds=1)
    for n, (seconds, peak) in figures.items():
        print(f"\n{n:,} items: {seconds:.2f} s, driver's peak {peak} MB")
    assert figures[1_000_000][1] < 1000


PROGRAM = Path(__file__).parent / "map_programs.py"


@pytest.mark.timeout(600)
@pytest.mark.benchmark(group="maps on clusters")
@pytest.mark.parametrize("system", ["dask", "dask-fleet", "ray-fleet"])
def test_beside_chunks_by_hand(benchmark, project, system):
    shutil.copy(PROGRAM, project)
    done = subprocess.run(
        [sys.executable, PROGRAM.name, system],
        cwd=project,
        env=os.environ | {"HOME": str(project), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=enter_private_network,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, pairs in json.loads(done.stdout.splitlines()[-1]).items():
        said = []
        for place, what in enumerate(("ms", "ms of CPU")):
            ours, by_hand = ([1e3 * side[place] for side in sides] for sides in zip(*pairs, strict=True))
            ratio = median(a / b for a, b in zip(ours, by_hand, strict=True))
            benchmark.extra_info[f"{name}, {what}"] = ratio
            said.append(f"{median(ours):.0f} {what}, by hand {median(by_hand):.0f}, {ratio:.2f}x")
        print(f"\n{system}, {name}: " + "; ".join(said))
    benchmark.pedantic(lambda: None, rounds=1)
