import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.pipeline.retries import BASE_S, LONGEST_HELD_S, LONGEST_S, held_until, retry_delay

SEEDS = st.integers(0, 2**31)


@pytest.mark.needs("cpu")
@given(st.integers(1, 10**6), SEEDS, st.tuples(st.integers(0, 10**6), st.integers(-1, 10**6)))
def test_waits_are_bounded_and_replay(failures, seed, salt):
    wait = retry_delay(failures, seed=seed, salt=salt)
    assert 0.5 * BASE_S <= wait <= 1.5 * LONGEST_S
    assert wait == retry_delay(failures, seed=seed, salt=salt)


@given(st.integers(1, 9), SEEDS)
def test_waits_double_within_their_jitter(failures, seed):
    wait = retry_delay(failures, seed=seed, salt=(0, 0))
    middle = BASE_S * 2 ** (failures - 1)
    assert 0.5 * middle <= wait <= 1.5 * middle


@given(st.floats(0, 10**6))
def test_a_delay_that_the_task_asked_for_is_taken_as_it_is(asked):
    assert retry_delay(3, seed=0, salt=(1, 1), asked_s=asked) == asked


def test_two_items_that_failed_together_do_not_come_back_together():
    waits = {retry_delay(1, seed=0, salt=(0, item)) for item in range(100)}
    assert len(waits) > 90


NOWS = st.floats(0, 2e9)


@given(NOWS, st.integers(1, 10**6), SEEDS)
def test_waits_for_another_process_are_bounded_and_replay(now, looks, seed):
    due = held_until(now, looks, seed=seed)
    wait = min(LONGEST_HELD_S, BASE_S * 2.0 ** min(looks - 1, 10))
    assert wait - 1e-6 <= due - now <= 1.5 * wait + 1e-6
    assert due == held_until(now, looks, seed=seed)


@pytest.mark.needs("cpu")
@given(NOWS, st.integers(1, 20), SEEDS, st.floats(0, 0.04))
def test_those_that_begin_to_wait_one_after_another_are_looked_up_together(now, looks, seed, later):
    due = {round(held_until(now + share * later, looks, seed=seed), 5) for share in (0, 0.2, 0.5, 1)}
    assert len(due) <= 2


def test_runs_that_wait_for_another_process_do_not_come_together():
    assert len({held_until(1000.0, 9, seed=seed) for seed in range(100)}) > 90
