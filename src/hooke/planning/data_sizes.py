"""The size of data: what calls read in past runs, and what they will read."""

from __future__ import annotations

import math
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hooke.base.errors import UsageError
from hooke.base.formats import format_bytes
from hooke.base.observed import absolute_path
from hooke.base.ref import Ref
from hooke.pipeline.arguments import promises_in
from hooke.pipeline.graph import Graph, Node
from hooke.pipeline.node_keys import FIRST, GraphKeys, data_of
from hooke.scaling.call_times import APART, FEWEST_SIZES, NORMAL, SizeLaw, distinct_sizes
from hooke.scaling.law import FARTHEST

__all__ = ["DataSizes", "DataUse", "PastData", "bytes_above", "call_bytes", "result_bytes"]


SMALL = 1024
"""Up to this many bytes, an argument, a file or a result is a parameter and no data."""
GRID = 0.02
"""Sizes are rounded to this share, so that runs on the same data have equal ones."""
SIZE_SPREAD = 0.03
"""The standard deviation of ln bytes of a result among equally large inputs."""
SLOPE_ERROR = 0.5
"""The prior standard deviation of d ln bytes of a result / d ln bytes that its call read,"""
BYTES_BEND = 0.025
"""and the error beyond the measured sizes, as BEND is for seconds."""
PEAK_SPREAD = 0.1
"""The standard deviation of ln peak memory among calls of one size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUse:
    """The data of a node in a past run, in bytes of a call or of an item of a map.

    `own` are the files and arguments that it read, `above` the results of other tasks, `out` its own result. `files` is name
    -> size of the files that it opened undeclared. `inputs` and `shown` are as in NodePlanned, `peak` is the most memory of a
    call, 0 if unknown.
    """

    task: str
    kind: str
    code: Mapping[str, str]
    inputs: Mapping[str, str]
    shown: Mapping[str, str]
    items: int
    own: float
    above: float
    out: float
    files: Mapping[str, int] = field(default_factory=dict)
    peak: int = 0

    @property
    def size(self) -> float:
        """The size of a call; 0 if it reads no data."""
        return call_bytes(self.own, self.above)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastData:
    """What past runs read, the newest first, and the project's folder. A plan is for `scale` times the data, None as they are."""

    uses: Sequence[DataUse] = ()
    root: Path = Path()
    scale: float | None = None


def call_bytes(own: float, above: float) -> float:
    """The size of a call that reads so many bytes: on a grid, and SMALL at least; 0 if it reads none."""
    if own + above <= 0:
        return 0.0
    return math.exp(round(math.log(max(own + above, SMALL)) / GRID) * GRID)


def bytes_above(
    kind: str, items: int | None, parents: Iterable[tuple[str, int | None, float, bool]]
) -> float:
    """Bytes of results that a call or item reads, from (kind, items, bytes of an item's result, is the list) of its parents.

    Items of a map share the list that they are made of, and maps in step with it.
    """
    total = 0.0
    for above, count, out, is_list in parents:
        whole = out * (count or 0) if above == "map" else out
        shared = kind == "map" and (is_list or (above == "map" and count == items))
        total += whole / max(items or 1, 1) if shared else whole
    return total


def result_bytes(ref: Ref) -> float:
    """Bytes of a stored result and of the files in it."""
    return ref.size + sum(file.size for file in ref.files)


@dataclass(frozen=True, slots=True)
class _Flow:
    """The data of a node: bytes of a call (`own`, `above`, `out`), its items, and the error of ln bytes of its result."""

    own: float
    above: float
    out: float
    items: int | None
    out_error: float = 0.0

    @property
    def whole(self) -> float:
        return (self.own + self.above) * (self.items or 0)


class DataSizes:
    """The items and bytes of each node, by its number: of the data as they are, or `scale` times them.

    Calls read `scale` times the bytes of their files and arguments. Results, and the items of maps over data, grow with what
    the calls read as they did between past runs, else in proportion. `kept` are bytes of stored results. `names` are the
    arguments that are data. Raises UsageError if no call reads data.
    """

    def __init__(
        self,
        graph: Graph,
        keys: GraphKeys,
        items: Sequence[int | None],
        factors: Sequence[float],
        *,
        past: PastData,
        kept: Mapping[int, float],
    ) -> None:
        self._graph, self._keys, self._scale = graph, keys, past.scale
        self._past, self._kept = _Uses(past), kept
        self._now: list[_Flow] = []
        self._then: list[_Flow] = []
        self.factors = list(factors)
        self.names: list[frozenset[str]] = []
        self._growths = [1.0] * len(graph.nodes)
        self.items_error = [0.0] * len(graph.nodes)
        self.bytes: list[float] = []
        self.bytes_error = [0.0] * len(graph.nodes)
        self._said: dict[str, None] = {}
        for node in graph.nodes:
            self._add(node, items[node.id])
        self.items = [each.items for each in self._then]
        if self._scale is not None:
            self._check()

    def _add(self, node: Node, items: int | None) -> None:
        own, names = self._past.own(node, self._keys.inputs(node.id), items)
        self.names.append(names)
        if items is None and self._scale is not None:
            items = self._past_items(node, own)
        above = bytes_above(node.kind, items, self._parents(node, self._now))
        out = self._kept.get(node.id) or self._past.out(node, own + above)
        now = _Flow(own, above, out, items)
        then = self._scaled(node, now) if self._scale is not None else self._multiplied(node, now)
        self._now.append(now)
        self._then.append(then)
        self.bytes.append(call_bytes(then.own, then.above))

    def _past_items(self, node: Node, own: float) -> int | None:
        """The items of a map whose list does not exist yet, from those that it had on the data of past runs."""
        step = next((use.node for use in node.uses if use.elementwise), None)
        if step is not None:
            return self._now[step].items
        use = next((use for use in self._past.of(node) if use.kind == "map"), None)
        above = 0.0 if use is None else bytes_above("map", use.items, self._parents(node, self._now))
        law = self._past.law_of_items(node, is_list=above >= own)
        if use is None or law is None or not own + above or not use.own + use.above:
            return None if use is None else use.items
        return max(
            round(use.items * law.ratio(use.items * (use.own + use.above), use.items * (own + above))), 1
        )

    def _parents(self, node: Node, flows: Sequence[_Flow]) -> list[tuple[str, int | None, float, bool]]:
        listed = {each.node for each in promises_in(node.iterables)} if node.is_dynamic else set[int]()
        return [
            (self._graph.nodes[at].kind, flows[at].items, flows[at].out, at in listed)
            for at in self._graph.parents(node.id)
        ]

    def _multiplied(self, node: Node, now: _Flow) -> _Flow:
        """With other numbers of items, as `--times` asks."""
        items = self._times(node, now.items)
        above = bytes_above(node.kind, items, self._parents(node, self._then))
        return _Flow(now.own, above, now.out, items)

    def _scaled(self, node: Node, now: _Flow) -> _Flow:
        """On `scale` times the data."""
        assert self._scale is not None
        error = max((self._then[at].out_error for at in self._graph.parents(node.id)), default=0.0)
        growth = 1.0
        if node.kind == "map":
            growth, error = self._growth(node, now, error)
        self._growths[node.id] = growth
        self.factors[node.id] *= growth
        items = self._times(node, now.items)
        own = now.own * self._scale / growth
        above = bytes_above(node.kind, items, self._parents(node, self._then))
        law = self._past.law_of_result(node)
        before, after = now.own + now.above, own + above
        self.bytes_error[node.id] = error if above > SMALL else 0.0
        if not before or not after or abs(math.log(after / before)) < GRID:
            return _Flow(own, above, now.out, items, error)
        if law.is_assumed and now.out > SMALL and self._graph.children(node.id):
            self._say(f"assumed: results of {node.task.name} grow in proportion to what it reads")
        out = now.out * law.ratio(before, after)
        return _Flow(own, above, out, items, math.hypot(error, law.error(before, after)))

    def _times(self, node: Node, items: int | None) -> int | None:
        """The items of a node: with its growth to the nearest number, and times the factor that was asked for."""
        if not items:
            return items
        growth = self._growths[node.id]
        return math.ceil(max(round(items * growth), 1) * self.factors[node.id] / growth - 1e-9)

    def _growth(self, node: Node, now: _Flow, error: float) -> tuple[float, float]:
        """How many times as many items a map has, and the error of ln bytes of an item, from that of all its data."""
        step = next((use.node for use in node.uses if use.elementwise), None)
        if step is not None:
            self.items_error[node.id] = self.items_error[step]
            return self._growths[step], error
        is_list = node.is_dynamic and now.above >= now.own
        law, task, items = self._past.law_of_items(node, is_list=is_list), node.task.name, now.items or 0
        if law is None or not now.whole:
            if items and not self._past.is_over_data(node):
                self._say(
                    f"assumed: {task} keeps its {items} items, which come from parameters and not from data; "
                    f"--times {task}={self._scale:g} plans for more of them"
                )
            return 1.0, error
        assert self._scale is not None
        above = bytes_above(node.kind, items, self._parents(node, self._then))
        after = items * (now.own * self._scale + above)
        growth = law.ratio(now.whole, after)
        if law.is_assumed:
            kept = (
                f"keeps its {items} items, each larger"
                if growth == 1
                else f"has {growth:.3g} times the items"
            )
            self._say(f"assumed: {task} {kept}; no past run with another size of data tells")
        slope = math.log(growth) / math.log(after / now.whole) if after != now.whole else 1.0
        own = 0.0 if law.is_assumed else law.error(now.whole, after)
        self.items_error[node.id] = math.hypot(own, slope * error)
        return growth, abs(1 - slope) * error

    def _say(self, note: str) -> None:
        self._said[note] = None

    @property
    def is_scaled(self) -> bool:
        """Whether it is of other data than there are."""
        return self._scale is not None

    @property
    def notes(self) -> list[str]:
        """What scaled data mean for each task that reads files or arguments, and what was assumed."""
        if self._scale is None:
            return []
        found: dict[str, list[float]] = {}
        for node, now, then in zip(self._graph.nodes, self._now, self._then, strict=True):
            if now.own >= SMALL:
                both = found.setdefault(node.task.name, [0.0, 0.0])
                both[0] += now.own * (now.items or 0)
                both[1] += then.own * (then.items or 0)
        read = ", ".join(
            f"{task} {format_bytes(round(now))} now, {format_bytes(round(then))} in this plan"
            for task, (now, then) in found.items()
        )
        return [f"data read: {read}", *self._said] if read else list(self._said)

    def _check(self) -> None:
        """Refuse a scale that scales nothing."""
        known = all(self._past.of(node) for node in self._graph.nodes)
        if known and not any(now.own >= SMALL for now in self._now):
            raise UsageError(
                f"scale: no call of {self._graph.pipeline} reads data, so nothing can be {self._scale:g} times as large",
                why=f"data are files, arrays and tables of {format_bytes(SMALL)} and more that tasks open or get as arguments",
                fix="pass the pipeline's parameters for more work, or use times (--times TASK=N) for more items of a map",
            )

    def runs_to_make(self) -> str:
        """The sizes of the data, as multiples of what they are now, whose runs would tell of `scale` times the data."""
        leaf = max(
            self._graph.nodes, key=lambda node: self._now[node.id].whole * (self._now[node.id].own >= SMALL)
        )
        now, sizes = self._now[leaf.id].own, [use.own for use in self._past.of(leaf) if use.own >= SMALL]
        if self._scale is None or not now or not sizes:
            return ""
        farthest = self._scale / FARTHEST
        if distinct_sizes(sizes) < FEWEST_SIZES and farthest <= 1:
            return "run it on a quarter and on half of the data"
        if distinct_sizes(sizes) < FEWEST_SIZES:
            most = max(FARTHEST, farthest)
            return f"run it on {math.sqrt(most):.2g} and on {most:.2g} times the data"
        if max(sizes) < farthest * now / APART:
            return f"run it on {farthest:.2g} times the data"
        return "run it again on the sizes measured, which narrows the interval"

    def peak(self, task: str) -> tuple[float, float, float] | None:
        """(low, value, high) of the most memory of a call of the task, in bytes; None if no past run tells."""
        uses = [each for each in self._past.uses if each.task == task and each.peak and each.size]
        size = max((self.bytes[node.id] for node in self._graph.nodes if node.task.name == task), default=0.0)
        if not uses or not size:
            return None
        law = SizeLaw([each.size for each in uses], [float(each.peak) for each in uses], spread=PEAK_SPREAD)
        factor = math.exp(NORMAL * math.hypot(law.error(size), PEAK_SPREAD))
        value = law.value(size)
        return value / factor, value, value * factor


@dataclass(frozen=True, slots=True)
class _Growth:
    """A law of bytes or items over bytes read; `is_assumed` if past runs had one size only."""

    law: SizeLaw
    is_assumed: bool

    def ratio(self, before: float, after: float) -> float:
        ratio = self.law.value(after) / self.law.value(before)
        return 1.0 if abs(ratio - 1) < 1e-6 else ratio

    def error(self, before: float, after: float) -> float:
        """The standard deviation of ln ratio."""
        return self.law.error(after) if after != before else 0.0


class _Uses:
    """Past uses of data by task."""

    def __init__(self, past: PastData) -> None:
        self.uses = past.uses
        self._root = past.root
        self._tasks: dict[str, list[DataUse]] = defaultdict(list)
        self._exact: dict[object, DataUse] = {}
        for use in past.uses:
            self._tasks[use.task].append(use)
            self._exact.setdefault((use.task, tuple(sorted(use.inputs.items()))), use)
        self._laws: dict[str, _Growth] = {}

    def of(self, node: Node) -> list[DataUse]:
        """The uses of the node's task, the newest first."""
        return self._tasks.get(node.task.name, [])

    def own(self, node: Node, inputs: Mapping[str, str], items: int | None) -> tuple[float, frozenset[str]]:
        """Bytes of files and arguments that a call of the node reads as they are now, and the arguments that are data."""
        uses = self.of(node)
        data = {name: size for name, size in {**data_of(node), **_paths(node)}.items() if size >= SMALL}
        counted = any(use.own >= SMALL for use in uses)
        names = frozenset(data).union(*(_given(use) for use in uses[:1])) if counted else frozenset[str]()
        exact = self._exact.get((node.task.name, tuple(sorted(inputs.items()))))
        if exact is not None:
            return exact.own + self._changed(exact), names
        if not counted or not data:
            return (uses[0].own if uses else 0.0), names
        columns = set(node.columns)
        whole = sum(size / max(items or 1, 1) if name in columns else size for name, size in data.items())
        return whole + self._beside(node, uses[0]), names

    def out(self, node: Node, read: float) -> float:
        """Bytes of a result of a call that reads so much."""
        uses = [use for use in self.of(node) if use.out]
        if not uses:
            return 0.0
        if read <= 0 or not uses[0].size:
            return uses[0].out
        return uses[0].out * self.law_of_result(node).ratio(uses[0].size, call_bytes(read, 0.0))

    def law_of_result(self, node: Node) -> _Growth:
        """How the bytes of a result follow those that the call reads."""
        task = node.task.name
        if task not in self._laws:
            uses = [use for use in self.of(node) if use.out and use.size]
            small = all(use.out <= SMALL for use in uses)
            self._laws[task] = _law_of(
                [(use.size, use.out) for use in uses],
                slope=0.0 if small else 1.0,
                slope_error=SLOPE_ERROR / 5 if small else SLOPE_ERROR,
            )
        return self._laws[task]

    @staticmethod
    def is_over_data(node: Node) -> bool:
        """Whether a map's items are results of other tasks, or files, arrays or tables."""
        return node.is_dynamic or not {**data_of(node), **_paths(node)}.keys().isdisjoint(node.columns)

    def law_of_items(self, node: Node, *, is_list: bool) -> _Growth | None:
        """How a map's items follow the bytes that they read together; None if its items are parameters."""
        uses = [use for use in self.of(node) if use.kind == "map" and use.items and use.size]
        if not uses or not self.is_over_data(node):
            return None
        pairs = [(use.items * (use.own + use.above), float(use.items)) for use in uses]
        return _law_of(pairs, slope=1.0 if is_list else 0.0, slope_error=SLOPE_ERROR)

    def _changed(self, use: DataUse) -> float:
        """By how many bytes a call's files are larger now than then."""
        before = sum(use.files.values())
        now = sum(_size_of(absolute_path(name, self._root)) or size for name, size in use.files.items())
        # Files of items are counted once, whatever the number of items that read them.
        return min(use.own, before) * (now / before - 1) if before else 0.0

    def _beside(self, node: Node, use: DataUse) -> float:
        """Bytes of the files that a call opens besides those that it was given."""
        if node.kind == "map":
            return 0.0
        given = set(_given(use).values())
        return sum(size for name, size in use.files.items() if os.path.basename(name) not in given)


def _given(use: DataUse) -> dict[str, str]:
    """Argument -> name, without its folder, of the file that a call was given by its path and opened."""
    found: dict[str, str] = {}
    for name, text in use.shown.items():
        # A long path is shown without its middle: 'data/2026/m...2026-11.csv'.
        ended = "..." in text
        shown = os.path.basename(text.rpartition("...")[2].rstrip("')").rpartition("'")[2])
        for file in map(os.path.basename, use.files):
            if shown and (file.endswith(shown) if ended else file == shown):
                found[name] = file
    return found


def _law_of(pairs: Sequence[tuple[float, float]], *, slope: float, slope_error: float) -> _Growth:
    sizes, values = [size for size, _ in pairs] or [1.0], [value for _, value in pairs] or [1.0]
    law = SizeLaw(sizes, values, spread=SIZE_SPREAD, slope=slope, slope_error=slope_error, bend=BYTES_BEND)
    return _Growth(law, is_assumed=max(sizes) < APART * min(sizes))


def _paths(node: Node) -> dict[str, int]:
    """Parameter -> bytes, for arguments that are the path of a file, and for lists of them that a map is over."""
    found = {name: _path_bytes(value) for name, value in node.arguments.items()}
    for name, values in zip(node.columns, node.iterables, strict=True):
        if isinstance(values, (list, tuple)) and any(map(_path_bytes, values[:FIRST])):
            found[name] = sum(map(_path_bytes, values))
    return {name: size for name, size in found.items() if size}


def _path_bytes(value: object) -> int:
    return _size_of(value) if isinstance(value, (str, Path)) else 0


def _size_of(path: str | Path) -> int:
    """The size of a file; 0 if there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return 0
    return facts.st_size if stat.S_ISREG(facts.st_mode) else 0
