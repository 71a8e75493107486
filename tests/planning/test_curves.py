"""Curves from journals: what is of one curve, what is not, and what is refused."""

from __future__ import annotations

import msgspec
import pytest
from tests.journal.played import History
from tests.journal.test_records import ENDED, MEASURED, PLAIN, begun, written

from hooke import NotEnoughData, UsageError
from hooke.journal.events import Event, Measured, NodePlanned, RunFinished, RunStarted
from hooke.journal.run_folders import RunsFolder
from hooke.planning.curves import curve_of

THREE = (*MEASURED, Measured(at=14.0, task="features", n=4, work=12.0, seconds=0.6, segment="attempts-003"))
STUDY = "measure-delays-20261125-010203-abcd"


def name_of(number: int) -> str:
    return f"p-20261125-0000{number:02}-aaaa"


@pytest.fixture
def runs(tmp_path) -> RunsFolder:
    return RunsFolder(tmp_path)


def put(runs: RunsFolder, number: int, sizes, *, items: int = 120, size: str = "3", maps=None) -> str:
    """A run whose map of `a` takes half a second an item, on so many workers from so many seconds on."""
    name = name_of(number)
    history = History(maps or [("a", items, 0.5)], sizes, run=name, size=size)
    written(runs, name, *later(history.play()))
    return name


def later(events: list[Event]) -> list[Event]:
    """A second later: a journal stamps what happened at 0 with the time of its own clock."""
    return [msgspec.structs.replace(event, at=event.at + 1.0) for event in events]


class TestOneRun:
    @pytest.mark.needs("cpu")
    def test_whose_workers_changed_in_number_has_a_curve(self, runs):
        curve = curve_of(runs, put(runs, 1, [(0.0, 1), (20.0, 2), (40.0, 4)], items=200))
        assert curve.measurements.levels.tolist() == [1, 2, 4]
        assert curve.law.efficiency(4).value == pytest.approx(1, abs=0.01)
        assert curve.title == f"a, run {name_of(1)}"
        assert curve.unit == "items"
        assert any(note.startswith("each N was measured at one time only") for note in curve.notes)

    @pytest.mark.needs("cpu")
    def test_that_came_back_to_an_n_says_nothing_of_time(self, runs):
        curve = curve_of(runs, put(runs, 1, [(0.0, 1), (20.0, 2), (40.0, 4), (60.0, 1)], items=340))
        assert not any("at one time only" in note for note in curve.notes)

    @pytest.mark.parametrize(("n", "best"), [(1, 2), (2, 1), (4, 1)])
    def test_of_one_n_is_refused_with_the_next_to_run(self, runs, n, best):
        with pytest.raises(NotEnoughData, match=f"a was measured only at N = {n}") as caught:
            curve_of(runs, put(runs, 1, [(0.0, n)]))
        assert caught.value.measure_at == best
        assert caught.value.next == f"hooke run f.py:p --workers {best} --force=a"

    @pytest.mark.parametrize(("levels", "best"), [((1, 2), 4), ((2, 4), 1)])
    def test_of_two_n_is_refused_with_their_ratio(self, runs, levels, best):
        with pytest.raises(NotEnoughData, match="two N, and two points cannot identify a curve") as caught:
            curve_of(runs, put(runs, 1, [(0.0, levels[0]), (20.0, levels[1])]))
        assert caught.value.measure_at == best
        assert "2.00 times as much by 2 times as many workers" in caught.value.why

    def test_that_measured_nothing_says_why(self, runs):
        with pytest.raises(NotEnoughData, match="has no usable measurement of a") as caught:
            curve_of(runs, put(runs, 1, [(0.0, 4)], items=4))
        assert caught.value.why == "4 as its workers were starting"

    def test_that_took_all_from_the_cache_sends_to_one_that_did_not(self, runs):
        planned = History([("a", 4, 0.5)], [(0.0, 1)], run=name_of(1)).play()[:2]
        written(runs, name_of(1), *later(planned))
        with pytest.raises(NotEnoughData, match="has no usable measurement of a") as caught:
            curve_of(runs, name_of(1))
        assert caught.value.fix == "name a run that computed it"
        assert caught.value.next == "hooke runs"

    def test_whose_n_changed_with_the_work_is_refused(self, runs):
        maps = [("a", 60, 0.5), ("a", 60, 0.25)]
        history = History(maps, [(0.0, 1), (30.0, 2)], run=name_of(1))
        events = [
            msgspec.structs.replace(event, inputs={"size": "s9"}, shown={"size": "9"})
            if isinstance(event, NodePlanned) and event.node == 1
            else event
            for event in history.play()
        ]
        written(runs, name_of(1), *later(events))
        with pytest.raises(NotEnoughData, match="N changed together with the work") as caught:
            curve_of(runs, name_of(1))
        assert "size=9" in caught.value.why

    @pytest.mark.needs("cpu")
    def test_without_a_name_the_task_that_took_longest_is_meant(self, runs):
        name = put(runs, 1, [(0.0, 1), (20.0, 2), (30.0, 3)], maps=[("a", 200, 0.3), ("b", 40, 0.05)])
        assert curve_of(runs, name).name == "a"

    def test_a_task_that_is_not_there_is_refused_with_those_that_are(self, runs):
        with pytest.raises(UsageError, match="no task 'x'") as caught:
            curve_of(runs, put(runs, 1, [(0.0, 1)]), "x")
        assert caught.value.fix == "its tasks: a"

    def test_that_has_only_begun_is_refused(self, runs):
        written(runs, name_of(1), RunStarted(at=1.0, run=name_of(1), pipeline="p", entry="f.py:p"))
        with pytest.raises(NotEnoughData, match="no task yet"):
            curve_of(runs, name_of(1))
        runs.create(name_of(2))
        with pytest.raises(NotEnoughData, match="no task yet"):
            curve_of(runs, name_of(2))


class TestSeveralRuns:
    @pytest.mark.needs("cpu")
    def test_equal_work_counts_together(self, runs):
        for number, n in ((1, 1), (2, 2)):
            put(runs, number, [(0.0, n)])
        curve = curve_of(runs, put(runs, 3, [(0.0, 4)]))
        assert curve.measurements.levels.tolist() == [1, 2, 4]
        assert curve.source == f"run {name_of(3)} and 2 more"
        assert any(name_of(1) in note for note in curve.notes)

    def test_other_work_does_not(self, runs):
        put(runs, 1, [(0.0, 1)], size="3")
        with pytest.raises(NotEnoughData, match="N changed together with the work") as caught:
            curve_of(runs, put(runs, 2, [(0.0, 2)], size="5"))
        assert caught.value.why.splitlines() == ["N = 2: size=5", "N = 1: size=3"]
        assert caught.value.measure_at == 1

    @pytest.mark.needs("cpu")
    def test_what_cannot_be_read_is_passed_over(self, runs):
        put(runs, 1, [(0.0, 1)])
        put(runs, 4, [(0.0, 3)])
        damaged = runs.folder(put(runs, 2, [(0.0, 4)])) / "driver.journal"
        damaged.write_bytes(b"no journal" + damaged.read_bytes())
        assert curve_of(runs, put(runs, 3, [(0.0, 2)])).measurements.levels.tolist() == [1, 2, 3]

    @pytest.mark.needs("cpu")
    def test_a_study_among_them_is_none_of_them(self, runs):
        written(runs, STUDY, begun(STUDY), *THREE, ENDED)
        curve = curve_of(runs, put(runs, 1, [(0.0, 1), (20.0, 2), (40.0, 4)], items=200))
        assert curve.source == f"run {name_of(1)}"


class TestStudies:
    @pytest.mark.needs("cpu")
    def test_a_study_has_its_cost(self, runs):
        written(runs, STUDY, begun(STUDY), *THREE, PLAIN, ENDED)
        curve = curve_of(runs, STUDY)
        assert curve.title == f"features, study {STUDY}"
        assert curve.cost is not None
        assert curve.cost.plain == pytest.approx(12 / 1.7)
        assert curve.cost.n == 2
        assert not curve.notes

    def test_one_that_goes_on_is_shown_as_far_as_it_is(self, runs):
        written(runs, STUDY, begun(STUDY), *THREE)
        assert curve_of(runs, STUDY).notes == (
            "the study is not complete; the curve shows the measurements so far",
        )

    def test_one_that_measured_nothing_is_refused(self, runs):
        written(runs, STUDY, begun(STUDY), RunFinished(at=11.0, status="stopped"))
        with pytest.raises(NotEnoughData, match="no measurement"):
            curve_of(runs, STUDY)

    def test_confounded_measurements_are_refused(self, runs):
        mixed = [
            Measured(at=12.0, task="features", n=n, work=12.0, seconds=1.0 / n, condition=f"{n} threads")
            for n in (1, 2, 4)
        ]
        written(runs, STUDY, begun(STUDY), *mixed, ENDED)
        with pytest.raises(NotEnoughData, match="N changed together with the conditions"):
            curve_of(runs, STUDY)

    def test_two_n_are_refused(self, runs):
        written(runs, STUDY, begun(STUDY), *MEASURED, ENDED)
        with pytest.raises(NotEnoughData, match="cannot tell one law from another"):
            curve_of(runs, STUDY)

    def test_sizes_are_no_curve_over_workers(self, runs):
        swept = msgspec.structs.replace(begun(STUDY), sizes=(10, 100, 1000))
        written(runs, STUDY, swept, *THREE, ENDED)
        with pytest.raises(UsageError, match="varied sizes at one N"):
            curve_of(runs, STUDY)

    def test_another_task_is_refused(self, runs):
        written(runs, STUDY, begun(STUDY), *THREE, ENDED)
        with pytest.raises(UsageError, match="no task 'train'"):
            curve_of(runs, STUDY, "train")
        assert curve_of(runs, STUDY, "features").name == "features"
