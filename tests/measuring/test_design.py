from collections import Counter

import pytest

from hooke.base.errors import UsageError
from hooke.measuring.design import PLAIN, Design, PlannedMeasurement, levels_of


def test_each_round_holds_everything_once_in_an_order_of_its_own():
    design = Design(levels=(1, 2, 4, 8), repeats=12, seed=3)
    rounds = list(design.rounds())
    assert len(rounds) == 12
    for turns in rounds:
        assert Counter(turns) == Counter([PLAIN, *map(PlannedMeasurement, (1, 2, 4, 8))])
    assert len({tuple(turns) for turns in rounds}) > 6
    assert {turns[0] for turns in rounds} != {PLAIN}


def test_the_order_is_that_of_the_seed_and_more_rounds_go_on_with_it():
    few, more = Design(levels=(1, 2), repeats=2, seed=7), Design(levels=(1, 2), repeats=5, seed=7)
    assert list(more.rounds())[:2] == list(few.rounds())
    others = [list(Design(levels=(1, 2, 4), repeats=3, seed=seed).rounds()) for seed in range(5)]
    assert any(each != others[0] for each in others)


def test_levels_are_sorted_and_counted_once():
    assert Design(levels=(4, 1, 2, 1)).levels == (1, 2, 4)
    assert Design(levels=(4, 1, 2)).most == 4


def test_sizes_are_swept_by_one_n():
    design = Design(levels=(2,), sizes=(100, 1, 10))
    assert design.turns == (PlannedMeasurement(2, 1), PlannedMeasurement(2, 10), PlannedMeasurement(2, 100))


def test_weak_scaling_shares_the_work_out():
    design = Design(levels=(1, 2, 4), weak=True)
    assert [design.share(n) for n in design.levels] == [0.25, 0.5, 1.0]
    assert Design(levels=(1, 2, 4)).share(1) == 1.0


def test_the_budget_ends_a_design_after_two_rounds_at_the_soonest():
    design = Design(levels=(1, 2), repeats=4, most_plain=10.0)
    assert design.affords(0, spent_s=0.0, plain_s=0.0)
    assert design.affords(1, spent_s=99.0, plain_s=1.0)
    assert design.affords(2, spent_s=6.6, plain_s=1.0)
    assert not design.affords(2, spent_s=6.7, plain_s=1.0)
    assert not design.affords(4, spent_s=0.1, plain_s=1.0)
    assert Design(levels=(1, 2), repeats=4).affords(3, spent_s=99.0, plain_s=1.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"levels": ()}, "workers"),
        ({"levels": (1,)}, "only one N"),
        ({"levels": (2, 2)}, "only one N"),
        ({"levels": (0, 1)}, "workers"),
        ({"levels": (1, True)}, "workers"),
        ({"levels": (1, 2.5)}, "workers"),
        ({"levels": (1, 2), "repeats": 0}, "repeats=0"),
        ({"levels": (1, 2), "sizes": (1, 10, 100)}, "one number of workers"),
        ({"levels": (1,), "sizes": (1, 10)}, "three"),
        ({"levels": (1,), "sizes": (0, 1, 10)}, "sizes"),
        ({"levels": (1,), "sizes": (1, 10, 100), "weak": True}, "weak"),
    ],
)
def test_what_measures_nothing_is_refused(wrong, said):
    with pytest.raises(UsageError) as error:
        Design(**wrong)
    assert said in str(error.value)
    assert error.value.fix


@pytest.mark.parametrize(
    ("workers", "sizes", "levels"),
    [
        (None, (), (1, 2, 4, 6)),
        (8, (), (1, 2, 4, 8)),
        (1, (), (1,)),
        ([3, 1], (), (3, 1)),
        (None, (1, 2, 3), (1,)),
        (4, (1, 2, 3), (4,)),
    ],
)
def test_what_workers_means(workers, sizes, levels):
    assert levels_of(workers, cores=6, sizes=sizes) == levels


def test_one_core_is_measured_with_two_workers_all_the_same():
    assert levels_of(None, cores=1) == (1, 2)
