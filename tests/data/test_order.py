"""The order of a shuffled data set: each row once, the same for any number of ranks, without a pattern."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.data.order import PIECE, BlockLayout, Blocks, EqualBatches, Order, key_of, permuted
from hooke.data.quality import measured_vif, plan_layout, predicted_vif

layouts = st.builds(
    BlockLayout,
    rows=st.integers(1, 4000),
    block=st.sampled_from([1, 2, 8, 32]),
    lanes=st.sampled_from([1, 2, 5, 24]),
    window=st.integers(1, 40),
)


def whole(order):
    return np.concatenate([order.of_window(window) for window in range(order.layout.windows)])


@pytest.mark.long
@pytest.mark.needs("processes")
@settings(max_examples=150)
@given(layouts, st.integers(-(2**70), 2**70), st.integers(0, 5))
def test_each_row_comes_once_in_an_epoch(layout, seed, epoch):
    order = Order(layout, seed, epoch)
    assert np.array_equal(np.sort(whole(order)), np.arange(layout.rows))
    starts = [order.start(window) for window in range(layout.windows + 1)]
    assert starts[0] == 0 and starts[-1] == layout.rows
    assert [order.of_window(window).size for window in range(layout.windows)] == np.diff(starts).tolist()
    for position in {0, layout.rows // 2, layout.rows - 1}:
        window = order.window_at(position)
        assert starts[window] <= position < starts[window + 1]


@pytest.mark.long
@pytest.mark.needs("processes")
@settings(max_examples=60)
@given(layouts, st.integers(0, 100), st.sampled_from([2, 3, 4, 5, 6, 8]))
def test_a_rank_has_each_nth_position_of_the_one_order(layout, seed, ranks):
    order = Order(layout, seed, 1)
    everything = whole(order)
    for rank in range(ranks):
        mine = [order.of_window(window, rank, ranks) for window in range(layout.windows)]
        assert np.array_equal(np.concatenate(mine), everything[rank::ranks])


@pytest.mark.needs("cpu")
def test_a_rank_reads_no_other_ranks_blocks_where_ranks_divide_the_lanes():
    layout = BlockLayout(rows=200_000, block=16, lanes=24, window=20)
    order = Order(layout, 3, 0)
    for ranks in (2, 3, 4, 6, 8):
        seen = np.zeros(layout.blocks + 1)
        for rank in range(ranks):
            mine = np.concatenate([order.of_window(window, rank, ranks) for window in range(layout.windows)])
            seen[np.unique(mine // layout.block)] += 1
        shared = (seen > 1).sum()
        # Only those that divide among no lanes, and the rows after the last whole block.
        assert shared <= layout.spare + 1


def test_epochs_and_seeds_have_different_orders():
    layout = plan_layout(10_000, 64, 32, 1 << 28)
    orders = [whole(Order(layout, seed, epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0), (-1, 0)]]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one == other).mean() < 0.01


def test_the_order_is_what_it_was():
    """A checkpoint that is resumed by a later version meets the same rows."""
    layout = BlockLayout(rows=1003, block=4, lanes=6, window=5)
    assert whole(Order(layout, 1, 0))[:12].tolist() == [
        304,
        970,
        531,
        969,
        307,
        968,
        30,
        914,
        919,
        219,
        188,
        401,
    ]
    assert key_of(1, 2, 3) == 2869315087210772132
    assert permuted(np.arange(8), 8, 5).tolist() == [3, 4, 1, 0, 7, 2, 6, 5]


@pytest.mark.parametrize("size", [1, 2, 3, 17, 1000, 65_537])
def test_a_permutation_is_one(size):
    assert np.array_equal(np.sort(permuted(np.arange(size), size, 7)), np.arange(size))


@pytest.mark.needs("cpu")
def test_a_permutation_has_no_pattern():
    """Counts of 8 x 8 cells of (place, value) are those of chance: chi squared of 49 degrees of freedom, for twenty keys."""
    size, cells = 80_000, 8
    found = []
    for key in range(20):
        at = np.arange(size)
        to = permuted(at, size, key)
        counts = np.histogram2d(at * cells // size, to * cells // size, bins=cells)[0]
        found.append(float(((counts - size / cells**2) ** 2).sum() / (size / cells**2)))
        assert abs(np.corrcoef(to[:-1], to[1:])[0, 1]) < 4.5 / np.sqrt(size)
    assert np.mean(found) == pytest.approx((cells - 1) ** 2, rel=0.15)  # of means of 20: 2.2 of 49


CONFIGURATIONS = [
    (BlockLayout(rows=400_000, block=256, lanes=1, window=512), 256),
    (BlockLayout(rows=400_000, block=64, lanes=1, window=512), 256),
    (BlockLayout(rows=400_000, block=256, lanes=8, window=64), 256),
    (BlockLayout(rows=400_000, block=256, lanes=8, window=16), 256),
    (BlockLayout(rows=400_000, block=64, lanes=24, window=16), 512),
    (BlockLayout(rows=400_000, block=16, lanes=24, window=10), 512),
    (BlockLayout(rows=400_000, block=1024, lanes=8, window=8), 128),
    (BlockLayout(rows=400_000, block=64, lanes=24, window=214), 256),
    (BlockLayout(rows=400_000, block=1, lanes=24, window=50), 256),
    (BlockLayout(rows=4_000, block=16, lanes=8, window=2), 1),
    (BlockLayout(rows=100_000, block=128, lanes=16, window=4), 64),
    (
        BlockLayout(rows=400_000, block=1024, lanes=24, window=1),
        256,
    ),  # fewer blocks than lanes: all are pooled
    (BlockLayout(rows=400_000, block=512, lanes=24, window=3), 256),  # a part of them
    (BlockLayout(rows=400_000, block=64, lanes=24, window=54), 64),  # few pooled ones, in groups
]


@pytest.mark.needs("processes")
@pytest.mark.parametrize(("layout", "batch"), CONFIGURATIONS)
def test_the_predicted_quality_is_the_measured_one(layout, batch):
    measured, batches = measured_vif(Order(layout, 5, 0), batch)
    assert batches > 300
    assert predicted_vif(layout, batch) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("rows", "row_bytes", "batch"),
    [(5_000_000, 64, 256), (300_000, 8000, 64), (2_000_000, 500, 1024), (900, 64, 32)],
)
def test_a_planned_layout_is_nearly_perfect_within_its_memory(rows, row_bytes, batch):
    memory = 1 << 28
    layout = plan_layout(rows, row_bytes, batch, memory)
    assert predicted_vif(layout, batch) <= 1.055
    assert layout.block * layout.lanes * layout.window * (row_bytes + 8) <= memory


@pytest.mark.needs("cpu")
def test_with_little_memory_rows_are_drawn_one_by_one():
    layout = plan_layout(500_000, 64, 4096, 1 << 18)
    assert layout.lanes * layout.window * layout.block * 72 <= 1 << 18
    assert layout.block == 1
    assert measured_vif(Order(layout, 1, 0), 4096)[0] == pytest.approx(1, abs=0.15)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("batch", [512, 4096])
def test_a_batch_of_more_than_a_window_is_predicted_too(batch):
    layout = BlockLayout(rows=500_000, block=64, lanes=4, window=4)
    measured, _ = measured_vif(Order(layout, 1, 0), batch)
    assert measured > 10
    assert predicted_vif(layout, batch) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (2, 3), (4, 5)])
@pytest.mark.parametrize("start", [0, 3, 400])
def test_batches_are_the_same_where_windows_are_computed_whole(rank, ranks, start):
    layout = BlockLayout(rows=200_123, block=16, lanes=24, window=107)
    plan = EqualBatches(Blocks(layout, seed=4), 256, drop_last=False)
    windows = []
    whole = list(plan.parts(1, rank, ranks, start, windows.append))
    pieces = list(plan.parts(1, rank, ranks, start))
    assert max(map(len, windows)) * ranks > PIECE
    assert len(pieces) == len(whole) == plan.steps(ranks) - start
    for one, other in zip(pieces, whole, strict=True):
        assert (one.step, one.rows) == (other.step, other.rows)
        assert np.array_equal(one.numbers, other.numbers)
