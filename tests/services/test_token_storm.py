"""The storm of users in short: one blow of each kind while 100 read, wait and leave."""

import pytest
from benchmarks.serving.chaos.toll import QUIET, Toll
from benchmarks.serving.token_storm import KILLED, KINDS, USERS, broken, met_two, storm
from tests.services.test_service_chaos import outcomes


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(900)  # a minute where the machine is free: each blow is waited for until it is over
def test_no_stream_is_lost_or_mixed_up_whatever_ends(tmp_path):
    it = storm(tmp_path / "project", users=USERS // 2, seconds=0.0)
    assert it.broken == [], (it.tolls, it.told.errors, it.told.wrong)
    assert {toll.kind: toll.times for toll in it.tolls} == {**dict.fromkeys(KINDS, 1), QUIET: 0}
    for toll in it.tolls:
        assert toll.under_way > 20 or toll.kind == QUIET, "each fell while many were under way"
    assert it.roll_outs == ["began", "accepted", "done"]
    assert min(it.told.kinds[name] for name in ("stream", "whole", "left")) > 20
    assert it.resumed[KILLED] > 5, "streams that had begun went on on another replica"
    assert it.told.errors == {}


def test_only_what_met_two_kills_may_be_refused():
    sent = outcomes((0.5, 9.0, 502), (3.0, 9.0, 502), (0.5, 9.0, 200), (0.5, 9.0, 503))
    assert met_two(sent, [1.0, 6.0]) == 1
    assert met_two(sent, [1.0]) == 0
    toll = Toll(kind=KILLED)
    toll.failed.update({"502": 2, "503": 1})
    assert broken([toll], 1) == ["1 x 502", "1 x 503"]
    assert broken([toll], 2) == ["1 x 503"]
