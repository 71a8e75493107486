"""Stand-ins for the results of tasks while a pipeline's body is traced.

A promise can be handed to tasks, put into lists, dicts, tuples, sets and dataclasses, returned, hashed and
shown; parts of it are taken by `p["key"]`, `p[0]` and slices. Whatever needs the value raises TraceError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from hooke.base.errors import TraceError
from hooke.pipeline.origin import Origin, no_attribute, refusal, shown_path
from hooke.pipeline.refused import CHANGE, DYNAMIC, INSIDE, ITERATE, JOIN, REFUSED
from hooke.pipeline.shape import Shape

__all__ = ["MapPromise", "Promise"]


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
            raise no_attribute(self.hooke_origin, self.hooke_path, "node")
        return self.hooke_origin.node

    @property
    def path(self) -> tuple[Any, ...]:
        """The keys, indexes and slices that lead from the node's result to this part of it."""
        if self.hooke_origin.session.is_open:
            raise no_attribute(self.hooke_origin, self.hooke_path, "path")
        return self.hooke_path

    def __repr__(self) -> str:
        return f"<result of task {self.hooke_origin.task!r}{shown_path(self.hooke_path)}, not run yet>"

    def __getitem__(self, step: Any) -> Any:
        return Promise(self.hooke_origin, (*self.hooke_path, _checked_step(self, step)), self._shape_at(step))

    def __len__(self) -> int:
        if self.hooke_shape is None:
            raise _refusal(self, "the length", INSIDE)
        return len(self.hooke_shape)

    def __iter__(self) -> Iterator[Any]:
        if self.hooke_shape is None:
            raise _refusal(self, "the items", ITERATE)
        return iter([self[index] for index in range(len(self.hooke_shape))])

    def __getattr__(self, name: str) -> Any:
        raise no_attribute(self.hooke_origin, self.hooke_path, name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _refusal(self, f"to set the attribute {name!r}", CHANGE)

    def __delattr__(self, name: str) -> NoReturn:
        raise _refusal(self, f"to delete the attribute {name!r}", CHANGE)

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

    def __add__(self, other: object) -> NoReturn:
        raise _refusal(self, "arithmetic (+)", JOIN)

    def __radd__(self, other: object) -> NoReturn:
        raise _refusal(self, "arithmetic (+)", JOIN)

    def __getitem__(self, step: Any) -> Any:
        checked = _checked_step(self, step)
        if self.hooke_items is None:
            shape = self.hooke_origin.shape if isinstance(checked, int) else None
            return Promise(self.hooke_origin, (checked,), shape)
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
        return Promise(self.hooke_origin, (index,), self.hooke_origin.shape)

    def _known(self, needs: str) -> int:
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


def _refusal(promise: Promise, needs: str, mend: str) -> TraceError:
    return refusal(promise.hooke_origin, promise.hooke_path, needs, mend)


def _refusing(needs: str, mend: str) -> Callable[..., NoReturn]:
    def operation(self: Promise, *_args: object, **_kwargs: object) -> NoReturn:
        raise _refusal(self, needs, mend)

    return operation


for _name, (_needs, _mend) in REFUSED.items():
    setattr(Promise, _name, _refusing(_needs, _mend))
Promise.__hash__ = object.__hash__  # type: ignore[method-assign]
