"""What the measured tasks need, taken over from the project's cache where it is there: it need not be computed again."""

from __future__ import annotations

import msgspec

from hooke.pipeline.graph import Node
from hooke.pipeline.node_keys import GraphKeys
from hooke.store.store import Store
from hooke.studies.excerpt import Excerpt

__all__ = ["take_over"]


def take_over(part: Excerpt, *, study: str, cache: Store, into: Store) -> int:
    """Copy results from `cache`, which is only read; returns how many nodes are complete by that.

    It goes backwards from what is measured, so that what is only needed for something found is not copied.
    """
    keys = GraphKeys(part, run=study)
    pending = [parent for node in part.measured for parent in part.parents(node)]
    seen = set(part.measured)
    complete = 0
    while pending:
        number = pending.pop()
        if number in seen:
            continue
        seen.add(number)
        if _copied(part.nodes[number], keys, cache, into):
            complete += 1
        else:
            pending += part.parents(number)
    return complete


def _copied(node: Node, keys: GraphKeys, cache: Store, into: Store) -> bool:
    """Whether all of the node's results are in `into` now."""
    if node.kind == "call":
        entry = cache.find(keys[node.id].key)
        if entry is None:
            return False
        into.commit(msgspec.structs.replace(entry, ref=into.put(cache.get(entry.ref))))
        return True
    items = keys.items(node.id)
    if items is None:  # the list that says what its items are is a result, which the run will read again
        return False
    recipe, found = keys[node.id].recipe, 0
    for hit in cache.find_items(recipe, items):
        count = hit.hi - hit.lo
        values = cache.get(hit.ref)[hit.start : hit.start + count]
        into.commit_items(
            recipe,
            items[16 * hit.lo : 16 * hit.hi],
            into.put(values),
            task=node.task.name,
            run="",
            seconds=0.0,
        )
        found += count
    return 16 * found == len(items)
