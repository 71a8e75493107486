"""Promises inside nestings of lists, tuples, sets, dicts and dataclasses: finding them, and keeping the nesting as it was.

Both are made for lists of a million plain values: what holds no container is passed over in C.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

from hooke.pipeline.promise import Promise

__all__ = ["copy_nesting", "promises_in"]

_LEAVES = frozenset({int, float, str, bytes, bool, complex, type(None), range})
_MUTABLE = frozenset({list, dict, set})
_COPIED = frozenset({list, dict, set, tuple})


def promises_in(value: object) -> list[Promise]:
    """The promises in a nesting, in an order that depends on the nesting alone; those in other objects are not seen."""
    found: list[Promise] = []
    seen: set[int] = set()
    level: list[Any] = [value]
    while level:
        deeper: list[Any] = []
        for kind in dict.fromkeys(map(type, level)):
            members = [item for item in level if type(item) is kind]
            if issubclass(kind, Promise):
                found.extend(members)
            else:
                deeper.extend(_inside(kind, members, seen))
        level = deeper
    return found


def _inside(kind: type, members: Sequence[Any], seen: set[int]) -> Iterable[Any]:
    """What lies directly inside `members`, all of one `kind`, but for leaves and containers seen before."""
    if issubclass(kind, tuple):
        return _not_leaves(chain.from_iterable(members))
    if issubclass(kind, dict):
        new = _unseen(members, seen)
        return _not_leaves(chain(chain.from_iterable(new), chain.from_iterable(map(dict.values, new))))
    if issubclass(kind, (list, set, frozenset)):
        return _not_leaves(chain.from_iterable(_unseen(members, seen)))
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        return _not_leaves(getattr(item, name, None) for item in _unseen(members, seen) for name in names)
    return ()


def _not_leaves(items: Iterable[Any]) -> list[Any]:
    return [item for item in items if type(item) not in _LEAVES]


def _unseen(members: Sequence[Any], seen: set[int]) -> list[Any]:
    """Those not seen before: a nesting may contain itself, but only through what can change."""
    new = {id(item): item for item in members if id(item) not in seen}
    seen.update(new)
    return list(new.values())


def copy_nesting(value: Any, copies: dict[int, Any] | None = None) -> Any:
    """`value` with its lists, dicts and sets copied, so that what the body does to them later is not seen by the graph."""
    if type(value) not in _COPIED:
        return value
    copies = {} if copies is None else copies
    if id(value) not in copies:
        _copy_into(value, copies)
    return copies[id(value)]


def _copy_into(value: Any, copies: dict[int, Any]) -> None:
    kind = type(value)
    copy = copies[id(value)] = value if kind is tuple else value.copy()
    if kind is set:
        return
    items = value.values() if kind is dict else value
    nested = [item for item in items if type(item) in _COPIED]
    if not nested:
        return
    again = _copy_flat if _are_flat(nested) else copy_nesting
    if kind is dict:
        copy.update({key: again(item, copies) for key, item in value.items()})
    elif kind is list:
        copy[:] = [again(item, copies) for item in value]
    else:
        copies[id(value)] = tuple([again(item, copies) for item in value])


def _are_flat(nested: Sequence[Any]) -> bool:
    """Whether the containers hold no containers themselves."""
    return _COPIED.isdisjoint(
        map(type, chain.from_iterable(item.values() if type(item) is dict else item for item in nested))
    )


def _copy_flat(value: Any, _copies: object) -> Any:
    return value.copy() if type(value) in _MUTABLE else value
