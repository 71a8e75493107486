from hypothesis import given
from hypothesis import strategies as st

from hooke.pipeline.retries import BASE_S, LONGEST_HELD_S, LONGEST_S, held_delay, retry_delay

SEEDS = st.integers(0, 2**31)


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


@given(st.integers(1, 10**6), SEEDS, st.integers(0, 10**6))
def test_waits_for_another_process_are_bounded_and_replay(looks, seed, node):
    wait = held_delay(looks, seed=seed, node=node)
    assert 0.5 * min(LONGEST_HELD_S, BASE_S * 2.0 ** min(looks - 1, 10)) <= wait <= 1.5 * LONGEST_HELD_S
    assert wait == held_delay(looks, seed=seed, node=node)
