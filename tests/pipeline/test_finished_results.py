"""What a journal says was finished, and which attempts there may have been."""

import pytest

from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Failure,
    ItemsFound,
    MapExpanded,
    NodePlanned,
    RunStarted,
)
from hooke.pipeline.finished_results import Recovered, recover

A, B = Ref("a" * 64, 1, b"a"), Ref("b" * 64, 1, b"b")
STARTED = RunStarted(run="r", pipeline="p", entry="e")
NO = Failure(kind="TaskError", message="no")


def planned(node=0, key="k", items=10):
    return NodePlanned(node=node, task="t", key=key, kind="map", items=items)


def test_an_empty_journal_knows_nothing():
    assert recover([]) == Recovered()


def test_finished_found_and_partly_failed_items_are_known():
    recovered = recover(
        [
            planned(),
            AttemptFinished(attempt=1, node=0, lo=0, hi=2, ref=A),
            AttemptFailed(attempt=2, node=0, lo=2, hi=6, failure=NO, done=3, ref=B),
            ItemsFound(node=0, lo=8, hi=10, ref=A, start=4),
            AttemptFailed(attempt=3, node=0, lo=6, hi=7, failure=NO),
        ]
    )
    assert recovered.known["k"].segments == [(0, 2, A, 0), (2, 5, B, 0), (8, 10, A, 4)]


def test_what_is_said_again_by_a_resumed_driver_is_known_once():
    first = AttemptFinished(attempt=1, node=0, lo=0, hi=4, ref=A)
    again = ItemsFound(node=0, lo=0, hi=4, ref=A, source="journal")
    recovered = recover([STARTED, planned(), first, STARTED, planned(), again])
    assert recovered.known["k"].segments == [(0, 4, A, 0)]


def test_results_follow_their_key_when_an_edit_renumbers_nodes():
    finished = AttemptFinished(attempt=1, node=0, lo=0, hi=1, ref=A)
    moved = AttemptFinished(attempt=2, node=1, lo=1, hi=2, ref=B)
    recovered = recover([planned(0, "k"), finished, planned(0, "new"), planned(1, "k"), moved])
    assert recovered.known["k"].segments == [(0, 1, A, 0), (1, 2, B, 0)]
    assert "new" not in recovered.known


@pytest.mark.parametrize("said", [True, False])
def test_a_list_that_was_read_is_known_even_if_the_driver_died_before_it_said_so(said):
    expansion = MapExpanded(node=0, items=3, keys=A)
    events = [planned(items=None), AttemptFinished(attempt=1, node=0, lo=0, hi=0, ref=A, expanded=expansion)]
    known = recover([*events, expansion] if said else events).known["k"]
    assert known.expansion == expansion
    assert known.segments == []


def test_attempt_numbers_go_on_above_all_that_may_have_been_handed_out():
    heard = AttemptStarted(attempt=5, node=0, lo=0, hi=1)
    slots = CapacityChanged(slots=4, cpus=4.0)
    assert recover([STARTED, planned(), heard]).next_attempt == 6
    # A slot may have had a second attempt that was beaten before it began, and 64 short ones that followed one which failed, and
    # has one that has not begun yet and 64 short ones behind it.
    assert recover([STARTED, planned(), slots, heard]).next_attempt == 6 + 4 * 130
    # The second driver began there, handed out up to 526, and died before it heard of one.
    assert (
        recover([STARTED, planned(), slots, heard, STARTED, planned(), slots]).next_attempt == 6 + 2 * 4 * 130
    )


def test_of_two_attempts_at_the_same_items_the_one_that_finished_counts():
    first = AttemptStarted(attempt=1, node=0, lo=0, hi=4)
    second = AttemptStarted(attempt=2, node=0, lo=0, hi=4, twin_of=1)
    broke = AttemptFailed(attempt=1, node=0, lo=0, hi=4, failure=NO, done=2)
    finished = AttemptFinished(attempt=2, node=0, lo=0, hi=4, ref=B)
    assert recover([STARTED, planned(), first, second, broke]).known == {}
    recovered = recover([STARTED, planned(), first, second, broke, finished])
    assert recovered.known["k"].segments == [(0, 4, B, 0)]
