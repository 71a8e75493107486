"""Claims and commits of a runner that others make: it hands out work meanwhile, and nothing of the order that others rely on changes."""

import threading
from concurrent.futures import Future

import msgspec
import pytest
from msgspec.structs import replace
from tests.pipeline.test_runner import Driven, HandEngine, chain, fresh, listed, one
from tests.store.counted_files import AtOnce, counted

from hooke.base.clock import SystemClock
from hooke.base.errors import StoreUnavailable
from hooke.journal.events import AttemptFinished, CapacityChanged
from hooke.journal.writer import Journal
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.pipeline.trace import trace
from hooke.store.backend import Learnt, joined
from hooke.store.store import Store
from hooke.store.store_work import COMMIT_EVERY_S, Committed, StoreWork
from hooke.testing.virtual_world import VirtualClock


@pipeline
def both():
    return [one(1), fresh(2)]


@pipeline
def many(nodes):
    return [one(at) for at in range(nodes)]


@pipeline
def twice():
    return [one(1), one(1)]


@pipeline
def mixed():
    return [one(one(1)), one.map(listed(3)), fresh.map(range(4))]


class Awaited(Future):
    """Makes the calls when somebody waits for it."""

    def __init__(self, hand):
        super().__init__()
        self.hand = hand

    def exception(self, timeout=None):
        self.hand.make()
        return super().exception(timeout)


class ByHand:
    """Makes calls when it is told to."""

    def __init__(self):
        self.calls = []
        self.made = 0

    def submit(self, call):
        future = Awaited(self)
        self.calls.append((future, call))
        return future

    def make(self):
        """Make all calls that wait."""
        calls, self.calls = self.calls, []
        for future, call in calls:
            self.made += 1
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - the runner raises it
                future.set_exception(error)


class Slow(Driven):
    """A run whose store is asked by hand: `meanwhile(waits)` is called whenever the runner waits."""

    def __init__(self, *args, meanwhile, **more):
        super().__init__(*args, **more)
        self.aside = ByHand()
        self.runner = Runner(replace(self.parts, aside=self.aside))
        wait, self.waits = self.engine.wait, 0

        def waiting(timeout_s):
            self.waits += 1
            assert self.waits < 2000
            meanwhile(self)
            return wait(timeout_s)

        self.engine.wait = waiting

    @property
    def begun(self):
        return [call.image.name for call in self.engine.calls]


def test_work_goes_out_while_claims_are_asked_for_and_no_attempt_before_its_claim(tmp_path):
    seen = []

    def meanwhile(run):
        seen.append((run.begun, run.aside.made))
        if run.of(AttemptFinished):
            run.aside.make()

    run = Slow(tmp_path, both, meanwhile=meanwhile)
    assert run.run() == "finished"
    assert any([name.rpartition(".")[2] for name in begun] == ["fresh"] and not made for begun, made in seen)
    assert all(made for begun, made in seen if len(begun) == 2)


def test_a_claim_is_released_when_its_result_is_committed_and_not_before(tmp_path):
    order = []

    def meanwhile(run):
        if len(run.of(AttemptFinished)) < 2 or run.waits > 50:
            run.aside.make()

    run = Slow(tmp_path, chain, meanwhile=meanwhile)
    commit, release = run.store.commit, run.store.release
    run.store.commit = lambda entry: (order.append("commit"), commit(entry))
    run.store.release = lambda claims, **how: (
        order.extend(["release"] * len(claims)),
        release(claims, **how),
    )
    assert run.run() == "finished"
    assert order == ["commit", "release"]
    assert run.store.claim(run.keys[1].key) is not None


def test_results_that_are_ready_together_are_one_commit(tmp_path):
    run = Slow(tmp_path, many, 200, meanwhile=lambda run: run.aside.make())
    run.engine.events = [CapacityChanged(slots=10, cpus=10.0)]
    together, commits = run.store.together, []
    run.store.together = lambda: (commits.append(run.clock.time), together())[1]
    assert run.run() == "finished"
    assert 1 <= len(commits) <= 2 + (run.clock.time - VirtualClock().time) / COMMIT_EVERY_S


def test_claims_are_made_ahead_but_not_for_long_tasks(tmp_path):
    def claims(name, seconds):
        run = Slow(tmp_path, many, 100, meanwhile=lambda run: run.aside.make(), store=name, journal=name)
        answer, claim, counts = run.engine.answer, run.store.claim_many, []

        def timed(call):
            started, ended = answer(call)
            return [started, msgspec.structs.replace(ended, seconds=seconds)]

        run.engine.answer = timed
        run.store.claim_many = lambda keys: (counts.append(len(keys)), claim(keys))[1]
        assert run.run() == "finished"
        return counts

    assert len(claims("short", 0.001)) < 5
    assert max(claims("long", 10.0)) <= 2, "the others are for other processes"


def test_two_equal_calls_run_once(tmp_path):
    run = Slow(tmp_path, twice, meanwhile=lambda run: run.aside.make())
    assert run.run() == "finished"
    assert len(run.engine.calls) == 1


@pytest.mark.parametrize("method", ["claim_many", "commit"])
def test_what_the_store_raises_reaches_the_run(tmp_path, method):
    def fails(*_):
        raise StoreUnavailable("the store did not answer", fix="wait")

    run = Slow(tmp_path, many, 5, meanwhile=lambda run: run.aside.make())
    setattr(run.store, method, fails)
    with pytest.raises(StoreUnavailable):
        run.run()
    other = Store.open(tmp_path / "store")
    assert None not in other.claim_many([key.key for key in run.keys.nodes])


def test_claims_that_come_when_the_run_has_failed_are_released(tmp_path):
    def meanwhile(run):
        if run.waits == 3:
            run.aside.make()
            raise StoreUnavailable("something else", fix="wait")

    run = Slow(tmp_path, many, 2, meanwhile=meanwhile)
    with pytest.raises(StoreUnavailable):
        run.run()
    assert run.aside.made == 1
    other = Store.open(tmp_path / "store")
    assert None not in other.claim_many([key.key for key in run.keys.nodes])


def test_an_attempt_that_waits_for_its_claim_ends_with_a_stop(tmp_path):
    def meanwhile(run):
        run.stop = "somebody"

    run = Slow(tmp_path, many, 2, meanwhile=meanwhile)
    assert run.run() == "stopped"
    assert run.engine.calls == run.engine.cancelled == []


@pytest.mark.parametrize("held", [False, True], ids=["granted", "refused"])
def test_an_answer_that_comes_with_the_stop_begins_nothing(tmp_path, held):
    def meanwhile(run):
        if run.aside.calls and not run.stopped:
            run.stopped = True
            run.aside.make()
            raise KeyboardInterrupt  # in a task that runs in this thread

    run = Slow(tmp_path, many, 2, meanwhile=meanwhile)
    run.stopped = False
    other = Store.open(tmp_path / "store")
    keys = [key.key for key in run.keys.nodes]
    claims = other.claim_many(keys) if held else []
    assert run.run() == "stopped"
    assert run.engine.calls == run.engine.cancelled == []
    other.release(claims)
    assert None not in other.claim_many(keys)


def test_all_claims_are_released_where_releasing_fails(tmp_path):
    """Then nothing renews them, and they end with their lease."""
    run = Slow(tmp_path, many, 3, meanwhile=lambda run: run.aside.make())
    released = []

    def release(claims, **_):
        released.extend(claims)
        if claims:
            raise StoreUnavailable("the store did not answer", fix="wait")

    run.store.release = release
    with pytest.raises(StoreUnavailable):
        run.run()
    assert len(set(map(id, released))) == 3


def test_of_packs_only_what_all_know_is_known():
    """A call that was claimed ahead was looked up before another one was claimed."""
    early, late = Learnt(packs=True, sizes={"a": 1}), Learnt(packs=False, sizes={"b": None})
    assert joined([early, None, late]) == Learnt(packs=False, sizes={"a": 1, "b": None})
    assert joined([early, None]) == early
    assert joined([None]) is None


def test_children_of_what_another_process_computes_are_not_kept(tmp_path):
    """They are claimed ahead with it, before it is known that another process has it."""

    @pipeline
    def after_it():
        return [one(at) for at in range(3)], one(one(one(1000)))

    claims, free = [], []

    def meanwhile(run):
        run.aside.make()
        if run.waits == 200:
            free.extend(node for node in keys if node > first and other.claim(keys[node]) is not None)
            claims[0].release()

    run = Slow(tmp_path, after_it, meanwhile=meanwhile)
    run.engine.events = [CapacityChanged(slots=1, cpus=1.0)]
    other = Store.open(tmp_path / "store")
    keys = {node.id: run.keys[node.id].key for node in run.graph.nodes}
    first = 3
    claims.append(other.claim(keys[first]))
    assert run.run() == "finished"
    assert len(free) == 2


def test_a_folder_is_asked_in_the_runners_own_thread(tmp_path):
    work = StoreWork(Store.open(tmp_path / "store"), SystemClock())
    work.claim([7], ["a" * 32], ["a" * 32])
    (answer,) = work.claimed()
    assert answer.nodes == [7]
    threads = []
    work.commit([lambda: threads.append(threading.current_thread())], answer.claims, Committed([7], [], []))
    assert [done.nodes for done in work.committed()] == [[7]]
    assert threads == [threading.current_thread()]
    assert not work.is_aside


def run_with_threads(folder, body, *args, run, aside=None):
    """A run on a store whose requests take a while, in real time; returns its status, attempts, and the threads that asked."""
    clock = SystemClock()
    store = Store.open("s3a://bucket/store", secret=b"a secret of sixteen bytes or more", near=folder / run)
    asked = set()
    for name in ("claim_many", "commit", "commit_items"):
        method = getattr(store, name)

        def noted(*args, name=name, method=method, **more):
            asked.add((name, threading.current_thread() is threading.main_thread()))
            return method(*args, **more)

        setattr(store, name, noted)
    graph = trace(body, args)
    engine = HandEngine(store, clock)
    wait = engine.wait
    engine.clock = type("Still", (), {"time": 0.0, "now": staticmethod(clock.now)})()
    engine.wait = lambda timeout_s: (threading.Event().wait(min(timeout_s, 0.01)), wait(0.0))[1]
    engine.events = [CapacityChanged(slots=4, cpus=4.0)]
    journal = Journal.create(folder, run, durable="none", clock=clock)
    parts = RunnerParts(
        run=run,
        graph=graph,
        keys=GraphKeys(graph, run=run),
        state=RunState(graph, [NodePlan() for _ in graph.nodes]),
        engine=engine,
        store=store,
        journal=journal,
        clock=clock,
        aside=aside,
    )
    with journal:
        status = Runner(parts).run()
    answer = status, len(engine.calls), {*asked}
    claims = store.claim_many([*{key.key for key in parts.keys.nodes}])
    assert None not in claims, "all claims are released"
    store.release(claims)
    return answer


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("body", [mixed, twice])
def test_threads_make_the_requests_of_a_store_that_takes_long(tmp_path, body):
    with counted(0.002):
        status, attempts, asked = run_with_threads(tmp_path, body, run="new")
        assert status == "finished"
        assert attempts
        assert {is_main for name, is_main in asked if name == "claim_many"} == {False}
        assert ("commit", False) in asked
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("hooke-store")]
        assert threads == []
        stored, again, _ = run_with_threads(tmp_path, body, run="again", aside=AtOnce())
        assert stored == "finished"
        assert again == (4 if body is mixed else 0), "what is not cached"
