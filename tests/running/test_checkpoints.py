"""A training goes on from its checkpoint after a retry, a resume or a new run, and never from one of other code or arguments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hooke.base.errors import TaskFailed
from hooke.running.replay import replay
from hooke.running.resume import resume
from hooke.running.run import Run
from hooke.store.checkpoints import CheckpointOwner

JOB = """
    import json, os, signal, time
    from pathlib import Path

    import hooke
    from hooke import File, pipeline, task

    HERE = Path(__file__).parent
    DECAY = 0.5

    def step(weight: float, lr: float) -> float:
        return weight * DECAY + lr

    def train(lr: float, end: str) -> float:
        folder = hooke.checkpoint_dir()
        saved = folder / "weight"
        at, weight = json.loads(saved.read_text()) if saved.exists() else (0, 0.0)
        with open(HERE / "seen.txt", "a") as seen:
            seen.write(f"{at} ")
        for at in range(at, 10):
            if at == 5 and not (HERE / "harmless").exists():
                (HERE / "harmless").touch()
                if end == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if end == "wait":
                    time.sleep(600)
                if end == "raise" or (end == "raise2" and (HERE / "again").exists()):
                    raise ValueError("at 5")
            weight = step(weight, lr)
            fresh = folder / "fresh"
            fresh.write_text(json.dumps([at + 1, weight]))
            os.replace(fresh, saved)
        return weight

    again = task(retries=1, name="again")(train)
    once = task(name="once")(train)
    uncached = task(cache=False, name="uncached")(train)
    kept_once = task(keep_checkpoints=True, name="kept_once")(train)
    kept = task(keep_checkpoints=True, retries=1, name="kept")(train)

    @task(retries=1)
    def item(lr: float) -> float:
        return train(lr, "raise")

    @task(retries=1)
    def reads(file: File) -> str:
        folder = hooke.checkpoint_dir()
        found = [each.read_text() for each in folder.iterdir()]
        text = Path(file).read_text()
        (folder / "read").write_text(text)
        if not (HERE / "changed").exists():
            (HERE / "changed").touch()
            Path(file).write_text("other")
        return f"{found} {text}"

    @task
    def undeclared(end: str) -> str:
        saved = hooke.checkpoint_dir() / "read"
        text = (HERE / "data.csv").read_text()
        found = saved.read_text() if saved.exists() else ""
        saved.write_text(found + text)
        if end == "raise" and not (HERE / "harmless").exists():
            (HERE / "harmless").touch()
            raise ValueError("once")
        if (HERE / "removes").exists():
            (HERE / "data.csv").unlink()
        return saved.read_text()

    @pipeline
    def reading_undeclared(end: str = "raise"):
        return undeclared(end)

    @pipeline
    def job(lr: float = 1.0, end: str = "kill", task: str = "again"):
        return globals()[task](lr, end)

    @pipeline
    def mapped():
        return item.map([1.0, 2.0, 1.0])

    @pipeline
    def reading():
        return reads(File(HERE / "input.txt"))
"""


def weight(lr: float, decay: float = 0.5) -> float:
    found = 0.0
    for _ in range(10):
        found = found * decay + lr
    return found


class Training:
    """A project with the trainings above."""

    def __init__(self, workshop) -> None:
        self.workshop = workshop
        workshop.write(JOB)

    def run(self, *args, name: str = "job", **params) -> Run:
        return self.workshop.run(*args, name=name, **params)

    def resume(self, name: str) -> Run:
        driver = resume(self.workshop.project, name)
        assert driver is not None
        assert driver.drive() == "finished"
        return Run(self.workshop.project, name)

    def began(self) -> list[int]:
        """Where each attempt began, since the last look."""
        file = self.workshop.folder / "seen.txt"
        text = file.read_text()
        file.write_text("")
        return [int(each) for each in text.split()]

    def fail_again(self) -> None:
        (self.workshop.folder / "harmless").unlink(missing_ok=True)

    @property
    def folders(self) -> list[Path]:
        root = self.workshop.project.store().checkpoints.root
        return [each for each in root.glob("*") if each.is_dir()] if root.exists() else []


@pytest.fixture
def training(workshop) -> Training:
    return Training(workshop)


@pytest.mark.needs("processes")
def test_a_killed_training_goes_on_and_its_folder_goes_when_the_result_is_durable(training):
    assert training.run(on="local", end="kill").result() == weight(1.0)
    assert training.began() == [0, 5]
    assert not training.folders


@pytest.mark.needs("cpu")
def test_an_edited_learning_rate_or_edited_code_begins_anew(training):
    assert training.run(task="kept", end="").result() == weight(1.0)
    assert training.run(task="kept", end="", lr=2.0).result() == weight(2.0)
    training.workshop.edit("DECAY = 0.5", "DECAY = 0.25")
    assert training.run(task="kept", end="").result() == weight(1.0, 0.25)
    assert training.began() == [0, 0, 0]
    assert len(training.folders) == 3


@pytest.mark.needs("cpu")
def test_a_later_run_goes_on_where_one_failed(training):
    with pytest.raises(TaskFailed):
        training.run(task="once", end="raise").result()
    assert len(training.folders) == 1
    assert training.run(task="once", end="raise").result() == weight(1.0)
    assert training.began() == [0, 5]
    assert not training.folders


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("task", ["once", "uncached"])
def test_a_resumed_run_goes_on(training, task):
    with pytest.raises(TaskFailed):
        training.run(task=task, end="raise").result()
    (failed,) = training.workshop.project.runs.names()
    assert training.resume(failed).result() == weight(1.0)
    assert training.began() == [0, 5]
    assert not training.folders


def test_a_failed_call_is_replayed_on_a_copy_of_its_checkpoint(training):
    with pytest.raises(TaskFailed):
        training.run(task="once", end="raise").result()
    (failed,) = training.workshop.project.runs.names()
    again = replay(training.workshop.project, failed, "once")
    (folder,) = training.folders
    before = (folder / "weight").read_text()
    with again.checkpoints():
        assert again.function(*again.args, **again.kwargs) == weight(1.0)
    assert training.began() == [0, 5]
    assert (folder / "weight").read_text() == before


def test_without_the_cache_another_run_begins_anew(training):
    with pytest.raises(TaskFailed):
        training.run(task="uncached", end="raise").result()
    assert training.run(task="uncached", end="raise").result() == weight(1.0)
    assert training.began() == [0, 0]


def test_kept_checkpoints_stay_until_their_result_is_removed(training):
    run = training.run(task="kept", end="raise")
    assert training.began() == [0, 5]
    (folder,) = training.folders
    assert json.loads((folder / "weight").read_text()) == [10, run.result()]
    store = training.workshop.project.store()
    assert store.remove(folder.name)
    assert not training.folders


@pytest.mark.needs("cpu")
def test_a_forced_run_begins_anew_and_goes_on_when_it_is_resumed(training):
    training.run(task="kept_once", end="raise2")
    training.fail_again()
    (training.workshop.folder / "again").touch()
    with pytest.raises(TaskFailed):
        training.run(task="kept_once", end="raise2", force=True).result()
    forced = training.workshop.project.runs.names()[0]
    assert training.resume(forced).result() == weight(1.0)
    assert training.began() == [0, 0, 5]


def test_items_have_folders_of_their_own(training):
    assert training.run(name="mapped").result() == [weight(1.0), weight(2.0), weight(1.0)]
    began = training.began()
    assert began.count(0) >= 2, "items 0 and 1 have folders of their own"
    assert 5 in began, "item 0, or item 2, which has the same key, goes on"
    assert not training.folders


@pytest.mark.needs("cpu")
def test_a_checkpoint_of_an_input_that_changed_meanwhile_is_not_used(training):
    file = training.workshop.folder / "input.txt"
    file.write_text("first")
    with pytest.raises(TaskFailed, match="changed"):
        training.run(name="reading").result()
    file.write_text("first")
    assert training.run(name="reading").result() == "[] first"


@pytest.mark.needs("cpu")
def test_a_checkpoint_older_than_a_file_that_was_read_is_not_used(training):
    data = training.workshop.folder / "data.csv"
    data.write_text("old")
    with pytest.raises(TaskFailed, match="once"):
        training.run(name="reading_undeclared").result()
    data.write_text("new")
    with pytest.raises(TaskFailed, match=r"data\.csv changed after this task's checkpoint was begun"):
        training.run(name="reading_undeclared").result()
    assert training.run(name="reading_undeclared").result() == "new"


def test_a_checkpoint_younger_than_what_was_read_is_used(training):
    (training.workshop.folder / "data.csv").write_text("old")
    with pytest.raises(TaskFailed, match="once"):
        training.run(name="reading_undeclared").result()
    assert training.run(name="reading_undeclared").result() == "oldold"


def test_a_file_that_is_removed_by_a_task_that_goes_on_from_a_checkpoint_ends_no_worker(training):
    (training.workshop.folder / "data.csv").write_text("old")
    with pytest.raises(TaskFailed, match="once"):
        training.run(name="reading_undeclared").result()
    (training.workshop.folder / "removes").touch()
    assert training.run(name="reading_undeclared").result() == "oldold"


def test_a_store_inside_the_project_is_no_input(training):
    (training.workshop.folder / "hooke.toml").write_text('[store]\nurl = "cache"\n')
    (training.workshop.folder / "data.csv").write_text("x")
    run = training.run(name="reading_undeclared", end="")
    assert run.result() == "x"
    read = {
        each.name
        for event in run.journal
        for piece in getattr(event, "observed", ())
        for each in piece.inputs
    }
    assert "data.csv" in read
    assert not [name for name in read if name.startswith("cache")]
    assert training.workshop.ran(training.run(name="reading_undeclared", end="")) == {}


def test_a_folder_that_a_killed_driver_left_is_swept_by_the_next_run(training):
    run = training.run(task="once", end="")
    store = training.workshop.project.store()
    (entry,) = [each for each in store.entries() if each.task == "once"]
    owner = CheckpointOwner(task="once", run=run.id, recipe=entry.key)
    left = store.checkpoints.open(entry.key, owner, 1)
    left.release()
    record = left.path.with_name(f"{left.path.name}.record")
    facts = json.loads(record.read_text()) | {"opened_at": entry.at - 1}  # as its attempt had left it
    record.write_text(json.dumps(facts))
    assert training.run(task="once", end="").result() == weight(1.0)
    assert not left.path.exists()
    assert training.began() == [0]


@pytest.mark.needs("processes")
def test_the_folder_outlives_the_whole_driver(training, tmp_path):
    command = [
        sys.executable, "-m", "hooke", "run", f"{training.workshop.file}:job", "--on", "local", "--task", "once", "--end", "wait",
    ]  # fmt: skip
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "harmless").exists():
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    (lost,) = training.workshop.project.runs.names()
    assert training.resume(lost).result() == weight(1.0)
    assert training.began() == [0, 5]
    assert not training.folders
