"""Ranges against the plainest model: a set of ints, a dict of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.base.intervals import IntervalSet, SegmentMap
from hooke.base.ref import Ref

RANGES = st.tuples(st.integers(0, 30), st.integers(0, 30))


@pytest.mark.needs("cpu")
@given(st.lists(st.tuples(st.booleans(), RANGES)), RANGES)
def test_a_set_of_ranges_is_a_set(steps, asked):
    ranges, model = IntervalSet(), set()
    for adds, (lo, hi) in steps:
        if adds:
            ranges.add(lo, hi)
            model |= set(range(lo, hi))
        else:
            ranges.remove(lo, hi)
            model -= set(range(lo, hi))
        held = list(ranges)
        assert {i for a, b in held for i in range(a, b)} == model
        assert ranges.count == len(model)
        assert all(a < b for a, b in held)
        assert all(one[1] < two[0] for one, two in pairwise(held))
    wanted = set(range(*asked))
    assert ranges.contains(*asked) == (wanted <= model)
    assert {i for a, b in ranges.within(*asked) for i in range(a, b)} == wanted & model
    assert {i for a, b in ranges.gaps(*asked) for i in range(a, b)} == wanted - model


@pytest.mark.needs("cpu")
@given(st.lists(st.tuples(RANGES, st.integers(0, 5))))
def test_the_last_record_of_an_item_counts(steps):
    segments, model = SegmentMap(), {}
    for number, ((lo, hi), start) in enumerate(steps):
        ref = Ref(f"{number:064d}", 1)
        segments.replace(lo, hi, ref, start)
        model |= {i: (ref.digest, start + i - lo) for i in range(lo, hi)}
        assert {i: (r.digest, s + i - a) for a, b, r, s in segments for i in range(a, b)} == model
        assert len(segments) == len(model)
    lows = [segment[0] for segment in segments]
    assert lows == sorted(lows)


def test_a_second_record_is_refused():
    segments = SegmentMap()
    segments.record(0, 5, Ref("a" * 64, 1))
    with pytest.raises(ValueError, match="recorded already"):
        segments.record(4, 6, Ref("b" * 64, 1))
