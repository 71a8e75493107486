"""One program of `test_maps.py`: `python map_programs.py SYSTEM` prints JSON, what was timed -> for each repeat what Hooke took and what it took by hand,
each as [seconds, CPU seconds of this process and all below it, the cluster's included].

SYSTEM is `dask` (a LocalCluster that the run joins), `dask-fleet` or `ray-fleet`, each of two workers that have run both before. By hand the same cluster
gets the same items in CHUNKS pieces, from the same process. Its workers return their pieces pickled, since Dask takes a list apart into its elements.
Hooke's store is new in each run: by hand nothing is kept. The journals of earlier runs stay, which say how long items take.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import psutil

from hooke import Fleet, pipeline, run, task

REPEATS = 5
CHUNKS = 12
SIZES = {"200 items": (200, 0.0), "200,000 items": (200_000, 0.0), "5,000 items of 400 us": (5000, 0.0004)}
"""Name -> how many items, and the seconds of each beside x + 1."""

os.environ |= {"HOOKE_SINKS": "none", "HOOKE_PROGRESS": "none"}


def inc(x: int, busy_s: float) -> int:
    if busy_s:
        end = time.process_time() + busy_s
        while time.process_time() < end:
            pass
    return x + 1


hooke_inc = task(inc)


@pipeline
def mapped(begin: int, many: int, busy_s: float) -> Any:
    return hooke_inc.map(range(begin, begin + many), busy_s=busy_s)


def chunk(items: range, busy_s: float) -> bytes:
    return pickle.dumps([inc(x, busy_s) for x in items], protocol=5)


def chunks(begin: int, many: int) -> list[range]:
    size = -(-many // CHUNKS)
    return [range(lo, min(lo + size, begin + many)) for lo in range(begin, begin + many, size)]


def joined(parts: Sequence[bytes]) -> list[int]:
    return [x for part in parts for x in pickle.loads(part)]


class Dask:
    def __init__(self, stack: ExitStack, *, fleet: bool) -> None:
        from distributed import Client, LocalCluster

        if fleet:
            self.at: Any = stack.enter_context(Fleet("dask", workers=2))
            self._client: Any = self.at.client()
        else:
            options: Any = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": 50}
            self.at = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1, **options))
            self._client = stack.enter_context(Client(self.at))

    def by_hand(self, begin: int, many: int, busy_s: float) -> list[int]:
        futures = self._client.map(chunk, chunks(begin, many), busy_s=busy_s, pure=False)
        return joined(self._client.gather(futures))


class Ray:
    def __init__(self, stack: ExitStack, *, fleet: bool) -> None:
        assert fleet
        self.at = stack.enter_context(Fleet("ray", workers=2))
        self.at.client()
        import ray

        self._ray: Any = ray
        self._chunk: Any = ray.remote(chunk)

    def by_hand(self, begin: int, many: int, busy_s: float) -> list[int]:
        return joined(self._ray.get([self._chunk.remote(part, busy_s) for part in chunks(begin, many)]))


def cpu_s() -> float:
    total = 0.0
    for each in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            used = each.cpu_times()
            total += used.user + used.system
    return total


def timed(act: Callable[..., list[int]], begin: int, many: int, busy_s: float) -> tuple[float, float]:
    used, start = cpu_s(), time.perf_counter()
    result = act(begin, many, busy_s)
    seconds = time.perf_counter() - start
    assert result == list(range(begin + 1, begin + many + 1))
    return seconds, cpu_s() - used


def measure(system: Any) -> dict[str, list[tuple[tuple[float, float], tuple[float, float]]]]:
    def ours(begin: int, many: int, busy_s: float) -> Any:
        return run(mapped, on=system.at, begin=begin, many=many, busy_s=busy_s).result()

    figures: dict[str, list[tuple[tuple[float, float], tuple[float, float]]]] = {name: [] for name in SIZES}
    for repeat in range(REPEATS + 1):
        for number, (name, (many, busy_s)) in enumerate(SIZES.items()):
            shutil.rmtree(".hooke/store", ignore_errors=True)
            begin = 10_000_000 * repeat + 1_000_000 * number
            pair = timed(ours, begin, many, busy_s), timed(system.by_hand, begin, many, busy_s)
            if repeat:  # the first is not warm
                figures[name].append(pair)
    return figures


if __name__ == "__main__":
    kind, _, fleet = sys.argv[1].partition("-")
    systems: dict[str, Any] = {"dask": Dask, "ray": Ray}
    with ExitStack() as stack:
        print(json.dumps(measure(systems[kind](stack, fleet=bool(fleet)))))
