"""The shell around the scheduler: journal before belief, claims, recalls; with a real journal and store, and an engine by hand."""

import msgspec
import pytest

from hooke.base.errors import HookeError, JournalError
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Failure,
    ItemsFound,
    MapExpanded,
    NodePlanned,
)
from hooke.journal.reader import read
from hooke.journal.writer import Journal
from hooke.pipeline.engine import Capabilities
from hooke.pipeline.execute import AttemptRunner, WorkerCall
from hooke.pipeline.finished_results import Recovered, recover
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace
from hooke.store.entries import Entry
from hooke.store.store import Store
from hooke.testing.virtual_world import VirtualClock


@task
def one(x):
    return x + 1


@task(cache=False)
def fresh(x):
    return x + 1


@task
def listed(x):
    return list(range(x))


@task(cache=False)
def part(pair):
    return pair


@pipeline
def mapped(items):
    return one.map(range(items))


@pipeline
def chain():
    return one(fresh(1))


@pipeline
def dynamic(items):
    return one.map(listed(items))


@pipeline
def dynamic_fresh(items):
    return fresh.map(listed(items))


@pipeline
def pair():
    return [one(1), one(2)]


class HandEngine:
    """Runs each attempt in the next wait; `answer` may be replaced."""

    capabilities = Capabilities(name="hand", isolated=False, cancels=True, elastic=True)

    def __init__(self, store, clock):
        self.worker = AttemptRunner(name="hand", store=store, clock=clock)
        self.clock = clock
        self.calls = []
        self.cancelled = []
        self.waited = []
        self.events = [CapacityChanged(slots=2, cpus=2.0)]

    def submit(self, calls):
        for call in calls:
            self.calls.append(call)
            self.events += self.answer(call)

    def answer(self, call):
        where = {
            "at": self.clock.now(),
            "attempt": call.attempt,
            "node": call.node,
            "lo": call.lo,
            "hi": call.hi,
        }
        work = WorkerCall(
            **{k: where[k] for k in ("attempt", "node", "lo", "hi")},
            kind=call.kind,
            function=call.image.function,
            payload=call.payload,
            shown=call.shown,
        )
        return [AttemptStarted(**where), self.worker.run(work)]

    def wait(self, timeout_s):
        self.waited.append(timeout_s)
        if not self.events:
            self.clock.time += timeout_s
        events, self.events = self.events, []
        return events

    def cancel(self, attempt):
        self.cancelled.append(attempt)

    def scale(self, workers):
        pass

    def close(self):
        pass


class Driven:
    """One driver on a folder; another one on the same folder is the next process."""

    def __init__(
        self,
        folder,
        wanted,
        *args,
        store="store",
        run="run",
        recovered=None,
        journal="driver",
        plan=NodePlan(),
    ):
        self.clock = VirtualClock()
        self.folder = folder
        self.store = Store.open(folder / store)
        self.graph = trace(wanted, args)
        self.keys = GraphKeys(self.graph, run=run)
        self.state = RunState(self.graph, [plan for _ in self.graph.nodes])
        self.engine = HandEngine(self.store, self.clock)
        self.events = []
        self.journal = Journal.create(folder, journal, durable="none", clock=self.clock)
        for node in self.graph.nodes:
            self.journal.append(NodePlanned(node=node.id, task=node.task.name, key=self.keys[node.id].key))
        self.journal.observers.append(self.events.append)
        self.stop = None
        self.parts = RunnerParts(
            run=run,
            graph=self.graph,
            keys=self.keys,
            state=self.state,
            engine=self.engine,
            store=self.store,
            journal=self.journal,
            clock=self.clock,
            recovered=recovered or Recovered(),
            stop_requested=lambda: self.stop,
        )
        self.runner = Runner(self.parts)

    def run(self):
        try:
            return self.runner.run()
        finally:
            self.journal.close()

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def recovered_from(folder):
    return recover(event for segment in read(folder) for event in segment.events)


def test_what_is_believed_is_journalled_before_anything_acts_on_it(tmp_path):
    driven = Driven(tmp_path, mapped, 20)
    believed, acted = [], []
    apply = driven.state.apply

    def believe(event):
        if isinstance(event, AttemptStarted | AttemptFinished | CapacityChanged):
            believed.append(type(event))
        apply(event)

    def checked(owner, name):
        act = getattr(owner, name)

        def then(*args, **more):
            assert [type(event) for event in driven.events if type(event) in believed] == believed
            acted.append(name)
            return act(*args, **more)

        setattr(owner, name, then)

    driven.state.apply = believe
    for owner, name in [
        (driven.engine, "submit"),
        (driven.engine, "wait"),
        (driven.store, "commit_items"),
    ]:
        checked(owner, name)
    assert driven.run() == "finished"
    assert believed.count(AttemptFinished) == acted.count("commit_items") > 1
    assert {"submit", "wait"} <= {*acted}


def test_an_order_costs_what_passes_by_the_drivers_own_clock(tmp_path):
    """The clock of a worker's machine may be an hour late."""

    def chunks(order_s):
        folder = tmp_path / str(order_s)
        folder.mkdir()
        driven = Driven(folder, mapped, 5000)
        answer, wait = driven.engine.answer, driven.engine.wait

        def answer_late(call):
            ended = answer(call)[-1]
            seconds = 1e-5 * (call.hi - call.lo)
            return [msgspec.structs.replace(ended, at=ended.at - 3600, seconds=seconds)]

        def wait_long(timeout_s):
            driven.clock.time += order_s
            return wait(timeout_s)

        driven.engine.answer, driven.engine.wait = answer_late, wait_long
        assert driven.run() == "finished"
        assert all(event.at <= driven.clock.time - 3600 for event in driven.of(AttemptFinished))
        return len(driven.engine.calls)

    assert chunks(0.015) < chunks(0.0)


def test_the_events_of_a_turn_are_one_write(tmp_path):
    driven = Driven(tmp_path, chain)
    put, counts = driven.journal._put, []
    driven.journal._put = lambda count: (counts.append(count), put(count))
    assert driven.run() == "finished"
    assert sum(counts) == len(driven.events)
    assert max(counts) > 1


def test_what_happened_before_an_error_ends_the_run_is_journalled(tmp_path):
    driven = Driven(tmp_path, pair)
    wait = driven.engine.wait

    def lost(timeout_s):
        for event in wait(timeout_s):
            yield event
            if isinstance(event, AttemptFinished):
                raise HookeError("the connection to the cluster is lost")

    driven.engine.wait = lost
    with pytest.raises(HookeError, match="the connection"):
        driven.run()
    assert len(driven.of(AttemptFinished)) == 1


def test_a_second_run_finds_what_the_first_computed(tmp_path):
    Driven(tmp_path, mapped, 5).run()
    second = Driven(tmp_path, mapped, 6, run="second", journal="second")
    assert second.run() == "finished"
    assert sum(call.hi - call.lo for call in second.engine.calls) == 1


def test_uncached_results_are_offered_to_nobody(tmp_path):
    Driven(tmp_path, chain).run()
    second = Driven(tmp_path, chain, run="second", journal="second")
    second.run()
    assert len(second.engine.calls) == 2


def test_an_uncached_result_is_kept_for_the_same_run(tmp_path):
    Driven(tmp_path, chain).run()
    again = Driven(tmp_path, chain, recovered=recovered_from(tmp_path))
    assert again.run() == "finished"
    assert again.engine.calls == []


def test_a_dynamic_list_is_found_in_the_store(tmp_path):
    Driven(tmp_path, dynamic, 3).run()
    second = Driven(tmp_path, dynamic, 3, run="second", journal="second")
    assert second.run() == "finished"
    assert second.engine.calls == []
    assert [event.items for event in second.of(MapExpanded)] == [3]


def test_a_list_whose_blocks_are_gone_is_read_again(tmp_path):
    Driven(tmp_path, dynamic, 3, store="first").run()
    recovered = recovered_from(tmp_path)
    recovered.known = {key: known for key, known in recovered.known.items() if known.expansion}
    (known,) = recovered.known.values()
    gone = known.expansion.keys.__class__("e" * 64, 10**6)
    known.expansion = MapExpanded(node=1, items=3, keys=gone, blocks=(gone,), block=4096)
    again = Driven(tmp_path, dynamic, 3, store="empty", recovered=recovered)
    assert again.run() == "finished"
    assert [call.kind for call in again.engine.calls[:2]] == ["call", "expand"]


def test_results_of_a_list_that_is_not_the_same_any_more_are_not_taken(tmp_path):
    Driven(tmp_path, dynamic_fresh, 3).run()
    recovered = recovered_from(tmp_path)
    for known in recovered.known.values():
        if known.expansion is not None:  # as if another list had been read, and then evicted
            gone = known.expansion.keys.__class__("e" * 64, 10**6)
            known.expansion = MapExpanded(node=1, items=3, keys=gone, blocks=(gone,), block=4096)
    again = Driven(tmp_path, dynamic_fresh, 3, recovered=recovered)
    assert again.run() == "finished"
    assert [call.kind for call in again.engine.calls if call.node == 1] == ["expand", *["map"] * 3]


def test_objects_that_were_evicted_are_computed_again(tmp_path):
    Driven(tmp_path, chain).run()
    recovered = recovered_from(tmp_path)
    for known in recovered.known.values():
        known.segments = [
            (lo, hi, ref.__class__("d" * 64, 10**6), start) for lo, hi, ref, start in known.segments
        ]
    again = Driven(tmp_path, chain, store="empty", recovered=recovered)
    assert again.run() == "finished"
    assert len(again.engine.calls) == 2


def test_two_equal_calls_run_once(tmp_path):
    @pipeline
    def twice():
        return [one(1), one(1), one.map(listed(2)), one.map(listed(2))]

    driven = Driven(tmp_path, twice)
    assert driven.run() == "finished"
    ran = [(call.image.name, call.kind, call.lo) for call in driven.engine.calls]
    assert len(ran) == len(set(ran))
    assert len(driven.of(MapExpanded)) == 2


@pytest.mark.needs("cpu")
def test_a_node_that_waits_for_another_of_its_run_waits_no_longer(tmp_path):
    """Even if by then it looks rarely: it is told of the end, which it would find late otherwise."""

    @pipeline
    def twice():
        return [one(1), one(1)]

    driven = Driven(tmp_path, twice)
    wait, kept, over = driven.engine.wait, [], []

    def slowly(timeout_s):
        events = wait(timeout_s)
        kept.extend(event for event in events if isinstance(event, AttemptFinished))
        if kept and driven.clock.time > VirtualClock().time + 1000.0:
            over.append(driven.clock.time)
            return [kept.pop()]
        return [event for event in events if not isinstance(event, AttemptFinished)]

    driven.engine.wait = slowly
    assert driven.run() == "finished"
    assert len(driven.engine.calls) == 1
    assert driven.clock.time == over[0]


def test_what_another_process_claimed_is_waited_for(tmp_path):
    driven = Driven(tmp_path, mapped, 2)
    claim = driven.store.claim(driven.keys[0].key)
    assert claim is not None
    wait = driven.engine.wait

    def until_released(timeout_s):
        if driven.clock.time > VirtualClock().time + 1.0:
            claim.release()
        return wait(timeout_s)

    driven.engine.wait = until_released
    assert driven.run() == "finished"
    assert driven.clock.time >= VirtualClock().time + 1.0


def test_a_claim_is_released_after_its_result_was_committed(tmp_path):
    """Also where the run finds that another process has computed its next node."""
    driven = Driven(tmp_path, pair)
    driven.engine.events = [CapacityChanged(slots=1, cpus=1.0)]
    release, findable = [], []

    end_claims, wait = driven.store.release, driven.engine.wait

    def watched(claims, **options):
        findable.extend(driven.store.find(claim.key) is not None for claim in claims)
        end_claims(claims, **options)

    driven.store.release = watched

    def finds_the_rest(timeout_s):
        events = wait(timeout_s)
        if not release and any(isinstance(event, AttemptFinished) for event in events):
            release.append(True)
            rest = Driven(tmp_path, pair, run="other", journal="other")
            (first,) = {event.node for event in events if isinstance(event, AttemptFinished)}
            node = 1 - first
            value = rest.store.put(node)
            entry = Entry(key=rest.keys[node].key, ref=value, task="one", run="other", seconds=0.0, at=0.0)
            rest.store.commit(entry)
            rest.journal.close()
        return events

    driven.engine.wait = finds_the_rest
    assert driven.run() == "finished"
    assert len(driven.engine.calls) == 1
    assert len(findable) == 2
    assert all(findable)


def test_claims_are_let_go_whatever_ends_the_run(tmp_path):
    driven = Driven(tmp_path, mapped, 2)

    def broken(event):
        if isinstance(event, AttemptFinished):
            raise JournalError("full")

    driven.journal.observers.append(broken)
    with pytest.raises(JournalError):
        driven.run()
    claim = driven.store.claim(driven.keys[0].key)
    assert claim is not None
    claim.release()


def test_late_and_double_answers_are_not_journalled(tmp_path):
    driven = Driven(tmp_path, mapped, 3)
    answer = driven.engine.answer
    driven.engine.answer = lambda call: [*(events := answer(call)), events[-1], events[0]]
    assert driven.run() == "finished"
    attempts = [event.attempt for event in driven.of(AttemptFinished)]
    assert len(attempts) == len(set(attempts))
    assert driven.state.ignored == len(attempts)


def test_a_call_that_cannot_be_made_is_a_failure_of_its_task(tmp_path):
    import threading

    @pipeline
    def guarded():
        return fresh([one(1), open])

    driven = Driven(tmp_path, guarded)
    lock = threading.Lock()
    driven.graph.nodes[1].arguments["x"].append(lock)
    assert driven.run() == "failed"
    assert driven.state.failure.failure.kind == "NotPicklable"
    assert driven.engine.waited  # it ended by itself, not by an exception


def test_a_part_that_is_not_there_is_a_failure_of_its_task(tmp_path):
    @pipeline
    def beyond():
        return part(one.map(listed(2))[5])

    driven = Driven(tmp_path, beyond)
    assert driven.run() == "failed"
    assert "5" in driven.state.failure.failure.message


def test_a_stop_is_journalled_and_what_runs_is_cancelled(tmp_path):
    driven = Driven(tmp_path, mapped, 5)
    driven.engine.answer = lambda call: []
    driven.engine.wait = lambda timeout_s, wait=driven.engine.wait: (
        setattr(driven, "stop", "me"),
        wait(timeout_s),
    )[1]
    assert driven.run() == "stopped"
    assert [type(event).__name__ for event in driven.events][-1] == "StopRequested"
    assert len(driven.engine.cancelled) == len(driven.engine.calls)


def test_a_timeout_is_journalled_as_the_failure_it_is(tmp_path):
    driven = Driven(tmp_path, mapped, 1, plan=NodePlan(timeout_s=5.0))
    answer = driven.engine.answer
    driven.engine.answer = lambda call: answer(call)[:1]
    assert driven.run() == "failed"
    assert driven.state.failure.failure.kind == "TimedOut"
    assert driven.engine.cancelled == [1]
    assert driven.clock.time - VirtualClock().time == pytest.approx(5.0, abs=0.5)


def test_what_a_failed_chunk_had_done_is_offered_to_others(tmp_path):
    driven = Driven(tmp_path, mapped, 1)
    ref = driven.store.put([1])

    def half(call):
        where = {"attempt": call.attempt, "node": call.node, "lo": call.lo, "hi": call.hi}
        failure = Failure(kind="TaskError", message="no", retryable=False)
        return [AttemptStarted(**where), AttemptFailed(failure=failure, done=1, ref=ref, **where)]

    driven.engine.answer = half
    driven.run()
    second = Driven(tmp_path, mapped, 1, run="second", journal="second")
    assert second.run() == "finished"
    assert [event.source for event in second.of(ItemsFound)] == ["cache"]


def test_what_a_failed_attempt_had_done_is_not_kept_while_another_at_its_items_goes_on(tmp_path):
    driven = Driven(tmp_path, mapped, 40)
    answer, stuck = driven.engine.answer, []

    def first_chunk_is_stuck(call):
        if call.twin_of is not None:
            assert [one.attempt for one in stuck] == [call.twin_of]
            began, finished = answer(call)
            where = {"attempt": call.twin_of, "node": call.node, "lo": call.lo, "hi": call.hi}
            failure = Failure(kind="TaskError", message="no", retryable=False)
            partly = AttemptFailed(failure=failure, done=1, ref=driven.store.put([-1]), **where)
            return [began, partly, finished]
        if call.hi - call.lo > 1 and not stuck:
            stuck.append(call)
            return answer(call)[:1]
        return answer(call)

    driven.engine.answer = first_chunk_is_stuck
    assert driven.run() == "finished"
    (failed,) = driven.of(AttemptFailed)
    assert (failed.attempt, failed.done, failed.ref) == (stuck[0].attempt, 1, None)
    recorded = [item for event in driven.of(AttemptFinished) for item in range(event.lo, event.hi)]
    assert sorted(recorded) == list(range(40))
    assert driven.engine.cancelled == []
    hits = driven.store.find_items(driven.keys[0].recipe, driven.keys.indexed(0))
    found = [driven.store.get(hit.ref)[hit.start + at] for hit in hits for at in range(hit.hi - hit.lo)]
    assert sorted(found) == list(range(1, 41))


def test_the_beaten_attempt_is_cancelled_and_its_answer_goes_nowhere(tmp_path):
    driven = Driven(tmp_path, mapped, 6)
    answer, late = driven.engine.answer, []

    def first_is_stuck(call):
        if call.lo == 0 and call.twin_of is None:
            began, finished = answer(call)
            late.append(finished)
            return [began]
        return [*answer(call), *(late if call.twin_of is not None else [])]

    driven.engine.answer = first_is_stuck
    assert driven.run() == "finished"
    (second,) = [call for call in driven.engine.calls if call.twin_of is not None]
    assert driven.engine.cancelled == [second.twin_of]
    assert driven.state.ignored == 1
    assert [event.attempt for event in driven.of(AttemptFinished) if event.lo == 0] == [second.attempt]


def test_a_stop_is_journalled_before_what_runs_is_cancelled(tmp_path):
    driven = Driven(tmp_path, mapped, 5)
    driven.engine.answer = lambda call: []
    wait, last = driven.engine.wait, []

    def wait_and_stop(timeout_s):
        driven.stop = "me"
        return wait(timeout_s)

    driven.engine.wait = wait_and_stop
    driven.engine.cancel = lambda attempt: last.append(type(driven.events[-1]).__name__)
    assert driven.run() == "stopped"
    assert last == ["StopRequested"] * len(driven.engine.calls)
