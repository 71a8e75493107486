"""The comparison of two plans, over real runs."""

import sys
import textwrap
from pathlib import Path

import pytest

from hooke.journal.run_view import RunView
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.running.driver import RunOrder, prepare
from hooke.running.why import explain, roots, why

JOB = """
    from hooke import task, pipeline

    FACTOR = 3

    def scaled(x):
        return x * FACTOR

    @task
    def load(n: int) -> list[int]:
        return list(range(n))

    @task
    def square(x: int, *, offset: int = 0) -> int:
        return scaled(x * x) + offset

    @task
    def total(xs: list[int], bonus: int = 0) -> int:
        return sum(xs) + bonus

    @task(cache=False)
    def now() -> int:
        return 1

    @pipeline
    def job(n: int = 5, bonus: int = 0) -> int:
        return total(square.map(load(n)), bonus)

    @pipeline
    def fixed(n: int = 3, offset: int = 0) -> list[int]:
        return square.map(range(n), offset=offset)

    @pipeline
    def uncached() -> int:
        return total([now()])
"""


class Bench:
    def __init__(self, folder: Path) -> None:
        self.file = folder / f"why_{folder.name.replace('-', '_')}.py"
        self.project = Project.find(folder)

    def write(self, source: str) -> None:
        self.file.write_text(textwrap.dedent(source), "utf-8")
        sys.modules.pop(self.file.stem, None)
        for cached in self.file.parent.glob("__pycache__/*.pyc"):
            cached.unlink()

    def run(self, name: str = "job", **params) -> str:
        pipeline, _ = load_entry(f"{self.file}:{name}")
        driver = prepare(RunOrder(pipeline=pipeline, params=params, on="serial"), self.project)
        driver.drive()
        return driver.run

    def causes(self, run: str) -> dict[str, list[str]]:
        """Task -> kinds of causes, of what ran."""
        return {
            each.task: [cause.kind for cause in each.causes]
            for each in why(self.project.runs, run)
            if each.causes
        }


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = Bench(tmp_path)
    made.write(JOB)
    yield made
    sys.modules.pop(made.file.stem, None)


def test_a_first_run_has_nothing_to_be_compared_with(bench):
    assert bench.causes(bench.run()) == {"load": ["first"], "square": ["first"], "total": ["first"]}


def test_nothing_ran_so_nothing_is_explained(bench):
    bench.run()
    whys = why(bench.project.runs, bench.run())
    assert [each.outcome for each in whys] == ["not needed", "not needed", "cached"]
    assert not any(each.causes for each in whys)


def test_an_edited_global_is_named_with_its_diff_and_followed_downstream(bench):
    bench.run()
    bench.write(JOB.replace("FACTOR = 3", "FACTOR = 4"))
    run = bench.run()
    assert bench.causes(run) == {"square": ["code"], "total": ["upstream"]}
    whys = why(bench.project.runs, run)
    (cause,) = whys[1].causes
    assert "FACTOR" in cause.text
    assert cause.change is not None
    assert "-3" in cause.change.diff and "+4" in cause.change.diff
    assert roots(whys, 2) == [("square", cause)]


def test_a_comment_changes_nothing(bench):
    bench.run()
    bench.write(JOB.replace("FACTOR = 3", "FACTOR = 3  # three"))
    assert bench.causes(bench.run()) == {}


def test_an_argument_is_named_with_both_values(bench):
    bench.run()
    run = bench.run(bonus=7)
    assert bench.causes(run) == {"total": ["argument"]}
    assert why(bench.project.runs, run)[2].causes[0].text == "argument bonus was 0, is 7"


def test_another_seed_is_named(bench, monkeypatch):
    bench.run()
    monkeypatch.setenv("HOOKE_SEED", "7")
    run = bench.run()
    assert bench.causes(run) == {
        "load": ["seed"],
        "square": ["seed", "upstream"],
        "total": ["seed", "upstream"],
    }
    assert [cause.text for _, cause in roots(why(bench.project.runs, run), 0)] == ["the seed was 0, is 7"]


def test_a_result_that_was_made_again_with_the_same_value_is_said_to_be_the_same(bench):
    """A key follows how a result is made: both were 7."""
    job = """
        from hooke import task, pipeline

        @task
        def seven() -> int:
            return 3 + 4

        @task
        def more(x: int) -> int:
            return x + 1

        @pipeline
        def job() -> int:
            return more(seven())
    """
    told = []
    for body in ("3 + 4", "len('seven..')", "4 + 4"):
        bench.write(job.replace("3 + 4", body))
        (cause,) = why(bench.project.runs, bench.run())[1].causes
        told.append((cause.kind, cause.text))
    assert told == [
        ("first", "no earlier run had it"),
        (
            "upstream",
            "it reads the result of seven, which was made again; its value is the same, but a key follows code and inputs, not values",
        ),
        ("upstream", "it reads the result of seven, which may have changed"),
    ]


def test_a_longer_list_says_which_item_ran(bench):
    bench.run("fixed")
    run = bench.run("fixed", n=5)
    (each,) = why(bench.project.runs, run)
    assert each.outcome == "partly cached"
    assert each.ran == ((3, 5),)
    assert [cause.text for cause in each.causes] == ["its list has 5 items, and had 3"]


def test_a_constant_of_a_map_is_an_argument(bench):
    bench.run("fixed")
    assert bench.causes(bench.run("fixed", offset=2)) == {"square": ["argument"]}


@pytest.mark.needs("cpu")
def test_a_removed_result_is_said_to_be_gone(bench):
    bench.run()
    store = bench.project.store()
    for entry in list(store.entries()):
        store.remove(entry.key)
    causes = bench.causes(bench.run())
    assert causes["total"] == ["gone"]


@pytest.mark.needs("cpu")
def test_what_is_never_cached_says_so(bench):
    bench.run("uncached")
    assert bench.causes(bench.run("uncached")) == {"now": ["uncached"], "total": ["upstream"]}


def test_a_task_of_the_same_name_in_another_file_is_another_task(bench):
    bench.run()
    bench.file = bench.file.with_name("other_" + bench.file.name)
    bench.write(JOB.replace("FACTOR = 3", "FACTOR = 9"))
    assert bench.causes(bench.run())["square"] == ["first"]
    sys.modules.pop(bench.file.stem, None)


@pytest.mark.needs("cpu")
def test_a_failed_run_between_is_not_what_one_compares_with(bench):
    first = bench.run()
    bench.write(JOB.replace("return scaled(x * x) + offset", "raise ValueError(x)"))
    bench.run()
    bench.write(JOB.replace("return scaled(x * x) + offset", "return scaled(x * x) - offset"))
    run = bench.run()
    (square,) = [each for each in why(bench.project.runs, run) if each.task == "square"]
    assert square.compared == first
    assert [cause.kind for cause in square.causes] == ["code"]


@pytest.mark.needs("cpu")
def test_earlier_runs_are_read_as_far_as_needed(bench):
    runs = [bench.run() for _ in range(3)]
    from hooke.journal.run_view import view_of

    read: list[str] = []

    def earlier():
        for run in (runs[1], runs[0]):
            read.append(run)
            yield view_of(bench.project.runs, run)

    explain(view_of(bench.project.runs, runs[2]), earlier())
    assert read == [runs[1]]


def test_an_empty_view_is_explained_by_nothing():
    assert explain(RunView(), []) == []
