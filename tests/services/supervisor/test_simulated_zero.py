"""A thousand times from no replica to one and back, under a virtual clock: no request is lost, and nothing is stuck.

`make soak-zero` does it ten thousand times.
"""

from collections import Counter

import pytest
from tests.services.supervisor.simulated_zero import FAULTS, ZeroWorld


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_without_faults_each_request_is_answered_unless_there_is_no_room_or_no_time():
    world = ZeroWorld(1, faults=False).lived(300)
    assert set(world.outcomes) == {"answered", "no room", "late", "gone"}
    assert world.outcomes["answered"] > 500
    assert not world.pending
    assert len(world.cold) > 150


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_a_kill_in_any_state_costs_what_was_in_flight_on_the_killed_one_and_no_more():
    worlds = [ZeroWorld(seed).lived(200) for seed in range(2)]
    done = sum((world.done for world in worlds), Counter())
    for world in worlds:
        assert not world.pending
        assert set(world.outcomes) <= {"answered", "no room", "late", "gone", "killed", "no proxy"}
        assert world.outcomes["killed"] <= world.had
    assert all(done[f"{victim}, starting"] for victim in FAULTS)
    assert done["replica, serving"]
    assert done["supervisor, zero"]
    assert done["proxy, zero"]
