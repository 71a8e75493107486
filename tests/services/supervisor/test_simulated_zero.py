"""Ten thousand times from no replica to one and back, under a virtual clock: no request is lost, and nothing is stuck."""

import pytest
from tests.services.supervisor.simulated_zero import FAULTS, ZeroWorld

CYCLES = 10_000


def lived(seed, cycles, *, faults):
    world = ZeroWorld(seed, faults=faults)
    while world.cycles < cycles:
        world.cycle()
    return world


def test_without_faults_each_request_is_answered_unless_there_is_no_room_or_no_time():
    world = lived(1, 1000, faults=False)
    assert set(world.outcomes) == {"answered", "no room", "late", "gone"}
    assert world.outcomes["answered"] > 2000
    assert not world.pending
    assert len(world.cold) > 500


@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_cycles_with_kills_in_each_state(seed):
    world = lived(seed, CYCLES // 4, faults=True)
    assert not world.pending
    assert set(world.outcomes) <= {"answered", "no room", "late", "gone", "killed", "no proxy"}
    killed = sum(count for what, count in world.done.items() if "supervisor" not in what)
    assert world.outcomes["killed"] <= 7 * killed, "a kill costs what was in flight on the killed one"
    for victim in FAULTS:
        for state in ("zero", "starting", "serving"):
            assert world.done[f"{victim}, {state}"], (victim, state)
