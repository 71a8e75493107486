"""The scheduler: a pure state machine that folds events and decides what runs next.

`apply(event)` folds an event; `decide(now)` returns effects for the runner. It has no clock, thread or randomness:
the same events give the same decisions, so a history replays from its seed.

Demand goes backwards from the pipeline's output: a node whose result is found demands nothing of its ancestors, so a
cached run looks up only what it needs. Among ready nodes the deepest goes first. Within a map the longest item goes
first if durations are known.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from hooke.base.ref import Ref
from hooke.journal.events import (
    FINISHED,
    WITH_FAILURES,
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CallsFinished,
    CapacityChanged,
    Event,
    ItemsFound,
    ItemsSkipped,
    MapExpanded,
    StopRequested,
)
from hooke.pipeline.graph import Graph, Need, needs_of, pruned_nodes, waiters_of
from hooke.pipeline.node_state import (
    Abandon,
    Effect,
    ElasticGangs,
    Finish,
    LookedUp,
    Lookup,
    NodePlan,
    NodeState,
    RunningAttempt,
    Submit,
)
from hooke.pipeline.retries import Retries, held_until, is_items_own, is_of_unknown_item
from hooke.pipeline.slots import MOST_AHEAD_IN_ALL, FollowLines, ResourceRequest, ShortTasks, SlotRoom

__all__ = ["RunState"]


SKIPS_BEFORE_RESERVING = 4
"""Others may overtake a ready attempt that does not fit this many times per slot. Then slots are reserved for it."""

MOST_WAITING = 64
"""So many nodes that wait are looked at to decide whether elastic gangs should make room for them."""

MOST_CHILDREN = 4
"""So many of the nodes that need a result are looked at for one that may follow its attempt."""


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
        self._has_timeouts = any(plan.timeout_s is not None for plan in plans)
        self._has_maps = any(node.kind == "map" for node in graph.nodes)
        self.gangs = ElasticGangs() if any(plan.least_ranks for plan in plans) else None
        """None without elastic gangs."""
        self.ignored = 0
        self.follows = False
        """Whether the engine lets an attempt follow another one in its worker."""
        self._lines = FollowLines()
        self._unfollowed: set[int] = set()
        """Nodes that wait until their inputs are there, since what is stored for them may count then."""
        self._room = SlotRoom()
        self._short = ShortTasks()
        self._next_attempt = first_attempt
        self._withdrawn: list[int] = []
        self._unneeded: list[int] = []
        self._skips: list[ItemsSkipped] = []
        self._just_left_out: list[tuple[NodeState, int, int]] = []
        self._leaving_out = False
        self._now = 0.0
        self._stop_by: str | None = None
        self._pending_lookups: list[int] = []
        self._held: list[tuple[float, int]] = []
        self._held_looks: dict[int, int] = {}
        """Node -> how often another process was found computing it."""
        self._retries = Retries(seed)
        self._ready: list[tuple[int, int]] = []
        self._queued = bytearray(len(graph.nodes))
        """1 for a node that is in `_ready`."""
        self._depth = graph.depths()
        self._waiters = waiters_of(graph, [state.needs for state in self.nodes])
        self._unfinished_roots = set(graph.roots())
        self._pruned: set[int] = set()
        """Nodes that need not run, because every consumer has its result or need not run."""
        self._needed_by = graph.child_counts()
        """How many consumers of each node may still need its result."""
        for root in sorted(self._unfinished_roots):
            self._demand(root)

    # -- events in ---------------------------------------------------------------------------------

    def apply(self, event: Event | LookedUp) -> None:
        """Fold one event. Other events are ignored; late and duplicate answers are counted."""
        match event:
            case LookedUp():
                self._lookup_answered(event)
            case AttemptFinished() | CallsFinished():
                self._finished(event)
            case AttemptFailed():
                self._failed(event)
            case AttemptStarted():
                self._began(event)
            case ItemsFound():
                self._found(event)
            case ItemsSkipped():
                self._leave_out(self.nodes[event.node], event.lo, event.hi)
            case MapExpanded():
                self.nodes[event.node].tainted |= event.tainted
                self._expanded(self.nodes[event.node], event.items)
            case CapacityChanged():
                self._room.capacity = event
            case StopRequested():
                self._stop_by = self._stop_by or event.by
            case _:
                pass

    def _began(self, event: AttemptStarted) -> None:
        if event.attempt in self.running:
            running = self.running[event.attempt]
            running.started, running.wish, running.wished = event.at, running.request.slots, event.at

    def _finished(self, event: AttemptFinished | CallsFinished) -> None:
        if isinstance(event, CallsFinished):
            for number, ref, seconds in zip(event.attempts, event.refs, event.seconds, strict=True):
                if (attempt := self._pop_running(number)) is not None:
                    self._done(attempt, 1, ref, seconds)
            return
        attempt = self._pop_running(event.attempt)
        if attempt is None:
            return
        state = self.nodes[attempt.node]
        if attempt.expand:
            state.expanding = False
            return
        if attempt.twin is not None:
            self._remove(attempt.twin)
            self._unneeded.append(attempt.twin)
        if state.node.kind == "map":
            order_s = event.at - attempt.submitted - event.seconds
            items, first = event.hi - event.lo, attempt.limit_s > 0
            state.sizer.measured(items, event.seconds, order_s=order_s, first=first)
            state.straggler_limit.measured(items, event.seconds)
        self._done(attempt, event.hi, event.ref, event.seconds)

    def _done(self, attempt: RunningAttempt, hi: int, ref: Ref, seconds: float) -> None:
        state = self.nodes[attempt.node]
        self._short.measured(state.node, seconds)
        state.taken.remove(attempt.lo, attempt.hi)
        self._record(state, attempt.lo, hi, ref)
        if hi < attempt.hi:  # it has ended at its limit
            self._open(state, hi, attempt.hi)
        if state.announced:
            state.forget_work()

    def _failed(self, event: AttemptFailed) -> None:
        self._drop_followers(event.attempt)
        attempt = self._pop_running(event.attempt)
        if attempt is None or self._twin_goes_on(attempt):
            return
        state = self.nodes[attempt.node]
        state.taken.remove(attempt.lo, attempt.hi)
        if attempt.expand:
            state.expanding = False
            self._retry_or_fail(state, event, item=-1)
            return
        good = attempt.lo
        if event.done and event.ref is not None:
            good += event.done
            self._record(state, attempt.lo, good, event.ref)
        if attempt.hi - good > 1 and is_of_unknown_item(state, event):
            self._isolate(state, good, attempt.hi, event)
            return
        if self.gangs and event.resized:
            self.gangs.resized(state, attempt, event.at)
            self._open(state, good, attempt.hi, first=True)
            return
        if self.gangs:
            self.gangs.failed(state, attempt)
        self._open(state, good + 1, attempt.hi)
        self._retry_or_fail(state, event, item=good)

    def _pop_running(self, attempt: int) -> RunningAttempt | None:
        """Remove and return a running attempt; None (and counted) for a late or duplicate answer."""
        self.ignored += attempt not in self.running
        return self._remove(attempt) if attempt in self.running else None

    def _remove(self, attempt: int) -> RunningAttempt:
        running = self.running.pop(attempt)
        if self._lines.end(attempt):
            self._room.free(running.request)
        return running

    def _drop_followers(self, attempt: int) -> None:
        """Take back what follows an attempt that has no result: it has not begun."""
        for follower in reversed(self._lines.behind(attempt)):
            state = self.nodes[self._remove(follower).node]
            state.taken.remove(0, 1)
            self._reopen(state)
            self._unneeded.append(follower)

    def unfollow(self, submit: Submit) -> None:
        """Take back an attempt that was to follow another one and was not handed out: its node waits for its inputs instead."""
        heapq.heappush(self._withdrawn, submit.attempt)
        if submit.attempt in self.running:
            self._unfollowed.add(submit.node)
            self._drop_followers(submit.attempt)
            state = self.nodes[self._remove(submit.attempt).node]
            state.taken.remove(0, 1)
            self._reopen(state)

    def _twin_goes_on(self, attempt: RunningAttempt) -> bool:
        """Whether this ended attempt's twin still runs. Then the twin's outcome decides about their items."""
        if attempt.twin is None:
            return False
        self.running[attempt.twin].twin = None
        return True

    def _retry_or_fail(self, state: NodeState, event: AttemptFailed, *, item: int) -> None:
        """Plan a retry of the failed item; else leave it out or fail the run, as the map says."""
        if self._retries.plan(state, event, item, self._room.capacity):
            return
        if state.node.on_error == "continue" and item >= 0 and is_items_own(event):
            state.failed += 1
            self._leave_out(state, item, item + 1)
        else:
            self.failure = self.failure or event

    def _isolate(self, state: NodeState, lo: int, hi: int, event: AttemptFailed) -> None:
        """Run a dead chunk's items one by one, so that only the item that killed it fails."""
        state.alone.add(lo, hi)
        self._open(state, lo, hi)
        kind = event.failure.kind
        reason = f"{kind} while items {lo}..{hi - 1} ran in one attempt; each runs alone to find which"
        self._retries.note(state, (lo, hi), number=1, due=event.at, reason=reason)

    def _found(self, event: ItemsFound) -> None:
        state = self.nodes[event.node]
        for lo, hi in state.missing_in(event.lo, event.hi):
            state.done.record(lo, hi, event.ref, event.start + lo - event.lo)
            state.open.remove(lo, hi)
            self._announce_done(state, lo, hi)

    def _record(self, state: NodeState, lo: int, hi: int, ref: Ref) -> None:
        state.tainted = state.tainted or (hi > lo and self.is_tainted(state.node.id))
        state.done.record(lo, hi, ref)
        self._announce_done(state, lo, hi)

    # -- items that are left out -------------------------------------------------------------------

    @property
    def failures(self) -> int:
        """The failed items that the result lacks. Those whose consumers were all found, made from the whole list, do not count."""
        if not any(state.failed for state in self.nodes):
            return 0
        unneeded = pruned_nodes(self.graph, self.graph.roots(), lambda node: self.nodes[node].whole)
        return sum(state.failed for state in self.nodes if state.node.id not in unneeded)

    def is_tainted(self, node: int) -> bool:
        """Whether what an attempt at the node computes now depends on failed items, so its key does not describe it.

        Such a result counts in this run alone: it must not be committed, nor taken up by a resume.
        """
        needs = self.nodes[node].needs
        return bool(needs) and any(
            parent.tainted or (parent.lost > 0 and not need.elementwise)
            for need in needs
            for parent in (self.nodes[need.node],)
        )

    def _leave_out(self, state: NodeState, lo: int, hi: int) -> None:
        """Items end without a result: maps that follow item by item skip theirs. A loop, since graphs may be deep."""
        for a, b in state.missing_in(lo, hi):
            state.leave_out(a, b)
            state.open.remove(a, b)
            self._just_left_out.append((state, a, b))
        if self._leaving_out:
            return  # the loop that called this goes on with it
        self._leaving_out = True
        while self._just_left_out:
            state, lo, hi = self._just_left_out.pop()
            for child in self._waiters.elementwise.get(state.node.id, ()):
                self._skip(self.nodes[child], lo, hi)
            self._announce_complete(state)
        self._leaving_out = False

    def _skip(self, state: NodeState, lo: int, hi: int) -> None:
        """Leave out the items `lo..hi` that a map before left out, once a lookup has not found them."""
        if not state.looked_up or state.missing or state.items is None:
            return
        for need in state.needs:
            if not need.elementwise:
                continue
            for a, b in self.nodes[need.node].left_out.within(lo, hi):
                for c, d in state.missing_in(a, b):
                    self._skips.append(ItemsSkipped(node=state.node.id, lo=c, hi=d, parent=need.node))
                    self._leave_out(state, c, d)

    def _expanded(self, state: NodeState, items: int) -> None:
        if state.items is not None:
            return
        state.items = items
        if state.looked_up:
            state.looked_up = False  # its items have keys only now, so look them up
            self._pending_lookups.append(state.node.id)
        for child in self._waiters.elementwise.get(state.node.id, ()):
            self.nodes[child].tainted |= state.tainted  # even if all of it is found: its list is as short
            self._expanded(self.nodes[child], items)

    # -- demand and readiness ----------------------------------------------------------------------

    def _demand(self, node: int) -> None:
        state = self.nodes[node]
        if not state.demanded:
            state.demanded = True
            self._pending_lookups.append(node)

    def _lookup_answered(self, answer: LookedUp) -> None:
        state = self.nodes[answer.node]
        state.asked = answer.asked
        if answer.attempt is not None:
            self._withdraw(state, answer.attempt)
        if answer.held or answer.asked:
            if state.looked_up:  # else another attempt of this decision has reported it
                state.looked_up = False
                if answer.held:
                    self._wait_for_another(answer.node)
            return
        state.looked_up = True
        if state.complete:
            self._announce_done(state, 0, 0)
            return
        waiting = [need for need in state.needs if not self._met(need)]
        state.missing = sum(1 for need in waiting if not need.elementwise)
        for need in state.needs:
            self._demand(need.node)
        self._reopen(state)

    def _wait_for_another(self, node: int) -> None:
        """Look the node up again after a while, each time after a longer one: another process computes it."""
        looks = self._held_looks[node] = self._held_looks.get(node, 0) + 1
        heapq.heappush(self._held, (held_until(self._now, looks, seed=self.seed), node))

    def look_again(self, node: int) -> None:
        """Look a node up at the next decision instead of later: what it waited for in vain is released."""
        if any(waiting == node for _, waiting in self._held):
            self._held = [entry for entry in self._held if entry[1] != node]
            heapq.heapify(self._held)
            heapq.heappush(self._held, (self._now, node))

    def _withdraw(self, state: NodeState, attempt: int) -> None:
        self._drop_followers(attempt)
        running = self._remove(attempt)
        heapq.heappush(self._withdrawn, attempt)
        if self._twin_goes_on(running):
            return
        state.skips += running.skips  # as if it had not started
        state.taken.remove(running.lo, running.hi)
        state.expanding = state.expanding and not running.expand

    def _met(self, need: Need) -> bool:
        parent = self.nodes[need.node]
        if need.item is not None:
            return parent.done.items.contains(need.item, need.item + 1)
        return parent.announced  # not `complete`, which an empty map is before its consumers were woken

    def _reopen(self, state: NodeState) -> None:
        """Open the items that may start now, after a lookup, an expansion or the last missing input."""
        if not state.looked_up or state.missing:
            return
        if state.items is None:
            if state.node.is_dynamic and not state.expanding:
                self._push(state)
            return
        if state.node.kind == "call":
            self._open(state, 0, 1)
            return
        self._skip(state, 0, state.items)
        elementwise = [need.node for need in state.needs if need.elementwise]
        ranges = [(0, state.items)]
        for parent in elementwise:
            done = self.nodes[parent].done.items
            ranges = [piece for lo, hi in ranges for piece in done.within(lo, hi)]
        for lo, hi in ranges:
            self._open(state, lo, hi)

    def _open(self, state: NodeState, lo: int, hi: int, *, first: bool = False) -> None:
        for a, b in state.missing_in(lo, hi):
            for c, d in state.taken.gaps(a, b):
                state.open.add(c, d)
        if state.open and first:
            self._push_first(state)
        elif state.open:
            self._push(state)

    def _push_first(self, state: NodeState) -> None:
        """A gang that has ended to go on with another number of ranks goes before all others: it had its room."""
        node = state.node.id
        if not self._queued[node]:
            self._queued[node] = 1
            heapq.heappush(self._ready, (-len(self.nodes) - 1, node))

    def _push(self, state: NodeState) -> None:
        node = state.node.id
        if not self._queued[node]:
            self._queued[node] = 1
            heapq.heappush(self._ready, (-self._depth[node], node))

    def _announce_done(self, state: NodeState, lo: int, hi: int) -> None:
        """Items `lo..hi` are done: wake the nodes that wait for them."""
        node = state.node.id
        for child in self._waiters.pop_items(node, lo, hi):
            self._input_met(child)
        for child in self._waiters.elementwise.get(node, ()):
            self._advance_child(self.nodes[child], lo, hi)
        self._announce_complete(state)

    def _announce_complete(self, state: NodeState) -> None:
        if state.announced or not state.complete:
            return
        node = state.node.id
        state.announced = True
        self._unfinished_roots.discard(node)
        if node not in self._pruned:
            self._needs_nothing(node)
        for child in self._waiters.of_whole(node):
            self._input_met(child)

    def _needs_nothing(self, node: int) -> None:
        """The node has its result: prune the inputs that no other node needs, and theirs. Each edge is looked at once a run."""
        ended = [node]
        while ended:
            for parent in self.graph.parents(ended.pop()):
                self._needed_by[parent] -= 1
                is_wanted = self._needed_by[parent] or parent in self._unfinished_roots
                if not is_wanted and not self.nodes[parent].announced:
                    self._pruned.add(parent)
                    ended.append(parent)

    def _input_met(self, child: int) -> None:
        state = self.nodes[child]
        if state.looked_up and state.missing:
            state.missing -= 1
            if not state.missing:
                self._reopen(state)

    def _advance_child(self, child: NodeState, lo: int, hi: int) -> None:
        if not child.looked_up or child.missing or child.items is None:
            return
        ranges = [(lo, hi)]
        for need in child.needs:
            if need.elementwise:
                done = self.nodes[need.node].done.items
                ranges = [piece for a, b in ranges for piece in done.within(a, b)]
        for a, b in ranges:
            self._open(child, a, b)

    def retries_due(self) -> list[tuple[float, int]]:
        """When items that have failed run again, each with its node."""
        return self._retries.planned()

    @property
    def waits_for_others(self) -> bool:
        """Whether another process computes something that is needed, which may be there at any moment."""
        return bool(self._held)

    # -- decisions out -----------------------------------------------------------------------------

    def decide(self, now: float) -> list[Effect]:
        """The effects to perform now. Empty if there is nothing to do before the next event or `next_due()`."""
        self._now = now
        if self.status is not None:
            return []
        effects: list[Effect] = [
            *self._retries.take_notes(),
            *self._skips,
            *(Abandon(attempt) for attempt in self._unneeded),
        ]
        self._unneeded.clear()
        self._skips = []
        if self._stop_by is not None:
            return effects + self._stop()
        effects += self._expire(now)
        if self.failure is not None:
            return effects + ([self._end("failed")] if not self.running else [])
        if not self._unfinished_roots:
            return [
                *effects,
                *self._abandon_all(),
                self._end(WITH_FAILURES if self.failures else FINISHED),
            ]
        self._release(now)
        if self._pending_lookups:  # first look everything up: the order is decided among all ready nodes
            effects += [Lookup(node) for node in self._pending_lookups]
            self._pending_lookups = []
            return effects
        effects += self._withdraw_gangs()
        effects += self._submit_ready()
        if self.follows and not self._ready:
            effects += self._submit_followers()
        if self.gangs:
            effects += self.gangs.resizes(self.running, self.nodes, self._room, self._waiting(), now)
        return effects if self._ready else effects + self._submit_twins()

    def is_over(self, node: int) -> bool:
        """Whether the run does nothing more for the node: it is complete, or it is pruned and has no running attempt."""
        if node not in self._pruned:
            return self.nodes[node].complete
        return all(running.node != node for running in self.running.values())

    def coming(self) -> list[int]:
        """Calls that are expected to begin within a second, about in their order, and after those that they wait for.

        They wait for free slots, or for calls that run or are among them. Their claims may be made before.
        """
        running = dict.fromkeys(attempt.node for attempt in self.running.values())
        first = self._ready[0][1] if self._ready else next(iter(running), None)
        if first is None:
            return []
        each = self._short.ahead(self.nodes[first].node)
        long = sum(not self._short.ahead(self.nodes[attempt.node].node) for attempt in self.running.values())
        most = min(MOST_AHEAD_IN_ALL, max(self._room.capacity.slots - long, 0) * each)
        ready = [node for _, node in heapq.nsmallest(most, self._ready[: 4 * most])]
        found = dict.fromkeys(node for node in ready if self._comes(node) and self.nodes[node].startable)
        calls = [node for node in running if self.nodes[node].node.kind == "call"]
        sources, missing = deque([*calls, *found]), dict[int, int]()
        while sources and len(found) < most:
            for child in self._waiters.of_whole(sources.popleft()):
                if child in running:  # it follows
                    continue
                missing[child] = missing.get(child, self.nodes[child].missing) - 1
                if not missing[child] and self._comes(child):
                    found[child] = None
                    sources.append(child)
        return [*found][:most]

    def _comes(self, node: int) -> bool:
        state = self.nodes[node]
        return state.looked_up and node not in self._pruned and self._short.ahead(state.node) > 0

    def together(self, node: int, count: int) -> int:
        """How many of `count` short attempts at calls like this node one worker is given as a group."""
        return self._short.together(self.nodes[node].node, count, max(1, self._room.capacity.slots))

    def memory(self, node: int, item: int) -> int | None:
        """Bytes that an attempt which begins with this item may use; None for no limit."""
        state = self.nodes[node]
        return state.memory(item, self._room.capacity)

    def next_due(self) -> float | None:
        """When `decide` must be called again even without an event; None for never."""
        waiting = [self._held[0][0] if self._held else None, self._retries.next_due()]
        due = [at for at in waiting if at is not None and self.failure is None]
        for running in self.running.values() if self._has_timeouts else ():
            timeout_s = self.nodes[running.node].plan.timeout_s
            if timeout_s is not None and running.started is not None:
                due.append(running.started + timeout_s - running.before_s)
        if self.gangs and (looks := self.gangs.next_due(self.running, self.nodes, self._now)) is not None:
            due.append(looks)
        if not self._ready:
            # A straggler that is due already did not fit: an event must free slots first.
            due += [straggles for straggles, _ in self._stragglers() if straggles > self._now]
        return min(due, default=None)

    def _end(self, status: str) -> Finish:
        self.status = status
        return Finish(status)

    def _stop(self) -> list[Effect]:
        return [*self._abandon_all(), self._end("stopped")]

    def _abandon_all(self) -> list[Effect]:
        """Cancel all running attempts: after a stop, or if other processes computed the results."""
        abandoned: list[Effect] = [Abandon(attempt) for attempt in self.running]
        self.running.clear()
        return abandoned

    def _expire(self, now: float) -> list[Effect]:
        expired: list[Effect] = []
        if not self._has_timeouts:
            return expired
        for attempt, running in self.running.items():
            timeout_s = self.nodes[running.node].plan.timeout_s
            started = running.started
            if (
                timeout_s is not None
                and started is not None
                and now >= started + timeout_s - running.before_s
            ):
                expired.append(Abandon(attempt, timed_out=True))
        return expired

    def _release(self, now: float) -> None:
        while self._held and self._held[0][0] <= now:
            self._pending_lookups.append(heapq.heappop(self._held)[1])
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
            if not state.startable or entry[1] in self._pruned:
                self._queued[entry[1]] = 0
                continue
            lo, hi = (-1, -1) if state.items is None else state.choose(self._room.capacity.slots)
            request = self._request(state, lo)
            short = request.slots == 1 and self._short.has(state.node)
            wider = self._widened(state, lo, request)
            if wider is not None:
                request = wider
            elif not self._room.take(request) and not (
                short and not passed and self._room.queue_behind(request, self._short.behind(state.node))
            ):
                passed.append(entry)
                if self._room.is_full or self._is_reserved_for(state, request):
                    break
                continue
            for _, node in passed:
                self.nodes[node].skips += 1
            effects.append(self._start(state, lo, hi, request, short=short))
            if state.open:
                heapq.heappush(self._ready, entry)
            else:
                self._queued[entry[1]] = 0
        for entry in passed:
            heapq.heappush(self._ready, entry)
        return effects

    def _submit_followers(self) -> list[Effect]:
        """Attempts at calls that need nothing more than what a short call gives, behind that one. Those that are ready go first."""
        effects: list[Effect] = []
        tails = deque(self._lines.open())
        while tails:
            before = tails.popleft()
            running = self.running[before]
            most = self._short.behind(self.nodes[running.node].node)
            if not self._room.may_follow(running.request, most, len(self._lines)):
                break
            if self._lines.length(before) >= most:
                continue
            state = self._follower(running)
            if state is None:
                self._lines.close(before)
                continue
            submit = self._start(state, 0, 1, running.request, short=True)
            self._lines.join(submit.attempt, before)
            effects.append(replace(submit, after=before))
            tails.append(submit.attempt)
        return effects

    def _follower(self, running: RunningAttempt) -> NodeState | None:
        """A node whose only missing input is what a running attempt computes, and whose attempt may wait in the same worker."""
        parent = self.nodes[running.node]
        for child in self._waiters.of_whole(running.node)[:MOST_CHILDREN]:
            state = self.nodes[child]
            if (
                state.looked_up
                and state.missing == 1
                and not (state.complete or state.taken or state.asked)
                and not (child in self._pruned or child in self._unfollowed)
                and self._short.has(state.node)
                and not state.plan.ranks
                and self._request(state, 0) == running.request
                and not (parent.tainted or self.is_tainted(running.node) or self.is_tainted(child))
            ):
                return state
        return None

    def _widened(self, state: NodeState, lo: int, request: ResourceRequest) -> ResourceRequest | None:
        """The request of an elastic gang with more than the fewest ranks, whose room is taken; None if there is none, and for other tasks."""
        if self.gangs is None or not state.plan.least_ranks or lo < 0:
            return None
        return self.gangs.widened(state, lo, request, self._room)

    def _withdraw_gangs(self) -> list[Effect]:
        """Take back elastic gangs that have not begun and lack the room that they had: they go on with fewer ranks."""
        if self.gangs is None:
            return []
        gone = list(self.gangs.withdrawn(self.running, self.nodes, self._room, self._now))
        for attempt in gone:
            running = self._remove(attempt)
            state = self.nodes[running.node]
            state.taken.remove(running.lo, running.hi)
            self._open(state, running.lo, running.hi, first=True)
        return [Abandon(attempt) for attempt in gone]

    def _waiting(self) -> Iterator[ResourceRequest]:
        """The requests of what has no room, in its order; of a map, no more than there are slots."""
        for _, node in heapq.nsmallest(MOST_WAITING, self._ready):
            state = self.nodes[node]
            if state.startable and node not in self._pruned:
                lo = -1 if state.items is None else state.open.first(1)[0]
                count = 1 if lo < 0 else min(state.open.count, self._room.capacity.slots)
                yield from [self._request(state, lo)] * count

    def _is_reserved_for(self, state: NodeState, request: ResourceRequest) -> bool:
        """Whether slots are reserved for an attempt that others overtook often; never for a gang with more ranks than slots."""
        slots = self._room.capacity.slots
        return state.skips > self.skips_before_reserving * slots and request.slots <= slots

    def _submit_twins(self) -> list[Effect]:
        """Second attempts for stragglers in free slots, the longest overdue first."""
        effects: list[Effect] = []
        for due, first in sorted(self._stragglers()):
            if due > self._now or self._room.is_full:
                break
            running = self.running[first]
            request = self._request(self.nodes[running.node], running.lo)
            if self._room.take(request):
                effects.append(self._start_twin(first, running, request))
        return effects

    def _stragglers(self) -> list[tuple[float, int]]:
        """(When it is due, attempt) of each straggler that may have a second attempt; empty while other work is ready."""
        if not self._has_maps or self.failure is not None or self._ready or self._room.is_full:
            return []
        candidates = [
            (self.nodes[running.node].straggles_at(running, self._now), attempt)
            for attempt, running in self.running.items()
        ]
        return [(due, attempt) for due, attempt in candidates if due is not None]

    def _start_twin(self, first: int, running: RunningAttempt, request: ResourceRequest) -> Submit:
        attempt, node, lo, hi = self._new_attempt(), running.node, running.lo, running.hi
        running.twin, running.doubled = attempt, True
        self.running[attempt] = RunningAttempt(
            node, lo, hi, False, request, submitted=self._now, twin=first, doubled=True
        )
        number, memory = self.nodes[node].number(lo), request.memory or None
        return Submit(attempt, node, lo, hi, number, memory=memory, twin_of=first, limit_s=running.limit_s)

    def _request(self, state: NodeState, lo: int) -> ResourceRequest:
        memory = self.memory(state.node.id, lo) or 0
        return ResourceRequest(state.plan.cpus, memory, state.plan.gpus, state.slots(lo))

    def _start(self, state: NodeState, lo: int, hi: int, request: ResourceRequest, *, short: bool) -> Submit:
        attempt, node = self._new_attempt(), state.node.id
        number, memory = state.number(lo), request.memory or None
        skips, state.skips = state.skips, 0
        if state.items is None:
            state.expanding = True
            self.running[attempt] = RunningAttempt(node, 0, 0, True, request, skips=skips)
            return Submit(attempt, node, 0, 0, number, expand=True, memory=memory)
        state.open.remove(lo, hi)
        state.taken.add(lo, hi)
        known = state.elastic.get(lo) if state.plan.least_ranks else None
        before_s, limit_s = known.ran_s if known is not None else 0.0, state.limit_s(hi - lo)
        self.running[attempt] = made = RunningAttempt(node, lo, hi, False, request, submitted=self._now)
        made.skips, made.before_s, made.limit_s = skips, before_s, limit_s
        ranks = request.slots if state.plan.ranks else 0
        if short and self.follows and not (request.gpus or ranks):
            self._lines.begin(attempt)
        return Submit(attempt, node, lo, hi, number, memory=memory, short=short, ranks=ranks, limit_s=limit_s)

    def _new_attempt(self) -> int:
        """An id that no engine has seen. Withdrawn ids are used first, so that at most one id a slot is unknown to the journal."""
        if self._withdrawn:
            return heapq.heappop(self._withdrawn)
        self._next_attempt += 1
        return self._next_attempt - 1
