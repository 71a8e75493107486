from __future__ import annotations

from hooke.journal.events import Measured, PlainMeasured, RunFinished, RunStarted, StudyStarted
from hooke.journal.run_folders import RunsFolder
from hooke.journal.run_view import RunView
from hooke.journal.study_records import find_studies, read_study
from hooke.journal.writer import Journal


def begun(study: str, *, at: float = 10.0, pipeline: str = "delays", task: str = "features") -> StudyStarted:
    return StudyStarted(
        at=at,
        study=study,
        pipeline=pipeline,
        entry="flights.py:delays",
        task=task,
        key="k",
        shown={"months": "12"},
        levels=(1, 2),
        repeats=1,
        place="local",
    )


MEASURED = [
    Measured(at=12.0, task="features", n=2, work=12.0, seconds=1.0, segment="attempts-001"),
    Measured(at=13.0, task="features", n=1, work=12.0, seconds=1.9, segment="attempts-002"),
]
PLAIN = PlainMeasured(at=15.0, work=12.0, seconds=1.7)
ENDED = RunFinished(at=16.0, status="finished", seconds=6.0)


def written(runs: RunsFolder, name: str, *events) -> None:
    with Journal.create(runs.create(name), "driver") as journal:
        for event in events:
            journal.append(event)


def test_a_study_is_read_back_as_it_was_written(tmp_path):
    runs, name = RunsFolder(tmp_path), "measure-delays-20261125-010203-abcd"
    written(runs, name, begun(name), *MEASURED, PLAIN, ENDED)
    record = read_study(runs.folder(name))
    assert record is not None
    assert record.started == begun(name)
    assert record.measured == tuple(MEASURED)
    assert record.plain == (PLAIN,)
    assert record.complete


def test_a_study_without_an_end_is_not_complete(tmp_path):
    runs, name = RunsFolder(tmp_path), "measure-delays-20261125-010203-abcd"
    written(runs, name, begun(name), *MEASURED)
    record = read_study(runs.folder(name))
    assert record is not None
    assert not record.complete
    written(runs, name, RunFinished(at=20.0, status="stopped"))
    record = read_study(runs.folder(name))
    assert record is not None
    assert not record.complete


def test_a_run_is_no_study(tmp_path):
    runs = RunsFolder(tmp_path)
    written(
        runs,
        "measure-20261125-010203-abcd",
        RunStarted(at=1.0, run="measure-2", pipeline="measure", entry=""),
    )
    assert read_study(runs.folder("measure-20261125-010203-abcd")) is None
    assert list(find_studies(runs)) == []


def test_studies_are_found_newest_first_by_pipeline_and_task(tmp_path):
    runs = RunsFolder(tmp_path)
    old, new = "measure-delays-20261124-010203-aaaa", "measure-delays-20261125-010203-bbbb"
    other, whole = "measure-wind-20261125-010204-cccc", "measure-delays-20261123-010203-dddd"
    written(runs, old, begun(old), ENDED)
    written(runs, new, begun(new), ENDED)
    written(runs, other, begun(other, pipeline="wind"), ENDED)
    written(runs, whole, begun(whole, task=""), ENDED)
    runs.create("measure-nothing-20261125-010205-eeee")
    (runs.create("measure-torn-20261125-010206-ffff") / "driver.journal").write_bytes(
        b"no journal at all" * 9
    )

    def found(**wanted):
        return [record.started.study for record in find_studies(runs, **wanted)]

    assert found() == [other, new, old, whole]
    assert found(pipeline="delays", task="features") == [new, old]
    assert found(pipeline="delays", task="") == [whole]


def test_the_view_lists_a_study_as_it_lists_a_run():
    view = RunView.fold([begun("measure-delays-1"), *MEASURED, PLAIN])
    assert (view.run, view.status) == ("measure-delays-1", "running")
    view.apply(ENDED)
    row = view.row(now=100.0)
    assert (row.pipeline, row.status, row.seconds, row.started_at) == ("delays", "finished", 6.0, 10.0)
    assert row.parameters == {"months": "12"}
