"""Requests that wait for the first replica: each has one outcome, in order, within limits."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.proxy.held_requests import Forward, HeldRequests, HoldLimits, Refuse

LIMITS = HoldLimits(timeout_s=10.0, most_requests=3, most_bytes=100)


def test_what_is_held_goes_to_the_first_replica_the_oldest_first():
    held = HeldRequests(LIMITS)
    assert held.arrive(1, 10, 0.0) == held.arrive(2, 10, 1.0) == []
    assert held.serve([80], holding=True) == [Forward(1, 80), Forward(2, 80)]
    assert (len(held), held.bytes) == (0, 0)
    assert held.arrive(3, 10, 2.0) == [Forward(3, 80)], "it was on its way when the list changed"


def test_one_too_many_is_refused_and_so_is_one_too_large():
    held = HeldRequests(LIMITS)
    for number in range(3):
        assert held.arrive(number, 10, 0.0) == []
    (refused,) = held.arrive(3, 10, 0.0)
    assert (refused.status, refused.retry_after_s) == (503, 5.0)
    assert "3 requests wait" in refused.detail
    held.leave(0)
    (refused,) = held.arrive(4, 90, 0.0)
    assert refused.status == 503
    assert [action.request for action in held.grow(1, 100)] == [1], "its body is too large for the room"
    assert len(held) == 1


def test_a_deadline_is_kept():
    held = HeldRequests(LIMITS)
    held.arrive(1, 10, 0.0)
    held.arrive(2, 10, 5.0)
    assert held.tick(9.9) == []
    (late,) = held.tick(10.0)
    assert (late.request, late.status, late.retry_after_s) == (1, 504, None)


def test_a_replica_that_cannot_be_reached_gets_it_again_and_its_deadline_stays():
    held = HeldRequests(LIMITS)
    held.arrive(1, 10, 0.0)
    held.serve([80], holding=True)
    held.fail(1, 10, 0.0)
    assert held.tick(1.0) == [Forward(1, 80)]
    held.fail(1, 10, 0.0)
    held.serve([], holding=True)
    assert held.tick(2.0) == []
    assert held.tick(10.0)[0].status == 504


def test_where_no_replica_will_come_all_are_refused_with_the_reason():
    held = HeldRequests(LIMITS)
    held.arrive(1, 10, 0.0)
    (refused,) = held.serve([], holding=False, why="the supervisor is gone")
    assert (refused.status, refused.detail) == (503, "the supervisor is gone")
    assert held.arrive(2, 10, 0.0)[0].detail == "the supervisor is gone"


def test_a_cold_start_is_measured_from_the_first_request_to_its_answer():
    held = HeldRequests(LIMITS)
    for number in range(4):
        held.arrive(number, 10, 2.0 + number)
    held.leave(1)
    held.serve([80], holding=True)
    cold = held.answer(0, 7.5)
    assert (cold.seconds, cold.held, cold.refused, cold.gone) == (5.5, 3, 1, 1)
    assert held.answer(2, 7.6) is None, "once"
    held.serve([], holding=False)
    assert held.arrive(9, 1, 8.0)[0].retry_after_s == 6.0, "the last one's length"


@pytest.mark.needs("cpu")
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_each_request_has_one_outcome_whatever_happens(seed):
    chance = random.Random(seed)
    held, now, outcomes, since, left = HeldRequests(LIMITS), 0.0, {}, {}, set()

    def took(actions):
        for action in actions:
            if isinstance(action, Forward) and chance.random() < 0.2:
                held.fail(action.request, 5, since[action.request])
                continue
            assert action.request not in outcomes
            assert action.request not in left
            outcomes[action.request] = type(action)
            assert isinstance(action, Refuse) or now - since[action.request] <= 11.0

    for number in range(200):
        now += chance.random()
        drawn = chance.random()
        if drawn < 0.5:
            since[number] = now
            took(held.arrive(number, chance.randint(1, 60), now))
        elif drawn < 0.6:
            took(held.serve([] if chance.random() < 0.6 else [80, 81], holding=chance.random() < 0.8))
        elif drawn < 0.7 and since:
            one = chance.choice(sorted(since))
            if one not in outcomes:
                left.add(one)
            held.leave(one)
        took(held.tick(now))
        assert len(held) <= LIMITS.most_requests + 2
        assert held.bytes >= 0
    now += 20.0
    took(held.tick(now))
    held.serve([], holding=False)
    assert len(held) == held.bytes == 0
    assert set(since) == set(outcomes) | left


@pytest.mark.parametrize("ports", [[80], [80, 81]])
def test_replicas_get_them_in_turn(ports):
    held = HeldRequests(LIMITS)
    for number in range(3):
        held.arrive(number, 1, 0.0)
    assert {action.port for action in held.serve(ports, holding=True)} == set(ports)
