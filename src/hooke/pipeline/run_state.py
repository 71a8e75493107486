"""The one scheduler: a pure machine that folds events and decides what runs next.

`apply(event)` folds an event; `decide(now)` returns effects for the runner to perform. No clock, no
thread, no randomness: the same events give the same decisions, so a history replays from its seed.

Work is demanded backwards from what the pipeline returns: a node whose result is found asks nothing
of its ancestors, so a cached run looks up only what it needs. Among ready nodes the deepest goes
first, and within a map the longest item once durations are known.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
    ItemsFound,
    MapExpanded,
    StopRequested,
)
from hooke.journal.fleet_events import FleetDecided
from hooke.pipeline.graph import Graph, Need, needs_of, unwanted_nodes, waiters_of
from hooke.pipeline.node_state import (
    Abandon,
    Effect,
    Finish,
    LookedUp,
    Lookup,
    NodePlan,
    NodeState,
    RunningAttempt,
    Submit,
)
from hooke.pipeline.retries import Retries
from hooke.pipeline.slots import ResourceRequest, ShortTasks, SlotRoom

__all__ = ["Remains", "RunState", "Sizing", "remains_of"]


HELD_RETRY_S = 0.1
"""How soon to look again for a result that another process is computing: well under a second of a human's patience."""

SKIPS_BEFORE_RESERVING = 4
"""A ready attempt that does not fit is passed by others this many times per slot; then the place is kept for it."""

ISOLATED_DEATHS = frozenset({"WorkerDied", "OutOfMemory", "TimedOut"})
"""Failures that do not say which item of a chunk was to blame."""


class RunState:
    """The scheduler's state of one run. Not thread-safe; owned by one runner."""

    skips_before_reserving = SKIPS_BEFORE_RESERVING

    def __init__(
        self, graph: Graph, plans: Sequence[NodePlan], *, seed: int = 0, first_attempt: int = 1
    ) -> None:
        self.graph = graph
        self.seed = seed
        self.failure: AttemptFailed | None = None
        self.status: str | None = None
        self.nodes = [
            NodeState(node=node, plan=plan, needs=needs_of(graph, node), items=node.items)
            for node, plan in zip(graph.nodes, plans, strict=True)
        ]
        self.running: dict[int, RunningAttempt] = {}
        self.ignored = 0
        self._room = SlotRoom()
        self._short = ShortTasks()
        self._next_attempt = first_attempt
        self._withdrawn: list[int] = []
        self._beaten: list[int] = []
        self._now = 0.0
        self._stop_by: str | None = None
        self._to_look: list[int] = []
        self._held: list[tuple[float, int]] = []
        self._retries = Retries(seed)
        self._ready: list[tuple[int, int]] = []
        self._queued: set[int] = set()
        self._depth = graph.depths()
        self._waiters = waiters_of([state.needs for state in self.nodes])
        self._unfinished_roots = set(graph.roots())
        self._unwanted: set[int] = set()
        for root in sorted(self._unfinished_roots):
            self._demand(root)

    # -- events in ---------------------------------------------------------------------------------

    def apply(self, event: Event | LookedUp) -> None:
        """Fold one event. What does not concern the scheduler is ignored; late and double answers are counted."""
        match event:
            case AttemptFinished():
                self._finished(event)
            case AttemptFailed():
                self._failed(event)
            case AttemptStarted():
                if event.attempt in self.running:
                    self.running[event.attempt].started = event.at
            case ItemsFound():
                self._found(event)
            case MapExpanded():
                self._expanded(self.nodes[event.node], event.items)
            case LookedUp():
                self._looked(event)
            case CapacityChanged():
                self._room.capacity = event
            case StopRequested():
                self._stop_by = self._stop_by or event.by
            case _:
                pass

    def _finished(self, event: AttemptFinished) -> None:
        attempt = self._take(event.attempt)
        if attempt is None:
            return
        state = self.nodes[attempt.node]
        if attempt.expand:
            state.expanding = False
            return
        if attempt.twin is not None:
            self._remove(attempt.twin)
            self._beaten.append(attempt.twin)
        state.sizer.measured(attempt.hi - attempt.lo, event.seconds)
        state.usual.measured(attempt.hi - attempt.lo, event.seconds)
        self._short.measured(state.node, event.seconds)
        state.taken.remove(attempt.lo, attempt.hi)
        self._record(state, attempt.lo, attempt.hi, event.ref)

    def _failed(self, event: AttemptFailed) -> None:
        attempt = self._take(event.attempt)
        if attempt is None or self._left_to_twin(attempt):
            return
        state = self.nodes[attempt.node]
        state.taken.remove(attempt.lo, attempt.hi)
        if attempt.expand:
            state.expanding = False
            self._judge(state, event, item=-1)
            return
        good = attempt.lo
        if event.done and event.ref is not None:
            good += event.done
            self._record(state, attempt.lo, good, event.ref)
        if event.failure.kind in ISOLATED_DEATHS and attempt.hi - good > 1:
            self._isolate(state, good, attempt.hi, event)
            return
        self._open(state, good + 1, attempt.hi)
        self._judge(state, event, item=good)

    def _take(self, attempt: int) -> RunningAttempt | None:
        """The running attempt of that id, no longer running; None (and counted) for a late or double answer."""
        if attempt in self.running:
            return self._remove(attempt)
        self.ignored += 1
        return None

    def _remove(self, attempt: int) -> RunningAttempt:
        running = self.running.pop(attempt)
        self._room.leave(running.asked)
        return running

    def _left_to_twin(self, attempt: RunningAttempt) -> bool:
        """Whether another attempt at the items of this one, which is gone, goes on: what comes of them is its matter now."""
        if attempt.twin is None:
            return False
        self.running[attempt.twin].twin = None
        return True

    def _judge(self, state: NodeState, event: AttemptFailed, *, item: int) -> None:
        """Plan another try of the failed item, or fail the run."""
        if not self._retries.plan(state, event, item, self._room.capacity):
            self.failure = self.failure or event

    def _isolate(self, state: NodeState, lo: int, hi: int, event: AttemptFailed) -> None:
        """A chunk's death does not say which item killed it: run its items one by one, so that only the culprit fails."""
        state.alone.add(lo, hi)
        self._open(state, lo, hi)
        kind = event.failure.kind
        reason = f"{kind} while items {lo}..{hi - 1} ran in one attempt; each runs alone to find which"
        self._retries.say(state, (lo, hi), number=1, due=event.at, reason=reason)

    def _found(self, event: ItemsFound) -> None:
        state = self.nodes[event.node]
        for lo, hi in state.done.items.gaps(event.lo, event.hi):
            state.done.record(lo, hi, event.ref, event.start + lo - event.lo)
            state.open.remove(lo, hi)
            self._settle(state, lo, hi)

    def _record(self, state: NodeState, lo: int, hi: int, ref: Ref) -> None:
        state.done.record(lo, hi, ref)
        self._settle(state, lo, hi)

    def _expanded(self, state: NodeState, items: int) -> None:
        if state.items is not None:
            return
        state.items = items
        if state.looked:
            state.looked = False  # its items have keys only now: look for them
            self._to_look.append(state.node.id)
        for child in self._waiters.elementwise.get(state.node.id, ()):
            self._expanded(self.nodes[child], items)

    # -- demand and readiness ----------------------------------------------------------------------

    def _demand(self, node: int) -> None:
        state = self.nodes[node]
        if not state.demanded:
            state.demanded = True
            self._to_look.append(node)

    def _looked(self, answer: LookedUp) -> None:
        state = self.nodes[answer.node]
        if answer.attempt is not None:
            self._withdraw(state, answer.attempt)
        if answer.held:
            if state.looked:  # else another attempt of this decision has said it
                state.looked = False
                heapq.heappush(self._held, (self._now + HELD_RETRY_S, answer.node))
            return
        state.looked = True
        if state.complete:
            self._settle(state, 0, 0)
            return
        waiting = [need for need in state.needs if not self._met(need)]
        state.missing = sum(1 for need in waiting if not need.elementwise)
        for need in state.needs:
            self._demand(need.node)
        if self._unwanted:
            self._review()
        self._reopen(state)

    def _withdraw(self, state: NodeState, attempt: int) -> None:
        running = self._remove(attempt)
        heapq.heappush(self._withdrawn, attempt)
        if self._left_to_twin(running):
            return
        state.skips += running.skips  # it was not its turn after all
        state.taken.remove(running.lo, running.hi)
        state.expanding = state.expanding and not running.expand

    def _met(self, need: Need) -> bool:
        parent = self.nodes[need.node]
        if need.item is not None:
            return parent.done.items.contains(need.item, need.item + 1)
        return parent.settled  # not `complete`: a map of nothing is that before anybody was told

    def _reopen(self, state: NodeState) -> None:
        """Open what may start now, after a lookup, an expansion or the last missing input."""
        if not state.looked or state.missing:
            return
        if state.items is None:
            if state.node.is_dynamic and not state.expanding:
                self._push(state)
            return
        elementwise = [need.node for need in state.needs if need.elementwise]
        ranges = [(0, state.items)]
        for parent in elementwise:
            done = self.nodes[parent].done.items
            ranges = [piece for lo, hi in ranges for piece in done.within(lo, hi)]
        for lo, hi in ranges:
            self._open(state, lo, hi)

    def _open(self, state: NodeState, lo: int, hi: int) -> None:
        for a, b in state.done.items.gaps(lo, hi):
            for c, d in state.taken.gaps(a, b):
                state.open.add(c, d)
        if state.open:
            self._push(state)

    def _push(self, state: NodeState) -> None:
        node = state.node.id
        if node not in self._queued:
            self._queued.add(node)
            heapq.heappush(self._ready, (-self._depth[node], node))

    def _settle(self, state: NodeState, lo: int, hi: int) -> None:
        """Items `lo..hi` are done: wake those that waited for them."""
        node = state.node.id
        for child in self._waiters.pop_items(node, lo, hi):
            self._input_met(child)
        for child in self._waiters.elementwise.get(node, ()):
            self._advance_child(self.nodes[child], lo, hi)
        if state.complete:
            state.settled = True
            self._unfinished_roots.discard(node)
            if any(not self.nodes[need.node].complete for need in state.needs):
                self._review()  # it was found, and what was to make it is not needed now
            for child in self._waiters.pop_whole(node):
                self._input_met(child)

    def _review(self) -> None:
        """See anew which nodes are wanted."""
        before = self._unwanted
        self._unwanted = unwanted_nodes(
            self.graph, self.graph.roots(), lambda node: self.nodes[node].complete
        )
        for node in sorted(before - self._unwanted):
            self._reopen(self.nodes[node])

    def _input_met(self, child: int) -> None:
        state = self.nodes[child]
        if state.looked and state.missing:
            state.missing -= 1
            if not state.missing:
                self._reopen(state)

    def _advance_child(self, child: NodeState, lo: int, hi: int) -> None:
        if not child.looked or child.missing or child.items is None:
            return
        ranges = [(lo, hi)]
        for need in child.needs:
            if need.elementwise:
                done = self.nodes[need.node].done.items
                ranges = [piece for a, b in ranges for piece in done.within(a, b)]
        for a, b in ranges:
            self._open(child, a, b)

    # -- decisions out -----------------------------------------------------------------------------

    def decide(self, now: float) -> list[Effect]:
        """What to do now. Empty when there is nothing to do before the next event or `next_due()`."""
        self._now = now
        if self.status is not None:
            return []
        effects: list[Effect] = [*self._retries.said(), *(Abandon(attempt) for attempt in self._beaten)]
        self._beaten.clear()
        if self._stop_by is not None:
            return effects + self._stop()
        effects += self._expire(now)
        if self.failure is not None:
            return effects + ([self._end("failed")] if not self.running else [])
        if not self._unfinished_roots:
            return [*effects, *self._abandon_all(), self._end("finished")]
        self._release(now)
        if self._to_look:  # first learn all that is known: what goes first is decided among all that is ready
            effects += [Lookup(node) for node in self._to_look]
            self._to_look = []
            return effects
        effects += self._submit_ready()
        return effects if self._ready else effects + self._submit_twins()

    def is_over(self, node: int) -> bool:
        """Whether this run does nothing more for the node: it is complete, or nobody wants it any more and none of it runs."""
        if node not in self._unwanted:
            return self.nodes[node].complete
        return all(running.node != node for running in self.running.values())

    def memory(self, node: int, item: int) -> int | None:
        """Bytes that an attempt which begins with this item may use; None for no limit."""
        state = self.nodes[node]
        return state.memory(item, self._room.capacity)

    def next_due(self) -> float | None:
        """When `decide` must be called again although no event came; None for never."""
        waiting = [self._held[0][0] if self._held else None, self._retries.next_due()]
        due = [at for at in waiting if at is not None and self.failure is None]
        for running in self.running.values():
            timeout_s = self.nodes[running.node].plan.timeout_s
            if timeout_s is not None and running.started is not None:
                due.append(running.started + timeout_s)
        if not self._ready:
            # One that is due already did not fit: an event must make room for it first.
            due += [straggles for straggles, _ in self._stragglers() if straggles > self._now]
        return min(due, default=None)

    def _end(self, status: str) -> Finish:
        self.status = status
        return Finish(status)

    def _stop(self) -> list[Effect]:
        return [*self._abandon_all(), self._end("stopped")]

    def _abandon_all(self) -> list[Effect]:
        """Give up what still runs: after a stop, or where another process gave the result that it was for."""
        abandoned: list[Effect] = [Abandon(attempt) for attempt in self.running]
        self.running.clear()
        return abandoned

    def _expire(self, now: float) -> list[Effect]:
        expired: list[Effect] = []
        for attempt, running in self.running.items():
            timeout_s = self.nodes[running.node].plan.timeout_s
            if timeout_s is not None and running.started is not None and now >= running.started + timeout_s:
                expired.append(Abandon(attempt, timed_out=True))
        return expired

    def _release(self, now: float) -> None:
        while self._held and self._held[0][0] <= now:
            self._to_look.append(heapq.heappop(self._held)[1])
        for node, item in self._retries.due(now):
            state = self.nodes[node]
            if item < 0:
                self._push(state)
            else:
                state.taken.remove(item, item + 1)
                self._open(state, item, item + 1)

    def _submit_ready(self) -> list[Effect]:
        effects: list[Effect] = []
        passed: list[tuple[int, int]] = []
        while self._ready:
            entry = heapq.heappop(self._ready)
            state = self.nodes[entry[1]]
            if not state.startable or entry[1] in self._unwanted:
                self._queued.discard(entry[1])
                continue
            lo, hi = (-1, -1) if state.items is None else state.choose(self._room.capacity.slots)
            asked = self._asked(state, lo)
            short = asked.slots == 1 and self._short.has(state.node)
            if not self._room.hold(asked) and not (short and not passed and self._room.wait(asked)):
                passed.append(entry)
                if self._room.is_full or self._is_kept_for(state, asked):
                    break
                continue
            for _, node in passed:
                self.nodes[node].skips += 1
            effects.append(self._start(state, lo, hi, asked, short=short))
            if state.open:
                heapq.heappush(self._ready, entry)
            else:
                self._queued.discard(entry[1])
        for entry in passed:
            heapq.heappush(self._ready, entry)
        return effects

    def _is_kept_for(self, state: NodeState, asked: ResourceRequest) -> bool:
        """Whether the place is kept for an attempt that was passed often. Not for a gang that it is too small for just now."""
        slots = self._room.capacity.slots
        return state.skips > self.skips_before_reserving * slots and asked.slots <= slots

    def _submit_twins(self) -> list[Effect]:
        """Second attempts for stragglers, the one longest overdue first, in slots that nothing else wants."""
        effects: list[Effect] = []
        for due, first in sorted(self._stragglers()):
            if due > self._now or self._room.is_full:
                break
            running = self.running[first]
            asked = self._asked(self.nodes[running.node], running.lo)
            if self._room.hold(asked):
                effects.append(self._start_twin(first, running, asked))
        return effects

    def _stragglers(self) -> list[tuple[float, int]]:
        """When which attempt is a straggler, of those that may have a second one; none while anything else is ready."""
        if self.failure is not None or self._ready or self._room.is_full:
            return []
        candidates = [
            (self.nodes[running.node].straggles_at(running, self._now), attempt)
            for attempt, running in self.running.items()
        ]
        return [(due, attempt) for due, attempt in candidates if due is not None]

    def _start_twin(self, first: int, running: RunningAttempt, asked: ResourceRequest) -> Submit:
        attempt, node, lo, hi = self._new_attempt(), running.node, running.lo, running.hi
        running.twin, running.doubled = attempt, True
        self.running[attempt] = RunningAttempt(node, lo, hi, False, asked, twin=first, doubled=True)
        number = self.nodes[node].failures.get(lo, 0) + 1
        return Submit(attempt, node, lo, hi, number, memory=asked.memory or None, twin_of=first)

    def _asked(self, state: NodeState, lo: int) -> ResourceRequest:
        memory = self.memory(state.node.id, lo) or 0
        return ResourceRequest(state.plan.cpus, memory, state.plan.gpus, state.slots(lo))

    def _start(self, state: NodeState, lo: int, hi: int, asked: ResourceRequest, *, short: bool) -> Submit:
        attempt, node = self._new_attempt(), state.node.id
        number, memory = state.failures.get(lo, 0) + 1, asked.memory or None
        skips, state.skips = state.skips, 0
        if state.items is None:
            state.expanding = True
            self.running[attempt] = RunningAttempt(node, 0, 0, True, asked, skips=skips)
            return Submit(attempt, node, 0, 0, number, expand=True, memory=memory)
        state.open.remove(lo, hi)
        state.taken.add(lo, hi)
        self.running[attempt] = RunningAttempt(node, lo, hi, False, asked, skips=skips)
        return Submit(attempt, node, lo, hi, number, memory=memory, short=short)

    def _new_attempt(self) -> int:
        """An id that no engine has seen. Withdrawn ones go first, so that those unheard of are never more than the slots."""
        if self._withdrawn:
            return heapq.heappop(self._withdrawn)
        self._next_attempt += 1
        return self._next_attempt - 1


# --- What a run still has to do, task by task: for whoever decides how many workers it gets.


class Sizing(Protocol):
    """Decides how many workers a run has while it goes on. It is told what happens as an observer of the journal."""

    def decide(self, now: float, state: RunState) -> FleetDecided | None:
        """Asked often, in the runner's thread; None where nothing changes. `now` is the scheduler's time.

        The runner journals what is decided, asks the engine for so many workers, and ends the run where it says `stop`.
        """
        ...


@dataclass(slots=True, kw_only=True)
class Remains:
    """What is left of one task, in items of maps and calls. `running_s` has what each attempt has run, and its items."""

    task: str
    depth: int
    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    slots: int = 0
    """What must be there at once: the ranks of gangs that run, or of one that could."""
    running: int = 0
    ready: int = 0
    waiting: int = 0
    open_ended: bool = False
    running_s: list[tuple[float, int]] = field(default_factory=list)
    expected_s: list[float] = field(default_factory=list)
    """What items that are left took in earlier runs, where that is known."""


def remains_of(state: RunState, now: float) -> list[Remains]:
    """Of all tasks that this run still wants something of, those nearest to the inputs first."""
    depths = state.graph.depths()
    tasks: dict[str, Remains] = {}
    running = _running(state, now)
    for each in state.nodes:
        node = each.node.id
        if not each.demanded or state.is_over(node):
            continue
        name = each.node.task.name
        left = tasks.setdefault(name, Remains(task=name, depth=depths[node]))
        left.depth = max(left.depth, depths[node])
        _add(left, each, running.get(node, []))
    return sorted(tasks.values(), key=lambda left: left.depth)


def _running(state: RunState, now: float) -> Mapping[int, list[tuple[float, int]]]:
    """Node -> of each attempt at items of it, seconds since its start and its items. Of two at the same items the first."""
    found: dict[int, list[tuple[float, int]]] = {}
    for attempt, each in state.running.items():
        second = each.twin is not None and each.twin < attempt
        if not second:
            since = 0.0 if each.started is None else max(now - each.started, 0.0)
            found.setdefault(each.node, []).append((since, max(each.hi - each.lo, 1)))
    return found


def _add(left: Remains, state: NodeState, running: list[tuple[float, int]]) -> None:
    left.cpus = max(left.cpus, state.plan.cpus)
    left.gpus = max(left.gpus, state.plan.gpus)
    if state.plan.memory is not None:
        left.memory = max(left.memory or 0, state.plan.memory)
    ranks = max(1, state.plan.ranks)
    left.running_s += running
    runs = sum(items for _, items in running)
    left.running += runs * ranks
    if state.items is None:
        left.open_ended = True
        left.ready += int(state.startable)
        return
    ready = state.open.count
    left.ready += ready * ranks
    left.waiting += max(state.items - len(state.done) - runs - ready, 0) * ranks
    if state.plan.ranks:
        left.slots = max(left.slots, runs * ranks, ranks if ready else 0)
    left.expected_s += [
        s for item, s in state.plan.expected_s.items() if not state.done.items.contains(item, item + 1)
    ]
