"""Events to test with: any event at all, and the events of a plausible run."""

from __future__ import annotations

import types
from collections.abc import Iterable
from functools import cache
from itertools import chain
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFinished,
    AttemptStarted,
    CallsFinished,
    Event,
    NodePlanned,
    RunStarted,
)

__all__ = ["any_event", "as_read", "call_event", "ref", "small_events"]

_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=40),
    type(None): st.none(),
}


@cache
def any_event() -> st.SearchStrategy[Event]:
    """Any event of the vocabulary with any values, each kind as likely as the others."""
    return st.one_of(*[_of(kind) for kind in get_args(Event)])


def _calls_finished(calls: list[tuple[Any, ...]], at: float, worker: str) -> CallsFinished:
    attempts, nodes, refs, seconds, cpu_s = zip(*calls, strict=True)
    facts = {"attempts": attempts, "nodes": nodes, "refs": refs, "seconds": seconds, "cpu_s": cpu_s}
    return CallsFinished(at=at, worker=worker, **facts)


def as_read(events: Iterable[Event]) -> list[Event]:
    """The events that a reader of the journal gets."""
    singly = (each.singly() if isinstance(each, CallsFinished) else (each,) for each in events)
    return [*chain.from_iterable(singly)]


def _of(kind: Any) -> st.SearchStrategy[Any]:
    if kind in _LEAVES:
        return _LEAVES[kind]
    if kind is CallsFinished:
        seconds = st.floats(0, 1e6)
        call = st.tuples(_of(int), _of(int), _of(Ref), seconds, seconds)
        return st.builds(_calls_finished, st.lists(call, min_size=1, max_size=3), st.floats(0, 1e9), _of(str))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return st.builds(kind, **{field.name: _of(field.type) for field in msgspec.structs.fields(kind)})
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of(*[_of(part) for part in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is dict:
        return st.dictionaries(_of(args[0]), _of(args[1]), max_size=3)
    assert origin is tuple
    if args[-1] is Ellipsis:
        return st.lists(_of(args[0]), max_size=3).map(tuple)
    return st.tuples(*[_of(part) for part in args])


def ref(number: int = 0, size: int = 10) -> Ref:
    return Ref(f"{number:064x}", size)


def call_event(number: int) -> AttemptFinished:
    """A typical event, different for each number."""
    return AttemptFinished(
        at=float(number), attempt=number, node=0, lo=0, hi=1, ref=ref(number), worker="w1", seconds=1.0
    )


def small_events() -> list[Event]:
    """A few short events of different kinds."""
    return [
        RunStarted(at=1.0, run="r", pipeline="p", entry="f.py:p"),
        NodePlanned(at=2.0, node=0, task="t", key="k"),
        AttemptStarted(at=3.0, attempt=1, node=0, lo=0, hi=1),
        call_event(4),
    ]
