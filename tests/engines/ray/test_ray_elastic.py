"""Elastic gangs over hosts on a Ray: they grow at a checkpoint, and go on without a lost host."""

import pytest
from tests.engines.local.test_local_elastic import check_it_goes_on_without_a_lost_host, check_it_grows
from tests.fixtures.workshop import Workshop

from hooke.pipeline import node_state

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(800)]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_state, "SETTLED_S", 0.2)
    monkeypatch.setattr(node_state, "LASTS_S", 0.2)


@pytest.mark.long
def test_a_gang_grows_when_another_task_leaves_it_a_host(workshop: Workshop, address: str) -> None:
    check_it_grows(workshop, on=address, workers=2)


@pytest.mark.long
def test_a_lost_host_costs_no_retry(workshop: Workshop, address: str) -> None:
    check_it_goes_on_without_a_lost_host(workshop, on=address, workers=2)
