"""The reader of throughput at N: on simulated histories, whose truth is known, and on hostile ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.journal.histories import any_event
from tests.journal.played import History

from hooke.journal.events import AttemptFinished, AttemptStarted, CapacityChanged, Event, RunStarted
from hooke.journal.throughput import throughput


def given_items(events: list[Event]) -> int:
    return sum(event.hi - event.lo for event in events if isinstance(event, AttemptFinished))


def told(result) -> float:
    return sum(row.items for row in result.rows) + sum(each.items for each in result.dropped)


histories = st.builds(
    History,
    maps=st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 80), st.floats(0.01, 3.0)),
        min_size=1,
        max_size=3,
    ),
    sizes=st.lists(st.tuples(st.floats(0.0, 60.0), st.integers(1, 6)), max_size=4).map(
        lambda sizes: [(0.0, 2), *sizes]
    ),
    pause=st.floats(0.0, 0.1),
    chunk=st.integers(1, 5),
    fail=st.frozensets(st.integers(1, 60), max_size=3),
)


@pytest.mark.needs("cpu")
@given(histories)
def test_every_item_counts_once_and_rows_do_not_overlap(history):
    events = history.play()
    result = throughput(events)
    assert told(result) == pytest.approx(given_items(events), abs=1e-6)
    ends = 0.0
    for row in result.rows:
        assert row.began_at >= ends - 1e-9
        ends = row.began_at + row.seconds
        assert row.seconds > 0
        assert row.items >= 0
        assert row.busy_s <= row.n * row.seconds * (1 + 1e-6)
        slots = [
            event.slots for event in events if isinstance(event, CapacityChanged) and event.at <= row.began_at
        ]
        assert row.n == slots[-1]


@pytest.mark.needs("cpu")
@given(
    st.integers(1, 6),
    st.floats(0.05, 2.0),
    st.integers(1, 4),
    st.one_of(st.just(0.0), st.floats(0.001, 0.01)),
)
def test_equal_items_give_the_rate_that_they_were_made_with(n, seconds, chunk, pause):
    events = History([("a", 60 * n, seconds)], [(0.0, n)], chunk=chunk, pause=pause).play()
    result = throughput(events)
    assert {row.n for row in result.rows} == {n}
    for row in result.rows:
        # An attempt's share is of its own time, and the pause lies between two: the edges may hold one more or less.
        assert row.rate == pytest.approx(
            n * chunk / (chunk * seconds + pause), rel=2 * pause / seconds + 1e-6
        )


@pytest.mark.needs("cpu")
@given(st.lists(any_event(), max_size=30))
def test_any_events_at_all_are_read(events):
    begun = RunStarted(run="r", pipeline="p", entry="f.py:p")
    assert throughput([begun, *events]).rows == ()


def test_each_size_of_an_elastic_run_has_its_rows():
    events = History([("a", 300, 1.0)], [(0.0, 1), (40.0, 2), (80.0, 4)]).play()
    result = throughput(events)
    rates = {row.n: row.rate for row in result.rows}
    assert rates == pytest.approx({1: 1.0, 2: 2.0, 4: 4.0})
    assert [row.n for row in result.rows] == sorted(row.n for row in result.rows)


def test_what_is_left_out_is_said():
    events = History([("a", 41, 1.0)], [(0.0, 4)]).play()
    result = throughput(events)
    assert {each.why: each.items for each in result.dropped} == pytest.approx(
        {"its workers were starting": 4.0, "fewer items than workers were left": 1.0}
    )


def test_a_map_with_fewer_items_than_workers_tells_nothing():
    events = History([("a", 3, 1.0)], [(0.0, 4)]).play()
    result = throughput(events)
    assert result.rows == ()
    assert [each.why for each in result.dropped] == ["fewer items than workers were left"]


def test_the_time_in_which_two_tasks_share_the_workers_is_left_out():
    events = History([("a", 41, 1.0), ("b", 41, 1.0)], [(0.0, 2)]).play()
    result = throughput(events)
    assert {row.task for row in result.rows} == {"a", "b"}
    assert "another task ran beside it" in {each.why for each in result.dropped}


def test_failed_attempts_and_their_time_are_left_out():
    events = History([("a", 40, 1.0)], [(0.0, 1)], fail=frozenset({20})).play()
    result = throughput(events)
    assert {round(row.rate, 6) for row in result.rows} == {1.0}
    # The attempt that failed lay between them.
    assert not any(row.began_at < 19.5 < row.began_at + row.seconds for row in result.rows)


def test_n_is_what_the_place_can_run_at_once():
    # Four slots, but two attempts of 32 cpus fill the 64 that there are.
    rows = throughput(History([("a", 100, 1.0)], [(0.0, 4)], cpus=32.0).play()).rows
    assert {(row.n, round(row.rate, 6)) for row in rows} == {(2, 2.0)}


def test_the_kind_of_work_is_told():
    (row, *_) = throughput(History([("a", 40, 1.0)], [(0.0, 1)]).play()).rows
    assert (row.code, row.constants, row.shown) == ({"t": "d"}, {"size": "s3"}, {"size": "3"})
    assert (row.run, row.place, row.host, row.cpus) == ("r", "local:2", "h", 1.0)


def test_a_journal_without_a_beginning_tells_nothing():
    assert throughput([]).rows == ()


def test_the_time_in_which_a_run_had_no_worker_gives_no_row():
    """While work was left: as where the last machine is lost."""
    events = History([("a", 40, 1.0)], [(0.0, 2)]).play()
    end = next(number for number, event in enumerate(events) if event.at > 10.5)
    gone = [CapacityChanged(at=11.0, slots=0, cpus=64.0), CapacityChanged(at=15.0, slots=0, cpus=64.0)]
    begun = {event.attempt for event in events[:end] if isinstance(event, AttemptStarted)}
    ends = [event for event in events[end:] if getattr(event, "attempt", 0) in begun]
    result = throughput([*events[:end], *ends, *gone])
    assert {row.n for row in result.rows} == {2}
    assert told(result) == pytest.approx(given_items([*events[:end], *ends]))
