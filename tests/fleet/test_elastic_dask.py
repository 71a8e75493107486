"""A cluster of somebody's grows and shrinks with the work of a run."""

import pytest
from distributed import LocalCluster
from tests.fleet import jobs

from hooke.journal.events import CapacityChanged, WorkerStopped
from hooke.journal.fleets import FleetDecided
from hooke.project.driving import Order, prepare
from hooke.project.folder import Project
from hooke.project.running import Run

pytestmark = pytest.mark.heavy


def test_anything_that_scales_is_scaled_and_is_left_as_small_as_it_can_be(tmp_path):
    (tmp_path / "hooke.toml").write_text("")
    project = Project.find(tmp_path)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:
        order = Order(pipeline=jobs.naps, params={"items": 60, "seconds": 0.5}, on=cluster, workers=(1, 3))
        driver = prepare(order, project)
        assert driver.drive() == "finished"
        assert len(cluster.workers) <= 3
    run = Run(project, driver.run)
    assert run.result() == 60
    sizes = [event.after for event in run.journal if isinstance(event, FleetDecided)]
    assert max(sizes) == 3
    assert sizes[-1] == 1
    assert sum(isinstance(event, WorkerStopped) for event in run.journal) >= 2


def test_a_cluster_keeps_what_it_has_until_it_is_known_not_to_be_needed(tmp_path):
    """Two workers of two threads: four items at once. Neither is taken away at the start, though one alone was allowed."""
    (tmp_path / "hooke.toml").write_text("")
    project = Project.find(tmp_path)
    with LocalCluster(
        n_workers=2, threads_per_worker=2, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:
        order = Order(pipeline=jobs.naps, params={"items": 40, "seconds": 0.5}, on=cluster, workers=(1, 2))
        driver = prepare(order, project)
        assert driver.drive() == "finished"
    run = Run(project, driver.run)
    decided = [event for event in run.journal if isinstance(event, FleetDecided)]
    assert all(event.after == 2 for event in decided[:-1])
    assert decided[-1].after == 1
    places = [(event.slots, event.workers) for event in run.journal if isinstance(event, CapacityChanged)]
    assert (4, 2) in places
