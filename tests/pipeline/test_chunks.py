from hypothesis import example, given
from hypothesis import strategies as st

from hooke.base.intervals import IntervalSet
from hooke.pipeline.node_state import CHUNKS_PER_SLOT, GROWTH, LEAST_CHUNK_S, LOOK_AHEAD, TARGET_S, ChunkSizer

MEASURED = st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 100)), max_size=20)


@example([(1, 5e-324)], 10, 1)
@given(MEASURED, st.integers(1, 10**7), st.integers(0, 1000))
def test_a_chunk_is_never_empty_nor_more_than_is_left_nor_grown_too_fast(measured, remaining, slots):
    sizer = ChunkSizer()
    for items, seconds in measured:
        sizer.measured(items, seconds)
    size = sizer.size(remaining, slots)
    assert 1 <= size <= remaining
    if not measured:
        assert size == 1
    else:
        assert size <= GROWTH * max(items for items, _ in measured)
        mean_s = sum(seconds for _, seconds in measured) / sum(items for items, _ in measured)
        fair = -(-remaining // (CHUNKS_PER_SLOT * max(1, slots)))
        assert size <= fair or size * mean_s <= LEAST_CHUNK_S * 1.001


@given(st.floats(1e-6, 10), st.integers(1, 1000))
def test_a_chunk_holds_about_the_target_of_work(seconds_each, measured):
    sizer = ChunkSizer()
    sizer.measured(measured, seconds_each * measured)
    assert (sizer.size(10**9, 1) - 1) * seconds_each <= TARGET_S * 1.001


@given(st.dictionaries(st.integers(0, 300), st.floats(0, 10)), st.sets(st.integers(0, 300)))
def test_choices_by_length_go_down_and_come_once(expected, ready_items):
    ready = IntervalSet(iter((item, item + 1) for item in sorted(ready_items)))
    sizer = ChunkSizer()
    chosen = []
    for _ in range(len(expected) + LOOK_AHEAD):
        item = sizer.longest(expected, ready)
        if item is not None:
            assert ready.contains(item, item + 1)
            ready.remove(item, item + 1)
            chosen.append(expected[item])
    assert chosen == sorted(chosen, reverse=True)
    assert len(chosen) == sum(1 for item, s in expected.items() if s >= 0.05 and item in ready_items)


def test_looking_for_the_longest_costs_nothing_on_average():
    """Items that are not ready are passed once, not at every choice."""
    asked = 0

    class Ready(IntervalSet):
        def contains(self, lo, hi):
            nonlocal asked
            asked += 1
            return False

    sizer = ChunkSizer()
    expected = dict.fromkeys(range(20_000), 1.0)
    for _ in range(20_000):
        assert sizer.longest(expected, Ready()) is None
    assert asked == 20_000
