"""Dask as a place: the suite on clusters that we start and on those that we join, and what Dask alone makes possible."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, LocalCluster
from tests.engines.local.faults import gone, wait_until
from tests.fixtures.workshop import Workshop

from hooke.base.errors import EnvironmentMismatch, HookeError, UsageError
from hooke.engines.dask import dask_engine, dask_worker
from hooke.engines.dask.clusters import connect, workers_of
from hooke.engines.dask.dask_engine import DaskEngine
from hooke.engines.dask.scheduler_link import SchedulerLink
from hooke.engines.dask.worker_process import in_a_row
from hooke.engines.remote.worker_protocol import HostSession
from hooke.journal.events import AttemptFinished, AttemptStarted, WorkerStarted
from hooke.running.resume import resume
from hooke.running.run import Run
from hooke.testing import engine_suite as suite
from hooke.testing import engine_tasks as tasks
from hooke.testing import short_call_suite
from hooke.testing.engine_bench import EngineBench
from hooke.testing.engine_suite import ENGINE_CHECKS, EngineCheck, check_engine, name_of

pytestmark = pytest.mark.needs("processes")

OURS = (
    suite.check_the_capacity_comes_first,
    suite.check_calls_and_maps_give_what_plain_python_gives,
    suite.check_thousands_of_small_calls,
    suite.check_a_killed_worker_is_told_and_harms_nobody_else,
    short_call_suite.check_short_calls_outlive_the_worker_that_they_wait_in,
    suite.check_gangs_begin_whole_or_not_at_all,
    suite.check_workers_are_added_and_retired_without_losing_work,
    suite.check_output_is_kept_by_attempt,
    suite.check_close_ends_all_and_may_come_twice,
    suite.check_a_whole_run_with_a_death,
)
"""Where it makes a difference that the cluster is ours; each starts one."""

JOINED = [
    check
    for check in ENGINE_CHECKS
    if check
    not in (
        suite.check_thousands_of_small_calls,
        short_call_suite.check_short_calls_outlive_the_worker_that_they_wait_in,
    )
]
"""All but the two longest: they are run on a cluster of ours."""


@pytest.mark.long
@pytest.mark.parametrize("check", OURS, ids=name_of)
def test_a_cluster_of_ours(check: EngineCheck, tmp_path: Path) -> None:
    check_engine(DaskEngine, tmp_path, only=check)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Somebody's cluster, with Dask's own settings."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as made:
        yield made


def joined(place):
    def make(context, *, workers):
        return DaskEngine(context, at=place)

    return make


@pytest.mark.parametrize("check", JOINED, ids=name_of)
def test_a_cluster_that_is_joined(check: EngineCheck, cluster: LocalCluster, tmp_path: Path) -> None:
    before = {worker.pid for worker in cluster.workers.values()}
    check_engine(joined(cluster.scheduler_address), tmp_path, only=check)
    assert {worker.pid for worker in cluster.workers.values()} == before


def test_processes_stay_on_a_joined_cluster_for_the_next_run_and_not_for_long(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells the cluster that the driver has ended, so what it does not use again ends by itself."""
    before = processes_of(cluster)

    def warm(context, *, workers):
        return DaskEngine(replace(context, warm=True), at=cluster.scheduler_address)

    def of_a_run(bench: EngineBench) -> set[int]:
        attempts = [bench.submit(tasks.sleep, 0.5) for _ in range(2)]  # one on each host
        for attempt in attempts:
            bench.finished(attempt)
        return {event.pid for event in bench.events if isinstance(event, WorkerStarted)}

    with EngineBench(warm, tmp_path) as bench:
        first = of_a_run(bench)
        assert len(first) == 2
        monkeypatch.setattr(dask_engine, "KEPT_S", 0.5)
        bench.next_run()
        assert of_a_run(bench) == first
    wait_until(lambda: not (processes_of(cluster) - before), "what was kept to end")


def test_what_others_have_on_a_joined_cluster_stays(cluster: LocalCluster, tmp_path: Path) -> None:
    with Client(cluster, set_as_default=False) as other:
        [kept] = other.scatter([b"theirs"])
        with EngineBench(joined(other), tmp_path) as bench:
            failed = bench.failed(bench.submit(tasks.die))
            assert failed.failure.signal == signal.SIGKILL
            theirs = other.submit(tasks.add, 1)
            assert theirs.result() == 11
        assert kept.result() == b"theirs"
        assert other.submit(tasks.add, 2).result() == 12


def test_the_workers_are_all_told_though_dask_has_asked_for_none(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client asks for the scheduler's own facts now and then, in its thread: what it keeps is that answer."""
    client = connect(cluster.scheduler_address)

    async def asked_for_none(**_: Any) -> None:
        monkeypatch.setattr(client, "_scheduler_identity", {"workers": {}})

    monkeypatch.setattr(client, "_update_scheduler_info", asked_for_none)
    with contextlib.closing(client):
        assert client.scheduler_info(n_workers=-1)["workers"] == {}
        assert len(workers_of(client)) == len(cluster.workers)


def test_a_client_is_closed_when_its_questions_are_answered(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is closed while it connects leaves a socket open."""
    client = connect(cluster.scheduler_address)
    session = HostSession(id="s", store=str(tmp_path), logs=str(tmp_path), folder=str(tmp_path), sys_path=[])
    link = SchedulerLink(client, session, lambda: None)
    asks, found = threading.Event(), []

    def ask_slowly() -> None:
        asks.set()
        time.sleep(0.3)
        found.append((client.status, len(workers_of(client))))

    monkeypatch.setattr(link, "_ask_last_seen", ask_slowly)
    link.ask_last_seen()
    assert asks.wait(60)
    link.close(keep=False)
    assert found == [("running", len(cluster.workers))]
    assert client.status == "closed"


def listening(process: psutil.Process) -> set[str]:
    below = [process, *process.children(recursive=True)]
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for each in below
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.long
def test_nothing_listens_but_on_loopback(tmp_path: Path) -> None:
    with EngineBench(DaskEngine, tmp_path) as bench:
        bench.finished(bench.submit(tasks.add, 1))
        assert listening(psutil.Process()) == {"127.0.0.1"}


def test_a_stranger_on_this_machine_cannot_use_a_cluster_of_ours(tmp_path: Path) -> None:
    with EngineBench(DaskEngine, tmp_path) as bench:
        address = bench.engine._cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError, match=r"\S"):
            Client(address.replace("tls://", "tcp://"), timeout=2)


@pytest.mark.long
def test_the_death_of_a_dask_worker_ends_its_attempt_and_is_not_made_up_for_in_silence(
    tmp_path: Path,
) -> None:
    marks = tmp_path / "marks"
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as theirs,
        EngineBench(joined(theirs.scheduler_address), tmp_path) as bench,
    ):
        attempt = bench.submit(mark_and_wait, str(marks))
        bench.until(lambda: bench.is_running(attempt) and marks.exists(), "it to begin")
        (started,) = [event for event in bench.of(AttemptStarted) if event.attempt == attempt]
        (worker,) = [event for event in bench.of(WorkerStarted) if event.worker == started.worker]
        # What runs the attempt, what forked that, and the Dask worker that this belongs to.
        psutil.Process(worker.pid).parent().parent().kill()
        failure = bench.failed(attempt).failure
        assert failure.kind == "WorkerDied"
        assert (failure.exit_code, failure.signal) == (None, None)
        assert "is gone" in failure.message
        gone([worker.pid])
        bench.finished(bench.submit(tasks.add, 1))
        assert marks.read_text() == "ran\n"


def mark_and_wait(path: str) -> None:
    """A task that says that it ran, each time."""
    with open(path, "a") as file:
        file.write("ran\n")
    tasks.sleep(600.0)


def test_keys_that_are_not_there_are_named() -> None:
    with pytest.raises(UsageError, match="tls_ca = '/no/ca.pem': the file does not exist"):
        connect("tls://127.0.0.1:1", ("/no/ca.pem", "/no/c.pem", "/no/k.pem"))


@pytest.mark.long
def test_a_place_where_nothing_answers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        EngineBench(joined("tcp://127.0.0.1:1"), tmp_path)


def test_a_worker_that_is_unlike_the_driver_is_refused_before_the_first_task(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    def make(context, *, workers, allowed=()):
        wanted = replace(context, requires={"numpy": "0.1", "python": "2.7"}, allow_mismatch=allowed)
        return DaskEngine(wanted, at=cluster.scheduler_address)

    with pytest.raises(EnvironmentMismatch) as refused:
        EngineBench(make, tmp_path / "a")
    assert "numpy: 0.1 on the driver" in str(refused.value)
    assert "--allow-mismatch numpy --allow-mismatch python" in refused.value.fix
    with EngineBench(partial(make, allowed=("numpy", "python")), tmp_path / "b") as bench:
        bench.finished(bench.submit(tasks.add, 1))


@pytest.mark.long
def test_a_worker_on_which_others_work_is_not_taken_from_them(tmp_path: Path) -> None:
    """Two runs on one fleet: the one that needs fewer workers does not end those that the other one uses."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as theirs,
        Client(theirs) as other,
        EngineBench(joined(theirs), tmp_path) as bench,
    ):
        kept = [other.scatter(each.encode(), workers=[each]) for each in theirs.scheduler.workers]
        both = [
            other.submit(open_at_last, str(tmp_path / "gate"), workers=[each], pure=False)
            for each in theirs.scheduler.workers
        ]
        wait_until(lambda: all(other.processing().values()))
        bench.engine.scale(1)
        bench.engine.wait(0.1)
        (tmp_path / "gate").touch()
        assert {each.status for each in both} <= {"pending", "finished"}
        assert other.gather(both) == [1, 1]

        def one_is_left() -> bool:
            bench.engine.wait(0.1)
            return len(theirs.scheduler.workers) == 1

        wait_until(one_is_left)
        assert all(b"127.0.0.1" in each for each in other.gather(kept))


def open_at_last(path: str) -> int:
    while not os.path.exists(path):
        tasks.sleep(0.02)
    return 1


def test_a_worker_that_took_the_driver_for_dead_is_greeted_again(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """As one does of which nothing was asked for an hour, while a long task ran elsewhere."""
    with EngineBench(joined(cluster.scheduler_address), tmp_path) as bench, Client(cluster) as other:
        bench.finished(bench.submit(tasks.add, 1))
        other.run(forget)
        for _ in range(3):
            bench.finished(bench.submit(tasks.add, 1))


def forget() -> None:
    from hooke.engines.dask import dask_worker

    dask_worker._hosts.clear()


def test_nothing_that_was_left_to_be_found_stays(cluster: LocalCluster, tmp_path: Path) -> None:
    with EngineBench(joined(cluster.scheduler_address), tmp_path) as bench:
        assert list(bench.context.logs.glob(".*"))
    assert not list(bench.context.logs.glob(".*"))


def test_tls_without_keys_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs TLS keys, and none are given"):
        EngineBench(joined("tls://127.0.0.1:1"), tmp_path)


PIPELINE = """
    import os
    from hooke import log_metric, pipeline, task

    @task
    def square(x):
        print("squaring", x)
        log_metric("x", x)
        return x * x

    @task
    def total(xs):
        return sum(xs)

    @pipeline
    def squares(n: int = 20):
        return total(square.map(range(n)))
"""


def test_a_run_with_logs_metrics_and_a_cache(workshop: Workshop) -> None:
    workshop.write(PIPELINE)
    run = workshop.run(on="dask:2", n=20)
    assert run.result() == sum(x * x for x in range(20))
    # On a busy machine an item may have a second attempt: what it logs does not count, what it prints stays.
    assert sorted(point.value for point in run.logged().curve("x")) == list(range(20))
    printed = "".join(path.read_text() for path in (run.folder / "logs").iterdir())
    assert {int(x) for x in re.findall(r"squaring (\d+)", printed)} == set(range(20))
    assert workshop.ran(workshop.run(on="serial", n=20)) == {}


def test_a_run_on_a_client_is_resumed_where_it_was(workshop: Workshop, cluster: LocalCluster) -> None:
    workshop.write(PIPELINE)
    with Client(cluster, set_as_default=False) as client:
        run = workshop.run(on=client, n=5)
        assert run.result() == 30
        assert run.journal.__next__().place == client.scheduler.address
        assert resume(workshop.project, run.id) is None


SCHEDULER_DIES = """
    import os, signal, time
    from pathlib import Path
    from hooke import pipeline, task

    @task
    def end(pid: int):
        os.kill(pid, signal.SIGKILL)
        time.sleep(60)

    @pipeline
    def ends(pid: int):
        return end(pid)
"""


@pytest.mark.long
def test_a_lost_scheduler_is_said_by_hooke_alone(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.write(SCHEDULER_DIES)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    here = ["--no-dashboard", "--host", "127.0.0.1"]
    scheduler, worker = (
        subprocess.Popen([sys.executable, "-m", "dask", *words, *here], stderr=subprocess.DEVNULL)
        for words in (["scheduler", "--port", str(port)], ["worker", address, "--nthreads", "1"])
    )
    logger = logging.getLogger("distributed")
    logger.addHandler(caplog.handler)
    try:
        wait_until(lambda: _listens(port), "the scheduler", within_s=60)
        with pytest.raises(HookeError, match="the connection to the Dask scheduler is lost") as lost:
            workshop.run(on=address, pid=scheduler.pid)
    finally:
        logger.removeHandler(caplog.handler)
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert "hooke resume ends-" in (lost.value.next or "")
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_dask_logs_a_message_lost_with_the_scheduler_for_others_but_not_for_a_run(
    cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Dask logs it with a traceback, and prints that by default."""
    logger = logging.getLogger("distributed.batched")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger.name)
    said = []
    try:
        for make in (partial(Client, set_as_default=False), connect):
            with make(cluster.scheduler_address) as client:
                link = client.scheduler_comm
                client.sync(_cut, link)
                if make is not connect:
                    wait_until(
                        partial(_is_back, client, link)
                    )  # closed meanwhile, it would leave a socket open
            said.append(any("Batched Comm Closed" in record.getMessage() for record in caplog.records))
            caplog.clear()
    finally:
        logger.removeHandler(caplog.handler)
    assert said == [True, False]


async def _cut(link: Any) -> None:
    link.send({"op": "heartbeat-client"})
    link.comm.abort()
    await link.stopped.wait()


def _is_back(client: Client, lost: Any) -> bool:
    return client.scheduler_comm not in (None, lost)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


@pytest.mark.long
def test_a_killed_driver_leaves_nothing_running_and_resume_goes_on(workshop: Workshop) -> None:
    workshop.write(KILLED.replace("PLACE", "dask:2"))
    with workshop.started(until=lambda: half_done(workshop)) as pid:
        below = [process.pid for process in psutil.Process(pid).children(recursive=True)]
    gone(below)
    (workshop.folder / "go").touch()
    run = Run(workshop.project, workshop.project.runs.names()[0])
    durable = [f"ran-{event.node}" for event in run.journal if isinstance(event, AttemptFinished)]
    assert durable
    driver = resume(workshop.project, run.id)
    assert driver is not None
    assert driver.drive() == "finished"
    assert run.result() == sum(range(8))
    assert [(workshop.folder / name).read_text() for name in durable] == ["once"] * len(durable)


def test_a_killed_driver_leaves_nothing_on_a_cluster_that_it_joined(
    workshop: Workshop, cluster: LocalCluster
) -> None:
    workshop.write(KILLED.replace("PLACE", cluster.scheduler_address))
    before = processes_of(cluster)
    with workshop.started(until=lambda: half_done(workshop)):
        wait_until(lambda: len(processes_of(cluster) - before) >= 2, "two workers of ours")
    with Client(cluster, set_as_default=False) as other:
        other.run(setattr, dask_worker, "IDLE_S", 1.0)  # else a minute
        wait_until(
            lambda: not (processes_of(cluster) - before),
            "what ran to be ended, what was idle, and what had started both",
            within_s=120,
        )
        other.run(setattr, dask_worker, "IDLE_S", dask_worker.IDLE_S)
    (workshop.folder / "go").touch()
    run = Run(workshop.project, workshop.project.runs.names()[0])
    again = resume(workshop.project, run.id)
    assert again is not None
    assert again.drive() == "finished"
    assert run.result() == sum(range(8))
    with Client(cluster, set_as_default=False) as other:
        assert other.submit(tasks.add, 1).result() == 11


def processes_of(cluster: LocalCluster) -> set[psutil.Process]:
    """All below its workers."""
    return {
        child
        for worker in cluster.workers.values()
        for child in psutil.Process(worker.pid).children(recursive=True)
    }


def half_done(workshop: Workshop) -> bool:
    return len(list(workshop.folder.glob("ran-*"))) >= 4


KILLED = """
    import time
    from pathlib import Path
    from hooke import pipeline, run, task

    HERE = Path(__file__).parent

    @task(observe=False)
    def one(x):
        while len(list(HERE.glob("ran-*"))) >= 4 and not (HERE / "go").exists():
            time.sleep(0.01)
        with open(HERE / f"ran-{x}", "a") as file:
            file.write("once")
        return x

    @task
    def total(xs):
        return sum(xs)

    @pipeline
    def work():
        return total([one(x) for x in range(8)])

    if __name__ == "__main__":
        run(work, on="PLACE")
"""


# -- what goes through the scheduler -------------------------------------------------------------------


class CountingProxy:
    """Counts the bytes of each connection to a port of this machine, both ways."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.bytes = 0
        self._accepts = threading.Thread(target=self._accept, daemon=True)
        self._accepts.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # ends the wait for a connection
        self._server.close()
        self._accepts.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.bytes += len(data)
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


CHAIN = """
    import numpy as np
    from hooke import pipeline, task

    @task
    def make(n):
        return np.ones(n)

    @task
    def more(x):
        return x + 1

    @task
    def first(x):
        return float(x[0])

    @pipeline
    def chain(n: int = 12_500_000):
        return first(more(more(make(n))))
"""


@pytest.mark.long
def test_values_of_100_mb_do_not_go_through_the_driver_or_the_scheduler(
    workshop: Workshop, cluster: LocalCluster
) -> None:
    workshop.write(CHAIN)
    proxy = CountingProxy(int(cluster.scheduler_address.rpartition(":")[2]))
    try:
        assert workshop.run(on=f"tcp://127.0.0.1:{proxy.port}").result() == 3.0
    finally:
        proxy.close()
    assert 0 < proxy.bytes < 1_000_000


def test_deaths_of_a_worker_count_in_a_row() -> None:
    """A cluster that lives for weeks may lose one worker now and then, and keeps it."""
    deaths = 0
    for _ in range(10):
        deaths = in_a_row(deaths, lived_s=3600.0)
    assert deaths == 1
    for _ in range(4):
        deaths = in_a_row(deaths, lived_s=0.1)
    assert deaths == 5
