"""A pipeline's calls as an immutable graph: what runs, on which arguments, after what.

Pure data: no clock, no thread, no input or output. Nodes are in topological order by construction, since a
call can only take results of calls before it.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import msgspec

from hooke.diagrams.task_diagram import DrawnCall, TaskDiagram, diagram_of
from hooke.pipeline.arguments import promises_in
from hooke.pipeline.task import Task

__all__ = [
    "Graph",
    "Need",
    "Node",
    "Use",
    "Waiters",
    "list_maker",
    "need_of",
    "needs_of",
    "pruned_nodes",
    "waiters_of",
]


class Use(msgspec.Struct, frozen=True, gc=False):
    """A use of a node's result, or of the part of it at `path` (keys, indexes and slices, outermost first).

    `elementwise`: a map uses it item by item, so its item i needs only item i.
    """

    node: int
    path: tuple[Any, ...] = ()
    elementwise: bool = False

    def __hash__(self) -> int:
        return hash(
            (self.node, len(self.path), self.elementwise)
        )  # a slice in the path has no hash before 3.12


class Node(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A call of a task (`kind="call"`), or a map of one over `iterables` (`kind="map"`)."""

    id: int
    """Its index in `Graph.nodes`."""
    task: Task[..., Any]
    kind: Literal["call", "map"] = "call"
    arguments: Mapping[str, Any] = {}
    """Parameter -> value, with defaults, possibly with promises inside. For a map: the keywords of every item."""
    iterables: tuple[Any, ...] = ()
    """Maps only, one a column: a list, tuple, range, NumPy array, MapPromise, or Promise of a list."""
    columns: tuple[str, ...] = ()
    """Parameter that each iterable goes to. An item is called as `function(*items, **arguments)`."""
    items: int | None = 1
    """1 for a call; for a map its length, or None while it is not known."""
    uses: tuple[Use, ...] = ()
    """The distinct uses of other nodes in `arguments` and `iterables`."""
    on_error: Literal["raise", "continue"] = "raise"
    """Maps only: whether an item that fails for good fails the run, or is left out. No part of any key."""
    partial: bool = False
    """Maps only: whether its list may lack items, because of its own `on_error` or that of a map it follows item by item."""
    where: str = ""
    """The line that made the call, such as `flights.py:34`."""
    within: tuple[str, ...] = ()
    """The nested pipelines whose bodies made the call, outermost first; a second call of one is `NAME (2)`."""

    @property
    def is_dynamic(self) -> bool:
        """Whether a list must be read to know its items; not for a map that follows a dynamic one item by item."""
        return self.items is None and not any(use.elementwise for use in self.uses)

    def call_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments of a call node."""
        return self.task.binder.unbind(self.arguments)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """All calls of a pipeline and its output: any nested value with promises inside."""

    pipeline: str
    nodes: tuple[Node, ...]
    output: Any = None
    shared: Mapping[int, Any] = field(default_factory=dict, repr=False)
    """Identity -> a value that several nodes have as an argument or in one. Nothing changes it, so it is keyed and stored once."""
    _parents: tuple[tuple[int, ...], ...] = field(init=False, repr=False)
    _children: array[int] = field(init=False, repr=False)
    """Those of node 0, then those of node 1, and so on: a list for each node takes ten times the memory."""
    _first_child: array[int] = field(init=False, repr=False)
    """Where those of each node begin, and the end."""
    _roots: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parents = tuple([_used_by(node) for node in self.nodes])
        first_child, children = _turned(parents)
        wanted = {promise.node for promise in promises_in(self.output)}
        has_none = map(operator.eq, first_child, first_child[1:])
        # Not numbers of its own: a list of a million others takes 28 MB more.
        numbers = map(operator.attrgetter("id"), self.nodes)
        roots = [
            node for node, childless in zip(numbers, has_none, strict=True) if childless or node in wanted
        ]
        object.__setattr__(self, "_parents", parents)
        object.__setattr__(self, "_children", children)
        object.__setattr__(self, "_first_child", first_child)
        object.__setattr__(self, "_roots", tuple(roots))

    @property
    def output_uses(self) -> tuple[Use, ...]:
        """The distinct uses of nodes in `output`."""
        return tuple(dict.fromkeys(Use(promise.node, promise.path) for promise in promises_in(self.output)))

    def parents(self, node: int) -> tuple[int, ...]:
        """Nodes whose results `node` uses, ascending."""
        return self._parents[node]

    def children(self, node: int) -> tuple[int, ...]:
        """Nodes that use the result of `node`, ascending."""
        return tuple(self._children[self._first_child[node] : self._first_child[node + 1]])

    def child_counts(self) -> array[int]:
        """How many nodes use the result of each node."""
        return array("q", map(operator.sub, self._first_child[1:], self._first_child))

    def downstream(self, nodes: Collection[int]) -> set[int]:
        """`nodes` and all that use their results, directly or not."""
        found = set(nodes)
        for node in range(len(self.nodes)):  # parents have lower numbers
            if node not in found and not found.isdisjoint(self._parents[node]):
                found.add(node)
        return found

    def roots(self) -> tuple[int, ...]:
        """Nodes that every run must finish, ascending: those in the output, and those without consumers."""
        return self._roots

    def depths(self) -> tuple[int, ...]:
        """For each node, the length of the longest path to it from a node without parents."""
        depths: list[int] = []
        for above in self._parents:
            depths.append(1 + max([depths[parent] for parent in above]) if above else 0)
        return tuple(depths)

    def diagram(self) -> TaskDiagram:
        """The picture of the graph: a box for a call, one for a map; of many calls, one for each task."""
        return diagram_of(
            self.pipeline,
            (
                DrawnCall(
                    number=node.id,
                    task=node.task.name,
                    is_map=node.kind == "map",
                    items=node.items,
                    parents=self._parents[node.id],
                    within=node.within,
                    where=node.where,
                )
                for node in self.nodes
            ),
            len(self.nodes),
        )

    def describe(self) -> str:
        """The graph as a tree of text, from the roots down to their inputs. A shared node is drawn once."""
        lines = [self.pipeline]
        drawn: set[int] = set()
        self._draw(self.roots(), "", drawn, lines)
        return "\n".join(lines)

    def _draw(self, nodes: Sequence[int], indent: str, drawn: set[int], lines: list[str]) -> None:
        # A stack, not recursion: a chain of calls may be longer than the interpreter's stack is deep.
        stack = [(node, indent, node == nodes[-1]) for node in reversed(nodes)]
        while stack:
            node, indent, is_last = stack.pop()
            lines.append(f"{indent}{'└─ ' if is_last else '├─ '}{self._label(node, drawn)}")
            if node in drawn:
                continue
            drawn.add(node)
            inner = indent + ("   " if is_last else "│  ")
            above = self._parents[node]
            stack += [(parent, inner, parent == above[-1]) for parent in reversed(above)]

    def _label(self, number: int, drawn: set[int]) -> str:
        node = self.nodes[number]
        count = "? items" if node.items is None else f"{node.items} items"
        over = f".map over {', '.join(node.columns)}: {count}" if node.kind == "map" else ""
        where = f" ({node.where})" if node.where else ""
        again = " (drawn above)" if number in drawn and self._parents[number] else where
        return f"#{number} {node.task.name}{over}{again}"


def _used_by(node: Node) -> tuple[int, ...]:
    uses = node.uses
    if len(uses) < 2:
        return (uses[0].node,) if uses else ()
    return tuple(sorted({use.node for use in uses}))


def _turned(parents: Sequence[Sequence[int]]) -> tuple[array[int], array[int]]:
    """The children from the parents of each node: where those of each begin, with the end, and all of them."""
    first = array("q", bytes(8 * (len(parents) + 1)))
    for above in parents:
        for parent in above:
            first[parent + 1] += 1
    first = array("q", accumulate(first))
    children, free = array("q", bytes(8 * first[-1])), first[:]
    for child, above in enumerate(parents):
        for parent in above:
            children[free[parent]] = child
            free[parent] += 1
    return first, children


# --- Needs: what must be done before the items of a node may start.


class Need(msgspec.Struct, frozen=True, order=True, gc=False):
    """All items of `node`; or its one `item`; or, `elementwise`, item i of it before item i of the needing map."""

    node: int
    item: int | None = None
    elementwise: bool = False


def needs_of(graph: Graph, node: Node) -> tuple[Need, ...]:
    """The distinct needs of a node, in the order of its uses."""
    return tuple(dict.fromkeys([need_of(graph, use) for use in node.uses])) if node.uses else ()


def need_of(graph: Graph, use: Use) -> Need:
    """What a use of a result needs."""
    if use.elementwise:
        return Need(use.node, elementwise=True)
    parent = graph.nodes[use.node]
    first = use.path[0] if use.path else None
    if parent.partial:  # an item that fails is never done
        return Need(use.node)
    if parent.kind == "map" and parent.items is not None and isinstance(first, int) and first >= 0:
        return Need(use.node, item=first)
    return Need(use.node)


# --- Waiters, by the node that they wait for, so that an event costs only what it wakes.


class Waiters(msgspec.Struct):
    """The nodes that wait for whole nodes, for single items, and maps that follow item by item."""

    graph: Graph
    whole: dict[int, list[int]] = msgspec.field(default_factory=dict)
    """Of the nodes that are in `item` or `elementwise`. All children of another node wait for the whole of it."""
    item: dict[int, dict[int, list[int]]] = msgspec.field(default_factory=dict)
    elementwise: dict[int, list[int]] = msgspec.field(default_factory=dict)

    def of_whole(self, node: int) -> Sequence[int]:
        """The nodes that wait for all of `node`."""
        if node in self.item or node in self.elementwise:
            return self.whole.get(node, ())
        return self.graph.children(node)

    def pop_items(self, node: int, lo: int, hi: int) -> list[int]:
        """Remove and return the nodes that wait for one of the items `lo..hi` of `node`, which are done now."""
        waiting = self.item.get(node)
        if not waiting:
            return []
        few = range(lo, hi) if hi - lo < len(waiting) else list(waiting)
        wanted = [item for item in few if lo <= item < hi and item in waiting]
        return [child for i in wanted for child in waiting.pop(i)]


def waiters_of(graph: Graph, needs: Sequence[Sequence[Need]]) -> Waiters:
    """The waiters of a graph, from the needs of each node."""
    waiters = Waiters(graph)
    for child, wanted in enumerate(needs):
        for need in wanted:
            if need.elementwise:
                waiters.elementwise.setdefault(need.node, []).append(child)
            elif need.item is not None:
                waiters.item.setdefault(need.node, {}).setdefault(need.item, []).append(child)
    special = waiters.elementwise.keys() | waiters.item.keys()
    for child, wanted in enumerate(needs) if special else ():
        for need in wanted:
            if need.node in special and need.item is None and not need.elementwise:
                waiters.whole.setdefault(need.node, []).append(child)
    return waiters


# --- Pruning: nodes that need not run, because every consumer already has its result.


def pruned_nodes(graph: Graph, roots: Collection[int], complete: Callable[[int], bool]) -> set[int]:
    """All nodes that are not roots and have no incomplete, unpruned consumer."""
    pruned: set[int] = set()
    for node in reversed(range(len(graph.nodes))):
        consumers = graph.children(node)
        if node not in roots and all(consumer in pruned or complete(consumer) for consumer in consumers):
            pruned.add(node)
    return pruned


def list_maker(graph: Graph, node: int) -> int | None:
    """The dynamic map whose list decides what the items of this map are; None if they are known without one."""
    nodes = graph.nodes
    while not nodes[node].is_dynamic:
        above = [use.node for use in nodes[node].uses if use.elementwise and nodes[use.node].items is None]
        if nodes[node].items is not None or not above:
            return None
        node = above[0]
    return node
