import math

import numpy as np
import pytest

from hooke.scaling.measurements import ENOUGH, MeasurementSpread, spread_of


def drawn(share, *, groups, repeats, seed=0):
    chance = np.random.default_rng(seed)
    return [np.exp(share * chance.standard_normal(repeats)) * 10 for _ in range(groups)]


def test_the_spread_is_pooled_over_groups_of_any_mean():
    groups = [
        scale * each for scale, each in zip((1, 10, 100), drawn(0.1, groups=3, repeats=400), strict=True)
    ]
    assert spread_of(groups).share == pytest.approx(0.1, rel=0.1)


def test_repeats_that_are_said_to_do_would_do():
    for share in (0.05, 0.2, 0.5):
        spread = spread_of(drawn(share, groups=4, repeats=50))
        needed = spread.repeats_needed()
        again = spread_of(drawn(share, groups=4, repeats=needed, seed=1))
        assert again.half_width(needed) < 1.5 * ENOUGH


@pytest.mark.parametrize(("share", "groups", "needed"), [(0.2, 1, 5), (0.165, 2, 4)])
def test_the_mean_of_each_group_costs_a_degree_of_freedom(share, groups, needed):
    """With Student's t at 97.5 %: 2.776 x 0.2 / sqrt(5) is enough with one group of five, 3.182 x 0.2 / sqrt(4) is not;
    2.447 x 0.165 / sqrt(4) is enough with two groups of four, 2.776 x 0.165 / sqrt(3) is not.
    """
    assert MeasurementSpread(share=share, freedom=9, groups=groups).repeats_needed() == needed


def test_a_quiet_machine_is_not_hopeless_and_a_wild_one_is():
    assert not spread_of(drawn(0.03, groups=3, repeats=2)).hopeless(3)
    assert spread_of(drawn(2.0, groups=3, repeats=2)).hopeless(3)
    assert not spread_of(drawn(2.0, groups=3, repeats=2)).hopeless(900)


def test_at_the_edge_few_are_turned_away():
    """With a spread that three repeats just resolve, a first look at two may not often be taken for the last word."""
    share = 0.18
    turned = sum(spread_of(drawn(share, groups=4, repeats=2, seed=seed)).hopeless(3) for seed in range(400))
    assert turned < 0.1 * 400


def test_single_measurements_say_nothing():
    spread = spread_of([[1.0], [2.0], []])
    assert spread.freedom == 0
    assert math.isinf(spread.half_width(1))
    assert not spread.hopeless(1)
