"""The shell around the run state: performs its effects and feeds it events, journal first.

One loop in one thread; `StoreWork` says what other threads do where a store takes long to answer. The events of a turn are
journalled with one write, before anything acts on them: before an attempt is handed out or cancelled, a result is committed, a
claim is released or an event is waited for. The run state, which is in memory only, may have applied them by then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import compress
from pathlib import Path

import msgspec

from hooke.base.clock import Clock
from hooke.base.errors import HookeError, JournalError, UsageError
from hooke.base.formats import short_call
from hooke.base.intervals import Segment
from hooke.base.observed import InputsNow
from hooke.base.ref import ItemsMadeFrom, MadeFrom, Ref
from hooke.journal.events import (
    BUDGET,
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CallsFinished,
    Event,
    Failure,
    ItemsFound,
    MapExpanded,
    StopRequested,
)
from hooke.journal.fleet_events import FleetDecided
from hooke.journal.writer import Journal
from hooke.keys.fingerprint_parts import expansion_key
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.engine import Call, Engine, EngineEvent
from hooke.pipeline.failures import failed_in_cell, failed_instead, failure_of
from hooke.pipeline.file_results import ProducedFiles
from hooke.pipeline.finished_results import Lineage, Look, Recovered, ResultWrites
from hooke.pipeline.graph import Graph, list_maker
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import Abandon, Effect, Finish, LookedUp, Lookup, Resize, Submit
from hooke.pipeline.run_state import RunState
from hooke.processes.exit_report import last_lines
from hooke.store.backend import Learnt, joined
from hooke.store.claims import Claim
from hooke.store.entries import Counts, Entry
from hooke.store.store import Store
from hooke.store.store_work import Aside, Committed, StoreWork

__all__ = ["CTRL_C", "Runner", "RunnerParts"]

CTRL_C = "Ctrl-C"
_log = logging.getLogger("hooke")

LONGEST_WAIT_S = 0.25
"""How long a stop request may go unseen."""

MOST_LOOKED_AT = 500
"""Inputs that one call looks at: some 60 KB. The hosts share larger numbers."""


class RunnerParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a runner."""

    run: str
    graph: Graph
    keys: GraphKeys
    state: RunState
    engine: Engine
    store: Store
    journal: Journal
    clock: Clock
    logs: Path | None = None
    """The folder of the workers' output, in `WORKER.log`; None if it is not kept."""
    inputs: InputsNow = msgspec.field(
        default_factory=lambda: InputsNow(root=Path.cwd(), environment=os.environ)
    )
    """The files and variables as they are now, which results may have been made from."""
    recovered: Recovered = msgspec.field(default_factory=Recovered)
    stop_requested: Callable[[], str | None] = lambda: None
    forced: frozenset[int] = frozenset()
    """Nodes that run although the store has their results; what this run has done itself counts."""
    sizing: Callable[[float, RunState], FleetDecided | None] | None = None
    """Decides how many workers there are, and whether the run ends, by the scheduler's time; None leaves the number as it is."""
    aside: Aside | None = None
    """Makes claims and commits; None leaves them to threads where they take long, and else to the runner's own."""


class Runner:
    """Drives one run to its end. `run()` returns when the run is finished, failed or stopped."""

    _as_of_then = False
    """Whether a node is looked up by files as they were before some task has ended, so maybe one that it follows."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._state = parts.state
        self._state.follows = parts.engine.capabilities.follows
        self._calls = CallMaker(parts.graph, parts.keys, parts.state, parts.store)
        self._calls.variables_read = parts.inputs.variables
        self._lineage = Lineage(parts.graph, parts.state.nodes, parts.store, parts.inputs)
        self._work = StoreWork(parts.store, parts.clock, parts.aside)
        self._writes = ResultWrites(parts.graph, parts.keys, parts.store, parts.clock, run=parts.run)
        self._claims: dict[int, Claim] = {}
        self._asked: dict[int, list[Submit]] = {}
        """Nodes whose claims are asked for, and the attempts that wait for the answer."""
        self._claimed_ahead: dict[int, Learnt | None] = {}
        """Nodes that are claimed before they are to start, and what is known of the store since then."""
        self._refill_below = 0
        """So many of them, or fewer, are too few."""
        self._unlooked: set[int] = set()
        """Nodes that were claimed by this decision and are to be looked up again."""
        self._lacking: set[int] = set()
        """Calls of this decision that certainly have no result, by one look at the store for all of them."""
        self._refused: set[int] = set()
        """Nodes that this decision would start, and another process, or another node of this run, has the claim."""
        self._waiting_for_claim: dict[str, set[int]] = {}
        """Key -> nodes that wait for its claim. If this run itself has it, for another node, they need not wait longer than that."""
        self._unsubmitted: list[Call] = []
        """Calls of this turn that the engine does not have yet."""
        self._uncommitted: list[tuple[AttemptFinished | AttemptFailed, Ref, int]] = []
        self._uncommitted_calls: list[CallsFinished] = []
        self._checkpointed: list[str] = []
        """Keys whose checkpoint folders go once the results that are uncommitted now are durable."""
        self._submitted: dict[int, Submit] = {}
        self._workers: dict[int, str] = {}
        """Running attempt -> its worker."""
        self._log_ends: dict[str, int] = {}
        """Worker -> the end of its last attempt's log; what follows belongs to the running attempt."""
        self._produced = ProducedFiles(parts.graph, parts.keys)
        self._recalled: set[int] = set()
        self._unsettled = {""}
        """Why results must not be reused, as far as it was said."""
        self._renewed: set[str] = set()
        """Keys of nodes that have run, if any are forced: another node with the same key uses the result."""
        self._looks: dict[int, Look] = {}
        """Number of a call, below zero -> what it is part of."""
        self._next_looks: dict[float, Look] = {}
        """Those that are not sent yet, by the gpus of their nodes: hosts without these need not have the files."""
        self._looks_made = 0
        self._waiting_for_look: set[int] = set()
        self._origin = parts.clock.now() - parts.clock.monotonic()

    def run(self) -> str:
        """Run to the end and return the status. Raises the errors of journal and store; the caller closes the engine."""
        try:
            while self._state.status is None:
                try:
                    self._turn()
                except KeyboardInterrupt:  # an engine that runs tasks in this thread was interrupted in one
                    self._record(StopRequested(at=self._parts.clock.now(), by=CTRL_C))
            self._commit_all()
            for done in self._work.rest():
                self._committed(done)
            self._parts.journal.flush()
        except HookeError:
            with suppress(JournalError):  # a full disk, which may be the error itself
                self._parts.journal.flush()  # what has happened is known to a resume
            raise
        finally:
            self._work.close(self._claims.values())
        return self._state.status

    def _turn(self) -> None:
        self._resize()
        under_way = self._perform_all(self._look_up_all(self._state.decide(self._now())))
        self._submit_made()
        if self._state.status is not None or not all(under_way):
            return
        by = self._parts.stop_requested()
        if by is not None:
            self._record(StopRequested(at=self._parts.clock.now(), by=by))
            return
        self._commit_all()
        self._parts.journal.flush()
        for event in self._parts.engine.wait(self._wait_s()):
            if isinstance(event, AttemptFinished | AttemptFailed) and event.attempt in self._looks:
                self._looked(event)
            elif isinstance(event, CallsFinished):
                self._handle_calls(event)
            else:
                self._handle(event)
        self._parts.journal.flush()

    def _resize(self) -> None:
        decided = self._parts.sizing(self._now(), self._state) if self._parts.sizing else None
        if decided is None:
            return
        self._parts.journal.hold(decided)
        if decided.stop:
            self._record(StopRequested(at=self._parts.clock.now(), by=BUDGET))
        elif decided.after != decided.before:
            self._parts.journal.flush()
            self._parts.engine.scale(decided.after)

    def _wait_s(self) -> float:
        due = self._state.next_due()
        longest_s = min(LONGEST_WAIT_S, self._work.patience_s)
        return longest_s if due is None else min(longest_s, max(0.0, due - self._now()))

    def _now(self) -> float:
        """The scheduler's time: the wall clock at the start plus monotonic time, so setting the clock does not matter."""
        return self._origin + self._parts.clock.monotonic()

    # -- effects -----------------------------------------------------------------------------------

    def _look_up_all(self, effects: Sequence[Effect]) -> Sequence[Effect]:
        """Look up what is demanded, and what that demands in turn, as the store is now; returns what is decided then."""
        if not any(isinstance(effect, Lookup) for effect in effects):
            return effects
        with self._parts.store.read_ahead(()):
            while any(isinstance(effect, Lookup) for effect in effects):
                self._perform_all(effects)
                self._submit_made()  # hosts look at inputs before they run what is decided next
                effects = self._state.decide(self._now())
        return effects

    def _perform_all(self, effects: Sequence[Effect]) -> list[bool]:
        """Perform what was decided. What the store is asked for all of it is asked together: each request may take long."""
        waited, learnt = self._claim_all([effect for effect in effects if isinstance(effect, Submit)])
        effects = [*waited, *effects]
        if not effects:
            return []
        lookups = [effect.node for effect in effects if isinstance(effect, Lookup)]
        with self._parts.store.read_ahead((key for node in lookups for key in self._asked_for(node)), learnt):
            calls = self._parts.keys.of_calls([*lookups, *self._unlooked])
            self._lacking = self._parts.recovered.lacking(calls, self._parts.store)
            under_way = [self._perform(effect) for effect in effects]
        self._refused, self._lacking = set(), set()
        self._release(self._unlooked)  # those that need no attempt any more, or not yet
        self._unlooked.clear()
        return under_way

    def _perform(self, effect: Effect) -> bool:
        """True if the engine has the work now; False if the run state may have changed, so that it must decide again."""
        match effect:
            case Submit():
                return self._submit(effect)
            case Lookup():
                self._look_up_or_ask(effect.node)
            case Abandon():
                self._abandon(effect)
            case Resize():
                self._parts.engine.resize_gang(effect.attempt, effect.ranks)
                return True
            case Finish():
                pass
            case _:
                self._parts.journal.hold(effect)
        return False

    def _submit(self, submit: Submit) -> bool:
        if submit.node in self._asked:
            self._asked[submit.node].append(submit)
            return True
        if submit.after is not None and not self._may_follow(submit):
            self._state.unfollow(submit)
            return False
        if not self._claim(submit):
            return False
        self._submitted[submit.attempt] = submit
        if self._parts.engine.capabilities.groups and self._calls.join(submit):
            return True
        try:
            self._unsubmitted.append(self._calls.make(submit))
        except HookeError as error:
            self._fail(submit, failure_of(error, arguments=self._shown(submit.node)))
            return False
        return True

    def _may_follow(self, submit: Submit) -> bool:
        """Whether the engine has what it follows, and nothing is stored for it that may count once that has its result."""
        if submit.attempt not in self._state.running or submit.after not in self._submitted:
            return False
        store, keys = self._parts.store, self._asked_for(submit.node)
        return all(store.lacking(keys)) or not any(store.find(key, lambda _: True) for key in keys)

    def _submit_made(self) -> None:
        """Submit all calls of this turn together, which costs less than one by one."""
        if self._next_looks:
            self._make_looks()
        self._unsubmitted += self._calls.groups()
        if self._unsubmitted:
            self._parts.journal.flush()
            self._parts.engine.submit(self._unsubmitted)
            self._unsubmitted = []

    def _claim_all(self, submits: Sequence[Submit]) -> tuple[list[Submit], Learnt | None]:
        """Claim the nodes of first attempts, before they are looked up again.

        Returns attempts that have waited for their claims until now, and what is known of the store since the claims that are there.
        """
        wanted = {each.node for each in submits}
        self._ask_claims(submits)
        waited: list[Submit] = []
        begun = self._claimed_ahead.keys() & wanted
        learnt = [self._claimed_ahead.pop(node) for node in begun]
        self._unlooked |= begun
        for answer in self._work.claimed():
            learnt.append(answer.learnt)
            refused: set[int] = set()
            for node, claim in zip(answer.nodes, answer.claims, strict=True):
                # Those that a stop or a result has ended meanwhile are not begun; those that were to follow one are taken back.
                running, asked = self._state.running, self._asked.pop(node)
                attempts = [each for each in asked if each.attempt in running or each.after is not None]
                waited += attempts
                is_ahead = not attempts and node not in wanted
                if claim is not None:
                    self._claims[node] = claim
                if claim is None:
                    refused.add(node)
                    self._refuse(node, is_ahead=is_ahead)
                elif not is_ahead:
                    self._unlooked.add(node)
                elif refused and not refused.isdisjoint(self._parts.graph.parents(node)):
                    refused.add(node)  # who computes what it waits for may want it next
                    self._release([node])
                else:
                    self._claimed_ahead[node] = answer.learnt
        return waited, joined(learnt)

    def _ask_claims(self, submits: Sequence[Submit]) -> None:
        """Ask for the claims of these attempts, and of those that will follow soon where an answer takes long."""
        if self._claimed_ahead and self._state.failure is not None:  # nothing more will begin
            self._release([*self._claimed_ahead])
            self._claimed_ahead.clear()
        nodes = dict.fromkeys(each.node for each in submits if self._needs_claim(each))
        if (
            self._work.is_aside
            and len(self._claimed_ahead) <= self._refill_below
            and not self._work.is_claiming
        ):
            coming = [node for node in self._state.coming() if self._may_be_claimed(node)]
            self._refill_below = (len(self._claimed_ahead) + len(coming)) // 4
            nodes |= dict.fromkeys(coming)
        if nodes:
            self._asked |= {node: [] for node in nodes}
            asked = [key for node in nodes for key in self._asked_for(node)]
            self._work.claim([*nodes], [self._parts.keys[node].key for node in nodes], asked)

    def _refuse(self, node: int, *, is_ahead: bool) -> None:
        """Another process, or another node of this run, has the claim."""
        self._waiting_for_claim.setdefault(self._parts.keys[node].key, set()).add(node)
        if is_ahead:
            self._state.apply(LookedUp(node, held=True))
        else:
            self._refused.add(node)

    def _needs_claim(self, submit: Submit) -> bool:
        found = self._state.nodes[submit.node].done.items.within(submit.lo, submit.hi)
        return self._may_be_claimed(submit.node) and not found

    def _may_be_claimed(self, node: int) -> bool:
        return self._cached(node) and not (
            node in self._claims or node in self._asked or node in self._waiting_for_look
        )

    def _release(self, nodes: Collection[int]) -> None:
        """Release the claims of these nodes, and look up those that wait for the same keys."""
        self._parts.store.release([self._claims.pop(node) for node in nodes], soon=True)
        for node in nodes:
            self._look_again(node)

    def _look_again(self, node: int) -> None:
        for other in sorted(self._waiting_for_claim.pop(self._parts.keys[node].key, ())):
            self._state.look_again(other)

    def _claim(self, submit: Submit) -> bool:
        """Whether the node is this run's to compute. If another process has or had it, the attempt is withdrawn."""
        node = submit.node
        if self._state.nodes[node].done.items.within(submit.lo, submit.hi):
            # The lookup of another attempt found the result after this one was decided.
            self._state.apply(LookedUp(node, attempt=submit.attempt))
            return False
        if node in self._waiting_for_look:
            self._state.apply(LookedUp(node, asked=True, attempt=submit.attempt))
            return False
        if not self._cached(node):
            return True
        if node in self._refused:
            self._state.apply(LookedUp(node, held=True, attempt=submit.attempt))
            return False
        if node in self._unlooked:
            self._unlooked.discard(node)
            found = node not in self._lacking and self._look_up(node)
            if self._asks_workers(node):
                self._state.apply(LookedUp(node, asked=True, attempt=submit.attempt))
                return False
            if found or (submit.expand and self._state.nodes[node].items is not None):
                self._state.apply(LookedUp(node, attempt=submit.attempt))
                self._commit_all()
                return False
        changed = self._lineage.take_changed(node)
        if changed is not None:
            self._parts.journal.hold(msgspec.structs.replace(changed, at=self._parts.clock.now()))
        return True

    def _abandon(self, effect: Abandon) -> None:
        self._parts.journal.flush()
        submit = self._submitted.pop(effect.attempt, None)
        if submit is None:  # its claim was asked for: the engine does not know it
            return
        self._parts.engine.cancel(effect.attempt)
        worker, limit = self._workers.pop(effect.attempt, ""), self._state.nodes[submit.node].plan.timeout_s
        if effect.timed_out:
            failure = Failure(
                kind="TimedOut",
                message=f"took longer than its timeout of {limit:g} s",
                arguments=self._shown(submit.node),
                log_tail=self._tail(worker),
                fix="raise timeout=, or split the task's work",
            )
            self._fail(submit, failure, worker=worker)

    def _tail(self, worker: str) -> tuple[str, ...]:
        if self._parts.logs is None or not worker:
            return ()
        return last_lines(self._parts.logs / f"{worker}.log", self._log_ends.get(worker, 0), 20)

    def _fail(self, submit: Submit, failure: Failure, *, worker: str = "") -> None:
        self._handle(
            AttemptFailed(
                at=self._parts.clock.now(),
                attempt=submit.attempt,
                node=submit.node,
                lo=submit.lo,
                hi=submit.hi,
                worker=worker,
                failure=failure,
            )
        )

    def _shown(self, node: int) -> str:
        return short_call(self._parts.graph.nodes[node].arguments)

    # -- events ------------------------------------------------------------------------------------

    def _record(self, event: Event) -> None:
        """Apply an event, which the journal has before anything acts on it."""
        self._parts.journal.hold(event)
        if isinstance(event, AttemptStarted | AttemptFailed) or (
            isinstance(event, AttemptFinished) and self._parts.graph.nodes[event.node].kind == "map"
        ):  # timeouts, retries and the price of an order count from this time
            event = msgspec.structs.replace(event, at=self._now())
        self._state.apply(event)

    def _handle(self, event: EngineEvent) -> None:
        """Journal an engine's event and apply it. Late and duplicate answers are not journalled."""
        if isinstance(event, AttemptFinished | AttemptFailed):
            if event.attempt not in self._state.running:
                self._state.apply(event)
                return
            event = self._with_lineage(self._with_files_noted(self._without_parts(failed_in_cell(event))))
            if self._state.is_tainted(event.node):
                event = msgspec.structs.replace(event, tainted=True)
            self._submitted.pop(event.attempt, None)
            self._workers.pop(event.attempt, None)
            if event.log is not None:
                self._log_ends[event.worker] = event.log.end
        elif isinstance(event, AttemptStarted):
            if event.attempt not in self._state.running:
                return
            self._workers[event.attempt] = event.worker
        self._make_durable(event)
        self._record(event)
        if isinstance(event, AttemptFinished):
            self._uncommitted.append((event, event.ref, event.hi - event.lo))
            if event.expanded is not None:
                self._expand(event.expanded, seconds=event.seconds)
            self._checkpointed += event.checkpoints
        elif isinstance(event, AttemptFailed) and event.done and event.ref is not None:
            self._uncommitted.append((event, event.ref, event.done))
            self._checkpointed += event.checkpoints

    def _handle_calls(self, event: CallsFinished) -> None:
        """The same of calls of a group, all of it together. They have no inputs of which anything else is to be said."""
        if not self._state.running.keys() >= set(event.attempts):  # some are late
            for each in event.singly():
                self._handle(each)
            return
        for attempt in event.attempts:
            self._submitted.pop(attempt, None)
        self._workers.pop(event.attempts[0], None)
        self._record(event)
        self._uncommitted_calls.append(event)

    def _make_durable(self, event: EngineEvent) -> None:
        """Sync the results that the journal will call finished, or begin to: with "group", their worker does not."""
        if isinstance(event, AttemptFinished | AttemptFailed):
            blocks = event.expanded.blocks if isinstance(event, AttemptFinished) and event.expanded else ()
            refs = [each for ref in (event.ref, *blocks) if ref is not None for each in ref.objects()]
            if refs:  # else they are in the journal
                self._parts.store.sync(refs, wait=False)

    def _without_parts(self, event: AttemptFinished | AttemptFailed) -> AttemptFinished | AttemptFailed:
        """The event; a failed attempt whose twin still runs loses its partial results."""
        loses = isinstance(event, AttemptFailed) and self._state.running[event.attempt].twin is not None
        return msgspec.structs.replace(event, ref=None) if loses else event

    def _with_lineage(self, event: AttemptFinished | AttemptFailed) -> AttemptFinished | AttemptFailed:
        """The event, with what its results were made from."""
        self._lineage.manifests.forget(event.observed)
        node, lo = event.node, event.lo
        if isinstance(event, AttemptFinished) and event.expanded is not None:
            made_from = self._lineage.of_list(node, event.observed)
            expanded = msgspec.structs.replace(event.expanded, made_from=made_from)
            return msgspec.structs.replace(event, expanded=expanded)
        hi = event.hi if isinstance(event, AttemptFinished) else lo + event.done
        pieces = self._lineage.of_attempt(node, lo, hi, event.observed) if event.ref is not None else ()
        for piece in pieces:
            self._lineage.note(node, piece)
            if piece.made_from.unsettled not in self._unsettled:
                self._unsettled.add(piece.made_from.unsettled)
                _log.warning("%s; its result is used in this run only", piece.made_from.unsettled)
        return msgspec.structs.replace(event, made_from=pieces) if pieces else event

    def _with_files_noted(self, event: AttemptFinished | AttemptFailed) -> AttemptFinished | AttemptFailed:
        """The event; a failure if another call of this run has given one of its files another content."""
        if event.ref is None or not event.ref.files:
            return event
        hi = event.hi if isinstance(event, AttemptFinished) else event.lo + event.done
        try:
            self._produced.note(event.node, (event.lo, hi, event.ref, 0))
        except UsageError as error:
            return failed_instead(event, failure_of(error, arguments=self._shown(event.node)))
        return event

    def _expand(self, event: MapExpanded, *, seconds: float) -> None:
        if self._state.is_tainted(event.node):
            event = msgspec.structs.replace(event, tainted=True)
        self._record(event)
        self._register_expansion(event)
        if (
            self._cached(event.node)
            and not event.tainted
            and not (event.made_from and event.made_from.unsettled)
        ):
            ref = self._parts.store.put((event.items, event.keys, event.blocks, event.block))
            self._parts.journal.flush()
            key = self._expansion_key(event.node)
            self._writes.call(event.node, ref, seconds, key=key, made_from=event.made_from)()

    def _register_expansion(self, event: MapExpanded) -> None:
        assert event.keys is not None
        self._lineage.note_list(event.node, event.made_from)
        self._calls.expanded(event)
        self._parts.keys.expanded(event.node, self._parts.store.get(event.keys))

    def _commit_all(self) -> None:
        """Commit finished results, and only then release completed claims: else another process computes them again.

        New work is submitted before, so it need not wait.
        """
        over = [node for node in self._claims if node not in self._unlooked and self._state.is_over(node)]
        if self._uncommitted or self._uncommitted_calls or over:
            self._parts.journal.flush()
            writes = [write for each in self._uncommitted for write in self._writes.of_attempt(*each)]
            writes += [self._writes.of_calls(each) for each in self._uncommitted_calls]
            refs = [ref for _, ref, _ in self._uncommitted]
            then = Committed(over, refs, tuple(self._checkpointed))
            self._uncommitted.clear()
            self._uncommitted_calls.clear()
            self._checkpointed.clear()
            for node in over:
                self._claimed_ahead.pop(node, None)
            self._work.commit(writes, [self._claims.pop(node) for node in over], then)
        for done in self._work.committed():
            self._committed(done)

    def _committed(self, done: Committed) -> None:
        """These results are found now, and their claims released."""
        if done.checkpoints:
            self._writes.remove_checkpoints(done.refs, done.checkpoints, self._parts.journal)
        for node in done.nodes:
            if self._parts.forced and self._state.nodes[node].whole:
                self._renewed.add(self._parts.keys[node].key)
            self._look_again(node)

    # -- lookups -----------------------------------------------------------------------------------

    def _cached(self, node: int) -> bool:
        return self._parts.graph.nodes[node].task.resources.cache

    def _look_up(self, node: int) -> bool:
        """Record a node's known results: those of this run before a resume, then those in the store."""
        found = self._from_journal(node)
        if self._cached(node) and (
            node not in self._parts.forced or self._parts.keys[node].key in self._renewed
        ):
            found = self._from_store(node) or found
        return found

    def _look_up_or_ask(self, node: int) -> None:
        """Answer a Lookup; later, if only a worker can say which results count."""
        if node not in self._waiting_for_look:
            if node not in self._lacking:
                self._look_up(node)
            self._state.apply(LookedUp(node, asked=self._asks_workers(node)))

    @property
    def _is_in_doubt(self) -> bool:
        """Whether a worker has to say whether the results that are looked up now count; nothing of them is recorded before."""
        return bool(self._parts.inputs.unknown)

    def _asks_workers(self, node: int) -> bool:
        """Ask hosts where the node may run about the inputs that its stored results were made from, if the driver cannot see them."""
        unknown = self._parts.inputs.take_unknown()
        if not unknown:
            return False
        self._lineage.take_changed(node)  # nobody knows yet what has changed
        gpus = self._state.nodes[node].plan.gpus
        look = self._next_looks.setdefault(gpus, Look(asked_at=self._parts.inputs.forgotten))
        look.nodes.append(node)
        look.inputs |= dict.fromkeys(unknown)
        self._waiting_for_look.add(node)
        return True

    def _make_looks(self) -> None:
        for look in self._next_looks.values():
            inputs = tuple(look.inputs)
            for at in range(0, len(inputs), MOST_LOOKED_AT):
                self._looks_made += 1
                attempt, part = -self._looks_made, inputs[at : at + MOST_LOOKED_AT]
                look.calls[attempt] = part
                self._looks[attempt] = look
                self._unsubmitted.append(self._calls.look(attempt, look.nodes[0], part))
        self._next_looks.clear()

    def _looked(self, event: AttemptFinished | AttemptFailed) -> None:
        """A host has answered, or cannot: then what it was asked about counts as changed."""
        look = self._looks.pop(event.attempt)
        inputs = look.calls.pop(event.attempt)
        if isinstance(event, AttemptFailed):
            what = f"{inputs[0].name} and {len(inputs) - 1} more" if inputs[1:] else inputs[0].name
            _log.warning(
                "no worker could look at %s (%s): what was made from it runs again", what, event.failure.said
            )
            look.changed += inputs
        else:
            look.changed += [each for items in event.observed for each in items.inputs]
        if look.calls:
            return
        self._parts.inputs.looked_at(look.inputs, look.changed)
        outdated = (
            self._parts.inputs.forgotten != look.asked_at
        )  # a task has ended, which may have written files
        for node in look.nodes:
            self._waiting_for_look.remove(node)
            self._as_of_then = outdated and node not in self._claims
            self._look_up_or_ask(node)
        self._as_of_then = False
        if outdated:
            self._parts.inputs.forget()

    def _from_journal(self, node: int) -> bool:
        known = self._parts.recovered.known.get(self._parts.keys[node].key)
        if known is None or node in self._recalled:
            return False
        if known.expansion is not None and self._state.nodes[node].items is None:
            made_from = known.expansion.made_from
            if made_from is None or self._lineage.manifests.hold(made_from):
                self._recall_expansion(known.expansion, node)
        if self._state.nodes[node].items is None:
            return False  # the list must be read again, and another lookup follows
        segments = list(known.segments_now(self._lineage.manifests)) if self._has_same_list(node) else []
        if self._is_in_doubt:
            return False
        self._recalled.add(node)
        kept = self._parts.store.keep([ref for (_, _, ref, _), _ in segments])
        for segment, made_from in compress(segments, kept):
            self._record(self._found(node, segment, source="journal", made_from=made_from))
        return any(kept)

    def _has_same_list(self, node: int) -> bool:
        """Whether a map has the same items as in the journal, if a dynamic list decides what they are."""
        at, past = list_maker(self._parts.graph, node), self._parts.recovered
        return at is None or past.has_list(self._parts.keys[at].key, self._calls.expansions[at])

    def _from_store(self, node: int) -> bool:
        state = self._state.nodes[node]
        if state.complete:
            return False
        if state.node.kind == "call":
            entry = self._find(node, self._parts.keys[node].key)
            if entry is not None:
                segment, seconds = (0, 1, entry.ref, 0), entry.seconds
                self._record(self._found(node, segment, seconds=seconds, made_from=entry.made_from))
            return entry is not None
        if state.items is None and state.node.is_dynamic:
            self._find_expansion(node)
        keys = self._parts.keys.indexed(node)
        return keys is not None and self._find_items(node, keys)

    def _asked_for(self, node: int) -> list[str]:
        """The keys that a lookup of the node asks the store for; those of items are found by their map's."""
        state, key = self._state.nodes[node], self._parts.keys[node].key
        if (
            not self._cached(node)
            or state.complete
            or (node in self._parts.forced and key not in self._renewed)
        ):
            return []
        return [key] if state.node.kind == "call" else [self._expansion_key(node)] * (state.items is None)

    def _find(self, node: int, key: str, *, listed: bool = False) -> Entry | None:
        """A stored result that counts. One that counts by the results it was computed from is committed with what those were made from."""
        entry = self._parts.store.find(key, self._counts(node, listed=listed))
        if self._is_in_doubt:
            return None
        if entry is None or entry.made_from is None:
            return entry
        made_from = self._lineage.renewed(node, entry.made_from, listed=listed)
        if made_from is not entry.made_from:
            entry = msgspec.structs.replace(entry, made_from=made_from, at=self._parts.clock.now())
            if not made_from.unsettled:
                self._parts.store.commit(entry)
        return entry

    def _counts(self, node: int, *, listed: bool = False) -> Counts:
        """Whether a stored result counts.

        That an incomplete list gave the same bytes says nothing of the whole one; nor do the bytes of now, of a file as it was before.
        """
        if self._state.is_tainted(node) or self._as_of_then:
            return self._lineage.manifests.hold
        return self._lineage.counts(node, listed=listed)

    def _find_items(self, node: int, keys: bytes) -> bool:
        found = False
        recipe, state = self._parts.keys[node].recipe, self._state.nodes[node]
        hits = self._parts.store.find_items(recipe, keys, self._counts(node))
        for hit in () if self._is_in_doubt else hits:
            made_from = hit.made_from and self._lineage.renewed(node, hit.made_from)
            for lo, hi in state.missing_in(hit.lo, hit.hi):
                start = hit.start + lo - hit.lo
                self._record(self._found(node, (lo, hi, hit.ref, start), made_from=made_from))
                found = True
            if made_from is not None and made_from is not hit.made_from and not made_from.unsettled:
                piece = ItemsMadeFrom(lo=hit.lo, hi=hit.hi, made_from=made_from)
                self._writes.items(node, hit.lo, hit.hi, hit.ref, pieces=[piece], first=hit.start)()
        return found

    def _find_expansion(self, node: int) -> None:
        entry = self._find(node, self._expansion_key(node), listed=True)
        if entry is None:
            return
        items, keys, blocks, block = self._parts.store.get(entry.ref)
        self._recall_expansion(
            MapExpanded(
                node=node, items=items, keys=keys, blocks=blocks, block=block, made_from=entry.made_from
            ),
            node,
        )

    def _recall_expansion(self, expansion: MapExpanded, node: int) -> None:
        """Reuse a list that was read before, if all of it is still stored."""
        assert expansion.keys is not None
        if not all(self._parts.store.keep([expansion.keys, *expansion.blocks])):
            return
        event = msgspec.structs.replace(expansion, at=self._parts.clock.now(), node=node)
        self._record(event)
        self._register_expansion(event)

    def _expansion_key(self, node: int) -> str:
        return expansion_key(self._parts.keys[node].key)

    def _found(
        self,
        node: int,
        segment: Segment,
        *,
        source: str = "cache",
        seconds: float = 0.0,
        made_from: MadeFrom | None = None,
    ) -> ItemsFound:
        lo, hi, ref, start = segment
        self._produced.note(node, segment)
        if made_from is not None:
            self._lineage.note(node, ItemsMadeFrom(lo=lo, hi=hi, made_from=made_from))
        return ItemsFound(
            at=self._parts.clock.now(),
            node=node,
            lo=lo,
            hi=hi,
            ref=ref,
            start=start,
            source=source,
            seconds=seconds,
            made_from=made_from,
            tainted=self._state.is_tainted(node),
        )
