"""Short plain calls that are ready at once, which go to workers in groups: results, failures, retries, output, and how they are told of."""

import pytest

from hooke.base.errors import TaskFailed
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, ItemsFound, RetryPlanned
from hooke.running.run import Run

JOB = """
    from hooke import task, pipeline

    @task
    def quiet(x: int) -> int:
        return x + 1

    @task
    def loud(x: int) -> int:
        if x % 10 == 0:
            print(f"this is {x}")
        return x + 1

    @task(retries=1)
    def bad(x: int) -> int:
        if x == 70:
            raise ValueError("seventy")
        return x + 1

    @task
    def counted(x: int, seen: list = []) -> int:
        seen.append(x)
        return len(seen)

    @task
    def long(x: int) -> str:
        return "x" * 5000 if x % 20 == 0 else "y"

    def many(task, calls):
        return [task(x) for x in range(calls)]

    @pipeline
    def quiet_calls(calls: int = 200) -> list[int]:
        return many(quiet, calls)

    @pipeline
    def loud_calls(calls: int = 200) -> list[int]:
        return many(loud, calls)

    @pipeline
    def bad_calls(calls: int = 200) -> list[int]:
        return many(bad, calls)

    @pipeline
    def counted_calls(calls: int = 200) -> list[int]:
        return many(counted, calls)

    @pipeline
    def long_calls(calls: int = 200) -> list[str]:
        return many(long, calls)
"""


@pytest.fixture
def shop(workshop):
    workshop.write(JOB)
    return workshop


def of(run, kind):
    return [event for event in run.journal if isinstance(event, kind)]


def groups(shop) -> int:
    """How many records of journals have the results of several calls."""
    return sum(file.read_bytes().count(b"calls_finished") for file in shop.folder.rglob("driver.journal"))


@pytest.mark.needs("cpu")
def test_calls_that_are_ready_at_once_share_a_record_and_are_attempts_of_their_own(shop):
    run = shop.run(name="quiet_calls", on="local:2")
    assert run.result() == [x + 1 for x in range(200)]
    assert 0 < groups(shop) < 60
    begun, ended = of(run, AttemptStarted), of(run, AttemptFinished)
    assert sorted(each.node for each in begun) == sorted(each.node for each in ended) == [*range(200)]
    assert len({each.attempt for each in ended}) == 200
    assert {each.number for each in begun} == {1}
    starts = {each.attempt: each for each in begun}
    for each in ended:
        start = starts[each.attempt]
        assert (start.node, start.worker) == (each.node, each.worker)
        assert start.at <= each.at
    again = shop.run(name="quiet_calls", on="local:2")
    assert again.result() == [x + 1 for x in range(200)]
    assert not of(again, AttemptStarted)
    assert len(of(again, ItemsFound)) == 200


def test_what_a_call_of_a_group_prints_is_its_own(shop):
    run = shop.run(name="loud_calls", on="local:2")
    run.result()
    assert groups(shop)
    logs = {each.node: each.log for each in of(run, AttemptFinished)}
    assert [node for node, log in sorted(logs.items()) if log is not None] == [*range(0, 200, 10)]
    for node in range(0, 200, 10):
        (file,) = shop.folder.rglob(logs[node].name)
        assert file.read_text()[logs[node].start : logs[node].end] == f"this is {node}\n"


def test_a_call_of_a_group_that_fails_is_tried_again_alone(shop):
    with pytest.raises(TaskFailed, match="seventy"):
        shop.run(name="bad_calls", on="local:2").result()
    run = Run(shop.project, shop.project.runs.names()[0])
    assert groups(shop)
    assert [(each.node, each.failure.arguments) for each in of(run, AttemptFailed)] == [(70, "x=70")] * 2
    assert [each.number for each in of(run, AttemptStarted) if each.node == 70] == [1, 2]
    assert [(each.node, each.number) for each in of(run, RetryPlanned)] == [(70, 2)]


def test_results_that_are_no_numbers_are_answered_alone(shop):
    run = shop.run(name="long_calls", on="local:2")
    assert [len(text) for text in run.result()] == [5000 if x % 20 == 0 else 1 for x in range(200)]
    assert groups(shop)


@pytest.mark.needs("cpu")
def test_each_call_has_the_defaults_of_its_function(shop):
    assert shop.run(name="counted_calls", on="local:2").result() == [1] * 200
    assert not groups(shop)
