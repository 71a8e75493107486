"""Roll-outs with a trial, under a virtual clock: who gets requests, when the new version takes over, and when it goes back."""

import dataclasses

import pytest
from tests.services.supervisor.simulated_fleet import RULES, World

from hooke.journal.service_events import RollOutChanged
from hooke.services.supervisor.canary import CanaryRules
from hooke.services.supervisor.replica_events import (
    Adopted,
    Exited,
    JudgeRollOut,
    ReplicaReport,
    RollOut,
    Scale,
    StartReplica,
    SupervisionBegan,
    SupervisionTick,
)
from hooke.services.supervisor.supervision import Supervision

CANARY = CanaryRules(limit_s=120.0)
WITH_TRIALS = dataclasses.replace(RULES, canary=CANARY)


def world_of(seed=1, *, rules=WITH_TRIALS, wanted=2, failing=()):
    """A calm world whose replicas are ready, and to which a roll-out of `b` was ordered."""
    world = World(seed, calm=True, rules=rules, wanted=wanted, failing=set(failing))
    world.tell(SupervisionBegan())
    world.run(40)
    world.tell(RollOut("b", "it moved"))
    return world


def told(world):
    return [event for _, event in world.said if isinstance(event, RollOutChanged)]


def until(world, holds):
    for _ in range(4 * 300):
        if holds():
            return
        world.live()
    raise AssertionError("it never came")


@pytest.mark.needs("cpu")
def test_a_good_version_gets_its_share_and_then_everything():
    world = world_of(wanted=4)
    until(world, lambda: world.order.new)
    assert len(world.order.names) == 5 and len(world.order.new) == 1
    assert world.order.share == CANARY.share
    until(world, lambda: world.core.rolling is None)
    assert [event.status for event in told(world)] == ["began", "accepted", "done"]
    assert told(world)[1].reason.endswith(", and it is not slower")
    until(world, lambda: len(world.processes) == 4)
    assert {process.generation for process in world.processes.values()} == {"b"}
    assert (world.order.new, world.order.share) == ((), None)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_version_that_fails_always_goes_back_before_many_clients_see_it(mirror):
    rules = dataclasses.replace(RULES, canary=dataclasses.replace(CANARY, mirror=mirror, share=0.1))
    world = world_of(rules=rules, failing="b")
    until(world, lambda: world.core.rolling is None)
    assert [event.status for event in told(world)] == ["began", "back"]
    assert "requests to it failed, and 0 of " in told(world)[1].reason
    assert world.failed["b"] <= (0 if mirror else 12)
    world.run(40)
    assert {process.generation for process in world.processes.values()} == {"a"}
    world.tell(RollOut("b", "again"))
    assert world.core.rolling is None, "it was rolled back"
    world.tell(RollOut("c", "mended"))
    assert world.core.target == "c"


def test_a_version_that_went_back_gets_nothing_more_though_an_old_replica_is_missing():
    world = world_of()
    until(world, lambda: world.order.new)
    del world.processes["1"]
    world.tell(Exited(name="1", exit_code=-9))
    world.tell(JudgeRollOut(accept=False, by="me"))
    assert world.order.names == ("2",)


@pytest.mark.needs("cpu")
def test_whatever_happens_a_version_that_fails_always_is_never_served():
    for seed in range(8):
        world = World(seed, rules=WITH_TRIALS)
        world.random_life(300)
        assert world.core.generation not in world.failing, seed
        world.end()


@pytest.mark.needs("cpu")
def test_more_replicas_are_on_trial_as_the_share_grows_and_all_old_ones_stay():
    canary = CanaryRules(step_s=5.0, share=0.25, error_margin=-1.0)
    world, most = world_of(wanted=4, rules=dataclasses.replace(RULES, canary=canary)), 0
    for _ in range(4 * 60):
        world.live()
        most = max(most, len(world.order.new))
        ready = [one for one in world.core.ready() if one.generation == "a"]
        assert len(ready) == 4
    assert most == 2
    assert world.order.share == 0.5


def test_a_person_ends_the_trial():
    for accept, status in ((True, "done"), (False, "back")):
        world = world_of()
        until(world, lambda world=world: world.order.new)
        world.tell(JudgeRollOut(accept=accept, by="me"))
        until(world, lambda world=world: world.core.rolling is None)
        assert told(world)[-1].status == status
        assert told(world)[1].reason == "as ordered by me"


def test_at_zero_the_trial_waits_for_requests_and_the_old_version_answers_the_first():
    world = world_of(wanted=1)
    world.tell(Scale(0, "no call"))
    world.run(100)
    assert world.core.rolling.proven and not world.processes
    world.tell(Scale(1, "a request waits"))
    until(world, lambda: world.order.names)
    first = [world.core.members[name].generation for name in world.order.names]
    assert "a" in first
    until(world, lambda: world.core.rolling is None)
    assert told(world)[-1].status == "done"


def began(**given):
    """A supervision that takes over an old and a new replica; which generation is served, and which is on trial."""
    core = Supervision(WITH_TRIALS, generation="b", wanted=1)
    ready = ReplicaReport(state="ready")
    old, new = (Adopted(name=name, generation=name, report=ready, age_s=60.0) for name in "ab")
    actions = core.step(SupervisionBegan(adopted=(old, new), **given), 1.0)
    for second in range(2, 5):
        actions += core.step(SupervisionTick(), float(second))
    return core, actions


def test_another_supervisor_goes_on_with_the_trial_or_keeps_to_the_verdict():
    core, _ = began(serving="a")
    assert (core.generation, core.target) == ("a", "b") and core.trial is not None
    core, _ = began(serving="a", accepted=True)
    assert (core.generation, core.rolling) == ("b", None), "it has been ready for long enough"
    core, actions = began(serving="a", refused=True)
    assert (core.generation, core.rolling, core.refused) == ("a", None, "b")
    assert not [one for one in actions if isinstance(one, StartReplica)]
    assert [one.name for one in core.ready()] == ["a"]
    core, _ = began(serving="b")
    assert (core.generation, core.rolling) == ("b", None)
    core, _ = began()
    assert (core.generation, core.target) == ("a", "b") and core.trial is not None
