"""Advice from real attempts."""

import pytest

from hooke.base.errors import JournalError
from hooke.planning.advice import advise

JOB = """
    import time
    from hooke import pipeline, task

    @task(memory="4GiB")
    def hold(x: int) -> int:
        held = bytearray(200 * 2**20)
        time.sleep(0.025)
        return len(held) + x

    @task(cpus=2)
    def wait(x: int) -> int:
        time.sleep(0.03)
        return x

    @pipeline
    def job(first: int = 0) -> list[int]:
        return wait.map(hold.map(range(first, first + 3)))
"""


@pytest.fixture
def job(workshop):
    workshop.write(JOB)
    return workshop


@pytest.mark.needs("cpu")
def test_what_attempts_used(job):
    run = job.run()
    found = advise(job.project.runs, run=run.id)
    assert found["hold"].declared_memory == 4 * 2**30
    # The place `serial` measures the process of the tests, which holds whatever tests before it imported.
    assert 200 * 2**20 < found["hold"].peak_bytes < found["hold"].memory < 4 * 2**30
    assert found["wait"].busy < 0.3 and found["wait"].cpus < 1
    assert found["wait"].declared_cpus == 2


@pytest.mark.needs("cpu")
def test_only_the_newest_code_counts(job):
    before = advise(job.project.runs, run=job.run().id)
    job.edit("200 * 2**20", "100 * 2**20")
    job.run(first=10)
    found = advise(job.project.runs)
    assert found["hold"].attempts == 3
    # Less, not little: the place `serial` measures the process of the tests, which holds more than the task.
    assert found["hold"].peak_bytes < before["hold"].peak_bytes - 50 * 2**20
    assert found["wait"].attempts == 6
    assert advise(job.project.runs, pipeline="other") == {}


@pytest.mark.needs("cpu")
def test_a_damaged_journal_is_named_where_it_was_asked_for(job):
    run = job.run()
    content = bytearray((run.folder / "driver.journal").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (run.folder / "driver.journal").write_bytes(content)
    assert advise(job.project.runs) == {}
    with pytest.raises(JournalError):
        advise(job.project.runs, run=run.id)
