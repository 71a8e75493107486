"""Whole runs of maps that go on after errors: results, status, store, retries, resume."""

from __future__ import annotations

import logging
import warnings

import pytest

import hooke
from hooke.base.errors import TaskError, UsageError, WorkerDied
from hooke.journal.events import FINISHED, WITH_FAILURES
from hooke.project.pipeline_file import load_entry
from hooke.running.replay import replay
from hooke.running.reproduce.reproduce import ReproduceOptions, reproduce_in
from hooke.running.resume import last_resumable, resume
from hooke.running.run import Run
from hooke.running.why import why

JOB = """
    import os, signal
    import hooke
    from pathlib import Path
    from hooke import task, pipeline

    HERE = Path(__file__).parent

    def bad():  # not an input: what fails is to change no result
        return (HERE / "bad.txt").read_text().split()

    @task
    def load(n: int) -> list[int]:
        return list(range(n))

    @task(observe=False)
    def fetch(x: int) -> int:
        if str(x) in bad():
            print("no luck with", x)
            raise ValueError(f"no {x}")
        if f"kill{x}" in bad():
            os.kill(os.getpid(), signal.SIGKILL)
        return 10 * x

    @task(observe=False)
    def double(x: int, plus: int = 0) -> int:
        if f"double{x}" in bad():
            raise ValueError(f"cannot double {x}")
        return 2 * x + plus

    @task
    def pair(x: int, y: int) -> tuple[int, int]:
        return x, y

    @task
    def total(xs: list[int]) -> int:
        return sum(xs)

    @task
    def even(xs: list[int]) -> list[int]:
        return [x for x in xs if x % 20 == 0]

    @task
    def picky(xs: list[int]) -> int:
        if len(xs) < 4:
            raise ValueError(f"only {len(xs)}")
        return len(xs)

    @pipeline
    def job(n: int = 4):
        kept = fetch.map(range(n), on_error="continue")
        twice = double.map(kept)
        return {"kept": kept, "pairs": pair.map(range(n), twice), "total": total(twice)}

    @pipeline
    def strict(n: int = 4):
        twice = double.map(fetch.map(range(n)))
        return total(twice)

    @pipeline
    def dynamic(n: int = 4):
        kept = fetch.map(load(n), on_error="continue")
        return {"twice": double.map(kept), "total": total(kept)}

    @pipeline
    def relisted(n: int = 4):
        kept = fetch.map(range(n), on_error="continue")
        return total(double.map(even(kept), plus=1))

    @pipeline
    def doubled(xs: list[int]):
        return double.map(xs, plus=1)

    @pipeline
    def shared(n: int = 4):
        sums = total(fetch.map(range(n), on_error="continue"))
        return double.map(range(2), plus=sums)

    @task(observe=False)
    def resumable(xs: list[int]) -> int:
        kept = hooke.checkpoint_dir() / "sum"
        if not kept.exists():
            kept.write_text(str(sum(xs)))
        if "late" in bad():
            raise ValueError("late")
        return int(kept.read_text())

    @pipeline
    def checkpointed(n: int = 4):
        return resumable(fetch.map(range(n), on_error="continue"))

    @task
    def read(x: int) -> int:
        return int((HERE / f"value{x}.txt").read_text())

    @task
    def top(xs: list[int]) -> int:
        return max(xs)

    @task
    def label(x: int) -> str:
        return f"at most {x}"

    @pipeline
    def labelled(n: int = 3):
        return label(top(read.map(range(n), on_error="continue")))

    @pipeline
    def picked(n: int = 4):
        return picky(fetch.map(range(n), on_error="continue"))
"""


@pytest.fixture
def shop(workshop):
    workshop.write(JOB)
    fail(workshop)
    return workshop


def fail(shop, *items: object) -> None:
    """These items fail from now on, and no others."""
    (shop.folder / "bad.txt").write_text(" ".join(map(str, items)))


def taken_up(shop, run: Run) -> Run:
    driver = resume(shop.project, run.id)
    assert driver is not None
    driver.drive()
    return run


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("on", ["serial", "local:2"])
def test_what_succeeded_is_returned_and_the_rest_is_recorded(shop, on):
    fail(shop, 1)
    run = shop.run(name="job", on=on)
    assert run.status == WITH_FAILURES == "finished with failures"
    assert run.result() == {"kept": [0, 20, 30], "pairs": [(0, 0), (2, 40), (3, 60)], "total": 100}
    (failure,) = run.failures
    assert isinstance(failure, TaskError)
    assert (failure.task, failure.item) == ("fetch", 1)
    assert failure.arguments in ("x=1", "item 1: 1")  # alone, or in a chunk
    assert failure.log_tail == ("no luck with 1",)
    assert isinstance(failure.__cause__, ValueError)
    rows = {row.task: row for row in run.tasks()}
    assert (rows["fetch"].done, rows["fetch"].failed, rows["fetch"].waiting) == (3, 1, 0)
    assert (rows["double"].done, rows["double"].skipped, rows["double"].state) == (3, 1, "partly")


def test_a_plain_call_gives_the_same(shop):
    fail(shop, 1)
    called, _ = load_entry(f"{shop.file}:job")
    with pytest.warns(RuntimeWarning, match=r"1 of 4 items of fetch\.map failed"):
        plain = called()
    assert plain == shop.run(name="job").result()


@pytest.mark.needs("cpu")
def test_an_item_that_kills_its_worker_is_left_out_alone(shop):
    fail(shop, "kill2", 3)
    run = shop.run(name="job", on="local:2", n=12)
    assert run.result()["kept"] == [10 * x for x in range(12) if x not in (2, 3)]
    assert {(type(each), each.item) for each in run.failures} == {(WorkerDied, 2), (TaskError, 3)}


@pytest.mark.needs("cpu")
def test_the_next_run_retries_only_what_failed_and_what_lacked_it(shop):
    fail(shop, 1)
    assert shop.run(name="job").status == WITH_FAILURES
    fail(shop)
    run = shop.run(name="job")
    assert run.status == FINISHED
    assert run.result() == {
        "kept": [0, 10, 20, 30],
        "pairs": [(0, 0), (1, 20), (2, 40), (3, 60)],
        "total": 120,
    }
    assert shop.ran(run) == {"fetch": 1, "double": 1, "pair": 1, "total": 1}
    causes = {each.task: [cause.text for cause in each.causes] for each in why(shop.project.runs, run.id)}
    assert any("without items that had failed" in text for text in causes["total"])
    assert any("1 of its 4 items failed" in text for text in causes["fetch"])


@pytest.mark.needs("cpu")
def test_a_run_with_failures_spoils_nothing_for_strict_ones(shop):
    fail(shop, 1)
    shop.run(name="job")
    fail(shop)
    assert shop.run(name="strict").result() == 120
    assert shop.ran(shop.run(name="job")) == {"pair": 1}, "only what `strict` does not have"


def test_without_failures_it_is_as_without_on_error(shop):
    assert shop.run(name="strict").result() == 120
    run = shop.run(name="job")
    assert run.status == FINISHED
    assert run.failures == []
    assert shop.ran(run) == {"pair": 4}, "the same keys"


@pytest.mark.needs("cpu")
def test_resume_retries_failed_items_and_then_what_lacked_them(shop):
    fail(shop, 1, 2)
    run = shop.run(name="job")
    assert run.result()["total"] == 60
    assert last_resumable(shop.project) == run.id
    fail(shop, 2)
    assert taken_up(shop, run).status == WITH_FAILURES
    assert run.result() == {"kept": [0, 10, 30], "pairs": [(0, 0), (1, 20), (3, 60)], "total": 80}
    fail(shop)
    assert taken_up(shop, run).status == FINISHED
    assert run.result()["total"] == 120
    assert run.failures == []
    assert resume(shop.project, run.id) is None


@pytest.mark.needs("cpu")
def test_a_dynamic_map_goes_on_too(shop):
    fail(shop, 2)
    run = shop.run(name="dynamic")
    assert run.result() == {"twice": [0, 20, 60], "total": 40}
    assert run.failures[0].item == 2
    fail(shop)
    assert shop.run(name="dynamic").result() == {"twice": [0, 20, 40, 60], "total": 60}


@pytest.mark.needs("cpu")
def test_a_list_made_of_an_incomplete_list_is_read_again(shop):
    fail(shop, 0)
    run = shop.run(name="relisted")
    assert run.result() == 41
    fail(shop)
    assert shop.run(name="relisted").result() == 42
    assert taken_up(shop, run).result() == 42


@pytest.mark.needs("cpu")
def test_twice_resumed_after_a_list_that_lacked_items(shop):
    """What was found at the places of an incomplete list must not be taken for what is at those of the whole one."""
    assert shop.run([20], name="doubled").result() == [41]
    fail(shop, 0)
    run = shop.run(name="relisted")
    assert run.result() == 41  # found, at place 0
    fail(shop, "double0")
    assert taken_up(shop, run).status == "failed"
    fail(shop)
    assert taken_up(shop, run).result() == 1 + 41


def test_items_whose_constant_was_made_of_an_incomplete_list(shop):
    fail(shop, 3)
    assert shop.run(name="shared").result() == [30, 32]
    fail(shop)
    assert shop.run(name="shared").result() == [60, 62]


@pytest.mark.needs("cpu")
def test_forced_with_failures_does_not_fall_back_on_what_was_stored(shop):
    assert shop.run(name="job").result()["total"] == 120
    fail(shop, 1)
    run = shop.run(name="job", force=["fetch"])
    assert run.status == WITH_FAILURES
    assert run.result()["total"] == 100
    assert shop.run(name="job").result()["total"] == 120


def test_a_consumer_that_fails_ends_the_run_and_is_debugged_with_its_list(shop):
    fail(shop, 1)
    with pytest.raises(TaskError, match="only 3"):
        shop.run(name="picked").result()
    run = shop.project.runs.names()[0]
    assert {(each.task, each.item) for each in Run(shop.project, run).failures} == {
        ("fetch", 1),
        ("picky", None),
    }
    again = replay(shop.project, run, "picky")
    assert list(again.args) == [[0, 20, 30]]
    assert replay(shop.project, run, "fetch").args == (1,)


def test_what_followed_is_debugged_as_it_was(shop):
    fail(shop, 1)
    run = shop.run(name="job")
    assert replay(shop.project, run.id, "total").args == ([0, 40, 60],)
    assert replay(shop.project, run.id, "double", item=2).args == (20,)
    with pytest.raises(UsageError, match="inputs of double are missing: fetch"):
        replay(shop.project, run.id, "double", item=1)


@pytest.mark.needs("cpu")
def test_equal_bytes_of_an_incomplete_result_renew_nothing(shop):
    def label(*values: object) -> object:
        for x, value in enumerate(values):
            (shop.folder / f"value{x}.txt").write_text(str(value))
        return shop.run(name="labelled").result()

    assert label(1, 2, 30) == "at most 30"
    assert label("bad", 3, 30) == "at most 30"  # `top` is the same, though made without the first
    assert label(99, 3, 30) == "at most 99"


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(("left", "total"), [((1,), 50), ((), 60)], ids=["the same list", "the whole list"])
def test_a_checkpoint_is_that_of_the_list_that_it_was_made_of(shop, left, total):
    fail(shop, 1, "late")
    run = shop.run(name="checkpointed")
    assert run.status == "failed"
    (folder,) = shop.folder.glob(".hooke/**/checkpoints/*/sum")
    folder.write_text(str(int(folder.read_text()) - 1000))
    fail(shop, *left)
    assert taken_up(shop, run).result() == (total - 1000 if left else total)


def test_run_returns_and_warns(shop, caplog):
    fail(shop, 1)
    called, _ = load_entry(f"{shop.file}:job")
    with caplog.at_level(logging.WARNING, "hooke"), warnings.catch_warnings():
        run = hooke.run(called, on="serial", progress="none")
    assert run.status == WITH_FAILURES
    assert "finished with 1 failure" in caplog.text
    assert "fetch item 1: TaskError: ValueError: no 1" in caplog.text
    assert "finished with 1 failure" in run._repr_html_()


def test_results_that_lack_items_are_not_compared(shop):
    fail(shop, 1)
    run = shop.run(name="job")
    with pytest.raises(UsageError, match="is finished with failures, so it has no complete results"):
        reproduce_in(shop.project, run.id, ReproduceOptions())
