"""Turns a decision to run items into the Call that an engine takes: function, arguments, references."""

from __future__ import annotations

import hashlib
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import CellType
from typing import Any

import msgspec

from hooke.base.errors import HookeError, NotPicklable, UsageError
from hooke.base.formats import short_repr
from hooke.base.observed import is_left_out, is_secret
from hooke.base.ref import FileRef, Manifest, Ref
from hooke.journal.events import MapExpanded
from hooke.keys.fingerprint import item_keys
from hooke.keys.fingerprint_parts import CodePrint, combine
from hooke.keys.reached_code import reached_code
from hooke.pipeline.arguments import promises_in
from hooke.pipeline.engine import LOOK, AlsoCall, Call, FunctionImage
from hooke.pipeline.graph import Graph, Node
from hooke.pipeline.isolation import KEY_BYTES
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import Submit
from hooke.pipeline.promise import MapPromise, Promise, short_argument
from hooke.pipeline.references import (
    Awaited,
    Element,
    Packed,
    Reference,
    StoredItems,
    StoredValue,
    is_small,
    pack,
    pack_small,
)
from hooke.pipeline.run_state import RunState
from hooke.pipeline.task import Task
from hooke.pipeline.trace import DEEPEST_SHARED, SMALL
from hooke.store import by_value
from hooke.store.checkpoints import CheckpointOwner
from hooke.store.store import Store

__all__ = ["CallMaker", "touches_nothing_global"]

_may_be_variable = re.compile(r"[A-Za-z_][A-Za-z0-9_]{1,63}").fullmatch

LEAST_PACKED = 1024
"""Smaller arguments are encoded with each call."""
LARGEST_IN_CALL = 64 * 1024
"""Larger arguments go through the store once instead of with every attempt."""


# --- Code that certainly changes nothing in its process.

_CERTAIN = frozenset(
    {
        "abc", "bisect", "builtins", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions",
        "functools", "hashlib", "heapq", "itertools", "json", "math", "operator", "pathlib", "re", "string", "struct",
        "time", "types", "typing", "zlib",
    }
)  # fmt: skip
"""Modules that use no global random generator, and change nothing in the process."""
_NOT_ALONE = frozenset({"decimal", "pathlib"})
_PLAIN = frozenset({bool, bytes, complex, float, int, str, type(None)})


def touches_nothing_global(code: CodePrint, arguments: Iterable[object], columns: Iterable[Any]) -> bool:
    """Whether certainly no item of a map uses random numbers or changes its process.

    Then seeding and setting back, which are slower than a short item, can be skipped between items.

    True if the code uses only modules of a known list and gets only numbers and text: other objects may bring code.
    """
    if not (_is_certain(code) and _are_plain(arguments)):
        return False
    return all(isinstance(column, range) or _is_plain(column) for column in columns)


def _changes_nothing(code: CodePrint) -> bool:
    """The same of a call of its own, if its arguments are plain, and that it leaves the context variables of its process alone.

    Nor does it return a path, so what it writes is no result.
    """
    return _is_certain(code) and not any(name.partition(".")[0] in _NOT_ALONE for name in code.foreign)


def _are_plain(values: Iterable[object]) -> bool:
    """Whether all of these are numbers and texts, which bring no code."""
    return all(type(value) in _PLAIN for value in values)


def _is_certain(code: CodePrint) -> bool:
    return not code.notes and all(name.partition(".")[0] in _CERTAIN for name in code.foreign)


def _is_plain(column: Any) -> bool:
    return type(column) in {list, tuple} and all(type(value) in _PLAIN for value in column)


# --- Calls.


class CallMaker:
    """Makes the calls of one run."""

    def __init__(self, graph: Graph, keys: GraphKeys, state: RunState, store: Store) -> None:
        self._graph = graph
        self._keys = keys
        self._state = state
        self._store = store
        self._images: dict[int, FunctionImage] = {}
        self._placed: dict[int, Any] = {}
        """Identity of an argument that several nodes share -> what goes into their calls."""
        self._constants: dict[int, bytes] = {}
        self._constants_read: dict[int, list[Ref]] = {}
        self._read: list[Ref] = []
        """The stored results that the current call reads."""
        self._awaited = -1
        """The node whose result the current call waits for in its worker; -1 for none."""
        self.files: list[FileRef] = []
        """The files in what was referred to since the last call was made."""
        self._certain: dict[int, bool] = {}
        self._plain: dict[int, bool] = {}
        """Identity of a task -> whether its code certainly changes nothing in its process."""
        self._joining: dict[tuple[int, float], list[Submit]] = {}
        """Attempts that may be groups, by what those of one group have in common: task and cpus."""
        self._named: dict[int, list[str]] = {}
        self.variables_read: set[str] = set()
        """Variables that results of this graph's tasks were made from."""
        self.expansions: dict[int, MapExpanded] = {}
        """Node -> the list of a dynamic map, once it exists."""

    def expanded(self, event: MapExpanded) -> None:
        """Note that the list of a dynamic map exists."""
        self.expansions[event.node] = event

    def make(self, submit: Submit) -> Call:
        """The call for these items. Raises NotPicklable, and StoreError if a large argument cannot be stored."""
        node = self._graph.nodes[submit.node]
        plan = self._state.nodes[submit.node].plan
        self._read = []
        self.files.clear()
        plain = node.kind == "call" and not submit.expand and not plan.ranks and self._is_plain(node)
        self._awaited = -1 if submit.after is None else self._state.running[submit.after].node
        try:
            payload = self._payload(node, submit)
        finally:
            self._awaited = -1
        # Only its worker knows whether the results of others that it gets are numbers and texts.
        keys = b"" if plain and not node.uses else self._item_keys(node, submit)
        return Call(
            attempt=submit.attempt,
            node=submit.node,
            number=submit.number,
            kind="expand" if submit.expand else node.kind,
            lo=submit.lo,
            hi=submit.hi,
            image=self.image(node),
            payload=payload,
            inputs={ref.digest: ref.size for ref in self._read if ref.inline is None},
            shown=self._shown(node, submit),
            cpus=plan.cpus,
            memory=submit.memory,
            gpus=plan.gpus,
            timeout_s=plan.timeout_s,
            twin_of=submit.twin_of,
            short=submit.short,
            after=submit.after,
            keys=keys,
            checkpoints=self._owner(node) if keys else None,
            gang=0 if submit.expand else submit.ranks or plan.ranks,
            most_ranks=plan.ranks if plan.least_ranks and not submit.expand else 0,
            results=node.task.resources.results,
            observe=node.task.resources.observe and not submit.expand,
            plain=plain,
            limit_s=submit.limit_s,
            variables={} if submit.expand else self._variables(node),
        )

    def join(self, submit: Submit) -> bool:
        """Keep the attempt for `groups`, if it may be in one: a first try at a plain call with small arguments, and without limits."""
        node, plan = self._graph.nodes[submit.node], self._state.nodes[submit.node].plan
        joins = (
            submit.short
            and submit.number == 1
            and submit.memory is submit.after is plan.timeout_s is None
            and not (node.uses or plan.gpus)
            and self._has_plain_code(node)
            and all(map(is_small, node.arguments.values()))
        )
        if joins:
            self._joining.setdefault((id(node.task), plan.cpus), []).append(submit)
        return joins

    def groups(self) -> Iterator[Call]:
        """The calls of the attempts that were kept, those of each task in groups that are as large as the scheduler says."""
        joining = [*self._joining.values()]
        self._joining.clear()
        for alike in joining:
            size = self._state.together(alike[0].node, len(alike))
            for at in range(0, len(alike), size):
                also = tuple(map(self._also, alike[at + 1 : at + size]))
                yield msgspec.structs.replace(self.make(alike[at]), also=also)

    def _also(self, submit: Submit) -> AlsoCall:
        node = self._graph.nodes[submit.node]
        return AlsoCall(submit.attempt, submit.node, self._payload(node, submit), self._shown(node, submit))

    def look(self, attempt: int, node: int, inputs: Manifest) -> Call:
        """The call that looks at inputs of the node's results, on a host where it can run."""
        plan, task = self._state.nodes[node].plan, self._graph.nodes[node].task
        return Call(
            attempt=attempt,
            node=node,
            number=1,
            kind=LOOK,
            lo=0,
            hi=1,
            image=FunctionImage(
                digest=LOOK, name=task.name, code_key="", parts={}, function=task.function, pickle=bytes
            ),
            payload=msgspec.msgpack.encode(inputs),
            shown=f"a look at {len(inputs)} inputs",
            cpus=0.0,
            gpus=plan.gpus,
            short=True,
            observe=False,
        )

    def _variables(self, node: Node) -> Mapping[str, str | None]:
        """The driver's values of variables that the task may read: those that its code names, and that earlier results were made from."""
        identity = id(node.task)
        if identity not in self._named:
            self._named[identity] = [name for name in reached_code(node.task).texts if _may_be_variable(name)]
        names = {*self._named[identity], *self.variables_read}
        return {
            name: os.environ.get(name)
            for name in sorted(names)
            if (name in os.environ or name.isupper()) and not is_left_out(name) and not is_secret(name)
        }

    def _item_keys(self, node: Node, submit: Submit) -> bytes:
        """The keys by which the store finds the items `lo..hi`, for checkpoints and seeds; empty if they need neither.

        The recipe does not say what a tainted item reads, so its key names the results that it reads, too. The payload must
        have been made.
        """
        keys = b"" if submit.expand else self._recipe_keys(node, submit)
        if not keys or not self._state.is_tainted(node.id):
            return keys
        same = self._read if node.kind == "call" else self._constants_read[node.id]
        keys = item_keys(keys, label=self._keys[node.id].recipe)
        return b"".join(
            bytes.fromhex(
                combine(
                    "tainted",
                    keys[KEY_BYTES * at : KEY_BYTES * (at + 1)].hex(),
                    *(ref.digest for ref in same),
                    *self._own_inputs(node, item),
                )
            )
            for at, item in enumerate(range(submit.lo, submit.hi))
        )

    def _own_inputs(self, node: Node, item: int) -> Iterator[str]:
        """Where the results are that this item of a map alone reads."""
        for column in node.iterables:
            if isinstance(column, MapPromise) and node.id not in self.expansions:
                _, _, ref, start = self._state.nodes[column.node].done.cut(item, item + 1)[0]
                yield f"{ref.digest}[{start}]"

    def _recipe_keys(self, node: Node, submit: Submit) -> bytes:
        if node.kind == "call":
            return bytes.fromhex(self._keys[node.id].key)
        if node.id not in self._certain:
            code = self._keys[node.id].code
            self._certain[node.id] = touches_nothing_global(code, node.arguments.values(), node.iterables)
        if self._certain[node.id]:
            return b""
        keys = self._keys.indexed(node.id)
        return b"" if keys is None else keys[KEY_BYTES * submit.lo : KEY_BYTES * submit.hi]

    def _is_plain(self, node: Node) -> bool:
        """Whether a call that gets numbers and texts needs no seed, and its process nothing to be set back, as the items of a map whose code is certain."""
        return self._has_plain_code(node) and _are_plain(
            each for each in node.arguments.values() if not isinstance(each, Promise)
        )

    def _has_plain_code(self, node: Node) -> bool:
        identity = id(node.task)
        if identity not in self._plain:
            self._plain[identity] = _changes_nothing(self._keys[node.id].code)
        return self._plain[identity]

    def _owner(self, node: Node) -> CheckpointOwner:
        asked = node.task.resources
        return CheckpointOwner(
            task=node.task.name,
            run=self._keys.run,
            recipe=self._keys[node.id].recipe,
            item=node.kind == "map",
            cached=asked.cache,
            kept=asked.keep_checkpoints,
        )

    def image(self, node: Node) -> FunctionImage:
        """The function of a node's task in the form that goes to workers."""
        identity = id(node.task)
        if identity not in self._images:
            code = self._keys[node.id].code
            function, name = node.task.function, node.task.name
            self._images[identity] = FunctionImage(
                digest=hashlib.blake2b(f"{name}:{code.key}".encode(), digest_size=16).hexdigest(),
                name=name,
                code_key=code.key,
                parts={part.name: part.digest for part in code.parts},
                function=function,
                pickle=_once(lambda: _pickled_task(node.task)),
            )
        return self._images[identity]

    def refer(self, promise: Promise) -> Reference:
        """The reference to a promise's value. Its node, or the one item it names, must be done, or awaited by the current call.

        Raises UsageError for an item past the end of a map whose length was unknown before.
        """
        node = self._graph.nodes[promise.node]
        done = self._state.nodes[promise.node].done
        path = tuple(promise.path)
        if promise.node == self._awaited:
            return Awaited(path)
        if node.kind == "call":
            ref = done.cut(0, 1)[0][2]
            self._note(ref, 0, 1)
            return StoredValue(ref.without_files(), path)
        items = self._state.nodes[promise.node].items
        assert items is not None
        if path and isinstance(path[0], int):
            index = path[0] if path[0] >= 0 else items + path[0]
            if not 0 <= index < items:
                raise UsageError(
                    f"the pipeline reads item {path[0]} of {node.task.name}.map, which has {items} items",
                    where=node.where,
                    fix="the length of this map is known only at run time: pass the whole map to a task, and index it there",
                )
            _, _, ref, start = done.cut(index, index + 1)[0]
            self._note(ref, start, 1)
            return Element(ref.without_files(), start, path[1:])
        return self._items(promise.node, 0, items, path)

    def _items(self, node: int, lo: int, hi: int, path: tuple[Any, ...] = ()) -> StoredItems:
        """A list of the results of the items `lo..hi`, without those that were left out."""
        state = self._state.nodes[node]
        segments = [piece for a, b in state.left_out.gaps(lo, hi) for piece in state.done.cut(a, b)]
        for a, b, ref, start in segments:
            self._note(ref, start, b - a)
        return StoredItems(tuple((ref.without_files(), start, b - a) for a, b, ref, start in segments), path)

    def _note(self, ref: Ref, start: int, count: int) -> None:
        self._read.append(ref)
        if ref.files:
            self.files += [file for file in ref.files if start <= file.item < start + count]

    def _payload(self, node: Node, submit: Submit) -> bytes:
        if submit.expand:
            recipe = self._keys[node.id].recipe
            return self._pack(node, (node.task.name, recipe, list(node.iterables)))
        if node.kind == "call":
            args, kwargs = node.call_arguments()
            packed = pack_small(args, kwargs, self.refer)
            if packed is not None:
                return packed
            self._read = []
            self.files.clear()
            return self._pack_slim(
                node, lambda slim: ([slim(value) for value in args], {k: slim(v) for k, v in kwargs.items()})
            )
        if node.id not in self._constants:
            self._constants[node.id] = self._pack_slim(
                node, lambda slim: {name: slim(value) for name, value in node.arguments.items()}
            )
            self._constants_read[node.id] = self._read
        self._read = list(self._constants_read[node.id])
        return self._pack(node, (self._constants[node.id], self._pack(node, self._rows(node, submit))))

    def _rows(self, node: Node, submit: Submit) -> tuple[str, Any]:
        """The arguments of items `lo..hi`: by columns, or by rows for a dynamic map."""
        lo, hi = submit.lo, submit.hi
        expansion = self.expansions.get(node.id)
        if expansion is not None:
            size = expansion.block
            pieces = [
                (
                    expansion.blocks[at].without_files(),
                    max(lo - at * size, 0),
                    min(hi - at * size, size) - max(lo - at * size, 0),
                )
                for at in range(lo // size, -(-hi // size))
            ]
            return "rows", StoredItems(tuple(pieces))
        columns = [
            self._items(column.node, lo, hi) if isinstance(column, MapPromise) else column[lo:hi]
            for column in node.iterables
        ]
        return "columns", columns

    def _pack_slim(self, node: Node, arguments: Callable[[Callable[[Any], Any]], Any]) -> bytes:
        """Pack arguments. Large ones go by reference: stored once instead of sent with each attempt."""
        data = self._pack(node, arguments(lambda value: self._slim(node, value)))
        if len(data) <= LARGEST_IN_CALL:
            return data
        stored: list[Any] = []

        def smaller(value: Any) -> Any:
            """A reference to a dict of arrays, a model: large, but not at a glance."""
            slim = self._slim(node, value)
            smallest = self._stored(slim)
            if smallest is not slim:
                stored.append(smallest)
            return smallest

        made = arguments(smaller)
        return self._pack(node, made) if stored else data  # many results of others are as large a second time

    def _slim(self, node: Node, value: Any) -> Any:
        if self._graph.shared:
            placed = self._placed_in(node, value)
            if placed is not value:
                return placed
        return self._stored(value) if _bytes_of(value) > LARGEST_IN_CALL else value

    def _stored(self, value: Any) -> Any:
        return value if is_small(value) or promises_in(value) else StoredValue(self._store.put(value))

    def _placed_in(self, node: Node, value: Any, depth: int = 0) -> Any:
        """The value, with what it shares with other nodes in the form that all their calls have."""
        kind = type(value)
        if id(value) in self._graph.shared:
            if id(value) not in self._placed:
                self._placed[id(value)] = self._place(node, value)
            return self._placed[id(value)]
        if kind not in (list, tuple, dict) or depth == DEEPEST_SHARED or len(value) > SMALL:
            return value
        parts = value.values() if kind is dict else value
        placed = [self._placed_in(node, each, depth + 1) for each in parts]
        if all(map(operator.is_, placed, parts)):
            return value
        return dict(zip(value, placed, strict=True)) if kind is dict else kind(placed)

    def _place(self, node: Node, value: Any) -> Any:
        """A value that many calls have: in the store if it is large, encoded once otherwise."""
        if promises_in(value):
            return value
        if _bytes_of(value) > LARGEST_IN_CALL:
            return self._stored(value)
        data = self._pack(node, value)
        if len(data) > LARGEST_IN_CALL:
            return self._stored(value)
        return Packed(data, len(self._placed)) if len(data) > LEAST_PACKED else value

    def _pack(self, node: Node, value: Any) -> bytes:
        try:
            return pack(value, self.refer)
        except HookeError:
            raise
        except Exception as error:  # an argument's own pickling may raise anything
            raise NotPicklable(
                "an argument cannot be pickled, so it cannot go to a worker",
                task=node.task.name,
                why=f"{type(error).__name__}: {error}",
                fix="pass the plain data that it is made from (a path, a connection string, parameters) and create it inside the task",
            ) from error

    def _shown(self, node: Node, submit: Submit) -> str:
        constants = ", ".join([f"{name}={short_argument(value)}" for name, value in node.arguments.items()])
        if node.kind == "call" or submit.expand:
            return constants
        if submit.hi - submit.lo > 1:
            return f"items {submit.lo}..{submit.hi - 1}" + (f", {constants}" if constants else "")
        columns = dict(zip(node.columns, node.iterables, strict=True))
        shown_items = {
            name: short_repr(column[submit.lo]) if not isinstance(column, Promise) else f"item {submit.lo}"
            for name, column in columns.items()
        }
        items = ", ".join(f"{name}={text}" for name, text in shown_items.items())
        return items + (f", {constants}" if constants else "")


_NUMBERS = frozenset({int, float, complex, bool, type(None)})


def _bytes_of(value: Any) -> int:
    """The size of a value that tells it cheaply (arrays, frames, text), else 0."""
    if type(value) in _NUMBERS:
        return 0
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, Promise):
        return 0
    for name in ("nbytes", "estimated_size", "memory_usage"):
        try:
            size = getattr(value, name, None)
        except Exception:  # noqa: BLE001 - a user's property may raise anything
            return 0
        if isinstance(size, int):
            return size
        if callable(size):
            return LARGEST_IN_CALL + 1  # a frame: the store maps it at any size
    return 0


def _once(make: Callable[[], bytes]) -> Callable[[], bytes]:
    made: list[bytes] = []

    def get() -> bytes:
        if not made:
            made.append(make())
        return made[0]

    return get


def _pickled_task(task: Task[..., Any]) -> bytes:
    """The task by reference if a worker can import it, else by value."""
    try:
        return by_value.dumps(task)
    except Exception as error:  # a captured object's own pickling may raise anything
        raise NotPicklable(
            "the task's function cannot be pickled, so it cannot go to a worker",
            task=task.name,
            why=f"{type(error).__name__}: {error}{_culprit(task.function)}",
            fix="create the captured object inside the task, or pass the plain data that it is made from as an argument; "
            'move a class or a function to a module; or run in this process with on="serial"',
        ) from error


def _culprit(function: Callable[..., Any]) -> str:
    """The captured variables and globals that do not pickle, by name."""
    guilty = [name for name, value in _captured(function).items() if not _pickles(value)]
    return f" (captured: {', '.join(guilty)})" if guilty else ""


def _captured(function: Callable[..., Any]) -> Mapping[str, Any]:
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    cells: Sequence[Any] = getattr(function, "__closure__", None) or ()
    filled = [(name, cell) for name, cell in zip(code.co_freevars, cells, strict=True) if cell != CellType()]
    free = {name: cell.cell_contents for name, cell in filled}
    found = getattr(function, "__globals__", {})
    return free | {name: found[name] for name in code.co_names if name in found}


def _pickles(value: Any) -> bool:
    try:
        by_value.dumps(value)
    except Exception:  # noqa: BLE001 - the question is whether it does
        return False
    return True
