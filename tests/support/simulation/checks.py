"""The invariants of a run, checked over the trace of a history by a second, simpler scheduler's eyes.

Nothing of the run state is used here: what is done, what runs and what could run is worked out anew from
the journal and from what was said to the engine, with plain sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.simulation.flights import Flight, Twins, crowded, fits, taken

from hooke.journal import events
from hooke.journal.events import WITH_FAILURES
from hooke.pipeline.graph import Graph
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.retries import ISOLATED_DEATHS
from hooke.pipeline.run_state import SKIPS_BEFORE_RESERVING
from hooke.pipeline.slots import memory_after
from hooke.testing.virtual_world import HandedAttempt, Record

__all__ = ["Story", "broken", "described", "refuse"]


# --- A history for people.


def described(trace: Sequence[Record]) -> str:
    """A line for each record, with the seconds since the first."""
    lines = (f"{each.at - trace[0].at:10.3f} {each.what:8} {each.facts}\n" for each in trace)
    return "".join(lines)


def refuse(problems: Sequence[str], repro: str) -> None:
    """Raise AssertionError with the first problems and how to play the history again, if there are problems."""
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:10])
        raise AssertionError(f"invariants broken:\n{shown}\nrepro: {repro}")


LATEST_S = 1.0
"""By how much a timeout or a retry may be late: some waits of the runner, and the engine's own delay."""

LONGEST_S = 40_000.0
"""Virtual time of a whole history: a few hours; the longest sound one needs a fifth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A history, as far as the invariants look at it."""

    graph: Graph
    plans: tuple[NodePlan, ...]
    keys: tuple[str, ...]
    trace: tuple[Record, ...]
    journal: tuple[events.Event, ...]


def broken(story: Story) -> list[str]:
    """The broken invariants, in the order in which they were broken; each as a sentence."""
    judge = _Judge(story)
    for record in story.trace:
        judge.look(record)
    judge.at_the_end()
    return judge.problems


@dataclass(slots=True)
class _Driver:
    """What holds while one driver lives."""

    known: list[set[int]]
    twins: Twins
    flights: dict[int, Flight] = field(default_factory=dict)
    owed: dict[int, str] = field(default_factory=dict)
    failures: dict[tuple[int, int], int] = field(default_factory=dict)
    growths: dict[tuple[int, int], int] = field(default_factory=dict)
    """How often an item's memory was doubled: such a failure is not one of its tries."""
    lost: dict[tuple[int, int], int] = field(default_factory=dict)
    """How often an elastic gang lost a machine."""
    most: dict[tuple[int, int], int] = field(default_factory=dict)
    """Item of an elastic gang -> the ranks of its next attempt, which makes way for others."""
    delayed: dict[tuple[int, int], float] = field(default_factory=dict)
    passed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Node -> by how many it was passed, and the most slots that there were meanwhile."""
    held: set[int] = field(default_factory=set)
    withdraws: bool = False
    """Whether an attempt may have been withdrawn since the last decision, whose room others could not count on."""
    claimed: dict[str, bool] = field(default_factory=dict)
    """Claimed key -> whether another process had left its result before."""
    failed: dict[int, set[int]] = field(default_factory=dict)
    """Of maps that go on: the items that failed for good."""
    skipped: dict[int, set[int]] = field(default_factory=dict)
    tainted: set[int] = field(default_factory=set)
    """Nodes with results that depend on a list which lacks items."""
    place: events.CapacityChanged = field(default_factory=lambda: events.CapacityChanged(slots=0, cpus=0.0))
    places: list[tuple[float, events.CapacityChanged]] = field(default_factory=list)
    """Those before, each until a time."""
    doomed: bool = False
    stopped: bool = False
    asks: bool = False
    """Whether it waits for an answer of the store: a slot may be kept for what that is about."""
    has_asked: bool = False
    """Whether it ever did: then an attempt begins after it was decided, when its claim is there."""


class _Judge:
    def __init__(self, story: Story) -> None:
        self.graph = story.graph
        self.plans = story.plans
        self.keys = story.keys
        self.story = story
        self.problems: list[str] = []
        self.now = story.trace[0].at
        self.driver = self._new_driver()
        self.done: list[set[int]] = [set() for _ in self.graph.nodes]
        self.items: list[int | None] = [node.items for node in self.graph.nodes]
        self.started: set[int] = set()
        self.said: list[events.Event] = []
        self.depths = self.graph.depths()
        self.roots = set(self.graph.roots())
        self.published: set[str] = set()

    def _new_driver(self) -> _Driver:
        return _Driver(known=[set() for _ in self.graph.nodes], twins=Twins(self.graph, self.plans))

    def look(self, record: Record) -> None:
        """Take one record in."""
        self.now = record.at
        look = getattr(self, "_on_" + record.what, None)
        if look is not None:
            look(record.facts)

    def at_the_end(self) -> None:
        """What holds at the end of all."""
        if [*self.story.journal] != self.said:
            self._wrong("the journal on the disk is not what was appended")
        if self.now - self.story.trace[0].at > LONGEST_S:
            self._wrong(f"the run took {self.now - self.story.trace[0].at:.0f} s")

    def _wrong(self, what: str) -> None:
        at = self.now - self.story.trace[0].at
        self.problems.append(f"at {at:.3f} s: {what}")

    # -- the driver's life -------------------------------------------------------------------------

    def _on_driver(self, _number: int) -> None:
        self.driver = self._new_driver()
        self.items = [node.items for node in self.graph.nodes]

    def _on_crash(self, _facts: None) -> None:
        self.driver = self._new_driver()

    def _on_stuck(self, _facts: None) -> None:
        self._wrong("the run goes round in circles")

    def _on_error(self, what: str) -> None:
        self._wrong(f"the driver raised {what}")

    def _on_left(self, running: tuple[int, ...]) -> None:
        if running:
            self._wrong(f"leak: attempts {running} still run in the state of a run that is over")

    def _on_end(self, facts: tuple[str | None, list[str]]) -> None:
        status, claims = facts
        driver = self.driver
        if claims:
            self._wrong(f"leak: {len(claims)} claims are still held by a driver that is gone")
        if status is None:
            return
        self._settle_accounts()
        self._check_beaten()
        if driver.flights and status in {"finished", WITH_FAILURES, "failed", "stopped"}:
            self._wrong(f"leak: attempts {sorted(driver.flights)} were neither answered nor cancelled")
        if status == "failed" and not driver.doomed:
            self._wrong("the run failed, but no item had used up its retries")
        if status == "stopped" and not driver.stopped:
            self._wrong("the run was stopped, but nobody asked for it")
        if status in {"finished", WITH_FAILURES}:
            self._all_is_done()
        if status == WITH_FAILURES and not any(driver.failed.values()):
            self._wrong("the run finished with failures, but no item failed for good")
        if status == "finished" and (lacking := [root for root in self.roots if self._gone(root)]):
            self._wrong(f"the run is finished without failures, but nodes {lacking} lack items")

    def _all_is_done(self) -> None:
        for root in self.roots:
            if not self._complete(root):
                self._wrong(
                    f"the run is finished, but node {root} has only items {sorted(self._known(root))}"
                )

    # -- the engine --------------------------------------------------------------------------------

    def _on_submit(self, handed: HandedAttempt) -> None:
        attempt, node = handed.attempt, handed.node
        flight = Flight(
            node,
            handed.kind,
            handed.items,
            memory=handed.memory or 0,
            short=handed.short,
            slots=max(1, handed.ranks),
            after=handed.after,
        )
        due = self._memory(node, handed.items.start if handed.items else -1)
        if (handed.memory or 0) != due:
            self._wrong(f"attempt {attempt} may use {handed.memory} bytes, and should have {due}")
        self._check_ranks(handed)
        if attempt in self.started or attempt in self.driver.flights:
            self._wrong(f"attempt {attempt} was handed out twice")
        self.started.add(attempt)
        if handed.twin_of is not None:
            self._check_second(handed)
            flight.doubled = True
        self._check_claim(attempt, node)
        self._check_items(attempt, flight)
        self._check_needs(attempt, flight)
        self._check_passed(node)
        self.driver.flights[attempt] = flight
        self._check_place(attempt)

    def _check_ranks(self, handed: HandedAttempt) -> None:
        """A gang has its ranks, an elastic one as many as there is room for: all that it may have, or those that it was asked to have."""
        plan, driver = self.plans[handed.node], self.driver
        if handed.kind == "expand" or not plan.least_ranks:
            if handed.ranks != (0 if handed.kind == "expand" else plan.ranks):
                self._wrong(f"attempt {handed.attempt} has {handed.ranks} ranks, declared are {plan.ranks}")
            return
        if not plan.least_ranks <= handed.ranks <= plan.ranks:
            self._wrong(
                f"attempt {handed.attempt} has {handed.ranks} ranks of {plan.least_ranks} to {plan.ranks}"
            )
        most = min(driver.most.pop((handed.node, handed.items.start), plan.ranks), plan.ranks)
        if handed.ranks > most:
            self._wrong(f"attempt {handed.attempt} has {handed.ranks} ranks, and was to make way with {most}")
        more = handed.ranks + 1
        totals = ((plan.cpus, driver.place.cpus), (handed.memory or 0, driver.place.memory))
        exceeds = any(total is not None and more * each > total + 1e-9 for each, total in totals)
        if more <= most and not (driver.has_asked or driver.withdraws or exceeds):
            flights, memory = self._flying(), handed.memory or 0
            if fits(flights, self.plans, driver.place, plan=plan, slots=more, memory=memory):
                self._wrong(
                    f"attempt {handed.attempt} has {handed.ranks} ranks, and there is room for {more}"
                )

    def _on_resize(self, facts: tuple[int, int]) -> None:
        attempt, ranks = facts
        flight = self.driver.flights.get(attempt)
        if flight is None or flight.began is None:
            self._wrong(f"attempt {attempt}, which does not run, is asked to change its number of ranks")
            return
        plan = self.plans[flight.node]
        if not plan.least_ranks <= ranks <= plan.ranks:
            self._wrong(f"attempt {attempt} is to have {ranks} ranks of {plan.least_ranks} to {plan.ranks}")
        if ranks == (flight.asked or flight.slots):
            self._wrong(f"attempt {attempt} is asked again to have {ranks} ranks")
        flight.asked = ranks

    def _resized(self, event: events.AttemptFailed, flight: Flight | None) -> None:
        """A gang has ended at a checkpoint, as it was asked to: that is none of its tries."""
        if flight is None or not flight.asked:
            self._wrong(f"attempt {event.attempt} ended at a checkpoint, and nobody had asked it to")
        elif flight.asked < flight.slots:
            self.driver.most[event.node, event.lo] = flight.asked
        else:
            self.driver.most.pop((event.node, event.lo), None)

    def _is_lost(self, event: events.AttemptFailed) -> bool:
        """Whether a lost machine ended an elastic gang: none of its tries, so often as it may have ranks."""
        plan, item = self.plans[event.node], (event.node, event.lo)
        self.driver.most.pop(item, None)
        if not plan.least_ranks or event.hi == event.lo or not event.failure.host_lost:
            return False
        before = self.driver.lost.get(item, 0)
        self.driver.lost[item] = min(before + 1, plan.ranks)
        return before < plan.ranks

    def _check_claim(self, attempt: int, node: int) -> None:
        if not self.graph.nodes[node].task.resources.cache:
            return
        was_there = self.driver.claimed.get(self.keys[node])
        if was_there is None:
            self._wrong(f"attempt {attempt} was handed out at node {node}, which is not claimed")
        elif was_there:
            self._wrong(f"attempt {attempt} computes node {node}, whose result was there when it was claimed")

    def _check_items(self, attempt: int, flight: Flight) -> None:
        node, items = flight.node, set(flight.items)
        for other, flying in self.driver.flights.items():
            if flight.doubled and flying.doubled:
                continue  # of which `_check_second` has seen to it that they are two
            twice = (flight.kind, flying.kind) == ("expand",) * 2 and flying.node == node
            if flight.meets(flying) or twice:
                self._wrong(f"attempts {other} and {attempt} of node {node} run the same items at once")
        if items & self._known(node):
            self._wrong(
                f"attempt {attempt} runs items of node {node} that are done: {sorted(items & self._known(node))}"
            )
        if items & self._gone(node):
            self._wrong(
                f"attempt {attempt} runs items of node {node} that were left out: {sorted(items & self._gone(node))}"
            )
        if items & self.done[node]:
            self._wrong(
                f"attempt {attempt} runs items of node {node} again: {sorted(items & self.done[node])}"
            )
        for item in items:
            if self.driver.delayed.pop((node, item), 0.0) > self.now + 1e-6:
                self._wrong(f"item {item} of node {node} did not wait for its retry")

    def _check_second(self, handed: HandedAttempt) -> None:
        driver = self.driver
        for why in driver.twins.refused(handed, driver.flights, self.now):
            self._wrong(f"attempt {handed.attempt} of node {handed.node} {why}")
        if not driver.asks and (waiting := [node for node in self._ready() if node not in driver.held]):
            self._wrong(f"attempt {handed.attempt} is a second one while nodes {waiting} are ready")

    def _check_needs(self, attempt: int, flight: Flight) -> None:
        missing = [use for use in self.graph.nodes[flight.node].uses if not self._met(use, flight)]
        if flight.after is not None:
            before = self.driver.flights.get(flight.after)
            self._check_followed(attempt, flight, before)
            missing = [use for use in missing if before is not None and use.node != before.node]
        if missing:
            self._wrong(
                f"attempt {attempt} of node {flight.node} began before its needs were done: {missing}"
            )

    def _check_followed(self, attempt: int, flight: Flight, before: Flight | None) -> None:
        """An attempt follows a short one like it that the engine has, and that no other one follows."""
        if before is None:
            self._wrong(f"attempt {attempt} follows {flight.after}, which is not under way")
            return
        if any(each.after == flight.after for each in self.driver.flights.values()):
            self._wrong(f"attempt {attempt} follows {flight.after}, which another one follows")
        asked = [
            (each.short, each.memory, each.slots, self.plans[each.node].cpus) for each in (flight, before)
        ]
        if asked[0] != asked[1] or not flight.short:
            self._wrong(f"attempt {attempt} follows {flight.after}, and they ask for {asked}")

    def _met(self, use: Any, flight: Flight) -> bool:
        known = self._known(use.node)
        if use.elementwise:
            return set(flight.items) <= known
        if (
            self.graph.nodes[use.node].items is not None
            and self.graph.nodes[use.node].kind == "map"
            and use.path
        ):
            return use.path[0] in known
        return self._complete(use.node)

    def _check_place(self, attempt: int) -> None:
        place, flights = self.driver.place, self._flying()
        # Of a driver that waits for claims, the place may have shrunk since the attempt was decided.
        places = [place]
        if self.driver.has_asked:
            places += [before for until, before in self.driver.places if until > self.now - LATEST_S]
        if all(crowded(flights, self.plans, each) for each in places):
            slots = taken(flights)
            self._wrong(f"with attempt {attempt} more runs than the place has: {slots} slots on {place}")

    def _flying(self) -> list[Flight]:
        """What the engine has, those included that are beaten and not cancelled yet."""
        return [*self.driver.flights.values(), *self.driver.twins.beaten.values()]

    def _on_deliver(self, event: events.Event) -> None:
        if (
            isinstance(event, events.AttemptFinished | events.AttemptFailed)
            and event.attempt in self.driver.flights
        ):
            self.driver.owed[event.attempt] = type(event).__name__

    def _on_aside(self, under_way: int) -> None:
        self.driver.asks = under_way > 0
        self.driver.has_asked = True

    def _on_cancel(self, attempt: int) -> None:
        self.driver.flights.pop(attempt, None)
        self.driver.owed.pop(attempt, None)
        self.driver.twins.beaten.pop(attempt, None)

    def _on_wait(self, timeout_s: float) -> None:
        self.driver.withdraws = False
        self._settle_accounts()
        self._check_beaten()
        self._check_times()
        if timeout_s > 0:  # else the driver decides again at once
            self._check_idle()
        self._check_stragglers()

    def _check_beaten(self) -> None:
        beaten = self.driver.twins.beaten
        if beaten:
            self._wrong(f"leak: attempts {sorted(beaten)} were beaten by others and are not cancelled")
        beaten.clear()

    def _settle_accounts(self) -> None:
        for attempt, answer in self.driver.owed.items():
            self._wrong(f"lost: {answer} of attempt {attempt} was delivered and not journalled")
        self.driver.owed.clear()

    def _check_times(self) -> None:
        for attempt, flight in self.driver.flights.items():
            timeout_s = self.plans[flight.node].timeout_s
            if (
                timeout_s is not None
                and flight.began is not None
                and self.now > flight.began + timeout_s + LATEST_S
            ):
                self._wrong(f"attempt {attempt} runs for {self.now - flight.began:.1f} s, past its timeout")

    # -- the journal -------------------------------------------------------------------------------

    def _on_journal(self, event: events.Event) -> None:
        self.said.append(event)
        match event:
            case events.AttemptStarted() if event.attempt in self.driver.flights:
                flight = self.driver.flights[event.attempt]
                flight.began, flight.after = event.at, None
                self._check_needs(event.attempt, flight)
            case events.AttemptFinished():
                self._answered(event)
                self._beat(event)
                self._check_taint(event)
                self._finish(event, event.lo, event.hi)
            case events.AttemptFailed() if event.resized:
                self._resized(event, self.driver.flights.get(event.attempt))
                self._answered(event)
            case events.AttemptFailed():
                self._answered(event)
                self._check_taint(event)
                if event.ref is not None:
                    self._finish(event, event.lo, event.lo + event.done)
                self._count_failure(event)
            case events.ItemsFound():
                self.driver.withdraws = True
                self._find(event)
            case events.ItemsSkipped():
                self._skip(event)
            case events.MapExpanded():
                self._check_taint(event)
                self._expand(event)
            case events.RetryPlanned() if event.number > 1:
                self.driver.delayed[event.node, event.lo] = event.due
            case events.CapacityChanged():
                self.driver.places.append((self.now, self.driver.place))
                self.driver.place = event
            case events.StopRequested():
                self.driver.stopped = True
            case _:
                pass

    def _answered(self, event: events.AttemptFinished | events.AttemptFailed) -> None:
        flight = self.driver.flights.pop(event.attempt, None)
        timed_out = isinstance(event, events.AttemptFailed) and event.failure.kind == "TimedOut"
        if flight is None and not timed_out:
            self._wrong(f"stale: an answer of attempt {event.attempt} was accepted, which is not under way")
        self.driver.owed.pop(event.attempt, None)

    def _beat(self, event: events.AttemptFinished) -> None:
        items = range(event.lo, event.hi)
        self.driver.twins.measured(event.node, items, event.seconds)
        for attempt in self.driver.twins.beat(Flight(event.node, "", items), self.driver.flights):
            self.driver.owed.pop(attempt, None)

    def _finish(self, event: events.AttemptFinished | events.AttemptFailed, lo: int, hi: int) -> None:
        again = set(range(lo, hi)) & self._known(event.node)
        if again:
            self._wrong(
                f"twice: items {sorted(again)} of node {event.node} are recorded again by attempt {event.attempt}"
            )
        self._known(event.node).update(range(lo, hi))
        if not event.tainted:
            self.done[event.node].update(range(lo, hi))
        elif hi > lo:
            self.driver.tainted.add(event.node)

    def _check_taint(self, event: events.AttemptFinished | events.AttemptFailed | events.MapExpanded) -> None:
        """What was computed from a list that lacks items, or from such a result, is said to be."""
        from_lacking = any(
            use.node in self.driver.tainted or (not use.elementwise and bool(self._gone(use.node)))
            for use in self.graph.nodes[event.node].uses
        )
        found_list = isinstance(event, events.MapExpanded) and not event.tainted
        if event.tainted != from_lacking and not found_list:
            self._wrong(f"{type(event).__name__} of node {event.node} is tainted: {event.tainted}")

    def _skip(self, event: events.ItemsSkipped) -> None:
        items = set(range(event.lo, event.hi))
        uses = [use for use in self.graph.nodes[event.node].uses if use.elementwise]
        if not any(use.node == event.parent and items <= self._gone(use.node) for use in uses):
            self._wrong(f"items {sorted(items)} of node {event.node} are skipped without a reason")
        if items & (self._known(event.node) | self._gone(event.node)):
            self._wrong(f"items {sorted(items)} of node {event.node} are skipped that had ended")
        self.driver.skipped.setdefault(event.node, set()).update(items)

    def _find(self, event: events.ItemsFound) -> None:
        again = set(range(event.lo, event.hi)) & self._known(event.node)
        if again:
            self._wrong(f"twice: items {sorted(again)} of node {event.node} are found that were known")
        self._known(event.node).update(range(event.lo, event.hi))
        if not event.tainted:
            self.done[event.node].update(range(event.lo, event.hi))

    def _expand(self, event: events.MapExpanded) -> None:
        if event.tainted:
            self.driver.tainted.add(event.node)
        if self.items[event.node] is not None:
            self._wrong(f"twice: the list of node {event.node} was read again")
        self.items[event.node] = event.items
        for node in self.graph.nodes:
            if self.items[node.id] is None and any(
                use.elementwise and self.items[use.node] is not None for use in node.uses
            ):
                self.items[node.id] = event.items
                if event.tainted:
                    self.driver.tainted.add(node.id)

    def _count_failure(self, event: events.AttemptFailed) -> None:
        bad = event.lo + event.done
        failed = Flight(event.node, "", range(event.lo, event.hi))
        if any(flight.meets(failed) for flight in self.driver.flights.values()):
            if event.ref is not None:
                self._wrong(f"attempt {event.attempt} failed with results, while another runs its items")
            return
        if event.failure.kind in ISOLATED_DEATHS and event.hi - bad > 1:
            return
        item = (event.node, bad if event.hi > event.lo else -1)
        if self._is_lost(event):
            return
        if event.failure.kind == "OutOfMemory" and self._grows(item):
            return
        failures = self.driver.failures[item] = self.driver.failures.get(item, 0) + 1
        tries = self.plans[event.node].retries + 1
        if failures > tries:
            self._wrong(f"item {item} failed {failures} times, with {tries} tries declared")
        if failures >= tries or not event.failure.retryable:
            if self.graph.nodes[event.node].on_error == "continue" and item[1] >= 0:
                self.driver.failed.setdefault(event.node, set()).add(item[1])
            else:
                self.driver.doomed = True

    def _grows(self, item: tuple[int, int]) -> bool:
        before = self._memory(*item)
        self.driver.growths[item] = self.driver.growths.get(item, 0) + 1
        if self._memory(*item) > before:
            return True
        self.driver.growths[item] -= 1
        return False

    def _memory(self, node: int, item: int) -> int:
        growths = self.driver.growths.get((node, item), 0)
        plan, slots = self.plans[node], 1 if item < 0 else self.plans[node].fewest
        return memory_after(plan.memory, growths, self.driver.place, slots=slots) or 0

    def _on_held(self, key: str) -> None:
        self.driver.withdraws = True
        self.driver.held |= {node for node, mine in enumerate(self.keys) if mine == key}

    def _on_publish(self, key: str) -> None:
        self.published.add(key)

    def _on_release(self, key: str) -> None:
        self.driver.claimed.pop(key, None)

    def _on_claim(self, key: str) -> None:
        self.driver.claimed[key] = key in self.published
        self.driver.held -= {node for node, mine in enumerate(self.keys) if mine == key}

    # -- what could run ----------------------------------------------------------------------------

    def _known(self, node: int) -> set[int]:
        return self.driver.known[node]

    def _gone(self, node: int) -> set[int]:
        """Items that this driver leaves out."""
        return self.driver.failed.get(node, set()) | self.driver.skipped.get(node, set())

    def _complete(self, node: int) -> bool:
        items = self.items[node]
        return items is not None and len(self._known(node)) + len(self._gone(node)) >= items

    def _ready(self) -> list[int]:
        """Nodes with something that may start now, by every rule but the room for it."""
        if self.driver.doomed or self.driver.stopped:
            return []
        wanted: set[int] = set()
        for node in reversed(range(len(self.graph.nodes))):
            below = any(child in wanted and not self._complete(child) for child in self.graph.children(node))
            if node in self.roots or below:
                wanted.add(node)
        return [node for node in sorted(wanted) if self._has_ready(node)]

    def _has_ready(self, node: int) -> bool:
        if self._complete(node):
            return False
        flying = [flight for flight in self.driver.flights.values() if flight.node == node]
        busy = {item for flight in flying for item in flight.items}
        late = {item for (of, item), due in self.driver.delayed.items() if of == node and due > self.now}
        items = self.items[node]
        if items is None:
            whole = Flight(node, "expand", range(0))
            able = self.graph.nodes[node].is_dynamic and not flying and -1 not in late
            return able and all(self._met(use, whole) for use in self.graph.nodes[node].uses)
        left = set(range(items)) - self._known(node) - self._gone(node) - busy - late
        uses = self.graph.nodes[node].uses
        if not left or not all(self._met(use, Flight(node, "", range(0))) for use in uses):
            return False
        return bool(left.intersection(*(self._known(use.node) for use in uses if use.elementwise)))

    def _fits(self, node: int) -> bool:
        # Which of those whose memory grew is next is not known here.
        grown = [item for of, item in self.driver.growths if of == node]
        return fits(
            self._flying(),
            self.plans,
            self.driver.place,
            plan=self.plans[node],
            slots=self._slots(node),
            memory=max(self._memory(node, item) for item in [*grown, 0]),
        )

    def _slots(self, node: int) -> int:
        """What the next attempt at the node takes at least."""
        return 1 if self.items[node] is None else self.plans[node].fewest

    def _is_full(self) -> bool:
        return taken(list(self.driver.flights.values())) >= self.driver.place.slots

    def _check_idle(self) -> None:
        """Before the driver sleeps: what is ready and fits was handed out, unless room is kept for a wide one."""
        if self._is_full() or self.driver.asks:
            return
        ready = self._ready()
        if not all(self._fits(node) for node in ready):
            return
        if idle := [node for node in ready if node not in self.driver.held]:
            self._wrong(f"idle: nodes {idle} are ready and fit, and the driver sleeps")

    def _check_stragglers(self) -> None:
        """Before the driver sleeps: no straggler is alone where a slot and the rest of what it asks for are free."""
        driver = self.driver
        if driver.doomed or driver.stopped or self._is_full() or driver.asks:
            return
        alone = [
            attempt
            for attempt, flight in driver.flights.items()
            if driver.twins.neglected(flight, self.now, by_s=LATEST_S)
            and self._fits(flight.node)
            and 2 * len(self._known(flight.node)) >= (self.items[flight.node] or 0)
        ]
        # A node that was wanted once may be so still for the driver, though what it was for has been found.
        if alone and not any(self._has_ready(node) for node in range(len(self.graph.nodes))):
            self._wrong(f"attempts {alone} are stragglers, and have no second ones")

    def _check_passed(self, started: int) -> None:
        """No ready node is passed for ever by nodes that come after it. One whose claim is asked for has its slot already."""
        driver = self.driver
        driver.passed.pop(started, None)
        if driver.asks:
            return
        mine = (-self.depths[started], started)
        for node in self._waiting_wide():
            if node == started or (-self.depths[node], node) > mine:
                continue
            passed, slots = driver.passed.get(node, (0, 0))
            passed, slots = passed + 1, max(slots, driver.place.slots)
            driver.passed[node] = passed, slots
            if passed == (SKIPS_BEFORE_RESERVING + 1) * slots + 1:
                self._wrong(
                    f"starvation: node {node} is ready and was passed by {passed} attempts of later nodes"
                )

    def _waiting_wide(self) -> Sequence[int]:
        if not any(plan.cpus > 1 or plan.memory or plan.ranks > 1 for plan in self.plans):
            return []
        held, slots = self.driver.held, self.driver.place.slots
        # What was decided while claims were asked for comes before a retry that is due since then.
        since = self.now - LATEST_S * self.driver.has_asked
        retried = {node for (node, _), due in self.driver.delayed.items() if due > since}
        held = held | retried
        waiting = [node for node in self._ready() if node not in held and self._slots(node) <= slots]
        return [node for node in waiting if not self._fits(node)]
