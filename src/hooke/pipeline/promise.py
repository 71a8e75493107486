"""Promises stand for the results of tasks while a pipeline's body is traced.

A promise can be passed to tasks, put into lists, dicts, tuples, sets and dataclasses, returned, hashed and shown.
`p["key"]`, `p[0]` and slices give parts of it. An operation that needs the value raises TraceError.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn, TypeAlias, get_args, get_origin

from hooke.base.errors import TraceError
from hooke.base.formats import short_repr
from hooke.base.syntax import parse_python
from hooke.base.user_code import SourceLine, user_place

__all__ = [
    "CARRY",
    "CHANGE",
    "DYNAMIC",
    "INSIDE",
    "ITERATE",
    "JOIN",
    "PARTIAL",
    "UNSUPPORTED",
    "MapPromise",
    "NoSuchAttributeYet",
    "Promise",
    "PromiseOrigin",
    "Shape",
    "TraceSession",
    "needs_value_error",
    "no_attribute_error",
    "result_shape",
    "short_argument",
    "shown_path",
]


# --- Operations that need the value: special method -> what it needs, and the fix.

INSIDE = "put it inside a task, or use .map to do it for each item of a list"
ITERATE = (
    "use task.map(result) to run a task for each item; to unpack a result of fixed length, annotate the task "
    "with -> tuple[A, B]; otherwise put the loop inside a task"
)
DYNAMIC = (
    "the length of this map is known only at run time: pass the whole map to a task, map another task over "
    "it, or put the loop inside a task"
)
PARTIAL = (
    'the failed items of a map with on_error="continue" are left out, and which these are is known only at run time: pass '
    "the whole list to a task, or map another task over it"
)
CHANGE = "return the changed value from a task"
JOIN = "join lists of results as [*one, *other]; add values inside a task"

CARRY = (
    "pass it to a task as an argument, or in a list, tuple, set, dict or dataclass; closures and other objects "
    "cannot carry it"
)

_TEXT = "print or format it inside a task; repr(result) is allowed here"

_ARITHMETIC = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "floordiv": "//",
    "mod": "%",
    "divmod": "divmod",
    "pow": "**",
    "matmul": "@",
    "lshift": "<<",
    "rshift": ">>",
    "and": "&",
    "or": "|",
    "xor": "^",
}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_NUMBERS = {
    "neg": "-",
    "pos": "+",
    "abs": "abs",
    "invert": "~",
    "round": "round",
    "trunc": "trunc",
    "floor": "floor",
    "ceil": "ceil",
    "int": "int",
    "float": "float",
    "complex": "complex",
    "index": "as an index, a count or a size",
}

UNSUPPORTED: dict[str, tuple[str, str]] = {
    "__bool__": ("the truth value (if, while, and, or, not, assert)", INSIDE),
    "__reversed__": ("the items", ITERATE),
    "__contains__": ("membership (in)", INSIDE),
    "__next__": ("the next item", ITERATE),
    "__str__": ("the text (str, print)", _TEXT),
    "__format__": ("the text (an f-string, format)", _TEXT),
    "__bytes__": ("the bytes", INSIDE),
    "__fspath__": ("the path", "open or join it inside a task"),
    "__call__": ("a call", "call it inside a task"),
    "__enter__": ("the context (with)", "use `with` inside a task"),
    "__exit__": ("the context (with)", "use `with` inside a task"),
    "__aenter__": ("the context (async with)", "use `async with` inside a task"),
    "__aexit__": ("the context (async with)", "use `async with` inside a task"),
    "__await__": ("an await", "use the result without await: Hooke waits for tasks by itself"),
    "__aiter__": ("the items (async for)", ITERATE),
    "__setitem__": ("the assignment of an item", CHANGE),
    "__delitem__": ("the deletion of an item", CHANGE),
    "__array__": ("the array (NumPy)", INSIDE),
    "__array_ufunc__": ("the array (NumPy)", INSIDE),
    "__array_function__": ("the array (NumPy)", INSIDE),
    "__copy__": ("a copy", CARRY),
    "__deepcopy__": ("a deep copy", CARRY),
    "__reduce_ex__": ("a pickle", CARRY),
    **{f"__{name}__": (f"a comparison ({sign})", INSIDE) for name, sign in _COMPARISONS.items()},
    **{f"__{name}__": (f"the number ({sign})", INSIDE) for name, sign in _NUMBERS.items()},
    **{
        f"__{prefix}{name}__": (f"arithmetic ({sign})", INSIDE)
        for name, sign in _ARITHMETIC.items()
        for prefix in ("", "r", "i")
    },
}
"""Completes "the pipeline needs ... of the result"."""


# --- The shape of a result, by its annotation: how many parts a fixed-length tuple has.

Shape: TypeAlias = tuple["Shape | None", ...]
"""One entry a part: its shape, or None if it is not a fixed-length tuple."""


def result_shape(function: Callable[..., Any]) -> Shape | None:
    """The shape of a function's result by its annotation `tuple[A, B]` or a NamedTuple; else None."""
    annotations = getattr(inspect.unwrap(function), "__annotations__", None)
    annotation = annotations.get("return") if isinstance(annotations, dict) else None
    if isinstance(annotation, str):
        return _of_text(annotation, _namespace(function))
    return _of_type(annotation)


def _of_type(annotation: Any) -> Shape | None:
    if get_origin(annotation) is tuple:
        parts = get_args(annotation)
        return None if Ellipsis in parts else tuple(map(_of_type, parts))
    if isinstance(annotation, str):
        return _of_text(annotation, {})
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        hints = getattr(annotation, "__annotations__", {})
        return tuple(_of_type(hints.get(name)) for name in annotation._fields)
    return None


def _of_text(annotation: str, namespace: dict[str, Any]) -> Shape | None:
    """Read by syntax, because the names in it may exist only for type checkers."""
    try:
        tree = parse_python(annotation.strip(), "eval").body
    except SyntaxError:
        return None
    return _of_tree(tree, namespace)


def _of_tree(tree: ast.expr, namespace: dict[str, Any]) -> Shape | None:
    if isinstance(tree, ast.Subscript) and _last_name(tree.value) in {"tuple", "Tuple"}:
        parts = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        if any(isinstance(part, ast.Constant) and part.value is Ellipsis for part in parts):
            return None
        return tuple(_of_tree(part, namespace) for part in parts)
    if isinstance(tree, ast.Name):
        return _of_type(namespace.get(tree.id))
    return None


def _last_name(tree: ast.expr) -> str:
    return tree.attr if isinstance(tree, ast.Attribute) else getattr(tree, "id", "")


def _namespace(function: Callable[..., Any]) -> dict[str, Any]:
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    own = getattr(inspect.unwrap(function), "__globals__", None)
    return own if own is not None else getattr(module, "__dict__", {})


# --- The origin of a promise, and the errors for operations that need its value.

_ATTRIBUTE = (
    "read it inside a task; result[0] or result['key'] gives a part of a tuple, list or dict; "
    "task.map(...) runs a task for each item"
)


class NoSuchAttributeYet(TraceError, AttributeError):
    """An attribute of a value that does not exist yet. An AttributeError too: tools probe with hasattr and getattr."""


class TraceSession:
    """One tracing of one pipeline; `is_open` while its body runs."""

    __slots__ = ("is_open", "pipeline")

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        self.is_open = True


# Not frozen, which would take four times as long for each call; nor a struct, since `import hooke` does without msgspec.
@dataclass(slots=True, kw_only=True, eq=False)
class PromiseOrigin:
    """What calls of a task on a line have in common: the task, the line, and the known shape of a result."""

    session: TraceSession
    task: str
    place: SourceLine
    shape: Shape | None = None
    """Of the call's result; for a map, of each item."""


def needs_value_error(origin: PromiseOrigin, path: tuple[Any, ...], needs: str, fix: str) -> TraceError:
    """The error for an operation that needs the value, with the user's line. `needs` completes "the pipeline needs ..."."""
    return TraceError(**_told(origin, path, needs, fix))


def no_attribute_error(origin: PromiseOrigin, path: tuple[Any, ...], name: str) -> NoSuchAttributeYet:
    """The error for reading the attribute `name`."""
    return NoSuchAttributeYet(**_told(origin, path, f"the attribute {name!r}", _ATTRIBUTE))


def shown_path(path: tuple[Any, ...]) -> str:
    """A path as it is written behind a name: `[0]['key'][1:3]`."""
    return "".join(f"[{_shown_step(step)}]" for step in path)


def short_argument(value: Any) -> str:
    """An argument of a call as short text."""
    if type(value) is Promise and not value.hooke_path:
        return _shown_result(value.hooke_origin.task)
    return short_repr(value)


@cache
def _shown_result(task: str) -> str:
    """As `short_repr` of the result, which takes ten times as long, and may be an argument of each call."""
    origin = PromiseOrigin(session=TraceSession(""), task=task, place=SourceLine("", 0))
    return short_repr(Promise(origin, 0))


def _told(origin: PromiseOrigin, path: tuple[Any, ...], needs: str, fix: str) -> dict[str, str]:
    part = f"part {shown_path(path)} of task {origin.task!r}'s result"
    thing = part if path else f"result of task {origin.task!r}"
    called = f"{origin.task!r} was called at {origin.place.file}:{origin.place.line}"
    return {
        "what": f"pipeline {origin.session.pipeline!r} needs {needs} of the {thing}, which does not exist yet",
        "where": str(user_place()),
        "why": f"a pipeline's body is run once, before its tasks, to draw the graph; {called}",
        "fix": fix,
    }


def _shown_step(step: Any) -> str:
    if not isinstance(step, slice):
        return repr(step)
    text = ":".join("" if bound is None else str(bound) for bound in (step.start, step.stop))
    return text if step.step is None else f"{text}:{step.step}"


class Promise:
    """The result of a task that has not run, or a part of it.

    `node` and `path` (keys, indexes and slices) identify it for readers of the finished graph. In the pipeline's body
    they raise like any other attribute, because a user would take them for attributes of the value. The tracer
    itself reads names that begin with `hooke_`.
    """

    __slots__ = ("hooke_node", "hooke_origin", "hooke_path", "hooke_shape")

    hooke_origin: PromiseOrigin
    hooke_node: int
    hooke_path: tuple[Any, ...]
    hooke_shape: Shape | None

    def __init__(
        self, origin: PromiseOrigin, node: int, path: tuple[Any, ...] = (), shape: Shape | None = None
    ) -> None:
        object.__setattr__(self, "hooke_origin", origin)
        object.__setattr__(self, "hooke_node", node)
        object.__setattr__(self, "hooke_path", path)
        object.__setattr__(self, "hooke_shape", shape)

    @property
    def node(self) -> int:
        """The graph node whose result this is."""
        if self.hooke_origin.session.is_open:
            raise no_attribute_error(self.hooke_origin, self.hooke_path, "node")
        return self.hooke_node

    @property
    def path(self) -> tuple[Any, ...]:
        """The keys, indexes and slices that lead from the node's result to this part of it."""
        if self.hooke_origin.session.is_open:
            raise no_attribute_error(self.hooke_origin, self.hooke_path, "path")
        return self.hooke_path

    def __repr__(self) -> str:
        return f"<result of task {self.hooke_origin.task!r}{shown_path(self.hooke_path)}, not run yet>"

    def __getitem__(self, step: Any) -> Any:
        path = (*self.hooke_path, _checked_step(self, step))
        return Promise(self.hooke_origin, self.hooke_node, path, self._shape_at(step))

    def __len__(self) -> int:
        if self.hooke_shape is None:
            raise _refusal(self, "the length", INSIDE)
        return len(self.hooke_shape)

    def __iter__(self) -> Iterator[Any]:
        if self.hooke_shape is None:
            raise _refusal(self, "the items", ITERATE)
        return iter([self[index] for index in range(len(self.hooke_shape))])

    def __getattr__(self, name: str) -> Any:
        raise no_attribute_error(self.hooke_origin, self.hooke_path, name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _refusal(self, f"the assignment of attribute {name!r}", CHANGE)

    def __delattr__(self, name: str) -> NoReturn:
        raise _refusal(self, f"the deletion of attribute {name!r}", CHANGE)

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

    If its length is known before anything runs, it acts as a list of promises: length, truth, iteration, indexes and
    slices work. Otherwise they raise, except single parts as in Promise. If it may lack failed items, all of them raise:
    a place in the list would not say which item it is.
    """

    __slots__ = ("hooke_items", "hooke_length_from", "hooke_partial")

    hooke_items: int | None
    """With the failed ones."""
    hooke_length_from: int
    hooke_partial: bool

    def __init__(
        self, origin: PromiseOrigin, node: int, items: int | None, length_from: int, *, partial: bool = False
    ) -> None:
        super().__init__(origin, node)
        object.__setattr__(self, "hooke_items", items)
        object.__setattr__(self, "hooke_length_from", length_from)
        object.__setattr__(self, "hooke_partial", partial)

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

    def __add__(self, other: object) -> NoReturn:
        raise _refusal(self, "arithmetic (+)", JOIN)

    def __radd__(self, other: object) -> NoReturn:
        raise _refusal(self, "arithmetic (+)", JOIN)

    def __getitem__(self, step: Any) -> Any:
        checked = _checked_step(self, step)
        if self.hooke_partial:
            raise _refusal(self, f"the part {shown_path((checked,))}", PARTIAL)
        if self.hooke_items is None:
            shape = self.hooke_origin.shape if isinstance(checked, int) else None
            return Promise(self.hooke_origin, self.hooke_node, (checked,), shape)
        if isinstance(checked, slice):
            return [self._item(index) for index in range(self.hooke_items)[checked]]
        if not isinstance(checked, int):
            raise _refusal(self, f"the item {checked!r}", "a map gives a list: index it by a whole number")
        try:
            return self._item(range(self.hooke_items)[checked])
        except IndexError:
            raise IndexError(
                f"item {checked} of {self.hooke_origin.task}.map, which has {self.hooke_items} items"
            ) from None

    def _item(self, index: int) -> Promise:
        return Promise(self.hooke_origin, self.hooke_node, (index,), self.hooke_origin.shape)

    def _known(self, needs: str) -> int:
        if self.hooke_partial:
            raise _refusal(self, needs, PARTIAL)
        if self.hooke_items is None:
            raise _refusal(self, needs, DYNAMIC)
        return self.hooke_items


def _checked_step(promise: Promise, step: Any) -> Any:
    """A key that can be written into the graph: text, bytes, a number, None, or a slice of whole numbers."""
    if isinstance(step, str | bytes | int | float | bool | None):
        return step
    if isinstance(step, slice):
        return slice(*(_bound(promise, bound) for bound in (step.start, step.stop, step.step)))
    if not isinstance(step, Promise) and hasattr(type(step), "__index__"):
        return step.__index__()
    shown = repr(step) if isinstance(step, Promise) else type(step).__name__
    raise _refusal(
        promise, f"the part at {shown}", "index by text, a whole number or a slice; do the rest inside a task"
    )


def _bound(promise: Promise, bound: Any) -> int | None:
    if bound is None:
        return None
    step = _checked_step(promise, bound)
    if not isinstance(step, int):
        raise _refusal(promise, f"a slice at {bound!r}", "slice by whole numbers")
    return step


def _refusal(promise: Promise, needs: str, fix: str) -> TraceError:
    return needs_value_error(promise.hooke_origin, promise.hooke_path, needs, fix)


def _refusing(needs: str, fix: str) -> Callable[..., NoReturn]:
    def operation(self: Promise, *_args: object, **_kwargs: object) -> NoReturn:
        raise _refusal(self, needs, fix)

    return operation


for _name, (_needs, _fix) in UNSUPPORTED.items():
    setattr(Promise, _name, _refusing(_needs, _fix))
Promise.__hash__ = object.__hash__  # type: ignore[method-assign]
