"""What a review found, each with the case that showed it."""

import gc
import os
import subprocess
import sys
import textwrap
import time

import pytest
from tests.engines.local.faults import wait_until

from hooke import run as run_it
from hooke.base.clock import SystemClock
from hooke.base.errors import (
    ConfigError,
    NotFingerprintable,
    NotPicklable,
    RunStopped,
    TaskError,
    TraceError,
    UsageError,
)
from hooke.base.formats import short_repr
from hooke.journal.events import ItemsFound
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan, Submit
from hooke.pipeline.run_state import RunState
from hooke.project.backends import find_backend
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.project.settings import BackendSettings, read_settings
from hooke.running.driver import RunOrder, prepare
from hooke.running.run import Run

ODD = """
    import sys, time
    import numpy as np
    from hooke import Temporary, pipeline, task

    class BadText(Exception):
        def __str__(self):
            raise ValueError("no text")

    class BadProperties:
        @property
        def shape(self):
            raise RuntimeError("no shape")

        nbytes = shape

    @task
    def same(x):
        return x

    @task
    def fail():
        raise BadText()

    @task
    def binary():
        sys.stdout.buffer.write(b"")
        return sys.stdout.encoding.lower()

    @task
    def zeros():
        return np.zeros(100_000)

    @task
    def add_in_place(a):
        a += 1
        return a

    @task
    def table():
        return {"a": 1}

    @task
    def say(x, seconds):
        print("said", x)
        time.sleep(seconds)
        return x

    tried = []

    @task(retries=1)
    def patient():
        tried.append(1)
        if len(tried) == 1:
            raise Temporary("not now", delay_s=1.5)
        return len(tried)

    @pipeline
    def odd_argument(big: bool = False):
        return same(10 ** 5000 if big else BadProperties())

    @pipeline
    def bad_text():
        return fail()

    @pipeline
    def bytes_out():
        return binary()

    @pipeline
    def in_place():
        return add_in_place(zeros())

    @pipeline
    def no_part():
        return same(table()["b"])

    @pipeline
    def saying(x, seconds=0.0):
        return say(x, seconds)

    @pipeline
    def waiting():
        return patient()

    @pipeline
    def parameter(pipeline=3):
        return same(pipeline)
"""


class NotNow:
    def __reduce__(self):
        raise RuntimeError("not now")


@pytest.mark.parametrize("big", [True, False])
def test_arguments_that_cannot_be_shown_run(workshop, big):
    workshop.write(ODD)
    assert workshop.run(name="odd_argument", big=big).status == "finished"
    assert short_repr(10**5000) == "<int>"


def test_an_exception_without_text_fails_its_task_alone(workshop):
    workshop.write(ODD)
    with pytest.raises(TaskError, match="BadText"):
        workshop.run(name="bad_text").result()


def test_bytes_can_be_printed_in_the_drivers_process(workshop):
    workshop.write(ODD)
    assert workshop.run(name="bytes_out").result() == sys.stdout.encoding.lower()


def test_how_to_change_an_array_is_said(workshop):
    workshop.write(ODD)
    with pytest.raises(TaskError, match=r"x = x\.copy\(\)"):
        workshop.run(name="in_place").result()


def test_a_part_that_is_not_there_is_named(workshop):
    workshop.write(ODD)
    with pytest.raises(TaskError, match=r"takes the part \['b'\] of a result, which is of type dict"):
        workshop.run(name="no_part").result()


@pytest.mark.needs("processes")
@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_a_run_leaves_no_descriptor_open(workshop):
    workshop.write(ODD)

    def opened() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    workshop.run(name="saying", x=-1).result()
    before = opened()
    for x in range(20):
        workshop.run(name="saying", x=x).result()
    # What threads of these runs and of earlier tests have open for a while closes; what is left open stays.
    wait_until(lambda: opened() < before + 20, "the descriptors of twenty runs to be closed")


@pytest.mark.needs("cpu")
def test_waiting_for_a_retry_costs_no_cpu(workshop):
    workshop.write(ODD)
    began = time.thread_time()  # other threads of this process are those of other tests
    assert workshop.run(name="waiting").result() == 2
    assert time.thread_time() - began < 0.75, "half of the wait"


@pytest.mark.needs("processes")
def test_two_runs_in_threads_leave_the_output_as_it_was(tmp_path):
    script = tmp_path / "two.py"
    calls = """
    if __name__ == "__main__":
        from hooke import run

        first = run(saying, "a", 0.2, on="serial", wait=False)
        time.sleep(0.1)
        second = run(saying, "b", 0.4, on="serial", wait=False)
        print(first.result(), second.result())
        print(sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__)
    """
    script.write_text(textwrap.dedent(ODD) + textwrap.dedent(calls), encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=180, check=False)
    assert done.stdout.splitlines()[-2:] == ["a b", "True True"], done.stderr


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("command", [["-m", "pytest"], ["-c", "import pytest; pytest.main()"], ["PYTEST"]])
def test_the_project_of_a_test_is_where_its_pipeline_is(tmp_path, command):
    """Not where pytest is installed."""
    program = os.path.join(os.path.dirname(sys.executable), "pytest")
    test = """
    @pipeline
    def nested(x):
        return outer(x)

    @task
    def outer(x):
        from hooke import run
        return str(run(saying, x, on="serial").project.root)

    def test_it():
        from hooke import run
        done = run(nested, 1, on="local:1")
        print("root", done.project.root)
        print("root", done.result())
    """
    (tmp_path / "test_it.py").write_text(textwrap.dedent(ODD) + textwrap.dedent(test), encoding="utf-8")
    more = ["-q", "-s", "-p", "no:cacheprovider", "test_it.py"]
    start = [program, *more] if command == ["PYTEST"] else [sys.executable, *command]
    if command[0] == "-m":
        start += more
    elif command[0] == "-c":
        start = [sys.executable, "-c", f"import pytest; pytest.main({more!r})"]
    done = subprocess.run(start, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    roots = [line.partition("root ")[2] for line in done.stdout.splitlines() if "root " in line]
    assert roots == [str(tmp_path)] * 2, done.stdout + done.stderr


def test_a_pipeline_may_have_a_parameter_called_pipeline(workshop):
    workshop.write(ODD)
    pipeline, _ = load_entry(f"{workshop.file}:parameter")
    assert run_it(pipeline, on="serial", pipeline=4).result() == 4


def test_a_parameter_that_refuses_to_be_pickled_is_said(workshop):
    workshop.write(ODD)
    with pytest.raises(NotPicklable, match="cannot be pickled"):
        workshop.run(name="saying", x=NotNow())


class BrokenClock(SystemClock):
    def monotonic(self) -> float:
        raise PermissionError("no clock")


def test_a_run_in_a_thread_says_what_ended_it(workshop):
    workshop.write(ODD)
    pipeline, _ = load_entry(f"{workshop.file}:saying")
    order = RunOrder(pipeline=pipeline, params={"x": 1}, on="serial")
    driver = prepare(order, workshop.project, clock=BrokenClock())
    run = Run(driver.project, driver.run)
    run.drive_behind(driver)
    with pytest.raises(PermissionError):
        run.result()


def test_a_run_that_failed_before_its_tasks_says_why_to_a_reader(workshop):
    workshop.write(
        """
        import threading
        from hooke import pipeline, task

        @task
        def same(x):
            return x

        @pipeline
        def job():
            return same(threading.Lock())
        """
    )
    with pytest.raises(NotFingerprintable):
        workshop.run()
    (name,) = workshop.project.runs.names()
    with pytest.raises(RunStopped, match="fingerprint|key"):
        Run(workshop.project, name).result()


@pytest.mark.parametrize("workers", [-2, 0])
def test_a_place_without_workers_is_refused(workers):
    with pytest.raises(UsageError, match="workers"):
        find_backend("box", workers=None, places={"box": BackendSettings(workers=workers)})


def test_an_output_that_cannot_be_stored_is_said(workshop):
    workshop.write(
        """
        import threading
        from hooke import pipeline

        @pipeline
        def job():
            return {"lock": threading.Lock()}
        """
    )
    with pytest.raises(NotPicklable, match="what pipeline 'job' returns cannot be stored"):
        workshop.run()


def test_a_failure_is_told_where_its_class_cannot_be_imported(workshop):
    workshop.write(
        ODD.replace(
            "    class BadText", "    class GoneError(Exception):\n        pass\n\n    class BadText"
        ).replace("BadText()", "GoneError(7)")
    )
    run = workshop.run(name="bad_text")
    with pytest.raises(TaskError) as told:
        run.result()
    assert type(told.value.__cause__).__name__ == "GoneError"
    del sys.modules[workshop.file.stem]
    workshop.file.unlink()
    with pytest.raises(TaskError, match="GoneError: 7"):
        run.result()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[journal]\ndurable = "always"',
            r"hooke\.toml: journal\.durable = 'always'\n  fix: valid: group, each",
        ),
        ("[places.box]\nworkers = 0", r"hooke\.toml: places\.box\.workers = 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(tmp_path, text, said):
    (tmp_path / "hooke.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_settings(tmp_path)


@pytest.mark.needs("cpu")
def test_a_large_argument_that_does_not_look_it_is_sent_once(workshop):
    """It went with each attempt: 100 attempts with a dict of 20 MB took 4 s, with its array 0.2 s."""
    workshop.write(
        """
        import numpy as np
        from hooke import pipeline, task

        @task(timeout=60)
        def pick(at, table, shift=0):
            return float(table["a"][at]) + shift

        @task
        def one():
            return 1

        @pipeline
        def job():
            table = {"a": np.arange(1_000_000.0)}
            return pick.map(range(4), table=table), pick(5, table, one()), pick(6, {"a": table["a"], "b": one()})
        """
    )
    pipeline, _ = load_entry(str(workshop.file))
    driver = prepare(RunOrder(pipeline=pipeline, on="serial"), workshop.project)
    store = workshop.project.store()
    keys = GraphKeys(driver.graph, run=driver.run)
    state = RunState(driver.graph, [NodePlan() for _ in driver.graph.nodes])
    calls = CallMaker(driver.graph, keys, state, store)
    state.apply(ItemsFound(node=1, lo=0, hi=1, ref=store.put(1), start=0, source="cache"))
    assert all(len(calls.make(Submit(0, node, 0, 1, 1)).payload) < 10_000 for node in (0, 2))
    assert workshop.run().result() == ([0.0, 1.0, 2.0, 3.0], 6.0, 6.0)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("size", [100, 5_000, 50_000])  # in each call, encoded once, stored once
def test_an_argument_of_many_calls_is_read_and_encoded_once(workshop, size):
    """Each call copied, hashed and pickled it: one dict of 100,000 keys to 200 calls took 34 s."""
    workshop.write(
        """
        from pathlib import Path

        from hooke import pipeline, task

        class Table:
            def __init__(self, size):
                self.rows = list(range(size))

            def __getstate__(self):
                with Path("pickled").open("a") as file:
                    file.write(".")
                return vars(self)

        @task(observe=False)
        def pick(table, at, more=None):
            table.rows[at] += 1
            return table.rows[at]

        @pipeline
        def job(size: int):
            table = Table(size)
            calls = [pick(table, at) for at in range(30)]
            calls += [pick(table, at, {"same": [table]}) for at in range(30)]
            table.rows[0] = -5
            return [*calls, pick(table, 0)]
        """
    )
    assert workshop.run(size=size).result() == [*range(1, 31), *range(1, 31), -4]
    while_traced, packed_each = 61 + 2, 61 if size < 1_000 else 0
    assert (workshop.project.root / "pickled").stat().st_size <= while_traced + packed_each + 15


def test_a_result_hidden_in_an_object_is_refused(workshop):
    """The graph did not wait for it: on the local engine its task failed, as if it could not be pickled."""
    workshop.write(
        """
        from hooke import pipeline, task

        class Settings:
            def __init__(self, depth):
                self.depth = depth

        @task
        def depth():
            return 3

        @task
        def train(settings):
            return settings.depth

        @pipeline
        def job():
            return train(Settings(depth()))

        @pipeline
        def mapped():
            return train.map([Settings(depth()), Settings(depth())])
        """
    )
    for name, refusal in (("job", TraceError), ("mapped", NotFingerprintable)):
        with pytest.raises(refusal, match="closures and other objects cannot carry it"):
            workshop.run(name=name)


def test_to_look_at_a_folder_makes_nothing_in_it(tmp_path):
    project = Project.find(tmp_path)
    assert project.runs.names() == []
    assert list(project.store().entries()) == []
    project.store().usage()
    assert list(tmp_path.iterdir()) == []


def test_what_runs_leave_is_not_for_git(workshop):
    workshop.write(ODD)
    workshop.run(name="bytes_out")
    assert (workshop.folder / ".hooke" / ".gitignore").read_text(encoding="utf-8") == "*\n"
