"""Stand-ins for the results of tasks while a pipeline's body is traced.

A promise can be handed to tasks, put into lists, dicts, tuples, sets and dataclasses, returned, hashed and
shown; parts of it are taken by `p["key"]`, `p[0]` and slices. Whatever needs the value raises TraceError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from hooke.base.errors import TraceError
from hooke.pipeline.frames import Place, user_place
from hooke.pipeline.shape import Shape

__all__ = [
    "MapPromise",
    "NoSuchAttributeYet",
    "Origin",
    "Promise",
    "Session",
    "refusal",
]


class NoSuchAttributeYet(TraceError, AttributeError):
    """An attribute of a value that does not exist yet. An AttributeError too: tools probe with hasattr and getattr."""


class Session:
    """One tracing of one pipeline; `is_open` while its body runs."""

    __slots__ = ("is_open", "pipeline")

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        self.is_open = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Origin:
    """The call that a promise comes from: the graph node, its task, the line, and what is known of its result."""

    session: Session
    node: int
    task: str
    place: Place
    shape: Shape | None = None
    """Of the call's result; for a map, of each item."""


class Promise:
    """The result, or a part of the result, of a task that has not run.

    `node` and `path` say which (`path` holds the keys, indexes and slices that lead to the part). They are for
    readers of the finished graph: in the pipeline's body they raise as any other attribute does, because there
    they would be taken for the value's own. What the tracer itself reads begins with `hooke_` for that reason.
    """

    __slots__ = ("hooke_origin", "hooke_path", "hooke_shape")

    hooke_origin: Origin
    hooke_path: tuple[Any, ...]
    hooke_shape: Shape | None

    def __init__(self, origin: Origin, path: tuple[Any, ...] = (), shape: Shape | None = None) -> None:
        object.__setattr__(self, "hooke_origin", origin)
        object.__setattr__(self, "hooke_path", path)
        object.__setattr__(self, "hooke_shape", shape)

    @property
    def node(self) -> int:
        """The graph node whose result this is."""
        if self.hooke_origin.session.is_open:
            raise _no_attribute(self, "node")
        return self.hooke_origin.node

    @property
    def path(self) -> tuple[Any, ...]:
        """The keys, indexes and slices that lead from the node's result to this part of it."""
        if self.hooke_origin.session.is_open:
            raise _no_attribute(self, "path")
        return self.hooke_path

    def __repr__(self) -> str:
        steps = "".join(f"[{_shown_step(step)}]" for step in self.hooke_path)
        return f"<result of task {self.hooke_origin.task!r}{steps}, not run yet>"

    def __getitem__(self, step: Any) -> Any:
        return Promise(self.hooke_origin, (*self.hooke_path, _checked_step(self, step)), self._shape_at(step))

    def __len__(self) -> int:
        if self.hooke_shape is None:
            raise refusal(self, "the length", _INSIDE)
        return len(self.hooke_shape)

    def __iter__(self) -> Iterator[Any]:
        if self.hooke_shape is None:
            raise refusal(self, "the items", _ITERATE)
        return iter([self[index] for index in range(len(self.hooke_shape))])

    def __getattr__(self, name: str) -> Any:
        raise _no_attribute(self, name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise refusal(self, f"to set the attribute {name!r}", _CHANGE)

    def __delattr__(self, name: str) -> NoReturn:
        raise refusal(self, f"to delete the attribute {name!r}", _CHANGE)

    def _shape_at(self, step: Any) -> Shape | None:
        if (
            self.hooke_shape is None
            or not isinstance(step, int)
            or not -len(self.hooke_shape) <= step < len(self.hooke_shape)
        ):
            return None
        return self.hooke_shape[step]


class MapPromise(Promise):
    """The list that `.map` will give.

    Where its length is known before anything runs it is a list of promises in the ways that matter: length,
    truth, iteration, indexes and slices. Else those raise, but for single parts as in Promise.
    """

    __slots__ = ("hooke_items", "hooke_length_from")

    hooke_items: int | None
    hooke_length_from: int

    def __init__(self, origin: Origin, items: int | None, length_from: int) -> None:
        super().__init__(origin)
        object.__setattr__(self, "hooke_items", items)
        object.__setattr__(self, "hooke_length_from", length_from)

    def __repr__(self) -> str:
        count = "items" if self.hooke_items is None else f"{self.hooke_items} items"
        return f"<{count} of task {self.hooke_origin.task!r}, not run yet>"

    def __len__(self) -> int:
        return self._known("the length")

    def __bool__(self) -> bool:
        return self._known("the truth value") > 0

    def __iter__(self) -> Iterator[Any]:
        return map(self._item, range(self._known("the items")))

    def __reversed__(self) -> Iterator[Any]:
        return map(self._item, reversed(range(self._known("the items"))))

    def __getitem__(self, step: Any) -> Any:
        checked = _checked_step(self, step)
        if self.hooke_items is None:
            return Promise(
                self.hooke_origin, (checked,), self.hooke_origin.shape if isinstance(checked, int) else None
            )
        if isinstance(checked, slice):
            return [self._item(index) for index in range(self.hooke_items)[checked]]
        if not isinstance(checked, int):
            raise refusal(self, f"the item {checked!r}", "a map gives a list: index it by a whole number")
        try:
            return self._item(range(self.hooke_items)[checked])
        except IndexError:
            raise IndexError(
                f"item {checked} of {self.hooke_origin.task}.map, which has {self.hooke_items} items"
            ) from None

    def _item(self, index: int) -> Promise:
        return Promise(self.hooke_origin, (index,), self.hooke_origin.shape)

    def _known(self, needs: str) -> int:
        if self.hooke_items is None:
            raise refusal(self, needs, _DYNAMIC)
        return self.hooke_items


def refusal(promise: Promise, needs: str, mend: str = "") -> TraceError:
    """The error for an operation that needs the value, with the user's line. `needs` completes "... needs"."""
    return TraceError(**_told(promise, needs, mend))


def _told(promise: Promise, needs: str, mend: str) -> dict[str, Any]:
    origin = promise.hooke_origin
    steps = "".join(f"[{_shown_step(step)}]" for step in promise.hooke_path)
    thing = f"part {steps} of task {origin.task!r}'s result" if steps else f"result of task {origin.task!r}"
    return {
        "what": f"pipeline {origin.session.pipeline!r} needs {needs} of the {thing}, which does not exist yet",
        "where": str(user_place()),
        "why": "a pipeline's body is run once, before its tasks, to draw the graph; "
        f"{origin.task!r} was called at {origin.place.file}:{origin.place.line}",
        "mend": mend or _INSIDE,
    }


def _no_attribute(promise: Promise, name: str) -> NoSuchAttributeYet:
    return NoSuchAttributeYet(**_told(promise, f"the attribute {name!r}", _ATTRIBUTE))


def _checked_step(promise: Promise, step: Any) -> Any:
    """A key that can be written into the graph: text, bytes, a number, None, or a slice of whole numbers."""
    if isinstance(step, str | bytes | int | float | bool | None):
        return step
    if isinstance(step, slice):
        return slice(*(_bound(promise, bound) for bound in (step.start, step.stop, step.step)))
    if not isinstance(step, Promise) and hasattr(type(step), "__index__"):
        return step.__index__()
    shown = repr(step) if isinstance(step, Promise) else type(step).__name__
    raise refusal(
        promise, f"the part at {shown}", "index by text, a whole number or a slice; do the rest inside a task"
    )


def _bound(promise: Promise, bound: Any) -> int | None:
    if bound is None:
        return None
    step = _checked_step(promise, bound)
    if not isinstance(step, int):
        raise refusal(promise, f"a slice at {bound!r}", "slice by whole numbers")
    return step


def _shown_step(step: Any) -> str:
    if not isinstance(step, slice):
        return repr(step)
    text = ":".join("" if bound is None else str(bound) for bound in (step.start, step.stop))
    return text if step.step is None else f"{text}:{step.step}"


_INSIDE = "put it inside a task, or use .map to do it for each item of a list"
_ITERATE = (
    "task.map(result) runs a task for each item; to unpack a result of fixed length, annotate the task "
    "with -> tuple[A, B]; else put the loop inside a task"
)
_DYNAMIC = (
    "the list that this map goes over is itself a result: hand the whole map to a task, map another task over "
    "it, or put the loop inside a task"
)
_ATTRIBUTE = (
    "read it inside a task; parts of a tuple, list or dict are taken by result[0] or result['key']; "
    "a task maps over items by task.map(...)"
)
_CHANGE = "return the changed value from a task"
_COPY = "pass it to a task as an argument, in a list, tuple, set, dict or dataclass; closures and objects of your own cannot carry it"

_ARITHMETIC = [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "divmod",
    "pow",
    "matmul",
    "lshift",
    "rshift",
    "and",
    "or",
    "xor",
]
_UNARY = [
    "neg",
    "pos",
    "abs",
    "invert",
    "round",
    "trunc",
    "floor",
    "ceil",
    "int",
    "float",
    "complex",
    "index",
]
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

_REFUSED: dict[str, tuple[str, str]] = {
    "__bool__": ("the truth value (if, while, and, or, not, assert)", _INSIDE),
    "__reversed__": ("the items", _ITERATE),
    "__contains__": ("to look (in) among the items", _INSIDE),
    "__next__": ("the next item", _ITERATE),
    "__str__": (
        "the text (str, print, format)",
        "print or format it inside a task; repr(result) is allowed here",
    ),
    "__format__": (
        "the text (an f-string or format)",
        "print or format it inside a task; repr(result) is allowed here",
    ),
    "__bytes__": ("the bytes", _INSIDE),
    "__fspath__": ("the path", "open or join it inside a task"),
    "__call__": ("to call", "call it inside a task"),
    "__enter__": ("to enter (with)", "use `with` inside a task"),
    "__exit__": ("to enter (with)", "use `with` inside a task"),
    "__aenter__": ("to enter (async with)", "use `async with` inside a task"),
    "__aexit__": ("to enter (async with)", "use `async with` inside a task"),
    "__await__": ("to await", "tasks are awaited by Hooke: use the result as it is"),
    "__aiter__": ("the items (async for)", _ITERATE),
    "__setitem__": ("to set an item", _CHANGE),
    "__delitem__": ("to delete an item", _CHANGE),
    "__array__": ("the array (NumPy)", _INSIDE),
    "__array_ufunc__": ("the array (NumPy)", _INSIDE),
    "__array_function__": ("the array (NumPy)", _INSIDE),
    "__copy__": ("a copy", _COPY),
    "__deepcopy__": ("a deep copy", _COPY),
    "__reduce_ex__": ("a pickle", _COPY),
    **{f"__{name}__": (f"a comparison ({sign})", _INSIDE) for name, sign in _COMPARISONS.items()},
    **{f"__{name}__": (f"the number (__{name}__)", _INSIDE) for name in _UNARY},
    **{
        f"__{prefix}{name}__": (f"arithmetic (__{name}__)", _INSIDE)
        for name in _ARITHMETIC
        for prefix in ("", "r", "i")
    },
}


def _refusing(needs: str, mend: str) -> Callable[..., NoReturn]:
    def operation(self: Promise, *_args: object, **_kwargs: object) -> NoReturn:
        raise refusal(self, needs, mend)

    return operation


for _name, (_needs, _mend) in _REFUSED.items():
    setattr(Promise, _name, _refusing(_needs, _mend))
Promise.__hash__ = object.__hash__  # type: ignore[method-assign]
