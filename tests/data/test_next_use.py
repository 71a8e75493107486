"""What is fetched and what gives way: as few fetches as there can be, never more than fits, whatever comes in whatever order."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.data.next_use import NEVER, FetchOrder, NextFetch, NextUse
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


@pytest.mark.needs("cpu")
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


@pytest.mark.needs("cpu")
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


@pytest.mark.needs("cpu")
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


@pytest.mark.needs("cpu")
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


@pytest.mark.needs("cpu")
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


@pytest.mark.needs("cpu")
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


# --- What is fetched next.


class Fetching:
    """Fetches as an order says, a few at a time, into a room of some bytes; landings come in any order, and may fail."""

    def __init__(self, chance, *, ahead=1 << 20):
        self.chance = chance
        self.sizes = np.array([chance.randint(1, 5) for _ in range(10)])
        self.limit = chance.randint(int(self.sizes.max()), int(self.sizes.sum()))
        self.order = FetchOrder(self.sizes, self.limit, ahead=ahead)
        self.taken, self.flying, self.reserved = 0, [], {}
        self.fetched = Counter()
        self.waited = set()
        """Units that came without room, at the last landing."""

    def held(self):
        return set(np.flatnonzero(self.order.uses.held).tolist())

    def start(self):
        """As a thread does: the choice, then room for it."""
        choice = self.order.next()
        if choice is None:
            return None
        self.check(choice)
        if not self.make_room(choice) and not choice.urgent:
            return None
        self.order.begun(choice.unit)
        self.flying.append(choice.unit)
        return choice

    def make_room(self, choice):
        size = int(self.sizes[choice.unit])
        if self.taken + size > self.limit:
            self.order.look_ahead()
        while self.taken + size > self.limit:
            before = self.held()
            gone = self.order.give_way(choice.before, lambda _: NEVER)
            if gone is None:
                return False
            assert gone in before
            assert gone not in self.held()
            if not choice.urgent:
                assert self.order.uses.next[gone] > choice.before, "it is used before what takes its place"
            latest = max(int(self.order.uses.next[unit]) for unit in before)
            assert self.order.uses.next[gone] == latest, "another one is used later"
            self.taken -= int(self.sizes[gone])
        self.taken += size
        self.reserved[choice.unit] = size
        return True

    def check(self, choice):
        uses = self.order.uses
        assert not uses.held[choice.unit], "it is there"
        assert choice.unit not in self.flying, "it is coming"
        if not choice.urgent and choice.unit not in self.order.expected:
            assert not self.order.expected, "what is expected comes first"
            missing = [unit for unit in range(10) if not uses.held[unit] and not uses.coming[unit]]
            assert choice.before == uses.next[choice.unit] == min(int(uses.next[unit]) for unit in missing)

    def land(self, *, fails=False):
        self.waited = set()
        if not self.flying:
            return
        unit = self.flying.pop(self.chance.randrange(len(self.flying)))
        size = self.reserved.pop(unit, 0)
        self.waited = set() if size else {unit}
        there = bool(size) and not fails
        if not there:
            self.taken -= size
        self.fetched[unit] += there
        self.order.ended(unit, there=there)
        assert self.taken <= self.limit
        assert self.taken == sum(self.sizes[unit] for unit in self.held()) + sum(self.reserved.values())


@pytest.mark.long
@pytest.mark.needs("cpu")
@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False))
def test_what_is_waited_for_comes_first_then_what_is_expected_then_what_is_planned(chance):
    """Any calls in any order. What gives way is always used last of all, and after what takes its place."""
    fetching = Fetching(chance)
    order, expected, urgent = fetching.order, [], set()
    for _ in range(80):
        match chance.choice(
            ["follow", "begin", "expect", "wait", "start", "start", "land", "land", "fail", "use"]
        ):
            case "follow":
                windows = [np.array(sorted(chance.sample(range(10), chance.randint(1, 5)))) for _ in range(6)]
                order.follow(iter(windows), 3)
            case "begin":
                for unit in order.begin(np.array(sorted(chance.sample(range(10), 3)))):
                    order.found(unit, there=unit in fetching.held())
            case "expect":
                unit = chance.randrange(10)
                if not order.uses.held[unit]:
                    new = unit not in order.pending
                    order.expect(unit)
                    expected += [unit] * new
            case "wait":
                unit = chance.randrange(10)
                if not order.uses.held[unit]:
                    new = unit not in order.pending
                    order.wait_for(unit)
                    expected += [unit] * new
                    urgent |= {unit} & set(expected)
            case "start":
                first = next((unit for unit in expected if unit in urgent), None)
                wanted = first if first is not None else next(iter(expected), None)
                choice = order.next()
                if wanted is not None:
                    assert choice is not None
                    assert (choice.unit, choice.urgent) == (wanted, first is not None)
                if (done := fetching.start()) is not None and done.unit in expected:
                    expected.remove(done.unit)
                    urgent.discard(done.unit)
            case "land":
                fetching.land()
            case "fail":
                fetching.land(fails=True)
            case "use":
                order.uses.use(chance.randrange(10))
        assert list(order.expected) == expected
        assert set(order.pending) == {*expected, *fetching.flying}


@pytest.mark.needs("cpu")
@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_an_epoch_is_read_whatever_the_room_and_how_many_are_fetched_at_once(chance, at_once):
    """Each window finds what it uses, after waiting at most; with room for all, each unit is fetched once, in the order of its use."""
    fetching = Fetching(chance)
    windows = [np.array(sorted(chance.sample(range(10), chance.randint(1, 4)))) for _ in range(8)]
    order = fetching.order
    order.follow(iter(windows), len(windows))
    started = []
    for window in windows:
        order.begin(window)
        for unit in chance.sample(window.tolist(), len(window)):
            while not order.uses.held[unit]:
                while len(fetching.flying) < at_once and (choice := fetching.start()) is not None:
                    started.append(choice.unit)
                if unit not in fetching.flying and not order.uses.held[unit]:
                    order.wait_for(unit)
                    choice = fetching.start()
                    assert choice is not None
                    assert choice.urgent
                    started.append(choice.unit)
                fetching.land()
                if unit in fetching.waited:  # without room, it came for its reader alone
                    break
            order.uses.use(unit, once=order.once)
    if fetching.limit >= fetching.sizes.sum():
        assert max(fetching.fetched.values()) == 1


@pytest.mark.needs("cpu")
@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 40))
def test_it_fetches_so_many_bytes_ahead_and_two_windows_at_least(chance, ahead):
    sizes = np.full(60, 4)
    windows = [np.arange(3 * at, 3 * at + 3) for at in range(20)]
    order = FetchOrder(sizes, int(sizes.sum()), ahead=ahead)
    order.follow(iter(windows), len(windows))
    far = max(2, min(20, ahead // 12))
    for now in range(5):
        order.begin(windows[now])
        found = []
        while (choice := order.next()) is not None:
            order.begun(choice.unit)
            found.append(choice.unit)
            order.ended(choice.unit, there=True)
        wanted = range(0 if now == 0 else 3 * (now + far), 3 * (now + 1 + far))
        assert found == list(wanted), "in the order of their use"


def test_a_unit_that_could_not_be_fetched_is_left_until_the_next_window_unless_somebody_waits():
    order = FetchOrder(np.ones(4, np.int64), 4, ahead=100)
    windows = [np.array([0, 1]), np.array([0, 2])]
    order.follow(iter(windows), 2)
    assert order.begin(windows[0]) == []
    for _ in range(2):
        order.begun(order.next().unit)
    order.ended(0, there=False)
    assert order.next().unit == 2
    order.wait_for(0)
    assert order.next() == NextFetch(0, -1, urgent=True)
    order.begun(0)
    order.ended(0, there=False)
    assert order.begin(windows[1]) == [0]
    order.found(0, there=False)
    assert order.next().unit == 0


def test_a_window_of_more_than_half_of_the_room_gives_way_as_it_is_read():
    for limit, once in ((12, False), (11, True)):
        order = FetchOrder(np.full(4, 3), limit, ahead=100)
        order.follow(iter([np.array([0, 1])]), 1)
        assert order.once is once


class PlannedFirst(FetchOrder):
    def next(self):
        planned = self._planned()
        return super().next() if planned is None else NextFetch(planned, int(self.uses.next[planned]))


class NobodyFirst(FetchOrder):
    def wait_for(self, unit):
        super().wait_for(unit)
        self._urgent.clear()


class GivesWayToLater(FetchOrder):
    def give_way(self, before, others):
        return super().give_way(-1, others)


class ForgetsWhatComes(FetchOrder):
    def begun(self, unit):
        super().begun(unit)
        self.uses.coming[unit] = False


@pytest.mark.parametrize("weakened", [PlannedFirst, NobodyFirst, GivesWayToLater, ForgetsWhatComes])
def test_a_weakened_order_is_noticed(weakened, monkeypatch):
    monkeypatch.setitem(globals(), "FetchOrder", weakened)
    check = test_what_is_waited_for_comes_first_then_what_is_expected_then_what_is_planned

    def try_some():
        for seed in range(300):
            check.hypothesis.inner_test(random.Random(seed))

    with pytest.raises(AssertionError):
        try_some()
