"""A gang that waits for workers of a place for which nobody starts any."""

from __future__ import annotations

import pytest

from hooke import pipeline, task
from hooke.base.errors import UsageError
from hooke.journal.events import AttemptFinished, AttemptStarted, CapacityChanged
from hooke.pipeline.trace import trace
from hooke.project.backends import BackendChoice
from hooke.running.driver import WAIT_S, GangWait


@task(gang=3)
def train(x):
    return x


@task
def small(x):
    return x


@pipeline
def both(x=1):
    return train(x), small(x)


@pipeline
def none(x=1):
    return small(x)


def capacity(slots):
    return CapacityChanged(at=0.0, slots=slots, cpus=float(slots))


ADDRESS = "tcp://head:1"


class Scalable:
    """A cluster that starts workers itself."""

    def scale(self, count):
        raise NotImplementedError


def waiting(pipe=both, workers=None, slots=2, at=ADDRESS):
    made = GangWait(trace(pipe), BackendChoice(name=ADDRESS, engine="dask", workers=workers, at=at))
    made.observe(capacity(slots))
    return made


@pytest.mark.parametrize("workers", [None, (3, 3)])
def test_it_is_refused_when_nothing_else_ran_for_long(workers):
    made = waiting(workers=workers)  # a trial of a search asks for as many as it has ranks
    made.check(0.0)
    made.check(WAIT_S - 1)
    with pytest.raises(
        UsageError, match=r"the gang 'train' has 3 ranks, but 'tcp://head:1' has room for 2(.|\n)*resume"
    ):
        made.check(WAIT_S)


def test_what_runs_and_workers_that_come_put_it_off():
    made = waiting()
    made.check(0.0)
    made.observe(AttemptStarted(at=0.0, attempt=1, node=1, lo=0, hi=1, worker="w", number=1))
    made.check(WAIT_S * 9)
    made.observe(AttemptFinished(at=0.0, attempt=1, node=1, lo=0, hi=1, worker="w", seconds=1.0, ref=None))
    made.check(WAIT_S * 10)
    made.observe(capacity(1))
    made.check(WAIT_S * 11.5)
    made.observe(capacity(3))
    made.check(WAIT_S * 20)


@pytest.mark.parametrize(("pipe", "workers"), [(none, None), (both, (1, 8))])
def test_nobody_waits_without_a_gang_or_where_workers_are_started(pipe, workers):
    made = waiting(pipe, workers, at=Scalable())
    made.check(0.0)
    made.check(WAIT_S * 2)
