"""Values by reference: in a pickled argument, the value of another node is a reference into the store. Lists of maps are stored in blocks."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from hooke.base.errors import UsageError
from hooke.base.observed import StoredPart, note_result
from hooke.base.ref import Ref
from hooke.journal.events import MapExpanded
from hooke.keys.fingerprint import index_items
from hooke.keys.fingerprint_parts import combine
from hooke.pipeline.promise import Promise, shown_path
from hooke.store.by_value import ByValuePickler
from hooke.store.codecs import encode
from hooke.store.store import Store

__all__ = [
    "MADE_KEPT",
    "Awaited",
    "Element",
    "Expansion",
    "MadeResults",
    "Packed",
    "Reference",
    "StoredItems",
    "StoredValue",
    "expand",
    "is_simple",
    "is_small",
    "pack",
    "pack_small",
    "parts_of",
    "resolve",
    "unpack",
]

Path: TypeAlias = tuple[Any, ...]


class StoredValue(msgspec.Struct, frozen=True):
    """A stored object, or the part of it at `path`."""

    ref: Ref
    path: Path = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredValue, (self.ref, self.path)  # the default of a dataclass with slots takes 10 us

    def __hash__(self) -> int:
        return hash((self.ref.digest, len(self.path)))  # a slice in the path has no hash before 3.12

    def __repr__(self) -> str:
        return f"hooke:{self.ref.digest[:8]}...{shown_path(self.path)}"

    def __hooke_key__(self) -> str:
        """The key of an argument that is given by reference: it names the content."""
        return combine("stored", self.ref.digest, shown_path(self.path))


class Element(msgspec.Struct, frozen=True):
    """Element `index` of a stored list, or the part of it at `path`."""

    ref: Ref
    index: int
    path: Path = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return Element, (self.ref, self.index, self.path)


class StoredItems(msgspec.Struct, frozen=True):
    """Elements `start..start+count` of each stored list, joined into one list; then the part at `path`."""

    pieces: tuple[tuple[Ref, int, int], ...]
    path: Path = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredItems, (self.pieces, self.path)


class Awaited(msgspec.Struct, frozen=True):
    """The result of the attempt that runs before this one in its worker, or the part of it at `path`."""

    path: Path = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return Awaited, (self.path,)


class Packed(msgspec.Struct, frozen=True):
    """A value that was packed before, since many calls have it. The same `number` is the same object, within one call."""

    data: bytes
    number: int

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self.data, self.number)


Reference: TypeAlias = StoredValue | Element | StoredItems | Packed | Awaited
_REFERENCES = (StoredValue, Element, StoredItems, Packed, Awaited)

_SIMPLE = frozenset({int, float, complex, bool, str, bytes, type(None), range})
_DEEPEST = 4
_SMALL = 1024
"""Bytes of a result, or characters of a text, that a reference would only make larger."""
_NO_REFERENCE, _WITH_REFERENCES = b"=", b"&"
"""Prefixes of simple nestings, for which the standard pickler takes a tenth of the time. No pickle starts with them."""


class _NotSimpleError(Exception):
    pass


class _Packer(ByValuePickler):
    def __init__(self, file: io.BytesIO, refer: Callable[[Promise], Reference]) -> None:
        super().__init__(file, protocol=5)
        self._refer = refer

    def persistent_id(self, obj: object) -> Reference | None:
        if isinstance(obj, Promise):
            return self._refer(obj)
        return obj if isinstance(obj, _REFERENCES) else None


class _Unpacker(pickle.Unpickler):
    def __init__(self, data: bytes, store: Store, awaited: Ref | None) -> None:
        super().__init__(io.BytesIO(data))
        self._store = store
        self._awaited = awaited
        self._packed: dict[int, Any] = {}

    def persistent_load(self, pid: Reference) -> Any:
        return _resolved(pid, self._store, self._packed, self._awaited)


def pack(value: Any, refer: Callable[[Promise], Reference]) -> bytes:
    """Pickle `value`; each promise in it becomes the reference that `refer` gives."""
    found: list[Reference] = []
    try:
        simple = _simple(value, refer, found, set())
    except _NotSimpleError:
        pass
    else:
        return (_WITH_REFERENCES if found else _NO_REFERENCE) + pickle.dumps(simple, 5)
    file = io.BytesIO()
    _Packer(file, refer).dump(value)
    return file.getvalue()


def pack_small(
    args: Sequence[Any], kwargs: dict[str, Any], refer: Callable[[Promise], Reference]
) -> bytes | None:
    """What `pack` gives for `(args, kwargs)`, if all of them are numbers, short texts or small results; else None."""
    if all(map(is_small, args)) and (not kwargs or all(map(is_small, kwargs.values()))):
        return _NO_REFERENCE + pickle.dumps((list(args), kwargs), 5)

    def small(value: Any) -> Any:
        if is_small(value):
            return value
        reference = refer(value) if type(value) is Promise else None
        is_stored = type(reference) is StoredValue and reference.ref.size <= _SMALL
        if not (is_stored or type(reference) is Awaited):
            raise _NotSimpleError
        return reference

    try:
        made = [small(each) for each in args], {name: small(each) for name, each in kwargs.items()}
    except _NotSimpleError:
        return None
    return _WITH_REFERENCES + pickle.dumps(made, 5)


def is_small(value: Any) -> bool:
    """Whether a value is a number or a short text, which a reference would only make larger."""
    kind = type(value)
    return kind in _SIMPLE and (kind not in (str, bytes) or len(value) <= _SMALL)


def is_simple(data: bytes) -> bool:
    """Whether packed data is a nesting of lists, tuples, dicts and scalars without references, where no part is twice."""
    return data[:1] == _NO_REFERENCE


def unpack(data: bytes, store: Store, awaited: Ref | None = None) -> Any:
    """The packed value, with its references replaced by the stored values; `awaited` is the result of the attempt before."""
    mark = data[:1]
    if mark == _NO_REFERENCE:
        return pickle.loads(memoryview(data)[1:])
    if mark == _WITH_REFERENCES:
        return _resolved(pickle.loads(memoryview(data)[1:]), store, {}, awaited)
    return _Unpacker(data, store, awaited).load()


MADE_KEPT = 256
"""How many small results of its own a process remembers: four times as many calls as wait in a worker."""


class MadeResults:
    """The last numbers and short texts that this process has stored: calls get them without loading, so no code of the user's runs."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        """By digest, the oldest first."""

    def __len__(self) -> int:
        return len(self._values)

    def note(self, ref: Ref, value: Any) -> None:
        """Remember a small value that is stored as `ref`."""
        self._values[ref.digest] = value
        if len(self._values) > MADE_KEPT:
            del self._values[next(iter(self._values))]

    def arguments(self, data: bytes, awaited: Ref | None = None) -> tuple[list[Any], dict[str, Any]] | None:
        """The packed arguments of a plain call, if each is a number, a text, or a whole result that is remembered; else None."""
        if data[:1] == _NO_REFERENCE:
            return pickle.loads(memoryview(data)[1:])
        if data[:1] != _WITH_REFERENCES:
            return None
        args, kwargs = pickle.loads(memoryview(data)[1:])
        try:
            return [self._value(each, awaited) for each in args], {
                name: self._value(each, awaited) for name, each in kwargs.items()
            }
        except KeyError:
            return None

    def _value(self, argument: Any, awaited: Ref | None) -> Any:
        """Raises KeyError for what is neither."""
        if type(argument) in _SIMPLE:
            return argument
        if type(argument) not in (StoredValue, Awaited) or argument.path:
            raise KeyError(argument)
        ref = argument.ref if type(argument) is StoredValue else awaited
        return self._values["" if ref is None else ref.digest]


def _simple(
    value: Any, refer: Callable[[Promise], Reference], found: list[Reference], seen: set[int], depth: int = 0
) -> Any:
    """A copy of a nesting of lists, tuples and dicts with its promises as references, which are added to `found`.

    Raises _NotSimpleError for one that holds other things, an object twice, or itself.
    """
    kind = type(value)
    if kind in _SIMPLE:
        return value
    if issubclass(kind, Promise) or kind in _REFERENCES:
        found.append(value if kind in _REFERENCES else refer(value))
        return found[-1]
    if kind not in (list, tuple, dict) or id(value) in seen or depth == _DEEPEST:
        raise _NotSimpleError
    seen.add(id(value))
    if kind is dict:
        if not all(type(key) in _SIMPLE for key in value):
            raise _NotSimpleError
        return {
            key: each if type(each) in _SIMPLE else _simple(each, refer, found, seen, depth + 1)
            for key, each in value.items()
        }
    return kind(
        [each if type(each) in _SIMPLE else _simple(each, refer, found, seen, depth + 1) for each in value]
    )


def _resolved(value: Any, store: Store, packed: dict[int, Any], awaited: Ref | None) -> Any:
    kind = type(value)
    if kind in _SIMPLE:
        return value
    if kind is list:  # which may be long
        return [
            resolve(each, store, awaited)
            if type(each) is StoredValue
            else _resolved(each, store, packed, awaited)
            for each in value
        ]
    match value:
        case Packed():
            if value.number not in packed:
                packed[value.number] = unpack(value.data, store)
            return packed[value.number]
        case StoredValue() | Element() | StoredItems() | Awaited():
            return resolve(value, store, awaited)
        case list() | tuple():
            return kind([_resolved(each, store, packed, awaited) for each in value])
        case dict():
            return {key: _resolved(each, store, packed, awaited) for key, each in value.items()}
        case _:
            return value


def resolve(reference: Reference, store: Store, awaited: Ref | None = None) -> Any:
    """The value behind a reference. Raises MissingObject or CorruptObject."""
    match reference:
        case StoredValue(ref):
            value, pieces = store.get(ref), ((ref.digest, -1, 1),)
        case Packed():
            return unpack(reference.data, store)
        case Awaited(path):
            assert awaited is not None
            return resolve(StoredValue(awaited, path), store)
        case Element(ref, index):
            value, pieces = store.get(ref)[index], ((ref.digest, index, 1),)
        case StoredItems():
            value: list[Any] = []
            for ref, start, count in reference.pieces:
                value.extend(store.get(ref)[start : start + count])
            pieces = tuple((ref.digest, start, count) for ref, start, count in reference.pieces)
    found = parts_of(value, reference.path)
    if pieces:
        note_result(StoredPart(found, pieces, reference.path))
    return found


def parts_of(value: Any, path: Sequence[Any]) -> Any:
    """The part of `value` at the keys and indexes of `path`. Raises Python's own error if there is none."""
    for key in path:
        try:
            value = value[key]
        except Exception as error:
            # The traceback has no line of the user's code: the pipeline took the part while it was traced.
            error.add_note(
                f"The pipeline takes the part [{key!r}] of a result, which is of type {type(value).__name__}."
            )
            raise
    return value


# --- Reads the list of a dynamic map on a worker, so that the driver never holds its items.

MOST_IN_BLOCK, BLOCK_BYTES = 4096, 1 << 20
"""Items per stored block, at most, and about how large it is. An attempt reads only the blocks of its items, each as a whole."""
SAMPLED = 5
MOST_BLOCKS = 10_000


class Expansion(msgspec.Struct, frozen=True, kw_only=True):
    """The items of a dynamic map: how many, a stored `bytes` of 16 per item, and lists of argument tuples in blocks."""

    items: int
    keys: Ref
    blocks: tuple[Ref, ...]
    block: int
    """Items in each of them; fewer in the last."""

    def event(self, node: int) -> MapExpanded:
        """The journal's event for it."""
        return MapExpanded(node=node, items=self.items, keys=self.keys, blocks=self.blocks, block=self.block)


def expand(
    payload: tuple[str, str, Sequence[Any]], store: Store, put: Callable[[Any], Ref] | None = None
) -> Expansion:
    """Zip the columns of `(task, recipe, columns)`, key each item and store both, the items by `put`.

    Raises UsageError if they cannot be zipped.
    """
    task, recipe, columns = payload
    lists = [_as_list(task, column) for column in columns]
    lengths = {len(column) for column in lists}
    if len(lengths) > 1:
        raise UsageError(
            f"{task}.map got lists of different lengths: {', '.join(map(str, sorted(lengths)))}",
            fix="give lists of equal length; pass a value that is the same for every item as a keyword",
        )
    items = list(zip(*lists, strict=True))
    keys = store.put(index_items(items, label=recipe))
    block = _items_per_block(items)
    blocks = tuple((put or store.put)(items[at : at + block]) for at in range(0, len(items), block))
    return Expansion(items=len(items), keys=keys, blocks=blocks, block=block)


def _items_per_block(items: Sequence[tuple[Any, ...]]) -> int:
    """How many of such items take about BLOCK_BYTES, by the median of a few of them."""
    try:
        sizes = [encode(item).size for item in items[:: max(1, -(-len(items) // SAMPLED))]]
    except Exception:  # noqa: BLE001 - anything may fail to pickle, which storing the items reports
        return MOST_IN_BLOCK
    median = sorted(sizes)[len(sizes) // 2] if sizes else 1
    fitting = BLOCK_BYTES // max(median, 1)
    return max(1, min(MOST_IN_BLOCK, fitting), -(-len(items) // MOST_BLOCKS))


def _as_list(task: str, column: Any) -> Sequence[Any]:
    try:
        return list(column)
    except TypeError as error:
        raise UsageError(
            f"{task}.map got a {type(column).__name__}, which cannot be iterated",
            fix="return a list from the task before it",
        ) from error
