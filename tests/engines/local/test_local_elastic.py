"""Elastic gangs in real runs on this machine: they change their number of ranks at a checkpoint, and say so."""

import psutil
import pytest
from tests.engines.local.test_local_gangs import until

from hooke.base.errors import UsageError
from hooke.cli.entry import run_command
from hooke.journal.events import AttemptFailed, AttemptStarted, RetryPlanned
from hooke.pipeline import node_state, retries

pytestmark = pytest.mark.needs("processes")

JOB = """
    import os
    import time
    from pathlib import Path

    import hooke
    from hooke import pipeline, task

    PATIENCE_S = 60.0

    def until(there):
        for _ in range(int(PATIENCE_S / 0.02)):
            if there():
                return
            time.sleep(0.02)
        raise TimeoutError("it took too long")

    def steps_of(folder):
        # Counts on one rank, in a checkpoint; the others wait for it to end.
        ranks, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
        Path(folder, f"begun-{ranks}").touch()
        Path(folder, f"pid-{ranks}-{rank}").write_text(str(os.getpid()))
        if rank:
            until(Path(folder, "done").exists)
            return []
        saved = hooke.checkpoint_dir() / "steps"
        done = saved.read_text().split() if saved.exists() else []
        for _ in range(int(PATIENCE_S / 0.02)):
            time.sleep(0.02)
            done.append(str(ranks))
            new = saved.with_name("new")
            new.write_text(" ".join(done))
            new.replace(saved)
            Path(folder, f"saved-{ranks}").touch()
            hooke.checkpoint_saved()
            if len(set(done)) > 1:
                break
        Path(folder, "done").touch()
        return [int(ranks) for ranks in done]

    @task
    def hold(folder, name):
        until((Path(folder) / name).exists)

    @task(gang=(1, 2))
    def train(folder):
        return steps_of(folder)

    @task(gang=(1, 2))
    def train_where(folders):
        return steps_of(folders[0])

    @task(cache=False)
    def meet(number, folder):
        Path(folder, f"there-{number}").touch()
        until(Path(folder, f"there-{1 - number}").exists)
        return folder

    @pipeline
    def lone(folder="."):
        return train_where(meet.map([0, 1], folder=folder))  # both machines are there, and free, when it begins

    @pipeline
    def grows(folder="."):
        return hold(folder, "begun-1"), train(folder)

    @pipeline
    def shrinks(folder="."):
        return train(folder), hold(folder, "done")

    @task(gang=(1, 2))
    def deaf(folder):
        try:
            return steps_of(folder)
        except BaseException:
            return ["caught"]

    @pipeline
    def caught(folder="."):
        return deaf(folder), hold(folder, "done")

    @task(gang=(1, 2), retries=1)
    def mourns(folder):
        # A rank that is killed, and no place left for another one.
        tries = len(list(Path(folder).glob("try-*")))
        if os.environ["RANK"] == "0":
            Path(folder, f"try-{tries}").touch()
        if os.environ["WORLD_SIZE"] == "2":
            until((Path(folder) / "try-0").exists)
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), 9)
            time.sleep(PATIENCE_S)
        Path(folder, "done").touch()
        return int(os.environ["WORLD_SIZE"])

    @pipeline
    def left(folder="."):
        return mourns(folder), hold(folder, "done")
"""


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(node_state, "SETTLED_S", 0.2)
    monkeypatch.setattr(node_state, "LASTS_S", 0.2)


def run(workshop, name, *, on="local", workers=2, observers=()):
    workshop.write(JOB)
    events: list = []
    made = workshop.run(
        name=name, on=on, workers=workers, folder=str(workshop.folder), observers=[events.append, *observers]
    )
    return made, events


def check_it_grows(workshop, **place):
    made, events = run(workshop, "grows", **place)
    (_, done) = made.result()
    assert sizes(events) == [1, 2]
    assert done == sorted(done)
    assert set(done) == {1, 2}


def check_it_goes_on_without_a_lost_host(workshop, **place):
    """It has no retries, and the machine of rank 1 is killed."""
    killed: list[int] = []

    def kill_host(event):
        if isinstance(event, AttemptStarted) and len(event.workers) == 2 and not killed:
            until((workshop.folder / "saved-2").exists, "a checkpoint")
            pid = workshop.folder / "pid-2-1"
            killed.append(int(until(lambda: pid.exists() and pid.read_text(), "the other rank")))
            # What runs the rank, what forked that, and the Dask worker or the actor that this belongs to.
            psutil.Process(killed[0]).parent().parent().kill()

    made, events = run(workshop, "lone", observers=[kill_host], **place)
    done = made.result()
    assert sizes(events)[:2] == [2, 1]
    assert set(done) == {1, 2}
    assert done == sorted(done, reverse=True)
    failed = next(event.failure for event in events if isinstance(event, AttemptFailed))
    assert (failed.kind, failed.host_lost) == ("WorkerDied", True)
    reason = next(event.reason for event in events if isinstance(event, RetryPlanned))
    assert reason.endswith("it goes on with as many ranks as there is room for")


def sizes(events):
    return [len(event.workers) for event in events if isinstance(event, AttemptStarted) and event.workers]


def test_a_gang_grows_when_another_task_leaves_it_a_core(workshop):
    check_it_grows(workshop)


def test_a_gang_makes_way_which_is_no_failure_and_no_retry(workshop, capsys):
    made, events = run(workshop, "shrinks")
    (done, _) = made.result()
    assert sizes(events) == [2, 1]
    assert done == sorted(done, reverse=True)
    (resized,) = [event for event in events if isinstance(event, AttemptFailed)]
    said = "its 2 ranks ended at a checkpoint, to go on with 1 rank: others wait for room"
    assert resized.failure.message == said
    assert not [event for event in events if isinstance(event, RetryPlanned)]
    (row,) = [row for row in made.tasks() if row.task == "train"]
    assert (row.failures, row.failed, row.gang, row.least_ranks) == (0, 0, 2, 1)
    run_command(["show", made.id])
    assert f"train: {said}" in capsys.readouterr().out


def test_what_a_task_returns_that_catches_its_end_does_not_count(workshop):
    made, events = run(workshop, "caught")
    assert sizes(events) == [2, 1]
    assert set(made.result()[0]) == {1, 2}


def test_a_rank_that_is_killed_where_no_place_is_left_goes_on_with_one(workshop, monkeypatch):
    monkeypatch.setattr(retries, "BASE_S", 5.0)  # meanwhile the other task takes a place
    made, events = run(workshop, "left")
    assert made.result()[0] == 1
    assert sizes(events) == [2, 1]
    (failed,) = [event.failure for event in events if isinstance(event, AttemptFailed)]
    assert (failed.kind, failed.rank, failed.signal) == ("WorkerDied", 1, 9)


def test_serial_refuses_it(workshop):
    workshop.write(JOB)
    with pytest.raises(
        UsageError, match="'serial' does not support gangs, but 'train' is a gang of 1 to 2 ranks"
    ):
        workshop.run(name="grows", on="serial")


def test_a_place_that_is_smaller_than_the_fewest_refuses_it(workshop):
    workshop.write(JOB.replace("(1, 2)", "(2, 4)"))
    with pytest.raises(
        UsageError, match=r"the gang 'train' needs at least 2 ranks, but 'local' has 1 worker"
    ) as refused:
        workshop.run(name="grows", on="local", workers=1)
    assert "workers=2" in refused.value.fix


def test_outside_a_gang_and_outside_a_run_it_says_nothing(workshop):
    import hooke

    hooke.checkpoint_saved()
