"""Which replica a prompt goes to: the one that has most of its beginning in memory, unless that has too much to do already. Pure.

The router keeps, for each replica, a copy of what it should have in memory: the blocks of the prompts that it was sent, forgotten as
the replica forgets them. So no message is needed; a replica that was restarted is added again. The load of a replica is the tokens of the requests that it has not answered, of prompts and answers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter

__all__ = ["BlockMemory", "PrefixRouter", "RoutedPrompt"]

BOUND = 1.35
"""Times the mean load that a replica may have with the new prompt. Averaged over ten seconds the highest is then 1.25 times the mean."""


class BlockMemory:
    """The blocks of prompts that a replica has, the least recently used are forgotten first. A block is named by the whole prefix up to its end."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._kept: OrderedDict[Hashable, int] = OrderedDict()
        """Block -> when it was used last, counted in prompts of all replicas."""

    @property
    def oldest(self) -> int:
        """When the block was used that is forgotten next; -1 while there is room."""
        return next(iter(self._kept.values())) if len(self._kept) >= self.blocks else -1

    def known(self, names: Sequence[Hashable]) -> int:
        """How many of these are here, from the first on."""
        count = 0
        for name in names:
            if name not in self._kept:
                break
            count += 1
        return count

    def use(self, names: Sequence[Hashable], now: int = 0) -> None:
        """Compute a prompt of these blocks. Of one that does not fit, the beginning is kept."""
        for name in reversed(names[: self.blocks]):
            self._kept[name] = now
            self._kept.move_to_end(name)
        while len(self._kept) > self.blocks:
            self._kept.popitem(last=False)


@dataclass(slots=True)
class _Replica:
    name: Hashable
    memory: BlockMemory
    load: int = 0


@dataclass(frozen=True, slots=True)
class RoutedPrompt:
    """Where a prompt goes. `known` of its blocks should be there; `spilled` if the replica with most of them has too much to do."""

    replica: Hashable
    tokens: int
    known: int
    spilled: bool
    _at: _Replica

    def done(self) -> None:
        """It was answered, or given up. Say it once."""
        self._at.load -= self.tokens


class PrefixRouter:
    """Replicas, their loads in tokens and what they should have in memory. `route` a prompt, and say `done` to what that returns."""

    def __init__(self, *, bound: float = BOUND) -> None:
        self.bound = bound
        self._prompts = 0
        self._replicas: dict[Hashable, _Replica] = {}

    def __len__(self) -> int:
        return len(self._replicas)

    def add(self, replica: Hashable, blocks: int) -> None:
        """A replica with memory for so many blocks. One that is known already is as if it was new, but for its load."""
        known = self._replicas.setdefault(replica, _Replica(replica, BlockMemory(blocks)))
        known.memory = BlockMemory(blocks)

    def remove(self, replica: Hashable) -> None:
        """It gets nothing more."""
        self._replicas.pop(replica, None)

    def load(self, replica: Hashable) -> int:
        """Tokens of what it has not answered."""
        return self._replicas[replica].load

    def route(self, names: Sequence[Hashable], tokens: int) -> RoutedPrompt | None:
        """Where a prompt of these blocks goes, which is `tokens` long with its expected answer; None if there is no replica.

        A replica may have `bound` times the mean load, and any that has nothing to do gets a prompt of any length.
        """
        if not self._replicas:
            return None
        self._prompts += 1
        each = [
            (-replica.memory.known(names), replica.load, order, replica)
            for order, replica in enumerate(self._replicas.values())
        ]
        mean = (sum(load for _, load, _, _ in each) + tokens) / len(each)
        best = min(each)[0]
        fits = [one for one in each if one[1] + tokens <= self.bound * mean]
        if not fits:
            known, _, _, chosen = min(each, key=itemgetter(1, 0, 2))
        elif all(one[0] == best for one in each):  # new to all: it displaces what was not used for longest
            below = [one for one in fits if one[1] + tokens <= mean] or [min(fits)]
            known, _, _, chosen = min(below, key=lambda one: (one[3].memory.oldest, one[1], one[2]))
        else:
            known, _, _, chosen = min(fits)
        chosen.load += tokens
        chosen.memory.use(names, self._prompts)
        return RoutedPrompt(chosen.name, tokens, -known, spilled=known > best, _at=chosen)
