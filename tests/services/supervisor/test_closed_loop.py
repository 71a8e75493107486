"""Recorded arrivals on live replicas, ten times as fast: the rule that the replay chose is the one that scales."""

import pytest
from benchmarks.serving.closed_loop import closed_loop

pytestmark = pytest.mark.needs("processes")


@pytest.mark.long
def test_live_replicas_follow_the_rule_that_was_chosen_by_replay(tmp_path):
    made = closed_loop(tmp_path, judged_s=15, ramp_s=20)
    assert "load + " in made["rule"]
    assert made["scaled"] > 3
    assert made["live"]["requests"] == made["simulated"]["requests"] > 500
    assert made["live"]["failed"] == 0
    assert made["live"]["in_time"] > 0.5 * made["live"]["requests"]
    assert 0.5 < made["live"]["replica_s"] / made["simulated"]["replica_s"] < 2.0
