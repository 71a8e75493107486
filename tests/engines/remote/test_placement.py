"""Where attempts go, without any host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.engines.remote.placement import MOST_AHEAD, STUCK_S, Peer, Placement
from hooke.engines.remote.worker_protocol import HostReport
from hooke.pipeline.engine import Call, FunctionImage

IMAGE = FunctionImage(digest="d", name="f", code_key="k", parts={}, function=len, pickle=lambda: b"")


def call(attempt: int, **more) -> Call:
    return Call(
        attempt=attempt, node=0, number=1, kind="call", lo=0, hi=1, image=IMAGE, payload=b"", shown="", **more
    )


def peer(address: str, *, threads: int = 1, gpus: int = 0, machine: str = "h") -> Peer:
    report = HostReport(
        id=address, pid=1, host=machine, python="", hooke="", threads=threads, memory=None, gpus=gpus
    )
    return Peer(address=address, name=address, report=report)


def placement(*peers: Peer) -> Placement:
    made = Placement()
    made.peers = {each.address: each for each in peers}
    return made


def filled(made: Placement, calls: list[Call]) -> list[str]:
    places = []
    for each in calls:
        chosen = made.choose(each)
        if chosen is not None:
            made.put(each, chosen)
        places.append("" if chosen is None else chosen.address)
    return places


def test_the_emptiest_first_and_no_more_than_threads():
    made = placement(peer("a", threads=2), peer("b"))
    assert filled(made, [call(n) for n in range(4)]) == ["a", "b", "a", ""]


def test_cpus_are_held():
    made = placement(peer("a", threads=4))
    assert filled(made, [call(1, cpus=3), call(2, cpus=2), call(3), call(4)]) == ["a", "", "a", ""]


def test_what_asks_for_more_than_there_is_runs_alone():
    made = placement(peer("a", threads=2))
    assert filled(made, [call(1, cpus=8), call(2)]) == ["a", ""]


def test_gpus_only_where_they_are():
    made = placement(peer("a"), peer("b", gpus=1))
    assert filled(made, [call(1, gpus=1), call(2, gpus=1)]) == ["b", ""]


def test_quick_calls_wait_behind_quick_ones_only():
    made = placement(peer("a"), peer("b"))
    assert filled(made, [call(1), call(2, short=True), call(3, short=True)]) == ["a", "b", "b"]


def test_what_was_quick_is_expected_to_be_quick():
    made = placement(peer("a"))
    filled(made, [call(1)])
    made.take(1, seconds=0.001)
    assert filled(made, [call(n) for n in range(2, 5)]) == ["a", "a", "a"]


def test_nothing_goes_to_a_host_that_is_to_go():
    made = placement(peer("a"), peer("b"))
    made.peers["a"].retiring = True
    assert filled(made, [call(1), call(2)]) == ["b", ""]


def test_a_host_that_takes_nothing_for_now_gives_back_what_has_not_begun_but_for_gangs():
    made = placement(peer("a", threads=3), peer("b"))
    assert filled(made, [call(1), call(2), call(3)]) == ["a", "b", "a"]
    made.peers["a"].shut = True
    assert filled(made, [call(4)]) == [""]
    assert made.begin(1, 0.0)
    made.put_gang(call(5), [(made.peers["a"], 1)])
    assert made.waiting(made.peers["a"]) == [3]


def test_those_behind_one_that_is_stuck_are_asked_back_once_if_there_is_room():
    made = placement(peer("a"))
    filled(made, [call(n, short=True) for n in range(4)])
    assert made.begin(0, 0.0)
    assert made.to_ask_back(STUCK_S * 2) == []
    made.peers["b"] = peer("b", threads=2)
    assert [(asked.address, attempts) for asked, attempts in made.to_ask_back(STUCK_S * 2)] == [("a", [2, 3])]
    assert [(asked.address, attempts) for asked, attempts in made.to_ask_back(STUCK_S * 2)] == [("a", [1])]
    assert made.to_ask_back(STUCK_S * 2) == []


def test_where_the_inputs_are_comes_first_among_those_with_room():
    made = placement(peer("a", machine="m"), peer("b", machine="n"), peer("c", machine="n"))
    made.stored("large", made.peers["c"])
    made.stored("small", made.peers["a"])
    inputs = {"large": 1000, "small": 10}
    assert filled(made, [call(n, inputs=inputs) for n in range(4)]) == ["b", "c", "a", ""]


def test_a_second_attempt_goes_to_another_machine_if_it_can():
    made = placement(
        peer("a", machine="m", threads=3), peer("b", machine="m", threads=2), peer("c", machine="n")
    )
    made.stored("x", made.peers["a"])
    assert filled(made, [call(1, inputs={"x": 9})]) == ["a"]
    seconds = [call(n, inputs={"x": 9}, twin_of=1) for n in (2, 3, 4, 5)]
    assert filled(made, seconds) == ["c", "b", "b", "a"]


def test_what_was_read_is_there_from_then_on():
    made = placement(peer("a", machine="m"), peer("b", machine="n"))
    filled(made, [call(1), call(2, inputs={"x": 1})])
    made.take(2)
    made.take(1)
    assert filled(made, [call(3, inputs={"x": 1})]) == ["b"]


def test_an_attempt_begins_once_and_only_where_it_is():
    made = placement(peer("a"))
    filled(made, [call(1)])
    assert [made.begin(1, 0.0), made.begin(1, 0.0), made.begin(2, 0.0)] == [True, False, False]
    assert made.take(1) is not None
    assert made.take(1) is None
    assert not made.has_begun(1)


@pytest.mark.needs("cpu")
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.tuples(st.sampled_from([0.5, 1, 2, 8]), st.booleans()), max_size=40),
)
def test_no_host_ever_has_more_than_it_can_do(threads, asked):
    made = placement(*(peer(f"p{n}", threads=count) for n, count in enumerate(threads)))
    calls = [call(n, cpus=cpus, short=short) for n, (cpus, short) in enumerate(asked)]
    placed = filled(made, calls)
    for each in made.peers.values():
        here = list(each.calls.values())
        assert len(here) <= each.report.threads * (1 + MOST_AHEAD)
        if len(here) > each.report.threads:
            assert all(other.short for other in here)
        else:
            assert sum(min(other.cpus, each.report.threads) for other in here) <= each.report.threads or all(
                other.short for other in here
            )
    if "" in placed:
        unplaced = calls[placed.index("")]
        assert not any(each.has_room(unplaced) for each in made.peers.values())
