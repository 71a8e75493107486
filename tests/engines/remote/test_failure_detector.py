"""Who has said nothing for too long, and who speaks again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.engines.remote.placement import FailureDetector


def test_one_that_says_nothing_new_is_silent_until_it_does() -> None:
    silence = FailureDetector(30.0)
    assert silence.look({"a": 1, "b": 1}, 0.0) == (set(), set())
    assert silence.look({"a": 2, "b": 1}, 29.0) == (set(), set())
    assert silence.look({"a": 3, "b": 1}, 30.0) == ({"b"}, set())
    assert silence.look({"a": 4, "b": 1}, 35.0) == (set(), set())
    assert silence.look({"a": 5, "b": 2}, 40.0) == (set(), {"b"})
    assert silence.silent == set()


def test_one_that_left_is_neither_silent_nor_back() -> None:
    silence = FailureDetector(30.0)
    silence.look({"a": 1}, 0.0)
    assert silence.look({"a": 1}, 31.0) == ({"a"}, set())
    assert silence.look({}, 32.0) == (set(), set())
    assert silence.look({"a": 1}, 33.0) == (set(), set()), "it may come again, and has its time then"


def test_a_pause_of_the_driver_s_own_is_nobody_s_silence() -> None:
    silence = FailureDetector(30.0)
    silence.look({"a": 1}, 0.0)
    assert silence.look({"a": 2}, 1000.0) == (set(), set())


def test_where_this_process_gathers_the_signs_its_own_pause_is_not_held_against_others() -> None:
    silence = FailureDetector(10.0, every_s=1.0)
    silence.look({"a": 1}, 1.0)
    assert silence.look({"a": 1}, 600.0) == (set(), set())
    late = [silence.look({"a": 1}, 600.0 + second)[0] for second in range(1, 14)]
    assert late[0] == set()
    assert {"a"} in late


@pytest.mark.needs("cpu")
@given(st.lists(st.tuples(st.floats(0.1, 20.0), st.booleans()), max_size=60))
def test_it_falls_silent_and_speaks_again_in_turns(steps) -> None:
    silence, now, sign, last = FailureDetector(30.0), 0.0, 0, 0.0
    silence.look({"a": sign}, now)
    for seconds, speaks in steps:
        now += seconds
        was = "a" in silence.silent
        if speaks:
            sign, last = sign + 1, now
        fallen, back = silence.look({"a": sign}, now)
        assert ("a" in silence.silent) == (now - last >= 30.0)
        assert (fallen == {"a"}) == (not was and now - last >= 30.0)
        assert (back == {"a"}) == (was and speaks)
