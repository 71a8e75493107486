"""Which nodes nobody waits for any more, because what they were for was found elsewhere meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Collection

from hooke.pipeline.graph import Graph

__all__ = ["unwanted_nodes"]


def unwanted_nodes(graph: Graph, roots: Collection[int], complete: Callable[[int], bool]) -> set[int]:
    """All nodes that are neither a root nor used by a wanted one that is not complete."""
    unwanted: set[int] = set()
    for node in reversed(range(len(graph.nodes))):
        users = graph.children(node)
        if node not in roots and all(user in unwanted or complete(user) for user in users):
            unwanted.add(node)
    return unwanted
