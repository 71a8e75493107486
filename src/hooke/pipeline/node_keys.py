"""Keys of a graph's nodes: a hash of the task's code and of its inputs' keys, known before anything runs.

A node's key is a recipe: it names the computation, not the result. A map has a recipe (its code and its constant
arguments) and a key for each item, so a new item reruns only that item. The items of a dynamic map have keys as soon
as their list exists.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
from blake3 import blake3

from hooke.base.errors import NotFingerprintable, TraceError
from hooke.keys.file import File
from hooke.keys.fingerprint import (
    SharedValueKeys,
    fingerprint_code,
    fingerprint_value,
    index_items,
    item_keys,
    own_keys,
)
from hooke.keys.fingerprint_parts import CodePrint, combine, frame, frame_key
from hooke.pipeline.arguments import LEAVES
from hooke.pipeline.graph import Graph, Node
from hooke.pipeline.promise import CARRY, MapPromise, Promise

__all__ = ["GraphKeys", "NodeKey", "data_bytes", "data_of"]


class NodeKey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The key of a node, and of what it is made with the keys of its inputs."""

    key: str
    recipe: str
    """For a map: the key of its code and constants, under which its items are stored."""
    code: CodePrint


class GraphKeys:
    """Computes and holds the keys of one graph. Raises NotFingerprintable naming task and argument."""

    def __init__(self, graph: Graph, *, run: str, seed: int = 0) -> None:
        """A `seed` other than 0 is part of every key: with another seed everything runs again."""
        self.graph = graph
        self.run = run
        self._seed = seed
        self._code: dict[int, CodePrint] = {}
        self._begun: dict[tuple[int, str], bytes] = {}
        """Task and kind of node -> how the content of its recipes begins."""
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        """The parameters, in one tuple for all calls of a task."""
        self._inputs: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        """Of each node, its parameters and the keys of their values."""
        self._frames: dict[str, bytes] = {}
        """Parameter -> its frame in recipes."""
        self._indexed: dict[int, bytes] = {}
        """Map -> the keys by which the store finds its items."""
        self._items: dict[int, bytes] = {}
        """Map -> the keys of its items, where something needed them."""
        self._values = SharedValueKeys(graph.shared)
        self.nodes: list[NodeKey] = []
        for node in graph.nodes:
            try:
                self.nodes.append(self._key(node))
            except NotFingerprintable as error:
                error.where = f"{node.where}, {error.where}"
                raise

    def __getitem__(self, node: int) -> NodeKey:
        return self.nodes[node]

    def of_calls(self, nodes: Iterable[int]) -> dict[int, str]:
        """The keys of those of the nodes that are calls whose results are reused."""
        known = self.graph.nodes
        return {
            node: self.nodes[node].key
            for node in nodes
            if known[node].kind == "call" and known[node].task.resources.cache
        }

    def inputs(self, node: int) -> dict[str, str]:
        """Parameter -> key of its value, until they are dropped."""
        return dict(zip(*self._inputs[node], strict=True))

    def drop_inputs(self) -> None:
        """The journal has the inputs of all nodes: the keys of a million arguments take 150 MB."""
        self._inputs.clear()

    def items(self, node: int) -> bytes | None:
        """The keys of a map's items, 16 bytes each; None while its list does not exist.

        They take a microsecond an item, which `indexed` saves a map of numbers.
        """
        if node not in self._items:
            keys = self.indexed(node)
            if keys is None:
                return None
            self._items[node] = item_keys(keys, label=self.nodes[node].recipe)
        return self._items[node]

    def indexed(self, node: int) -> bytes | None:
        """The keys by which the store finds a map's items, 16 bytes each, below the map's recipe; None while its list does not exist."""
        if node not in self._indexed:
            keys = self._index_keys(self.graph.nodes[node], self.nodes[node].recipe)
            if keys is None:
                return None
            self._indexed[node] = keys
        return self._indexed[node]

    def expanded(self, node: int, keys: bytes) -> None:
        """Note the keys by which the store finds a dynamic map's items, once its list exists."""
        self._indexed[node] = keys
        self._items.pop(node, None)

    def of(self, value: object) -> str | None:
        """The key of a promise; None for anything else."""
        if not isinstance(value, Promise):
            return None
        node = self.graph.nodes[value.node]
        path = value.path
        if node.kind == "map" and path and isinstance(path[0], int):
            item = self._item_key(node, path[0])
            if item is not None:
                return item if len(path) == 1 else combine("part", item, fingerprint_value(path[1:]))
        key = self.nodes[value.node].key
        return combine("part", key, fingerprint_value(path)) if path else key

    def _item_key(self, node: Node, index: int) -> str | None:
        keys = self.indexed(node.id)
        if keys is None or not 0 <= index < len(keys) // 16:
            return None
        return item_keys(keys[16 * index : 16 * index + 16], label=self.nodes[node.id].recipe).hex()

    def _key(self, node: Node) -> NodeKey:
        code = self._code_of(node)
        scalar = self._values.scalar  # before what only other values need
        inputs = {
            name: scalar(value) or self._input(node, name, value) for name, value in node.arguments.items()
        }
        recipe = self._recipe(node, code, inputs)
        asked = node.task.resources
        if asked.gang:  # its function reads size and rank like arguments
            # Of an elastic gang the numbers between which it may change, whatever it happens to have.
            ranks = f"{asked.least_ranks}-{asked.gang}" if asked.least_ranks else asked.gang
            recipe = combine("gang", recipe, ranks, asked.results)
        if self._seed:
            recipe = combine("seeded", recipe, self._seed)
        if not asked.cache:
            # No run may reuse its results, nor those of nodes that depend on it, so the run is part of the recipe.
            recipe = combine("uncached", recipe, self.run, node.id)
        if node.kind == "call":
            return self._made(recipe, recipe, code, inputs)
        indexed = self._index_keys(node, recipe)
        if indexed is not None:
            self._indexed[node.id] = indexed
        columns = self._column_keys(node)
        return self._made(combine("map", recipe, *columns.values()), recipe, code, inputs | columns)

    def _made(self, key: str, recipe: str, code: CodePrint, inputs: dict[str, str]) -> NodeKey:
        names = tuple(inputs)
        self._inputs.append((self._names.setdefault(names, names), tuple(inputs.values())))
        return NodeKey(key=key, recipe=recipe, code=code)

    def _input(self, node: Node, name: str, value: object) -> str:
        where = f"argument `{name}` of `{node.task.name}`"
        return self._values.key(value, where=where, leaf=self._leaf_of(node))

    def _recipe(self, node: Node, code: CodePrint, inputs: Mapping[str, str]) -> str:
        """`combine` of the kind, the code's key, and each name with its key."""
        kind = id(node.task), node.kind
        content = self._begun.get(kind)
        if content is None:
            content = self._begun[kind] = frame(node.kind) + frame_key(code.key)
        for name in sorted(inputs) if len(inputs) > 1 else inputs:
            if name not in self._frames:
                self._frames[name] = frame(name)
            content += self._frames[name] + frame_key(inputs[name])
        return blake3(content).hexdigest(length=16)

    def _code_of(self, node: Node) -> CodePrint:
        identity = id(node.task)
        if identity not in self._code:
            self._code[identity] = fingerprint_code(node.task)
        return self._code[identity]

    def _column_keys(self, node: Node) -> dict[str, str]:
        """Column name -> the key of its promise, or one key of all item keys if they are known."""
        if (indexed := self._indexed.get(node.id)) is not None:
            return {"items": combine("items", indexed)}
        return {
            name: self.of(column)
            or self._values.key(
                column, where=f"argument `{name}` of `{node.task.name}.map`", leaf=self._leaf_of(node)
            )
            for name, column in zip(node.columns, node.iterables, strict=True)
        }

    def _index_keys(self, node: Node, recipe: str) -> bytes | None:
        """The keys by which the store finds a map's items, if they are known without reading a list from the store."""
        if len(node.iterables) == 1 and type(node.iterables[0]) in (range, list, tuple):
            own = own_keys(node.iterables[0])
            if own is not None:
                return own
        columns = [self._elements(column) for column in node.iterables]
        if node.is_dynamic or any(column is None for column in columns):
            return None
        if all(isinstance(column, MapPromise) for column in node.iterables):
            return _chained(recipe, [column for column in columns if isinstance(column, bytes)])
        rows = zip(*(_rows(column) for column in columns if column is not None), strict=True)
        leaf = (
            self._leaf_of(node) if node.uses else None
        )  # calling it for each of a million numbers would double the time
        return index_items(rows, label=recipe, leaf=leaf)

    def _elements(self, column: Any) -> Sequence[Any] | bytes | None:
        return self.items(column.node) if isinstance(column, MapPromise) else column

    def _leaf_of(self, node: Node) -> Callable[[object], str | None]:
        """Gives the key of a value in an argument of `node` that is known only by its key. Raises TraceError for a hidden promise."""
        used = {use.node for use in node.uses}

        def leaf(value: object) -> str | None:
            if isinstance(value, _Known):
                return value.key
            if isinstance(value, Promise) and value.node not in used:
                raise _hidden(node, value)
            return self.of(value)

        return leaf


def _hidden(node: Node, promise: Promise) -> TraceError:
    """The error for a promise inside an object: the graph does not look there, so it would not wait for the result."""
    return TraceError(
        f"task {node.task.name!r} got an object with {promise!r} inside",
        where=node.where,
        fix=CARRY,
    )


class _Known(msgspec.Struct, frozen=True):
    """An item of another map, known only by its key."""

    key: str


def _rows(column: Sequence[Any] | bytes) -> Iterator[Any]:
    if isinstance(column, bytes):
        return (_Known(column[at : at + 16].hex()) for at in range(0, len(column), 16))
    return iter(column)


def _chained(recipe: str, columns: list[bytes]) -> bytes:
    """Item keys of a map over other maps: those that `index_items` gives for values with these keys."""
    out = bytearray()
    for at in range(0, len(columns[0]), 16):
        out += bytes.fromhex(combine(recipe, *(column[at : at + 16].hex() for column in columns)))
    return bytes(out)


# --- The size of data in arguments.


FIRST = 8
"""So many items of a list are looked at to see whether they are data."""


def data_of(node: Node, known: dict[int, int] | None = None) -> dict[str, int]:
    """Parameter -> bytes of the files and arrays in its argument, if it has any; of a map's list, those of all its items.

    `known` has the bytes of values by their `id`, which calls of one graph share, and is added to.
    """
    known = {} if known is None else known
    found: dict[str, int] = {}
    for name, value in (*node.arguments.items(), *zip(node.columns, node.iterables, strict=True)):
        if type(value) in LEAVES:
            continue
        if id(value) not in known:
            known[id(value)] = data_bytes(value)
        if known[id(value)]:
            found[name] = known[id(value)]
    return found


def data_bytes(value: object) -> int:
    """Bytes of a value's files and arrays: a `File`, an array, a table, a frame, or a list of these; 0 for anything else.

    A list of other things costs a look at its first items.
    """
    kind = type(value)
    if kind in LEAVES:
        return 0
    if kind in (list, tuple):
        members = cast("Sequence[object]", value)
        return sum(map(data_bytes, members)) if any(map(data_bytes, members[:FIRST])) else 0
    if isinstance(value, File):
        with contextlib.suppress(OSError):  # its reader notices
            return os.stat(value).st_size
        return 0
    return _size_in_memory(value)


def _size_in_memory(value: Any) -> int:
    """What an array or a table says of its size, at a cost that its rows do not raise: NumPy, Arrow, PyTorch; pandas; Polars.

    0 for a value of a class with such a name that says nothing, or raises.
    """
    kind: Any = type(value)
    size: object = 0
    with contextlib.suppress(
        Exception
    ):  # anything may be raised by a user's class, and only a plan would use the size
        if hasattr(kind, "nbytes"):
            size = value.nbytes
        elif hasattr(kind, "memory_usage") and hasattr(kind, "iloc"):
            size = int(value.memory_usage(index=False).sum())
        elif hasattr(kind, "estimated_size"):
            size = value.estimated_size()
    return size if isinstance(size, int) else 0
