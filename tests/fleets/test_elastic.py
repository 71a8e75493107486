"""Runs whose number of workers follows the work: in virtual time, and on real processes."""

import pytest
from distributed import LocalCluster
from msgspec.structs import replace
from tests.fleets import jobs
from tests.fleets.played import Place, play

from hooke.autoscaling.observation import FleetLimits, Scaling
from hooke.base.clock import SystemClock
from hooke.base.errors import ConfigError, RunStopped, UsageError
from hooke.fleets.elastic import RunTargets, TaskHistory, check_kept, check_wanted, sized_by
from hooke.journal.events import AttemptFinished, WorkerStopped
from hooke.journal.fleet_events import FleetDecided
from hooke.pipeline.graph import Graph
from hooke.project.backends import BackendChoice as Place_
from hooke.project.folder import Project
from hooke.running.driver import RunOrder, prepare
from hooke.running.resume import resume
from hooke.running.run import Run

UP_TO_8 = FleetLimits(low=1, high=8)


def test_one_worker_becomes_eight_and_one_again():
    played = play(64, Place(), UP_TO_8)
    sizes = [decided.after for decided in played.decisions]
    assert sizes[0] == 8
    assert sizes[-1] == 1
    assert played.most == 8
    # One alone for the 1 s in which more start, the others 1 s later; then all at once, and the end of one.
    assert played.seconds == pytest.approx(2 + 64 / 8 + 5, abs=2.0)
    last = [workers for at, workers, _ in played.steps if at > played.seconds - 3.0]
    assert set(last) == {1}


def test_while_all_waits_for_a_retry_nobody_does_and_one_is_back_in_time():
    place = Place(start_s=10.0, retry_s=100.0)
    played = play(8, place, FleetLimits(low=0, high=8))
    failed = place.failed_at - 1000.0
    resting = [at for at, workers, _ in played.steps if failed < at < failed + 100.0 and not workers]
    assert resting[0] < failed + 3.0
    assert failed + 85.0 < resting[-1]
    assert played.seconds == pytest.approx(failed + 100.0 + place.gather_s, abs=1.0), "nobody is waited for"
    [ended] = [each for each in played.decisions if "until a retry" in each.reason]
    assert (ended.before, ended.after) == (1, 0)


def test_a_planted_knee_is_where_it_stops_and_it_says_why():
    law = Scaling(speedup=(1, 2, 3, 4, 5, 5, 5, 5), knee=4.9, family="hard_knee")
    played = play(64, Place(knee=5.0), UP_TO_8, told={"sleep": TaskHistory(scaling=law)})
    assert played.most == 5
    assert played.decisions[0].bound == "knee"
    assert "sleep gains nothing from more than 5 at once: its knee is at 4.9" in played.decisions[0].reason
    free = play(64, Place(knee=5.0), UP_TO_8)
    assert free.most == 8
    assert played.seconds == pytest.approx(free.seconds, rel=0.1)


@pytest.mark.parametrize("deadline_s", [20, 30, 60])
def test_a_deadline_buys_just_enough(deadline_s):
    played = play(64, Place(), UP_TO_8, deadline_s=deadline_s, told={"gather": TaskHistory(seconds=5.0)})
    assert played.seconds <= deadline_s
    assert played.most < 8
    # One fewer could not have done it: 64 s of work, 5 s after it, and starts.
    assert (64 - 2) / (played.most - 1) + 2 + 5 > 0.8 * deadline_s
    assert any(decided.bound == "deadline" for decided in played.decisions)


def test_a_budget_that_is_enough_is_not_gone_over():
    played = play(64, Place(), FleetLimits(low=1, high=8, budget_usd=1.0), usd_per_hour=36.0)
    assert not played.stopped
    assert 0.64 < played.spent_usd <= 1.0


def test_a_budget_is_kept_also_where_each_decision_takes_long():
    """So that the next one comes late: the driver is not to do much else than its work."""
    played = play(640, Place(), FleetLimits(low=1, high=8, budget_usd=1.5), usd_per_hour=36.0, decides_s=0.2)
    assert played.stopped
    assert 0.5 < played.spent_usd <= 1.5


def test_a_budget_that_is_not_enough_stops_before_it_is_spent():
    played = play(64, Place(), FleetLimits(low=1, high=8, budget_usd=0.3), usd_per_hour=36.0)
    assert played.stopped
    assert 0.2 < played.spent_usd <= 0.3
    assert played.decisions[-1].reason.endswith("does not pay for one worker until the next decision")


def test_what_one_worker_does_within_a_start_is_left_to_it():
    played = play(3, Place(start_s=30.0), UP_TO_8)
    assert played.most == 1


def decisions(run):
    return [event for event in run.journal if isinstance(event, FleetDecided)]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "hooke.toml").write_text("[places.paid]\nworkers = [1, 6]\nusd_per_hour = 36.0\n")
    return Project.find(tmp_path)


def drive(project, order):
    driver = prepare(order, project)
    driver.drive()
    return Run(project, driver.run)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_on_real_processes_it_grows_and_shrinks(project):
    """Six workers on however few cores there are: they sleep. At the end one is left, though others' processes would live."""
    run = drive(project, RunOrder(pipeline=jobs.naps, params={"items": 60}, workers=(1, 6)))
    assert run.result() == 60
    sizes = [decided.after for decided in decisions(run)]
    assert max(sizes) == 6
    assert sizes[-1] == 1
    ended = [event.cause for event in run.journal if isinstance(event, WorkerStopped)]
    assert ended.count("the fleet was made smaller") >= 5


@pytest.mark.long
@pytest.mark.needs("processes")
def test_a_budget_ends_a_real_run_which_goes_on_with_a_larger_one(project):
    order = RunOrder(
        pipeline=jobs.naps,
        params={"items": 60, "seconds": 0.3},
        on="paid",
        wanted=RunTargets(budget_usd=0.08),
    )
    run = drive(project, order)
    assert (run.status, run.stopped_by) == ("stopped", "the budget")
    last = decisions(run)[-1]
    assert last.stop
    assert 0 < last.spent_usd <= 0.08
    done = sum(1 for event in run.journal if isinstance(event, AttemptFinished))
    assert 0 < done < 60
    with pytest.raises(RunStopped) as stopped:
        run.result()
    assert stopped.value.next == f"hooke resume {run.id} --budget 0.16", (
        "the same budget would end it at once"
    )
    driver = resume(project, run.id, wanted=RunTargets(budget_usd=10.0))
    assert driver is not None
    assert driver.drive() == "finished"
    assert decisions(run)[-1].spent_usd > last.spent_usd


def test_a_deadline_or_a_budget_needs_something_to_decide(project):
    for on, wanted, fix in (
        ("local", RunTargets(deadline=1e12), "workers=(1, 8)"),
        ("serial", RunTargets(deadline=1e12), 'on="local"'),
    ):
        with pytest.raises(UsageError, match="needs a changing number of workers") as refused:
            prepare(RunOrder(pipeline=jobs.naps, params={"items": 2}, on=on, wanted=wanted), project)
        assert fix in refused.value.fix
    order = RunOrder(
        pipeline=jobs.naps, params={"items": 2}, workers=(1, 3), wanted=RunTargets(budget_usd=1.0)
    )
    with pytest.raises(UsageError, match="needs the price of a worker"):
        prepare(order, project)


def test_a_place_that_may_not_cost_what_its_fewest_workers_do_is_refused_before_anything_runs(tmp_path):
    """With none allowed the run would wait for ever; with more than allowed it would begin."""
    (tmp_path / "hooke.toml").write_text("[places.paid]\nusd_per_hour = 1.0\nmax_usd_per_hour = 2.5\n")
    project = Project.find(tmp_path)
    for workers, least in ((3, 3), ((3, 8), 3), ((4, 4), 4)):
        with pytest.raises(
            UsageError,
            match=rf"{least} workers on 'paid' would cost \${least}/h, more than the limit of \$2.5/h",
        ):
            prepare(RunOrder(pipeline=jobs.naps, params={"items": 2}, on="paid", workers=workers), project)
    prepare(RunOrder(pipeline=jobs.naps, params={"items": 2}, on="paid", workers=(1, 8)), project)
    (tmp_path / "hooke.toml").write_text(
        "[places.paid]\nworkers = [0, 4]\nusd_per_hour = 1.0\nmax_usd_per_hour = 0.5\n"
    )
    with pytest.raises(
        UsageError, match=r"1 worker on 'paid' would cost \$1/h, more than the limit of \$0.5/h"
    ):
        prepare(RunOrder(pipeline=jobs.naps, params={"items": 2}, on="paid"), Project.find(tmp_path))


def test_an_address_that_cannot_be_asked_for_more_keeps_no_budget_in_silence():
    place = Place_(name="lab", engine="dask", workers=(1, 4), at="tls://head:8786", usd_per_hour=1.0)
    for wanted, resumed in ((RunTargets(budget_usd=1.0), True), (RunTargets(deadline=1e12), False)):
        with pytest.raises(UsageError, match="which 'lab' cannot have"):
            check_kept(wanted, place, resumed=resumed)
    check_kept(RunTargets(deadline=1e12), place, resumed=True)
    check_kept(RunTargets(), place, resumed=False)


@pytest.mark.parametrize("workers", [None, 4, (1, 8)])
@pytest.mark.parametrize("wanted", [RunTargets(budget_usd=1.0), RunTargets(deadline=1e12)])
def test_at_an_address_of_dask_no_number_of_workers_is_advised(project, workers, wanted):
    """A range would be refused, too, after the run has begun."""
    order = RunOrder(
        pipeline=jobs.naps, params={"items": 2}, on="tcp://127.0.0.1:1", workers=workers, wanted=wanted
    )
    with pytest.raises(UsageError, match=r"which 'tcp://127.0.0.1:1' cannot have") as refused:
        prepare(order, project)
    assert "workers=" not in refused.value.fix
    assert "on=cluster" in refused.value.fix
    prepare(
        replace(order, run="naps-1", wanted=RunTargets(deadline=1e12)), project
    )  # resumed: see `check_kept`


def test_where_workers_can_be_started_a_range_is_advised():
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        for engine, at in (("ray", "127.0.0.1:6379"), ("dask", cluster), ("dask", None)):
            place = Place_(name="lab", engine=engine, at=at, usd_per_hour=1.0)
            with pytest.raises(UsageError, match="and 'lab' has a fixed one") as refused:
                check_wanted(RunTargets(budget_usd=1.0), place)
            assert "--workers 1-8" in refused.value.fix
            check_wanted(RunTargets(budget_usd=1.0), replace(place, workers=(1, 8)))


@pytest.mark.parametrize(("engine", "joined"), [("dask", True), ("ray", False)])
def test_on_a_ray_of_somebody_the_hosts_are_the_runs_own(engine, joined):
    place = Place_(name="lab", engine=engine, workers=(1, 4), at="127.0.0.1:6379")
    made = sized_by(place, RunTargets(), Graph(pipeline="p", nodes=(), output=None), Nothing(), SystemClock())
    assert (made.joined, made.target) == (joined, 1)


class Nothing:
    def histories(self):
        return {}


@pytest.mark.parametrize("line", ["workers = [3, 1]", 'workers = "4"', "workers = [1]", "usd_per_hour = -1"])
def test_a_place_that_makes_no_sense_is_refused(tmp_path, line):
    (tmp_path / "hooke.toml").write_text(f"[places.odd]\n{line}\n")
    with pytest.raises(ConfigError, match="places.odd"):
        Project.find(tmp_path)
