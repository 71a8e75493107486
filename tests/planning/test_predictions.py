"""Plans that are kept, and the one that a run is set against."""

import pytest

from hooke.journal.events import CapacityChanged, PlanMade, PlannedRow, PlannedTask, RunStarted
from hooke.journal.run_view import RunView
from hooke.journal.study_records import MOST_KEPT, PlansFolder, check


def made(plan="job-20261125-000001-abcd", *, at=100.0, n="3", host="here", times=None, workers=2) -> PlanMade:
    row = PlannedRow(
        configuration="this machine, 2 workers", machine="local", workers=workers, seconds=(1.0, 2.0, 3.0)
    )
    return PlanMade(
        at=at,
        plan=plan,
        pipeline="job",
        entry="/job.py:job",
        shown={"n": n},
        times=times or {},
        tasks=(PlannedTask(task="part", items=3),),
        rows=(row,),
        host=host,
    )


def begun(at=200.0, *, n="3", host="here") -> RunStarted:
    return RunStarted(
        at=at, run="job-20261125-000300-wxyz", pipeline="job", entry="/job.py:job", shown={"n": n}, host=host
    )


@pytest.fixture
def plans(tmp_path) -> PlansFolder:
    return PlansFolder(tmp_path / "plans")


def test_the_newest_plan_before_the_run_with_its_parameters_is_the_one(plans):
    assert plans.made_for(begun()) is None
    plans.add(made("job-20261125-000001-aaaa", at=100))
    plans.add(made("job-20261125-000002-bbbb", at=150))
    plans.add(made("job-20261125-000003-cccc", at=160, n="4"))
    plans.add(made("job-20261125-000004-dddd", at=170, host="elsewhere"))
    plans.add(made("job-20261125-000005-eeee", at=180, times={"part": 100}))
    plans.add(made("job-20261125-000006-ffff", at=300))
    assert plans.made_for(begun()).plan == "job-20261125-000002-bbbb"
    assert plans.made_for(begun(n="5")) is None


@pytest.mark.needs("cpu")
def test_the_oldest_go(plans):
    for number in range(MOST_KEPT + 3):
        plans.add(made(f"job-20261125-{number:06d}-aaaa"))
    names = plans.names()
    assert len(names) == MOST_KEPT
    assert names[0] == f"job-20261125-{MOST_KEPT + 2:06d}-aaaa"
    assert plans.names("other") == []


def test_one_that_cannot_be_read_is_passed_over(plans):
    plans.add(made("job-20261125-000001-aaaa"))
    plans.add(made("job-20261125-000002-bbbb"))
    (plans.path / "job-20261125-000002-bbbb.journal").write_bytes(b"nonsense" * 20)
    assert plans.made_for(begun()).plan == "job-20261125-000001-aaaa"


def test_a_run_with_another_number_of_workers_was_not_planned():
    view = RunView.fold([begun(), CapacityChanged(at=201.0, slots=3, cpus=4.0)])
    assert check(made(workers=2), view, seconds=1.0) is None
    checked = check(made(workers=3), view, seconds=1.0)
    assert (checked.predicted_s, checked.seconds) == ((1.0, 2.0, 3.0), 1.0)
    assert [(each.task, each.planned, each.ran) for each in checked.tasks] == []
