"""What a process keeps of a cluster that it joined, for its next run there: the connection, and what the workers answered."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from distributed import Client, LocalCluster
from tests.engines.local.faults import wait_until
from tests.fixtures.workshop import Workshop

from hooke.engines.dask.clusters import CONNECTIONS
from hooke.journal.events import AttemptStarted

pytestmark = pytest.mark.needs("processes")

PIPELINE = """
    from hooke import pipeline, task

    @task
    def square(x: int) -> int:
        return x * x

    @pipeline
    def squares(begin: int) -> list[int]:
        return square.map([begin, begin + 1])
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as made:
        yield made
        CONNECTIONS.close()


@pytest.fixture
def project(workshop: Workshop) -> Iterator[Workshop]:
    workshop.write(PIPELINE)
    CONNECTIONS.close()
    yield workshop
    CONNECTIONS.close()


def ours(cluster: LocalCluster) -> set[str]:
    return {name for name in cluster.scheduler.clients if name.startswith("RunClient")}


def square(project: Workshop, on: object, begin: int) -> None:
    run = project.run(on=on, begin=begin)
    assert run.result() == [begin**2, (begin + 1) ** 2]
    assert not list((run.folder / "logs").glob(".*.probe"))


def test_the_next_run_has_the_connection_and_asks_no_worker_again(
    project: Workshop, cluster: LocalCluster
) -> None:
    square(project, cluster, 0)
    [first] = ours(cluster)
    with Client(cluster, set_as_default=False) as other, greetings_fail(other):
        square(project, cluster, 10)
    assert ours(cluster) == {first}
    CONNECTIONS.close("tcp://another.test:1")
    assert ours(cluster) == {first}
    CONNECTIONS.close(cluster.scheduler_address)
    wait_until(lambda: not ours(cluster), "the scheduler to see the end")


@contextlib.contextmanager
def greetings_fail(other: Client) -> Iterator[None]:
    other.run(break_greetings)
    try:
        yield
    finally:
        other.run(mend_greetings)


def break_greetings() -> None:
    from hooke.engines.dask import dask_worker

    dask_worker.answer_probe, dask_worker.kept = None, dask_worker.answer_probe


def mend_greetings() -> None:
    from hooke.engines.dask import dask_worker

    dask_worker.answer_probe = dask_worker.kept


def test_another_project_is_asked_for_anew(
    project: Workshop, cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whether workers see its files, and its store, is another question."""
    square(project, cluster, 20)
    theirs = Workshop(tmp_path_factory.mktemp("theirs"))
    theirs.write(PIPELINE)
    with Client(cluster, set_as_default=False) as other:
        with greetings_fail(other), pytest.raises(Exception, match="cannot run tasks"):
            theirs.run(on=cluster, begin=20)
        square(theirs, cluster, 20)


@pytest.mark.long
def test_two_runs_at_once_have_two_connections(project: Workshop, cluster: LocalCluster) -> None:
    inside: list[set[str]] = []

    def another(event: object) -> None:
        if isinstance(event, AttemptStarted) and not inside:
            inside.append(set())
            square(project, cluster, 50)
            inside[0] = ours(cluster)

    assert project.run(on=cluster, begin=40, observers=[another]).result() == [1600, 1681]
    assert len(inside[0]) == 2
    assert ours(cluster) == inside[0]


@pytest.mark.long
def test_a_worker_that_was_started_again_at_its_address_is_greeted(project: Workshop) -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in "sw"]
    address = f"tcp://127.0.0.1:{ports[0]}"
    with dask("scheduler", "--port", str(ports[0])):
        wait_until(lambda: listens(ports[0]), "the scheduler", within_s=60)
        worker = ("worker", address, "--nthreads", "1", "--no-nanny", "--worker-port", str(ports[1]))
        with dask(*worker) as first:
            square(project, address, 0)
        with Client(address, set_as_default=False) as other, dask(*worker) as second:
            assert first.pid != second.pid
            wait_until(lambda: second.pid in other.run(os.getpid).values(), "the worker", within_s=60)
            square(project, address, 10)
            square(project, address, 20)


@contextlib.contextmanager
def dask(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dask", *words, "--no-dashboard", "--host", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False
