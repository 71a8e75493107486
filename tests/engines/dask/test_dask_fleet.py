"""Dask's own code on a Hooke fleet: what its documentation shows, in words of ours, unchanged but for the `Client(...)` line.

The subjects are those of https://distributed.dask.org (quickstart, client, resilience, asynchronous, resources-free pages:
actors, publish, priority, prometheus-free) and https://docs.dask.org (futures, array, dataframe, bag, delayed).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import dask
import dask.array
import dask.bag
import pytest
from dask.distributed import (
    Client,
    Event,
    Lock,
    Queue,
    Variable,
    as_completed,
    fire_and_forget,
    get_client,
    wait,
    worker_client,
)
from tests.engines.local.faults import wait_until
from tests.fixtures.workshop import Workshop

from hooke import Fleet, run
from hooke.base.errors import UsageError
from hooke.journal.events import CapacityChanged

pytestmark = pytest.mark.needs("processes")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet("dask", workers=2, threads=2) as made:
        yield made


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> Client:
    return fleet.client()


def inc(x: int) -> int:
    return x + 1


def test_it_is_as_large_as_was_asked(client: Client) -> None:
    assert client.nthreads() == dict.fromkeys(client.nthreads(), 2)
    assert len(client.nthreads()) == 2


def test_a_run_has_as_many_of_its_workers_as_it_asks_for_and_the_others_stay(
    fleet: Fleet, client: Client, workshop: Workshop
) -> None:
    workshop.write(PLAIN)
    run = workshop.run(on=fleet, workers=1, n=5)
    (place,) = {(event.workers, event.slots) for event in run.journal if isinstance(event, CapacityChanged)}
    assert place == (1, 2)
    assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2


def test_futures_depend_on_futures(client: Client) -> None:
    squares = client.map(lambda x: x**2, range(10))
    negative = client.map(lambda x: -x, squares)
    assert client.submit(sum, negative).result() == -285


def test_results_as_they_come(client: Client) -> None:
    assert sorted(future.result() for future in as_completed(client.map(inc, range(8)))) == list(range(1, 9))


def test_data_is_scattered_and_gathered(client: Client) -> None:
    held = client.scatter({"a": 1, "b": 2}, broadcast=True)
    assert client.gather(held) == {"a": 1, "b": 2}
    assert client.submit(inc, held["a"]).result() == 2


def test_an_error_comes_back_as_itself(client: Client) -> None:
    future = client.submit(lambda: 1 / 0)
    wait(future)
    assert future.status == "error"
    with pytest.raises(ZeroDivisionError):
        future.result()


def test_a_future_is_cancelled(client: Client) -> None:
    future = client.submit(time.sleep, 600)
    future.cancel()
    wait_until(future.cancelled)


def test_results_are_published_for_other_clients(client: Client, fleet: Fleet) -> None:
    client.publish_dataset(numbers=client.submit(inc, 41))
    with Client(fleet.at, set_as_default=False) as other:
        assert other.get_dataset("numbers").result() == 42
    client.unpublish_dataset("numbers")


class Counter:
    """An actor."""

    def __init__(self) -> None:
        self.n = 0

    def increment(self) -> int:
        self.n += 1
        return self.n


def test_an_actor_keeps_its_state(client: Client) -> None:
    counter = client.submit(Counter, actor=True).result()
    assert [counter.increment().result() for _ in range(3)] == [1, 2, 3]


def test_queues_variables_locks_and_events(client: Client) -> None:
    queue, variable, done = Queue("q", client=client), Variable("v", client=client), Event("e", client=client)
    for n in range(3):
        queue.put(n)
    variable.set(client.submit(inc, 1))

    def take() -> int:
        with Lock("l"):
            taken = Queue("q").get() + Queue("q").get()
            Event("e").set()
            return taken

    assert client.submit(take).result() == 1
    assert done.wait(30)
    assert queue.qsize() == 1
    assert variable.get().result() == 2


def test_tasks_that_nobody_waits_for(client: Client) -> None:
    done = Event("fired", client=client)
    fire_and_forget(client.submit(lambda: Event("fired").set()))
    assert done.wait(30)


def fib(n: int) -> int:
    """Tasks that start tasks."""
    if n < 2:
        return n
    own = get_client()
    a, b = own.submit(fib, n - 1), own.submit(fib, n - 2)
    with worker_client() as own:
        return sum(own.gather([a, b]))


def test_tasks_start_tasks(client: Client) -> None:
    assert client.submit(fib, 6).result() == 8


def test_delayed(client: Client) -> None:
    total = dask.delayed(sum)([dask.delayed(inc)(n) for n in range(10)])
    assert total.compute() == 55
    assert dask.base.get_scheduler() == client.get


def test_an_array(client: Client) -> None:
    x = dask.array.ones((400, 400), chunks=(100, 100)).persist()
    y = x + x.T
    assert float((y[::2, 200:].mean(axis=1)).sum().compute()) == 400.0


def test_a_bag(client: Client) -> None:
    words = dask.bag.from_sequence("the quick brown fox jumps over the lazy dog".split(), npartitions=3)
    assert dict(words.frequencies().compute())["the"] == 2


def test_a_data_frame_is_shuffled(client: Client) -> None:
    frames = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"key": [n % 5 for n in range(100)], "value": range(100)})
    summed = frames.from_pandas(table, npartitions=4).groupby("key").value.sum().compute()
    assert summed.sort_index().to_list() == table.groupby("key").value.sum().to_list()


# -- pipelines on it -----------------------------------------------------------------------------------

NESTED = """
    import dask.array
    from dask.distributed import get_client, worker_client
    from hooke import pipeline, task

    @task
    def by_array(n):
        return float(dask.array.ones((n, n), chunks=(50, 50)).sum().compute())

    @task
    def by_client(n):
        return get_client().submit(sum, range(n)).result()

    @task
    def by_worker_client(n):
        with worker_client() as client:
            [kept] = client.scatter([n])
            return sum(client.gather(client.map(abs, range(n)))) + client.submit(abs, kept).result()

    @task
    def where(n):
        return len(get_client().scheduler_info()["workers"])

    @pipeline
    def nested(n: int = 100):
        return [by_array(n), by_array(n + 1), by_array(n + 2), by_array(n + 3), by_client(n), by_worker_client(n), where(n)]
"""


def test_tasks_use_dask_on_the_fleet_that_runs_them(workshop: Workshop, fleet: Fleet) -> None:
    """Four at once on four threads: each gives its thread back to Dask, or nothing would ever run."""
    workshop.write(NESTED)
    result = workshop.run(on=fleet, n=100).result()
    assert result == [100.0**2, 101.0**2, 102.0**2, 103.0**2, 4950, 5050, 2]


def test_two_runs_on_one_fleet(workshop: Workshop, fleet: Fleet) -> None:
    workshop.write(PLAIN)
    first = workshop.run(on=fleet, n=5)
    second = workshop.run(on=fleet, n=6)
    assert (first.result(), second.result()) == ([0, 1, 4, 9, 16], [0, 1, 4, 9, 16, 25])
    assert next(first.journal).place == "dask:2"


@pytest.mark.long
def test_an_edit_between_two_runs_counts(workshop: Workshop, fleet: Fleet) -> None:
    workshop.write(PLAIN)
    assert workshop.run(on=fleet, n=3).result() == [0, 1, 4]
    workshop.edit("x * x", "x * 10")
    assert workshop.run(on=fleet, n=3).result() == [0, 10, 20]


PLAIN = """
    from hooke import pipeline, task

    @task
    def square(x):
        return x * x

    @pipeline
    def squares(n: int):
        return square.map(range(n))
"""


def test_a_fleet_that_is_not_running_says_so() -> None:
    from hooke.testing.engine_suite import every_shape

    with pytest.raises(UsageError, match=r"is not running") as refused:
        run(every_shape, 3, on=Fleet("dask", workers=1))
    assert "with Fleet('dask', workers=1, threads=1) as fleet" in refused.value.fix
