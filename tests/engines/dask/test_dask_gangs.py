"""Gangs over several Dask workers: a real all-reduce, and the deaths of a rank, of a worker and of the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from distributed import LocalCluster
from tests.engines.local.faults import gone
from tests.engines.local.test_local_gangs import JOB, pids_in, until
from tests.fixtures.workshop import Workshop

from hooke.base.errors import TaskError, WorkerDied
from hooke.engines.dask.dask_engine import DaskEngine
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, CapacityChanged
from hooke.testing import engine_tasks as tasks
from hooke.testing.engine_bench import EngineBench
from hooke.testing.engine_suite import gather_marks

pytestmark = pytest.mark.needs("processes")

REDUCE = """
    @task(gang=3, results="all")
    def reduced(number, fail=False):
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        try:
            ones = torch.ones(1000) * (dist.get_rank() + number)
            dist.all_reduce(ones)
            if fail and dist.get_rank() == 2:
                raise ValueError("the last rank is out")
            dist.barrier()
            return float(ones[0]), os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]
        finally:
            dist.destroy_process_group()

    @pipeline
    def job(fail=False):
        return reduced(1, fail=fail), reduced(11, fail=fail)
"""

REDUCED = [
    [(total, "0", "2"), (total, "1", "2"), (total, "0", "1")] for total in (1.0 + 2 + 3, 11.0 + 12 + 13)
]
"""On hosts of two threads each: two ranks on one, the third on another."""

TRAIN = """
    @task(gang=3, retries=1, results="all")
    def train(folder):
        tries = together("train", folder)
        while tries == 0:
            time.sleep(0.01)
        return rank(), tries

    @pipeline
    def job(folder="."):
        return train(folder)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as made:
        yield made


def most_at_once(events: list) -> int:
    """How many ranks ran together."""
    busy, most, widths = 0, 0, {}
    for event in events:
        if isinstance(event, AttemptStarted):
            widths[event.attempt] = len(event.workers)
            busy += widths[event.attempt]
            most = max(most, busy)
        elif isinstance(event, (AttemptFinished, AttemptFailed)):
            busy -= widths[event.attempt]
    return most


@pytest.mark.long
def test_two_gangs_of_torch_on_four_slots_reduce_one_after_the_other(
    workshop: Workshop, cluster: LocalCluster
) -> None:
    workshop.write(JOB + REDUCE)
    events: list = []
    run = workshop.run(on=cluster.scheduler_address, observers=[events.append])
    assert list(run.result()) == REDUCED
    assert most_at_once(events) == 3
    with pytest.raises(TaskError, match=r"failed in rank 2 of 3: ValueError: the last rank is out"):
        workshop.run(on=cluster.scheduler_address, fail=True).result()


def test_a_rank_that_is_killed_ends_the_gang_which_runs_again_as_a_whole(
    workshop: Workshop, cluster: LocalCluster
) -> None:
    workshop.write(JOB + TRAIN)
    first: list[int] = []

    def kill_one(event):
        if isinstance(event, AttemptStarted) and not first:
            first.extend(pids_in(workshop.folder, "train", 0, 3))
            os.kill(first[2], signal.SIGKILL)

    events: list = []
    run = workshop.run(on=cluster.scheduler_address, observers=[kill_one, events.append])
    assert run.result() == [(0, 1), (1, 1), (2, 1)]
    gone(first)
    (failed,) = [event for event in events if isinstance(event, AttemptFailed)]
    assert (failed.failure.kind, failed.failure.rank, failed.failure.signal) == ("WorkerDied", 2, 9)


def test_a_lost_worker_ends_the_gang_that_had_a_rank_there(workshop: Workshop, cluster: LocalCluster) -> None:
    workshop.write(JOB + TRAIN.replace("retries=1, ", ""))
    first: list[int] = []

    def kill_worker(event):
        if isinstance(event, AttemptStarted) and not first:
            first.extend(pids_in(workshop.folder, "train", 0, 3))
            # What runs the rank, what forked that, and the Dask worker that this belongs to.
            psutil.Process(first[2]).parent().parent().kill()

    with pytest.raises(WorkerDied, match=r"failed in rank 2 of 3: the Dask worker .* is gone"):
        workshop.run(on=cluster.scheduler_address, observers=[kill_worker]).result()
    gone(first)


@pytest.mark.long
def test_ranks_end_with_their_driver(workshop: Workshop, cluster: LocalCluster) -> None:
    workshop.write(JOB + TRAIN)
    command = [sys.executable, "-m", "hooke", "run", str(workshop.file)]
    with subprocess.Popen(
        [*command, "--on", cluster.scheduler_address, "--folder", str(workshop.folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as driver:
        try:
            pids = pids_in(workshop.folder, "train", 0, 3)
        finally:
            driver.kill()
    gone(pids)


@pytest.mark.long
def test_a_worker_that_holds_a_rank_stays_until_its_gang_has_ended(tmp_path) -> None:
    with EngineBench(DaskEngine, tmp_path, workers=3) as bench:
        attempt = bench.submit(wait_for_go, str(tmp_path), gang=2)
        bench.until(lambda: bench.is_running(attempt), "it to begin")
        bench.engine.scale(1)
        bench.until(lambda: bench.of(CapacityChanged)[-1].workers == 1, "the others to be on their way out")
        there = bench.engine._cluster.scheduler.workers
        until(lambda: bench.poll() is not None and len(there) == 2, "the idle worker to leave")
        (tmp_path / "go").touch()
        assert bench.value(bench.finished(attempt).ref) == 0
        until(lambda: bench.poll() is not None and len(there) == 1, "the other one to leave")


def wait_for_go(folder: str) -> int:
    rank = gather_marks(folder, "held")
    tasks.wait_for_file(os.path.join(folder, "go"))
    return rank
