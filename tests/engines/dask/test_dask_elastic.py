"""Elastic gangs over Dask workers: they grow at a checkpoint, and go on without a lost worker."""

from collections.abc import Iterator

import pytest
from distributed import LocalCluster
from distributed.core import Status
from tests.engines.local.test_local_elastic import check_it_goes_on_without_a_lost_host, check_it_grows
from tests.fixtures.workshop import Workshop

from hooke.pipeline import node_state

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    monkeypatch.setattr(node_state, "SETTLED_S", 0.2)
    monkeypatch.setattr(node_state, "LASTS_S", 0.2)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as made:
        for nanny in made.workers.values():
            nanny.status = (
                Status.closing_gracefully
            )  # a lost worker stays away: its nanny would start it again
        yield made


@pytest.mark.long
def test_a_gang_grows_when_another_task_leaves_it_a_worker(workshop: Workshop, cluster: LocalCluster) -> None:
    check_it_grows(workshop, on=cluster.scheduler_address, workers=None)


@pytest.mark.long
def test_a_lost_worker_costs_no_retry(workshop: Workshop, cluster: LocalCluster) -> None:
    check_it_goes_on_without_a_lost_host(workshop, on=cluster.scheduler_address, workers=None)
