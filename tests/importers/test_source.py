"""Steps in millionths: written exactly, and scaled by no more than they need."""

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.importers.neptune_classic import _micros
from hooke.importers.source import MICRO, exact_step, finest_of

STEPS = st.integers(-(2**62), 2**62)


@settings(max_examples=30)
@given(STEPS)
def test_a_step_is_written_exactly(micros):
    text = exact_step(micros)
    assert Decimal(text) * MICRO == micros
    assert not text.endswith((".", ".0"))


@settings(max_examples=30)
@given(st.lists(STEPS), st.integers(0, 6))
def test_the_scale_is_the_least_that_makes_all_whole(steps, zeros):
    steps = [step * 10**zeros for step in steps]
    scale = finest_of(steps)
    assert all(step * scale % MICRO == 0 for step in steps)
    assert scale == 1 or any(step * (scale // 10) % MICRO for step in steps)


@settings(max_examples=30)
@given(st.lists(STEPS), st.lists(STEPS))
def test_scales_can_be_found_a_batch_at_a_time(some, others):
    assert finest_of(others, finest_of(some)) == finest_of(some + others)


@settings(max_examples=30)
@given(st.integers(-(9 * 10**12), 9 * 10**12), st.integers(0, 6))
def test_a_float_of_few_places_is_the_decimal_that_was_typed(digits, places):
    typed = Decimal(digits).scaleb(-places)
    assert _micros(float(typed), None) == typed * MICRO
