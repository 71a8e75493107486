"""Runs on Dask whose number of workers follows the work, and the law that they tell: on a cluster of ours, and on one of somebody's."""

import os
import socket
import time
from dataclasses import dataclass
from itertools import takewhile

import pytest
from click.testing import CliRunner
from distributed import LocalCluster
from tests.engines.local.faults import wait_until
from tests.fleets import jobs, seats

from hooke.cli.entry import hooke
from hooke.cli.screens import CommandSession
from hooke.fleets.elastic import RunTargets
from hooke.fleets.fleet_picture import fleet_picture
from hooke.journal.events import (
    AttemptFinished,
    CapacityChanged,
    Measured,
    NodePlanned,
    RunFinished,
    StudyStarted,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.fleet_events import FleetDecided
from hooke.journal.run_folders import DRIVER
from hooke.journal.study_records import STUDY_PREFIX
from hooke.journal.writer import Journal
from hooke.measuring.studies import take_study
from hooke.measuring.study_driver import StudyOrder, prepare_study
from hooke.planning.curves import curve_of
from hooke.project.folder import Project
from hooke.project.pipeline_file import entry_of
from hooke.running.driver import RunOrder, prepare
from hooke.running.run import Run

pytestmark = pytest.mark.needs("processes")

PLACES = '[places.paid]\nengine = "dask"\nworkers = [1, 6]\nusd_per_hour = 36.0\n'
SEATS = 5


@dataclass
class Stand:
    """A project, and a pipeline of items that sleep on five seats; each run has items of its own, as they are cached."""

    project: Project
    seats: str
    items: int = 0

    def drive(self, items, **asked):
        first, self.items = self.items, self.items + items
        params = {"first": first, "last": self.items, "seats": self.seats}
        return drive(self.project, pipeline=seats.naps, params=params, **asked)


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic")
    (folder / "hooke.toml").write_text(PLACES)
    os.mkfifo(folder / "seats")
    fifo = os.open(folder / "seats", os.O_RDWR)
    os.write(fifo, b"." * SEATS)
    yield Stand(project=Project.find(folder), seats=str(folder / "seats"))
    os.close(fifo)


def drive(project, **asked):
    driver = prepare(RunOrder(**asked), project)
    driver.drive()
    return Run(project, driver.run)


def of(kind, run):
    return [event for event in run.journal if isinstance(event, kind)]


def sizes(run):
    return [event.after for event in of(FleetDecided, run)]


@pytest.fixture(scope="module")
def grown(stand):
    """One worker, eight, and one again. What items take is known from then on."""
    return stand.drive(160, on="dask", workers=(1, 8))


def before_the_end_of_the_last(run):
    (last,) = [event.node for event in of(NodePlanned, run) if event.task == "count"]
    return list(
        takewhile(lambda event: not (isinstance(event, AttemptFinished) and event.node == last), run.journal)
    )


@pytest.mark.long
def test_one_worker_becomes_eight_and_one_again_and_is_drawn(stand, grown):
    """On however few cores there are: they sleep. Seven are given up while one works on, though their processes would live."""
    assert grown.result() == 160
    assert max(sizes(grown)) == 8
    assert sizes(grown)[-1] == 1
    stopped = [event for event in before_the_end_of_the_last(grown) if isinstance(event, WorkerStopped)]
    assert [event.cause for event in stopped] == ["retired"] * 7
    drawn = fleet_picture(list(grown.journal))
    assert max(drawn.ready) == max(drawn.wanted) == 8
    assert (drawn.wanted[0], drawn.wanted[-1], drawn.ready[-1]) == (1, 1, 1)
    assert max(drawn.could) == 160
    root = stand.project.root
    words = ["fleet", "why", grown.id, "--save", str(root / "fleet.svg"), "--project", str(root)]
    said = CliRunner().invoke(
        hooke, words, obj=CommandSession(), catch_exceptions=False, standalone_mode=False
    )
    assert f"{of(FleetDecided, grown)[0].before} -> " in said.stdout
    assert "<svg" in (root / "fleet.svg").read_text()


@pytest.fixture(scope="module")
def in_time(stand, grown):
    """One worker would take 25 s and the 3 s of what follows; eight would be there for nothing."""
    return stand.drive(100, on="dask", workers=(1, 8), wanted=RunTargets(deadline=time.time() + 24.0))


@pytest.mark.long
def test_a_deadline_buys_just_enough(in_time):
    made = of(FleetDecided, in_time)
    bought = next(event for event in made if event.after > 1)
    assert bought.after < 8  # later, on a busy machine that falls behind, it may need all of them
    assert bought.bound == "deadline"
    assert f"of which {bought.after} need" in bought.reason
    assert f"and {bought.after - 1} would need" in bought.reason
    (ended,) = of(RunFinished, in_time)
    assert ended.status == "finished"


@pytest.mark.long
def test_a_budget_ends_the_run_before_it_is_spent(stand):
    # 20 s of one worker, of which its start takes some; five seats alone would take 25.
    run = stand.drive(500, on="paid", wanted=RunTargets(budget_usd=0.2))
    assert (run.status, run.stopped_by) == ("stopped", "the budget")
    last = of(FleetDecided, run)[-1]
    assert last.stop
    assert 0 < last.spent_usd <= 0.2
    assert 0 < len(of(AttemptFinished, run)) < 500


@pytest.fixture(scope="module")
def by_the_way(stand, grown, in_time):
    """The law of what elastic runs measured by the way: by one worker and eight, by what a deadline needs, and by four."""
    run = stand.drive(60, on="dask", workers=(1, 4))
    return curve_of(stand.project.runs, run.id, "nap").law


@pytest.mark.long
def test_its_law_is_that_of_a_measurement_on_purpose(stand, by_the_way):
    params = {"first": 0, "last": 20, "seats": stand.seats}
    order = StudyOrder(
        pipeline=seats.naps, params=params, task="nap", workers=[1, 2, 4], repeats=2, on="dask"
    )
    law = take_study(prepare_study(order, stand.project)).law
    shared = {*by_the_way.measurements.levels} & {*law.measurements.levels}
    assert {1, 4} <= shared
    # Which rows an elastic run has is shown exactly in tests/journal/test_throughput.py. Here the times are those of this
    # machine, at two times: a size taken for another one would be off by more.
    for n in shared:
        assert by_the_way.predict(n).value == pytest.approx(law.predict(n).value, rel=0.5)


def plant(project, *, knee):
    """A study as its journal would be, by which `nap` gains nothing from more than `knee` workers."""
    name = f"{STUDY_PREFIX}naps-planted"
    started = StudyStarted(
        study=name,
        pipeline="naps",
        entry=str(entry_of(seats.naps)),
        task="nap",
        place="dask",
        levels=(1, 2, 4, 8),
        repeats=2,
        host=socket.gethostname(),
    )
    with Journal.create(project.runs.create(name), DRIVER, durable="none") as journal:
        journal.append(started)
        for repeat, noise in enumerate((0.99, 1.01)):
            for n in started.levels:
                seconds = 40 * noise * 0.25 / min(n, knee)
                journal.append(Measured(task="nap", n=n, work=40, seconds=seconds, repeat=repeat))
        journal.append(RunFinished(status="finished"))


@pytest.mark.long
def test_it_stops_at_a_planted_knee_and_says_why(stand, tmp_path):
    (tmp_path / "hooke.toml").write_text("")
    elsewhere = Stand(project=Project.find(tmp_path), seats=stand.seats)
    plant(elsewhere.project, knee=SEATS)
    run = elsewhere.drive(100, on="dask", workers=(1, 8))
    assert max(sizes(run)) == SEATS
    more = [event for event in of(FleetDecided, run) if event.after == SEATS]
    assert {event.bound for event in more} == {"knee"}
    assert "nap gains nothing from more than 5 at once: its knee is at 4." in more[0].reason


def cluster_of(workers, **options):
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50} | options
    return LocalCluster(n_workers=workers, **options)


@pytest.mark.long
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
        params = {"items": 50, "seconds": 0.5}
        run = drive(Project.find(tmp_path), pipeline=jobs.naps, params=params, on=cluster, workers=(1, most))
        wait_until(
            lambda: len(cluster.workers) == 1
        )  # Dask counts a worker until its process or thread has ended
    assert run.result() == 50
    assert max(sizes(run)) == most
    assert sizes(run)[-1] == 1
    assert len({event.worker for event in of(WorkerStarted, run)}) == most
    assert len(of(WorkerStopped, run)) == most - 1


@pytest.mark.long
def test_a_cluster_keeps_what_it_has_until_it_is_known_not_to_be_needed(tmp_path):
    """Two workers of two threads: four items at once. Neither is taken away at the start, though one alone was allowed."""
    (tmp_path / "hooke.toml").write_text("")
    with cluster_of(2, threads_per_worker=2, host="127.0.0.1") as cluster:
        params = {"items": 40, "seconds": 0.5}
        run = drive(Project.find(tmp_path), pipeline=jobs.naps, params=params, on=cluster, workers=(1, 2))
    decided = of(FleetDecided, run)
    assert all(event.after == 2 for event in decided[:-1])
    assert decided[-1].after == 1
    assert (4, 2) in [(event.slots, event.workers) for event in of(CapacityChanged, run)]
