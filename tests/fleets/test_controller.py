"""The controller step by step, and its ledger on a real disk."""

import threading
from dataclasses import replace

import pytest

from hooke.base.errors import JournalError
from hooke.journal.fleet_events import (
    FleetWanted,
    LaunchAnswered,
    LaunchFailed,
    LaunchIntended,
    MachineGone,
    MachineRetired,
    ProviderAnswered,
    ProviderFailed,
)
from hooke.machines.controller import (
    Caps,
    Down,
    FleetState,
    FleetTick,
    Frozen,
    Launch,
    LaunchRefused,
    LaunchReply,
    LedgerNote,
    LookFailed,
    MachinePhase,
    ProviderListing,
    Release,
    Retire,
    SetSize,
    Unsure,
    restored,
    step,
)
from hooke.machines.keeper import FleetKeeper, Ledger, cost_usd, records_of
from hooke.machines.provider import Machine, ProviderFacts

CAPS = Caps(workers=4, dead_looks=3, dead_s=60.0)
FACTS = ProviderFacts(name="fake", usd_per_hour=2.0, visible_s=10.0)


def after(*events, fleet=None, caps=CAPS, every_s=1.0, start=1000.0):
    """The fleet and the last step's actions, after events that come a second apart."""
    fleet, actions = fleet or FleetState(name="f"), []
    for count, event in enumerate(events):
        made = event(fleet) if callable(event) else event
        fleet, actions = step(fleet, made, start + every_s * count, caps=caps, facts=FACTS)
    return fleet, actions


def answered(number):
    """The answer to the launch of that number, whatever its token is."""
    return lambda fleet: LaunchReply(list(fleet.members)[number], f"m{number}")


def machines(count, **facts):
    return ProviderListing(tuple(Machine(id=f"m{number}", **facts) for number in range(count)))


def ready(count):
    return after(
        ProviderListing(()), SetSize(count, "me"), *(answered(n) for n in range(count)), machines(count)
    )


def test_nothing_is_launched_before_the_provider_was_seen():
    _, actions = after(SetSize(2, "me"))
    assert [type(action) for action in actions] == [LedgerNote]
    _, actions = after(SetSize(2, "me"), LookFailed("away"))
    assert [type(action) for action in actions] == [LedgerNote]


def notes(*events, fleet):
    """What each step writes to the ledger, a second apart."""
    written = []
    for count, event in enumerate(events):
        fleet, actions = after(event, fleet=fleet, start=2000.0 + count)
        written += [action.event for action in actions if isinstance(action, LedgerNote)]
    return written


def test_a_provider_that_fails_is_in_the_ledger_once_and_once_more_when_it_answers():
    fleet, _ = ready(1)
    assert notes(
        LookFailed("away"), FleetTick(), LookFailed("away"), LookFailed("busy"), machines(1), fleet=fleet
    ) == [
        ProviderFailed(at=2000.0, why="away"),
        ProviderFailed(at=2003.0, why="busy"),
        ProviderAnswered(at=2004.0, after_s=4.0),
    ]
    # A call that is refused after each listing is told once.
    told = notes(SetSize(0, "me"), Unsure("cannot delete"), machines(1), Unsure("cannot delete"), fleet=fleet)
    assert [type(each) for each in told] == [FleetWanted, MachineRetired, ProviderFailed]


def test_the_ledger_says_why_a_machine_was_leaving_before_it_was_gone():
    fleet, _ = ready(2)
    leaving = ProviderListing((Machine(id="m0", why="evicted"), Machine(id="m1")))
    facts = ProviderFacts(name="sure", visible_s=10.0, sure=True)
    for second, event in enumerate((leaving, machines(0))):
        fleet, actions = step(fleet, event, 2000.0 + second, caps=CAPS, facts=facts)
    gone = [action.event.how for action in actions if isinstance(getattr(action, "event", None), MachineGone)]
    assert gone == ["it is not listed any more; evicted", "it is not listed any more"]


def test_a_young_machine_that_was_taken_is_replaced_at_once_and_one_whose_program_ends_is_not():
    fleet, _ = ready(1)
    for taken in (True, False):
        ended = ProviderListing((Machine(id="m0", phase="ended", taken=taken),))
        _, actions = step(fleet, ended, 1010.0, caps=CAPS, facts=FACTS)
        assert bool([action for action in actions if isinstance(action, Launch)]) == taken
    for keeps_ended in (True, False):
        facts = ProviderFacts(name="sure", sure=True, visible_s=1.0, keeps_ended=keeps_ended)
        _, actions = step(fleet, ProviderListing(()), 1010.0, caps=CAPS, facts=facts)
        assert bool([action for action in actions if isinstance(action, Launch)]) == keeps_ended


def test_what_is_left_of_a_machine_that_ended_is_released_until_it_is_not_listed():
    facts = ProviderFacts(name="keeps", keeps_ended=True)
    ended = ProviderListing((Machine(id="m0", phase="ended"), Machine(id="unknown", phase="ended")))
    fleet, _ = ready(1)
    for _ in range(2):
        fleet, actions = step(fleet, ended, 5000.0, caps=CAPS, facts=facts)
        released = [action.machine for action in actions if isinstance(action, Release)]
        assert released == ["m0", "unknown"]


def test_the_intent_goes_before_each_launch_and_no_token_comes_twice():
    fleet, actions = after(ProviderListing(()), SetSize(3, "me"))
    assert [type(action) for action in actions] == [
        LedgerNote,
        LedgerNote,
        Launch,
        LedgerNote,
        Launch,
        LedgerNote,
        Launch,
    ]
    tokens = [action.token for action in actions if isinstance(action, Launch)]
    assert [a.event.token for a in actions[1:] if isinstance(a, LedgerNote)] == tokens
    assert len(set(tokens)) == 3
    assert not any(isinstance(action, Launch) for action in after(FleetTick(), fleet=fleet)[1])


def test_the_caps_bound_what_is_wanted():
    _, actions = after(ProviderListing(()), SetSize(9, "me"))
    assert sum(isinstance(action, Launch) for action in actions) == 4
    _, actions = after(ProviderListing(()), SetSize(9, "me"), caps=Caps(workers=8, usd_per_hour=5.0))
    assert sum(isinstance(action, Launch) for action in actions) == 2


def test_a_refusal_is_waited_out_longer_each_time():
    def refusal(fleet):
        return LaunchRefused(next(iter(fleet.members)), "capacity", "none left")

    fleet, actions = after(ProviderListing(()), SetSize(1, "me"), refusal)
    assert not any(isinstance(action, Launch) for action in actions)
    waits = []
    for _ in range(4):
        now = fleet.not_before
        fleet, actions = step(fleet, FleetTick(), now, caps=CAPS, facts=FACTS)
        assert any(isinstance(action, Launch) for action in actions)
        fleet, _ = step(fleet, refusal(fleet), now, caps=CAPS, facts=FACTS)
        waits.append(fleet.not_before - now)
    assert waits == [10.0, 20.0, 40.0, 80.0]


def test_of_those_too_many_the_idle_go_first_and_none_that_holds_a_gang():
    fleet, _ = ready(3)
    look = ProviderListing(
        (
            Machine(id="m0", idle_s=50.0, holds="gang train"),
            Machine(id="m1"),
            Machine(id="m2", idle_s=3.0),
        )
    )
    fleet, _ = after(look, fleet=fleet)
    fleet, actions = after(SetSize(2, "me"), fleet=fleet)
    assert [a.machine for a in actions if isinstance(a, Retire)] == ["m2"]
    fleet, actions = after(SetSize(0, "me"), fleet=fleet)
    assert [a.machine for a in actions if isinstance(a, Retire)] == ["m1"]


def test_a_machine_is_released_when_it_has_nothing_left_to_do():
    fleet, _ = ready(1)
    fleet, actions = after(SetSize(0, "me"), fleet=fleet)
    assert actions[-1] == Retire("m0")
    fleet, actions = after(machines(1), fleet=fleet)
    assert actions == [Retire("m0")]  # the first may have been lost
    fleet, actions = after(machines(1, phase="retired"), fleet=fleet)
    assert actions[-1] == Release("m0")
    fleet, _ = after(machines(1, phase="ended"), fleet=fleet)
    assert not fleet.members


def test_down_ends_all_at_once():
    fleet, _ = ready(3)
    _, actions = after(Down("me"), fleet=fleet)
    assert {a.machine for a in actions if isinstance(a, Release)} == {"m0", "m1", "m2"}


def test_down_ends_what_is_found_only_then():
    """A controller was killed between its launch and the answer."""
    fleet, _ = after(ProviderListing(()), SetSize(1, "me"))
    (token,) = fleet.members
    fleet, actions = after(Down("me"), ProviderListing((Machine(id="m0", token=token),)), fleet=fleet)
    assert Release("m0") in actions
    assert not any(isinstance(action, Retire) for action in actions)
    _, actions = after(SetSize(1, "me"), machines(3), fleet=fleet)  # as ever again
    assert any(isinstance(action, Retire) for action in actions)


def test_one_that_is_frozen_ends_what_is_too_much_and_launches_nothing():
    fleet, _ = ready(3)
    fleet, actions = after(
        Frozen(), machines(2), *([ProviderListing(machines(2).machines)] * 3), fleet=fleet, every_s=40.0
    )
    assert not any(isinstance(action, Launch) for action in actions)
    assert (fleet.wanted, fleet.aim, fleet.settled) == (3, 2, True)


def test_one_that_has_all_that_its_caps_allow_is_settled():
    fleet, _ = ready(3)
    fleet, actions = after(FleetTick(), fleet=fleet, caps=Caps(workers=2))
    assert [a.event.reason for a in actions if isinstance(a, LedgerNote)] == [
        "3 are there and 2 of the 3 that are wanted are allowed"
    ]
    fleet, _ = after(SetSize(9, "me"), fleet=ready(4)[0])
    assert fleet.settled


def test_it_takes_several_looks_and_a_while_to_be_dead():
    fleet, _ = ready(1)
    soon, _ = after(*[ProviderListing(())] * 20, fleet=fleet, start=1100.0)
    assert soon.members
    few, _ = after(*[ProviderListing(())] * 2, fleet=fleet, start=1100.0, every_s=300.0)
    assert few.members
    away, _ = after(*[LookFailed("away")] * 50, fleet=fleet, start=1100.0, every_s=30.0)
    assert away.members
    gone, actions = after(*[ProviderListing(())] * 3, fleet=fleet, start=1100.0, every_s=30.0)
    assert "not listed in 3 looks in a row, for 1m 00s" in actions[0].event.how
    assert isinstance(actions[-1], Launch)
    assert len(gone.members) == 1


def test_what_is_found_by_its_token_is_the_answer_and_a_second_one_is_ended():
    fleet, actions = after(ProviderListing(()), SetSize(1, "me"))
    token = actions[-1].token
    fleet, _ = after(
        ProviderListing((Machine(id="x", token=token), Machine(id="y", token=token))), fleet=fleet
    )
    by_id = {member.id: member.phase for member in fleet.members.values()}
    assert by_id == {"x": MachinePhase.READY, "y": MachinePhase.RETIRING}


def test_a_ledger_gives_the_fleet_back_and_a_torn_end_is_no_harm(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        ledger.write(FleetWanted(before=0, after=2, by="me"))
        ledger.write(LaunchIntended(token="t1", reason="wanted"))
        ledger.write(LaunchAnswered(token="t1", machine="m1"))
        ledger.write(LaunchIntended(token="t2", reason="wanted"))
        with pytest.raises(JournalError, match="another process is writing"):
            Ledger.open(tmp_path)
    with (tmp_path / "ledger.journal").open("ab") as file:
        file.write(b"\xf6HK\n half a record")
    with Ledger.open(tmp_path) as ledger:
        fleet = ledger.fleet("f")
        assert ledger.torn is not None
        assert (fleet.wanted, fleet.launches) == (2, 2)
        assert {m.token: (m.id, m.phase) for m in fleet.members.values()} == {
            "t1": ("m1", MachinePhase.STARTING),
            "t2": ("", MachinePhase.ORDERED),
        }
        ledger.write(MachineRetired(machine="m1", token="t1", reason="enough"))
        ledger.write(MachineGone(machine="m1", token="t1", how="it ended"))
    assert list(restored("f", records_of(tmp_path)).members) == ["t2"]
    assert records_of(tmp_path / "none") == []


class Watched:
    """A provider that has nothing, and counts who looks."""

    facts = FACTS
    looks = 0

    def list(self):
        self.looks += 1
        return ()


class SetBack:
    """A machine's clock, an hour of which is taken back."""

    passed = 0.0
    off = 0.0

    def now(self):
        return 1e9 + self.passed - self.off

    def monotonic(self):
        return self.passed


def test_a_clock_that_is_set_back_keeps_nobody_from_looking(tmp_path):
    provider, clock = Watched(), SetBack()
    with Ledger.open(tmp_path, durable="none") as ledger:
        keeper = FleetKeeper("f", provider, ledger, caps=CAPS, clock=clock)
        assert keeper.turn() == FACTS.look_s
        clock.passed, clock.off = FACTS.look_s, 3600.0
        assert keeper.turn() == FACTS.look_s
    assert provider.looks == 2


def test_a_machine_that_somebody_ends_is_replaced_while_it_finishes_where_the_cap_allows_it():
    for workers, launches in ((3, 1), (2, 0)):
        fleet, _ = ready(2)
        drained = ProviderListing((Machine(id="m0", taken=True, why="evicted"), Machine(id="m1")))
        _, actions = after(drained, fleet=fleet, caps=replace(CAPS, workers=workers), start=2000.0)
        notes = [action.event for action in actions if isinstance(action, LedgerNote)]
        [retired] = [each for each in notes if isinstance(each, MachineRetired)]
        assert (retired.machine, retired.reason) == ("m0", "evicted")
        assert sum(isinstance(action, Launch) for action in actions) == launches


def test_the_cost_of_a_ledger_is_the_time_from_the_request_until_it_is_gone():
    records = [
        LaunchIntended(at=0.0, token="a", reason="", usd_per_hour=3.6),
        LaunchIntended(at=10.0, token="b", reason="", usd_per_hour=3.6),
        LaunchFailed(at=20.0, token="b", kind="quota", why=""),
        LaunchIntended(at=100.0, token="c", reason="", usd_per_hour=36.0),
        MachineGone(at=1000.0, machine="m", token="a", how=""),
    ]
    assert cost_usd(records, [(0.0, 1000.0)]) == pytest.approx(1.0 + 9.0)
    # Nobody saw it end between two drivers: that time does not count.
    assert cost_usd(records, [(0.0, 200.0), (900.0, 1000.0)]) == pytest.approx(0.3 + 2.0)
    assert cost_usd(records, []) == 0.0


class Counted(FleetKeeper):
    """Counts the steps of its controller."""

    steps = 0

    def step(self, *event, **facts):
        self.steps += 1
        return step(*event, **facts)


class Together:
    """A provider that takes four calls at a time, and answers none before there are four."""

    def __init__(self):
        self.facts = ProviderFacts(name="together", look_s=0.0, calls=4)
        self.barrier = threading.Barrier(4, timeout=60.0)
        self.launched = []

    def launch(self, token):
        self.launched.append(token)
        self.barrier.wait()
        return f"of {token}"

    def list(self):
        return []

    def retire(self, machine):
        raise NotImplementedError

    release = retire


def test_the_answers_of_all_launches_are_taken_in_one_step_and_four_launches_run_at_a_time(tmp_path):
    provider, written = Together(), []
    with Ledger.open(tmp_path) as ledger:
        keeper = Counted("f", provider, ledger, caps=Caps(workers=40), clock=SetBack(), tell=written.append)
        keeper.turn()
        keeper.want(40, "the test")
        assert keeper.steps == 3  # the listing, the wish with its launches, and their answers
        assert {member.id for member in keeper.fleet.members.values()} == {
            f"of {token}" for token in provider.launched
        }
    asked = [each.token for each in written if isinstance(each, LaunchIntended)]
    assert asked == [each.token for each in written if isinstance(each, LaunchAnswered)]
    assert sorted(provider.launched) == sorted(asked)


def test_a_launch_begins_when_the_ledger_has_it_and_none_begins_far_ahead(tmp_path):
    provider, seen = Together(), []
    provider.barrier = threading.Barrier(1)

    def tell(record):
        if isinstance(record, LaunchIntended):
            seen.append((record.token, len(provider.launched)))

    with Ledger.open(tmp_path) as ledger:
        keeper = FleetKeeper("f", provider, ledger, caps=Caps(workers=40), clock=SetBack(), tell=tell)
        keeper.turn()
        keeper.want(40, "the test")
    for number, (_, launched) in enumerate(seen):
        assert number - 5 <= launched <= number


def test_a_provider_with_a_rate_of_launches_is_asked_for_one_at_a_time():
    facts = replace(FACTS, launch_s=12.0)
    fleet, at = FleetState(name="f"), 1000.0
    launched = []
    for event in (ProviderListing(()), SetSize(3, "me"), *[FleetTick()] * 40):
        fleet, actions = step(fleet, event, at, caps=CAPS, facts=facts)
        launched += [at for action in actions if isinstance(action, Launch)]
        at += 1.0
    assert launched == [1001.0, 1013.0, 1025.0]
