"""Workers of a Dask cluster object under a fleet's ledger."""

import threading
import time

import pytest
from distributed import Client, LocalCluster
from tests.fleets import jobs

from hooke.base.clock import SystemClock
from hooke.base.errors import UsageError
from hooke.journal.events import AttemptFailed, WorkerStarted, WorkerStopped
from hooke.machines.controller import Caps
from hooke.machines.keeper import FleetKeeper, Ledger
from hooke.machines.provider import Impossible, Unreachable
from hooke.project.folder import Project
from hooke.providers.dask_cluster import DaskCluster
from hooke.running.driver import RunOrder, prepare
from hooke.running.run import Run
from hooke.testing import check_provider

pytestmark = pytest.mark.needs("processes")


def started(workers=0):
    """Its workers are threads of this process, which start in no time; what is tried is what Dask says of them, and when."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    )


class OnlyScales:
    """A cluster as those of Kubernetes and Gateway are: it has a scheduler and takes a number."""

    def __init__(self, cluster):
        self.scheduler_address = cluster.scheduler_address
        self.scale = cluster.scale


class Clusters:
    """A cluster for each fleet, and providers of it that are closed at the end."""

    def __init__(self, of=lambda cluster: cluster):
        self.of = of
        self.started = {}
        self.made = []

    def __call__(self, tag):
        if tag not in self.started:
            self.started[tag] = started()
        self.made.append(DaskCluster(tag, self.of(self.started[tag])))
        return self.made[-1]

    def close(self):
        for each in (*self.made, *self.started.values()):
            each.close()


@pytest.fixture(params=[lambda cluster: cluster, OnlyScales], ids=["spec", "only-scales"])
def clusters(request):
    made = Clusters(request.param)
    yield made
    made.close()


@pytest.fixture
def cluster():
    with started() as made:
        yield made


@pytest.fixture
def provider(cluster):
    made = DaskCluster("pool", cluster)
    yield made
    made.close()


def wait(condition, *, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def settle(keeper):
    wait(lambda: keeper.turn() is not None and keeper.fleet.settled)


def phases(provider):
    return {machine.id: machine.phase for machine in provider.list()}


def test_it_keeps_the_suite(clusters):
    check_provider(clusters)


def test_a_fleet_grows_and_shrinks_and_adopts_what_was_there(tmp_path, provider, cluster):
    cluster.scale(1)
    cluster.wait_for_workers(1)
    with Ledger.open(tmp_path, durable="none") as ledger:
        keeper = FleetKeeper("pool", provider, ledger, caps=Caps(workers=4), clock=SystemClock())
        keeper.want(3, "the test")
        settle(keeper)
        assert sorted(machine.token != "" for machine in provider.list()) == [False, True, True]
        keeper.want(1, "the test")
        settle(keeper)
        assert len(cluster.scheduler_info["workers"]) == 1
    with Ledger.open(
        tmp_path, durable="none"
    ) as ledger:  # a later controller, which knows no more than these two
        keeper = FleetKeeper("pool", provider, ledger, caps=Caps(workers=4), clock=SystemClock())
        keeper.down("the test")
        settle(keeper)
    assert provider.list() == []
    assert cluster.plan == set()


def test_what_runs_is_finished_and_nothing_new_begins_there(provider, cluster):
    for token in ("one", "two"):
        provider.launch(token)
    wait(lambda: set(phases(provider).values()) == {"ready"})
    with Client(cluster, set_as_default=False) as client:
        runs = [client.submit(time.sleep, 2.0, key=f"runs-{n}") for n in range(2)]
        wait(lambda: [machine.idle_s for machine in provider.list()] == [None, None])
        provider.retire("one")
        assert phases(provider) == {"one": "ready", "two": "ready"}
        later = client.submit(sum, [1, 2])
        wait(lambda: provider.retire("one") or phases(provider)["one"] == "retired")
        assert later.result() == 3
        provider.release("one")
        assert phases(provider) == {"two": "ready"}
        assert [future.status for future in runs] == ["finished", "finished"]


@pytest.mark.long
def test_a_run_goes_on_while_its_workers_are_retired_and_others_come(tmp_path, provider, cluster):
    """What had not begun on a worker that is retired runs elsewhere: nothing of the run fails."""
    (tmp_path / "hooke.toml").write_text("")
    cluster.scale(2)
    cluster.wait_for_workers(2)
    with Ledger.open(tmp_path / "ledger", durable="none") as ledger:
        keeper = FleetKeeper("pool", provider, ledger, caps=Caps(workers=4), clock=SystemClock())
        order = RunOrder(pipeline=jobs.naps, params={"items": 12, "seconds": 1.0}, on=cluster)
        driver = prepare(order, Project.find(tmp_path))
        running = threading.Thread(target=driver.drive)
        running.start()
        wait(lambda: all(machine.idle_s is None for machine in provider.list()))
        for machines in (1, 3):
            keeper.want(machines, "the test")
            settle(keeper)
        running.join()
    run = Run(driver.project, driver.run)
    assert run.result() == 12
    assert sum(isinstance(event, WorkerStarted) for event in run.journal) == 4
    assert not [event for event in run.journal if isinstance(event, AttemptFailed)]
    assert [event.cause for event in run.journal if isinstance(event, WorkerStopped)] == ["retired"]


def test_a_launch_whose_worker_has_not_come_is_taken_back(provider, cluster, monkeypatch):
    monkeypatch.setattr(cluster, "scale", asked := [].append)
    provider.launch("one")
    assert phases(provider) == {"one": "starting"}
    provider.release("one")
    assert provider.list() == []
    assert asked.__self__ == [1, 0]


def test_two_fleets_do_not_share_a_cluster_and_other_things_are_none(provider, cluster):
    provider.launch("one")
    other = DaskCluster("other", cluster)
    with pytest.raises(Impossible, match="belongs to the fleet pool"):
        other.list()
    other.close()
    with pytest.raises(UsageError, match="a dict is not a Dask cluster"):
        DaskCluster("pool", {})


def test_a_cluster_that_is_gone_does_not_answer(monkeypatch):
    monkeypatch.setattr("hooke.providers.dask_cluster.ANSWER_S", 1.0)
    gone = started()
    provider = DaskCluster("pool", gone)
    assert provider.list() == []
    gone.close()
    with pytest.raises(Unreachable, match="does not answer"):
        provider.list()
