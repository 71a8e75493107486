"""The attempts of a history that nobody has answered yet: which may have a second one beside it, and what they take of their place.

Worked out anew, with nothing of the run state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hooke.journal import events
from hooke.pipeline.graph import Graph
from hooke.pipeline.node_state import NodePlan
from hooke.testing.virtual_world import HandedAttempt

__all__ = ["Flight", "Twins", "crowded", "fits", "taken"]

LEAST_S = 1.0
LEAST_MEASURED = 3


@dataclass(slots=True)
class Flight:
    """An attempt that the driver handed out and that nobody answered yet."""

    node: int
    kind: str
    items: range
    began: float | None = None
    doubled: bool = False
    memory: int = 0
    short: bool = False
    """Whether it may wait behind another one that asks for the same."""
    slots: int = 1
    """A gang takes one for each rank, but its list is read by one process."""
    asked: int = 0
    """Of an elastic gang: the ranks with which it was asked to go on."""
    after: int | None = None
    """The attempt that it follows, until it begins."""

    def meets(self, other: Flight) -> bool:
        """Whether both run an item that the other runs too."""
        return self.node == other.node and bool(set(self.items) & set(other.items))


@dataclass(slots=True)
class Twins:
    """The second attempts of one driver, and what the items of each map took while it lived."""

    graph: Graph
    plans: tuple[NodePlan, ...]
    seconds: dict[int, list[float]] = field(default_factory=dict)
    beaten: dict[int, Flight] = field(default_factory=dict)
    """Those whose items another attempt has finished, until they are cancelled."""

    def measured(self, node: int, items: range, seconds: float) -> None:
        """An attempt at these items finished."""
        if items:
            self.seconds.setdefault(node, []).extend([seconds / len(items)] * len(items))

    def beat(self, winner: Flight, flights: dict[int, Flight]) -> list[int]:
        """The winner's items are done: take those who ran them too out of the flights."""
        gone = [attempt for attempt, flight in flights.items() if flight.meets(winner)]
        for attempt in gone:
            self.beaten[attempt] = flights.pop(attempt)
        return gone

    def refused(self, handed: HandedAttempt, flights: Mapping[int, Flight], now: float) -> Iterator[str]:
        """Why this second attempt should not have been; marks both attempts."""
        first = flights.get(handed.twin_of or 0)
        if first is None or (first.node, first.items) != (handed.node, handed.items):
            yield "is the second of one that does not run these items"
            return
        if first.doubled:
            yield "is the third of its items"
        if self.plans[first.node].ranks:
            yield "is the second of a gang"
        if not self.plans[first.node].repeatable:
            yield "repeats a task that is declared impure"
        if (late_s := self.late_s(first, now)) is None or late_s < -1e-6:
            yield f"is the second of one that does not run long: {late_s}"
        first.doubled = True

    def late_s(self, flight: Flight, now: float) -> float | None:
        """For how long the attempt has been a straggler; None where it can be none."""
        seconds = self.seconds.get(flight.node, [])
        is_map = self.graph.nodes[flight.node].kind == "map" and flight.items
        if not is_map or flight.began is None or len(seconds) < LEAST_MEASURED:
            return None
        return now - flight.began - max(LEAST_S, 2 * max(seconds) * len(flight.items))

    def neglected(self, flight: Flight, now: float, *, by_s: float) -> bool:
        """Whether the attempt should have had a second one beside it `by_s` seconds ago, were there room for it."""
        plan, late_s = self.plans[flight.node], self.late_s(flight, now)
        if flight.doubled or not plan.repeatable or plan.ranks or late_s is None or flight.began is None:
            return False
        return late_s > by_s and (plan.timeout_s is None or now < flight.began + plan.timeout_s)


# --- What the attempts of a history take of its place, worked out anew: slots, and for each of them cpus and memory.

MOST_BEHIND = 64
"""Short attempts behind each one that runs, at most: fewer if they are longer."""


def taken(flights: Sequence[Flight]) -> int:
    """The slots that these attempts take."""
    return sum(flight.slots for flight in flights)


def crowded(flights: Sequence[Flight], plans: Sequence[NodePlan], place: events.CapacityChanged) -> bool:
    """Whether more runs than the place has, though as many of the short ones wait as may."""
    flights = _holding(flights, plans)
    each = [(flight.slots, flight) for flight in flights]
    return (
        sum(slots for slots, _ in each) > place.slots
        or _over([slots * plans[flight.node].cpus for slots, flight in each], place.cpus)
        or _over([slots * flight.memory for slots, flight in each], place.memory)
    )


def fits(
    flights: Sequence[Flight],
    plans: Sequence[NodePlan],
    place: events.CapacityChanged,
    *,
    plan: NodePlan,
    slots: int,
    memory: int,
) -> bool:
    """Whether there is room for one more, which takes so many slots, beside these."""
    each = [(flight.slots, flight) for flight in flights]
    cpus = [*(count * plans[flight.node].cpus for count, flight in each), slots * plan.cpus]
    memories = [*(count * flight.memory for count, flight in each), slots * memory]
    # One slot is not asked for here: whoever asks knows that one is free, or that none is.
    has_slots = slots == 1 or taken(flights) + slots <= place.slots
    return has_slots and not _over(cpus, place.cpus) and not _over(memories, place.memory)


def _holding(flights: Sequence[Flight], plans: Sequence[NodePlan]) -> list[Flight]:
    """The fewest that can be those that run: short ones may wait, so many behind each that asks for the same."""
    alike: dict[tuple[float, int, int], list[Flight]] = {}
    for flight in sorted(flights, key=lambda flight: flight.short, reverse=True):
        plan = plans[flight.node]
        alike.setdefault((plan.cpus, flight.memory, flight.slots), []).append(flight)
    return [
        flight
        for same in alike.values()
        for flight in same[min(sum(f.short for f in same), len(same) * MOST_BEHIND // (MOST_BEHIND + 1)) :]
    ]


def _over(amounts: Sequence[float], total: float | None) -> bool:
    """Whether they are more than there is; one that asks for more than all counts as all."""
    return total is not None and sum(min(amount, total) for amount in amounts) > total + 1e-6
