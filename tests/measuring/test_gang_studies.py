"""Studies of a gang, which vary its number of ranks."""

import pytest

from hooke import UsageError, measure
from hooke.journal.study_records import read_study
from hooke.planning.advice import known_limit
from hooke.planning.task_facts import studies_of
from hooke.project.pipeline_file import load_entry

pytestmark = pytest.mark.needs("processes")

PROGRAM = """
    import os
    import socket
    import time

    from hooke import pipeline, task


    def wait_for_all(rank, size, late):
        meeting = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if rank == 0:
            with socket.create_server(meeting) as server:
                time.sleep(late)
                others = [server.accept()[0] for _ in range(size - 1)]
                for other in others:
                    other.send(b"x")
                    other.close()
            return
        while True:
            try:
                with socket.create_connection(meeting) as first:
                    first.recv(1)  # the ranks wait here
                    return
            except ConnectionRefusedError:
                time.sleep(0.002)


    @task(gang=3)
    def train(seconds: float, late: float = 0.0, alike: bool = False) -> int:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        time.sleep(seconds if alike else seconds / size)
        wait_for_all(rank, size, late * (size > 1))
        return size


    @task
    def double(x: int) -> int:
        return 2 * x


    @pipeline
    def training(seconds: float = 0.6, late: float = 0.0, alike: bool = False) -> int:
        return double(train(seconds, late, alike))


    @pipeline
    def several(count: int = 3) -> list[int]:
        return train.map([0.4] * count)

"""


def loaded(workshop, name="training"):
    workshop.write(PROGRAM)
    return load_entry(f"{workshop.file}:{name}")[0]


def test_n_is_the_number_of_ranks(workshop):
    study = measure(loaded(workshop), task="train", workers=[1, 2], repeats=2, progress="none")
    record = read_study(study.folder)
    assert (record.started.unit, record.counts) == ("calls", "ranks")
    assert [(row.n, row.work) for row in study.rows] == [(1, 1.0), (2, 1.0)]
    assert all(each.use.attempts == each.n for each in record.measured)  # each rank has its own time
    assert "2 ranks" in str(study) and "worker" not in str(study)
    # It tells nothing about more workers.
    assert not studies_of(workshop.project.runs, pipeline="training", host=record.started.host)
    assert known_limit(workshop.project.runs, "training", "train") == ""


def test_the_time_that_ranks_wait_for_others_is_communication(workshop):
    study = measure(
        loaded(workshop), task="train", workers=[1, 2], repeats=2, progress="none", seconds=0.1, late=0.6
    )
    lines = workshop.file.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "the ranks wait here" in text)
    assert study.cause is not None and study.cause.name == "communication", study.cause
    assert study.cause.sentence.startswith(f"waits for other ranks in {workshop.file.name}:{line}: ")


def test_with_weak_scaling_n_ranks_do_n_times_the_work(workshop):
    asked = {"task": "train", "workers": [1, 2], "repeats": 1, "weak": True, "progress": "none"}
    study = measure(loaded(workshop), **asked, seconds=0.2, alike=True)
    record = read_study(study.folder)
    assert {each.n: each.work for each in record.measured} == {1: 1.0, 2: 2.0}
    assert {each.work for each in record.plain} == {1.0}


def test_sizes_of_a_map_of_gangs(workshop):
    study = measure(
        loaded(workshop, "several"), task="train", workers=[2], sizes=[1, 2, 3], repeats=1, progress="none"
    )
    record = read_study(study.folder)
    assert sorted((each.n, each.work, each.use.attempts) for each in record.measured) == [
        (2, 1.0, 2),
        (2, 2.0, 4),
        (2, 3.0, 6),
    ]


def test_a_whole_pipeline_with_a_gang_is_refused_before_anything_is_written(workshop):
    with pytest.raises(UsageError, match="'train' is a gang of 3 ranks") as caught:
        measure(loaded(workshop), workers=[1, 2], progress="none")
    assert "--task train" in caught.value.fix
    assert not workshop.project.runs.names()


def test_another_task_beside_a_gang_needs_room_for_it(workshop):
    with pytest.raises(UsageError, match="does not fit N = 1"):
        measure(loaded(workshop), task="double", workers=[1, 4], progress="none")
