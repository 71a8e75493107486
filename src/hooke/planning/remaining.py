"""The remaining work of a pipeline: its graph without the results in the store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.base.observed import InputsNow
from hooke.keys.fingerprint_parts import combine, expansion_key
from hooke.pipeline.arguments import promises_in
from hooke.pipeline.finished_results import StoredManifests
from hooke.pipeline.graph import Graph, Node, needs_of
from hooke.pipeline.node_keys import GraphKeys
from hooke.planning.data_sizes import DataSizes, PastData, result_bytes
from hooke.scaling.workload import CallNeed, NodeWork
from hooke.store.store import Store

__all__ = [
    "RemainingNode",
    "Survey",
    "Times",
    "reads_of",
]

Times = Mapping[str, float]
"""Task -> factor for the number of items of its maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainingNode:
    """A graph node with `items` left to do; None if the number is unknown before it runs.

    `code` is part name -> digest; `constants` is argument -> key, for arguments that are neither results of other tasks nor
    data. `reads`, `bytes` and their errors are as in `NodeWork`.
    """

    node: Node
    items: int | None
    reads: int
    code: Mapping[str, str]
    constants: Mapping[str, str]
    bytes: float = 0
    bytes_error: float = 0
    items_error: float = 0

    @property
    def task(self) -> str:
        """The task's name."""
        return self.node.task.name

    @property
    def like(self) -> str:
        """Equal for nodes that take equally long: one task, equal code and arguments, the same number of items read."""
        code, constants = (
            combine("pairs", *(part for pair in sorted(pairs.items()) for part in pair))
            for pairs in (self.code, self.constants)
        )
        return combine("like", self.task, self.node.kind, self.reads, code, constants)


class Survey:
    """Compares a graph with a store: `left` is the remaining work.

    With `times`, or a scale in `past`, the data differ, so stored results do not count. Raises UsageError if `times` names a
    task that is not mapped. Results that were made from observed inputs count if these are the same in `inputs`; without that,
    none does. `past` tells the sizes of data; without it, none is known.
    """

    def __init__(
        self,
        graph: Graph,
        keys: GraphKeys,
        store: Store,
        times: Times,
        inputs: InputsNow | None = None,
        past: PastData | None = None,
    ) -> None:
        past = past or PastData()
        self._graph = graph
        self._keys = keys
        self._counts = StoredManifests(store, inputs).hold if inputs is not None else None
        factors, found = _factors(graph, times), [self._size(node, store) for node in graph.nodes]
        self._kept_bytes: dict[int, float] = {}
        stored = [self._found(node, found[node.id], store) for node in graph.nodes]
        self._stored = [0] * len(stored) if times or past.scale is not None else stored
        self.data = DataSizes(graph, keys, found, factors, past=past, kept=self._kept_bytes)
        self._factors, self._sizes = self.data.factors, self.data.items
        wanted = self._wanted()
        self.left = [self._left(node) for node in graph.nodes if node.id in wanted]
        self._place = {each.node.id: at for at, each in enumerate(self.left)}

    @property
    def items(self) -> dict[str, int]:
        """Task -> number of items and calls, for nodes whose number is known."""
        return self._by_task(self._sizes)

    @property
    def works(self) -> list[NodeWork]:
        """The remaining work, as input for the planner."""
        return [
            NodeWork(
                task=each.task,
                like=each.like,
                items=each.items,
                needs=tuple(self._needs(each.node)),
                reads=each.reads,
                bytes=each.bytes,
                bytes_error=each.bytes_error,
                items_error=each.items_error,
                **_resources(each.node),
            )
            for each in self.left
        ]

    def _by_task(self, sizes: Iterable[int | None]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for node, size in zip(self._graph.nodes, sizes, strict=True):
            counts[node.task.name] = counts.get(node.task.name, 0) + (size or 0)
        return counts

    def _wanted(self) -> set[int]:
        """The needed nodes, found backwards from the outputs as the scheduler does: nodes that only stored results use are not needed."""
        wanted = set(self._graph.roots())
        for node in reversed(self._graph.nodes):
            if node.id not in wanted:
                continue
            if self._sizes[node.id] == self._stored[node.id]:
                wanted.discard(node.id)
            else:
                wanted.update(need.node for need in needs_of(self._graph, node))
        return wanted

    def _left(self, node: Node) -> RemainingNode:
        size, inputs = self._sizes[node.id], self._keys.inputs(node.id)
        parents = [(self._graph.nodes[at].kind, self._sizes[at]) for at in self._graph.parents(node.id)]
        return RemainingNode(
            node=node,
            items=None if size is None else size - self._stored[node.id],
            reads=reads_of(node.kind, size, parents),
            code={part.name: part.digest for part in self._keys[node.id].code.parts},
            constants={
                name: inputs[name]
                for name, value in node.arguments.items()
                if name not in self.data.names[node.id] and not promises_in(value)
            },
            bytes=self.data.bytes[node.id],
            bytes_error=self.data.bytes_error[node.id],
            items_error=self.data.items_error[node.id],
        )

    def _needs(self, node: Node) -> Iterator[CallNeed]:
        """The remaining work that must be done first. If a parent is partly stored, everything left of it."""
        last: dict[int, int] = {}
        for need in needs_of(self._graph, node):
            if need.node not in self._place:
                continue
            at = self._place[need.node]
            if need.elementwise and not self._stored[need.node] and not self._stored[node.id]:
                yield CallNeed(at, in_step=True)
            elif need.item is not None and not self._stored[need.node]:
                last[at] = max(last.get(at, 0), self._scaled(need.node, need.item + 1))
            else:
                yield CallNeed(at)
        for at, items in last.items():
            yield CallNeed(at, items)

    def _scaled(self, node: int, items: int) -> int:
        return math.ceil(items * self._factors[node] - 0.01)

    def _size(self, node: Node, store: Store) -> int | None:
        """The number of items of a node; for a dynamic map with a stored list, the length of that list."""
        if node.kind == "call":
            return 1
        if node.items is None and node.is_dynamic and node.task.resources.cache:
            entry = store.find(expansion_key(self._keys[node.id].key), self._counts)
            if entry is not None:
                _, item_keys, _, _ = store.get(entry.ref)
                self._keys.expanded(node.id, store.get(item_keys))
        found = self._keys.indexed(node.id) if node.items is None else None
        return len(found) // 16 if found is not None else node.items

    def _found(self, node: Node, size: int | None, store: Store) -> int:
        if size is None or not node.task.resources.cache:
            return 0
        if node.kind == "call":
            entry = store.find(self._keys[node.id].key, self._counts)
            if entry is not None:
                self._kept_bytes[node.id] = result_bytes(entry.ref)
            return 0 if entry is None else 1
        item_keys = self._keys.indexed(node.id)
        if item_keys is None:
            return 0
        hits = store.find_items(self._keys[node.id].recipe, item_keys, self._counts)
        return sum(hit.hi - hit.lo for hit in hits)


def _resources(node: Node) -> dict[str, Any]:
    """The resources of one item or call; for a gang, of all its ranks."""
    asked = node.task.resources
    return {
        "cpus": asked.cpus * asked.ranks,
        "memory": None if asked.memory is None else asked.memory * asked.ranks,
        "gpus": asked.gpus * asked.ranks,
        "slots": asked.ranks,
    }


def reads_of(kind: str, items: int | None, parents: Iterable[tuple[str, int | None]]) -> int:
    """How many items of maps one call reads, from (kind, items) of its parents. Maps in step with it do not count."""
    return sum(size or 0 for above, size in parents if above == "map" and (kind != "map" or size != items))


def _factors(graph: Graph, times: Times) -> list[float]:
    """The factor of each node: as given, and the same for maps in step with it."""
    maps = dict.fromkeys(node.task.name for node in graph.nodes if node.kind == "map")
    for name, factor in times.items():
        if name not in maps:
            raise UsageError(
                f"times: {graph.pipeline!r} has no mapped task {name!r}",
                fix=f"{did_you_mean(name, maps)}valid: {', '.join(maps) or '(none)'}",
            )
        if not 0 < factor < math.inf:
            raise UsageError(f"times: {name}={factor!r} is not valid", fix="give a number above 0")
    factors: list[float] = []
    for node in graph.nodes:
        above = [factors[use.node] for use in node.uses if use.elementwise]
        named = times.get(node.task.name, 1.0) if node.kind == "map" else 1.0
        factors.append(above[0] if above and node.task.name not in times else named)
    return factors
