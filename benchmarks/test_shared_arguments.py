"""One large argument of many calls: CPU of the driver a call, first and cached, beside a pool that gets the same arguments."""

import resource
import subprocess
import sys

import pytest

SOURCE = """
import dataclasses, os, resource, sys, time
import numpy, pandas, polars
from concurrent.futures import ProcessPoolExecutor
from hooke import task, pipeline, run

N = 100_000

@dataclasses.dataclass
class Rows:
    names: list
    values: list

def made(kind):
    match kind:
        case "dict": return {f"key-{i}": i for i in range(N)}
        case "list of lists": return [[i, i + 1] for i in range(N)]
        case "text": return "x" * 8 * N
        case "array": return numpy.arange(float(N))
        case "pandas": return pandas.DataFrame({"a": numpy.arange(N), "b": numpy.arange(float(N))})
        case "polars": return polars.DataFrame({"a": numpy.arange(N), "b": numpy.arange(float(N))})
        case "dataclass": return Rows([f"key-{i}" for i in range(N)], list(range(N)))

def plain(value, at): return at

@task
def use(value, at): return at

@pipeline
def many(kind: str, calls: int):
    value = made(kind)
    return [use(value, at) for at in range(calls)]

def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

def pooled(kind, calls):
    with ProcessPoolExecutor(2) as pool:
        value = made(kind)
        return [each.result() for each in [pool.submit(plain, value, at) for at in range(calls)]]

if __name__ == "__main__":
    kind, calls = sys.argv[1], int(sys.argv[2])
    run(many, on="local:2", kind="text", calls=3)
    for act in (lambda: run(many, on="local:2", kind=kind, calls=calls).result(),) * 2 + (lambda: pooled(kind, calls),):
        before = cpu_s()
        assert act() == list(range(calls))
        print((cpu_s() - before) / calls)
"""
KINDS = ["dict", "list of lists", "text", "array", "pandas", "polars", "dataclass"]


@pytest.mark.benchmark(group="one large argument of 200 calls")
@pytest.mark.parametrize("kind", KINDS)
def test_an_argument_of_200_calls(benchmark, project, kind):
    (project / "job.py").write_text(SOURCE)

    def measure() -> list[float]:
        done = subprocess.run(
            [sys.executable, "job.py", kind, "200"], cwd=project, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return [float(each) * 1e3 for each in done.stdout.split()]

    first, again, pool = benchmark.pedantic(measure, rounds=1)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    benchmark.extra_info |= {"first ms": first, "cached ms": again, "pool ms": pool}
    print(
        f"\n{kind}: {first:.1f} ms of the driver's CPU a call, cached {again:.1f}, pool {pool:.1f}; peak {workers} MB"
    )
    assert first < 5 * pool + 20
