"""Tracing: a pipeline's body runs once, and every call of a task in it becomes a node of a graph.

The trace belongs to the context of the body: threads that the body starts call tasks for real.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import io
import operator
import pickle
import re
import sys
import types
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import PurePath
from typing import Any, Literal

import msgspec
from blake3 import blake3

from hooke.base.annotations import annotations_of, check_arguments
from hooke.base.errors import NotFingerprintable, TraceError
from hooke.base.user_code import SourceLine, user_place
from hooke.keys.fingerprint import fingerprint_value
from hooke.pipeline.arguments import (
    LEAVES,
    MUTABLE,
    as_columns,
    bind_call,
    bind_map,
    check_lengths,
    copy_nesting,
    promises_in,
    warn_of_list,
)
from hooke.pipeline.graph import Graph, Node, Use
from hooke.pipeline.lint import lint
from hooke.pipeline.promise import MapPromise, Promise, PromiseOrigin, TraceSession
from hooke.pipeline.task import ACTIVE, Task, Traceable

__all__ = ["DEEPEST_SHARED", "SMALL", "ArgumentSnapshots", "GraphTracer", "trace"]


def trace(pipeline: Traceable, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Graph:
    """The graph of `pipeline(*args, **kwargs)`. Runs the body, but no task.

    Raises UsageError for arguments that do not fit the pipeline's parameters or their annotations, TraceError for operations that cannot
    be traced, and the body's own exceptions.
    """
    if ACTIVE.get() is not None:
        raise TraceError(
            f"pipeline {pipeline.name!r} was run inside the body of another pipeline",
            where=str(user_place()),
            fix="call it as a plain function: its tasks become part of the outer run",
        )
    _check_types(pipeline, args, kwargs or {})
    tracer = GraphTracer(pipeline.name)
    token = ACTIVE.set(tracer)
    try:
        output = tracer.inline(pipeline, args, kwargs or {})
        tracer.finish()
    except TypeError as error:
        _explain(error)
        raise
    finally:
        ACTIVE.reset(token)
        tracer.session.is_open = False
    return Graph(
        pipeline=pipeline.name,
        nodes=tuple(tracer.nodes),
        output=_returned(tracer, output),
        shared=tracer.snapshots.shared,
    )


def _check_types(pipeline: Traceable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise UsageError for arguments that do not bind, and for values that do not have the annotated types."""
    subject = f"pipeline {pipeline.name!r}"
    given = bind_call(subject, pipeline.signature, args, kwargs)
    check_arguments(subject, pipeline.signature, annotations_of(pipeline.function), given)


class GraphTracer:
    """Records the calls of one trace as nodes."""

    def __init__(self, pipeline: str) -> None:
        self.session = TraceSession(pipeline)
        self.nodes: list[Node] = []
        self.snapshots = ArgumentSnapshots()
        self._columns: dict[int, list[dict[str, Any]]] = {}
        """Node -> its iterables, which a later change of the body may replace by copies."""
        self._linted: set[Callable[..., Any]] = set()
        self._places: dict[tuple[str, types.CodeType, int], SourceLine] = {}
        self._origins: dict[tuple[int, int], PromiseOrigin] = {}
        """One for the calls of a task on a line, by the identities of both."""
        self._within: tuple[str, ...] | None = None
        self._names = Counter[tuple[str, ...]]()

    def inline(self, pipeline: Traceable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a pipeline's body and record its calls."""
        bind_call(f"pipeline {pipeline.name!r}", pipeline.signature, args, kwargs)
        if pipeline.function not in self._linted:
            self._linted.add(pipeline.function)
            lint(pipeline)
        outside = self._within
        self._within = () if outside is None else (*outside, self._named((*outside, pipeline.name)))
        try:
            return pipeline.function(*args, **kwargs)
        finally:
            self._within = outside

    def _named(self, path: tuple[str, ...]) -> str:
        """The name of a nested call of a pipeline: `clean`, and `clean (2)` for the second one."""
        self._names[path] += 1
        return path[-1] if self._names[path] == 1 else f"{path[-1]} ({self._names[path]})"

    def call(self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Promise:
        """Record a call."""
        binder = task.binder
        arguments, uses = self._taken(binder.subject, binder.bind(args, kwargs))
        node, origin = self._add(task, arguments=arguments, uses=uses)
        return Promise(origin, node, shape=task.shape)

    def map(
        self,
        task: Task[..., Any],
        iterables: Sequence[Any],
        constants: Mapping[str, Any],
        *,
        on_error: Literal["raise", "continue"] = "raise",
    ) -> MapPromise:
        """Record a map."""
        columns = as_columns(task.name, iterables, constants)
        subject = f"task {task.name!r}"
        names, keywords = bind_map(subject, task.signature, len(columns), constants)
        arguments, uses = self._taken(subject, keywords)
        items, in_step_with = _length(task.name, columns)
        warn_of_list(task.name, task.signature.parameters, constants, items)
        is_in_step = items is not None or in_step_with is not None
        follows_partial = any(isinstance(column, MapPromise) and column.hooke_partial for column in columns)
        if follows_partial and not is_in_step:
            raise _unpaired(task.name)
        partial = on_error == "continue" or follows_partial
        taken = [self._taken_column(subject, column, is_in_step=is_in_step) for column in columns]
        node, origin = self._add(
            task,
            kind="map",
            arguments=arguments,
            iterables=tuple(column[""] for column, _ in taken),
            columns=names,
            items=items,
            on_error=on_error,
            partial=partial,
            uses=(*uses, *chain.from_iterable(more for _, more in taken)),
        )
        self._columns[node] = [column for column, _ in taken]
        length_from = node if in_step_with is None else in_step_with
        return MapPromise(origin, node, items, length_from, partial=partial)

    def finish(self) -> None:
        """The body has ended: see that each call has its arguments as they were."""
        self.snapshots.finish()
        for node, columns in self._columns.items():
            mapped = self.nodes[node]
            now = tuple(column[""] for column in columns)
            if any(map(operator.is_not, now, mapped.iterables)):
                self.nodes[node] = msgspec.structs.replace(mapped, iterables=now)

    def returned(self, output: Any) -> Any:
        """A copy of what the body returned. Raises TraceError for a promise of another trace."""
        self._uses(promises_in(output))
        return copy_nesting(output)

    def _taken(self, subject: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Use, ...]]:
        """The arguments as they are now, and the nodes that they use. Raises TraceError for a promise of another trace."""
        taken, promises = self.snapshots.take(arguments, of=subject)
        return taken, self._uses(promises)

    def _uses(self, promises: Sequence[Promise]) -> tuple[Use, ...]:
        if not promises:
            return ()
        for promise in promises:
            if promise.hooke_origin.session is not self.session:
                raise _foreign(promise, self.session)
        return tuple(Use(promise.hooke_node, promise.hooke_path) for promise in promises)

    def _taken_column(
        self, subject: str, column: Any, *, is_in_step: bool
    ) -> tuple[dict[str, Any], tuple[Use, ...]]:
        taken, uses = self._taken(subject, {"": column})
        if is_in_step and isinstance(column, MapPromise):
            uses = (Use(column.hooke_node, elementwise=True),)
        return taken, uses

    def _add(
        self, task: Task[..., Any], *, uses: tuple[Use, ...], **fields: Any
    ) -> tuple[int, PromiseOrigin]:
        place = user_place(self._places)
        node = Node(
            id=len(self.nodes),
            task=task,
            uses=tuple(dict.fromkeys(uses)) if len(uses) > 1 else uses,
            within=self._within or (),
            where=sys.intern(f"{place.file}:{place.line}"),  # one text for the calls of a line
            **fields,
        )
        self.nodes.append(node)
        origin = self._origins.get((id(task), id(place)))
        if origin is None:
            origin = PromiseOrigin(session=self.session, task=task.name, place=place, shape=task.shape)
            self._origins[id(task), id(place)] = origin
        return node.id, origin


def _returned(tracer: GraphTracer, output: Any) -> Any:
    if isinstance(output, Iterator) and not isinstance(output, Promise):
        raise TraceError(
            f"pipeline {tracer.session.pipeline!r} returned a {type(output).__name__}, which can be read only once",
            fix="return a list: list(...)",
        )
    return tracer.returned(output)


def _length(task: str, columns: Sequence[Any]) -> tuple[int | None, int | None]:
    """The number of items if it is known; else the node that decides the common length of all columns, if any."""
    known: list[int | None] = []
    sources: set[int | None] = set()
    for column in columns:
        if isinstance(column, MapPromise):
            items, source = column.hooke_items, column.hooke_length_from
        elif isinstance(column, Promise):
            items, source = None, None
        else:
            items, source = len(column), None
        known.append(items)
        sources.add(source)
    lengths = [items for items in known if items is not None]
    check_lengths(task, lengths)
    if len(lengths) == len(known):
        return lengths[0], None
    return None, sources.pop() if len(sources) == 1 else None


def _unpaired(task: str) -> TraceError:
    return TraceError(
        f"{task}.map pairs a list that may lack failed items with a list whose length is known only at run time",
        where=str(user_place()),
        why="with items left out of one list only, the wrong ones would meet",
        fix='map over one list of tuples, or leave out on_error="continue" in the map before',
    )


def _foreign(promise: Promise, session: TraceSession) -> TraceError:
    return TraceError(
        f"pipeline {session.pipeline!r} got {promise!r} of pipeline {promise.hooke_origin.session.pipeline!r}, "
        "from another trace",
        where=str(user_place()),
        fix="call the task in this pipeline's body; do not keep results in globals between runs",
    )


def _explain(error: TypeError) -> None:
    """Explain promises in a TypeError of C code that got one."""
    if "Promise" in str(error) and not isinstance(error, TraceError):
        error.add_note(
            "A Promise stands for the result of a task that has not run: a pipeline's body only draws the graph. "
            "Move this line into a task."
        )


# --- Arguments as they were when their call was made, whatever the body of the pipeline changes later.

_NESTING = frozenset({list, tuple, dict, set, frozenset})
_FIXED = LEAVES | {
    *(types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type, type(...), type(NotImplemented)),
    *(
        datetime.date,
        datetime.time,
        datetime.datetime,
        datetime.timedelta,
        decimal.Decimal,
        fractions.Fraction,
    ),
    *(uuid.UUID, re.Pattern),
}
_FIXED_KINDS = (enum.Enum, type, types.FunctionType, types.ModuleType, PurePath, Promise)
_OWN = ("__hooke_key__", "__hooke_code__")

SMALL = 64
"""Longer lists, dicts and texts may be one argument of many calls. Shorter ones are looked into for such."""
DEEPEST_SHARED = 3
_LONG_TEXT = 4096
_MOST_COMPARED = 64
"""How many nestings are compared with the arguments of later calls."""
_MOST_KEPT = 1024
"""How many other objects calls share until they are changed; the calls that got an older one have a copy."""
_MOST_COPIED = 64 << 20
"""Bytes. Larger objects are not copied, since memory may have no room for two. They must not change while the pipeline is traced."""


class ArgumentSnapshots:
    """The arguments of the calls of one trace, as they were when each call was made.

    A call gets copies of lists, dicts and sets. Another object is the call's own until the body changes it: then the call gets a
    copy of what it was, made from its pickle. What has not changed since an earlier call is the same object or copy again, so
    that it is keyed and stored once. What can't be pickled is not looked at.
    """

    def __init__(self) -> None:
        self.shared: dict[int, Any] = {}
        """Identity -> a value that more than one call has."""
        self._given: set[int] = set()
        self._plain: OrderedDict[int, _Plain] = OrderedDict()
        self._kept: OrderedDict[tuple[int, ...], _Kept] = OrderedDict()
        self._bytes = 0
        self._uncopied: list[_Kept] = []

    def take(self, arguments: Mapping[str, Any], *, of: str) -> tuple[dict[str, Any], list[Promise]]:
        """The arguments `of` a call as they are now, and the promises in them. `finish` may still put others into the dict."""
        promises = _promises_beside_fixed(arguments.values())
        if promises is not None:
            return {**arguments}, promises
        found = _Found()
        for value in arguments.values():
            found.look(value)
        for text in found.texts:
            self._give(text)
        taken = dict(arguments)
        if not (found.small or found.units or found.objects):
            return taken, found.promises
        plain = [record for unit in found.units.values() if (record := self._plain_of(unit)) is not None]
        known = {id(record.original) for record in plain}
        found.objects |= {ident: unit for ident, unit in found.units.items() if ident not in known}
        changeable = {ident for ident, each in found.small.items() if type(each) in MUTABLE}
        if _overlap([changeable, *(record.inside for record in plain)]):
            return self._whole(taken, found)
        copies = {id(record.original): self._give(record.copy) for record in plain}
        promises = [*found.promises, *chain.from_iterable(record.promises for record in plain)]
        users = list(self._kept_of(found.objects, of))
        for kept in users:
            copies |= {id(original): self._give(copy) for original, copy in kept.pairs}
            promises += promises_in([copy for _, copy in kept.pairs])
        taken = {name: _rebuilt(value, copies) for name, value in arguments.items()}
        for kept in users:
            kept.users.append(taken)
        return taken, promises

    def finish(self) -> None:
        """Give calls copies of what the body has changed since. Raises TraceError where that is too large to be copied."""
        for kept in (*self._kept.values(), *self._uncopied):
            originals = [original for original, _ in kept.pairs]
            state = None if _is_frame(originals[0]) else _pickled(originals)
            if _digest(originals, state) != kept.digest:
                self._settle(kept)

    def _give(self, value: Any) -> Any:
        if id(value) in self._given:
            self.shared[id(value)] = value
        else:
            self._given.add(id(value))
        return value

    def _whole(self, arguments: dict[str, Any], found: _Found) -> tuple[dict[str, Any], list[Promise]]:
        """Arguments with parts in common stay so: one copy of them all."""
        pickled = _pickled(arguments) if found.objects else None
        copy = None if pickled is None else pickled.restored()
        if copy is None:
            copy = copy_nesting(arguments)
        return copy, promises_in(copy)

    def _plain_of(self, unit: Any) -> _Plain | None:
        """A nesting's copy as of now; None if it holds other objects."""
        ident = id(unit)
        if (ident,) in self._kept:
            return None
        record = self._plain.pop(ident, None)
        if record is None or not record.is_current():
            record = _plain(unit)
        if record is not None:
            self._plain[ident] = record
            while len(self._plain) > _MOST_COMPARED:
                self._plain.popitem(last=False)
        return record

    def _kept_of(self, objects: Mapping[int, Any], of: str) -> Iterator[_Kept]:
        """What is kept of these objects as of now, except those that can't be pickled."""
        states: dict[int, _Pickled] = {}
        for ident, each in objects.items():
            if _is_frame(each):
                yield self._kept_as([each], None, of)
            elif (state := _pickled([each])) is not None:
                states[ident] = state
        if len(states) > 1:
            inside = [
                _inside(objects[ident]) for ident in states
            ]  # which keeps them, and so their identities
            if _overlap([set(map(id, each)) for each in inside]):  # they stay connected
                together = [objects[ident] for ident in states]
                yield self._kept_as(together, _pickled(together), of)
                return
        for ident, state in states.items():
            yield self._kept_as([objects[ident]], state, of)

    def _kept_as(self, originals: list[Any], state: _Pickled | None, of: str) -> _Kept:
        group, digest = tuple(map(id, originals)), _digest(originals, state)
        kept = self._kept.pop(group, None)
        if kept is not None and kept.digest != digest:
            self._bytes -= kept.size
            self._settle(kept)
            kept = None
        if kept is None:
            pairs = [(each, copy_nesting(each)) for each in originals]
            saved = _clones(originals) if state is None else state.saved(originals)
            kept = _Kept(of, pairs, digest, saved, 0 if state is None else state.size)
            self._bytes += kept.size
        self._kept[group] = kept
        while len(self._kept) > _MOST_KEPT or (self._bytes > _MOST_COPIED and len(self._kept) > 1):
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size
            if oldest.saved is None:
                self._uncopied.append(oldest)
            else:
                self._settle(oldest)
        return kept

    def _settle(self, kept: _Kept) -> None:
        """Give the calls that have these objects a copy of what they were."""
        copies = None if kept.saved is None else kept.saved()
        if copies is None:
            names = ", ".join(type(original).__qualname__ for original, _ in kept.pairs)
            raise TraceError(
                f"{kept.of} got an object of type {names} that the pipeline changed after the call",
                why="the task would get it as it is now: a copy for the call is too large, or its class makes none",
                fix="give the call a copy of its own, or change the object in a task",
            )
        if len(kept.users) > 1:
            self.shared |= {id(copy): copy for copy in copies}
        for taken in kept.users:
            known = {id(given): copy for (_, given), copy in zip(kept.pairs, copies, strict=True)}
            taken.update({name: _rebuilt(value, known) for name, value in taken.items()})


def _promises_beside_fixed(values: Iterable[Any]) -> list[Promise] | None:
    """The promises among arguments; None if one of the others may be changed or is a long text."""
    promises: list[Promise] = []
    for value in values:
        kind = type(value)
        if kind is Promise:
            promises.append(value)
        elif kind not in _FIXED or (kind in (str, bytes) and len(value) >= _LONG_TEXT):
            return None
    return promises


class _Found(msgspec.Struct):
    """What is in the arguments of a call: short nestings, and in them long ones, long texts, promises and other objects."""

    small: dict[int, Any] = msgspec.field(default_factory=dict)
    units: dict[int, Any] = msgspec.field(default_factory=dict)
    texts: list[Any] = msgspec.field(default_factory=list)
    promises: list[Promise] = msgspec.field(default_factory=list)
    objects: dict[int, Any] = msgspec.field(default_factory=dict)

    def look(self, value: Any, depth: int = 0) -> None:
        kind = type(value)
        if kind in _FIXED:
            if kind in (str, bytes) and len(value) >= _LONG_TEXT:
                self.texts.append(value)
        elif issubclass(kind, Promise):
            self.promises.append(value)
        elif kind in _NESTING:
            if id(value) in self.small:
                return
            if len(value) > SMALL or depth == DEEPEST_SHARED:
                self.units[id(value)] = value
            elif kind in (dict, set, frozenset) and not all(map(_is_fixed_name, value)):
                self.objects[id(value)] = value
            else:
                self.small[id(value)] = value
                for each in chain(value, value.values()) if kind is dict else value:
                    self.look(each, depth + 1)
        elif not _is_fixed(value):
            self.objects[id(value)] = value


def _is_fixed_name(value: Any) -> bool:
    """Whether a key or an element of a set can't change, nor hold a promise."""
    return (
        all(map(_is_fixed_name, value)) if type(value) is tuple else type(value) in _FIXED or _is_fixed(value)
    )


def _is_fixed(value: Any) -> bool:
    """Whether a value that is no container can't change, or is not copied for calls anyway."""
    kind = type(value)
    if kind in _FIXED or isinstance(value, _FIXED_KINDS) or hasattr(kind, "__hooke_code__"):
        return True
    library = kind.__module__.partition(".")[0]
    return library in ("hooke", "pyarrow") or (library == "numpy" and _is_never_written(value))


def _is_never_written(value: Any) -> bool:
    numpy: Any = sys.modules["numpy"]
    if isinstance(value, numpy.generic | numpy.dtype):
        return not isinstance(value, numpy.void)
    while isinstance(value, numpy.ndarray):
        if value.flags.writeable or value.dtype.hasobject:
            return False
        value = value.base
    return value is None or isinstance(value, bytes)


def _overlap(groups: Sequence[Collection[int]]) -> bool:
    """Whether an identity is in two of the groups."""
    filled = [group for group in groups if group]
    return len(filled) > 1 and len(set().union(*filled)) < sum(map(len, filled))


def _rebuilt(value: Any, copies: dict[int, Any], depth: int = 0) -> Any:
    """A copy of a short nesting, with these copies of what is in it."""
    kind, ident = type(value), id(value)
    if ident in copies:
        return copies[ident]
    if kind not in _NESTING or len(value) > SMALL or depth == DEEPEST_SHARED:
        return value
    if kind is list:
        made: Any = []
        copies[ident] = made
        made += [_rebuilt(each, copies, depth + 1) for each in value]
        return made
    if kind is dict:
        table: dict[Any, Any] = {}
        copies[ident] = table
        for key, each in value.items():
            table[key] = _rebuilt(each, copies, depth + 1)
        return table
    if kind is tuple:
        parts = [_rebuilt(each, copies, depth + 1) for each in value]
        same = all(map(operator.is_, parts, value))
        return copies.setdefault(ident, value if same else tuple(parts))
    return value.copy() if kind is set else value


# A nesting of lists, tuples, dicts and sets is unchanged if each holds the same objects as before, in the same order.


class _Plain(msgspec.Struct):
    original: Any
    copy: Any
    copies: dict[int, Any]
    """Identity of a container in the original -> its copy."""
    inside: set[int]
    """Identities of the lists, dicts and sets in the original."""
    promises: list[Promise]
    levels: list[tuple[type, list[Any], list[int], list[Any] | None]]
    """Containers of one kind, their lengths, and what they hold; None where their copies hold the same."""

    def is_current(self) -> bool:
        for kind, containers, lengths, held in self.levels:
            if list(map(len, containers)) != lengths:
                return False
            before = held
            if before is None:
                before = _members(kind, [self.copies.get(id(each), each) for each in containers])
            if not all(map(operator.is_, _members(kind, containers), before)):
                return False
        return True


def _plain(value: Any) -> _Plain | None:
    levels: list[tuple[type, list[Any], list[int], list[Any] | None]] = []
    promises: list[Promise] = []
    seen, level = {id(value)}, [value]
    while level:
        deeper: list[Any] = []
        for kind in dict.fromkeys(map(type, level)):
            containers = [each for each in level if type(each) is kind]
            lengths = list(map(len, containers))
            if kind not in (set, frozenset) and _FIXED.issuperset(map(type, _members(kind, containers))):
                levels.append((kind, containers, lengths, None))
                continue
            held = list(_members(kind, containers))
            levels.append((kind, containers, lengths, held))
            for each in [each for each in held if type(each) not in _FIXED]:
                if isinstance(each, Promise):
                    promises.append(each)
                elif type(each) not in _NESTING:
                    if not _is_fixed(each):
                        return None
                elif id(each) not in seen:
                    seen.add(id(each))
                    deeper.append(each)
        level = deeper
    inside = {id(each) for kind, containers, _, _ in levels if kind in MUTABLE for each in containers}
    copies: dict[int, Any] = {}
    return _Plain(value, copy_nesting(value, copies), copies, inside, promises, levels)


def _members(kind: type, containers: Sequence[Any]) -> Iterator[Any]:
    keys = chain.from_iterable(containers)
    return chain(keys, chain.from_iterable(map(dict.values, containers))) if kind is dict else keys


# Any other object is unchanged if its pickle is, with classes and functions by their identity.


def _named_object(number: int) -> Any:
    """Stands for what pickles by its identity; see `_StateUnpickler`."""
    raise LookupError(number)


class _StatePickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffers.append)
        self.named: dict[int, Any] = {}

    def reducer_override(self, obj: Any) -> Any:
        if obj is _named_object or not isinstance(
            obj, type | types.FunctionType | types.ModuleType | Promise
        ):
            return NotImplemented
        self.named[id(obj)] = obj
        return _named_object, (id(obj),)


class _StateUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, *, buffers: list[Any], named: Mapping[int, Any]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._named = named

    def find_class(self, module: str, name: str, /) -> Any:
        return self._named.__getitem__ if name == _named_object.__name__ else super().find_class(module, name)


class _InsidePickler(_StatePickler):
    """Notes all objects that could be changed. It takes three times as long."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), [])
        self.inside: list[Any] = []

    def persistent_id(self, obj: Any) -> None:
        if type(obj) not in LEAVES and type(obj) is not tuple and not _is_fixed(obj):
            self.inside.append(obj)


def _inside(value: Any) -> list[Any]:
    pickler = _InsidePickler()
    pickler.dump(value)
    return pickler.inside


class _Pickled(msgspec.Struct):
    data: bytes
    buffers: list[pickle.PickleBuffer]
    named: dict[int, Any]

    @property
    def size(self) -> int:
        return len(self.data) + sum(buffer.raw().nbytes for buffer in self.buffers)

    def digest(self) -> bytes:
        hasher = blake3(self.data)
        for buffer in self.buffers:
            with buffer.raw() as view:
                hasher.update(b"|%d|%d|" % (view.readonly, view.nbytes))
                hasher.update(view)
        return hasher.digest()

    def restored(self) -> Any:
        """A copy of what was pickled; None if its class makes none."""
        own = [bytes(view) if view.readonly else bytearray(view) for view in self._views()]
        try:
            return _StateUnpickler(self.data, buffers=own, named=self.named).load()
        except Exception:  # noqa: BLE001 - a class's own unpickling may raise anything
            return None

    def has_copies(self, originals: list[Any]) -> bool:
        """Whether copies can be made: not of objects that are too large, or have a key of their own."""
        own = any(hasattr(type(each), "__hooke_key__") for each in originals)
        return self.size <= _MOST_COPIED and not own

    def saved(self, originals: list[Any]) -> Callable[[], Any] | None:
        """Makes copies of the objects as they are now; None for those that are too large, or have a key of their own."""
        if not self.has_copies(originals):
            return None
        buffers = [bytes(view) if view.readonly else bytearray(view) for view in self._views()]
        return _Pickled(self.data, list(map(pickle.PickleBuffer, buffers)), self.named).restored

    def _views(self) -> list[memoryview]:
        return [buffer.raw() for buffer in self.buffers]


def _pickled(value: Any) -> _Pickled | None:
    """What pickle sees of a value now; None if it can't be pickled, which is no error before it has to go to a worker."""
    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    pickler = _StatePickler(file, buffers)
    try:
        pickler.dump(value)
        for buffer in buffers:
            buffer.raw().release()
    except Exception:  # noqa: BLE001 - an object's own pickling may raise anything
        return None
    return _Pickled(file.getvalue(), buffers, pickler.named)


class _Kept(msgspec.Struct):
    """Objects, or several that are connected, as they were when calls got them."""

    of: str
    pairs: list[tuple[Any, Any]]
    """Each object, and what the calls have of it: itself, or a copy of the list that it is."""
    digest: bytes
    saved: Callable[[], Any] | None
    size: int
    users: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """The arguments of the calls that have them."""


def _digest(objects: list[Any], state: _Pickled | None) -> bytes:
    """What tells whether objects were changed: what pickle sees; their keys for frames, and where no copy can be made."""
    if state is not None and state.has_copies(objects):
        return state.digest()
    try:
        return fingerprint_value(
            objects, leaf=lambda each: "promise" if isinstance(each, Promise) else None
        ).encode()
    except NotFingerprintable:  # raised again when the node's key is made, naming the argument
        return b""


def _is_frame(value: Any) -> bool:
    """Whether it is a frame or a series of Polars, whose columns are never changed in place: a clone takes a microsecond."""
    return type(value).__module__.startswith(("polars.dataframe", "polars.series"))


def _clones(frames: list[Any]) -> Callable[[], Any]:
    clones = [frame.clone() for frame in frames]
    return lambda: clones
