"""The results of two runs side by side: what their journals say they are, read from the store of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hooke.base.errors import CorruptObject, MissingObject
from hooke.base.intervals import SegmentMap
from hooke.base.ref import Ref
from hooke.journal.node_view import NodeView
from hooke.journal.view import RunView
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.references import unpack
from hooke.project.reproducing.values import EQUAL, Likeness, Tolerance, compare_values
from hooke.project.reproducing.verdicts import Pair, Verdict, begins, pairs, verdict
from hooke.store.store import Store

__all__ = ["Made", "compare_outputs", "compare_tasks"]

MOST_OUTPUTS = 50
"""A longer list is one output."""
_SAME = Likeness(kind=EQUAL)


@dataclass(slots=True)
class Made:
    """A run with its store. `keys` are those of its graph where they are known: by them results are found that it did not load."""

    view: RunView
    store: Store
    keys: GraphKeys | None = None
    _lists: dict[str, Any] = field(default_factory=dict)

    def results(self, node: NodeView) -> SegmentMap:
        """Which stored object has which items; what the run did not need is looked up."""
        if len(node.results) or self.keys is None:
            return node.results
        found, planned = SegmentMap(), node.planned
        if planned.node >= len(self.keys.nodes) or self.keys[planned.node].key != planned.key:
            return found
        if planned.kind == "call":
            entry = self.store.find(planned.key)
            if entry is not None:
                found.record(0, 1, entry.ref)
        elif (items := self.keys.items(planned.node)) is not None:
            for hit in self.store.find_items(self.keys[planned.node].recipe, items):
                found.record(hit.lo, hit.hi, hit.ref, hit.start)
        return found

    def items(self, ref: Ref) -> Any:
        """The list that has the results of items; the last one read is kept."""
        if ref.digest not in self._lists:
            self._lists = {ref.digest: self.store.get(ref)}
        return self._lists[ref.digest]


def compare_tasks(was: Made, now: Made, tolerance: Tolerance) -> list[Verdict]:
    """A verdict for each task's node, in the order of the graph. Raises what unpickling raises."""
    found = [_compare_node(pair, was, now, tolerance) for pair in pairs(_tasks(was.view), _tasks(now.view))]
    return begins(found, {number: node.planned.parents for number, node in was.view.nodes.items()})


def _tasks(view: RunView) -> dict[int, str]:
    return {number: node.planned.task for number, node in view.nodes.items()}


def _compare_node(pair: Pair, was: Made, now: Made, tolerance: Tolerance) -> Verdict:
    if pair.was is None or pair.now is None:
        return verdict(pair.task, (), node=-1 if pair.was is None else pair.was, missing=1)
    before, after = was.view.nodes[pair.was], now.view.nodes[pair.now]
    old, new = was.results(before), now.results(after)
    most = max(before.items or 0, after.items or 0, 1 if before.planned.kind == "call" else 0)
    likenesses = list(_likenesses(was, now, _Sides(old, new, before.planned.kind), tolerance))
    return verdict(pair.task, likenesses, node=pair.was, missing=most - len(likenesses))


@dataclass(frozen=True, slots=True)
class _Sides:
    old: SegmentMap
    new: SegmentMap
    kind: str

    def pieces(self) -> Iterator[tuple[int, int, Ref, int, Ref, int]]:
        """Items `lo..hi` that both have, each side in one object."""
        for lo, hi, ref, start in self.old:
            for a, b in self.new.items.within(lo, hi):
                for low, high, other, begin in self.new.cut(a, b):
                    yield low, high, ref, start + low - lo, other, begin


def _likenesses(was: Made, now: Made, sides: _Sides, tolerance: Tolerance) -> Iterator[tuple[str, Likeness]]:
    for lo, hi, ref, start, other, begin in sides.pieces():
        if (ref.digest, start) == (other.digest, begin):
            yield from (("", _SAME) for _ in range(lo, hi))
            continue
        try:
            if sides.kind == "call":
                yield "", compare_values(was.store.get(ref), now.store.get(other), tolerance)
                continue
            before, after = was.items(ref), now.items(other)
        except (MissingObject, CorruptObject):
            continue  # counted as missing: it was evicted
        for item in range(lo, hi):
            likeness = compare_values(before[start + item - lo], after[begin + item - lo], tolerance)
            yield f"[{item}]", likeness


def compare_outputs(was: Made, now: Made, tolerance: Tolerance) -> list[Verdict]:
    """A verdict for each part of what the pipeline returned, or one for all of it."""
    try:
        old, new = _output(was), _output(now)
    except (MissingObject, CorruptObject):
        # Evicted values have their digests still.
        if was.view.output is not None and was.view.output == now.view.output:
            return [verdict("result", [("", _SAME)])]
        return [verdict("result", (), missing=1)]
    if isinstance(old, dict) and isinstance(new, dict) and 0 < len(old) <= MOST_OUTPUTS:
        names = list(dict.fromkeys((*old, *new)))
        return [
            verdict(str(name), [("", compare_values(old[name], new[name], tolerance))])
            if name in old and name in new
            else verdict(str(name), (), missing=1)
            for name in names
        ]
    return [verdict("result", [("", compare_values(old, new, tolerance))])]


def _output(made: Made) -> Any:
    assert made.view.output is not None
    return unpack(made.store.get(made.view.output), made.store)
