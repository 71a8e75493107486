"""Simulated histories of the production scheduler, 200 or in full 1,000, and what they would have found."""

from dataclasses import replace

import pytest
from tests.pipeline import planted
from tests.support.simulation.histories import check, simulate
from tests.support.sizes import choose_size

from hooke.journal.events import WITH_FAILURES, AttemptFailed, AttemptFinished, AttemptStarted, ItemsSkipped
from hooke.pipeline.run_state import RunState
from hooke.testing.virtual_world import Faults

HISTORIES = choose_size(sample=50, full=100, soak=1_000)
FOUND_WITHIN = 400
PARTS = 10  # processes share them, and none comes near a test's time limit

PLANTED = {
    planted.BelievesWithoutSaying: 0,
    planted.ActsBeforeItIsWritten: 0,
    planted.LosesAnswers: 0,
    planted.CommitsTwice: 2,
    planted.BelievesTheDead: 2,
    planted.LeavesAttemptsRunning: 9,
    planted.KeepsClaims: 0,
    planted.LetsTheWideWait: 15,
    planted.CountsAGangAsOne: 3,
    planted.LetsGangsWait: 365,
    planted.BeginsNarrow: 0,
    planted.CountsChangesOfSize: 6,
    planted.TakesItAllBack: 6,
    planted.WaitsForLostRoom: 76,
    planted.AsksTheDead: 9,
    planted.LastComesFirst: 4,
    planted.RunsAgain: 0,
    planted.TriesForEver: 12,
    planted.ForgetsTime: 6,
    planted.StartsEarly: 0,
    planted.RecordsBothTwins: 12,
    planted.LeavesTheBeatenRunning: 43,
    planted.FailsWithItsTwin: 43,
    planted.RepeatsTheImpure: 74,
    planted.TwinsComeFirst: 19,
    planted.ForgetsStragglers: 43,
    planted.ForgetsWhatIsTainted: 12,
    planted.SkipsNothing: 15,
    planted.LeavesOutTooEarly: 12,
    planted.CallsItWhole: 12,
    planted.RunsTheRefused: 1,
    planted.LooksOnceOnly: 4,
    planted.FollowsTooMuch: 212,
    planted.ForgetsWhatFollows: 49,
    planted.FreesTheSlotOfALine: 39,
}
"""Bugs, each with the first history that shows it, as it was last looked for: that one is played first."""


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.needs("processes")) for part in range(1, PARTS))]
)
def test_histories_keep_every_invariant(part: int) -> None:
    for seed in range(part, HISTORIES, PARTS):
        check(simulate(seed))


@pytest.mark.needs("processes")
@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: type) -> None:
    class_of = "state_class" if issubclass(bug, RunState) else "runner_class"

    def play() -> None:
        for seed in (PLANTED[bug], *range(FOUND_WITHIN)):
            check(simulate(seed, **{class_of: bug}))

    with pytest.raises(AssertionError, match=r"repro: tests\.support\.simulation\.histories seed=\d+"):
        play()


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("seed", [3, 50, 819])
def test_a_seed_replays_to_the_same_trace(seed: int) -> None:
    assert simulate(seed).trace == simulate(seed).trace


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_histories_differ() -> None:
    assert len({len(simulate(seed).trace) for seed in range(20)}) > 10


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_without_faults_a_run_is_one_driver_that_finishes() -> None:
    for seed in range(30):
        history = simulate(seed, faults=Faults())
        check(history)
        assert sum(1 for record in history.trace if record.what == "driver") == 1


@pytest.fixture(scope="module")
def some() -> list:
    """What three tests look at, each history played once."""
    return [simulate(seed) for seed in range(60)]


@pytest.mark.long
@pytest.mark.needs("processes")  # sixty histories
def test_every_kind_of_fault_happens(some: list) -> None:
    seen = dict.fromkeys(("crash", "cancel", "held"), 0)
    kinds = set()
    for history in some:
        for record in history.trace:
            if record.what in seen:
                seen[record.what] += 1
            if record.what == "journal":
                kinds.add(type(record.facts).__name__)
                failure = getattr(record.facts, "failure", None)
                if failure is not None:
                    kinds.add(failure.kind)
    assert all(seen.values())
    assert kinds >= {
        *("TaskError", "WorkerDied", "OutOfMemory", "TimedOut"),
        *("RetryPlanned", "MapExpanded", "StopRequested", "WorkerStopped", "ItemsFound"),
    }


@pytest.mark.needs("processes")  # the same sixty
def test_gangs_run_fail_and_wait_for_one_another(some: list) -> None:
    begun, failed, crowded = 0, 0, 0
    for history in some:
        wide = {attempt.attempt for attempt in _facts(history.trace, "submit") if attempt.ranks > 1}
        events = _facts(history.trace, "journal")
        begun += len(wide)
        failed += sum(isinstance(event, AttemptFailed) and event.attempt in wide for event in events)
        crowded += sum(plan.ranks > 1 for plan in history.plans) > 1
    assert begun > 50
    assert failed > 5
    assert crowded > 5


@pytest.mark.needs("processes")
def test_calls_follow_one_another_are_taken_back_and_fail() -> None:
    followed, begun, dropped = 0, 0, 0
    for history in [simulate(seed) for seed in (39, 49, 212)]:  # as they were last looked for
        behind = {each.attempt for each in _facts(history.trace, "submit") if each.after is not None}
        events = _facts(history.trace, "journal")
        started = {event.attempt for event in events if isinstance(event, AttemptStarted)}
        followed += len(behind)
        begun += len(behind & started)
        dropped += len(behind.intersection(_facts(history.trace, "cancel")))
    assert begun > 5
    assert dropped > 5
    assert followed >= begun


@pytest.mark.needs("processes")  # the same sixty
def test_elastic_gangs_begin_small_grow_make_way_and_lose_machines(some: list) -> None:
    seen = dict.fromkeys(("narrow", "grown", "made way", "lost", "withdrawn"), 0)
    for history in some:
        begun = {each.attempt: each for each in _facts(history.trace, "submit")}
        for attempt, ranks in _facts(history.trace, "resize"):
            seen["grown" if ranks > begun[attempt].ranks else "made way"] += 1
        plans = history.plans
        seen["narrow"] += sum(0 < each.ranks < plans[each.node].ranks for each in begun.values())
        events = _facts(history.trace, "journal")
        seen["lost"] += sum(isinstance(event, AttemptFailed) and event.failure.host_lost for event in events)
        started = {event.attempt for event in events if isinstance(event, AttemptStarted)}
        seen["withdrawn"] += sum(
            attempt in begun and attempt not in started and bool(plans[begun[attempt].node].least_ranks)
            for attempt in _facts(history.trace, "cancel")
        )
    assert all(seen.values()), seen


def _facts(trace, what: str) -> list:
    return [record.facts for record in trace if record.what == what]


@pytest.mark.needs("processes")  # the same sixty
def test_failed_items_are_left_out_skipped_and_taken_up_again(some: list) -> None:
    ends, skipped, tainted = 0, 0, 0
    for history in some:
        ends += sum(status == WITH_FAILURES for status, _ in _facts(history.trace, "end"))
        events = _facts(history.trace, "journal")
        skipped += sum(isinstance(event, ItemsSkipped) for event in events)
        tainted += sum(isinstance(event, AttemptFinished) and event.tainted for event in events)
    assert ends > 3
    assert skipped > 3
    assert tainted > 3


@pytest.mark.long
@pytest.mark.needs("processes")
def test_second_attempts_win_lose_and_fail() -> None:
    ends: set[tuple[str, str]] = set()
    for seed in (41, 43, *range(130)):  # the first two have them all, as they were last looked for
        if len(ends) == 4:
            break
        trace = simulate(seed).trace
        twins = [r.facts for r in trace if r.what == "submit" and r.facts.twin_of is not None]
        role = {twin.twin_of: "first" for twin in twins} | {twin.attempt: "second" for twin in twins}
        events = [r.facts for r in trace if r.what == "journal"]
        ended = [event for event in events if isinstance(event, AttemptFinished | AttemptFailed)]
        ends |= {(role[event.attempt], type(event).__name__) for event in ended if event.attempt in role}
    assert len(ends) == 4


def test_what_is_checked_is_what_was_played() -> None:
    """The check itself notices: a journal that lost a record, a result that differs, a run without an end."""
    history = simulate(5, faults=Faults())
    for changed in (
        replace(history, journal=history.journal[:-1]),
        replace(history, expected="another"),
        replace(history, status="failed"),
    ):
        with pytest.raises(AssertionError, match="seed=5"):
            check(changed)
