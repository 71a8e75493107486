"""Whole runs on both embedded engines: results, cache, failures, resume."""

import pytest

from hooke.base.errors import (
    EnvironmentMismatch,
    NotPicklable,
    TaskError,
    TaskFailed,
    TimedOut,
    UsageError,
    WorkerDied,
)
from hooke.journal.events import AttemptFinished, AttemptStarted, ItemsFound, RetryPlanned
from hooke.project.backends import parse_workers

ENGINES = ("serial", "local:2")

ARITHMETIC = """
    from hooke import task, pipeline

    FACTOR = 3

    def scale(x):
        return x * FACTOR

    @task
    def double(x: int) -> int:
        return 2 * x

    @task
    def scaled(x: int) -> int:
        return scale(x)

    @task
    def total(xs: list[int], bonus: int = 0) -> int:
        return sum(xs) + bonus

    @task
    def numbers(n: int) -> list[int]:
        return list(range(n))

    @pipeline
    def job(n: int = 4, bonus: int = 1):
        doubled = double.map(range(n))
        both = scaled.map(doubled)
        return {"total": total(both, bonus), "first": doubled[0], "last": both[-1], "n": n}

    @pipeline
    def dynamic(n: int = 5):
        found = numbers(n)
        return total(scaled.map(double.map(found)))
"""


@pytest.mark.parametrize("on", ENGINES)
def test_results_equal_plain_calls(workshop, on):
    workshop.write(ARITHMETIC)
    run = workshop.run(on=on, name="job", n=6)
    assert run.result() == {"total": sum(6 * i for i in range(6)) + 1, "first": 0, "last": 30, "n": 6}


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("on", ENGINES)
def test_dynamic_map(workshop, on):
    workshop.write(ARITHMETIC)
    assert workshop.run(on=on, name="dynamic", n=7).result() == sum(6 * i for i in range(7))
    assert workshop.run(on=on, name="dynamic", n=0).result() == 0


LARGE_ITEMS = """
    from hooke import task, pipeline

    @task
    def lists(n: int, each: int) -> list[list[float]]:
        return [[i + j / each for j in range(each)] for i in range(n)]

    @task
    def total(xs: list[float]) -> float:
        return sum(xs)

    @task
    def after_a_header(n: int) -> list[object]:
        return [b"x" * 10_000_000, *range(n)]

    @task
    def kind(x: object) -> str:
        return type(x).__name__

    @pipeline
    def job(n: int, each: int) -> list[float]:
        return total.map(lists(n, each))

    @pipeline
    def uneven(n: int) -> list[str]:
        return kind.map(after_a_header(n))
"""


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(("each", "most"), [(20_000, 8), (2, 4096)])
def test_an_item_of_a_dynamic_map_is_read_with_few_others_where_items_are_large(workshop, each, most):
    """A block of items is read as a whole, by each attempt on one of them."""
    workshop.write(LARGE_ITEMS)
    run = workshop.run(on="serial", name="job", n=40, each=each)
    assert len(run.result()) == 40
    (expanded,) = [
        event.expanded for event in run.journal if isinstance(event, AttemptFinished) and event.expanded
    ]
    assert expanded.block <= most and len(expanded.blocks) == -(-40 // expanded.block)
    assert expanded.block * each * 9 < 2 << 20


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_one_large_item_does_not_make_a_block_of_each(workshop):
    workshop.write(LARGE_ITEMS)
    run = workshop.run(on="serial", name="uneven", n=3000)
    assert run.result() == ["bytes", *["int"] * 3000]
    (expanded,) = [
        event.expanded for event in run.journal if isinstance(event, AttemptFinished) and event.expanded
    ]
    assert len(expanded.blocks) == 1


def test_second_run_is_cached_and_looks_up_only_what_is_asked(workshop):
    workshop.write(ARITHMETIC)
    first = workshop.run(name="dynamic", n=7)
    second = workshop.run(name="dynamic", n=7)
    assert second.result() == first.result()
    assert workshop.ran(second) == {}
    found = [event for event in second.journal if isinstance(event, ItemsFound)]
    assert len(found) == 1, "the last task's result alone is looked up"


@pytest.mark.needs("cpu")
def test_one_more_item_reruns_one_item(workshop):
    workshop.write(ARITHMETIC)
    workshop.run(name="job", n=6)
    assert workshop.ran(workshop.run(name="job", n=7)) == {"double": 1, "scaled": 1, "total": 1}
    workshop.run(name="dynamic", n=7)
    assert workshop.ran(workshop.run(name="dynamic", n=8)) == {
        "numbers": 1,
        "double": 1,
        "scaled": 1,
        "total": 1,
    }


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("old", "new", "reran"),
    [
        ("FACTOR = 3", "FACTOR = 4", {"scaled": 4, "total": 1}),
        ("return x * FACTOR", "return x * FACTOR + 1", {"scaled": 4, "total": 1}),
        ("bonus: int = 0", "bonus: int = 5", {"total": 1}),
        ("FACTOR = 3", "FACTOR = 3  # three", {}),
    ],
)
def test_an_edit_reruns_what_it_touches(workshop, old, new, reran):
    workshop.write(ARITHMETIC)
    workshop.run(name="job")
    workshop.edit(old, new)
    assert workshop.ran(workshop.run(name="job")) == reran


FAILING = """
    import os, signal, time
    from hooke import task, pipeline
    from hooke.base.errors import Temporary, Permanent

    def deep(x):
        return deeper(x)

    def deeper(x):
        return {}["key"] if x == 3 else x

    @task
    def fails(x: int) -> int:
        print("working on", x)
        return deep(x)

    @task(retries=2)
    def flaky(folder: str) -> int:
        with open(folder + "/tries", "a") as file:
            file.write("x")
        if os.path.getsize(folder + "/tries") < 3:
            raise Temporary("not yet", delay_s=0.01)
        return 1

    @task(retries=5)
    def hopeless() -> int:
        raise Permanent("never")

    @task
    def killed() -> int:
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    @task
    def leaves() -> int:
        os._exit(7)

    @task(timeout=0.3)
    def slow() -> int:
        print("asleep")
        time.sleep(60)

    @pipeline
    def one(x: int = 3): return fails(x)
    @pipeline
    def many(): return fails.map(range(6))
    @pipeline
    def again(folder: str): return flaky(folder)
    @pipeline
    def never(): return hopeless()
    @pipeline
    def dies(): return killed()
    @pipeline
    def exits(): return leaves()
    @pipeline
    def sleeps(): return slow()
"""


@pytest.mark.parametrize("on", ENGINES)
def test_a_users_error(workshop, on):
    workshop.write(FAILING)
    run = workshop.run(on=on, name="one")
    assert run.status == "failed"
    with pytest.raises(TaskError) as caught:
        run.result()
    assert isinstance(caught.value.__cause__, KeyError)
    text = str(caught.value)
    assert "fails(x=3)" in text
    assert "KeyError" in text
    assert "deeper" in text
    assert "working on 3" in text
    assert "hooke/pipeline" not in text
    assert f"hooke logs {run.id} fails" in text


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("on", ENGINES)
def test_except_catches_what_the_task_raised(workshop, on):
    workshop.write(FAILING)
    run = workshop.run(on=on, name="one")
    with pytest.raises(KeyError) as caught:
        run.result()
    assert isinstance(caught.value, TaskError)
    assert caught.value.args == caught.value.__cause__.args
    (failure,) = workshop.run(on=on, name="one").failures
    assert (type(failure), type(failure.__cause__)) == (TaskError, KeyError)


LOGGING = """
    import hooke
    from hooke import task, pipeline

    @task(retries=1)
    def fit(depth: int) -> float:
        print("fitting", depth)
        hooke.log_param("kind", "tree")
        hooke.log_metrics({"auc": depth / 10, "loss": float("nan") if depth else 1.0}, step=1)
        hooke.log_metric("auc", depth / 20, step=2)
        hooke.log_text(f"depth {depth}", "notes.txt")
        if depth == 2:
            raise ValueError("too deep")
        return depth / 10

    @task
    def check(scores: list[float]) -> float:
        print("checking")
        hooke.log_metric("auc", max(scores))
        return max(scores)

    @pipeline
    def job(depths: list[int], name: str = "trees"):
        return check(fit.map(depths, on_error="continue"))
"""


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("on", ENGINES)
def test_a_run_is_looked_at_by_its_attributes(workshop, on):
    workshop.write(LOGGING)
    run = workshop.run(on=on, name="job", depths=[1, 2, 4])
    assert run.params == {"depths": "[1, 2, 4]", "name": "trees", "kind": "tree"}
    assert set(run.metrics) == {"fit.auc", "loss", "check.auc"}
    assert run.metrics["check.auc"] == (0.4, 0, 0.4, 0.4, 1)
    fit = run.metrics["fit.auc"]
    assert (fit.min, fit.max, fit.count, fit.step) == (0.05, 0.4, 6, 2)
    assert str(run.metrics["loss"].last) == "nan"
    assert {(each.path, each.task, each.item): each.file.read_text("utf-8") for each in run.artifacts} == {
        ("notes.txt", "fit", item): f"depth {depth}" for item, depth in enumerate([1, 2, 4])
    }
    assert len(run.artifacts) == 3
    lines = run.logs("fit")
    assert sorted((line.items, line.number, line.text) for line in lines if line.text != "fitting 2") == [
        ("[0]", 1, "fitting 1"),
        ("[2]", 1, "fitting 4"),
    ]
    assert [(line.number, line.tries) for line in lines if line.text == "fitting 2"] == [(1, 2), (2, 2)]
    again = next(line for line in lines if line.number == 2)
    assert str(again) == f"fit[1] #{again.attempt}, try 2 of 2 | fitting 2"
    assert [str(line) for line in run.logs() if line.task == "check"] == [
        f"check #{run.logs('check')[0].attempt} | checking"
    ]
    (failure,) = run.failures
    assert isinstance(failure.__cause__, ValueError)
    assert (failure.task, failure.item, failure.where.partition(" on ")[0]) == ("fit", 1, "try 2 of 2")
    with pytest.raises(UsageError, match="did you mean check"):
        run.logs("chek")


@pytest.mark.parametrize("on", ENGINES)
def test_a_failed_item_keeps_its_neighbours(workshop, on):
    workshop.write(FAILING)
    run = workshop.run(on=on, name="many")
    (row,) = run.tasks()
    assert row.failed == 1
    assert row.done >= 3


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("on", ENGINES)
def test_retries_are_counted_and_said(workshop, on, tmp_path):
    workshop.write(FAILING)
    run = workshop.run(on=on, name="again", folder=str(tmp_path))
    assert run.result() == 1
    said = [event for event in run.journal if isinstance(event, RetryPlanned)]
    assert [event.number for event in said] == [2, 3]
    assert "not yet" in said[0].reason


def test_permanent_is_not_tried_again(workshop):
    workshop.write(FAILING)
    run = workshop.run(name="never")
    assert sum(isinstance(event, AttemptStarted) for event in run.journal) == 1


def test_a_killed_worker_is_named(workshop):
    workshop.write(FAILING)
    with pytest.raises(WorkerDied) as caught:
        workshop.run(on="local:1", name="dies").result()
    assert "SIGKILL" in str(caught.value)
    assert "about to die" in str(caught.value)
    with pytest.raises(WorkerDied) as caught:
        workshop.run(on="local:1", name="exits").result()
    assert "exit code 7" in str(caught.value)


@pytest.mark.needs("cpu")
def test_a_timeout_ends_the_worker(workshop):
    workshop.write(FAILING)
    with pytest.raises(TimedOut, match=r"0\.3 s") as caught:
        workshop.run(on="local:1", name="sleeps").result()
    assert caught.value.worker == "local-1"
    assert caught.value.log_tail == ("asleep",)


CAPTURING = """
    import threading
    from hooke import task, pipeline

    def make(lock):
        @task
        def guarded(x: int) -> int:
            with lock:
                return x
        return guarded

    guarded = make(threading.Lock())

    @pipeline
    def job(): return guarded(1)
"""


def test_an_unpicklable_capture_is_named(workshop):
    workshop.write(CAPTURING)
    with pytest.raises(NotPicklable, match="lock") as caught:
        workshop.run(on="local:1", name="job").result()
    assert caught.value.__cause__ is None, "the screen would say the same twice"


def test_a_global_set_by_the_script_is_refused(workshop):
    workshop.write(ARITHMETIC)
    from hooke.project.pipeline_file import load_entry

    load_entry(f"{workshop.file}:job")
    import sys

    sys.modules[workshop.file.stem].FACTOR = 10
    with pytest.raises(EnvironmentMismatch, match="FACTOR"):
        workshop.run(on="local:1", name="job").result()


HUNGRY = """
    from hooke import task, pipeline

    @task(memory="300MiB")
    def hold(mib: int) -> int:
        block = bytearray(mib << 20)
        block[::4096] = b"x" * len(block[::4096])
        import time; time.sleep(0.3)
        return len(block) >> 20

    @task(memory="64MiB")
    def endless() -> int:
        blocks = []
        while True:
            blocks.append(bytearray(b"x" * (8 << 20)))

    @pipeline
    def grows(mib: int = 500): return hold(mib)
    @pipeline
    def one_of_many(): return hold.map([10, 450, 20])
    @pipeline
    def too_much(): return endless()
"""


@pytest.mark.long
@pytest.mark.needs("processes")
def test_out_of_memory_runs_again_with_double(workshop):
    workshop.write(HUNGRY)
    run = workshop.run(on="local:2", name="grows")
    assert run.result() == 500
    (said,) = [event.reason for event in run.journal if isinstance(event, RetryPlanned)]
    assert "again with 600 MiB" in said
    assert workshop.run(on="local:2", name="one_of_many").result() == [10, 450, 20]


GPUS = """
    import os
    from hooke import task, pipeline

    @task
    def sees() -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

    @task(gpus=9)
    def wants() -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

    @pipeline
    def without(): return sees()
    @pipeline
    def with_nine(): return wants()
"""


def test_gpus_are_hidden_from_who_asks_for_none_and_refused_where_there_are_none(workshop):
    workshop.write(GPUS)
    assert not workshop.run(on="local:1", name="without").result()
    with pytest.raises(TaskFailed, match="asks for 9 gpus, and this machine has"):
        workshop.run(on="local:1", name="with_nine").result()


SURROUNDINGS = """
    import os
    from hooke import task, pipeline

    @task(cache=False)
    def wanders(folder: str) -> str:
        os.chdir(folder)
        return os.getcwd()

    @task(cache=False)
    def stands(after: str) -> str:
        return os.getcwd()

    @task(cache=False)
    def reads() -> str | None:
        return os.environ.get("HOOKE_TEST_VARIABLE")

    @task
    def gives_up() -> None:
        raise KeyboardInterrupt

    @pipeline
    def moves(folder: str): return stands(wanders(folder))
    @pipeline
    def variable(): return reads()
    @pipeline
    def gives(): return gives_up()
"""


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("on", ENGINES)
def test_a_task_that_changes_folder_does_so_for_itself_alone(workshop, on, tmp_path_factory):
    workshop.write(SURROUNDINGS)
    elsewhere = str(tmp_path_factory.mktemp("elsewhere"))
    assert workshop.run(on=on, name="moves", folder=elsewhere).result() == str(workshop.folder)


@pytest.mark.needs("cpu")
def test_warm_workers_see_the_environment_of_now(workshop, monkeypatch):
    workshop.write(SURROUNDINGS)
    assert workshop.run(on="local:1", name="variable").result() is None
    monkeypatch.setenv("HOOKE_TEST_VARIABLE", "one")
    assert workshop.run(on="local:1", name="variable").result() == "one"
    monkeypatch.delenv("HOOKE_TEST_VARIABLE")
    assert workshop.run(on="local:1", name="variable").result() is None


def test_a_keyboard_interrupt_of_the_tasks_own_is_its_failure(workshop):
    workshop.write(SURROUNDINGS)
    with pytest.raises(TaskError, match="KeyboardInterrupt"):
        workshop.run(on="local:1", name="gives").result()


RESERVING = """
    import mmap
    from hooke import task, pipeline

    @task(cache=False)
    def reserves() -> int:
        import builtins
        builtins.kept = mmap.mmap(-1, 6 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return 1

    @task(memory="100MiB", cache=False)
    def small(after: int) -> int:
        return len(bytearray(20 << 20)) >> 20

    @pipeline
    def job(): return small(reserves())
"""


def test_what_a_worker_has_reserved_does_not_count_against_the_next_limit(workshop):
    workshop.write(RESERVING)
    run = workshop.run(on="local:1", name="job")
    assert run.result() == 20
    assert not [event for event in run.journal if isinstance(event, RetryPlanned)]


@pytest.mark.parametrize("workers", [0, "many", (3, 1), (1, 2, 3), 2.5, True, ("1", "2")])
def test_a_number_of_workers_that_is_none_is_refused(workers):
    with pytest.raises(UsageError, match="is not valid") as caught:
        parse_workers(workers)
    assert caught.value.fix == "give a number from 1, or (low, high)"
