"""The size of data: what journals tell of the bytes that calls read, and plans for other sizes of the data."""

import math

import numpy as np
import pytest
from tests.planning.simulated_runs import HOST, Machine, TruthOfTask, cut, files, table

from hooke import File, UsageError
from hooke.journal.events import NodePlanned, RunStarted
from hooke.pipeline.node_keys import data_bytes
from hooke.planning.data_sizes import bytes_above, call_bytes
from hooke.planning.pipeline_plan import PlanQuestion, make_plan, plan, predicted
from hooke.planning.task_facts import PastJournals, levels_of, rows_of
from hooke.planning.timings import run_times
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.scaling.call_times import (
    PredictedRun,
    SizeLaw,
    TimeSpread,
    Timing,
    calibrated,
    distinct_sizes,
    other_size,
    sized,
)

JOB = """
    from hooke import File, pipeline, task

    @task
    def read(path: str, skip: int = 0) -> bytes:
        with open(path, "rb") as file:
            return file.read()[skip:]

    @task
    def pieces(table: bytes) -> list[bytes]:
        return [table[at : at + 10_000] for at in range(0, len(table), 10_000)]

    @task
    def piece(part: bytes) -> int:
        return len(part)

    @task
    def joined(parts: list[int]) -> int:
        return sum(parts)

    @task
    def declared(path: File) -> int:
        with open(path, "rb") as file:
            return len(file.read())

    @task
    def count(x: int) -> int:
        return x

    @pipeline
    def job(path: str = "a.bin", skip: int = 0) -> int:
        return joined(piece.map(pieces(read(path, skip))))

    @pipeline
    def of_file(path: File) -> int:
        return declared(path)

    @pipeline
    def of_files(paths: list[File]) -> int:
        return joined(declared.map(paths))

    @pipeline
    def of_numbers(n: int = 4) -> int:
        return joined(count.map(range(n)))

    @pipeline
    def mixed(path: str = "a.bin", n: int = 4) -> list[object]:
        return [piece(read(path)), count.map(range(n))]
"""


@pytest.fixture
def job(workshop, monkeypatch):
    monkeypatch.chdir(workshop.folder)
    workshop.write(JOB)
    return workshop


def of_size(shop, name, size):
    (shop.folder / name).write_bytes(np.random.default_rng(size).bytes(size))
    return name


def planned(shop, name="job", *, scale=None, workers=(1,), **params):
    pipeline, _ = load_entry(f"{shop.file}:{name}")
    question = PlanQuestion(pipeline=pipeline, params=params, scale=scale, workers=list(workers), catalog=[])
    return make_plan(question, shop.project)


def sizes(shop):
    """What the newest run of a project read, by task."""
    name = shop.project.runs.names()[0]
    found = run_times(shop.project.runs.events(name))
    return {each.task: each.data for each in found.timed}


class TestWhatWasRead:
    def test_files_that_a_task_opens_and_the_results_below_them(self, job):
        job.run(name="job", path=of_size(job, "a.bin", 100_000))
        found = sizes(job)
        assert found["read"].own == 100_000 and found["read"].files == {"a.bin": 100_000}
        assert found["read"].out == pytest.approx(100_000, rel=0.01)
        assert found["pieces"].own == 0 and found["pieces"].above == found["read"].out
        assert found["piece"].items == 10
        assert found["piece"].above == pytest.approx(10_000, rel=0.03)
        assert found["joined"].size == call_bytes(1, 0), "ten numbers are no data"

    def test_a_declared_file_and_an_array_are_in_the_plan_of_the_node(self, job):
        job.run(File(of_size(job, "a.bin", 50_000)), name="of_file")
        name = job.project.runs.names()[0]
        node = next(each for each in job.project.runs.events(name) if isinstance(each, NodePlanned))
        assert node.data == {"path": 50_000}
        assert sizes(job)["declared"].own == 50_000

    def test_an_item_reads_its_own_file_and_not_all_of_the_list(self, job):
        paths = [File(of_size(job, f"{at}.bin", 50_000)) for at in range(10)]
        job.run(name="of_files", paths=paths)
        assert sizes(job)["declared"].own == pytest.approx(50_000, rel=0.02)
        plan = planned(job, "of_files", scale=2, paths=paths)
        assert any("declared 488 KiB now, 977 KiB in this plan" in note for note in plan.notes), plan.notes

    @pytest.mark.needs("cpu")
    def test_a_file_with_a_long_path_is_not_counted_twice(self, job):
        folder = job.folder / ("a-long-name-" * 8)
        folder.mkdir()
        for at in range(2):
            of_size(
                job,
                f"{folder.name}/{at}-of-the-data-in-a-file-with-a-name-of-its-own.bin",
                (1 + at) * 1_000_000,
            )
        first, second = sorted(folder.iterdir())
        job.run(name="job", path=str(first))
        assert survey_bytes(job, path=str(second))["read"] == pytest.approx(2_000_000, rel=0.02)

    def test_a_list_is_data_although_its_first_item_is_empty(self, tmp_path):
        (tmp_path / "empty").write_bytes(b"")
        (tmp_path / "full").write_bytes(b"x" * 5000)
        assert data_bytes([File(tmp_path / "empty"), File(tmp_path / "full")]) == 5000
        assert data_bytes([None, np.zeros(1000)]) == 8000
        assert data_bytes([1, 2, "three"]) == data_bytes([]) == 0

    def test_bytes_of_arguments(self, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(bytes(300))
        assert data_bytes(File(path)) == 300 and data_bytes([File(path), File(path)]) == 600
        assert data_bytes(np.zeros(100)) == 800
        assert [data_bytes(each) for each in (1, "x", None, [], {}, [1, 2], File(tmp_path / "y"))] == [0] * 7

    def test_pandas_frames_say_their_size(self):
        pandas = pytest.importorskip("pandas")
        assert data_bytes(pandas.DataFrame({"a": np.zeros(100)})) == 800
        assert data_bytes(pandas.Series(np.zeros(100))) == 800

    def test_items_share_a_list_and_a_map_in_step_but_not_a_whole_result(self):
        assert bytes_above("map", 10, [("call", 1, 1000.0, True)]) == 100
        assert bytes_above("map", 10, [("call", 1, 1000.0, False)]) == 1000
        assert bytes_above("map", 10, [("map", 10, 50.0, False)]) == 50
        assert bytes_above("map", 10, [("map", 7, 50.0, False)]) == 350
        assert bytes_above("call", 1, [("map", 10, 50.0, False), ("call", 1, 8.0, False)]) == 508


class TestScale:
    @pytest.mark.needs("cpu")
    def test_ten_times_the_data_have_ten_times_the_items_where_the_list_grew_with_them(self, job):
        for size in (20_000, 40_000, 80_000):
            job.run(name="job", path=of_size(job, f"{size}.bin", size))
        plan = planned(job, scale=10, path="80000.bin")
        assert plan.title == "plan of job(path='80000.bin'), 10 times the data"
        assert {each.task: each.left for each in plan.tasks}["piece"] == pytest.approx(80, abs=3)
        assert "data read: read 78.1 KiB now, 781 KiB in this plan" in plan.notes
        assert not [note for note in plan.notes if "assumed: piece " in note]

    @pytest.mark.needs("cpu")
    def test_after_one_size_it_says_what_it_assumes_and_which_runs_to_make(self, job):
        job.edit("return len(part)", "__import__('time').sleep(0.05)\n    return len(part)")
        job.run(name="job", path=of_size(job, "a.bin", 50_000))
        plan = planned(job, scale=10)
        assert {each.task: each.left for each in plan.tasks}["piece"] == 50
        assert (
            "assumed: piece has 10 times the items; no past run with another size of data tells" in plan.notes
        )
        assert plan.recommended is None
        assert "runs on two other sizes of the data would tell" in plan.reason
        assert "to predict it: run it on 2 and on 4 times the data" in plan.notes

    @pytest.mark.needs("cpu")
    def test_the_items_of_a_list_that_does_not_exist_yet_follow_the_file_that_there_is(self, job):
        for size in (20_000, 40_000, 80_000):
            job.run(name="job", path=of_size(job, f"{size}.bin", size))
        plan = planned(job, scale=1, path=of_size(job, "new.bin", 200_000))
        assert {each.task: each.left for each in plan.tasks}["piece"] == 20

    def test_half_of_the_data(self, job):
        job.run(name="job", path=of_size(job, "a.bin", 60_000))
        assert {each.task: each.left for each in planned(job, scale=0.5).tasks}["piece"] == 3

    def test_items_of_parameters_stay(self, job):
        job.run(name="mixed", path=of_size(job, "a.bin", 50_000))
        plan = planned(job, "mixed", scale=10)
        assert {each.task: each.left for each in plan.tasks} == {"read": 1, "piece": 1, "count": 4}
        assert any(
            note.startswith("assumed: count keeps its 4 items, which come from parameters")
            for note in plan.notes
        )

    def test_a_declared_file(self, job):
        job.run(File(of_size(job, "a.bin", 50_000)), name="of_file")
        plan = planned(job, "of_file", scale=3, path=File("a.bin"))
        assert "data read: declared 48.8 KiB now, 146 KiB in this plan" in plan.notes

    @pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
    def test_a_scale_is_above_zero(self, job, scale):
        with pytest.raises(UsageError) as caught:
            planned(job, scale=scale)
        assert "give 10" in caught.value.fix

    def test_a_pipeline_without_data_cannot_be_scaled(self, job):
        job.run(name="of_numbers")
        with pytest.raises(UsageError) as caught:
            planned(job, "of_numbers", scale=10)
        assert "no call of of_numbers reads data" in caught.value.what and "--times" in caught.value.fix

    def test_in_python_it_is_no_parameter_of_the_pipeline(self, job):
        job.write(
            "from hooke import pipeline\n\n@pipeline\ndef scaled(scale: int = 2) -> int:\n    return scale\n"
        )
        scaled, _ = load_entry(str(job.file))
        with pytest.raises(UsageError) as caught:
            plan(scaled, scale=10)
        assert "scale= is an option of plan(), and a parameter of pipeline 'scaled'" in caught.value.what

    def test_before_any_run_it_is_as_any_plan(self, job):
        of_size(job, "a.bin", 5_000)
        assert "no duration is known" in planned(job, scale=10).reason

    @pytest.mark.needs("cpu")
    def test_a_run_is_not_compared_with_a_plan_for_other_data(self, job):
        job.run(name="job", path=of_size(job, "a.bin", 50_000))
        plan = planned(job, path="a.bin", skip=1, scale=1)
        made = job.project.plans.read(job.project.plans.names("job")[0])
        assert made.scale == 1
        started = RunStarted(
            at=made.at + 1, run="r", pipeline="job", entry=made.entry, shown=made.shown, host=made.host
        )
        assert plan.rows and job.project.plans.made_for(started) is None


class TestOtherData:
    """Without a scale: the files are larger than when they were read."""

    def test_a_larger_file_under_another_name_and_under_the_same(self, job):
        job.run(name="job", path=of_size(job, "a.bin", 20_000))
        other = survey_bytes(job, path=of_size(job, "b.bin", 80_000))
        assert other["read"] == call_bytes(80_000, 0)
        assert other["pieces"] == pytest.approx(80_000, rel=0.05)
        of_size(job, "a.bin", 40_000)
        assert survey_bytes(job, path="a.bin")["read"] == call_bytes(40_000, 0)

    @pytest.mark.long
    def test_the_path_is_no_argument_that_has_to_be_equal(self, job):
        job.run(name="job", path=of_size(job, "a.bin", 20_000))
        plan = planned(job, path=of_size(job, "b.bin", 20_100))
        assert not any("other arguments" in note for note in plan.notes)
        plan = planned(job, path="b.bin", skip=2)
        assert "timed with other arguments: read" in plan.notes


def survey_bytes(shop, **params):
    from hooke.pipeline.node_keys import GraphKeys
    from hooke.pipeline.trace import trace
    from hooke.planning.remaining import Survey

    pipeline, _ = load_entry(f"{shop.file}:job")
    graph, project = trace(pipeline, (), params), shop.project
    past = PastJournals.read(project.runs, pipeline="job", host=HOST).data(project.root)
    survey = Survey(graph, GraphKeys(graph, run="plan"), project.store(), {}, project.inputs_now(), past)
    return {each.task: each.bytes for each in survey.left}


def machine(**tasks):
    quiet = {"per_read": 0.0, "spread": 0.001, "contention": 0.0}
    names = ("read", "features", "pieces", "piece", "joined", "trained")
    usual = {
        name: TruthOfTask(**{"fixed": 0.001, "out": 0.0 if name == "trained" else 1.0, **quiet})
        for name in names
    }
    own = {name: TruthOfTask(**{"fixed": 0.001, **quiet, **truth}) for name, truth in tasks.items()}
    return Machine(
        rng=np.random.default_rng(1), drift=0.01, lasting=0.0, startup_s=0.2, piece_mb=2.0, tasks=usual | own
    )


def answer(pipeline, played, sizes, *, scale, workers, project):
    """The row of a plan for `scale` times the largest of the data of past runs, and what that then takes."""
    runs = [
        run_times(played.run_on(pipeline, workers=workers, path=f"/data/{mb}", mb=mb).events) for mb in sizes
    ]
    known = PastJournals(
        pipeline=pipeline.name, host=HOST, is_here=True, runs=runs[::-1], studies={}, everywhere=runs[::-1]
    )
    question = PlanQuestion(
        pipeline=pipeline,
        params={"path": f"/data/{max(sizes)}"},
        workers=[workers],
        catalog=[],
        scale=scale,
    )
    took = played.run_on(pipeline, workers=workers, path="/data/next", mb=scale * max(sizes)).seconds
    return predicted(question, project, known).rows[0], took


@pytest.fixture
def project(tmp_path):
    (tmp_path / "hooke.toml").write_text("")
    return Project.at(tmp_path)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("pipeline", [table, cut, files], ids=lambda each: each.name)
@pytest.mark.parametrize("power", [0.9, 1.0, 1.1])
def test_runs_of_three_sizes_tell_of_four_times_the_data_on_four_workers(pipeline, power, project):
    slow = {"per_mb": 0.05, "power": power}
    played = machine(read=slow, piece=slow, trained={**slow, "out": 0.0})
    row, took = answer(pipeline, played, [10, 20, 40] * 3, scale=4, workers=4, project=project)
    low, high = row.seconds.interval
    assert low < took < high < 2.5 * low
    assert took > 2.5 * answer(pipeline, played, [10, 20, 40] * 3, scale=1, workers=4, project=project)[1]


def test_one_size_refuses_ten_times_the_data(project):
    row, _ = answer(table, machine(read={"per_mb": 0.05}), [10], scale=10, workers=1, project=project)
    assert row.seconds is None
    assert "MiB, but was measured with 9." in row.refused


class TestLawOfBytes:
    SPREAD = TimeSpread(0.03, 4.0)

    @staticmethod
    def timed(sizes, seconds, **more):
        return [
            Timing(items=1, seconds=seconds(size), bytes=size, run=f"r{at}", **more)
            for at, size in enumerate(sizes)
        ]

    def test_a_fixed_part_and_a_part_for_each_byte(self):
        timings = self.timed([1e6, 2e6, 4e6] * 2, lambda size: 1 + size / 1e6)
        found = sized(timings, 0, self.SPREAD, data=8e6)
        assert {each.bytes for each in found.timings} == {8e6}
        for each in found.timings:
            assert found.ends[0] < 9 / each.seconds < found.ends[2]
        assert found.ends[2] < 1.35

    def test_bytes_that_are_not_known_are_ignored(self):
        timings = [Timing(items=1, seconds=2.0)]
        assert sized(timings, 0, data=1e6).ends == (1, 1, 1)
        assert sized(self.timed([1e6], lambda _: 2.0), 0).ends == (1, 1, 1)

    def test_one_size_is_enough_for_itself(self):
        timings = self.timed([1e6, 1e6], lambda _: 2.0)
        assert sized(timings, 0, data=1.03e6).ends == (1, 1, 1)
        assert sized(timings, 0, data=1.03e6, error=0.5).ends[2] > 1.5, "if the size is known"

    def test_items_that_grow_count_by_their_bytes_and_equal_ones_by_their_number(self):
        grown = [Timing(items=1, seconds=mb, reads=8, bytes=mb * 1e6, run=f"{mb}") for mb in (1, 2, 4)] * 2
        assert sized(grown, 8, self.SPREAD, data=8e6).timings[0].seconds == pytest.approx(8, rel=0.1)
        more = [Timing(items=1, seconds=n, reads=n, bytes=n * 1e6, run=f"{n}") for n in (1, 2, 4)] * 2
        assert sized(more, 8, self.SPREAD, data=8e6).timings[0].seconds == pytest.approx(8, rel=0.1)
        assert "8 items" in other_size(more, 8, data=8e6) and "MiB" in other_size(grown, 8, data=8e6)

    def test_timings_of_one_run_are_one(self):
        timings = [
            Timing(items=1, seconds=mb, bytes=mb * 1e6, run=run) for run in "ab" for mb in (1, 2, 4, 8)
        ]
        assert len(sized(timings, 0, self.SPREAD, data=3e6).timings) == 2

    def test_sizes_near_one_another_are_one(self):
        assert distinct_sizes([100, 101, 110]) == 1 and distinct_sizes([100, 50, 25]) == 3
        law = SizeLaw([98, 100, 102], [1.0, 1.02, 0.98], spread=0.03)
        assert 1.5 < law.value(1000) / law.value(100) < 10, "noise has no slope"


def test_runs_on_other_sizes_tell_of_the_spread_by_what_laws_do_not_explain():
    ratios = (0.1, -0.1, 0.1, -0.1, 0.1)
    sure = calibrated([PredictedRun(each, 5) for each in ratios])
    by_law = calibrated([PredictedRun(each, 5, laws=0.1**2) for each in ratios])
    lost = calibrated([PredictedRun(each, 5, laws=10.0) for each in ratios])
    assert by_law.spread.value < sure.spread.value
    assert lost.spread.freedom < 1.1


def test_a_law_of_n_compares_calls_on_equally_much_data():
    """Four workers had four times the data: that says nothing of how calls slow one another down."""
    played = machine(piece={"per_mb": 0.1})
    played.piece_mb = 0.0

    def levels(*mb):
        runs = [
            run_times(played.run_on(cut, workers=n, path=f"/data/{each}", mb=each).events)
            for n, each in zip((1, 2, 4), mb, strict=True)
        ]
        work = next(each for each in runs[0].timed if each.task == "piece")
        return set(levels_of(work, (), runs, rows_of(runs)).n)

    assert len(levels(10.0, 20.0, 40.0)) == 1
    assert len(levels(10.0, 10.0, 10.0)) > 1
