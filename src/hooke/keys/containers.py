"""Encodings of the standard library's containers."""

from __future__ import annotations

import array
import collections
import datetime as dt
import types
from typing import Any

from hooke.keys.encoding import Encoder, Walk, compound, raw, text
from hooke.keys.scalars import integer

__all__ = ["CONTAINERS"]


def _list(walk: Walk, value: list[Any]) -> bytes:
    return compound(b"list", walk.items(list.__iter__(value)))


def _tuple(walk: Walk, value: tuple[Any, ...]) -> bytes:
    return compound(b"tuple", walk.items(tuple.__iter__(value)))


def _set(walk: Walk, value: set[Any]) -> bytes:
    return compound(b"set", walk.unordered(set.__iter__(value)))


def _frozenset(walk: Walk, value: frozenset[Any]) -> bytes:
    return compound(b"frozenset", walk.unordered(frozenset.__iter__(value)))


def _dict(walk: Walk, value: dict[Any, Any]) -> bytes:
    return compound(b"dict", walk.pairs(dict.items(value)))


def _ordered(walk: Walk, value: collections.OrderedDict[Any, Any]) -> bytes:
    pairs = list(collections.OrderedDict.items(value))
    return compound(b"ordered", walk.items(pairs))


def _defaultdict(walk: Walk, value: collections.defaultdict[Any, Any]) -> bytes:
    factory = walk.fields([("default_factory", value.default_factory)])
    return compound(b"defaultdict", [*factory, _dict(walk, value)])


def _counter(walk: Walk, value: collections.Counter[Any]) -> bytes:
    return compound(b"counter", walk.pairs(dict.items(value)))


def _deque(walk: Walk, value: collections.deque[Any]) -> bytes:
    return compound(b"deque", [walk.encode(value.maxlen), *walk.items(collections.deque.__iter__(value))])


def _view(walk: Walk, value: types.MappingProxyType[Any, Any]) -> bytes:
    return compound(b"mappingproxy", walk.pairs(value.items()))


def _slice(walk: Walk, value: slice) -> bytes:
    return compound(
        b"slice", walk.fields([("start", value.start), ("stop", value.stop), ("step", value.step)])
    )


def _array(_: Walk, value: array.array[Any]) -> bytes:
    return compound(b"array", [text(value.typecode), raw(value.tobytes())])


def _datetime(walk: Walk, value: dt.datetime) -> bytes:
    plain = value.replace(tzinfo=None, fold=0)
    return compound(
        b"datetime", [text(plain.isoformat()), integer(value.fold), *walk.fields([("tzinfo", value.tzinfo)])]
    )


def _time(walk: Walk, value: dt.time) -> bytes:
    plain = value.replace(tzinfo=None, fold=0)
    return compound(
        b"time", [text(plain.isoformat()), integer(value.fold), *walk.fields([("tzinfo", value.tzinfo)])]
    )


def _namespace(walk: Walk, value: types.SimpleNamespace) -> bytes:
    return compound(b"namespace", walk.pairs(vars(value).items()))


CONTAINERS: dict[type, Encoder] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    collections.OrderedDict: _ordered,
    collections.defaultdict: _defaultdict,
    collections.Counter: _counter,
    collections.deque: _deque,
    types.MappingProxyType: _view,
    types.SimpleNamespace: _namespace,
    slice: _slice,
    array.array: _array,
    dt.datetime: _datetime,
    dt.time: _time,
}
"""The encoder of each exact type."""
