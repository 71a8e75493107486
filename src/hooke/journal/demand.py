"""Which nodes are still needed: a node is not when all that would read it has its results, as in a cached run."""

from __future__ import annotations

from collections.abc import Mapping

from hooke.journal.node_view import NodeView

__all__ = ["close", "open_child"]


def open_child(nodes: Mapping[int, NodeView], child: NodeView) -> None:
    """`child` joins the graph after its parents: they are needed for its sake, unless it is complete."""
    if child.complete:
        child.closed = True
        return
    todo = [child]
    while todo:
        for parent in _parents(nodes, todo.pop()):
            parent.open_children += 1
            if not parent.needed:
                parent.needed, parent.closed = True, False
                todo.append(parent)


def close(nodes: Mapping[int, NodeView], node: NodeView) -> None:
    """`node` may have become complete: if so, parents that nothing else needs are not needed, nor theirs in turn."""
    if not node.complete or node.closed:
        return
    todo = [node]
    while todo:
        closing = todo.pop()
        closing.closed = True
        for parent in _parents(nodes, closing):
            parent.open_children -= 1
            if not parent.open_children and not parent.complete:
                parent.needed = False
                todo.append(parent)


def _parents(nodes: Mapping[int, NodeView], node: NodeView) -> list[NodeView]:
    return [nodes[parent] for parent in set(node.planned.parents) if parent in nodes]
