"""What the attempts of a history take of its place, worked out anew: slots, and for each of them cpus and memory."""

from __future__ import annotations

from collections.abc import Sequence

from hooke.journal.events import CapacityChanged
from hooke.pipeline.effects import Plan
from hooke.testing.sim_twins import Flight

__all__ = ["crowded", "fits", "slots_of", "taken"]

MOST_BEHIND = 4
"""Short attempts behind each one that runs."""


def slots_of(plan: Plan, kind: str) -> int:
    """A gang takes one for each rank, but its list is read by one process."""
    return 1 if kind == "expand" else max(1, plan.ranks)


def taken(flights: Sequence[Flight], plans: Sequence[Plan]) -> int:
    """The slots that these attempts take."""
    return sum(slots_of(plans[flight.node], flight.kind) for flight in flights)


def crowded(flights: Sequence[Flight], plans: Sequence[Plan], place: CapacityChanged) -> bool:
    """Whether more runs than the place has, though as many of the short ones wait as may."""
    flights = _holding(flights, plans)
    each = [(slots_of(plans[flight.node], flight.kind), flight) for flight in flights]
    return (
        sum(slots for slots, _ in each) > place.slots
        or _over([slots * plans[flight.node].cpus for slots, flight in each], place.cpus)
        or _over([slots * flight.memory for slots, flight in each], place.memory)
    )


def fits(
    flights: Sequence[Flight],
    plans: Sequence[Plan],
    place: CapacityChanged,
    *,
    plan: Plan,
    slots: int,
    memory: int,
) -> bool:
    """Whether there is room for one more, which takes so many slots, beside these."""
    each = [(slots_of(plans[flight.node], flight.kind), flight) for flight in flights]
    cpus = [*(count * plans[flight.node].cpus for count, flight in each), slots * plan.cpus]
    memories = [*(count * flight.memory for count, flight in each), slots * memory]
    # One slot is not asked for here: whoever asks knows that one is free, or that none is.
    has_slots = slots == 1 or taken(flights, plans) + slots <= place.slots
    return has_slots and not _over(cpus, place.cpus) and not _over(memories, place.memory)


def _holding(flights: Sequence[Flight], plans: Sequence[Plan]) -> list[Flight]:
    """The fewest that can be those that run: short ones may wait, so many behind each that asks for the same."""
    alike: dict[tuple[float, int, int], list[Flight]] = {}
    for flight in sorted(flights, key=lambda flight: flight.short, reverse=True):
        plan = plans[flight.node]
        alike.setdefault((plan.cpus, flight.memory, slots_of(plan, flight.kind)), []).append(flight)
    return [
        flight
        for same in alike.values()
        for flight in same[min(sum(f.short for f in same), len(same) * MOST_BEHIND // (MOST_BEHIND + 1)) :]
    ]


def _over(amounts: Sequence[float], total: float | None) -> bool:
    """Whether they are more than there is; one that asks for more than all counts as all."""
    return total is not None and sum(min(amount, total) for amount in amounts) > total + 1e-6
