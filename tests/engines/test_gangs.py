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

from hooke.base.errors import EnvironmentMismatch, TimedOut, UsageError, UserError, WorkerDied
from hooke.cli.entry import run_command
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, RetryPlanned

pytestmark = pytest.mark.heavy

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
    with pytest.raises(UserError, match=r"failed in rank 1 of 3: ValueError: rank one is out") as caught:
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


def test_a_rank_that_is_read_at_the_top_of_a_module_is_refused_with_the_mend(workshop):
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
    with pytest.raises(EnvironmentMismatch, match=r"differing: \S+RANK(.|\n)*read the rank inside the task"):
        workshop.run(on="local", workers=2).result()


@pytest.mark.parametrize(
    ("on", "workers", "says"),
    [
        ("serial", None, r"place 'serial' has no gangs(.|\n)*mend: .*local"),
        ("local", 2, r"has 3 ranks, and 'local' has 2 workers(.|\n)*mend: workers=3"),
        ("local", (1, 2), r"has 3 ranks, and 'local' has 2 workers"),
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
