"""`run_async`, and what `run` takes beside a pipeline's parameters."""

import asyncio
import textwrap
import time

import pytest

import hooke
from hooke.base.errors import TaskError, UsageError
from hooke.journal.run_view import view_of
from hooke.project.pipeline_file import load_entry
from hooke.running.past_durations import expected_seconds
from hooke.running.resume import resume

JOB = """
    import time
    from pathlib import Path
    from hooke import pipeline, set_tag, task

    HERE = Path(__file__).parent

    @task
    def one(x: int) -> int:
        if x < 0:
            raise ValueError("negative")
        while x > 100 and not (HERE / "go").exists():
            time.sleep(0.01)
        return x * 2

    @pipeline
    def job(x: int) -> int:
        set_tag("team", "theirs")
        return one(x)

    @pipeline
    def mapped() -> list[int]:
        return one.map([1, 2, 3])

    @pipeline
    def named(x: int, name: str = "a", tags: int = 0, *, retries: int = 0) -> int:
        return one(x)
"""


@pytest.fixture
def shop(workshop):
    workshop.write(JOB)
    return workshop


def loaded(shop, name: str = "job"):
    return load_entry(f"{shop.file}:{name}")[0]


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_the_loop_goes_on_and_several_runs_are_awaited(shop):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        job = loaded(shop)
        runs = await asyncio.gather(*(hooke.run_async(job, x, on="local:1", progress="none") for x in (1, 2)))
        ticking.cancel()
        return ticks, [run.result() for run in runs]

    ticks, results = asyncio.run(main())
    assert results == [2, 4]
    assert ticks > 1


def test_its_errors_are_those_of_run(shop):
    job = loaded(shop)
    with pytest.raises(TaskError, match="negative"):
        asyncio.run(hooke.run_async(job, -1, on="serial"))
    with pytest.raises(UsageError, match="x takes int, not str"):
        asyncio.run(hooke.run_async(job, "1", on="serial"))
    with pytest.raises(UsageError, match=r"run_async\(\) takes a pipeline"):
        asyncio.run(hooke.run_async(len, 1))


@pytest.mark.needs("cpu")
def test_cancellation_stops_the_run_cleanly_and_it_is_resumed(shop):
    async def main():
        running = asyncio.create_task(hooke.run_async(loaded(shop), 101, on="local:1", progress="none"))
        runs = shop.project.runs
        await asyncio.to_thread(until, lambda: runs.names() and view_of(runs, runs.names()[0]).busy)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        name = runs.names()[0]
        return name, runs.alive(name), view_of(runs, name)

    name, alive, view = asyncio.run(main())
    assert not alive, "it has stopped before the await ends"
    assert (view.status, view.stopping_by) == ("stopped", "cancellation")
    (shop.folder / "go").write_text("")
    driver = resume(shop.project, name)
    assert driver is not None and driver.drive() == "finished"


@pytest.mark.needs("cpu")
def test_it_is_awaited_in_a_notebook(shop):
    import nbclient
    import nbformat

    (shop.folder / "job.py").write_text(textwrap.dedent(JOB))
    cells = [
        "import hooke\nfrom job import job",
        "run = await hooke.run_async(job, 3, on='serial')\nrun.result()",
    ]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(
        made, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(shop.folder)}}
    ).execute()
    values = [each for each in made.cells[1].outputs if each.output_type == "execute_result"]
    assert [each.data["text/plain"] for each in values] == ["6"]


@pytest.mark.needs("cpu")
def test_name_tags_and_retries(shop):
    job = loaded(shop)
    run = hooke.run(job, 4, on="serial", name="base", tags={"team": "ours", "year": 2026}, retries=2)
    assert run.id.startswith("base-")
    begun = view_of(shop.project.runs, run.id).begun
    assert (begun.name, begun.tags, begun.retries) == ("base", {"team": "ours", "year": "2026"}, 2)
    logged = {each.name: each.value for each in run.logged().tags}
    assert logged == {"team": "ours", "year": "2026"}, "what was asked for wins over what the body sets"
    assert [node.planned.retries for node in view_of(shop.project.runs, run.id).nodes.values()] == [2]
    found = hooke.runs(where="tags.team=ours", project=shop.folder)
    assert [each.id for each in found] == [run.id]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a b"}, "not a valid beginning of a run id"),
        ({"name": "search-x"}, "not a valid beginning of a run id"),
        ({"name": 3}, "name=3 is not text"),
        ({"tags": ["a"]}, r"tags=\['a'\] is not a dict"),
        ({"tags": {"a": [1]}}, "the tag 'a'"),
        ({"tags": {"": "x"}}, "the tag ''"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": True}, "retries=True"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(shop, options, said):
    with pytest.raises(UsageError, match=said):
        hooke.run(loaded(shop), 4, on="serial", **options)
    assert shop.project.runs.names() == []


def test_an_option_that_is_a_parameter_too_is_no_guess(shop):
    for options in ({"name": "b"}, {"tags": {"a": 1}}, {"retries": 0}):
        with pytest.raises(UsageError, match=r"is an option of run\(\), and a parameter of pipeline 'named'"):
            hooke.run(loaded(shop, "named"), 4, on="serial", **options)
    assert hooke.run(loaded(shop, "named"), 4, "b", on="serial").result() == 8


def test_a_run_with_a_name_of_its_own_is_history_of_its_pipeline(shop):
    run = hooke.run(loaded(shop, "mapped"), on="serial", name="base")
    assert run.id.startswith("base-")
    known = expected_seconds(shop.project.runs, "mapped", besides="")
    assert list(known) == ["one"] and set(known["one"].items) <= {0, 1, 2}
    assert expected_seconds(shop.project.runs, "job", besides="") == {}
