import itertools
import math
from collections import Counter

import numpy as np
import pytest

from hooke.base.errors import BeyondTheData, UsageError
from hooke.measuring.design import (
    PLAIN,
    Design,
    PlannedMeasurement,
    StudyProgress,
    Taken,
    is_answered,
    levels_of,
    next_turn,
    question_of,
)
from hooke.scaling import cost, fit


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


MANY = (1, 2, 4, 8, 16, 32, 64)
FIVE = (1, 2, 4, 8, 16)


def studied(
    throughput, *, levels=MANY, question="knee", within=None, noise=0.02, warm_s=0.0, seed=0, most=99, **more
):
    """The progress of a study with a budget to its end: N workers are so many times as fast as the plain calls, which take 1 s."""
    asked = question_of(question, within) if question else None
    design = Design(levels=levels, seed=seed, most_plain=10.0, question=asked, **more)
    chance, taken = np.random.default_rng(seed), []
    while True:
        progress = StudyProgress(design=design, taken=tuple(taken), warm_s=warm_s)
        turn = next_turn(progress)
        if turn is None or len(taken) == most:
            return progress
        rate = 1.0 if turn == PLAIN else throughput(turn.n)
        taken.append(
            Taken(turn=turn, seconds=math.exp(noise * chance.standard_normal()) / rate, at=len(taken))
        )


def spent(progress):
    return sum(each.seconds for each in progress.taken)


def amdahl(serial):
    return lambda n: 1 / (serial + (1 - serial) / n)


@pytest.mark.needs("cpu")
def test_a_budget_is_counted_in_plain_calls_which_come_first_then_everything_once_in_random_order():
    orders = {
        tuple(each.turn.n for each in studied(amdahl(0.0), seed=seed, most=8).taken) for seed in range(5)
    }
    assert all(order[0] == 0 and sorted(order[1:]) == list(MANY) for order in orders)
    assert len(orders) == 5


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("levels", [MANY, tuple(range(1, 25)), (1, 2), (1, 2, 3, 4)])
@pytest.mark.parametrize("question", ["knee", ""])
@pytest.mark.parametrize("serial", [0.0, 0.2, 1.0])
def test_no_study_takes_longer_than_ten_plain_calls(levels, question, serial):
    """The last measurement may be longer than was expected by the noise."""
    progress = studied(
        amdahl(serial), levels=levels, question=question, warm_s=amdahl(serial)(levels[-1]) ** -1
    )
    assert spent(progress) + progress.warm_s < 10.0 * progress.plain_s + 0.1
    assert len(progress.taken) <= 3 * (1 + len(levels))
    ns = [each.turn.n for each in progress.taken]
    assert {0, levels[0], levels[-1]} <= set(ns)
    assert len(ns) - len(set(ns)) >= 2, "without repeats the noise is unknown"
    assert len(set(ns)) >= 5 or len(levels) < 5


@pytest.mark.needs("cpu")
def test_of_many_n_that_do_not_scale_those_between_others_are_left_out():
    progress = studied(amdahl(1.0), levels=(1, 2, 4, 8, 9, 10, 16, 32, 64))
    left_out = set(progress.design.levels) - {each.turn.n for each in progress.taken}
    assert 9 in left_out
    assert not {1, 64} & left_out
    scaled = studied(amdahl(0.0), levels=(1, 2, 4, 8, 9, 10, 16, 32, 64))
    assert len({each.turn.n for each in scaled.taken}) == 10


def test_what_takes_less_than_a_second_in_all_is_not_cut_short():
    """Ten plain calls of a hundredth of a second are less than starting the workers takes."""
    design = Design(levels=(1, 2, 4), most_plain=10.0)
    taken = [Taken(turn=turn, seconds=0.01 if turn == PLAIN else 0.06) for turn in design.round(0)]
    assert StudyProgress(design=design, taken=taken).left_s == pytest.approx(1.0 - 0.19)


@pytest.mark.needs("cpu")
def test_a_budget_is_not_counted_in_plain_calls_that_do_the_work_in_another_way():
    """A function that takes a hundredth of the time would leave no budget."""
    for seed in range(3):
        progress = studied(lambda n: 0.01 * n, levels=(1, 2, 4), other_plain=True, seed=seed)
        assert {each.turn.n for each in progress.taken[:2]} == {0, 1}
        assert 900 < spent(progress) + progress.left_s < 1100
        assert progress.repeated >= 3


def test_with_sizes_the_budget_is_counted_in_times_of_the_largest_size():
    """A function that takes a thousandth of the time would else leave out all sizes between others, and repeat nothing."""
    sizes = (10, 100, 1000, 10000)
    design = Design(levels=(1,), sizes=sizes, most_plain=10.0, other_plain=True)
    taken = []
    while (turn := next_turn(StudyProgress(design=design, taken=taken))) is not None:
        seconds = 0.01 if turn == PLAIN else 0.01 + turn.items / 1000
        taken.append(Taken(turn=turn, seconds=seconds, work=float(turn.items or sizes[-1]), at=len(taken)))
    assert {each.turn for each in taken[:2]} == {PLAIN, PlannedMeasurement(1, sizes[-1])}
    assert {each.turn.items for each in taken} == {None, *sizes}
    progress = StudyProgress(design=design, taken=taken)
    assert progress.repeated >= 3
    assert spent(progress) <= 10 * 10.01


def test_something_is_measured_twice_even_beyond_the_budget():
    """Where Hooke takes ten times as long as plain calls, the noise must be known to say so."""
    progress = studied(lambda n: 0.1, levels=(1, 2))
    assert [each.turn.n for each in progress.taken].count(0) == 2
    assert progress.repeated == 1


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_a_study_ends_when_its_answer_is_known_as_well_as_was_asked():
    known, better = studied(amdahl(0.0), levels=FIVE), studied(amdahl(0.0), levels=FIVE, within=1e-6)
    assert len(known.taken) < len(better.taken)
    assert sum(each.turn != PLAIN for each in known.taken) >= 8, "fewer do not show drift"
    law = fit(better.measurements())
    assert not is_answered(question_of("knee", 1e-6), law, better)
    assert is_answered(question_of("knee", 0.25), law, better)


def counted(throughput, **more):
    """N -> how often it was measured in three studies; 0 are the plain calls."""
    return Counter(
        each.turn.n
        for seed in range(3)
        for each in studied(throughput, levels=FIVE, within=1e-6, seed=seed, **more).taken
    )


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_the_time_with_n_workers_is_told_by_measuring_them():
    counts = counted(amdahl(0.1), question="16")
    assert counts[16] == max(counts.values()) > counts[1]


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_what_is_worth_as_much_and_costs_less_comes_first():
    """The knee of a queue of 5 is told by N below and beyond it; those beyond take a fraction of the time."""
    counts = counted(lambda n: min(n, 5))
    assert (counts[8] + counts[16]) / 2 > (counts[1] + counts[2]) / 2


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_the_cost_is_told_by_the_plain_calls_too():
    def slow(n):
        return 0.6 * amdahl(0.05)(n)

    assert counted(slow, question="cost", noise=0.05)[0] > counted(slow, noise=0.05)[0]


@pytest.mark.needs("cpu")
def test_no_n_is_measured_twice_in_succession_so_that_n_does_not_change_with_time():
    for question in ("knee", "16", ""):
        ns = [
            each.turn.n
            for each in studied(
                amdahl(0.1), levels=FIVE, question=question, within=1e-6 if question else None
            ).taken
        ]
        assert all(before != after for before, after in itertools.pairwise(ns))


def test_an_n_is_measured_again_at_once_only_where_nothing_else_fits_into_the_budget():
    design = Design(levels=(1, 16), most_plain=10.0)
    seconds = {0: 1.0, 1: 3.0, 16: 0.2}
    first = [Taken(turn=turn, seconds=seconds[turn.n], at=at) for at, turn in enumerate(design.round(0))]
    again = [PlannedMeasurement(1), PLAIN, PlannedMeasurement(16)]
    taken = [*first, *(Taken(turn=turn, seconds=seconds[turn.n]) for turn in again)]
    rest = StudyProgress(design=design, taken=taken)
    assert rest.left_s > seconds[0]
    assert next_turn(rest) == PLAIN
    spent_too = StudyProgress(design=design, taken=taken, warm_s=1.0)
    assert 0.2 < spent_too.left_s < seconds[0]
    assert next_turn(spent_too) == PlannedMeasurement(16) == taken[-1].turn


@pytest.mark.needs("cpu")
def test_a_cost_far_beyond_the_largest_n_counts_as_there():
    """More measurements of these N would not tell it better."""
    progress = studied(lambda n: 0.01 * n, levels=FIVE, question="cost", noise=0.005)
    law = fit(progress.measurements())
    with pytest.raises(BeyondTheData):
        cost(law, [each.seconds for each in progress.taken if each.turn == PLAIN], work=1.0)
    assert is_answered(question_of("cost", 0.25), law, progress)


def test_where_nothing_is_asked_what_was_measured_most_seldom_comes_next():
    progress = studied(amdahl(0.1), levels=(1, 2, 4), question="")
    counts = Counter(each.turn.n for each in progress.taken)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(
    "wrong", [("speed", None), ("0", None), ("1.5", None), ("knee", 0.0), ("knee", -1.0), ("8", math.inf)]
)
def test_what_no_study_answers_is_refused(wrong):
    with pytest.raises(UsageError) as error:
        question_of(*wrong)
    assert error.value.fix
    assert question_of(None, None) is None
    assert question_of(8, None).within < question_of("knee", None).within == question_of(None, 0.25).within


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
        ({"levels": (1, 16), "question": question_of(33, None)}, "ask for at most 32"),
    ],
)
def test_what_measures_nothing_is_refused(wrong, said):
    with pytest.raises(UsageError) as error:
        Design(**wrong)
    assert said in f"{error.value} {error.value.fix}"
    assert error.value.fix


def test_the_time_with_twice_the_largest_n_may_be_asked_for():
    assert Design(levels=(1, 16), question=question_of(32, None)).question.n == 32


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
