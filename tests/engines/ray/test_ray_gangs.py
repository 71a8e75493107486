"""Gangs over several hosts on a Ray: a real all-reduce, and the death of a host."""

from __future__ import annotations

import psutil
import pytest
from tests.engines.dask.test_dask_gangs import REDUCE, TRAIN, most_at_once
from tests.engines.local.faults import gone
from tests.engines.local.test_local_gangs import JOB, pids_in
from tests.fixtures.workshop import Workshop

from hooke.journal.events import AttemptFailed, AttemptStarted

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(800)]


@pytest.mark.long
def test_two_gangs_of_torch_on_four_hosts_reduce_one_after_the_other(
    workshop: Workshop, address: str
) -> None:
    workshop.write(JOB + REDUCE)
    events: list = []
    run = workshop.run(on=address, workers=4, observers=[events.append])
    assert list(run.result()) == [[(total, "0", "1")] * 3 for total in (1.0 + 2 + 3, 11.0 + 12 + 13)]
    assert most_at_once(events) == 3


@pytest.mark.long
def test_a_lost_host_ends_the_gang_that_had_a_rank_there_and_it_runs_again(
    workshop: Workshop, address: str
) -> None:
    workshop.write(JOB + TRAIN)
    first: list[int] = []

    def kill_host(event):
        if isinstance(event, AttemptStarted) and not first:
            first.extend(pids_in(workshop.folder, "train", 0, 3))
            # What runs the rank, what forked that, and the actor that this belongs to.
            psutil.Process(first[1]).parent().parent().kill()

    events: list = []
    run = workshop.run(on=address, workers=4, observers=[kill_host, events.append])
    assert run.result() == [(0, 1), (1, 1), (2, 1)]
    gone(first)
    (failed,) = [event for event in events if isinstance(event, AttemptFailed)]
    assert (failed.failure.kind, failed.failure.rank, failed.failure.ranks) == ("WorkerDied", 1, 3)
