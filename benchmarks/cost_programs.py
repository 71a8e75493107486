"""One program of `costs.py`: `python cost_programs.py SECTION` prints JSON, what was timed -> one entry a repeat.

An entry of two systems is a pair, Hooke's first, each [seconds, CPU seconds of this process and all below it]. The two take turns, each has two
warm workers and has run the work before. Hooke has all its defaults: journal, stored results, observed inputs, clean workers.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from json import dumps
from pathlib import Path
from typing import Any

import psutil

from hooke import pipeline, run, task

REPEATS, HANDS = 5, 20
CALLS, LINKS, NODES = 6000, 200, 20_000
FEW, MANY = 1000, 1_000_000
ITEMS = 10_000_000
LARGE = 12_500_000
"""float64: 100 MB."""

Cost = tuple[float, float]

os.environ |= {"HOOKE_SINKS": "none"}


def inc(x: int) -> int:
    return x + 1


def make(_: int) -> tuple[Any, float]:
    import numpy as np  # here, since other programs measure their memory

    array = np.ones(LARGE)
    return array, time.time()


def handed(made: tuple[Any, float]) -> float:
    """Seconds from the end of `make` to the first element of its array here."""
    array, ended = made
    assert array[0] == 1.0
    return time.time() - ended


hooke_inc, hooke_make, hooke_handed = task(inc), task(make), task(handed)


@task
def count(xs: list[int]) -> int:
    return len(xs)


@pipeline
def fanned(begin: int, many: int) -> Any:
    return [hooke_inc(x) for x in range(begin, begin + many)]


@pipeline
def chained(begin: int, many: int) -> Any:
    x: Any = begin
    for _ in range(many):
        x = hooke_inc(x)
    return x


@pipeline
def mapped(many: int) -> Any:
    return count(hooke_inc.map(range(many)))


@pipeline
def counted(begin: int, many: int) -> Any:
    return count([hooke_inc(x) for x in range(begin, begin + many)])


@pipeline
def large(begin: int) -> Any:
    return hooke_handed(hooke_make(begin))


def cpu_s() -> float:
    total = 0.0
    for each in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            used = each.cpu_times()
            total += used.user + used.system
    return total


def timed(act: Callable[..., Any], *arguments: Any) -> Cost:
    used, start = cpu_s(), time.perf_counter()
    act(*arguments)
    seconds = time.perf_counter() - start
    return seconds, cpu_s() - used


def peak_mb() -> float:
    """The most that this program held. `ru_maxrss` would count what its parent held when it forked."""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def through_hooke(what: Any, **params: Any) -> Any:
    return run(what, on="local:2", **params).result()


def in_turns(ours: Callable[[int], Any], theirs: Callable[[int], Any]) -> list[tuple[Cost, Cost]]:
    """Each with numbers that are new to it; the first pair is not warm."""
    pairs = [
        (timed(ours, 10_000_000 * repeat), timed(theirs, 10_000_000 * repeat))
        for repeat in range(REPEATS + 1)
    ]
    return pairs[1:]


def calls() -> dict[str, Any]:
    with ProcessPoolExecutor(2) as pool:

        def by_pool(begin: int) -> list[int]:
            return [each.result() for each in [pool.submit(inc, x) for x in range(begin, begin + CALLS)]]

        pairs = in_turns(lambda begin: through_hooke(fanned, begin=begin, many=CALLS), by_pool)
    return {"calls": CALLS, "pairs": pairs}


def chain() -> dict[str, Any]:
    with ProcessPoolExecutor(2) as pool:

        def by_pool(begin: int) -> None:
            for _ in range(LINKS):
                begin = pool.submit(inc, begin).result()

        pairs = in_turns(lambda begin: through_hooke(chained, begin=begin, many=LINKS), by_pool)
    return {"links": LINKS, "pairs": pairs}


def cached() -> dict[str, Any]:
    """The driver alone: no worker has anything to do."""

    def again() -> float:
        used = time.process_time()
        through_hooke(counted, begin=0, many=NODES)
        return time.process_time() - used

    again()
    return {"nodes": NODES + 1, "cpu_s": [again() for _ in range(REPEATS)]}


def hand() -> dict[str, Any]:
    """Most of the time depends on the pages that are written to: those that were free for long the system may have to get first.

    So it is the same for both: before its turn, each removes what it wrote the last time, and makes the array anew; and they take turns in
    who comes first.
    """
    import numpy as np
    from blake3 import blake3

    path = Path("bare")

    def ours(repeat: int) -> float:
        shutil.rmtree(".hooke/store", ignore_errors=True)
        return float(through_hooke(large, begin=repeat))

    def bare(_: int) -> float:
        path.unlink(missing_ok=True)
        data = memoryview(np.ones(LARGE)).cast("B")
        start = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for at in range(0, len(data), 64 << 20):
                file.write(data[at : at + (64 << 20)])
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped_file:
            blake3(mapped_file).digest()
        return time.perf_counter() - start

    pairs = []
    for repeat in range(HANDS + 1):
        turns = (ours, bare) if repeat % 2 else (bare, ours)
        seconds = {each: each(repeat) for each in turns}
        pairs.append((seconds[ours], seconds[bare]))
    return {"bytes": 8 * LARGE, "pairs": pairs[1:]}


def nodes() -> dict[str, Any]:
    """The driver's CPU and that of all for a call, in a graph of few and of many calls, and what the driver holds at most."""
    through_hooke(fanned, begin=-FEW, many=FEW)
    found: dict[str, Any] = {"few": FEW, "many": MANY, "costs of few": [], "driver's CPU of few": []}
    for repeat in range(REPEATS):
        used = time.process_time()
        found["costs of few"].append(timed(_ran, FEW, 2_000_000 + FEW * repeat))
        found["driver's CPU of few"].append(time.process_time() - used)
    used = time.process_time()
    found["cost of many"] = timed(_ran, MANY, 10_000_000)
    found |= {"driver's CPU of many": time.process_time() - used, "driver's peak MB": peak_mb()}
    return found


def _ran(many: int, begin: int) -> None:
    run(fanned, on="local:2", begin=begin, many=many)


def items() -> dict[str, Any]:
    through_hooke(mapped, many=10)
    cost = timed(lambda: through_hooke(mapped, many=ITEMS))
    return {"items": ITEMS, "cost": cost, "driver's peak MB": peak_mb()}


PROGRAMS = (calls, chain, cached, hand, nodes, items)

if __name__ == "__main__":
    print(dumps({each.__name__: each for each in PROGRAMS}[sys.argv[1]]()))
