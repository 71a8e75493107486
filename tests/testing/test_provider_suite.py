"""The suite of providers itself: the fake one keeps it, and what breaks a promise is found."""

import pytest

from hooke.testing import FakeProvider, check_provider
from hooke.testing.virtual_world import NO_FAULTS, World


class Place:
    """Fake providers of several fleets in one virtual time."""

    def __init__(self, kind=FakeProvider):
        self.world = World(0, NO_FAULTS)
        self.kind = kind
        self.fleets = {}

    def make(self, tag):
        return self.fleets.setdefault(tag, self.kind(world=self.world, work_s=5.0))

    def sleep(self, seconds):
        self.world.clock.time += seconds


def check(kind=FakeProvider):
    place = Place(kind)
    check_provider(place.make, sleep=place.sleep, now=place.world.clock.now, patience_s=200.0)


def test_the_fake_provider_keeps_it():
    check()


class ForgetsTokens(FakeProvider):
    def _start(self, token, chance, **more):
        return super()._start("", chance, **more)


class LeavesThem(FakeProvider):
    def release(self, machine):
        """Nothing happens."""


class StartsTwice(FakeProvider):
    def launch(self, token):
        known = [machine.id for machine in self.machines.values()]
        return known[0] if known else super().launch(token)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (ForgetsTokens, "bears the token"),
        (LeavesThem, "that was released is gone"),
        (StartsTwice, "two launches are two machines"),
    ],
)
def test_a_broken_promise_is_named(kind, says):
    with pytest.raises(AssertionError, match=says):
        check(kind)
