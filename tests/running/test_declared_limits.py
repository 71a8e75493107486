"""What tasks declare and a backend without processes of its own cannot keep is said or refused."""

import logging

import pytest

from hooke.base.errors import UsageError
from hooke.processes import devices

pytestmark = pytest.mark.needs("cpu")

JOB = """
    from hooke import pipeline, task

    @task(timeout=60, memory="1GiB")
    def fit(x):
        return x

    @task(timeout="5m")
    def load(x):
        return x

    @task(gpus=1)
    def train(x):
        return x

    @pipeline
    def limited():
        return [fit(load(x)) for x in range(3)]

    @pipeline
    def on_gpus():
        return train(1)
"""


@pytest.mark.parametrize("on", ["serial", "local:1"])
def test_limits_that_are_not_enforced_are_named_once(workshop, caplog, on):
    workshop.write(JOB)
    with caplog.at_level(logging.WARNING, "hooke"):
        assert workshop.run(on=on, name="limited").result() == [0, 1, 2]
    said = (
        "note: serial, where tasks run in the driver's own process, does not enforce "
        "timeout= of load, fit, and memory= of fit"
    )
    assert [record.getMessage() for record in caplog.records] == ([said] if on == "serial" else [])


def test_missing_gpus_are_refused_before_the_run(workshop, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    workshop.write(JOB)
    with pytest.raises(UsageError, match="'train' asks for 1 gpus, and this machine has none"):
        workshop.run(on="serial", name="on_gpus")
    assert not workshop.project.runs.names()


def test_gpus_that_are_there_may_be_asked_for(workshop, monkeypatch):
    (workshop.folder / "driver" / "0").mkdir(parents=True)
    monkeypatch.setattr(devices, "_DRIVER", workshop.folder / "driver")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    workshop.write(JOB)
    assert workshop.run(on="serial", name="on_gpus").result() == 1


COUNTER = """
    from hooke import pipeline, task

    CALLS, MODEL = 0, None

    @task
    def count(x):
        global CALLS
        CALLS += 1
        return CALLS

    @task
    def cached(x):
        global MODEL
        if MODEL is None:
            MODEL = x
        return MODEL

    @pipeline
    def counts():
        return count.map([cached(x) for x in range(3)])
"""


def test_a_task_that_counts_in_a_global_is_warned_of_and_one_that_keeps_a_model_there_is_not(
    workshop, caplog
):
    workshop.write(COUNTER)
    with caplog.at_level(logging.WARNING, "hooke"):
        workshop.run(on="serial", name="counts")
    [said] = [
        each.message for each in caplog.records if "global" in each.message or "changes" in each.message
    ]
    assert said.startswith("note: the task count changes CALLS, of which each worker has its own")
