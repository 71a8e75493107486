"""A fully cached re-run of a pipeline with two 100 MB results: work after start, in one fresh process per system."""

import subprocess
import sys

import pytest

PREPARE = """
import sys, time
import numpy as np
MANY = int(sys.argv[1])
"""

HOOKE = (
    PREPARE
    + """
from hooke import task, pipeline, run
@task
def make(n: int) -> np.ndarray: return np.arange(n, dtype=np.float64)
@task
def double(x: np.ndarray) -> np.ndarray: return 2 * x
@task
def total(x: np.ndarray) -> float: return float(x.sum())
@pipeline
def job(n: int):
    first = make(n)
    second = double(first)
    return {"total": total(second), "second": second}
begun = time.perf_counter()
answer = run(job, on="serial", n=MANY)
ran = time.perf_counter()
got = answer.result()
opened = time.perf_counter()
assert got["second"][3] == 6.0
print(ran - begun, opened - ran)
"""
)

JOBLIB = (
    PREPARE
    + """
from joblib import Memory
memory = Memory("cache", mmap_mode="r", verbose=0)
@memory.cache
def make(n): return np.arange(n, dtype=np.float64)
@memory.cache
def double(x): return 2 * x
@memory.cache
def total(x): return float(x.sum())
begun = time.perf_counter()
second = double(make(MANY))
answer = total(second)
ran = time.perf_counter()
assert second[3] == 6.0
print(ran - begun, 0.0)
"""
)

PREFECT = (
    PREPARE
    + """
from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE
policy = INPUTS + TASK_SOURCE
@task(cache_policy=policy, persist_result=True)
def make(n): return np.arange(n, dtype=np.float64)
@task(cache_policy=policy, persist_result=True)
def double(x): return 2 * x
@task(cache_policy=policy, persist_result=True)
def total(x): return float(x.sum())
@flow
def job(n):
    second = double(make(n))
    return total(second), second
begun = time.perf_counter()
answer, second = job(MANY)
ran = time.perf_counter()
assert second[3] == 6.0
print(ran - begun, 0.0)
"""
)


def measure(project, source: str, many: int) -> tuple[float, float]:
    """`(seconds of the run, seconds to open its result)` in a fresh process."""
    (project / "job.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "job.py", str(many)], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run_s, open_s = map(float, done.stdout.split()[-2:])
    return run_s, open_s


@pytest.mark.benchmark(group="cached re-run with two 100 MB arrays")
@pytest.mark.parametrize(("system", "source"), [("hooke", HOOKE), ("joblib", JOBLIB), ("prefect", PREFECT)])
def test_cached_rerun(benchmark, project, system, source):
    many = 12_500_000  # float64: 100 MB
    measure(project, source, many)
    rounds = [measure(project, source, many) for _ in range(3)]
    run_s = sorted(run for run, _ in rounds)[1]
    open_s = sorted(opening for _, opening in rounds)[1]
    benchmark.extra_info |= {"run_s": run_s, "open_s": open_s}
    benchmark.pedantic(measure, args=(project, source, many), rounds=1)
    print(f"\n{system}: cached run {1000 * run_s:.1f} ms, opening its result {1000 * open_s:.2f} ms")


@pytest.mark.benchmark(group="opening a stored array")
def test_opening_is_flat_in_size(benchmark, project):
    sizes = {}
    for many in (125_000, 1_250_000, 12_500_000, 125_000_000):
        measure(project, HOOKE, many)
        sizes[8 * many // 10**6] = 1000 * min(measure(project, HOOKE, many)[1] for _ in range(3))
    benchmark.extra_info |= {f"{size} MB": f"{ms:.2f} ms" for size, ms in sizes.items()}
    benchmark.pedantic(measure, args=(project, HOOKE, 125_000), rounds=1)
    print("\nopening:", ", ".join(f"{size} MB in {ms:.2f} ms" for size, ms in sizes.items()))
