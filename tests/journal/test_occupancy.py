"""Items that took far longer than the others."""

from hooke.base.ref import Ref
from hooke.journal.events import AttemptFinished, NodePlanned
from hooke.journal.occupancy import skewed_items

REF = Ref(digest="0" * 64, size=1)


def run(seconds, *, kind="map", chunk=1):
    yield NodePlanned(node=0, task="nap", key="k", kind=kind, items=len(seconds))
    for lo in range(0, len(seconds), chunk):
        yield AttemptFinished(
            attempt=lo, node=0, lo=lo, hi=lo + chunk, ref=REF, seconds=sum(seconds[lo : lo + chunk])
        )


def test_the_long_one_is_named_with_what_it_is_compared_with():
    (one,) = skewed_items(run([0.5] * 30 + [12.0] + [0.6] * 20))
    assert (one.task, one.item, one.seconds, one.items) == ("nap", 30, 12.0, 51)
    assert str(one) == (
        "nap[30] took 12.0 s, 24 times the median of 51 items (500 ms): with more workers the map takes as long"
    )


def test_of_several_the_three_longest_come_longest_first():
    assert [one.item for one in skewed_items(run([1.0] * 20 + [9.0, 30.0, 8.0, 20.0]))] == [21, 23, 20]


def test_nothing_is_said_where_it_would_mean_nothing():
    assert not skewed_items(run([1.0] * 50))
    assert not skewed_items(run([1.0, 1.0, 50.0]))  # of few, none is usual
    assert not skewed_items(run([0.001] * 50 + [0.9]))  # nobody waits for that
    assert not skewed_items(run([1.0] * 50 + [60.0] * 2, chunk=2))  # which of two it was is not known
    assert not skewed_items(run([1.0] * 50 + [60.0], kind="call"))
