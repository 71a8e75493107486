"""Gangs in real runs on processes of this machine: a real all-reduce, real deaths, and what a run says of them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hooke.base.errors import EnvironmentMismatch, TaskError, TimedOut, UsageError, WorkerDied
from hooke.cli.entry import run_command
from hooke.engines.local import LocalEngine
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, RetryPlanned
from hooke.processes.devices import Devices
from hooke.testing.engine_bench import EngineBench

pytestmark = pytest.mark.needs("processes")

PATIENCE_S = 60.0

JOB = """
    import os
    import time
    from pathlib import Path

    from hooke import pipeline, task

    def rank():
        return int(os.environ["RANK"])

    def together(name, folder):
        # Returns once every rank of this try has begun.
        tries = len(list(Path(folder).glob(f"{name}-*-try-{rank()}")))
        Path(folder, f"{name}-{tries}-try-{rank()}").write_text(str(os.getpid()))
        while not all(
            Path(folder, f"{name}-{tries}-try-{r}").exists() for r in range(int(os.environ["WORLD_SIZE"]))
        ):
            time.sleep(0.005)
        return tries
"""

REDUCE = """
    @task(gang=3)
    def reduced(folder, fail=False):
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        try:
            ones = torch.ones(1000) * (dist.get_rank() + 1)
            dist.all_reduce(ones)
            if fail and dist.get_rank() == 1:
                raise ValueError("rank one is out")
            dist.barrier()
            return float(ones.sum())
        finally:
            dist.destroy_process_group()

    @pipeline
    def job(fail=False):
        return reduced(".", fail=fail)
"""


def until(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.01)
    return found


def typed(capsys, *words: str) -> str:
    """What a command prints."""
    capsys.readouterr()
    assert run_command(words) == 0
    return capsys.readouterr().out


def pids_in(folder: Path, name: str, tries: int, ranks: int) -> list[int]:
    """The process ids that the ranks of a try have left, once they have."""
    marks = [folder / f"{name}-{tries}-try-{rank}" for rank in range(ranks)]
    until(lambda: all(mark.exists() and mark.read_text() for mark in marks), f"try {tries} of {name}")
    return [int(mark.read_text()) for mark in marks]


def test_torch_reduces_over_all_ranks(workshop):
    workshop.write(JOB + REDUCE)
    run = workshop.run(on="local", workers=3)
    assert run.result() == 6000.0
    assert workshop.ran(run) == {"reduced": 1}
    assert workshop.ran(workshop.run(on="local", workers=3)) == {}


def test_of_torch_the_rank_that_raised_is_named(workshop):
    workshop.write(JOB + REDUCE)
    with pytest.raises(TaskError, match=r"failed in rank 1 of 3: ValueError: rank one is out") as caught:
        workshop.run(on="local", workers=3, fail=True).result()
    assert caught.value.details["rank"] == 1


def test_a_rank_that_is_killed_ends_the_gang_which_runs_again(workshop, capsys):
    workshop.write(
        JOB
        + """
    @task(gang=3, retries=1, results="all")
    def train(folder):
        tries = together("train", folder)
        while tries == 0:
            time.sleep(0.01)
        return rank(), os.getpid()

    @pipeline
    def job(folder):
        return train(folder)
"""
    )
    first: list[int] = []

    def kill_one(event):
        if isinstance(event, AttemptStarted) and not first:
            first.extend(pids_in(workshop.folder, "train", 0, 3))
            os.kill(first[1], signal.SIGKILL)

    events = []
    run = workshop.run(str(workshop.folder), on="local", workers=3, observers=[kill_one, events.append])
    result = run.result()
    assert [rank for rank, _ in result] == [0, 1, 2]
    assert not {pid for _, pid in result} & set(first)
    assert not any(psutil.pid_exists(pid) for pid in first)
    (failed,) = [event for event in events if isinstance(event, AttemptFailed)]
    assert (failed.failure.kind, failed.failure.rank, failed.failure.signal) == ("WorkerDied", 1, 9)
    (again,) = [event for event in events if isinstance(event, RetryPlanned)]
    assert again.reason.startswith("rank 1 of 3: WorkerDied")
    shown = typed(capsys, "show", run.id)
    assert "is a gang of 3; ranks: 0 on local-1, 1 on local-2, 2 on local-3" in shown
    assert "rank 1 of 3: WorkerDied" in shown


def test_ranks_that_replace_code_still_have_one_result(workshop):
    """Another task needs a fresh worker then; to join the results does not."""
    workshop.write(
        JOB
        + """
    @task(gang=2, results="all")
    def train(folder):
        here = rank()
        globals()["rank"] = lambda: 7
        return here, rank()

    @pipeline
    def job(folder):
        return train(folder)
"""
    )
    assert workshop.run(str(workshop.folder), on="local", workers=2).result() == [(0, 7), (1, 7)]


def test_without_retries_the_error_names_rank_signal_and_log(workshop, capsys):
    workshop.write(
        JOB
        + """
    @task(gang=2)
    def train(folder):
        print("rank", rank(), "begins", flush=True)
        together("train", folder)
        if rank() == 1:
            os.kill(os.getpid(), 9)
        time.sleep(600)

    @pipeline
    def job(folder):
        return train(folder)
"""
    )
    with pytest.raises(
        WorkerDied, match=r"failed in rank 1 of 2: its worker \S+ died: killed by SIGKILL"
    ) as caught:
        workshop.run(str(workshop.folder), on="local", workers=2).result()
    assert caught.value.log_tail == ("rank 1 begins",)
    logs = typed(capsys, "logs", workshop.project.runs.find())
    assert "train rank 0 #1 | rank 0 begins" in logs
    assert "train rank 1 #1 | rank 1 begins" in logs


def test_two_gangs_of_three_and_a_map_share_four_slots(workshop):
    workshop.write(
        JOB
        + """
    @task(gang=3)
    def train(name, folder):
        together(name, folder)
        return name

    @task
    def small(x):
        return x

    @pipeline
    def job(folder):
        return train("a", folder), small.map(range(20)), train("b", folder)
"""
    )
    events = []
    run = workshop.run(str(workshop.folder), on="local", workers=4, observers=[events.append])
    assert run.result() == ("a", list(range(20)), "b")
    busy, most, widths = 0, 0, {}
    for event in events:
        if isinstance(event, AttemptStarted):
            widths[event.attempt] = len(event.workers) or 1
            busy += widths[event.attempt]
            most = max(most, busy)
        elif isinstance(event, AttemptFinished):
            busy -= widths[event.attempt]
    assert most <= 4
    assert sorted(widths.values())[-2:] == [3, 3]


def test_a_timeout_is_that_of_the_whole_gang(workshop):
    workshop.write(
        JOB
        + """
    @task(gang=2, timeout=1.0)
    def train(folder):
        together("train", folder)
        while rank():
            time.sleep(0.01)

    @pipeline
    def job(folder):
        return train(folder)
"""
    )
    with pytest.raises(TimedOut, match="longer than its timeout"):
        workshop.run(str(workshop.folder), on="local", workers=2).result()
    assert not any(psutil.pid_exists(pid) for pid in pids_in(workshop.folder, "train", 0, 2))


def test_a_gang_whose_driver_was_killed_runs_again_as_a_whole(workshop, capsys):
    workshop.write(
        JOB
        + """
    @task
    def before(folder):
        return folder

    @task(gang=2)
    def train(folder):
        tries = together("train", folder)
        while rank() == 1 and tries == 0:
            time.sleep(0.01)
        return tries

    @pipeline
    def job(folder):
        return train(before(folder))
"""
    )
    hooke = [sys.executable, "-m", "hooke"]
    command = [*hooke, "run", str(workshop.file), "--folder", str(workshop.folder), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        try:
            pids = pids_in(workshop.folder, "train", 0, 2)
        finally:
            driver.kill()
    until(lambda: not any(map(_lives, pids)), "the ranks to end with their driver")
    run = workshop.project.runs.find()
    done = subprocess.run(
        [*hooke, "resume", run], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(typed(capsys, "show", run, "--json"))
    assert shown["status"] == "finished"
    assert [row["gang"] for row in shown["tasks"]] == [0, 2]
    assert pids_in(workshop.folder, "train", 1, 2)


def test_a_fleet_that_follows_the_work_has_room_for_a_gang(workshop):
    workshop.write(
        JOB
        + """
    @task(gang=3)
    def train(folder):
        return together("train", folder)

    @pipeline
    def job(folder):
        return train(folder)
"""
    )
    assert workshop.run(str(workshop.folder), on="local", workers=(1, 4)).result() == 0


def test_what_gangs_mean_to_a_measurement_and_to_a_plan_is_said(workshop, capsys):
    workshop.write(
        """
    import time

    from hooke import pipeline, task

    @task(gang=3)
    def train(x):
        time.sleep(0.3)
        return x

    @task
    def small(x):
        time.sleep(0.02)
        return x

    @pipeline
    def job(items: int = 4):
        return small.map(range(items)), train(1)
"""
    )
    file = str(workshop.file)
    assert run_command(["run", file, "--workers", "3"]) == 0
    assert "train: running, 3 ranks" in "".join(capsys.readouterr())
    assert run_command(["measure", file, "--task", "small", "--workers", "1,3"]) != 0
    assert "a gang of 3 ranks, 'train', which does not fit N = 1" in capsys.readouterr().err
    assert run_command(["measure", file, "--workers", "1,3"]) != 0
    assert "'train' is a gang of 3 ranks" in capsys.readouterr().err
    workshop.edit("return x\n\n@task\n", "return x + 1\n\n@task\n")
    assert "train is a gang of 3 ranks, which must all run at once" in typed(
        capsys, "plan", file, "--workers", "1,3"
    )


def seen() -> tuple[str, str]:
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LOCAL_RANK"]


def test_each_rank_sees_the_devices_of_all_in_the_order_of_the_ranks(tmp_path):
    devices = Devices(("3", "5", "6"))

    def make(context, *, workers):
        return LocalEngine(context, workers=workers, devices=devices)

    with EngineBench(make, tmp_path, workers=3) as bench:
        whole = bench.finished(bench.submit(seen, gang=2, gpus=1, results="all"))
        assert bench.value(whole.ref) == [("3,5", "0"), ("3,5", "1")]
        shares = bench.finished(bench.submit(seen, gang=2, gpus=0.5, results="all"))
        assert {devices for devices, _ in bench.value(shares.ref)} <= {"3", "5", "6"}
        failure = bench.failed(bench.submit(seen, gang=2, gpus=2)).failure
        assert "2 ranks of the gang 'seen' ask for 2 gpus each, and their machine has 3" in failure.message
        assert devices.take("train", 3) is not None  # all were given back


class LosesRanks(LocalEngine):
    """Rank 1 of each gang is killed as it starts, so many times."""

    left = 0

    def __init__(self, context, **more):
        super().__init__(context, **more)
        self._started, self._loop.start = self._loop.start, self._start

    def _start(self, kind, memory=None):
        process = self._started(kind, memory)
        if self.left and dict(kind.variables).get("RANK") == "1":
            self.left -= 1
            os.kill(process.pid, signal.SIGKILL)
        return process


@pytest.mark.parametrize(("times", "begins"), [(2, True), (3, False)])
def test_a_gang_that_cannot_begin_is_tried_again_and_not_for_ever(tmp_path, times, begins):
    with EngineBench(LosesRanks, tmp_path, workers=2) as bench:
        bench.engine.left = times
        answer = bench.answer(bench.submit(seen, gang=2))
        assert isinstance(answer, AttemptFinished) == begins
        assert len(bench.of(AttemptStarted)) == begins
        if not begins:
            assert "ended before it could begin, 3 times in a row" in answer.failure.message
        bench.finished(bench.submit(seen, gang=2))


def test_a_rank_that_is_read_at_the_top_of_a_module_is_refused_with_the_fix(workshop):
    workshop.write(
        """
    import os

    from hooke import pipeline, task

    RANK = int(os.environ.get("RANK", -1))

    @task(gang=2)
    def train():
        return RANK

    @pipeline
    def job():
        return train()
"""
    )
    with pytest.raises(
        EnvironmentMismatch, match=r"these parts differ: \S+RANK(.|\n)*read the rank inside the task"
    ):
        workshop.run(on="local", workers=2).result()


@pytest.mark.parametrize(
    ("on", "workers", "says"),
    [
        ("serial", None, r"the backend 'serial' does not support gangs(.|\n)*fix: .*local"),
        ("local", 2, r"has 3 ranks, but 'local' has 2 workers(.|\n)*fix: set workers=3"),
        ("local", (1, 2), r"has 3 ranks, but 'local' has 2 workers"),
    ],
)
def test_a_place_that_cannot_run_it_is_refused_before_anything_runs(workshop, on, workers, says):
    workshop.write(JOB + REDUCE)
    with pytest.raises(UsageError, match=says):
        workshop.run(on=on, workers=workers)
    assert not workshop.project.runs.names()


def _lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
