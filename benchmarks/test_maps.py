"""Fan-outs, chains and a map of a million items: per item, and what the driver needs for them."""

import subprocess
import sys

import pytest

SOURCE = """
import resource, sys, time
from concurrent.futures import ProcessPoolExecutor
from hooke import task, pipeline, run

def plain(x): return x + 1

@task
def inc(x: int) -> int: return x + 1

@task
def total(xs: list[int]) -> int: return sum(xs)

@pipeline
def mapped(n: int): return total(inc.map(range(n)))

@pipeline
def fanned(n: int): return [inc(i) for i in range(n)]

@pipeline
def chained(n: int):
    x = 0
    for _ in range(n):
        x = inc(x)
    return x

def pool(shape, n):
    with ProcessPoolExecutor(2) as executor:
        list(executor.map(plain, range(4)))
        begun = time.perf_counter()
        if shape == "fanned":
            for future in [executor.submit(plain, i) for i in range(n)]: future.result()
        elif shape == "mapped":
            sum(executor.map(plain, range(n), chunksize=50))
        else:
            x = 0
            for _ in range(n): x = executor.submit(plain, x).result()
        return time.perf_counter() - begun

if __name__ == "__main__":
    system, shape, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    begun = time.perf_counter()
    seconds = pool(shape, n) if system == "pool" else None
    if seconds is None:
        begun = time.perf_counter()
        run(globals()[shape], on="local:2", n=n)
        seconds = time.perf_counter() - begun
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measure(project, system: str, shape: str, n: int) -> tuple[float, int]:
    """`(seconds, peak MB of the driver)` in a fresh process and, for Hooke, a fresh store; worker start-up included."""
    import shutil

    shutil.rmtree(project / ".hooke", ignore_errors=True)
    (project / "job.py").write_text(SOURCE)
    done = subprocess.run(
        [sys.executable, "job.py", system, shape, str(n)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


@pytest.mark.benchmark(group="per task, journal and store on")
@pytest.mark.parametrize(("shape", "n"), [("fanned", 2000), ("chained", 200), ("mapped", 100_000)])
def test_against_a_process_pool(benchmark, project, shape, n):
    ours = sorted(measure(project, "hooke", shape, n)[0] for _ in range(3))[1]
    theirs = sorted(measure(project, "pool", shape, n)[0] for _ in range(3))[1]
    benchmark.extra_info |= {"us per item": 1e6 * ours / n, "ProcessPoolExecutor": 1e6 * theirs / n}
    benchmark.pedantic(measure, args=(project, "hooke", shape, n), rounds=1)
    print(
        f"\n{shape}: {1e6 * ours / n:.1f} us an item, ProcessPoolExecutor {1e6 * theirs / n:.1f} ({ours / theirs:.2f}x)"
    )


@pytest.mark.benchmark(group="a map of a million items")
def test_a_million_items(benchmark, project):
    figures = {n: measure(project, "hooke", "mapped", n) for n in (250_000, 1_000_000)}
    benchmark.extra_info |= {str(n): f"{s:.2f} s, driver {mb} MB" for n, (s, mb) in figures.items()}
    benchmark.pedantic(measure, args=(project, "hooke", "mapped", 1000), rounds=1)
    for n, (seconds, peak) in figures.items():
        print(f"\n{n:,} items: {seconds:.2f} s, driver's peak {peak} MB")
    assert figures[1_000_000][1] < 1000
