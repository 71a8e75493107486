"""What is fetched and what gives way: as few fetches as there can be, never more than fits, whatever comes in whatever order."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.data.next_use import NEVER, NextUse
from hooke.data.order import Blocks, EqualBatches, Order
from hooke.data.quality import plan_layout


def fewest_fetches(uses, room):
    """By trying all: of every set that can be held, how many fetches it took to have it."""
    states = {frozenset(): 0}
    for unit in uses:
        after = {}
        for held, fetched in states.items():
            if unit in held:
                choices = [(held, fetched)]
            elif len(held) < room:
                choices = [(held | {unit}, fetched + 1)]
            else:
                choices = [((held - {gone}) | {unit}, fetched + 1) for gone in held]
            for state, count in choices:
                after[state] = min(after.get(state, count), count)
        states = after
    return min(states.values())


def fetches(uses, room, units):
    plan = NextUse(units)
    for unit in uses:
        plan.tell(np.array([unit]))
    count = 0
    for number, unit in enumerate(uses):
        if number:
            plan.begin()
        if not plan.held[unit]:
            count += 1
            if plan.held.sum() == room:
                plan.drop(plan.farthest())
            plan.hold(unit)
        plan.use(unit)
    return count


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=14), st.integers(1, 4))
def test_no_other_choice_fetches_less(uses, room):
    assert fetches(uses, room, 6) == fewest_fetches(uses, room)


def test_a_plan_that_forgets_the_least_recently_used_fetches_more():
    """The bar of the test above tells the two apart."""
    uses = [0, 1, 2, 0, 1, 2, 0, 1, 2]
    held, count = [], 0
    for unit in uses:
        if unit not in held:
            count += 1
            held = held[-1:]
        else:
            held.remove(unit)
        held.append(unit)
    assert count == 9 > fewest_fetches(uses, 2) == fetches(uses, 2, 3)


class Model:
    """The next uses, the plain way."""

    def __init__(self):
        self.windows, self.now, self.held, self.used, self.count = [], 0, set(), {}, 0

    def next(self, unit):
        later = [w for w, units in self.windows if unit in units and w >= self.now]
        return min(later, default=NEVER)


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False))
def test_it_knows_the_next_use_of_each(chance):
    """Any calls in any order, with windows of any number of units; also those that are skipped."""
    plan, model, told = NextUse(8), Model(), 0
    for _ in range(60):
        match chance.choice(["tell", "tell", "begin", "use", "hold", "drop", "forget", "wanted"]):
            case "tell":
                units = set(chance.sample(range(8), chance.randint(0, 6)))
                plan.tell(np.array(sorted(units), np.int64))
                model.windows.append((max(told, model.now), units))
                told = max(told, model.now) + 1
            case "begin":
                plan.begin()
                model.now += 1
                told = max(told, model.now)
            case "use":
                unit = chance.randrange(8)
                once = chance.random() < 0.7
                plan.use(unit, once=once)
                model.count += 1
                model.used[unit] = model.count
                if once:
                    model.windows = [(w, u - {unit} if w == model.now else u) for w, u in model.windows]
            case "hold":
                unit = chance.randrange(8)
                plan.hold(unit)
                model.held.add(unit)
            case "drop":
                unit = chance.randrange(8)
                plan.drop(unit)
                model.held.discard(unit)
            case "forget":
                plan.forget()
                model.windows, told = [], model.now
            case "wanted":
                until = model.now + chance.randint(0, 4)
                due = {unit: model.next(unit) for unit in range(8) if unit not in model.held}
                found = plan.wanted(until)
                first = min(due.values(), default=NEVER)
                assert (found is None) == (first >= until)
                assert found is None or due[found] == first
        assert plan.next.tolist() == [model.next(unit) for unit in range(8)]
        ranked = sorted(model.held, key=lambda u: (-model.next(u), model.used.get(u, 0), u))
        assert plan.farthest() == (ranked[0] if ranked else None)


def test_what_is_fetched_comes_in_the_order_of_use_and_never_pushes_out_what_is_used_before_it():
    """Windows of random units, a budget in bytes, and units of any size: as the threads do it."""
    for seed in range(40):
        chance = random.Random(seed)
        sizes = [chance.randint(1, 9) for _ in range(30)]
        budget = chance.randint(20, 60)
        windows = [chance.sample(range(30), chance.randint(1, 6)) for _ in range(40)]
        plan = NextUse(30)
        for window in windows:
            plan.tell(np.array(window))
        for number, window in enumerate(windows):
            if number:
                plan.begin()
            while (unit := plan.wanted(number + 4)) is not None:
                there = plan.next[unit]
                while sum(sizes[u] for u in np.flatnonzero(plan.held)) + sizes[unit] > budget:
                    victim = plan.farthest()
                    if victim is None or plan.next[victim] <= there:
                        break
                    plan.drop(victim)
                else:
                    plan.hold(unit)
                    continue
                break
            held = set(np.flatnonzero(plan.held).tolist())
            assert sum(sizes[u] for u in held) <= budget
            late = [u for u in held if plan.next[u] > number]
            if any(u not in held for u in window):  # then there was no room but by what is used as soon
                assert not late or sum(sizes[u] for u in held - set(late)) + max(sizes) > budget
            for unit in window:
                plan.use(unit)


def test_uses_by_others_count_too():
    plan = NextUse(3)
    plan.tell(np.array([0]))
    for unit in range(3):
        plan.hold(unit)
    assert plan.farthest() == 1
    assert plan.farthest(lambda unit: 0 if unit == 1 else NEVER) == 2
    assert plan.farthest(lambda unit: 0) in (0, 1, 2)
    plan.rank_again()
    assert plan.farthest() == 1


def test_it_takes_memory_for_the_windows_to_come_alone():
    plan = NextUse(100)
    for _ in range(5000):
        plan.tell(np.arange(100))
        for unit in range(0, 100, 7):
            plan.hold(unit)
            plan.use(unit)
        plan.begin()
    assert plan._units.size <= 1 << 14
    assert len(plan._farthest) <= 5000


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 24, 7])
@pytest.mark.parametrize("rows", [1, 25, 777, 50_003])
def test_the_blocks_of_a_window_are_those_of_its_rows(rows, ranks):
    layout = plan_layout(rows, 100.0, 24, 200_000, 4)
    order = Order(layout, 3, 2)
    for window, rank in itertools.product(range(layout.windows), range(ranks)):
        read = np.unique(order.of_window(window, rank, ranks) & -layout.block)
        told = order.blocks_of_window(window, rank, ranks)
        assert np.isin(read, told).all()
        assert np.unique(told).size == told.size
        if not layout.lanes % ranks and layout.cell:
            spare = np.unique(order._pooled(window) & -layout.block).size
            assert told.size <= read.size + spare


def test_a_plan_tells_windows_from_a_step_on():
    layout = plan_layout(50_003, 100.0, 24, 200_000, 4)
    plan = EqualBatches(Blocks(layout, 1), 24, drop_last=False)
    for start in (0, 1, 500, plan.steps(2) - 1):
        told = []
        parts = plan.parts(1, 1, 2, start, told.append)
        for _ in parts:
            pass
        windows = plan.windows(1, 1, 2, start)
        for rows, blocks in itertools.zip_longest(told, windows.blocks):
            assert np.isin(rows & -windows.block, blocks).all()
        assert windows.count == layout.windows
