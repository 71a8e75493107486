"""Which replica a prompt goes to: the one that has most of its beginning in memory, unless that has too much to do already. Pure.

The router keeps, for each replica, a copy of what it should have in memory: the blocks of the prompts that it was sent, forgotten as
the replica forgets them. So no message is needed for that; a replica that was restarted is added again. The load of a replica is the tokens
of the requests that it has not answered, of prompts and answers, divided by its speed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

__all__ = ["BlockMemory", "PrefixRouter", "RoutedPrompt"]

BOUND = 1.29
"""Times the mean load that a replica may have with the new prompt. Averaged over ten seconds the highest was then 1.21 times the mean, on one trace."""
WORTH = 0.25
"""Where nobody has anything to do, so much of a prompt must be known for it to go there: others have free memory."""


class BlockMemory:
    """The blocks of prompts that a replica has, the least recently used are forgotten first. A block is named by the whole prefix up to its end."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._kept: OrderedDict[Hashable, int] = OrderedDict()
        """Block -> when it was used last, counted in prompts of all replicas. With a block, all before it are here."""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def oldest(self) -> int:
        """When the block was used that is forgotten next; -1 while there is room."""
        return next(iter(self._kept.values())) if len(self._kept) >= self.blocks else -1

    def known(self, names: Sequence[Hashable]) -> int:
        """How many of these are here, from the first on."""
        if not names or names[0] not in self._kept:
            return 0
        return bisect_left(names, True, key=lambda name: name not in self._kept)

    def use(self, names: Sequence[Hashable], now: int = 0) -> list[Hashable]:
        """Compute a prompt of these blocks; returns those that are forgotten for it. Of one that does not fit, the beginning is kept."""
        for name in reversed(names[: self.blocks]):
            self._kept[name] = now
            self._kept.move_to_end(name)
        return self._forget()

    def resize(self, blocks: int) -> list[Hashable]:
        """It has room for so many; returns what is forgotten."""
        self.blocks = blocks
        return self._forget()

    def _forget(self) -> list[Hashable]:
        return [self._kept.popitem(last=False)[0] for _ in range(len(self._kept) - self.blocks)]


@dataclass(slots=True)
class _Replica:
    name: Hashable
    memory: BlockMemory
    bit: int
    """Its place in the sets of replicas that know a block."""
    load: int = 0
    speed: float = 1.0
    chosen: int = 0
    """The number of the last prompt that went there: of equal ones, the next that is too short for a block goes to the one that rests for longest."""


@dataclass(slots=True)
class _Choice:
    """A replica that a prompt may go to."""

    known: int
    """Blocks."""
    load: float
    """With the prompt, by its speed."""
    order: int
    """Of equal ones."""
    replica: _Replica


@dataclass(frozen=True, slots=True)
class RoutedPrompt:
    """Where a prompt goes. `known` of its blocks should be there; `spilled` if the replica with most of them has too much to do."""

    replica: Hashable
    then: Hashable | None
    """Where it goes if that can't be reached; None if there is no other."""
    tokens: int
    known: int
    spilled: bool
    _at: _Replica

    def done(self) -> None:
        """It was answered, or given up. Say it once, and not for replicas whose loads are set."""
        self._at.load -= self.tokens


class PrefixRouter:
    """Replicas, their loads in tokens and what they should have in memory. `route` a prompt, and say `done` to what that returns."""

    def __init__(self, *, bound: float = BOUND) -> None:
        self.bound = bound
        self._prompts = 0
        self._replicas: dict[Hashable, _Replica] = {}
        self._where: dict[Hashable, int] = {}
        """Block -> the replicas that have it, as bits: so a prompt is looked up once, and not in each memory."""

    def __len__(self) -> int:
        return len(self._replicas)

    def __contains__(self, replica: Hashable) -> bool:
        return replica in self._replicas

    def add(self, replica: Hashable, blocks: int) -> None:
        """A replica with memory for so many blocks. One that is known already is as if it was new, but for its load and speed."""
        known = self._replicas.get(replica)
        if known is None:
            taken = {each.bit for each in self._replicas.values()}
            bit = next(bit for bit in range(len(taken) + 1) if bit not in taken)
            self._replicas[replica] = _Replica(replica, BlockMemory(blocks), bit)
        else:
            self._forgets(known, known.memory.resize(0))
            known.memory = BlockMemory(blocks)

    def remove(self, replica: Hashable) -> None:
        """It gets nothing more."""
        known = self._replicas.pop(replica, None)
        if known is not None:
            self._forgets(known, known.memory.resize(0))

    def resize(self, replica: Hashable, blocks: int) -> None:
        """It has memory for so many blocks."""
        known = self._replicas[replica]
        self._forgets(known, known.memory.resize(blocks))

    def memory(self, replica: Hashable) -> int:
        """Blocks that it should have."""
        return len(self._replicas[replica].memory)

    def load(self, replica: Hashable) -> int:
        """Tokens of what it has not answered."""
        return self._replicas[replica].load

    def set_load(self, replica: Hashable, tokens: int) -> None:
        """It has so many."""
        self._replicas[replica].load = tokens

    def set_speed(self, replica: Hashable, speed: float) -> None:
        """Beside others with speed 1: with 0.5 it is to have half as much to do."""
        self._replicas[replica].speed = speed

    def speed(self, replica: Hashable) -> float:
        """As it was set; 1 at first."""
        return self._replicas[replica].speed

    def route(
        self,
        names: Sequence[Hashable],
        tokens: int,
        *,
        among: Sequence[Hashable] | None = None,
        stays: Hashable | None = None,
    ) -> RoutedPrompt | None:
        """Where a prompt of these blocks goes, which is `tokens` long with its expected answer; None if there is no replica.

        A replica may have `bound` times the mean load, or as many tokens more than the least loaded one as it knows of the prompt: that one
        would have to compute them. If none is below that, as when few have anything to do, it goes to where the load is least with it. `among`: it goes
        to one of these; None: of all. It goes to `stays` in any case.
        """
        all_of_them = [each for each in self._replicas.values() if among is None or each.name in among]
        if not all_of_them:
            return None
        self._prompts += 1
        known = self._known(names)
        choices = [
            _Choice(
                known.get(each.bit, 0),
                (each.load + tokens) / each.speed,
                order if names else each.chosen,
                each,
            )
            for order, each in enumerate(all_of_them)
        ]
        staying = [one for one in choices if one.replica.name == stays]
        best = max(one.known for one in choices)
        chosen = staying[0] if staying else self._choose(choices, tokens, len(names))
        others = [one for one in choices if one is not chosen]
        then = min(others, key=lambda one: one.load).replica.name if others else None
        chosen.replica.load += tokens
        chosen.replica.chosen = self._prompts
        self._uses(chosen.replica, names)
        spilled = chosen.known < best
        return RoutedPrompt(
            chosen.replica.name, then, tokens, chosen.known, spilled=spilled, _at=chosen.replica
        )

    def _known(self, names: Sequence[Hashable]) -> dict[int, int]:
        """How many of these, from the first on, each replica has that has any, by its bit."""
        known: dict[int, int] = {}
        left = self._where.get(names[0], 0) if names else 0
        at = 0
        while left:
            at += 1
            still = left & self._where.get(names[at], 0) if at < len(names) else 0
            lost, left = left ^ still, still
            while lost:
                bit = lost.bit_length() - 1
                known[bit] = at
                lost ^= 1 << bit
        return known

    def _uses(self, replica: _Replica, names: Sequence[Hashable]) -> None:
        forgotten = replica.memory.use(names, self._prompts)
        mask, where = 1 << replica.bit, self._where
        for name in names[: replica.memory.blocks]:
            where[name] = where.get(name, 0) | mask
        self._forgets(replica, forgotten)

    def _forgets(self, replica: _Replica, names: Sequence[Hashable]) -> None:
        for name in names:
            left = self._where[name] & ~(1 << replica.bit)
            if left:
                self._where[name] = left
            else:
                del self._where[name]

    def _choose(self, choices: list[_Choice], tokens: int, blocks: int) -> _Choice:
        speeds = sum(one.replica.speed for one in choices)
        mean = (sum(one.replica.load for one in choices) + tokens) / speeds
        least_load = min(one.load for one in choices)
        known_tokens = tokens / max(blocks, 1)
        fits = [
            one
            for one in choices
            if one.load <= self.bound * mean
            or (one.known and one.load - one.known * known_tokens / one.replica.speed <= least_load)
        ]
        if not fits:
            worth = WORTH * blocks
            return min(
                choices,
                key=lambda one: (
                    one.load,
                    -one.known if one.known >= worth else 0,
                    one.replica.memory.oldest,
                    one.order,
                ),
            )
        best = max(one.known for one in choices)
        if blocks and all(
            one.known == best for one in choices
        ):  # new to all: it displaces what was not used for longest
            least = min(fits, key=lambda one: (-one.known, one.load, one.order))
            below = [one for one in fits if one.load <= mean] or [least]
            return min(below, key=lambda one: (one.replica.memory.oldest, one.load, one.order))
        return min(fits, key=lambda one: (-one.known, one.load, one.order))
