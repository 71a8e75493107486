"""Tasks and pipelines pickle by reference where another process can import them, else by value."""

import copy
import pickle
import subprocess
import sys

import cloudpickle
import numpy
import pytest

from hooke import pipeline, task
from hooke.pipeline.task import is_importable


@task
def importable(value):
    return value + 1


@pipeline
def whole(value):
    return importable(value)


class Model:
    def __init__(self, weight):
        self.weight = weight

    @task
    def predict(self, row):
        return self.weight * row

    @task
    @classmethod
    def named(cls, row):
        return cls.__name__, row


foreign = task(cpus=2)(numpy.sum)


def local_task():
    offset = 5

    @task(cpus=3)
    def inner(value) -> tuple[int, int]:
        return value + offset, 0

    return inner


def local_recursion():
    @task
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    return fib


def local_mutual():
    @task
    def even(n):
        return True if n == 0 else odd(n - 1)

    @task
    def odd(n):
        return False if n == 0 else even(n - 1)

    return even


DUMPS = pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])


@DUMPS
def test_by_reference_it_is_the_same_object(dumps):
    for declared in (importable, whole, Model.predict):
        assert is_importable(declared)
        data = dumps(declared)
        assert pickle.loads(data) is declared
        assert len(data) < 200


@DUMPS
def test_by_value_it_does_the_same(dumps):
    inner = local_task()
    assert not is_importable(inner)
    copied = pickle.loads(dumps(inner))
    assert copied is not inner
    assert copied(1) == (6, 0)
    assert (copied.name, copied.resources, copied.__doc__) == (inner.name, inner.resources, inner.__doc__)
    assert copied.signature == inner.signature
    assert copied.shape == (None, None)


@DUMPS
def test_what_is_computed_on_demand_is_not_in_the_pickle(dumps):
    inner = local_task()
    before = len(dumps(inner))
    assert inner.signature and inner.shape
    assert len(dumps(inner)) == before


@DUMPS
def test_a_task_that_calls_itself(dumps):
    fib = pickle.loads(dumps(local_recursion()))
    assert fib(10) == 55
    inner = fib.function.__closure__[0].cell_contents
    assert inner is fib


@DUMPS
def test_tasks_that_call_each_other(dumps):
    even = pickle.loads(dumps(local_mutual()))
    assert even(10) is True
    assert even(7) is False


@DUMPS
def test_a_foreign_function(dumps):
    copied = pickle.loads(dumps(foreign))
    assert copied([1, 2]) == 3
    assert copied.function is numpy.sum
    assert copied.resources.cpus == 2


@DUMPS
def test_a_bound_task_takes_its_instance_along(dumps):
    copied = pickle.loads(dumps(Model(3).predict))
    assert copied(2) == 6
    assert copied.unbound is Model.predict
    assert pickle.loads(dumps(Model.named))(1) == ("Model", 1)


@DUMPS
def test_several_in_one_pickle(dumps):
    inner = local_task()
    first, second, third = pickle.loads(dumps([inner, inner, importable]))
    assert first is second
    assert third is importable


@DUMPS
def test_a_local_pipeline(dumps):
    @pipeline(name="nightly")
    def local(value):
        return importable(value)

    copied = pickle.loads(dumps(local))
    assert (copied.name, copied(1)) == ("nightly", 2)


def test_a_shadowed_name_is_by_value():
    shadow = task(cpus=4)(importable)
    assert shadow.__qualname__ == importable.__qualname__
    assert not is_importable(shadow)
    assert pickle.loads(pickle.dumps(shadow)).resources.cpus == 4


def test_copies_are_the_task_itself():
    for declared in (importable, local_task(), whole):
        assert copy.copy(declared) is declared
        assert copy.deepcopy([declared])[0] is declared


@pytest.mark.needs("cpu")
def test_tasks_of_a_script_reach_a_process_that_did_not_run_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import pickle, sys\n"
        "from hooke import task\n"
        "OFFSET = 4\n"
        "def helper(value): return value + OFFSET\n"
        "@task\n"
        "def down(value): return helper(value) if value == 0 else down(value - 1)\n"
        "sys.stdout.buffer.write(pickle.dumps(down))\n"
    )
    data = subprocess.run([sys.executable, script], capture_output=True, check=True, timeout=180).stdout
    reader = "import pickle, sys; print(pickle.load(sys.stdin.buffer)(3))"
    done = subprocess.run(
        [sys.executable, "-c", reader], input=data, capture_output=True, check=True, timeout=180
    )
    assert done.stdout == b"4\n"
