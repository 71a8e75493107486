"""Where the boxes of a graph go, and how its arrows run: layers from top to bottom, groups as frames. Pure and deterministic.

The steps are those of Sugiyama, Tagawa and Toda (1981): break cycles, assign layers by the longest path, order each layer by
barycentres, then place it by least squares under the order (isotonic regression). A group is laid out first, by itself, and
is one box of the level around it; an arrow across its frame ends at the frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

__all__ = ["Frame", "PlacedArrow", "PlacedGraph", "Size", "place_graph"]

GAP_X = 24.0
"""Pixels between two boxes of a layer."""
GAP_Y = 44.0
"""Pixels between two layers: room for arrows."""
LANE = 10.0
"""Width of the lane of an arrow that passes a layer."""
PAD = 16.0
"""Between a frame and what is in it."""
TITLE = 22.0
"""Height of a frame's title."""
SWEEPS = 12
"""Passes that order the layers; more no longer help in graphs of a hundred boxes."""
PASSES = 8
"""Passes that place them."""

Size: TypeAlias = tuple[float, float]
"""Width and height in pixels."""
_Edge: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A rectangle, by its upper left corner, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedArrow:
    """An arrow through `points`, from a box or frame to another one."""

    source: Hashable
    target: Hashable
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedGraph:
    """A layout. `boxes` are in the order of the sizes, `groups` are by their paths."""

    width: float
    height: float
    boxes: tuple[Frame, ...]
    groups: Mapping[tuple[str, ...], Frame]
    arrows: tuple[PlacedArrow, ...]


def place_graph(
    sizes: Sequence[Size], edges: Sequence[_Edge], groups: Sequence[tuple[str, ...]] = ()
) -> PlacedGraph:
    """The layout of boxes of these sizes with arrows between their indexes.

    `groups` has for each box the path of the groups that it is in, outermost first; empty for no groups at all.
    """
    paths = list(groups) or [()] * len(sizes)
    place = _Placer(sizes, edges, paths)
    width, height = place.level((), 0.0, 0.0, measure=True)
    place.level((), 0.0, 0.0, measure=False)
    return PlacedGraph(
        width=width,
        height=height,
        boxes=tuple(place.boxes[at] for at in range(len(sizes))),
        groups=place.frames,
        arrows=tuple(place.arrows),
    )


class _Placer:
    """Lays out each group once, innermost first, then moves all to their places."""

    def __init__(
        self, sizes: Sequence[Size], edges: Sequence[_Edge], paths: Sequence[tuple[str, ...]]
    ) -> None:
        self.sizes, self.edges, self.paths = sizes, edges, paths
        self.boxes: dict[int, Frame] = {}
        self.frames: dict[tuple[str, ...], Frame] = {}
        self.arrows: list[PlacedArrow] = []
        self._members: dict[tuple[str, ...], dict[Hashable, None]] = defaultdict(dict)
        for at, path in enumerate(paths):
            for depth in range(len(path)):
                self._members[path[:depth]][path[: depth + 1]] = None
            self._members[path][at] = None
        self._arrows: dict[tuple[str, ...], dict[tuple[Hashable, Hashable], None]] = defaultdict(dict)
        for source, target in edges:
            level, ends = self._common(source, target)
            if ends[0] != ends[1]:
                self._arrows[level][ends] = None
        self._made: dict[tuple[str, ...], _Layers] = {}

    def level(self, path: tuple[str, ...], x: float, y: float, *, measure: bool) -> Size:
        """The size of a group's inside; without `measure`, place it with its upper left corner at (x, y)."""
        members = list(self._members[path])
        if measure:
            sizes = [self._size(each) for each in members]
            index = {each: at for at, each in enumerate(members)}
            edges = [(index[source], index[target]) for source, target in self._arrows[path]]
            self._made[path] = _Layers(sizes, edges)
            return self._made[path].size
        made = self._made[path]
        for each, (left, top), (width, height) in zip(members, made.corners, made.sizes, strict=True):
            frame = Frame(x=x + left, y=y + top, width=width, height=height)
            if isinstance(each, tuple):
                self.frames[each] = frame
                self.level(each, frame.x + PAD, frame.y + PAD + TITLE, measure=False)
            elif isinstance(each, int):
                self.boxes[each] = frame
        for (source, target), route in zip(self._arrows[path], made.routes, strict=True):
            points = tuple((x + left, y + top) for left, top in route)
            self.arrows.append(PlacedArrow(source=source, target=target, points=points))
        return made.size

    def _size(self, member: Hashable) -> Size:
        if isinstance(member, int):
            return self.sizes[member]
        assert isinstance(member, tuple)
        width, height = self.level(member, 0.0, 0.0, measure=True)
        return max(width, 7.0 * len(member[-1])) + 2 * PAD, height + 2 * PAD + TITLE

    def _common(self, source: int, target: int) -> tuple[tuple[str, ...], tuple[Hashable, Hashable]]:
        """The innermost group around both, and what of it the arrow joins: boxes, or groups."""
        mine, theirs = self.paths[source], self.paths[target]
        depth = 0
        while depth < min(len(mine), len(theirs)) and mine[depth] == theirs[depth]:
            depth += 1
        ends = (
            mine[: depth + 1] if len(mine) > depth else source,
            theirs[: depth + 1] if len(theirs) > depth else target,
        )
        return mine[:depth], ends


class _Layers:
    """One level: boxes in layers. `corners` are those of the boxes, `routes` those of the edges in their order."""

    def __init__(self, sizes: Sequence[Size], edges: Sequence[_Edge]) -> None:
        self.sizes = sizes
        self._count = len(sizes)
        down = _without_cycles(self._count, edges)
        self._layer = _layers(self._count, down)
        self._widths = [width for width, _ in sizes]
        self._chains = [self._chain(source, target) for source, target in down]
        self._rows = self._ordered()
        self._centres = self._placed()
        self._arrange(edges, down)

    def _chain(self, source: int, target: int) -> list[int]:
        """The edge as steps of one layer, through new narrow boxes."""
        chain = [source]
        for layer in range(self._layer[source] + 1, self._layer[target]):
            chain.append(len(self._widths))
            self._widths.append(LANE)
            self._layer.append(layer)
        return [*chain, target]

    def _ordered(self) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in range(max(self._layer, default=-1) + 1)]
        for box, layer in enumerate(self._layer):
            rows[layer].append(box)
        self._above: dict[int, list[int]] = defaultdict(list)
        self._below: dict[int, list[int]] = defaultdict(list)
        for chain in self._chains:
            for upper, lower in pairwise(chain):
                self._above[lower].append(upper)
                self._below[upper].append(lower)
        best, least = [row[:] for row in rows], self._crossings(rows)
        for sweep in range(SWEEPS):
            if not least:
                break
            downward = sweep % 2 == 0
            for row in rows[1:] if downward else rows[-2::-1]:
                self._sort(row, rows, self._above if downward else self._below)
            crossings = self._crossings(rows)
            if crossings < least:
                best, least = [row[:] for row in rows], crossings
        return best

    def _sort(self, row: list[int], rows: list[list[int]], beside: Mapping[int, list[int]]) -> None:
        where = {box: at for each in rows for at, box in enumerate(each)}
        own = {box: at for at, box in enumerate(row)}

        def barycentre(box: int) -> float:
            found = [where[other] for other in beside.get(box, ())]
            return sum(found) / len(found) if found else own[box]

        row.sort(key=lambda box: (barycentre(box), own[box]))

    def _crossings(self, rows: list[list[int]]) -> int:
        """How many pairs of edges between neighbouring layers cross: inversions, counted while merging."""
        where = {box: at for row in rows for at, box in enumerate(row)}
        total = 0
        for row in rows[1:]:
            pairs = sorted((where[upper], where[box]) for box in row for upper in self._above.get(box, ()))
            total += _inversions([lower for _, lower in pairs])
        return total

    def _placed(self) -> dict[int, float]:
        """The middle of each box, from the left."""
        centres: dict[int, float] = {}
        for row in self._rows:
            x = 0.0
            for box in row:
                centres[box] = x + self._widths[box] / 2
                x += self._widths[box] + GAP_X
        for turn in range(PASSES):
            downward = turn % 2 == 0
            beside = self._above if downward else self._below
            for row in self._rows if downward else self._rows[::-1]:
                wanted = [self._wanted(box, beside.get(box), centres) for box in row]
                least = [(self._widths[a] + self._widths[b]) / 2 + GAP_X for a, b in pairwise(row)]
                centres.update(zip(row, _kept_apart(wanted, least), strict=True))
        left = min((centres[box] - self._widths[box] / 2 for box in centres), default=0.0)
        return {box: x - left for box, x in centres.items()}

    def _wanted(self, box: int, beside: list[int] | None, centres: Mapping[int, float]) -> float:
        return sum(centres[each] for each in beside) / len(beside) if beside else centres[box]

    def _arrange(self, edges: Sequence[_Edge], down: Sequence[_Edge]) -> None:
        heights = [
            max((self.sizes[box][1] for box in row if box < self._count), default=0.0) for row in self._rows
        ]
        tops = [sum(heights[:at]) + GAP_Y * at for at in range(len(heights))]
        middles = [top + height / 2 for top, height in zip(tops, heights, strict=True)]
        self.corners = [
            (self._centres[box] - width / 2, middles[self._layer[box]] - height / 2)
            for box, (width, height) in enumerate(self.sizes)
        ]
        right = max((self._centres[box] + self._widths[box] / 2 for box in self._centres), default=0.0)
        self.size = (right, sum(heights) + GAP_Y * max(len(heights) - 1, 0))
        self.routes = []
        for edge, turned, chain in zip(edges, down, self._chains, strict=True):
            points: list[tuple[float, float]] = []
            for box in chain:
                top, height = tops[self._layer[box]], heights[self._layer[box]]
                x = self._centres[box]
                if box >= self._count:
                    points += [(x, top), (x, top + height)]
                elif box == chain[0]:
                    points += [(x, self.corners[box][1] + self.sizes[box][1]), (x, top + height)]
                else:
                    points += [(x, top), (x, self.corners[box][1])]
            steps = [*dict.fromkeys(points)]
            self.routes.append(steps if edge == turned else steps[::-1])


def _without_cycles(count: int, edges: Sequence[_Edge]) -> list[_Edge]:
    """The edges, those that close a cycle turned around. Depth first in the order of the boxes, without recursion."""
    below: dict[int, list[int]] = defaultdict(list)
    for source, target in edges:
        below[source].append(target)
    done, open_, back = set[int](), set[int](), set[_Edge]()
    for start in range(count):
        stack = [(start, iter(below[start]))] if start not in done else []
        open_.update([start] if stack else [])
        while stack:
            box, rest = stack[-1]
            for child in rest:
                if child in open_:
                    back.add((box, child))
                elif child not in done:
                    open_.add(child)
                    stack.append((child, iter(below[child])))
                    break
            else:
                open_.discard(box)
                done.add(box)
                stack.pop()
    return [(target, source) if (source, target) in back else (source, target) for source, target in edges]


def _layers(count: int, edges: Sequence[_Edge]) -> list[int]:
    """The length of the longest path to each box; a box without inputs stands just above what uses it."""
    above, below = [0] * count, defaultdict[int, list[int]](list)
    for source, target in edges:
        above[target] += 1
        below[source].append(target)
    first = [box for box in range(count) if not above[box]]
    layer, left, todo = [0] * count, above[:], first[:]
    for box in todo:
        for child in below[box]:
            layer[child] = max(layer[child], layer[box] + 1)
            left[child] -= 1
            if not left[child]:
                todo.append(child)
    for box in first:
        if below[box]:
            layer[box] = min(layer[child] for child in below[box]) - 1
    return layer


def _inversions(numbers: list[int]) -> int:
    """Pairs that are out of order."""
    if len(numbers) < 2:
        return 0
    middle = len(numbers) // 2
    left, right = numbers[:middle], numbers[middle:]
    total = _inversions(left) + _inversions(right)
    left.sort()
    right.sort()
    at = 0
    for number in right:
        while at < len(left) and left[at] <= number:
            at += 1
        total += len(left) - at
    return total


def _kept_apart(wanted: Sequence[float], least: Sequence[float]) -> list[float]:
    """The positions nearest to `wanted`, in this order and at least so far apart: least squares, by pooling neighbours."""
    offsets = [0.0]
    for gap in least:
        offsets.append(offsets[-1] + gap)
    pools: list[list[float]] = []  # of each its sum, and how many it has
    for value, offset in zip(wanted, offsets, strict=False):
        pools.append([value - offset, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] >= pools[-1][0] / pools[-1][1]:
            last = pools.pop()
            pools[-1] = [pools[-1][0] + last[0], pools[-1][1] + last[1]]
    means = [total / number for total, number in pools for _ in range(int(number))]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]
