"""What a task leaves behind in its worker does not reach the next one, which would be cached with it."""

from __future__ import annotations

import pytest

JOB = """
    import json
    from hooke import pipeline, task

    COUNT = 0
    TABLE = {"a": 1}

    def helper(x):
        return 10 * x

    @task
    def meddle(how: str) -> str:
        global helper, COUNT
        COUNT += 1
        TABLE["b"] = 2
        if how == "function":
            helper = abs
        if how == "library":
            json.dumps = lambda value: "replaced"
        return how

    @task
    def honest(x: int, after: str) -> list:
        return [helper(x), json.dumps(x), COUNT, dict(TABLE)]

    @task
    def counted(x: int) -> int:
        global COUNT
        COUNT += 1
        return COUNT

    @pipeline
    def job(how: str):
        return honest(1, meddle(how))

    @pipeline
    def counts():
        return counted.map(range(6))
"""


@pytest.mark.needs("processes")
@pytest.mark.parametrize("how", ["nothing", "function", "library"])
def test_the_next_task_finds_the_code_as_it_was(workshop, how):
    workshop.write(JOB)
    assert workshop.run(how, name="job", on="local:1").result() == [10, "1", 0, {"a": 1}]


@pytest.mark.needs("processes")
def test_items_do_not_depend_on_their_chunk(workshop):
    workshop.write(JOB)
    assert workshop.run(name="counts", on="local:1").result() == [1] * 6
