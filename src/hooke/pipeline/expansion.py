"""Reading the list behind a dynamic map: on a worker, so that the driver never holds its items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hooke.base.errors import UsageError
from hooke.base.ref import Ref
from hooke.journal.events import MapExpanded
from hooke.keys.value import fingerprint_items
from hooke.store.store import Store

__all__ = ["BLOCK", "Expansion", "expand"]

BLOCK = 4096
"""Items per stored block: an attempt reads only the blocks that its items lie in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """The items of a dynamic map: how many, a stored `bytes` of 16 per item, and lists of argument tuples in blocks."""

    items: int
    keys: Ref
    blocks: tuple[Ref, ...]

    def event(self, node: int) -> MapExpanded:
        """The journal's word for it."""
        return MapExpanded(node=node, items=self.items, keys=self.keys, blocks=self.blocks, block=BLOCK)


def expand(payload: tuple[str, str, Sequence[Any]], store: Store) -> Expansion:
    """Zip the columns of `(task, recipe, columns)`, key each item and store both. Raises UsageError if they cannot be zipped."""
    task, recipe, columns = payload
    lists = [_as_list(task, column) for column in columns]
    lengths = {len(column) for column in lists}
    if len(lengths) > 1:
        raise UsageError(
            f"{task}.map got lists of different lengths: {', '.join(map(str, sorted(lengths)))}",
            mend="give lists of equal length; what is the same for every item goes in as a keyword",
        )
    items = list(zip(*lists, strict=True))
    keys = store.put(fingerprint_items(items, label=recipe))
    blocks = tuple(store.put(items[at : at + BLOCK]) for at in range(0, len(items), BLOCK))
    return Expansion(items=len(items), keys=keys, blocks=blocks)


def _as_list(task: str, column: Any) -> Sequence[Any]:
    try:
        return list(column)
    except TypeError as error:
        raise UsageError(
            f"{task}.map got a {type(column).__name__}, which cannot be iterated",
            mend="let the task before it return a list",
        ) from error
