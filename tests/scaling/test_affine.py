"""The law of batches, a n + b: what is planted is found, and intervals hold as often as they say."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.sizes import choose_size

from hooke.base.errors import NotEnoughData
from hooke.scaling.affine import Affine, CallBlock, affine

TRIALS = choose_size(sample=200, full=200, soak=1_000)
A, B = 20e-6, 1e-3


def blocks_of(seed, *, blocks=12, calls=200, noise=0.1, shared=0.0, a=A, b=B):
    """Calls about the law. `shared` is what all calls of one block have in common."""
    chance = np.random.default_rng(seed)
    made = []
    for _ in range(blocks):
        rows = np.clip(chance.poisson(12 * np.exp(0.4 * chance.standard_normal(calls))), 1, 64)
        errors = noise * chance.standard_normal(calls) + shared * chance.standard_normal()
        seconds = (a * rows + b) * np.exp(errors - (noise**2 + shared**2) / 2)
        made.append(
            [
                CallBlock(int(at.sum()), float(rows[at].sum()), float(seconds[at].sum()))
                for n in np.unique(rows)
                for at in [rows == n]
            ]
        )
    return made


def held(found: Affine) -> dict[str, bool]:
    rows = (0.002 - B) / A
    truth = [
        (found.a, A),
        (found.b, B),
        (found.rate(32), 32 / (A * 32 + B)),
        (found.load_within(0.004, 64), rows / 0.002),
    ]
    return {each.name: each.interval[0] <= value <= each.interval[1] for each, value in truth}


@pytest.mark.needs("cpu")
@given(
    st.floats(0, 1e-2),
    st.floats(1e-6, 1e-1),
    st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=6), min_size=4, max_size=8),
)
def test_without_noise_the_law_is_exact(a, b, sizes):
    blocks = [[CallBlock(3, 3 * n, 3 * (a * n + b)) for n in block] for block in [*sizes, [1, 400], [1, 400]]]
    found = affine(blocks)
    assert found.both == pytest.approx((a, b), rel=1e-6, abs=1e-9 * (a + b))
    assert found.seconds(50).value == pytest.approx(50 * a + b)
    assert found.rate(50).value == pytest.approx(50 / (50 * a + b))
    low, high = found.rate(50).interval
    assert high / low == pytest.approx(1, abs=1e-5)


@pytest.mark.needs("cpu")
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(1, 9), st.integers(1, 99), st.floats(1e-6, 10)), min_size=1, max_size=4
        ),
        min_size=4,
        max_size=6,
    )
)
def test_no_law_has_a_negative_part(table):
    blocks = [[CallBlock(calls, calls * rows, seconds) for calls, rows, seconds in block] for block in table]
    try:
        found = affine(blocks)
    except NotEnoughData:
        return
    assert min(found.both) >= 0
    for each in (found.a, found.b, found.rate(8), found.load_within(1.0, 8)):
        low, high = each.interval
        assert 0 <= low <= each.value <= high


def test_what_follows():
    found = affine(blocks_of(1, noise=0.0))
    assert found.rows_at(32 / (A * 32 + B)) == pytest.approx(32)
    assert found.rows_at(2 / A) == math.inf
    assert found.load_within(0.001, 64).value == 0, "a single row takes as long as the limit"
    assert found.load_within(1.0, 64).value == pytest.approx(found.rate(64).value)
    assert found.load_within(0.004, 64).value == pytest.approx(50 / 0.002)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("shared", [0.0, 0.1])
def test_intervals_hold_as_often_as_they_say(shared):
    """Also where calls of a block share errors: counted singly, 2400 calls would be far too sure of themselves."""
    trials, counts = 100, Counter()
    for seed in range(trials):
        counts.update(held(affine(blocks_of([seed], blocks=6, calls=60, shared=shared))))
    for name, count in counts.items():
        assert abs(count / trials - 0.95) <= 0.02 + 3 * math.sqrt(0.95 * 0.05 / trials), (name, counts)


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("shared", [0.0, 0.1])
@pytest.mark.parametrize("blocks", [4, 6, 12])
def test_coverage(blocks, shared):
    """90 to 99 % in full; a sample of 200 trials may be off by three standard errors, 4.6 points, more."""
    trials, counts = TRIALS, Counter()
    slack = 0.0 if trials >= 1000 else 3 * math.sqrt(0.95 * 0.05 / trials)
    for seed in range(trials):
        counts.update(held(affine(blocks_of([seed, blocks], blocks=blocks, shared=shared))))
    for name, count in counts.items():
        assert 0.90 - slack <= count / trials <= min(0.99 + slack, 1), (name, counts)


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (blocks_of(0, blocks=3), "3 blocks of time"),
        ([[], *blocks_of(0, blocks=3)], "3 blocks of time"),
        ([[CallBlock(5, 40, 1.0)]] * 5, "all calls had about 8 rows"),
        ([[CallBlock(999, 8 * 999, 1.0), CallBlock(1, 1, 1.0)]] * 5, "all calls had about 8 rows"),
    ],
)
def test_what_tells_nothing_is_refused(blocks, said):
    with pytest.raises(NotEnoughData, match=said) as refused:
        affine(blocks)
    assert refused.value.fix
