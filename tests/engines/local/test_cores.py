"""Cores lent to workers, and workers bound to them: real processes that say where they may run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.engines.local import LocalEngine
from hooke.engines.worker.pool import THREAD_VARIABLES
from hooke.pipeline.engine import EngineContext
from hooke.processes.devices import Cores, cores_of_this_machine
from hooke.testing.engine_bench import EngineBench

binds = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process")


def test_the_least_used_cores_are_lent_first():
    cores = Cores((0, 2, 1, 3))
    assert cores.take(1) == (0,)
    assert cores.take(2) == (2, 1)
    assert cores.take(2) == (3, 0)
    cores.release((2, 1))
    assert cores.take(2) == (2, 1)
    assert cores.take(9) == (2, 1, 3, 0)


@pytest.mark.needs("cpu")
@given(st.lists(st.integers(1, 5), max_size=20), st.integers(1, 5))
def test_uses_stay_within_one_of_each_other(sizes, count):
    cores = Cores(range(count))
    lent = [core for size in sizes for core in cores.take(size)]
    uses = [lent.count(core) for core in range(count)]
    assert max(uses) - min(uses) <= 1


@binds
def test_the_cores_are_those_that_this_process_may_use():
    cores = cores_of_this_machine()
    assert set(cores.take(len(cores))) == os.sched_getaffinity(0)


class Pinning(LocalEngine):
    """A local engine whose workers are bound."""

    def __init__(self, context: EngineContext, *, workers: tuple[int, int] | None = None) -> None:
        super().__init__(replace(context, pinned=True), workers=workers)


def where_it_may_run(_: int) -> list[int]:
    return sorted(os.sched_getaffinity(0))


def variables() -> dict[str, str]:
    return dict(os.environ)


def processors_counted() -> dict[str, int]:
    """What libraries take for the number of processors, in a process with a thread count of one."""
    counted = {}
    if importlib.util.find_spec("joblib"):
        import joblib

        counted["joblib"] = joblib.cpu_count()
    if importlib.util.find_spec("polars"):
        import polars

        counted["polars"] = polars.thread_pool_size()
    code = "import os; print(getattr(os, 'process_cpu_count', os.cpu_count)())"
    if sys.version_info >= (3, 13):
        counted["python"] = int(subprocess.check_output([sys.executable, "-c", code]))
    return counted


@binds
@pytest.mark.needs("processes")
def test_pinned_workers_share_no_core_while_there_are_cores(tmp_path: Path) -> None:
    count = len(os.sched_getaffinity(0))
    with EngineBench(Pinning, tmp_path, workers=count) as bench:
        attempts = [bench.submit(where_it_may_run, number) for number in range(count)]
        answers = [bench.finished(attempt) for attempt in attempts]
        cores = {answer.worker: bench.value(answer.ref) for answer in answers}
    assert all(len(found) == 1 for found in cores.values())
    assert len({found[0] for found in cores.values()}) == len(cores)


@binds
@pytest.mark.needs("processes")
def test_a_pinned_worker_has_as_many_cores_as_threads(tmp_path: Path) -> None:
    count = len(os.sched_getaffinity(0))
    with EngineBench(Pinning, tmp_path, workers=1) as bench:
        for threads in (1, count, count + 1):
            answer = bench.finished(bench.submit(where_it_may_run, threads, cpus=threads))
            assert len(bench.value(answer.ref)) == min(threads, count)


@binds
@pytest.mark.needs("processes")
def test_workers_are_free_unless_asked(tmp_path: Path) -> None:
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        answer = bench.finished(bench.submit(where_it_may_run, 0))
        assert set(bench.value(answer.ref)) == os.sched_getaffinity(0)


@binds
@pytest.mark.needs("processes")
def test_warm_workers_keep_their_cores(tmp_path: Path) -> None:
    """A second run gets the worker that is bound to the core it wants; a run that binds nothing gets another."""

    class Warm(Pinning):
        def __init__(self, context: EngineContext, *, workers: tuple[int, int] | None = None) -> None:
            super().__init__(replace(context, warm=True), workers=workers)

    class Free(LocalEngine):
        def __init__(self, context: EngineContext, *, workers: tuple[int, int] | None = None) -> None:
            super().__init__(replace(context, warm=True), workers=workers)

    seen = []
    for make in (Warm, Warm, Free):
        with EngineBench(make, tmp_path, workers=1) as bench:
            answer = bench.finished(bench.submit(os.getpid))
            seen.append(
                (bench.value(answer.ref), bench.value(bench.finished(bench.submit(where_it_may_run, 0)).ref))
            )
    assert seen[0] == seen[1]
    assert len(seen[0][1]) == 1
    assert seen[2][0] != seen[0][0]
    assert set(seen[2][1]) == os.sched_getaffinity(0)


@pytest.mark.needs("processes")
def test_libraries_are_told_the_thread_count(tmp_path: Path) -> None:
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        answer = bench.finished(bench.submit(variables, cpus=3))
        told = bench.value(answer.ref)
        counted = bench.value(bench.finished(bench.submit(processors_counted)).ref)
    assert {name: told.get(name) for name in THREAD_VARIABLES} == dict.fromkeys(THREAD_VARIABLES, "3")
    assert set(counted.values()) <= {1}
