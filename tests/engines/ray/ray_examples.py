"""`python -m tests.engines.ray.ray_examples`: Ray's own code on a Hooke fleet, what its documentation shows in words of ours, unchanged but for `ray.init`.

A programme of its own, since Ray's library takes signals and the terminal of the process that uses it. It prints what
came of each example as JSON. The subjects are those of https://docs.ray.io (Ray Core: key concepts, user guides,
examples), and pipelines on the same fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray.util import ActorPool
from ray.util.multiprocessing import Pool
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.queue import Queue
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.fixtures.workshop import Workshop

from hooke import Fleet
from hooke.base.errors import HookeError

EXAMPLES: dict[str, Callable[[Fleet], None]] = {}


def example(function: Callable[[Fleet], None]) -> Callable[[Fleet], None]:
    EXAMPLES[function.__name__] = function
    return function


@ray.remote
def square(x: int) -> int:
    return x * x


@ray.remote
def add(a: int, b: int) -> int:
    return a + b


@example
def tasks(_: Fleet) -> None:
    assert ray.get([square.remote(n) for n in range(4)]) == [0, 1, 4, 9]


@example
def resources_are_those_of_the_fleet(_: Fleet) -> None:
    assert ray.cluster_resources()["CPU"] == 4
    assert len(ray.nodes()) == 1


@example
def objects(_: Fleet) -> None:
    matrix = np.ones((1000, 1000))
    ref = ray.put(matrix)

    @ray.remote
    def total(held: Any) -> float:
        return float(held.sum())

    assert ray.get(total.remote(ref)) == 1e6
    assert ray.get(ref).shape == matrix.shape


@example
def results_are_arguments(_: Fleet) -> None:
    assert ray.get(add.remote(square.remote(3), square.remote(4))) == 25


@example
def results_as_they_come(_: Fleet) -> None:
    left, came = [square.remote(n) for n in range(6)], []
    while left:
        done, left = ray.wait(left, num_returns=1)
        came += ray.get(done)
    assert sorted(came) == [0, 1, 4, 9, 16, 25]


@example
def several_returns(_: Fleet) -> None:
    @ray.remote(num_returns=3)
    def three() -> tuple[int, int, int]:
        return 0, 1, 2

    assert ray.get(three.remote()) == [0, 1, 2]


@example
def generators(_: Fleet) -> None:
    @ray.remote
    def count(n: int) -> Any:
        for each in range(n):  # noqa: UP028 - Ray sends to generators
            yield each

    assert [ray.get(ref) for ref in count.remote(5)] == list(range(5))


@example
def tasks_start_tasks(_: Fleet) -> None:
    @ray.remote
    def outer(n: int) -> int:
        return sum(ray.get([square.remote(each) for each in range(n)]))

    assert ray.get(outer.remote(4)) == 14


@example
def errors(_: Fleet) -> None:
    @ray.remote(max_retries=0)
    def fails() -> None:
        raise ZeroDivisionError("of the user")

    with pytest.raises(ZeroDivisionError, match="of the user"):
        ray.get(fails.remote())


@example
def retries(_: Fleet) -> None:
    @ray.remote(max_retries=3, retry_exceptions=[ConnectionError])
    def flaky(marks: str) -> int:
        with Path(marks).open("a") as file:
            file.write("x")
        if len(Path(marks).read_text()) < 3:
            raise ConnectionError("not yet")
        return 1

    assert ray.get(flaky.remote(str(Path("marks").absolute()))) == 1
    assert Path("marks").read_text() == "xxx"


@example
def cancelling(_: Fleet) -> None:
    @ray.remote
    def forever() -> None:
        while True:
            time.sleep(0.05)

    ref = forever.remote()
    ray.wait([ref], timeout=0.1)
    ray.cancel(ref)
    with pytest.raises((ray.exceptions.TaskCancelledError, ray.exceptions.RayTaskError)):
        ray.get(ref, timeout=60)


@ray.remote
class Progress:
    """An actor that others report to."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()

    def report(self, who: int, done: int) -> None:
        self.seen[who] += done

    def total(self) -> int:
        return self.seen.total()


@example
def monte_carlo_estimation_of_pi(_: Fleet) -> None:
    progress = Progress.remote()

    @ray.remote
    def sample(points: int, who: int, told: Any) -> int:
        chance = random.Random(who)
        inside = sum(chance.random() ** 2 + chance.random() ** 2 <= 1 for _ in range(points))
        ray.get(told.report.remote(who, points))
        return inside

    inside = sum(ray.get([sample.remote(20_000, who, progress) for who in range(4)]))
    assert ray.get(progress.total.remote()) == 80_000
    assert abs(4 * inside / 80_000 - np.pi) < 0.05


@example
def named_actors(_: Fleet) -> None:
    kept = Progress.options(name="progress", lifetime="detached").remote()  # noqa: F841 - what is found is another handle
    found = ray.get_actor("progress")
    ray.get(found.report.remote(1, 5))
    assert ray.get(ray.get_actor("progress").total.remote()) == 5
    ray.kill(found)


@example
def asynchronous_actors(_: Fleet) -> None:
    @ray.remote
    class Meeting:
        def __init__(self) -> None:
            self.all_there = asyncio.Event()
            self.there = 0

        async def come(self, of: int) -> int:
            self.there += 1
            if self.there == of:
                self.all_there.set()
            await self.all_there.wait()
            return self.there

    meeting = Meeting.remote()
    assert ray.get([meeting.come.remote(3) for _ in range(3)]) == [3, 3, 3]

    async def awaited() -> int:
        return await meeting.come.remote(0)

    assert asyncio.run(awaited()) == 4


@example
def an_actor_pool(_: Fleet) -> None:
    @ray.remote
    class Doubler:
        def double(self, x: int) -> int:
            return 2 * x

    pool = ActorPool([Doubler.remote(), Doubler.remote()])
    assert list(pool.map(lambda actor, x: actor.double.remote(x), range(6))) == [0, 2, 4, 6, 8, 10]


@example
def a_queue(_: Fleet) -> None:
    queue = Queue(maxsize=10)

    @ray.remote
    def take(source: Queue, many: int) -> int:
        return sum(source.get() for _ in range(many))

    taken = take.remote(queue, 5)
    for n in range(5):
        queue.put(n)
    assert ray.get(taken) == 10
    queue.shutdown()


@example
def a_pool_as_of_multiprocessing(_: Fleet) -> None:
    with Pool(processes=2) as pool:
        assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]


@example
def a_placement_group(_: Fleet) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_PACK")
    ray.get(group.ready(), timeout=60)
    at = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=1)
    assert ray.get(square.options(scheduling_strategy=at).remote(5)) == 25
    remove_placement_group(group)


@example
def map_and_reduce(_: Fleet) -> None:
    lines = ["the quick brown fox", "jumps over the lazy dog", "the end"]

    @ray.remote
    def count(line: str) -> Counter[str]:
        return Counter(line.split())

    @ray.remote
    def merged(*counts: Counter[str]) -> Counter[str]:
        return sum(counts, Counter[str]())

    assert ray.get(merged.remote(*[count.remote(line) for line in lines]))["the"] == 3


@example
def a_runtime_environment(_: Fleet) -> None:
    @ray.remote(runtime_env={"env_vars": {"WHAT_FOR": "a task of its own"}})
    def variable() -> str | None:
        import os

        return os.environ.get("WHAT_FOR")

    assert ray.get(variable.remote(), timeout=90) == "a task of its own"


# -- pipelines on it -----------------------------------------------------------------------------------

JOB = """
    from hooke import pipeline, task

    @task
    def square(x):
        return x * x

    @pipeline
    def squares(n: int):
        return square.map(range(n))

    @task
    def by_ray(n):
        import ray

        @ray.remote
        def double(x):
            return 2 * x

        return sum(ray.get([double.remote(each) for each in range(n)])), ray.get_runtime_context().gcs_address

    @pipeline
    def nested(n: int = 4):
        return by_ray(n)

    @task
    def sleeps(mark):
        import pathlib, time
        pathlib.Path(mark).touch()
        time.sleep(600)

    @pipeline
    def endless(mark: str):
        return sleeps(mark)
"""


@example
def runs_one_after_another_with_an_edit_between(fleet: Fleet) -> None:
    shop = Workshop(Path.cwd())
    shop.write(JOB)
    run = shop.run(on=fleet, name="squares", n=5)
    assert run.result() == [0, 1, 4, 9, 16]
    assert next(run.journal).place == "ray:2"
    assert shop.run(on=fleet, name="squares", n=6).result() == [0, 1, 4, 9, 16, 25]
    shop.edit("x * x", "x * 10")
    assert shop.run(on=fleet, name="squares", n=3).result() == [0, 10, 20]


@example
def a_run_has_its_own_processes_where_all_cpus_are_taken(fleet: Fleet) -> None:
    @ray.remote
    def hold(until: str) -> None:
        while not Path(until).exists():
            time.sleep(0.02)

    until = Path("release").absolute()
    held = [hold.remote(str(until)) for _ in range(4)]
    shop = Workshop(Path.cwd())
    shop.write(JOB)
    assert shop.run(on=fleet, name="squares", n=7).result()[-1] == 36
    until.touch()
    ray.get(held)


@example
def a_task_uses_the_ray_that_runs_it(fleet: Fleet) -> None:
    shop = Workshop(Path.cwd())
    shop.write(JOB)
    assert shop.run(on=fleet, name="nested").result() == (12, ray.get_runtime_context().gcs_address)


@example
def two_runs_at_once(fleet: Fleet) -> None:
    shop = Workshop(Path.cwd())
    shop.write(JOB)
    with ThreadPoolExecutor(2) as both:
        runs = both.map(lambda n: shop.run(on=fleet, name="squares", n=n).result(), (20, 21))
        assert [len(each) for each in runs] == [20, 21]


@example
def nobody_else_can_reach_it(_: Fleet) -> None:
    listening: set[str] = set()
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            listening |= {
                connection.laddr.ip.removeprefix("::ffff:")
                for connection in each.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
    assert listening == {"127.0.0.1"}


def left_behind(fleet: Fleet) -> list[threading.Thread]:
    """Two runs that go on when the fleet ends; their threads end when they are told so."""
    shop = Workshop(Path.cwd())
    shop.write(JOB)

    def run(mark: str) -> None:
        with pytest.raises(HookeError, match="the connection to Ray is lost"):
            shop.run(on=fleet, name="endless", mark=mark)
        Path(mark).unlink()

    marks = [str(Path(f"left-{number}").absolute()) for number in range(2)]
    threads = [threading.Thread(target=run, args=(mark,), daemon=True) for mark in marks]
    for thread in threads:
        thread.start()
    while not all(map(os.path.exists, marks)):
        time.sleep(0.02)
    return threads


def main() -> int:
    """What came of each, by name: empty, or what went wrong."""
    outcome: dict[str, str] = {}
    before = signal.getsignal(signal.SIGTERM)
    with Fleet("ray", workers=2, threads=2) as fleet:
        fleet.client()
        for name, run in EXAMPLES.items():
            began = time.monotonic()
            try:
                run(fleet)
                outcome[name] = ""
            except BaseException:  # noqa: BLE001 - told to who reads it
                outcome[name] = traceback.format_exc()
            sys.stderr.write(f"{name}: {time.monotonic() - began:.1f} s\n")
        threads = left_behind(fleet)
    for thread in threads:
        thread.join(60)
    unaware = [str(mark) for mark in Path.cwd().glob("left-*")]
    outcome["a_run_that_goes_on_is_told_of_the_end"] = " ".join(unaware)
    after = signal.getsignal(signal.SIGTERM)
    outcome["the_process_is_as_it_was"] = "" if after == before else f"SIGTERM goes to {after}"
    outcome["nothing_is_left"] = " ".join(each.name() for each in psutil.Process().children(recursive=True))
    sys.stdout.write(json.dumps(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
