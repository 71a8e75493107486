"""Simulated histories of the production controller, 400 or in full 5,000, and what they would have found."""

from functools import partial

import pytest
from tests.fleets import planted
from tests.support.simulation.fleet_histories import check_fleet, play_fleet
from tests.support.sizes import choose_size

from hooke.machines.controller import step
from hooke.testing.provider_suite import NO_PROVIDER_FAULTS

HISTORIES = choose_size(sample=100, full=200, soak=5_000)
FOUND_WITHIN = 250
PARTS = 20  # processes share them, and none comes near a test's time limit
IN_THE_UNIT_LOOP = 5

PLANTED = [
    planted.LaunchesBeforeItWrites,
    planted.ForgetsLostAnswers,
    planted.TriesTheTokenAgain,
    planted.BelievesOneLook,
    planted.EndsWhatWorks,
    planted.AsksOnce,
    planted.WaitsForEver,
    planted.TakesOutageForDeath,
    planted.CountsOnlyTheUseful,
    planted.KeepsStrangers,
    planted.GoesOverThePrice,
    planted.LaunchesForEach,
]


@pytest.mark.needs("cpu")
def test_some_histories_keep_every_invariant():
    for seed in range(IN_THE_UNIT_LOOP):
        check_fleet(play_fleet(seed))


@pytest.mark.needs("processes")
@pytest.mark.parametrize("part", range(PARTS))
def test_histories_keep_every_invariant(part):
    for seed in range(part, HISTORIES, PARTS):
        check_fleet(play_fleet(seed))


@pytest.mark.needs("processes")
@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug):
    def play():
        for seed in range(FOUND_WITHIN):
            check_fleet(play_fleet(seed, step=partial(step, turn=bug)))

    with pytest.raises(AssertionError, match=r"repro: tests\.support\.simulation\.fleet_histories seed=\d+"):
        play()


@pytest.mark.parametrize("seed", [7, 402])
def test_a_seed_replays_to_the_same_trace(seed):
    assert play_fleet(seed).trace == play_fleet(seed).trace


@pytest.mark.needs("cpu")
def test_without_faults_nothing_is_refused_lost_or_found():
    for seed in range(3):
        history = play_fleet(seed, faults=NO_PROVIDER_FAULTS)
        check_fleet(history)
        assert not any(type(record).__name__ == "LaunchFailed" for record in history.ledger)
        assert not any(getattr(record, "found", False) for record in history.ledger)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_every_kind_of_fault_happens():
    kinds = set()
    for seed in range(60):
        for record in play_fleet(seed).trace:
            kinds.add(record.what)
            for fact in ("kind", "reason", "how", "found"):
                kinds.add(str(getattr(record.facts, fact, "")).partition(" of")[0].partition(" than")[0][:16])
    assert kinds >= {
        "crash",
        "capacity",
        "quota",
        "auth",
        "lost",
        "a second machine",
        "True",
        "it was not healt",
        "it was not liste",
        "its provider say",
        "it is older",
    }
