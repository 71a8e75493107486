"""What a node needs before its items may start."""

from __future__ import annotations

from dataclasses import dataclass

from hooke.pipeline.graph import Graph, Node, Use

__all__ = ["Need", "needs_of"]


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """All items of `node`; or its one `item`; or, `elementwise`, item i of it before item i of the needing map."""

    node: int
    item: int | None = None
    elementwise: bool = False


def needs_of(graph: Graph, node: Node) -> tuple[Need, ...]:
    """The distinct needs of a node, in the order of its uses."""
    return tuple(dict.fromkeys(_need(graph, use) for use in node.uses))


def _need(graph: Graph, use: Use) -> Need:
    if use.elementwise:
        return Need(use.node, elementwise=True)
    parent = graph.nodes[use.node]
    first = use.path[0] if use.path else None
    if parent.kind == "map" and parent.items is not None and isinstance(first, int) and first >= 0:
        return Need(use.node, item=first)
    return Need(use.node)
