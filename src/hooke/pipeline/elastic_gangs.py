"""Elastic gangs: with how many ranks each begins, and when it is asked to go on with another number. Pure: no clock.

A gang changes its number of ranks at a checkpoint only: it ends there, and begins again with as many as there is room for.
That costs new processes, which import their libraries again. So a gang is asked only after it has run for a while, which is
longer after each change, and only if the reason has lasted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from hooke.pipeline.node_state import ElasticItem, NodePlan, NodeState, Resize, RunningAttempt
from hooke.pipeline.slots import ResourceRequest, SlotRoom, exceeds

__all__ = ["ElasticGangs"]

SETTLED_S = 5.0
"""How long a gang runs before it is asked to change: about what PyTorch takes to start its ranks. Doubled with each change."""

LONGEST_SETTLED_S = 320.0
"""Then changes cost some percent of the time at most."""

LASTS_S = 2.0
"""How long there must be a reason. Between two tasks of a pipeline there is room for a moment, and workers join one by one."""

LOOK_S = 0.5
"""How often it is looked at: each look goes through all that waits."""

UNBORN_S = 60.0
"""A gang that has not begun after so long is tried with a rank less: no machine may have room for the last one."""


class ElasticGangs:
    """The elastic gangs of one run."""

    def __init__(self) -> None:
        self.settled_s, self.lasts_s = SETTLED_S, LASTS_S
        self._look_at = -math.inf

    # -- how an attempt begins -----------------------------------------------------------------------

    def widened(
        self, state: NodeState, item: int, request: ResourceRequest, room: SlotRoom
    ) -> ResourceRequest | None:
        """The request for the fewest ranks with as many more as there is room for, which are taken; None if there is no room for more."""
        known = state.elastic.get(item)
        most = state.plan.ranks if known is None or known.most is None else known.most
        free = room.capacity.slots - room.taken
        for ranks in range(min(most, free), state.plan.fewest, -1):
            wider = with_ranks(request, ranks)
            if not exceeds(wider, room.capacity) and room.take(wider):
                return wider
        return None

    # -- how an attempt ends -------------------------------------------------------------------------

    def resized(self, state: NodeState, running: RunningAttempt, now: float) -> None:
        """An attempt has ended at a checkpoint: the next one at its item goes on with another number of ranks."""
        item = state.elastic.setdefault(running.lo, ElasticItem())
        item.resizes += 1
        item.ran_s = _ran_s(running, now)
        item.most = running.asked if 0 < running.asked < running.request.slots else None

    def failed(self, state: NodeState, running: RunningAttempt) -> None:
        """An attempt has failed: the next one begins with as many ranks as there is room for."""
        if known := state.elastic.get(running.lo):
            known.most, known.ran_s = None, 0.0

    def withdrawn(
        self, running: Mapping[int, RunningAttempt], states: Sequence[NodeState], room: SlotRoom, now: float
    ) -> Iterator[int]:
        """The attempts that have not begun and cannot as they are: the room for them is gone."""
        for attempt, each in _elastic(running, states):
            late = now >= each.submitted + UNBORN_S and each.request.slots > states[each.node].plan.fewest
            if each.started is None and (late or room.taken > room.capacity.slots):
                state = states[each.node]
                item = state.elastic.setdefault(each.lo, ElasticItem())
                item.most = max(each.request.slots - 1, state.plan.fewest) if late else None
                yield attempt

    # -- how many ranks it should have -----------------------------------------------------------------

    def resizes(
        self,
        running: Mapping[int, RunningAttempt],
        states: Sequence[NodeState],
        room: SlotRoom,
        waiting: Iterable[ResourceRequest],
        now: float,
    ) -> Iterator[Resize]:
        """What to ask of gangs now. `waiting` are the requests that have no room, those that go first before the others."""
        gangs = {attempt: each for attempt, each in _elastic(running, states) if each.started is not None}
        if not gangs or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        wishes = _wishes(
            gangs, {attempt: states[each.node].plan for attempt, each in gangs.items()}, room, waiting
        )
        for attempt, each in gangs.items():
            if wishes[attempt] != each.wish:
                each.wish, each.wished = wishes[attempt], now
            if each.wish != (each.asked or each.request.slots) and now >= self._due(each, states[each.node]):
                each.asked = each.wish
                yield Resize(attempt, each.wish)

    def next_due(
        self, running: Mapping[int, RunningAttempt], states: Sequence[NodeState], now: float
    ) -> float | None:
        """When to look again, even without an event; None for never."""
        due = []
        for _, each in _elastic(running, states):
            if each.started is not None:
                due.append(max(now + LOOK_S, self._look_at))
            elif each.request.slots > states[each.node].plan.fewest:
                due.append(each.submitted + UNBORN_S)
        return min(due, default=None)

    def _due(self, each: RunningAttempt, state: NodeState) -> float:
        """When the gang is asked for what it should have now; at once where it is to stay as it is."""
        if each.wish == each.request.slots:
            return each.wished
        known = state.elastic.get(each.lo)
        doublings = 0 if known is None else min(known.resizes, 10)
        assert each.started is not None
        return max(
            each.wished + self.lasts_s, each.started + min(self.settled_s * 2**doublings, LONGEST_SETTLED_S)
        )


def with_ranks(request: ResourceRequest, ranks: int) -> ResourceRequest:
    """The request of a gang with so many ranks."""
    return msgspec.structs.replace(request, slots=ranks)


def _elastic(
    running: Mapping[int, RunningAttempt], states: Sequence[NodeState]
) -> Iterator[tuple[int, RunningAttempt]]:
    for attempt, each in running.items():
        if states[each.node].plan.least_ranks and not each.expand:
            yield attempt, each


def _ran_s(running: RunningAttempt, now: float) -> float:
    return running.before_s + (max(now - running.started, 0.0) if running.started is not None else 0.0)


class _Trial:
    """Sizes of gangs that are tried out, in a copy of the room."""

    def __init__(
        self, gangs: Mapping[int, RunningAttempt], plans: Mapping[int, NodePlan], room: SlotRoom
    ) -> None:
        self.sizes = {attempt: each.request.slots for attempt, each in gangs.items()}
        self.room = room.copy()
        self._gangs, self._plans = gangs, plans

    def fit(self) -> None:
        """Shrink gangs until all have room, as far as they may."""
        while self.room.taken > self.room.capacity.slots and self._shrink():
            pass

    def admit(self, request: ResourceRequest) -> bool:
        """Shrink gangs until there is room for one more. False, and none has shrunk, if that does not help."""
        sizes, room = dict(self.sizes), self.room.copy()
        while not self.room.take(request):
            if not self._shrink():
                self.sizes, self.room = sizes, room
                return False
        return True

    def grow(self) -> None:
        """Let gangs grow as far as there is room, the narrowest first."""
        while any(
            self._change(each, 1) for each in sorted(self.sizes, key=lambda each: (self.sizes[each], each))
        ):
            pass

    def _shrink(self) -> bool:
        """Take a rank from the widest gang that may have fewer; False if none may."""
        return any(
            self._change(each, -1) for each in sorted(self.sizes, key=lambda each: (-self.sizes[each], each))
        )

    def _change(self, attempt: int, by: int) -> bool:
        request, plan = self._gangs[attempt].request, self._plans[attempt]
        other = with_ranks(request, self.sizes[attempt] + by)
        if not plan.fewest <= other.slots <= plan.ranks or (by > 0 and exceeds(other, self.room.capacity)):
            return False
        if not self.room.take_instead(other, with_ranks(request, self.sizes[attempt])):
            return False
        self.sizes[attempt] += by
        return True


def _wishes(
    gangs: Mapping[int, RunningAttempt],
    plans: Mapping[int, NodePlan],
    room: SlotRoom,
    waiting: Iterable[ResourceRequest],
) -> dict[int, int]:
    """Attempt -> the ranks that it should have: fewer where others wait and would have room then, else as many as there is room for.

    The widest gangs shrink first. What has no room beside the smallest gangs either keeps none of them small.
    """
    trial = _Trial(gangs, plans, room)
    trial.fit()
    admitted = [trial.admit(request) for request in waiting]
    if not any(admitted):
        trial.grow()
    return trial.sizes
