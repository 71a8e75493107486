"""What must hold of second attempts in a history: who may have one, when, and that the beaten one goes.

Like `sim_checks`, worked out anew from what was journalled and what was said to the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hooke.pipeline.effects import Plan
from hooke.pipeline.graph import Graph
from hooke.testing.sim_world import Handed

__all__ = ["Flight", "Twins"]

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

    def meets(self, other: Flight) -> bool:
        """Whether both run an item that the other runs too."""
        return self.node == other.node and bool(set(self.items) & set(other.items))


@dataclass(slots=True)
class Twins:
    """The second attempts of one driver, and what the items of each map took while it lived."""

    graph: Graph
    plans: tuple[Plan, ...]
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

    def refused(self, handed: Handed, flights: Mapping[int, Flight], now: float) -> Iterator[str]:
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
