"""Runs on Dask whose number of workers follows the work: on a cluster of ours, and on one of somebody's."""

import time
from itertools import takewhile

import pytest
from click.testing import CliRunner
from distributed import LocalCluster
from tests.fleet import jobs

from hooke.cli.entry import hooke
from hooke.cli.screens import Session
from hooke.journal.events import (
    AttemptFinished,
    CapacityChanged,
    NodePlanned,
    RunFinished,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.fleets import FleetDecided
from hooke.project.driving import Order, prepare
from hooke.project.folder import Project
from hooke.project.running import Run
from hooke.project.sizing.asked import Wanted
from hooke.project.sizing.picture import fleet_picture

pytestmark = pytest.mark.heavy

PLACES = '[places.paid]\nengine = "dask"\nworkers = [1, 6]\nusd_per_hour = 36.0\n'


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic")
    (folder / "hooke.toml").write_text(PLACES)
    return Project.find(folder)


def drive(project, **asked):
    driver = prepare(Order(pipeline=jobs.naps, **asked), project)
    driver.drive()
    return Run(project, driver.run)


def of(kind, run):
    return [event for event in run.journal if isinstance(event, kind)]


@pytest.fixture(scope="module")
def grown(project):
    """One worker, eight, and one again. What items take is known from then on."""
    return drive(project, params={"items": 80, "seconds": 0.5}, on="dask", workers=(1, 8))


def before_the_end_of_the_last(run):
    (last,) = [event.node for event in of(NodePlanned, run) if event.task == "count"]
    return list(
        takewhile(lambda event: not (isinstance(event, AttemptFinished) and event.node == last), run.journal)
    )


def test_one_worker_becomes_eight_and_one_again(grown):
    """On however few cores there are: they sleep. Seven are given up while one works on, though their processes would live."""
    assert grown.result() == 80
    sizes = [event.after for event in of(FleetDecided, grown)]
    assert max(sizes) == 8
    assert sizes[-1] == 1
    stopped = [event for event in before_the_end_of_the_last(grown) if isinstance(event, WorkerStopped)]
    assert [event.cause for event in stopped] == ["retired"] * 7


def test_it_is_drawn_from_its_journal(project, grown):
    drawn = fleet_picture(list(grown.journal))
    assert max(drawn.ready) == max(drawn.wanted) == 8
    assert (drawn.wanted[0], drawn.wanted[-1], drawn.ready[-1]) == (1, 1, 1)
    assert max(drawn.could) == 80
    picture = project.root / "fleet.svg"
    words = ["fleet", "why", grown.id, "--save", str(picture), "--project", str(project.root)]
    said = CliRunner().invoke(hooke, words, obj=Session(), catch_exceptions=False, standalone_mode=False)
    assert f"{of(FleetDecided, grown)[0].before} -> " in said.stdout
    assert "<svg" in picture.read_text()


def test_a_deadline_buys_just_enough(project, grown):
    """One worker would take 15 s and the 3 s of what follows; eight would be there for nothing."""
    deadline = time.time() + 15.0
    run = drive(
        project,
        params={"items": 30, "seconds": 0.5, "first": 100},
        on="dask",
        workers=(1, 8),
        wanted=Wanted(deadline=deadline),
    )
    made = of(FleetDecided, run)
    assert 1 < max(event.after for event in made) < 8
    bought = next(event for event in made if event.after > 1)
    assert bought.bound == "deadline"
    assert f"of which {bought.after} need" in bought.reason
    assert f"and {bought.after - 1} would need" in bought.reason
    (ended,) = of(RunFinished, run)
    assert ended.at <= deadline or "after the deadline" in made[-1].reason


def test_a_budget_ends_the_run_before_it_is_spent(project):
    run = drive(project, params={"items": 40, "first": 200}, on="paid", wanted=Wanted(budget_usd=0.05))
    assert (run.status, run.stopped_by) == ("stopped", "the budget")
    last = of(FleetDecided, run)[-1]
    assert last.stop
    assert 0 < last.spent_usd <= 0.05
    assert 0 < len(of(AttemptFinished, run)) < 40


def cluster_of(workers, **options):
    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50} | options
    return LocalCluster(n_workers=workers, **options)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        # Workers that are threads of one process start in no time, and are workers of their own all the same.
        pytest.param({"processes": False}, 8, id="threads"),
        pytest.param({"host": "127.0.0.1"}, 3, id="processes"),
    ],
)
def test_anything_that_scales_is_scaled_and_is_left_as_small_as_it_can_be(tmp_path, options, most):
    (tmp_path / "hooke.toml").write_text("")
    with cluster_of(1, **options) as cluster:
        run = drive(
            Project.find(tmp_path), params={"items": 50, "seconds": 0.5}, on=cluster, workers=(1, most)
        )
        assert len(cluster.workers) == 1
    assert run.result() == 50
    sizes = [event.after for event in of(FleetDecided, run)]
    assert max(sizes) == most
    assert sizes[-1] == 1
    assert len({event.worker for event in of(WorkerStarted, run)}) == most
    assert len(of(WorkerStopped, run)) == most - 1


def test_a_cluster_keeps_what_it_has_until_it_is_known_not_to_be_needed(tmp_path):
    """Two workers of two threads: four items at once. Neither is taken away at the start, though one alone was allowed."""
    (tmp_path / "hooke.toml").write_text("")
    with cluster_of(2, threads_per_worker=2, host="127.0.0.1") as cluster:
        run = drive(Project.find(tmp_path), params={"items": 40, "seconds": 0.5}, on=cluster, workers=(1, 2))
    decided = of(FleetDecided, run)
    assert all(event.after == 2 for event in decided[:-1])
    assert decided[-1].after == 1
    assert (4, 2) in [(event.slots, event.workers) for event in of(CapacityChanged, run)]
