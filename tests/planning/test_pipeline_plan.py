"""Plans of real projects: what earlier runs and studies tell, what is left, what is refused, how runs turned out."""

import math
import socket
from datetime import UTC, datetime

import msgspec
import pytest
from tests.measuring.records import record_of

from hooke import UsageError
from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Failure,
    Measured,
    NodePlanned,
    PlanChecked,
    RunFinished,
    RunStarted,
    StopRequested,
    StudyStarted,
)
from hooke.journal.writer import Journal
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.trace import trace
from hooke.planning.pipeline_plan import PlanQuestion, make_plan, measure_command, plan_limits
from hooke.planning.remaining import Survey
from hooke.planning.task_facts import Levels, PastJournals, law_of_levels, levels_of, pooled
from hooke.planning.timings import MOST_BYTES, past_runs, run_times
from hooke.processes.devices import cpus_here
from hooke.project.pipeline_file import load_entry
from hooke.project.price_lists import read_catalogs
from hooke.scaling.workload import CallNeed
from hooke.testing.virtual_world import VirtualClock

REF = Ref("0" * 64, 1, b"x")

JOB = """
    import time
    from hooke import pipeline, task

    @task
    def read(day: int) -> int:
        time.sleep(0.004)
        return day

    @task
    def part(x: int, day: int) -> int:
        time.sleep(0.002)
        return x * day

    @task
    def total(xs: list[int], bonus: int = 0) -> int:
        time.sleep(0.002)
        return sum(xs) + bonus

    @pipeline
    def job(n: int = 12, day: int = 0, bonus: int = 0) -> int:
        return total(part.map(range(n), day=read(day)), bonus)
"""


@pytest.fixture
def job(workshop):
    workshop.write(JOB)
    return workshop


def planned(shop, *, deadline=None, budget=None, **more):
    question = {
        name: more.pop(name) for name in ("workers", "times", "catalog", "speed", "startup") if name in more
    }
    pipeline, _ = load_entry(f"{shop.file}:{more.pop('name', 'job')}")
    asked = PlanQuestion(pipeline=pipeline, params=more, wish=plan_limits(deadline, budget), **question)
    return make_plan(asked, shop.project)


def study(
    shop,
    *,
    task="part",
    levels=(1, 2, 4, 8),
    seconds=1.0,
    cpu_share=0.02,
    pipeline="job",
    number=0,
    code=None,
):
    """A study as `hooke measure` journals it, of a task that scales perfectly: its shape is what a plan reads."""
    folder = shop.project.runs.create(f"measure-{pipeline}-20261125-00000{number}-abcd")
    with Journal.create(folder, "driver", durable="none") as journal:
        journal.append(
            StudyStarted(
                study=folder.name,
                pipeline=pipeline,
                entry="x",
                task=task,
                code=code or {},
                levels=levels,
                host=socket.gethostname(),
            )
        )
        for repeat in range(3):
            for n in levels:
                took = seconds * 24 / n * (1 + 0.01 * ((repeat + n) % 3))
                journal.append(
                    Measured(
                        task=task, n=n, work=24, seconds=took, repeat=repeat, cpu_s=24 * seconds * cpu_share
                    )
                )
        journal.append(RunFinished(status="finished"))


class TestNothingKnown:
    def test_it_says_what_never_ran_and_how_to_time_it(self, job):
        plan = planned(job)
        assert plan.recommended is None and not plan.rows
        assert plan.reason == (
            "not enough data, no duration is known: "
            "read (never measured), part (never measured), total (never measured)"
        )
        assert plan.next.startswith("hooke run ") and plan.next.endswith(":job")
        assert [(each.task, each.left, each.cached) for each in plan.tasks] == [
            ("read", 1, 0),
            ("part", 12, 0),
            ("total", 1, 0),
        ]

    def test_looking_leaves_nothing_behind(self, job):
        planned(job)
        assert not job.project.data.exists()


class TestLeft:
    def test_stored_results_are_left_out(self, job):
        job.run(n=8)
        assert planned(job, n=8).reason == "nothing is left to do: every result is stored"
        plan = planned(job, n=12)
        assert {each.task: (each.left, each.cached) for each in plan.tasks} == {
            "read": (0, 1),
            "part": (4, 8),
            "total": (1, 0),
        }

    def test_what_only_stored_results_need_is_not_counted(self, job):
        job.run(n=8)
        job.project.store().remove(
            next(entry.key for entry in job.project.store().entries() if entry.task == "read")
        )
        plan = planned(job, n=8)
        assert not any(each.left for each in plan.tasks)

    def test_an_edit_runs_again_and_its_timing_is_said_to_be_of_other_code(self, job):
        job.run(n=8)
        job.edit("return sum(xs) + bonus", "return sum(xs) - bonus")
        plan = planned(job, n=8, workers=[1])
        assert {each.task: each.left for each in plan.tasks} == {"read": 0, "part": 0, "total": 1}
        assert "timed with other code: total" in plan.notes
        assert plan.rows[0].seconds is not None

    def test_other_arguments_are_said(self, job):
        job.run(n=8)
        assert "timed with other arguments: total" in planned(job, n=8, bonus=3, workers=[1]).notes
        assert not any("other" in note for note in planned(job, n=9, workers=[1]).notes)

    def test_a_dynamic_map_counts_once_its_list_is_stored(self, workshop):
        workshop.write("""
            from hooke import pipeline, task

            @task
            def names(n: int) -> list[int]:
                return list(range(n))

            @task
            def size(x: int) -> int:
                return x

            @task
            def twice(x: int) -> int:
                return 2 * x

            @pipeline
            def job(n: int = 3) -> list[int]:
                return twice.map(size.map(names(n)))
        """)
        workshop.run(n=3)
        unknown = planned(workshop, n=5, workers=[1])
        assert [(each.task, each.left) for each in unknown.tasks] == [
            ("names", 1),
            ("size", None),
            ("twice", None),
        ]
        assert "unknown before it runs" in unknown.tasks[1].untimed
        workshop.edit("return 2 * x", "return 3 * x")
        known = planned(workshop, n=3, workers=[1])
        assert [(each.task, each.left) for each in known.tasks] == [("names", 0), ("size", 0), ("twice", 3)]

    STEPS = (
        JOB
        + """

    @task
    def twice(x: int) -> int:
        return 2 * x

    @pipeline
    def steps(n: int = 12, day: int = 2) -> list[int]:
        return twice.map(part.map(range(n), day=day))
"""
    )

    def test_what_is_left_of_two_maps_is_in_step_unless_a_part_of_it_is_stored(self, workshop):
        """Of 12 items 8 of the second map are stored: its first item left is the ninth of the first map."""
        workshop.write(self.STEPS)

        def needs(n):
            pipeline, _ = load_entry(f"{workshop.file}:steps")
            graph, store = trace(pipeline, (), {"n": n}), workshop.project.store()
            keys = GraphKeys(graph, run="plan", seed=workshop.project.seed)
            works = Survey(graph, keys, store, {}).works
            return [(work.task, work.items, work.needs) for work in works]

        assert needs(12) == [("part", 12, ()), ("twice", 12, (CallNeed(0, in_step=True),))]
        workshop.run(n=8, name="steps")
        store = workshop.project.store()
        store.remove(next(entry.key for entry in store.entries() if entry.task == "part"))
        assert needs(12) == [("part", 12, ()), ("twice", 4, (CallNeed(0),))]


class TestTimes:
    @pytest.mark.needs("cpu")
    def test_other_data_count_nothing_stored_and_a_small_call_that_reads_them_widens_the_interval(self, job):
        job.edit("time.sleep(0.002)\n    return x", "time.sleep(0.05)\n    return x")
        job.run(n=12)
        plan = planned(job, n=12, times={"part": 100}, workers=[1])
        assert {each.task: each.left for each in plan.tasks} == {"read": 1, "part": 1200, "total": 1}
        assert plan.untimed == () and plan.recommended is not None
        # A call sleeps 50 ms, and longer on a busy machine; of 12 items, not 1,200, it would be a hundredth.
        assert 1200 * 0.05 < plan.recommended.work_s["part"].value < 1200 * 0.5
        low, high = plan.recommended.work_s["total"].interval
        assert high > 100 * low

    def test_a_call_that_takes_most_of_the_time_is_refused_for_data_that_are_too_far(self, job):
        job.edit("time.sleep(0.002)\n    return sum", "time.sleep(0.1)\n    return sum")
        job.run(n=12)
        plan = planned(job, n=12, times={"part": 100}, workers=[1], deadline="1h")
        assert plan.recommended is None
        assert "reads 1200 items, but was measured with 12; runs of 3 sizes" in plan.reason

    @pytest.mark.needs("cpu")
    def test_the_same_from_python(self, job):
        job.run(n=12)
        plan = planned(job, n=12).times({"part": 3})
        assert {each.task: each.left for each in plan.tasks}["part"] == 36

    @pytest.mark.parametrize(
        ("times", "what"), [({"parts": 2}, "did you mean part?"), ({"part": 0}, "above 0")]
    )
    def test_refusals(self, job, times, what):
        with pytest.raises(UsageError) as caught:
            planned(job, times=times)
        assert what in caught.value.fix


class TestMachines:
    CSV = "instance_type,gpu,gpus,vcpus,memory_gib,usd_per_hour,spot_usd_per_hour,startup,speed\nbig,,0,8,16,0.80,0.20,10s,1.0-1.2\n"
    RESERVED = "instance_type,gpu,gpus,vcpus,memory_gib,usd_per_hour,spot_usd_per_hour,reserved_usd_per_hour,startup,speed\n"

    def test_a_speed_is_never_invented(self, job):
        job.run(n=12)
        plan = planned(job, n=13, workers=[1])
        others = [row for row in plan.rows if not row.configuration.is_local]
        assert len(others) > 200 and all(row.refused for row in others)
        assert "--speed coreweave:" in str(plan)

    @pytest.mark.needs("cpu")
    def test_a_law_buys_machines(self, job):
        job.run(n=12)
        study(job, seconds=0.0025)
        (job.folder / "ours.csv").write_text(self.CSV)
        plan = planned(job, n=13, day=1, catalog="ours.csv", workers=[1, 2, 8])
        rows = {str(row.configuration): row for row in plan.rows}
        assert rows["1 x ours:big"].seconds is not None
        assert rows["1 x ours:big"].spot_usd is not None
        assert rows["this machine, 8 workers"].seconds.value < rows["this machine, 1 worker"].seconds.value
        assert any(note.startswith("scaling of part: from measure-job-") for note in plan.notes)
        assert plan.reason.startswith("you do not need a cluster")

    @pytest.mark.needs("cpu")
    @pytest.mark.parametrize(
        ("prices", "shown"),
        [
            ("80000,20000,40000", ["time", "cost", "spot", "reserved", "efficiency"]),
            ("80000,,40000", ["time", "cost", "reserved", "efficiency"]),
            ("80000,,", ["time", "cost", "efficiency"]),
        ],
    )
    def test_spot_and_reserved_prices_have_a_column_where_they_are_known(self, job, prices, shown):
        job.run(n=12)
        study(job, seconds=0.0025)
        (job.folder / "ours.csv").write_text(f"{self.RESERVED}big,,0,8,16,{prices},1ms-2ms,50-60\n")
        plan = planned(job, n=13, day=1, catalog="ours.csv", workers=[1], budget="$1000000")
        lines = str(plan).splitlines()
        header = next(line.split() for line in lines if line.split()[:1] == ["configuration"])
        assert header == ["configuration", *shown], lines
        (cells,) = [line for line in lines if "1 x ours:big" in line and "recommended" not in line]
        row = next(row for row in plan.rows if str(row.configuration) == "1 x ours:big")
        for name in ("spot", "reserved"):
            estimate = getattr(row, f"{name}_usd")
            assert (estimate is not None) == (name in shown)
            if estimate is not None:
                assert f"  ${estimate.value:,.2f}  " in cells
                assert f"at the {name} price" in plan.reason, plan.reason
        if row.reserved_usd is not None:
            assert 2 * row.reserved_usd.value == pytest.approx(row.usd.value)
        assert ("a reserved machine costs its other hours, too" in str(plan)) == ("reserved" in shown)
        assert max(map(len, lines[3:5])) < 120
        facts = next(each for each in plan.facts()["rows"] if each["configuration"] == "1 x ours:big")
        assert facts["reserved_usd"] == (row.reserved_usd and row.reserved_usd.ends)

    @pytest.mark.needs("cpu")
    def test_prices_that_are_old_are_named(self, job):
        job.run(n=12)
        study(job, seconds=0.0025)
        (job.folder / "ours.csv").write_text(f"# source: us\n# date: 2026-11-25\n{self.CSV}")
        pipeline, _ = load_entry(f"{job.file}:job")
        asked = PlanQuestion(pipeline=pipeline, params={"n": 13, "day": 1}, catalog="ours.csv", workers=[1])
        clock = VirtualClock()
        clock.time = datetime(2027, 2, 23, tzinfo=UTC).timestamp()
        assert "prices of ours are" not in str(make_plan(asked, job.project, clock=clock))
        clock.time += 86400.0
        assert "the prices of ours are 91 days old: hooke prices update FILE" in str(
            make_plan(asked, job.project, clock=clock)
        )

    @pytest.mark.needs("cpu")
    def test_a_law_beyond_the_cores_says_nothing_of_other_machines(self, job):
        """A task that keeps a core busy, measured past the cores: here that is its law, elsewhere it is not."""
        job.run(n=12)
        levels = tuple(cpus_here() * n for n in (1, 2, 4))
        study(job, seconds=0.0025, cpu_share=1.0, levels=levels)
        (job.folder / "ours.csv").write_text(self.CSV)
        plan = planned(job, n=13, day=1, catalog="ours.csv", workers=[2 * cpus_here()])
        here, *others = plan.rows
        assert here.seconds is not None
        assert all(f"up to the {cpus_here()} cores" in row.refused for row in others)

    @pytest.mark.needs("cpu")
    def test_a_task_that_waits_is_not_limited_by_the_cores(self, job):
        """Of a sleeping task each N counts, however few the cores; what lies beyond is too far, and cores are not named."""
        job.run(n=12)
        study(job, seconds=0.0025, levels=(1, 2, 4))
        (job.folder / "ours.csv").write_text(self.CSV)
        plan = planned(job, n=2000, day=1, catalog="ours.csv", workers=[4])
        _, *others = plan.rows
        assert others[-1].refused.startswith("part: N = 128 is too far from the measured range, 1 to 4")
        assert "cores" not in others[-1].refused

    def test_not_enough_data_names_the_measurement_and_the_command(self, job):
        job.run(n=12)
        plan = planned(job, n=500, day=3, workers=[4])
        assert plan.reason.startswith("not enough data: measure part at N=")
        assert "hooke measure" in plan.next and "--task part --workers 1,2" in plan.next
        assert plan.next.endswith("--n 500 --day 3")

    def test_a_speed_is_measured_where_both_machines_ran_the_same(self, job):
        run = job.run(n=12)
        self.copied(job, run, host="fast", seconds=0.5)
        (job.folder / "ours.csv").write_text(self.CSV)
        speed = {"ours:big": "@fast"}
        (machine,) = planned(job, n=13, catalog="ours.csv", speed=speed).catalogs[0].machines
        low, high = machine.speed
        assert low < 2 < high < 10 * low
        with pytest.raises(UsageError, match="no comparable task was timed on both slow and") as caught:
            planned(job, n=13, catalog="ours.csv", speed={"ours:big": "@slow"})
        assert "other hosts with runs: fast" in caught.value.fix

    @staticmethod
    def copied(shop, run, *, host, seconds=1.0):
        """The run again as if another machine had done it, in so many times the time."""
        folder = shop.project.runs.create(f"{run.id[:-4]}zzzz")
        with Journal.create(folder, "driver", durable="none") as journal:
            start = None
            for event in run.journal:
                start = start or event.at
                event = msgspec.structs.replace(event, at=start + (event.at - start) * seconds)
                if isinstance(event, RunStarted):
                    event = msgspec.structs.replace(event, host=host)
                elif isinstance(event, AttemptFinished):
                    event = msgspec.structs.replace(event, seconds=event.seconds * seconds)
                journal.append(event)

    @pytest.mark.needs("cpu")
    def test_timings_of_another_host_are_said_and_not_taken_for_this_one(self, job):
        run = job.run(n=12)
        self.copied(job, run, host="elsewhere")
        (run.folder / "driver.journal").unlink()
        plan = planned(job, n=13, workers=[1])
        assert plan.rows[0].refused == "speed unknown"
        assert "measured on elsewhere, not on this machine" in plan.notes
        assert planned(job, n=13, workers=[1], speed={"local": "2"}).rows[0].seconds is not None

    @pytest.mark.parametrize(
        ("catalog", "what"),
        [("none.csv", "no price list"), (["lambda", "lambda"], "two price lists are called")],
    )
    def test_catalogs_that_are_not_there(self, catalog, what):
        with pytest.raises(UsageError, match=what):
            read_catalogs(catalog)

    @pytest.mark.needs("cpu")
    def test_hooke_toml_says_lists_speeds_and_lags(self, job):
        (job.folder / "ours.csv").write_text(self.CSV.replace("10s,1.0-1.2", ","))
        (job.folder / "hooke.toml").write_text(
            '[plan]\ncatalog = ["ours.csv"]\n[plan.speed]\n"ours:big" = "1.1"\n[plan.startup]\nours = "1m-2m"\n'
        )
        job.run(n=12)
        plan = planned(job, n=13, workers=[1])
        (machine,) = plan.catalogs[0].machines
        assert (machine.speed, machine.startup_s) == ((1.1, 1.1), (60, 120))


class TestPooled:
    """All comparable studies and runs count, not the newest only."""

    @pytest.mark.needs("cpu")
    def test_studies_of_the_same_code_are_one_law(self, job):
        job.run(n=12)
        code = self.code(job)
        study(job, levels=(1, 2, 4), number=1, code=code)
        study(job, levels=(4, 8, 16), number=2, code=code, seconds=1.3)
        study(job, levels=(1, 2, 4, 8, 16, 32, 64), number=3, code={"part": "other code"})
        past = PastJournals.read(job.project.runs, pipeline="job", host=socket.gethostname())
        levels = levels_of(self.left(job), past.studies["part"], past.runs, [])
        assert sorted(set(levels.n)) == [1, 2, 4, 8, 16]
        law = law_of_levels(levels).law
        assert law.predict(16).value / law.predict(1).value == pytest.approx(16, rel=0.05), (
            "the slower day of the second study is no slow-down"
        )

    def test_the_newest_counts_if_none_is_of_the_code_as_it_is(self, job):
        job.run(n=12)
        for number, levels in ((1, (1, 2, 4)), (2, (1, 2, 8))):
            study(job, levels=levels, number=number, code={"part": "older"})
        past = PastJournals.read(job.project.runs, pipeline="job", host=socket.gethostname())
        assert set(levels_of(self.left(job), past.studies["part"], past.runs, []).n) == {1, 2, 8}

    def test_a_source_that_shares_no_number_is_left_out(self):
        one, apart, alone = (
            Levels(n=n, rate=tuple(map(float, n)), source=str(n)) for n in ((1, 2, 4), (8, 16), (2, 2))
        )
        assert pooled([one, apart, alone]).n == one.n

    @staticmethod
    def left(shop):
        pipeline, _ = load_entry(f"{shop.file}:job")
        graph = trace(pipeline, (), {"n": 12, "day": 9})
        keys = GraphKeys(graph, run="plan", seed=shop.project.seed)
        return next(
            each for each in Survey(graph, keys, shop.project.store(), {}).left if each.task == "part"
        )

    def code(self, shop):
        return dict(self.left(shop).code)


class TestReplayed:
    @pytest.mark.needs("cpu")
    def test_a_plan_says_how_many_past_runs_its_interval_comes_from(self, job):
        told = []
        for day in range(1, 4):
            job.run(n=12, day=day, on="local", workers=1)
            plan = planned(job, n=12, day=100, workers=[1])
            told.append([note for note in plan.notes if note.startswith("interval: from ")])
        assert told[0] == [] and told[2] == [
            "interval: from 2 past runs, each predicted from those before it"
        ]

    @pytest.mark.needs("cpu")
    def test_no_run_narrows_what_was_timed_with_other_code(self, job):
        for day in range(4):
            job.run(n=12, day=day)
        job.edit("return x * day", "return x + day")
        plan = planned(job, n=12, workers=[1])
        assert not any(note.startswith("interval") for note in plan.notes)
        low, high = plan.rows[0].seconds.interval
        assert high > 2.5 * low

    @pytest.mark.needs("cpu")
    def test_a_run_that_was_partly_cached_is_replayed_by_what_it_did(self, job):
        job.run(n=12)
        job.run(n=16)
        (newest, oldest) = past_runs(job.project.runs)
        assert [(work.task, work.items) for work in newest.works] == [("part", 4), ("total", 1)]
        assert [(work.task, work.items) for work in oldest.works] == [("read", 1), ("part", 12), ("total", 1)]


class TestChecked:
    @pytest.mark.needs("cpu")
    def test_a_run_is_set_against_its_plan(self, job):
        job.run(n=12, on="local", workers=1)
        plan = planned(job, n=12, day=1, workers=[1])
        run = job.run(n=12, day=1, on="local", workers=1)
        (checked,) = [event for event in run.journal if isinstance(event, PlanChecked)]
        assert checked.configuration == "this machine, 1 worker"
        assert checked.predicted_s[1] == pytest.approx(plan.rows[0].seconds.value)
        assert {(each.task, each.planned, each.ran) for each in checked.tasks} == {
            ("read", 1, 1),
            ("part", 12, 12),
            ("total", 1, 1),
        }
        assert checked.seconds > 12 * 0.002

    @pytest.mark.needs("cpu")
    def test_a_run_that_was_not_planned_says_nothing(self, job):
        job.run(n=12)
        planned(job, n=12, day=1, workers=[1])
        for run in (job.run(n=12, day=2), job.run(n=12, day=1, on="serial")):
            assert not any(isinstance(event, PlanChecked) for event in run.journal)


def test_a_plan_that_cannot_be_kept_is_told_all_the_same(job):
    job.run(n=12)
    (job.project.data / "plans").write_text("in the way")
    plan = planned(job, n=13, workers=[1])
    assert plan.recommended is not None
    assert any(note.startswith("this plan could not be saved: ") for note in plan.notes)


class TestOtherPipelines:
    TWO = (
        JOB
        + """

    @task(name="part")
    def other(x: int, day: int) -> int:
        return x

    @pipeline
    def second(n: int = 12, day: int = 0) -> list[int]:
        return other.map(range(n), day=day)

    @pipeline
    def third(n: int = 12, day: int = 0) -> list[int]:
        return part.map(range(n), day=day)
"""
    )

    @pytest.mark.needs("cpu")
    def test_a_task_counts_by_its_code_not_by_its_name(self, workshop):
        workshop.write(self.TWO)
        workshop.run(name="second")
        assert [str(each) for each in planned(workshop, name="job").untimed][1] == "part (never measured)"
        assert planned(workshop, name="third").untimed != ()
        workshop.run(name="third", day=5)
        assert [each.task for each in planned(workshop, name="job").untimed] == ["read", "total"]


class TestTimings:
    def test_items_of_a_map_are_known_one_by_one(self, job):
        job.run(n=12)
        (told,) = past_runs(job.project.runs)
        part = next(each for each in told.timed if each.task == "part")
        assert part.timing.items == 12 and part.timing.reads == 0
        assert 0.002 <= part.timing.seconds < 0.2
        assert part.cpu_share < 0.7
        total = next(each for each in told.timed if each.task == "total")
        assert total.timing.reads == 12
        assert told.beside_s is not None

    def test_second_attempts_of_stragglers_are_not_timings(self, job):
        """They start late on another worker, and are chosen because the first attempt was slow."""
        events = list(job.run(n=12).journal)
        part = next(event.node for event in events if isinstance(event, NodePlanned) and event.task == "part")
        twin = next(e for e in events if isinstance(e, AttemptStarted) and e.node == part)
        for at, event in enumerate(events):
            if event is twin:
                events[at] = msgspec.structs.replace(event, twin_of=1000)
            elif isinstance(event, AttemptFinished) and event.attempt == twin.attempt:
                events[at] = msgspec.structs.replace(event, seconds=60.0)
        timed = run_times(events)
        assert timed is not None
        timing = next(each.timing for each in timed.timed if each.task == "part")
        assert timing.items == 12 - (twin.hi - twin.lo)
        assert timing.seconds * timing.items < 60

    def test_an_elastic_gang_counts_where_it_had_all_its_ranks_from_beginning_to_end(self):
        """One that began with fewer, or was made larger on its way, says nothing of how long a whole one takes."""
        whole, fewer, grown = ["a b"], ["a"], ["a", "a b"]

        def run_of(*tries):
            events = [
                RunStarted(at=1.0, run="r", pipeline="p", entry="x", place="local:2", host="h"),
                NodePlanned(node=0, task="t", key="k", gang=2, least_ranks=1),
            ]
            for number, workers in enumerate(tries):
                where = {"attempt": number, "node": 0, "lo": 0, "hi": 1, "worker": "a"}
                at = 2.0 + 10.0 * number
                events.append(AttemptStarted(at=at, workers=tuple(workers.split()), **where))
                if number + 1 < len(tries):
                    failure = Failure(kind="GangResized", message="it grows")
                    events.append(AttemptFailed(at=at + 5.0, failure=failure, **where))
                else:
                    events.append(AttemptFinished(at=at + 5.0, ref=REF, seconds=5.0, **where))
            return run_times(events).timed

        (timed,) = run_of(*whole)
        assert timed.timing.seconds == 5.0
        assert run_of(*fewer) == run_of(*grown) == []

    def test_the_spread_of_items_is_not_that_of_the_means_of_chunks(self):
        """Means of four vary half as much as single ones."""
        events = [
            RunStarted(at=1.0, run="r", pipeline="p", entry="x", place="local:1", host="h"),
            NodePlanned(node=0, task="t", key="k", kind="map", items=32),
        ]
        for number in range(8):
            seconds = 4 * math.exp(0.1 * (-1) ** number)
            where = {"attempt": number, "node": 0, "lo": 4 * number, "hi": 4 * number + 4}
            at = 2.0 + 10.0 * number
            events.append(AttemptStarted(at=at, worker="w", **where))
            events.append(AttemptFinished(at=at + seconds, worker="w", ref=REF, seconds=seconds, **where))
        (timed,) = run_times(events).timed
        assert timed.timing.items == 32
        assert timed.timing.spread == pytest.approx(2 * math.sqrt(8 * 0.1**2 / 7))

    @pytest.mark.needs("cpu")
    def test_older_journals_are_left_out_when_the_newer_ones_are_large(self, job):
        """Reading more takes too long for a plan."""
        for day in (1, 2):
            with Journal.create(job.run(n=2, day=day).folder, "driver", durable="none") as journal:
                journal.append(StopRequested(at=1e12, by="x" * (MOST_BYTES // 2)))
        newest = job.project.runs.names()[0]
        assert [times.run for times in past_runs(job.project.runs)] == [newest]

    def test_a_damaged_journal_tells_nothing_and_hurts_nobody(self, job):
        run = job.run(n=12)
        content = bytearray((run.folder / "driver.journal").read_bytes())
        content[len(content) // 2] ^= 0xFF
        (run.folder / "driver.journal").write_bytes(content)
        assert list(past_runs(job.project.runs)) == []
        assert planned(job, n=12).recommended is None


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        ({"deadline": "soon"}, "is not a duration"),
        ({"deadline": "0s"}, "is not above 0"),
        ({"budget": "much"}, "is not an amount"),
        ({"budget": -1}, "is not an amount"),
        ({"workers": [0]}, "is not valid"),
        ({"workers": []}, "is not valid"),
    ],
)
def test_wishes_that_are_none(job, wish, what):
    with pytest.raises(UsageError, match=what):
        planned(job, n=2, **wish)


def test_a_notebook_gets_a_table_in_which_nothing_is_live(job):
    job.run(n=12)
    shown = planned(job, n=13, workers=[1], budget="$5")._repr_html_()
    assert "<table " in shown and "this machine, 1 worker" in shown and "<script" not in shown


def test_the_measurement_to_type_is_never_the_one_that_was_made(workshop):
    workshop.write(TINY)
    pipeline, _ = load_entry(str(workshop.file))
    done = record_of(lambda n: 9 / n, levels=(1, 2, 3))
    new = measure_command(pipeline, {}, task="part", n=8, known=[done])
    assert new.endswith("--task part --workers 1,2,4,8")
    assert measure_command(pipeline, {}, task="part", n=2, known=[done]).endswith(
        "--workers 1,2,3 --repeats 6"
    )


TINY = """
    from hooke import pipeline, task

    @task
    def part(x: int) -> int:
        return x

    @pipeline
    def tiny() -> list[int]:
        return part.map(range(4))
"""
