"""An alias ends at the best, however those who register at once are interleaved."""

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.base.errors import HookeError, UsageError
from hooke.models.registry_protocol import (
    METRICS,
    WANTS,
    Aim,
    RegisteredVersion,
    elect,
    holder_of,
    not_better,
    parse_aim,
    settling,
)


def version(
    number: int, auc: float | None, *, wants: bool = True, aliases=(), at: float = 1000.0
) -> RegisteredVersion:
    tags = ({WANTS: "champion"} if wants else {}) | (
        {METRICS: json.dumps({"auc": auc})} if auc is not None else {}
    )
    return RegisteredVersion(name="m", number=number, tags=tags, aliases=aliases, created_at=at)


class Shelf:
    """A registry in memory. `move` is all there is to an alias: no compare and swap."""

    def __init__(self, holder: float | None) -> None:
        self.values = {} if holder is None else {1: holder}
        self.holder = 1 if self.values else None

    def versions(self) -> list[RegisteredVersion]:
        return [
            version(number, value, wants=number > 1, aliases=("champion",) if number == self.holder else ())
            for number, value in sorted(self.values.items(), reverse=True)
        ]

    def contender(self, aim: Aim, value: float):
        """Registers, one step at a time."""
        holder = holder_of("champion", self.versions())
        yield
        if holder is not None and not aim.better(value, holder.metrics["auc"]):
            return
        number = max([1, *self.values]) + 1
        self.values[number] = value
        yield
        steps = settling(aim, "champion", version(number, value))
        asked = next(steps)
        try:
            while True:
                if asked is None:
                    seen = self.versions()
                    yield
                    asked = steps.send(seen)
                else:
                    self.holder = asked.number
                    yield
                    asked = next(steps)
        except StopIteration:
            return


@pytest.mark.needs("cpu")
@given(
    st.none() | st.integers(0, 5).map(float),
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=5),
    st.booleans(),
    st.data(),
)
def test_whoever_comes_when_the_best_has_the_alias_in_the_end(holder, values, lower, data):
    aim, shelf = Aim(metric="auc", lower=lower), Shelf(holder)
    running = [shelf.contender(aim, value) for value in values]
    while running:
        each = data.draw(st.sampled_from(running))
        try:
            next(each)
        except StopIteration:
            running.remove(each)
    best = (min if lower else max)([*values, *([] if holder is None else [holder])])
    assert shelf.values[shelf.holder] == best
    if holder == best:
        assert shelf.holder == 1, "a tie does not move it"


def test_of_equals_the_oldest_has_it():
    aim = Aim(metric="auc")
    assert elect(aim, "champion", version(3, 0.8), [version(3, 0.8), version(2, 0.8)]).number == 2
    holder = version(1, 0.8, aliases=("champion",))
    assert elect(aim, "champion", version(3, 0.8), [version(3, 0.8), holder]).number == 1


def test_old_losers_do_not_come_back_when_somebody_moves_the_alias_down():
    loser = version(2, 0.9, at=100.0)
    holder = version(1, 0.7, wants=False, aliases=("champion",))
    mine = version(3, 0.8)
    assert elect(Aim(metric="auc"), "champion", mine, [mine, loser, holder]).number == 3


def test_a_holder_without_the_metric_gives_way_to_a_number():
    mine, holder = version(2, 0.1), version(1, None, aliases=("champion",))
    assert elect(Aim(metric="auc"), "champion", mine, [mine, holder]).number == 2


def test_an_alias_that_never_rests_is_said():
    steps = settling(Aim(metric="auc"), "champion", version(2, 0.8))

    def never_rests():
        asked = next(steps)
        while True:
            asked = steps.send([version(2, 0.8)]) if asked is None else next(steps)

    with pytest.raises(HookeError, match="keeps moving while it is checked"):
        never_rests()


@pytest.mark.parametrize(
    ("text", "aim", "new", "old", "better"),
    [
        ("auc", Aim(metric="auc"), 0.8, 0.7, True),
        ("auc", Aim(metric="auc"), 0.7, 0.7, False),
        ("auc", Aim(metric="auc"), 0.6, 0.7, False),
        ("-loss", Aim(metric="loss", lower=True), 0.6, 0.7, True),
        ("-loss", Aim(metric="loss", lower=True), 0.7, 0.7, False),
        ("-loss", Aim(metric="loss", lower=True), 0.8, 0.7, False),
        ("auc", Aim(metric="auc"), math.nan, 0.7, False),
        ("auc", Aim(metric="auc"), 0.1, math.nan, True),
        ("auc", Aim(metric="auc"), math.nan, math.nan, False),
    ],
)
def test_both_directions_and_ties(text, aim, new, old, better):
    assert parse_aim(text) == aim
    assert str(aim) == text
    assert aim.better(new, old) is better


def test_an_aim_is_a_metric():
    with pytest.raises(UsageError, match="names no metric"):
        parse_aim("-")


def test_what_is_said_of_a_loser():
    aim = Aim(metric="auc")
    assert not_better(aim, 0.7, 0.8, version(4, 0.8)) == "auc 0.7 is not better than 0.8 of version 4"
    assert not_better(aim, 0.8, 0.8, version(4, 0.8)) == "auc 0.8 equals 0.8 of version 4"


@pytest.mark.parametrize("tag", ["nonsense", "[1]", '{"auc": "high"}', '{"auc": null}'])
def test_a_tag_that_somebody_wrote_by_hand_is_no_metric(tag):
    assert msgspec.structs.replace(version(1, 0.5), tags={METRICS: tag}).metrics == {}
