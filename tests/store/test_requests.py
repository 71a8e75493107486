"""How often a scheduler asks a remote store, in requests a node and in round trips; never how long that takes."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.pipeline.test_runner import HandEngine
from tests.store.counted_files import AtOnce, counted

from hooke.journal.events import AttemptFinished, CapacityChanged
from hooke.journal.writer import Journal
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace
from hooke.store import claims
from hooke.store.backends.remote_packs import MOST_SMALL
from hooke.store.entries import Entry
from hooke.store.store import Store
from hooke.testing.virtual_world import VirtualClock

SECRET = b"a secret of sixteen bytes or more"
URL = "s3a://bucket/store"
SLOTS = 40
"""What eight workers have, and what waits behind each."""


@task
def one(x):
    return x + 1


@task
def large(x):
    return bytes([x % 256]) * 100_000


@pipeline
def wide(nodes):
    return [one(at) for at in range(nodes)]


@pipeline
def wide_and_large(nodes):
    return [large(at) for at in range(nodes)]


@pipeline
def chains(length):
    ends = []
    for at in range(SLOTS):
        value = one(1000 * at)
        for _ in range(length - 1):
            value = one(value)
        ends.append(value)
    return ends


@pipeline
def chain(length):
    value = one(0)
    for _ in range(length - 1):
        value = one(value)
    return value


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(claims, "_LATE_S", 60.0)  # a turn takes longer than the real time on a busy machine
    with counted() as server:
        yield server


def drive(folder, wanted, *args, run="run", engine_class=HandEngine, aside=None):
    """A run by a driver of its own, on a host of its own; returns how many attempts it had. `aside` makes claims and commits."""
    clock = VirtualClock()
    store = Store.open(URL, secret=SECRET, near=folder / run, clock=clock)
    graph = trace(wanted, args)
    state = RunState(graph, [NodePlan() for _ in graph.nodes])
    engine = engine_class(store, clock)
    engine.events = [CapacityChanged(slots=SLOTS, cpus=float(SLOTS))]
    events = []
    journal = Journal.create(folder, run, durable="none", clock=clock)
    journal.observers.append(events.append)
    runner = Runner(
        RunnerParts(
            run=run,
            graph=graph,
            keys=GraphKeys(graph, run=run),
            state=state,
            engine=engine,
            store=store,
            journal=journal,
            clock=clock,
            aside=aside or AtOnce(),
        )
    )
    try:
        assert runner.run() == "finished"
    finally:
        journal.close()
    return sum(isinstance(event, AttemptFinished) for event in events)


@pytest.mark.needs("cpu")
def test_a_wide_graph_asks_a_tenth_of_a_request_a_node(server, tmp_path):
    assert drive(tmp_path, wide, 1000) == 1000
    assert len(server.requests) <= 100


@pytest.mark.needs("cpu")
def test_chains_ask_by_the_chunk_and_not_by_the_link(server, tmp_path):
    """Claims are made ahead, of what the workers will do within a second, also of links that follow those. Before, all are looked up at once."""
    assert drive(tmp_path, chains, 25) == 25 * SLOTS
    assert server.rounds <= 20
    assert len(server.requests) <= server.rounds + 10
    server.reset()
    assert drive(tmp_path, chain, 300, run="one") == 275, "25 are those of a chain before"
    assert server.rounds <= 20


@pytest.mark.needs("cpu")
def test_what_another_process_computes_for_long_is_asked_for_ever_more_rarely(server, tmp_path):
    """Not ten times as often for a hundred nodes as for ten: all that wait as long are looked up together, and claimed by the slots."""

    def asked(nodes, held_s):
        server.files.clear()
        clock = VirtualClock()
        other = Store.open(URL, secret=SECRET, near=tmp_path / f"other {nodes} {held_s}", clock=clock)
        keys = GraphKeys(trace(wide, (nodes,)), run="other").nodes
        claims = other.claim_many([key.key for key in keys])
        server.reset()
        counts = []

        class Engine(HandEngine):
            def wait(self, timeout_s):
                if claims and self.clock.time > VirtualClock().time + held_s:
                    counts.append(len(server.requests))
                    other.release(claims)
                    claims.clear()
                return super().wait(timeout_s)

        assert drive(tmp_path, wide, nodes, run=f"{nodes} {held_s}", engine_class=Engine) == nodes
        return counts[0]

    assert asked(100, 40) < 5 * asked(10, 40)
    assert asked(10, 40) - asked(10, 20) < 20 / 2.5 * 20, (
        "every 2.5 s, a lookup and a claim that is taken back"
    )


@pytest.mark.needs("cpu")
def test_what_is_stored_is_found_with_a_hundredth_of_a_request_a_node(server, tmp_path):
    drive(tmp_path, wide, 1000)
    server.reset()
    assert drive(tmp_path, wide, 1000, run="again") == 0
    assert len(server.requests) <= 20
    assert server.rounds <= 5


@pytest.mark.needs("cpu")
def test_a_chain_is_looked_up_at_once_and_not_by_the_link(server, tmp_path):
    """From its end to the first node whose inputs are there."""
    drive(tmp_path, chain, 30)
    server.reset()
    assert drive(tmp_path, chain, 200, run="longer") == 170
    assert Counter(kind for kind, _ in server.requests)["list"] <= 12, "two for each claim ahead"


@pytest.mark.needs("cpu")
def test_large_results_are_asked_after_together(server, tmp_path):
    drive(tmp_path, wide_and_large, 200)
    server.reset()
    assert drive(tmp_path, wide_and_large, 200, run="again") == 0
    assert server.rounds <= 10
    assert Counter(kind for kind, _ in server.requests)["list"] <= 3, "and no listing of all objects"


@pytest.mark.needs("cpu")
def test_a_download_is_one_request(server, tmp_path):
    here = Store.open(URL, secret=SECRET, near=tmp_path / "here")
    refs = [here.put(bytes([at]) * 100_000) for at in range(100)]
    there = Store.open(URL, secret=SECRET, near=tmp_path / "there")
    server.reset()
    assert [there.get(ref)[0] for ref in refs] == list(range(100))
    assert [kind for kind, _ in server.requests] == ["get"] * 100
    server.reset()
    assert there.keep(refs) == [True] * 100
    assert [kind for kind, _ in server.requests] == ["head"] * 100
    assert server.rounds <= 2, "sixty-four at a time"


def test_a_claim_is_two_requests_for_any_number_of_keys(server, tmp_path):
    one, other = (Store.open(URL, secret=SECRET, near=tmp_path / who) for who in ("one", "other"))
    keys = [f"{at:032x}" for at in range(1000)]
    claims = one.claim_many(keys)
    assert None not in claims
    assert len(server.requests) == 2
    server.reset()
    assert other.claim_many([*keys, "f" * 32])[:-1] == [None] * 1000
    assert len(server.requests) <= 2 + 4 + 1, (
        "it writes, lists, reads the other's up to four times, and takes back"
    )
    server.reset()
    one.release(claims)
    assert len(server.requests) <= 2


def test_what_a_thread_has_learnt_another_does_not_ask_for(server, tmp_path):
    here, there = (Store.open(URL, secret=SECRET, near=tmp_path / who) for who in ("here", "there"))
    key = "a" * 32
    here.commit(Entry(key=key, ref=here.put(b"x" * 100_000), task="t", run="r", seconds=0.0, at=0.0))
    with ThreadPoolExecutor(1) as other:
        learnt = other.submit(there.learn, [key]).result()
    server.reset()
    with there.read_ahead((), learnt):
        assert there.find(key) is not None
        assert there.find("b" * 32) is None
    assert server.requests == []
    assert there.find("b" * 32) is None
    assert [kind for kind, _ in server.requests] == ["list"], "but as it is now, it does"


def test_nobody_waits_for_a_request_to_read_what_is_known(server, tmp_path, monkeypatch):
    """Nor to commit, while packs of others are looked for: and then what was committed meanwhile is not taken for gone."""
    is_held_up, asked, go_on = threading.Event(), threading.Event(), threading.Event()
    find = server._find

    async def held_up(self, path, **more):
        found = await find(self, path, **more)
        if is_held_up.is_set():
            asked.set()
            await asyncio.to_thread(go_on.wait, 60)
        return found

    monkeypatch.setattr(server, "_find", held_up)
    store = Store.open(URL, secret=SECRET, near=tmp_path)

    def entry(at):
        return Entry(key=f"{at:032x}", ref=store.put(at), task="t", run="r", seconds=0.0, at=0.0)

    store.commit(entry(1))
    learnt = store.learn([f"{1:032x}"])
    is_held_up.set()
    with ThreadPoolExecutor(1) as other:
        looking = other.submit(store.learn, [f"{2:032x}"])
        assert asked.wait(60)
        with store.read_ahead((), learnt):
            assert store.find(f"{1:032x}") is not None
        store.commit(entry(2))
        go_on.set()
        learnt = looking.result()
    with store.read_ahead((), learnt):
        assert store.find(f"{2:032x}") is not None


def test_small_packs_are_merged(server, tmp_path):
    """A process that begins to look reads few of them, however many commits there were."""
    drive(tmp_path, chain, 1)
    store = Store.open(URL, secret=SECRET, near=tmp_path / "many")
    for at in range(2 * MOST_SMALL):
        store.commit(Entry(key=f"{at:032x}", ref=store.put(at), task="t", run="r", seconds=0.0, at=0.0))
    assert sum("/packs/" in name for name in server.files) <= MOST_SMALL + 1
    server.reset()
    assert drive(tmp_path, chain, 1, run="again") == 0
    assert len(server.requests) <= MOST_SMALL + 10
