"""Compares the results of two runs: bitwise equal, within a tolerance, or different, and where most."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import msgspec
import numpy as np

from hooke.base.errors import CorruptObject, MissingObject, NotFingerprintable, UsageError
from hooke.base.formats import short_repr
from hooke.base.intervals import OneSegment, SegmentMap
from hooke.base.ref import Ref
from hooke.journal.run_view import RunView
from hooke.journal.task_view import NodeView
from hooke.keys.file import File, files_loaded, paths_keyed
from hooke.keys.fingerprint import fingerprint_value
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.references import unpack
from hooke.store.store import Store

__all__ = [
    "CLOSE",
    "DIFFERENT",
    "EQUAL",
    "MISSING",
    "Closeness",
    "LoadedResult",
    "Pair",
    "ReproducedRun",
    "ResultVerdict",
    "Tolerance",
    "begins",
    "compare_outputs",
    "compare_results",
    "compare_tasks",
    "compare_values",
    "pairs",
    "verdict",
]


EQUAL = "equal"
CLOSE = "close"
DIFFERENT = "different"
_DEEPEST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """A number is close to `was` if it differs by at most `atol + rtol * |was|`, as in NumPy."""

    rtol: float = 0.0
    atol: float = 0.0

    @property
    def none(self) -> bool:
        """Whether the tolerance is zero; then 0.0 and -0.0 differ, too."""
        return not self.rtol and not self.atol

    def allows(self, was: float, now: float) -> bool:
        """Whether `now` is close to `was`. NaN is close to NaN, and an infinity only to itself."""
        if math.isnan(was) or math.isnan(now):
            return math.isnan(was) and math.isnan(now)
        if math.isinf(was) or math.isinf(now):
            return was == now
        return abs(now - was) <= self.atol + self.rtol * abs(was)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """`equal` (bitwise), `close` (within the tolerance) or `different`.

    `where` is the path to the part that differs most, or first, such as `['auc']` or `.trees[3]`; `was` and `now` are its values
    as short text; `distance` is the difference of two numbers, None for other parts.
    """

    kind: str
    where: str = ""
    was: str = ""
    now: str = ""
    distance: float | None = None

    def __str__(self) -> str:
        if self.kind == EQUAL:
            return EQUAL
        apart = f" ({self.distance:.3g} apart)" if self.distance is not None else ""
        return f"{self.where or 'it'} was {self.was}, is {self.now}{apart}"


@dataclass(frozen=True, slots=True)
class _Gap:
    """Two parts that differ. `allowed` says whether the tolerance covers the difference."""

    where: str
    was: Any
    now: Any
    distance: float | None
    allowed: bool


@dataclass(frozen=True, slots=True)
class LoadedResult:
    """A value, and the files in it as they were stored: these count by the content that they had then."""

    value: Any
    files: Sequence[File] = ()

    @staticmethod
    def of(store: Store, ref: Ref, root: Path) -> LoadedResult:
        """A stored result. Its files of the project, wherever that was, have paths below `root`. Raises what Store.get raises."""
        with files_loaded(root) as files:
            value = store.get(ref)
        return LoadedResult(value, files)

    def part(self, at: Any) -> LoadedResult:
        """The part of the value with this index or key."""
        return LoadedResult(self.value[at], self.files)

    def key(self) -> str:
        """Equal for equal values. Raises NotFingerprintable, UsageError for a file that was not stored and cannot be read."""
        if not self.files:
            return fingerprint_value(self.value)
        with paths_keyed(self.files):
            return fingerprint_value(self.value)

    def contents(self) -> dict[str, str]:
        """Path -> key of its content, for each of the files."""
        return {str(file.path): file.key for file in self.files if file.key is not None}


def compare_values(was: Any, now: Any, tolerance: Tolerance | None = None) -> Closeness:
    """Compare two values. Arrays, frames and tensors are compared by element, other objects by their pickled state.

    Types count: 1 is not 1.0. Never raises: values that cannot be inspected are different.
    """
    return compare_results(LoadedResult(was), LoadedResult(now), tolerance)


def compare_results(was: LoadedResult, now: LoadedResult, tolerance: Tolerance | None = None) -> Closeness:
    """Compare two values as `compare_values` does, and the files in them by the content that was stored, not that on the disk."""
    if _same_key(was, now):
        return Closeness(kind=EQUAL)
    walk = _Walk(tolerance or Tolerance(), was.contents(), now.contents())
    return _closeness(was.value, now.value, list(walk.gaps(was.value, now.value, "", 0)))


def _closeness(was: Any, now: Any, gaps: list[_Gap]) -> Closeness:
    if not gaps:  # their fingerprints differ, but no part that could be named
        return Closeness(kind=DIFFERENT, was=short_repr(was), now=short_repr(now))
    refused = [gap for gap in gaps if not gap.allowed]
    worst = max(refused or gaps, key=lambda gap: math.inf if gap.distance is None else gap.distance)
    return Closeness(
        kind=DIFFERENT if refused else CLOSE,
        where=worst.where,
        was=short_repr(worst.was),
        now=short_repr(worst.now),
        distance=worst.distance,
    )


def _same_key(was: LoadedResult, now: LoadedResult) -> bool:
    try:
        return was.key() == now.key()
    except (NotFingerprintable, UsageError):
        return False


class _Walk:
    """One comparison, which walks through both values side by side, with the contents of the files in them."""

    def __init__(
        self, tolerance: Tolerance, contents_was: Mapping[str, str], contents_now: Mapping[str, str]
    ) -> None:
        self._tolerance = tolerance
        self._contents_was = contents_was
        self._contents_now = contents_now
        self._seen: set[tuple[int, int]] = set()
        self._alive: list[Any] = []

    def gaps(self, was: Any, now: Any, where: str, depth: int) -> Iterator[_Gap]:
        if was is now:
            return
        if type(was) is not type(now) or depth > _DEEPEST:
            yield _Gap(where, was, now, None, allowed=False)
        elif isinstance(was, bool | str | bytes | type(None)):
            if was != now:
                yield _Gap(where, was, now, None, allowed=False)
        elif isinstance(was, numbers.Number):
            yield from self._numbers(was, now, where)
        elif isinstance(was, File | PurePath):
            yield from self._paths(was, now, where)
        elif (id(was), id(now)) not in self._seen:
            self._seen.add((id(was), id(now)))
            self._alive += [was, now]  # keeps the ids from being reused
            yield from self._parts(was, now, where, depth + 1)

    def _paths(self, was: File | PurePath, now: File | PurePath, where: str) -> Iterator[_Gap]:
        """A file by its content alone, as in keys; a path by its text, and by the content if it is a result's."""
        before, after = _FileThen.of(was, self._contents_was), _FileThen.of(now, self._contents_now)
        by_content = isinstance(was, File) and "" not in (before.content, after.content)
        if before.content != after.content or (before.path != after.path and not by_content):
            yield _Gap(where, before, after, None, allowed=False)

    def _numbers(self, was: Any, now: Any, where: str) -> Iterator[_Gap]:
        if was == now and math.copysign(1, _real(was)) == math.copysign(1, _real(now)):
            return
        if isinstance(was, complex):
            parts = [(was.real, now.real), (was.imag, now.imag)]
        else:
            parts = [(float(was), float(now))]
        if all(math.isnan(a) and math.isnan(b) for a, b in parts):
            return
        allowed = not self._tolerance.none and all(self._tolerance.allows(a, b) for a, b in parts)
        distance = max(abs(b - a) for a, b in parts)
        yield _Gap(where, was, now, None if math.isnan(distance) else distance, allowed)

    def _parts(self, was: Any, now: Any, where: str, depth: int) -> Iterator[_Gap]:
        if isinstance(was, np.ndarray):
            yield from self._arrays(was, now, where, depth)
        elif (columns := _columns(was)) is not None and (others := _columns(now)) is not None:
            yield from self._mappings(columns, others, where, depth)
        elif (array := _array(was)) is not None and (other := _array(now)) is not None:
            yield from self._arrays(array, other, where, depth)
        elif isinstance(was, Mapping):
            yield from self._mappings(was, now, where, depth)
        elif issubclass(type(was), (list, tuple)):
            yield from self._lists(was, now, where, depth)
        elif issubclass(type(was), (set, frozenset)):
            if was != now:
                yield _Gap(where, was, now, None, allowed=False)
        else:
            yield from self._objects(was, now, where, depth)

    def _mappings(
        self, was: Mapping[Any, Any], now: Mapping[Any, Any], where: str, depth: int
    ) -> Iterator[_Gap]:
        for key in was:
            place = f"{where}[{key!r}]"
            if key in now:
                yield from self.gaps(was[key], now[key], place, depth)
            else:
                yield _Gap(place, was[key], _ABSENT, None, allowed=False)
        for key in now:
            if key not in was:
                yield _Gap(f"{where}[{key!r}]", _ABSENT, now[key], None, allowed=False)

    def _lists(self, was: Any, now: Any, where: str, depth: int) -> Iterator[_Gap]:
        if len(was) != len(now):
            yield _Gap(f"{where} (length)", len(was), len(now), None, allowed=False)
            return
        for at, (before, after) in enumerate(zip(was, now, strict=True)):
            yield from self.gaps(before, after, f"{where}[{at}]", depth)

    def _arrays(self, was: Any, now: Any, where: str, depth: int) -> Iterator[_Gap]:
        if (was.dtype, was.shape) != (now.dtype, now.shape):
            yield _Gap(
                f"{where} (type)", f"{was.dtype}{was.shape}", f"{now.dtype}{now.shape}", None, allowed=False
            )
        elif was.dtype.kind in "fiuc":
            yield from self._numeric(was, now, where)
        elif was.dtype.kind == "O":
            yield from self._lists(was.ravel().tolist(), now.ravel().tolist(), where, depth)
        elif was.dtype.names:
            for name in was.dtype.names:
                yield from self._arrays(was[name], now[name], f"{where}[{name!r}]", depth)
        elif was.tobytes() != now.tobytes():
            at = tuple(int(each) for each in np.argwhere(was != now)[0]) if was.shape else ()
            yield _Gap(f"{where}{list(at)}", was[at], now[at], None, allowed=False)

    def _numeric(self, was: Any, now: Any, where: str) -> Iterator[_Gap]:
        """The worst gap among the elements that the tolerance does not cover; if it covers all, the worst of all."""
        same = _same_numbers(was, now) | ((was != was) & (now != now))  # noqa: PLR0124 - NaN alone is not itself
        if bool(np.all(same)):
            return
        wide = np.complex128 if was.dtype.kind == "c" else np.longdouble
        with np.errstate(all="ignore"):
            apart = np.abs(now.astype(wide) - was.astype(wide))
            allowed = same | (not self._tolerance.none) & (
                apart <= self._tolerance.atol + self._tolerance.rtol * np.abs(was.astype(wide))
            )
            allowed &= same | (np.isfinite(was.astype(wide)) & np.isfinite(now.astype(wide)))
        apart = np.where(same, -1.0, np.where(np.isnan(apart), np.inf, apart))
        ranked = np.where(allowed, -1.0, apart) if not bool(np.all(allowed)) else apart
        at = np.unravel_index(int(np.argmax(ranked)), was.shape)
        place = "".join(f"[{int(each)}]" for each in at)
        distance = float(apart[at])
        yield _Gap(f"{where}{place}", was[at].item(), now[at].item(), distance, bool(allowed[at]))

    def _objects(self, was: Any, now: Any, where: str, depth: int) -> Iterator[_Gap]:
        before, after = _state(was), _state(now)
        if before is None or after is None:
            yield _Gap(where, was, now, None, allowed=False)
            return
        for name in dict.fromkeys((*before, *after)):
            yield from self.gaps(before.get(name, _ABSENT), after.get(name, _ABSENT), f"{where}{name}", depth)


@dataclass(frozen=True, slots=True)
class _FileThen:
    """A path, and the key of the content that its file had; empty if nobody knows."""

    path: str
    content: str

    @staticmethod
    def of(value: File | PurePath, contents: Mapping[str, str]) -> _FileThen:
        path = os.fspath(value)
        own = value.key if isinstance(value, File) else None
        return _FileThen(path, contents.get(path) or own or "")

    def __repr__(self) -> str:
        return f"{self.path} with content {self.content[:12]}" if self.content else self.path


class _Absent:
    def __repr__(self) -> str:
        return "(missing)"


_ABSENT = _Absent()


def _same_numbers(was: Any, now: Any) -> Any:
    """Which elements are equal. 0.0 and -0.0 are not."""
    if was.dtype.kind == "c":
        return _same_numbers(was.real, now.real) & _same_numbers(was.imag, now.imag)
    return (was == now) & (np.signbit(was) == np.signbit(now)) if was.dtype.kind == "f" else was == now


def _real(number: Any) -> float:
    return float(number.real)


def _columns(value: Any) -> dict[Any, Any] | None:
    """A frame's columns by name; None for other values."""
    library = type(value).__module__.partition(".")[0]
    if library == "polars" and hasattr(value, "get_columns"):
        return {column.name: column for column in value.get_columns()}
    if library == "pandas" and hasattr(value, "columns"):
        return {name: value[name] for name in value.columns} | {"(index)": value.index}
    if library == "pyarrow" and hasattr(value, "column_names"):
        return {name: value.column(name) for name in value.column_names}
    return None


def _array(value: Any) -> Any:
    """A library's column, tensor or scalar as a NumPy array; None for other values."""
    library = type(value).__module__.partition(".")[0]
    try:
        if library == "torch" and hasattr(value, "detach"):
            return value.detach().cpu().numpy()
        if library in {"polars", "pandas"} and hasattr(value, "to_numpy"):
            return np.asarray(value.to_numpy())
        if library == "pyarrow" and hasattr(value, "to_numpy"):
            return np.asarray(value.to_numpy(zero_copy_only=False) if hasattr(value, "null_count") else None)
    except Exception:  # noqa: BLE001 - a type that NumPy lacks is compared as an object
        return None
    return None


def _state(value: Any) -> dict[str, Any] | None:
    """An object's pickled state, each part under a name; None if it has none."""
    if dataclasses.is_dataclass(value):
        return {f".{each.name}": getattr(value, each.name, _ABSENT) for each in dataclasses.fields(value)}
    try:
        made = value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - whatever a user's __reduce__ raises
        return None
    if isinstance(made, str):
        return None
    padded: list[Any] = [*made, None, None, None]
    arguments, state, items, pairs = padded[1:5]
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # of slots
        state = {**(state[0] or {}), **state[1]}
    parts = {f".{name}": each for name, each in state.items()} if isinstance(state, dict) else {"": state}
    parts |= {f".args[{at}]": each for at, each in enumerate(arguments) if not isinstance(each, type)}
    parts |= {f"[{at}]": each for at, each in enumerate(items or ())}
    return parts | {f"[{key!r}]": each for key, each in pairs or ()}


# --- Verdicts on tasks and outputs, and where differences begin. Pure.

MISSING = "missing"
"""One run lacks the result: it was evicted, or the task is not in both runs."""


class ResultVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of a task's results, or of an output: the number of items of each kind, and the first that is not equal."""

    name: str
    node: int = 0
    equal: int = 0
    close: int = 0
    different: int = 0
    missing: int = 0
    first: str = ""
    """The first item of the worst kind, and how it differs."""
    begins: bool = False
    """Whether differences begin here: its inputs are all equal."""

    @property
    def kind(self) -> str:
        """The worst kind among the items."""
        if self.different:
            return DIFFERENT
        if self.missing:
            return MISSING
        return CLOSE if self.close else EQUAL

    @property
    def items(self) -> int:
        """The number of all items."""
        return self.equal + self.close + self.different + self.missing


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The graph nodes of one task in two runs; None if a run lacks the node."""

    task: str
    was: int | None
    now: int | None


def verdict(
    name: str, comparisons: Iterable[tuple[str, Closeness]], *, node: int = 0, missing: int = 0
) -> ResultVerdict:
    """The verdict on items, each with its suffix for display (`[3]`; empty for a call's result)."""
    counts = {EQUAL: 0, CLOSE: 0, DIFFERENT: 0}
    first: dict[str, str] = {}
    for item, found in comparisons:
        counts[found.kind] += 1
        if found.kind != EQUAL:
            first.setdefault(found.kind, f"{name}{item}: {found}")
    return ResultVerdict(
        name=name,
        node=node,
        equal=counts[EQUAL],
        close=counts[CLOSE],
        different=counts[DIFFERENT],
        missing=missing,
        first=first.get(DIFFERENT) or first.get(CLOSE, ""),
    )


def pairs(was: Mapping[int, str], now: Mapping[int, str]) -> list[Pair]:
    """Pair the nodes (number -> task) of two graphs: the n-th node of a task with the n-th, in the order of `was`."""
    waiting: dict[str, list[int]] = {}
    for node, task in now.items():
        waiting.setdefault(task, []).append(node)
    found = [
        Pair(task=task, was=node, now=waiting[task].pop(0) if waiting.get(task) else None)
        for node, task in was.items()
    ]
    left = [Pair(task=task, was=None, now=node) for task, nodes in waiting.items() for node in nodes]
    return found + left


def begins(verdicts: Sequence[ResultVerdict], parents: Mapping[int, Sequence[int]]) -> list[ResultVerdict]:
    """The verdicts with `begins` set on those that are not equal although their inputs are bitwise equal."""
    kinds = {each.node: each.kind for each in verdicts}
    return [
        msgspec.structs.replace(
            each,
            begins=each.kind in (CLOSE, DIFFERENT)
            and all(kinds.get(parent, EQUAL) == EQUAL for parent in parents.get(each.node, ())),
        )
        for each in verdicts
    ]


# --- Results of two runs, found by their journals and read from their stores.

MOST_OUTPUTS = 50
"""A dict with more entries is compared as one output."""
_SAME = Closeness(kind=EQUAL)


@dataclass(slots=True)
class ReproducedRun:
    """A run and its store. `keys` are the keys of its graph, if known: they find results that the run did not load.

    `root` is a folder in which the files of both runs' projects are thought to be, so that their paths can be compared.
    """

    view: RunView
    store: Store
    root: Path
    keys: GraphKeys | None = None
    _lists: dict[str, LoadedResult] = field(default_factory=dict)

    def results(self, node: NodeView) -> SegmentMap | OneSegment:
        """Which stored object has which items. Results that the run did not need are looked up."""
        if len(node.results) or self.keys is None:
            return node.results
        found, planned = SegmentMap(), node.planned
        if planned.node >= len(self.keys.nodes) or self.keys[planned.node].key != planned.key:
            return found
        if planned.kind == "call":
            entry = self.store.find(planned.key)
            if entry is not None:
                found.record(0, 1, entry.ref)
        elif (items := self.keys.indexed(planned.node)) is not None:
            for hit in self.store.find_items(self.keys[planned.node].recipe, items):
                found.record(hit.lo, hit.hi, hit.ref, hit.start)
        return found

    def load(self, ref: Ref) -> LoadedResult:
        """A stored result. Raises MissingObject, CorruptObject, and what unpickling raises."""
        return LoadedResult.of(self.store, ref, self.root)

    def items(self, ref: Ref) -> LoadedResult:
        """The list of results in one object; the last one is kept in memory."""
        if ref.digest not in self._lists:
            self._lists = {ref.digest: self.load(ref)}
        return self._lists[ref.digest]


def compare_tasks(was: ReproducedRun, now: ReproducedRun, tolerance: Tolerance) -> list[ResultVerdict]:
    """A verdict for each node, in the order of the graph. Raises what unpickling raises."""
    found = [_compare_node(pair, was, now, tolerance) for pair in pairs(_tasks(was.view), _tasks(now.view))]
    return begins(found, {number: node.planned.parents for number, node in was.view.nodes.items()})


def _tasks(view: RunView) -> dict[int, str]:
    return {number: node.planned.task for number, node in view.nodes.items()}


def _compare_node(pair: Pair, was: ReproducedRun, now: ReproducedRun, tolerance: Tolerance) -> ResultVerdict:
    if pair.was is None or pair.now is None:
        return verdict(pair.task, (), node=-1 if pair.was is None else pair.was, missing=1)
    before, after = was.view.nodes[pair.was], now.view.nodes[pair.now]
    old, new = was.results(before), now.results(after)
    most = max(before.items or 0, after.items or 0, 1 if before.planned.kind == "call" else 0)
    comparisons = list(_comparisons(was, now, _Sides(old, new, before.planned.kind), tolerance))
    return verdict(pair.task, comparisons, node=pair.was, missing=most - len(comparisons))


@dataclass(frozen=True, slots=True)
class _Sides:
    old: SegmentMap | OneSegment
    new: SegmentMap | OneSegment
    kind: str

    def pieces(self) -> Iterator[tuple[int, int, Ref, int, Ref, int]]:
        """Ranges of items that both runs have, each in one object per run."""
        for lo, hi, ref, start in self.old:
            for a, b in self.new.items.within(lo, hi):
                for low, high, other, begin in self.new.cut(a, b):
                    yield low, high, ref, start + low - lo, other, begin


def _comparisons(
    was: ReproducedRun, now: ReproducedRun, sides: _Sides, tolerance: Tolerance
) -> Iterator[tuple[str, Closeness]]:
    for lo, hi, ref, start, other, begin in sides.pieces():
        if (ref.digest, start) == (other.digest, begin):
            yield from (("", _SAME) for _ in range(lo, hi))
            continue
        try:
            if sides.kind == "call":
                yield "", compare_results(was.load(ref), now.load(other), tolerance)
                continue
            before, after = was.items(ref), now.items(other)
        except (MissingObject, CorruptObject):
            continue  # evicted: counted as missing
        for item in range(lo, hi):
            found = compare_results(before.part(start + item - lo), after.part(begin + item - lo), tolerance)
            yield f"[{item}]", found


def compare_outputs(was: ReproducedRun, now: ReproducedRun, tolerance: Tolerance) -> list[ResultVerdict]:
    """A verdict for each entry of the returned dict, or one for the whole return value."""
    try:
        old, new = _output(was), _output(now)
    except (MissingObject, CorruptObject):
        # The digests of evicted values are still known.
        if was.view.output is not None and was.view.output == now.view.output:
            return [verdict("result", [("", _SAME)])]
        return [verdict("result", (), missing=1)]
    before, after = old.value, new.value
    if isinstance(before, dict) and isinstance(after, dict) and 0 < len(before) <= MOST_OUTPUTS:
        names = list(dict.fromkeys((*before, *after)))
        return [
            verdict(str(name), [("", compare_results(old.part(name), new.part(name), tolerance))])
            if name in before and name in after
            else verdict(str(name), (), missing=1)
            for name in names
        ]
    return [verdict("result", [("", compare_results(old, new, tolerance))])]


def _output(made: ReproducedRun) -> LoadedResult:
    assert made.view.output is not None
    with files_loaded(made.root) as files:
        value = unpack(made.store.get(made.view.output), made.store)
    return LoadedResult(value, files)
