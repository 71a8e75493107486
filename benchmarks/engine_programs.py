"""One program of `test_engine.py`: `python engine_programs.py SYSTEM` prints JSON, figure name -> one value a repeat.

Workers are warm: each system ran something before the clock starts. Two workers everywhere, defaults otherwise.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hooke import pipeline, run, task

REPEATS = 3
TASKS, STEPS = 1000, 200
LARGE = 12_500_000
"""float64: 100 MB."""


def inc(x: int) -> int:
    return x + 1


def make(_: int) -> tuple[Any, float]:
    array = np.ones(LARGE)
    return array, time.time()


def handed(made: tuple[Any, float]) -> float:
    """Seconds from the end of `make` to the first element of its array here."""
    array, ended = made
    assert array[0] == 1.0
    return time.time() - ended


hooke_inc, hooke_make, hooke_handed = task(inc), task(make), task(handed)


@pipeline
def fanned(begin: int, many: int):
    return [hooke_inc(x) for x in range(begin, begin + many)]


@pipeline
def chained(begin: int, many: int):
    x: Any = begin
    for _ in range(many):
        x = hooke_inc(x)
    return x


@pipeline
def mapped(begin: int, many: int):
    return hooke_inc.map(range(begin, begin + many))


@pipeline
def large(begin: int):
    return hooke_handed(hooke_make(begin))


@pipeline
def small(begin: int):
    return hooke_inc(hooke_inc(begin)), hooke_inc.map(range(begin, begin + 4))


class Hooke:
    """Journal, store and retries on."""

    items = 20_000

    def fan(self, begin: int, many: int) -> object:
        return run(fanned, on="local:2", begin=begin, many=many).result()

    def chain(self, begin: int, many: int) -> object:
        return run(chained, on="local:2", begin=begin, many=many).result()

    def map(self, begin: int, many: int) -> object:
        return run(mapped, on="local:2", begin=begin, many=many).result()

    def hand(self, begin: int) -> float:
        return run(large, on="local:2", begin=begin).result()


class Pool:
    """concurrent.futures and loky."""

    items = 20_000

    def __init__(self, executor: Any) -> None:
        self.executor = executor

    def fan(self, begin: int, many: int) -> object:
        futures = [self.executor.submit(inc, x) for x in range(begin, begin + many)]
        return [future.result() for future in futures]

    def chain(self, begin: int, many: int) -> object:
        for _ in range(many):
            begin = self.executor.submit(inc, begin).result()
        return begin

    def map(self, begin: int, many: int) -> object:
        return list(self.executor.map(inc, range(begin, begin + many), chunksize=50))

    def hand(self, begin: int) -> float:
        return self.executor.submit(handed, self.executor.submit(make, begin).result()).result()


class Dask(Pool):
    items = 2000

    def __init__(self) -> None:
        from distributed import Client, LocalCluster

        cluster = LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
        super().__init__(Client(cluster))

    def fan(self, begin: int, many: int) -> object:
        return self.executor.gather([self.executor.submit(inc, x) for x in range(begin, begin + many)])

    def chain(self, begin: int, many: int) -> object:
        x: Any = begin
        for _ in range(many):
            x = self.executor.submit(inc, x)
        return x.result()

    def map(self, begin: int, many: int) -> object:
        return self.executor.gather(self.executor.map(inc, range(begin, begin + many), batch_size=1000))

    def hand(self, begin: int) -> float:
        return self.executor.submit(handed, self.executor.submit(make, begin)).result()


class Ray:
    items = 2000

    def __init__(self) -> None:
        import ray

        self.ray = ray
        self.place = tempfile.TemporaryDirectory(prefix="hr", ignore_cleanup_errors=True)
        ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=self.place.name)
        self.inc, self.make, self.handed = (ray.remote(function) for function in (inc, make, handed))

    def fan(self, begin: int, many: int) -> object:
        return self.ray.get([self.inc.remote(x) for x in range(begin, begin + many)])

    def chain(self, begin: int, many: int) -> object:
        x: Any = begin
        for _ in range(many):
            x = self.inc.remote(x)
        return self.ray.get(x)

    map = fan

    def close(self) -> None:
        self.ray.shutdown()
        time.sleep(1)  # its processes write to the folder as they end
        self.place.cleanup()

    def hand(self, begin: int) -> float:
        return self.ray.get(self.handed.remote(self.make.remote(begin)))


def system_of(name: str) -> Any:
    """The system called so, its workers started."""
    if name == "pool":
        from concurrent.futures import ProcessPoolExecutor

        return Pool(ProcessPoolExecutor(2))
    if name == "loky":
        from loky import get_reusable_executor

        return Pool(get_reusable_executor(2))
    return {"hooke": Hooke, "dask": Dask, "ray": Ray}[name]()


def timed(call: Callable[..., object], *arguments: int) -> float:
    begun = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begun


def measure(system: Any) -> dict[str, list[float]]:
    """Each figure, once a repeat: us a task, a link and an item, ms of the hand-over."""
    system.fan(-10_000, 20)
    figures: dict[str, list[float]] = {"task": [], "link": [], "item": [], "hand": []}
    for repeat in range(REPEATS):
        begin = 10_000_000 * (repeat + 1)
        figures["task"].append(1e6 * timed(system.fan, begin, TASKS) / TASKS)
        figures["link"].append(1e6 * timed(system.chain, begin + 3_000_000, STEPS) / STEPS)
        figures["item"].append(1e6 * timed(system.map, begin + 5_000_000, system.items) / system.items)
        figures["hand"].append(1e3 * system.hand(repeat))
    return figures


def second_runs() -> dict[str, list[float]]:
    """Hooke alone: ms of another run of a small pipeline in one process, with other parameters and with the same."""
    run(small, on="local:2", begin=0)
    figures: dict[str, list[float]] = {"second run": [], "second run, cached": []}
    for repeat in range(1, 8):
        figures["second run"].append(
            1e3 * timed(lambda n: run(small, on="local:2", begin=n).result(), 100 * repeat)
        )
        figures["second run, cached"].append(
            1e3 * timed(lambda n: run(small, on="local:2", begin=n).result(), 0)
        )
    return figures


def handed_on() -> dict[str, list[float]]:
    """Hooke alone: ms of the hand-over and of a bare write of as many bytes beside its store, each to pages that are free at once.

    The system gives the pages of a deleted file out again at once; fresh ones it may have to get first, from
    other files or, on a virtual machine, from the host.
    """
    store, bare, data = Path(".hooke/store"), Path("bare"), memoryview(np.ones(LARGE)).cast("B")
    figures: dict[str, list[float]] = {"hand, free pages": [], "write, free pages": []}
    for repeat in range(1, 6):
        shutil.rmtree(store, ignore_errors=True)
        figures["write, free pages"].append(1e3 * timed(write, bare, data))
        bare.unlink()
        figures["hand, free pages"].append(1e3 * Hooke().hand(1000 + repeat))
    return figures


def write(path: Path, data: memoryview) -> None:
    """All of `data` to a new file, in the largest pieces that the store writes."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), 64 << 20):
            file.write(data[start : start + (64 << 20)])


if __name__ == "__main__":
    chosen = system_of(sys.argv[1])
    print(json.dumps(measure(chosen) | (second_runs() | handed_on() if sys.argv[1] == "hooke" else {})))
    if isinstance(chosen, Ray):
        chosen.close()
