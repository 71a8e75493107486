"""The cache of models against every order of events: one load at a time, nobody loses a model in use, the oldest gives way."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hooke.serving.models_by_name.model_cache import Evict, Grant, Load, LoadFailed, ModelCache, TooLarge

BUDGET = 100
SIZES = {"tiny": 10, "small": 30, "half": 50, "most": 90, "whole": 100, "huge": 101}
names = st.sampled_from(sorted(SIZES))


class Played(RuleBasedStateMachine):
    """Requests ask, leave and end, and loads end, in any order."""

    def __init__(self):
        super().__init__()
        self.cache = ModelCache(BUDGET)
        self.number = 0
        self.waiting, self.using, self.done = {}, [], set()
        self.order, self.loading = [], None
        self.known = set()

    def play(self, effects):
        for effect in effects:
            match effect:
                case Load(name):
                    assert self.loading is None
                    assert name not in self.order
                    self.loading = name
                case Evict(name):
                    idle = [one for one in self.order if one not in self.using]
                    assert name == idle[0], "the one that was used least recently, and is not in use"
                    self.order.remove(name)
                case Grant(name, tickets):
                    if name not in self.order:
                        self.order.append(name)
                    self.settle(name, tickets)
                    self.using += [name] * len(tickets)
                    if tickets:
                        self.use(name)
                case TooLarge(name, tickets, size):
                    assert size == SIZES[name] > BUDGET
                    self.settle(name, tickets)
                case LoadFailed(name, tickets):
                    self.settle(name, tickets)

    def use(self, name):
        self.order.remove(name)
        self.order.append(name)

    def settle(self, name, tickets):
        for ticket in tickets:
            assert self.waiting.pop(ticket) == name
            assert ticket not in self.done
            self.done.add(ticket)

    @rule(name=names)
    def ask(self, name):
        self.number += 1
        self.waiting[self.number] = name
        self.play(self.cache.ask(name, self.number))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        self.cache.cancel(self.waiting.pop(ticket), ticket)

    @precondition(lambda self: self.using)
    @rule(data=st.data())
    def release(self, data):
        name = data.draw(st.sampled_from(sorted(set(self.using))))
        self.using.remove(name)
        self.use(name)
        self.play(self.cache.release(name))

    @precondition(lambda self: self.loading)
    @rule(fails=st.booleans())
    def end_of_load(self, fails):
        name, self.loading = self.loading, None
        if fails:
            self.play(self.cache.failed(name))
        else:
            effects = self.cache.loaded(name, SIZES[name])
            if name not in self.known:
                self.known.add(name)
            self.play(effects)

    @invariant()
    def what_is_loaded_is_what_was_said(self):
        assert list(self.cache.loaded_sizes) == self.order
        assert self.cache.used == sum(SIZES[name] for name in self.order)
        assert {name: self.cache.users(name) for name in self.order} == {
            name: self.using.count(name) for name in self.order
        }
        assert set(self.using) <= set(self.order)

    @invariant()
    def only_models_in_use_are_beyond_the_budget(self):
        if self.cache.used > BUDGET:
            idle = [name for name in self.order if name not in self.using]
            assert not idle

    @invariant()
    def nobody_waits_where_there_is_room(self):
        if self.loading is None:
            kept = sum(SIZES[name] for name in set(self.using))
            for name in set(self.waiting.values()):
                needs = SIZES[name] if name in self.known else 0
                assert kept + needs > BUDGET


TestPlayed = pytest.mark.needs("cpu")(Played.TestCase)
TestPlayed.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_a_hundred_requests_for_one_cold_model_load_it_once():
    cache = ModelCache(BUDGET)
    effects = [effect for ticket in range(100) for effect in cache.ask("small", ticket)]
    assert effects == [Load("small")]
    assert cache.loaded("small", 30) == [Grant("small", tuple(range(100)))]


@pytest.mark.parametrize("size", [101, 1000])
def test_a_model_that_is_too_large_is_not_loaded_a_second_time(size):
    cache = ModelCache(BUDGET)
    cache.ask("huge", 1)
    assert cache.loaded("huge", size) == [TooLarge("huge", (1,), size)]
    assert cache.ask("huge", 2) == [TooLarge("huge", (2,), size)]
