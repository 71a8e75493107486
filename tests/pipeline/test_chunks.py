import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hooke.base.intervals import IntervalSet
from hooke.pipeline.node_state import (
    CHUNKS_PER_SLOT,
    FIRST_ORDER_S,
    GROWTH,
    LEAST_CHUNK_S,
    LOOK_AHEAD,
    MOST_ORDER_S,
    MOST_TARGET_S,
    TARGET_ORDERS,
    TARGET_S,
    TIMES_ITS_ORDER,
    ChunkSizer,
)

MEASURED = st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 100), st.floats(-1, 10)), max_size=20)


@pytest.mark.needs("cpu")
@example([(1, 5e-324, 0.0)], 10, 1)
@example([(1, 0.0, -1.0)], 9, 0)  # clocks that differ
@given(MEASURED, st.integers(1, 10**7), st.integers(0, 1000))
def test_a_chunk_is_never_empty_nor_more_than_is_left_nor_grown_too_fast(measured, remaining, slots):
    sizer = ChunkSizer()
    for items, seconds, order_s in measured:
        sizer.measured(items, seconds, order_s=order_s)
    size = sizer.size(remaining, slots)
    assert 1 <= size <= remaining
    if not measured:
        assert size == 1
        return
    counted = counted_of(measured)
    mean_s = sum(seconds for _, seconds in counted) / sum(items for items, _ in counted)
    order_s = min(max(order_s for _, _, order_s in measured), MOST_ORDER_S)
    least_s = max(LEAST_CHUNK_S, TIMES_ITS_ORDER * order_s)
    largest = max(items for items, _, _ in measured)
    assert size <= GROWTH * largest or 0 <= size * mean_s <= order_s * 1.001
    assert size <= -(-remaining // (CHUNKS_PER_SLOT * max(1, slots))) or size * mean_s <= least_s * 1.001


def counted_of(measured):
    """What counts: with the first chunk that is much larger than all before it, measuring begins anew."""
    counted, largest = [], 0
    for items, seconds, _ in measured:
        if items >= GROWTH * largest:
            counted = []
        counted.append((items, seconds))
        largest = max(largest, items)
    return counted


def sizes(order_s, *, each_s, items, first_s=0.0, slots=2):
    """The sizes of all chunks of a map, one after another, where each order costs as much."""
    sizer, chosen = ChunkSizer(), []
    while items:
        chosen.append(sizer.size(items, slots))
        items -= chosen[-1]
        sizer.measured(chosen[-1], each_s * chosen[-1] + (0.0 if chosen[1:] else first_s), order_s=order_s)
    return chosen


def test_orders_that_cost_more_are_fewer():
    """200,000 items of 2 us: the price of all orders stays far below that of the work."""
    here, far = (sizes(order_s, each_s=2e-6, items=200_000, first_s=0.001) for order_s in (0.0005, 0.015))
    assert len(far) < len(here) / 1.5
    assert len(far) * 0.015 < 0.4


def test_a_chunk_grows_at_once_to_what_takes_as_long_as_its_order():
    sizer = ChunkSizer()
    sizer.measured(1, 2**-17, order_s=2**-6)
    assert sizer.size(200_000, 2) == 2**11
    sizer.measured(2**11, 2**-6, order_s=2**-6)
    assert sizer.size(200_000, 2) == GROWTH * 2**11


def test_a_chunk_is_so_much_work_that_its_order_hardly_counts_as_long_as_there_is_enough():
    assert max(sizes(0.005, each_s=2**-10, items=10_000)) == int(TARGET_ORDERS * 0.005 * 2**10)
    assert max(sizes(0.1, each_s=2**-10, items=100_000)) == int(MOST_TARGET_S * 2**10)
    assert sizes(0.01, each_s=0.0004, items=5000)[-1] * 0.0004 < 0.1, "the last ones balance the load"


def test_a_map_begins_with_chunks_by_what_its_items_took_in_an_earlier_run():
    sizer = ChunkSizer()
    assert sizer.size(200_000, 4, usual_s=0.0) == 1
    assert (
        sizer.size(200_000, 4, usual_s=1e-6) == 16_667
    )  # a third of a share: what an order costs is not known yet
    assert sizer.size(5000, 4, usual_s=0.001) == int(TARGET_S / 0.001)
    assert sizer.size(5000, 4, usual_s=10.0) == 1
    sizer.measured(50, 10.0)  # it was wrong
    assert sizer.size(5000, 4, usual_s=1e-6) == 1


@given(st.integers(1, 10**6), st.integers(1, 64), st.floats(1e-8, 10))
def test_slots_that_are_free_at_once_get_equal_chunks(items, slots, usual_s):
    sizer, left, chosen = ChunkSizer(), items, []
    while left and len(chosen) < slots:
        chosen.append(sizer.size(left, slots, under_way=items - left, usual_s=usual_s))
        left -= chosen[-1]
    share = -(-items // slots)
    assert max(chosen) * usual_s <= max(share * usual_s, LEAST_CHUNK_S) * 1.001 or max(chosen) == 1


def test_the_start_of_a_worker_is_no_price_of_orders():
    sizer = ChunkSizer()
    sizer.measured(1, 0.001, order_s=2.0)
    assert sizer.size(10**6, 2) == FIRST_ORDER_S / 0.001
    sizer.measured(20, 0.02, order_s=0.001)
    assert sizer.size(10**6, 100_000) == 10, "ten milliseconds of work, as where orders are cheap"


def test_where_orders_take_half_a_second_a_chunk_is_a_second_of_work():
    sizer = ChunkSizer()
    sizer.measured(128, 128 * 2**-10, order_s=0.5)
    assert sizer.size(10**6, 2) == int(TIMES_ITS_ORDER * MOST_ORDER_S * 2**10)


def test_the_first_call_does_not_say_how_long_items_take():
    """It imports: 1 s, then a microsecond an item."""
    sizer = ChunkSizer()
    sizer.measured(1, 1.0)
    assert sizer.size(10**6, 2) == 1
    sizer.measured(1, 1e-6)
    sizer.measured(8, 8e-6)
    assert sizer.size(10**6, 2) == 64


@given(st.floats(1e-6, 10), st.integers(1, 1000))
def test_a_chunk_holds_about_the_target_of_work(seconds_each, measured):
    sizer = ChunkSizer()
    sizer.measured(measured, seconds_each * measured)
    assert (sizer.size(10**9, 1) - 1) * seconds_each <= TARGET_S * 1.001


@pytest.mark.needs("cpu")
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
