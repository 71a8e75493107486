"""Ranges against plain sets and dicts: the state machine plays both and compares them after every move."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hooke.base.intervals import IntervalSet, OneItem, OneSegment, SegmentMap
from hooke.base.ref import Ref

TOP = 40
RANGES = st.tuples(st.integers(0, TOP), st.integers(0, TOP))


def ref(number: int) -> Ref:
    return Ref(f"{number:064x}", number)


def members(ranges: IntervalSet) -> set[int]:
    return {item for lo, hi in ranges for item in range(lo, hi)}


def covered(pieces: list[tuple[int, int]]) -> set[int]:
    return {item for lo, hi in pieces for item in range(lo, hi)}


class IntervalSetMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.real = IntervalSet()
        self.model: set[int] = set()

    @rule(ends=RANGES)
    def add(self, ends: tuple[int, int]) -> None:
        self.real.add(*ends)
        self.model |= set(range(*ends))

    @rule(ends=RANGES)
    def remove(self, ends: tuple[int, int]) -> None:
        self.real.remove(*ends)
        self.model -= set(range(*ends))

    @rule(ends=RANGES)
    def ask(self, ends: tuple[int, int]) -> None:
        wanted = set(range(*ends))
        assert self.real.contains(*ends) == (wanted <= self.model)
        within, gaps = self.real.within(*ends), self.real.gaps(*ends)
        assert covered(within) == wanted & self.model
        assert covered(gaps) == wanted - self.model
        assert all(lo < hi for lo, hi in [*within, *gaps])

    @rule(most=st.integers(1, TOP))
    def first(self, most: int) -> None:
        if self.model:
            lo, hi = self.real.first(most)
            assert lo == min(self.model)
            assert lo < hi <= lo + most
            assert set(range(lo, hi)) <= self.model
            assert hi == lo + most or hi not in self.model

    @invariant()
    def same_and_normal(self) -> None:
        if not hasattr(self, "real"):
            return
        assert members(self.real) == self.model
        assert self.real.count == len(self.model)
        assert bool(self.real) == bool(self.model)
        ranges = list(self.real)
        assert all(lo < hi for lo, hi in ranges)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))


class SegmentMapMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.real = SegmentMap()
        self.model: dict[int, tuple[Ref, int]] = {}

    @rule(ends=RANGES, number=st.integers(0, 5), start=st.integers(0, 3))
    def record(self, ends: tuple[int, int], number: int, start: int) -> None:
        lo, hi = ends
        if any(item in self.model for item in range(lo, hi)):
            with pytest.raises(ValueError, match="recorded already"):
                self.real.record(lo, hi, ref(number), start)
            return
        self.real.record(lo, hi, ref(number), start)
        self.model |= {item: (ref(number), start + item - lo) for item in range(lo, hi)}

    @rule(ends=RANGES, number=st.integers(0, 5), start=st.integers(0, 3))
    def replace(self, ends: tuple[int, int], number: int, start: int) -> None:
        lo, hi = ends
        self.real.replace(lo, hi, ref(number), start)
        self.model |= {item: (ref(number), start + item - lo) for item in range(lo, hi)}

    @rule(ends=RANGES)
    def cut(self, ends: tuple[int, int]) -> None:
        lo, hi = ends
        if any(item not in self.model for item in range(lo, hi)):
            with pytest.raises(KeyError):
                self.real.cut(lo, hi)
            return
        assert self.looked_up(self.real.cut(lo, hi)) == {item: self.model[item] for item in range(lo, hi)}

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "real"):
            return
        assert self.looked_up(list(self.real)) == self.model
        assert len(self.real) == len(self.model)

    @staticmethod
    def looked_up(segments: list[tuple[int, int, Ref, int]]) -> dict[int, tuple[Ref, int]]:
        assert [segment[0] for segment in segments] == sorted(segment[0] for segment in segments)
        return {item: (ref, start + item - lo) for lo, hi, ref, start in segments for item in range(lo, hi)}


@pytest.mark.needs("cpu")
@given(
    st.lists(st.tuples(st.sampled_from(("record", "replace", "cut")), st.integers(0, 1), st.integers(0, 1)))
)
def test_a_map_of_one_item_is_as_a_map_of_many(steps: list[tuple[str, int, int]]) -> None:
    real, model = OneSegment(), SegmentMap()
    for number, (step, lo, hi) in enumerate(steps):
        given_ = (lo, hi) if step == "cut" else (lo, hi, ref(number), number)
        outcomes = []
        for each in (real, model):
            try:
                outcomes.append(getattr(each, step)(*given_))
            except (KeyError, ValueError) as error:
                outcomes.append(repr(error))
        assert outcomes[0] == outcomes[1]
        assert list(real) == list(model)
        assert len(real) == len(model)
        assert list(real.items) == list(model.items)


@pytest.mark.needs("cpu")
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("add", "remove", "contains", "within", "gaps")),
            st.integers(0, 1),
            st.integers(0, 2),
        )
    )
)
def test_a_set_of_one_item_is_as_a_set_of_many(steps: list[tuple[str, int, int]]) -> None:
    real, model = OneItem(), IntervalSet()
    for step, lo, hi in steps:
        if step == "add":
            hi = min(hi, 1)
        assert getattr(real, step)(lo, hi) == getattr(model, step)(lo, hi)
        assert (list(real), bool(real), real.count) == (list(model), bool(model), model.count)
        assert not real or real.first(1) == model.first(1)


def test_a_set_of_one_item_has_no_other() -> None:
    with pytest.raises(ValueError, match="items 0..2 of one item"):
        OneItem().add(0, 2)


def test_a_map_of_one_item_has_no_other() -> None:
    with pytest.raises(ValueError, match="items 0..2 of one item"):
        OneSegment().record(0, 2, ref(0))


TestIntervalSet = pytest.mark.needs("cpu")(IntervalSetMachine.TestCase)
TestSegmentMap = pytest.mark.needs("cpu")(SegmentMapMachine.TestCase)
TestIntervalSet.settings = TestSegmentMap.settings = settings(max_examples=40)


@pytest.mark.needs("cpu")
@given(st.lists(RANGES))
def test_it_is_built_of_ranges_in_any_order(ranges: list[tuple[int, int]]) -> None:
    assert members(IntervalSet(iter(ranges))) == covered(ranges)


def test_a_million_items_that_come_in_order_are_one_range() -> None:
    done = SegmentMap()
    for lo in range(0, 1_000_000, 1000):
        done.record(lo, lo + 1000, ref(lo))
    assert list(done.items) == [(0, 1_000_000)]
    assert len(list(done)) == 1000
    assert done.cut(999_500, 1_000_000) == [(999_500, 1_000_000, ref(999_000), 500)]
