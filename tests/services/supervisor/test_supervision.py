"""The supervision on simulated histories: each seed is one, and a failure names it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.services.supervisor.simulated_fleet import RULES, World

from hooke.journal.service_events import (
    ReplicaEnded,
    ReplicaLeft,
    RollOutChanged,
    ServiceScaled,
    StartDelayed,
)
from hooke.processes.lease import Backoff, Lease
from hooke.services.supervisor.replica_events import (
    Adopted,
    Announce,
    DrainService,
    Exited,
    GiveUp,
    KillReplica,
    ProxyDrained,
    Publish,
    Published,
    RecordEvent,
    Replace,
    ReplicaPhase,
    ReplicaReport,
    Reported,
    RollOut,
    Rules,
    Scale,
    StartReplica,
    SupervisionBegan,
    SupervisionTick,
    Terminate,
)
from hooke.services.supervisor.supervision import Supervision


def histories(test):
    return settings(max_examples=8, deadline=None)(given(seed=st.integers(0, 2**32))(test))


def told(world, kind):
    return [event for _, event in world.said if isinstance(event, kind)]


@pytest.mark.needs("cpu")
@histories
def test_whatever_happens_it_comes_to_rest_with_as_many_as_are_wanted(seed):
    """The world checks at each step: no voluntary loss, the order of leaving, SIGKILL last."""
    world = World(seed, rules=replace(RULES, idempotent=bool(seed % 2), ready_s=6.0))
    world.random_life(100)
    if world.given_up:
        return
    world.calm = True
    for process in world.processes.values():
        process.dies_at = process.hangs_at = process.away_at = float("inf")
        process.grows, process.deaf = False, False
    world.run(300)
    serving = [member for member in world.core.members.values() if member.serves]
    assert len(serving) == world.core.wanted
    assert len(world.processes) == world.core.wanted
    assert {member.generation for member in serving} == {world.core.generation}
    assert world.core.rolling is None
    assert world.published == tuple(sorted((member.name for member in serving), key=int))
    world.end()
    assert not world.processes
    assert not world.published


@pytest.mark.parametrize("seed", [80589, 4074988138, 2607667837, 546941094])
def test_the_front_is_late_to_say_that_it_sends_to_a_replica_which_is_to_leave_by_then(seed):
    """What it says first is what it was told before that, and names the same as it is told last."""
    World(seed, rules=replace(RULES, idempotent=bool(seed % 2), ready_s=6.0)).random_life(100)


@pytest.mark.needs("cpu")
@histories
def test_where_nothing_fails_nothing_is_said_to_and_ready_replicas_never_become_fewer(seed):
    world = World(seed, calm=True)
    world.random_life(100)
    world.end()
    assert all(event.expected for event in told(world, ReplicaEnded) if event.generation not in world.bad)
    assert all(event.generation in world.bad for event in told(world, StartDelayed))


@given(st.integers(1, 40))
def test_a_backoff_doubles_up_to_its_cap_and_forgets(failures):
    backoff = Backoff(first_s=0.5, cap_s=60.0)
    waits = [backoff.failed(float(number)) for number in range(failures)]
    assert waits == [min(60.0, 0.5 * 2**number) for number in range(failures)]
    backoff.succeeded(-1.0)  # one that was ready before them all
    assert backoff.failures == failures
    backoff.succeeded(failures + 1.0)
    assert backoff.failed(0.0) == 0.5


@given(st.lists(st.floats(0, 20), max_size=20), st.floats(0, 100))
def test_a_lease_expires_when_nobody_renewed_it_for_its_time(pauses, then):
    lease = Lease(seconds=30.0, renewed=0.0)
    now = 0.0
    for pause in pauses:
        now += pause
        assert not lease.expired(now)
        lease.renew(now)
    assert lease.expired(now + then) == (then >= 30.0)
    assert lease.renew_every_s == 10.0


def ready(world, seconds=10.0):
    world.tell(SupervisionBegan())
    world.run(int(seconds * 4))


def test_one_whose_setup_fails_counts_as_failed_also_where_it_has_told_that_it_drains():
    core = Supervision(RULES, generation="a", wanted=1)
    actions, now = core.step(SupervisionBegan(), 0.0), 0.0
    for number in range(1, RULES.tries + 1):
        assert [action.name for action in actions if isinstance(action, StartReplica)] == [str(number)]
        assert not any(
            isinstance(each, StartReplica)
            for each in core.step(Reported(str(number), ReplicaReport(state="draining")), now)
        )
        actions = core.step(Exited(name=str(number), exit_code=1), now)
        if number < RULES.tries:
            assert not any(isinstance(action, StartReplica) for action in actions)
            now += 60.0
            actions = core.step(SupervisionTick(), now)
    assert any(isinstance(action, GiveUp) for action in actions)


def test_starts_that_fail_back_off_also_while_another_replica_is_healthy():
    core = Supervision(RULES, generation="a", wanted=2)
    core.step(SupervisionBegan(), 0.0)
    core.step(Reported("1", ReplicaReport(state="ready")), 1.0)
    now, starts = 60.0, []
    for name in "2345":
        assert name in core.members
        core.step(Reported("1", ReplicaReport(state="ready")), now)
        core.step(Exited(name=name, exit_code=1), now)
        waited = 0.0
        while str(int(name) + 1) not in core.members:
            waited += 0.25
            core.step(Reported("1", ReplicaReport(state="ready")), now + waited)
            core.step(SupervisionTick(), now + waited)
        starts.append(waited)
        now += waited
    assert starts == [0.5, 1.0, 2.0, 4.0]


def test_a_roll_out_goes_back_also_where_the_new_ones_tell_that_they_drain():
    core = Supervision(RULES, generation="a", wanted=1)
    core.step(SupervisionBegan(), 0.0)
    core.step(Reported("1", ReplicaReport(state="ready")), 1.0)
    core.step(RollOut("b", "it moved"), 2.0)
    for name, now in (("2", 3.0), ("3", 5.0)):
        assert name in core.members
        core.step(Reported(name, ReplicaReport(state="draining")), now)
        core.step(Exited(name=name, exit_code=1), now)
        core.step(Reported("1", ReplicaReport(state="ready")), now + 1.0)
    assert core.refused == "b"
    assert list(core.members) == ["1"]


def test_a_successor_is_ready_before_one_over_its_memory_leaves():
    world = World(1, calm=True)
    ready(world)
    world.processes["1"].grows, world.processes["1"].born = True, world.now - 20
    world.run(40)
    left = next(event for event in told(world, ReplicaLeft) if event.replica == "1")
    assert "its memory is" in left.reason
    at = next(at for at, event in world.said if event is left)
    third = next((at, start) for at, start in world.starts if start.name == "3")
    assert third[0] < at
    assert "in place of replica 1" in third[1].reason
    assert next(event for event in told(world, ReplicaEnded) if event.replica == "1").expected
    assert world.published == ("2", "3")


def test_one_that_is_to_be_replaced_leaves_after_its_successor_came():
    world = World(1, calm=True)
    ready(world)
    world.tell(Replace("2", "asked for"))
    assert world.published == ("1", "2")
    world.run(60)
    assert world.published == ("1", "3")
    assert told(world, ReplicaLeft)[0].reason == "asked for"


def test_one_that_hangs_leaves_at_once_and_says_why():
    world = World(1, calm=True)
    ready(world)
    world.processes["2"].hangs_at = world.now
    world.processes["2"].in_flight = 1
    world.run(60)
    left = next(event for event in told(world, ReplicaLeft) if event.replica == "2")
    assert left.reason == "its model is busy with one batch for 10 s"
    assert world.published == ("1", "3")


def test_one_that_is_silent_is_ended_although_its_process_lives():
    world = World(1, calm=True)
    ready(world)
    process = world.processes["1"]
    process.hangs_at, process.deaf = world.now, True
    world.run(120)
    ended = next(event for event in told(world, ReplicaEnded) if event.replica == "1")
    assert "it sent no report for" in ended.cause
    assert "SIGKILL" in ended.cause
    assert not ended.expected


def running(count, **rules):
    """A supervision of so many replicas that are ready at 1.0, to all of which the front sends."""
    core = Supervision(replace(RULES, **rules), generation="a", wanted=count)
    core.step(SupervisionBegan(), 0.0)
    for number in range(1, count + 1):
        for action in core.step(Reported(str(number), ReplicaReport(state="ready")), 1.0):
            if isinstance(action, Publish):
                core.step(Published(action.names), 1.0)
    core.step(SupervisionTick(), 1.0)
    return core


def test_one_that_gives_no_sign_gets_nothing_new_until_it_does():
    core = running(2)
    core.step(Reported("2", ReplicaReport(state="ready", in_flight=3)), 3.5)
    actions = core.step(SupervisionTick(), 3.5)
    assert actions[0] == Publish(("2",))
    assert actions[1:] == [
        Announce("replica 1 has not responded for 2.50 s: others get new requests until it does")
    ]
    core.step(Published(("2",)), 3.6)
    assert core.members["1"].serves, "nobody takes its place yet"
    assert core.step(Reported("1", ReplicaReport(state="ready")), 4.0) == [Publish(("1", "2"))]


def test_where_nobody_gives_a_sign_all_get_what_is_new():
    core = running(2)
    assert core.step(SupervisionTick(), 5.0) == []


def test_one_that_leaves_while_it_gets_nothing_new_need_not_be_taken_from_the_front_again():
    core = running(2)
    core.step(Reported("1", ReplicaReport(state="ready")), 3.5)
    core.step(SupervisionTick(), 3.5)
    core.step(Published(("1",)), 3.6)
    core.step(Scale(1, "less"), 3.7)
    done = []
    for now in (4.0, 5.0):
        for event in (
            Reported("1", ReplicaReport(state="ready")),
            Reported("2", ReplicaReport(state="ready")),
            SupervisionTick(),
        ):
            done += core.step(event, now)
    assert Terminate("2") in done


def test_one_that_hangs_is_killed_at_once_where_others_may_answer_what_it_has():
    core = running(2, idempotent=True)
    core.step(Reported("2", ReplicaReport(state="ready")), 7.5)
    actions = core.step(SupervisionTick(), 7.5)
    assert KillReplica("1") in actions
    assert [type(action) for action in actions if isinstance(action, StartReplica)] == [StartReplica]
    ended = core.step(Exited(name="1", exit_code=-9), 7.6)
    assert "it sent no report for 6 s; it was killed by SIGKILL (9)" in next(
        action.event.cause for action in ended if isinstance(action, RecordEvent)
    )


@pytest.mark.parametrize(
    ("timeout_s", "idempotent", "killed_s"),
    [(60.0, True, 10.0), (12.0, True, 6.0), (5.0, True, 3.0), (0.5, True, 3.0), (5.0, False, 10.0)],
)
def test_one_that_hangs_ends_early_enough_for_others_to_answer_in_time(timeout_s, idempotent, killed_s):
    """Its requests get half of the timeout from others, though a pause of the machine ends none."""
    rules = Rules(timeout_s=timeout_s, idempotent=idempotent)
    core = Supervision(rules, generation="a", wanted=2)
    core.step(SupervisionBegan(), 0.0)
    for name in ("1", "2"):
        core.step(Reported(name, ReplicaReport(state="ready")), 1.0)
    ended, kind = [], KillReplica("1") if idempotent else Terminate("1")
    for step in range(1, 60):
        now = 1.0 + step * 0.2
        core.step(Reported("2", ReplicaReport(state="ready")), now)
        if kind in core.step(SupervisionTick(), now):
            ended.append(now - 1.0)
    assert ended == [pytest.approx(killed_s + 0.2, abs=0.21)]


@pytest.mark.parametrize("what", ["alone", "all are silent"])
def test_one_that_hangs_where_no_other_can_answer_has_its_whole_time(what):
    count = 1 if what == "alone" else 3
    core = Supervision(Rules(timeout_s=5.0, idempotent=True), generation="a", wanted=count)
    core.step(SupervisionBegan(), 0.0)
    for name in map(str, range(1, count + 1)):
        core.step(Reported(name, ReplicaReport(state="ready")), 1.0)
    killed = [now for now in range(2, 13) if KillReplica("1") in core.step(SupervisionTick(), float(now))]
    assert killed == [12]


def test_a_supervisor_that_was_stopped_does_not_blame_replicas_for_it():
    """As Ctrl-Z and fg do: the replicas have told much meanwhile, which is read one after the other."""
    core = running(3, idempotent=True)
    for name in ("1", "2", "3"):
        assert core.step(Reported(name, ReplicaReport(state="ready")), 60.0) == []
    # It was stopped again, between what it heard and what it makes of it.
    assert core.step(SupervisionTick(listened=60.0), 120.0) == []
    assert core.step(SupervisionTick(listened=120.0), 120.0) != []


def test_a_loop_that_does_not_turn_is_a_hang():
    core = Supervision(RULES, generation="a", wanted=1)
    core.step(SupervisionBegan(), 0.0)
    core.step(Reported("1", ReplicaReport(state="ready")), 1.0)
    actions = core.step(Reported("1", ReplicaReport(state="ready", loop_late_s=7.0)), 2.0)
    assert Publish(()) == actions[0]
    assert Terminate("1") in actions


def test_a_service_that_never_was_ready_is_given_up_with_the_last_words():
    core = Supervision(RULES, generation="a", wanted=1)
    started = [action for action in core.step(SupervisionBegan(), 0.0) if isinstance(action, StartReplica)]
    now, waited = 0.0, []
    while True:
        actions = core.step(Exited(name=started[-1].name, exit_code=1, log_tail=("no weights",)), now)
        if given := [action for action in actions if isinstance(action, GiveUp)]:
            break
        began = now
        while not (new := [action for action in actions if isinstance(action, StartReplica)]):
            now += 0.1
            actions = core.step(SupervisionTick(), now)
        started += new
        waited.append(round(now - began, 1))
    assert waited == [0.5, 1.0]
    assert given[0].log_tail == ("no weights",)
    assert "exit code 1" in given[0].cause


def test_a_healthy_one_that_is_killed_is_replaced_at_once():
    world = World(1, calm=True)
    ready(world)
    del world.processes["1"]
    actions = world.tell(Exited(name="1", exit_code=-9))
    assert actions[0] == Publish(("2",)), "the front hears of it at once"
    assert [action.reason for action in actions if isinstance(action, StartReplica)] == [
        "in place of replica 1"
    ]
    ended = told(world, ReplicaEnded)[0]
    assert "SIGKILL" in ended.cause


def test_a_roll_out_keeps_the_old_until_the_new_have_been_ready_for_a_while():
    world = World(1, calm=True)
    ready(world)
    world.tell(RollOut("b", "flights@champion is flights:4"))
    while world.core.rolling is not None:
        old = [member for member in world.core.ready() if member.generation == "a"]
        assert len(old) == 2
        world.live()
    world.run(60)
    assert {process.generation for process in world.processes.values()} == {"b"}
    assert [event.status for event in told(world, RollOutChanged)] == ["began", "done"]


def test_a_roll_out_goes_back_when_the_new_ones_die_and_is_not_tried_again():
    world = World(1, calm=True, bad={"b"})
    ready(world)
    world.tell(RollOut("b", "new"))
    world.run(60)
    assert [event.status for event in told(world, RollOutChanged)] == ["began", "back"]
    assert "2 of its replicas failed" in told(world, RollOutChanged)[1].reason
    assert world.published == ("1", "2")
    world.tell(RollOut("b", "again"))
    assert world.core.rolling is None


def test_a_roll_out_goes_back_when_the_new_ones_are_not_ready_in_time():
    world = World(1, calm=True)
    ready(world)
    world.tell(RollOut("b", "new"))
    for process in world.processes.values():
        if process.generation == "b":
            process.ready_at = float("inf")
    world.run(4 * 35)
    back = told(world, RollOutChanged)[-1]
    assert back.status == "back"
    assert "not ready within 30 s" in back.reason
    assert world.published == ("1", "2")


def test_scaling_says_its_reason_and_the_newest_leave():
    world = World(1, calm=True)
    ready(world)
    world.tell(Scale(4, "more asked"))
    world.run(40)
    assert world.published == ("1", "2", "3", "4")
    world.tell(Scale(1, "less asked"))
    world.run(60)
    assert world.published == ("1",)
    assert [(event.before, event.after) for event in told(world, ServiceScaled)] == [(2, 4), (4, 1)]


def test_what_runs_already_is_adopted_and_counted():
    core = Supervision(RULES, generation="a", wanted=2)
    adopted = tuple(
        Adopted(name=str(number), generation="a", report=ReplicaReport(state="ready"), age_s=60.0)
        for number in (4, 7)
    )
    actions = core.step(SupervisionBegan(adopted=adopted), 0.0)
    assert actions[0] == Publish(("4", "7"))
    assert not [action for action in actions if isinstance(action, StartReplica)]
    assert not [action for action in actions if isinstance(action, RecordEvent)], "it was ready before"
    told = [action.event for action in core.step(Exited(name="4"), 1.0) if isinstance(action, RecordEvent)]
    assert told[0].seconds == 61.0
    assert "8" in core.members, "and it is replaced at once, as it had been healthy"


def test_adopted_ones_of_another_generation_serve_until_the_new_ones_do():
    core = Supervision(RULES, generation="b", wanted=1)
    old = Adopted(name="1", generation="a", report=ReplicaReport(state="ready"))
    actions = core.step(SupervisionBegan(adopted=(old,)), 0.0)
    assert [action.generation for action in actions if isinstance(action, StartReplica)] == ["b"]
    core.step(Reported("2", ReplicaReport(state="ready")), 1.0)
    core.step(Reported("1", ReplicaReport(state="ready")), 6.0)
    core.step(Reported("2", ReplicaReport(state="ready")), 6.0)
    assert core.generation == "b"
    assert core.members["1"].phase is ReplicaPhase.LEAVING


def test_cutting_kills_all_and_ends():
    world = World(1, calm=True)
    ready(world)
    world.cut()
    world.run(2)
    assert world.done


@pytest.mark.parametrize("exit_code", [0, -15])
def test_one_that_was_asked_to_end_and_did_is_no_failure(exit_code):
    core = Supervision(RULES, generation="a", wanted=1)
    core.step(SupervisionBegan(), 0.0)
    core.step(Scale(0, "none"), 1.0)
    actions = core.step(Exited(name="1", exit_code=exit_code), 2.0)
    assert [action.event.expected for action in actions if hasattr(action, "event")] == [True]


def test_one_whose_model_is_away_gets_nothing_new_unless_there_is_no_other():
    core = running(2)
    assert Publish(("2",)) in core.step(Reported("1", ReplicaReport(state="restarting")), 1.2)
    assert Publish(("1", "2")) in core.step(Reported("2", ReplicaReport(state="restarting")), 1.4)
    assert Publish(("1",)) in core.step(Reported("1", ReplicaReport(state="ready")), 1.6)
    assert Publish(("1", "2")) in core.step(Reported("2", ReplicaReport(state="ready")), 1.8)
    assert len(core.ready()) == 2


def test_one_whose_model_is_not_set_up_anew_in_time_is_replaced():
    core = running(2)
    for now in range(2, 33):
        for name, state in (("1", "restarting"), ("2", "ready")):
            assert not any(
                isinstance(each, StartReplica | Terminate)
                for each in core.step(Reported(name, ReplicaReport(state=state)), float(now))
            )
        core.step(SupervisionTick(), float(now))
    actions = core.step(SupervisionTick(), 32.5)
    assert Terminate("1") in actions
    assert [each.reason for each in actions if isinstance(each, StartReplica)] == ["in place of replica 1"]
    (ended,) = [
        each.event for each in core.step(Exited(name="1", exit_code=0), 33.0) if isinstance(each, RecordEvent)
    ]
    assert (ended.kind, ended.expected) == ("not ready", False)
    assert ended.cause.startswith("its model ended, and was not set up again within 30 s")


def test_of_those_that_are_not_wanted_the_one_whose_model_is_away_leaves_first():
    core = running(3)
    core.step(Reported("1", ReplicaReport(state="restarting")), 1.2)
    core.step(Scale(2, "less load"), 1.4)
    assert {name: member.phase for name, member in core.members.items()} == {
        "1": ReplicaPhase.LEAVING,
        "2": ReplicaPhase.READY,
        "3": ReplicaPhase.READY,
    }


def test_models_that_die_are_deaths_of_a_roll_out_though_the_replicas_live():
    core = running(1)
    core.step(RollOut("b", "new"), 2.0)
    states = ["ready", "restarting", "ready", "restarting"]
    said = [
        each.event
        for at, state in enumerate(states, 3)
        for each in core.step(Reported("2", ReplicaReport(state=state)), float(at))
        if isinstance(each, RecordEvent) and isinstance(each.event, RollOutChanged)
    ]
    assert [event.status for event in said] == ["back"]
    assert "the process of its model ended" in said[0].reason


def test_a_roll_out_is_not_done_while_a_new_model_is_away():
    core = running(1)
    core.step(RollOut("b", "new"), 2.0)
    core.step(Reported("2", ReplicaReport(state="ready")), 3.0)
    core.step(Reported("2", ReplicaReport(state="restarting")), 6.9)
    core.step(Reported("1", ReplicaReport(state="ready")), 7.5)
    assert core.rolling is not None
    core.step(Reported("2", ReplicaReport(state="ready")), 8.0)
    assert core.generation == "b"


def test_a_new_generation_is_proved_where_no_replica_is_wanted_and_its_replica_leaves_then():
    core = Supervision(RULES, generation="a", wanted=0)
    assert not core.step(SupervisionBegan(), 0.0)[1:], "no replica is published, and none started"
    (start,) = [each for each in core.step(RollOut("b", "moved"), 1.0) if isinstance(each, StartReplica)]
    assert start.generation == "b"
    core.step(Reported(start.name, ReplicaReport(state="ready")), 2.0)
    assert core.generation == "a"
    core.step(Reported(start.name, ReplicaReport(state="ready")), 2.0 + RULES.healthy_s)
    assert (core.generation, core.rolling, core.needed) == ("b", None, 0)
    assert core.members[start.name].phase is ReplicaPhase.LEAVING


def test_one_that_fails_is_rolled_back_where_no_replica_is_wanted():
    core = Supervision(RULES, generation="a", wanted=0)
    core.step(SupervisionBegan(), 0.0)
    core.step(RollOut("b", "moved"), 1.0)
    for number in range(1, RULES.roll_out_tries + 1):
        core.step(Exited(name=str(number), exit_code=1), 60.0 * number)
        core.step(SupervisionTick(), 60.0 * number + 30.0)
    assert (core.generation, core.refused, core.rolling) == ("a", "b", None)
    assert not core.members


def test_while_it_drains_a_start_goes_on_for_requests_that_wait_and_ends_if_none_do():
    core = Supervision(RULES, generation="a", wanted=1)
    core.step(SupervisionBegan(), 0.0)
    assert not any(isinstance(each, Terminate) for each in core.step(DrainService("the end"), 1.0))
    assert [each for each in core.step(ProxyDrained(), 2.0) if isinstance(each, Terminate)] == [
        Terminate("1")
    ]
