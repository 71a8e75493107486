"""Binds arguments to parameters, checks the iterables of `.map`, and finds promises in nested arguments."""

from __future__ import annotations

import inspect
import itertools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from inspect import Parameter, Signature
from itertools import chain
from typing import Any

from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import did_you_mean
from hooke.base.user_code import user_place
from hooke.pipeline.promise import MapPromise, Promise

__all__ = [
    "LEAVES",
    "MUTABLE",
    "CallBinder",
    "Successes",
    "as_columns",
    "bind_call",
    "bind_map",
    "check_lengths",
    "copy_nesting",
    "plain_rows",
    "promises_in",
    "signature_of",
    "unbind",
    "warn_of_list",
]


_ANYTHING = Signature(
    [Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)]
)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def signature_of(function: Callable[..., Any]) -> Signature:
    """The signature; `(*args, **kwargs)` for a C function without one."""
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        return _ANYTHING


def bind_call(
    subject: str, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameter -> value, defaults applied; `*args` as a tuple and `**kwargs` as a dict under their own names.

    `subject` names what is called, for the UsageError that says which parameter is wrong.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise _misbound(subject, signature, args, kwargs, error) from None
    bound.apply_defaults()
    return dict(bound.arguments)


def unbind(signature: Signature, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of the call that `bind_call` gave `arguments` for."""
    bound = inspect.BoundArguments(signature, dict(arguments))  # type: ignore[arg-type]
    return bound.args, bound.kwargs


class CallBinder:
    """Binds calls to one signature. What it finds out of the signature once makes a call several times as fast as `bind_call`."""

    __slots__ = ("_defaults", "_keywords", "_names", "_positional", "_signature", "subject")

    def __init__(self, subject: str, signature: Signature) -> None:
        parameters = list(signature.parameters.values())
        self.subject = subject
        self._signature = signature
        self._names = [parameter.name for parameter in parameters]
        self._positional = sum(parameter.kind in _POSITIONAL for parameter in parameters)
        """How many arguments may go by position; below 0 for a signature with `*args` or `**kwargs`, which goes the general way."""
        self._keywords = {parameter.name for parameter in parameters if parameter.kind in _KEYWORD}
        self._defaults = {
            parameter.name: parameter.default
            for parameter in parameters
            if parameter.default is not Parameter.empty
        }
        if any(parameter.kind not in (*_POSITIONAL, Parameter.KEYWORD_ONLY) for parameter in parameters):
            self._positional = -1

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """As `bind_call`."""
        given = len(args)
        if given <= self._positional:
            bound = dict(zip(self._names, args, strict=False))
            if given == len(self._names) and not kwargs:
                return bound
            left = len(kwargs)
            for name in self._names[given:]:
                if name in kwargs and name in self._keywords:
                    bound[name] = kwargs[name]
                    left -= 1
                elif name in self._defaults:
                    bound[name] = self._defaults[name]
            if not left and len(bound) == len(self._names):
                return bound
        return bind_call(
            self.subject, self._signature, args, kwargs
        )  # which says what is wrong, if anything is

    def unbind(self, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As `unbind`."""
        if self._positional == len(self._names) == len(arguments):
            return tuple([arguments[name] for name in self._names]), {}
        return unbind(self._signature, arguments)


def bind_map(
    subject: str, signature: Signature, columns: int, constants: Mapping[str, Any]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The parameters for `columns` positional iterables, and keyword -> value for the others.

    An item is called as `function(*items, **keywords)`. The keywords include defaults, except those of
    positional-only parameters, which cannot be passed by keyword.
    """
    arguments = bind_call(subject, signature, [None] * columns, constants)
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind in _POSITIONAL and len(names) < columns:
            names.append(parameter.name)
        elif parameter.kind is Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{index}]" for index in range(columns - len(names))]
    return tuple(names), _keywords(signature, arguments, taken=names)


def _keywords(signature: Signature, arguments: Mapping[str, Any], *, taken: Sequence[str]) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in _KEYWORD and name not in taken:
            keywords[name] = arguments[name]
        elif parameter.kind is Parameter.VAR_KEYWORD:
            keywords |= arguments[name]
    return keywords


def _misbound(
    subject: str, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], error: TypeError
) -> UsageError:
    parameters = signature.parameters.values()
    positional = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    keyword = [parameter.name for parameter in parameters if parameter.kind in _KEYWORD]
    unknown = [name for name in kwargs if name not in keyword]
    what = f"{subject}: {error}"
    fix = ""
    if unknown and not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        what = f"{subject} has no parameter {unknown[0]!r}"
        fix = did_you_mean(unknown[0], keyword, form="{}=")
    elif len(args) > len(positional) and not any(p.kind is Parameter.VAR_POSITIONAL for p in parameters):
        what = f"{subject} takes {len(positional)} positional arguments, but got {len(args)}"
    elif twice := [name for name in positional[: len(args)] if name in kwargs]:
        what = f"{subject} got two values for its parameter {twice[0]!r}"
        fix = "give it once, by position or by name; "
    elif missing := _missing(signature, len(args), kwargs):
        what = f"{subject} lacks a value for its parameter{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}"
    return UsageError(what, where=str(user_place()), fix=f"{fix}its parameters are {_shown(signature)}")


def _missing(signature: Signature, given: int, kwargs: Mapping[str, Any]) -> list[str]:
    required = [
        parameter
        for index, parameter in enumerate(signature.parameters.values())
        if parameter.default is Parameter.empty
        and parameter.kind in (*_POSITIONAL, *_KEYWORD)
        and not (index < given and parameter.kind in _POSITIONAL)
    ]
    return [parameter.name for parameter in required if parameter.name not in kwargs]


def _shown(signature: Signature) -> str:
    bare = [p.replace(annotation=Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=Signature.empty))


# --- The iterables of `.map`: kept if they can be sliced, else listed.


def as_columns(task: str, iterables: Sequence[Any], constants: Mapping[str, Any]) -> list[Any]:
    """One column an iterable: a list, tuple, range, NumPy array, or promise of a list.

    Generators and other iterables are listed; a promise of a tuple of known length becomes its parts.
    Raises UsageError for no iterable, and for one that cannot be iterated or never ends.
    """
    if not iterables:
        given = f", only the keyword {next(iter(constants))!r}" if constants else ""
        raise UsageError(
            f"{task}.map got no items{given}",
            where=str(user_place()),
            fix="give the items by position, as in task.map(items, same_for_all=1); a keyword gives every item the same value",
        )
    return [_as_column(task, iterable) for iterable in iterables]


def check_lengths(task: str, lengths: Sequence[int]) -> None:
    """Raise UsageError unless the lengths are equal."""
    if len(set(lengths)) > 1:
        raise UsageError(
            f"{task}.map got iterables of different lengths: {', '.join(map(str, lengths))}",
            where=str(user_place()),
            fix="give iterables of equal length; pass a value that is the same for every item as a keyword",
        )


def warn_of_list(
    task: str, parameters: Mapping[str, Parameter], constants: Mapping[str, Any], items: int | None
) -> None:
    """Warn of a keyword that has a value for each item although its parameter takes one: each item gets them all."""
    for name, value in constants.items():
        parameter = parameters.get(name)
        if parameter is None or items is None or items < 2 or not _takes_one(parameter):
            continue
        if (type(value) in {list, tuple, range} or _is_array(value)) and len(value) == items:
            place = user_place()
            warnings.warn_explicit(
                f"{task}.map got {items} values as the keyword {name}, and each of the {items} items gets them all; to give each item one of "
                f"them, pass them by position",
                UserWarning,
                place.file,
                place.line,
            )


_ONE = frozenset({"bool", "float", "int", "str"})
"""Names of types whose values are no lists."""


def _takes_one(parameter: Parameter) -> bool:
    """Whether a parameter takes a number or text, as its annotation or its default says."""
    annotation = getattr(parameter.annotation, "__name__", parameter.annotation)
    if parameter.annotation is not Parameter.empty:
        return str(annotation).removesuffix(" | None") in _ONE
    return type(parameter.default).__name__ in _ONE


class Successes(list[Any]):
    """What a map with `on_error="continue"` gives outside a run, if items failed: the list of the others.

    It knows their places among all items, so that another map pairs them with the right items of other lists, as in a run.
    """

    __slots__ = ("places", "total")

    def __init__(self, results: Iterable[Any] = (), *, places: Sequence[int] = (), total: int = 0) -> None:
        super().__init__(results)
        self.places = tuple(places)
        self.total = total

    def by_place(self) -> dict[int, Any]:
        """Place -> result."""
        return dict(zip(self.places, self, strict=True))


def plain_rows(
    task: str, iterables: Sequence[Any], constants: Mapping[str, Any]
) -> tuple[list[int], Iterator[tuple[Any, ...]], int]:
    """For a map outside a run: the places of the items that it calls, their arguments, and the number of all items.

    An item that an earlier map left out is not among them. Raises UsageError as `as_columns` and `check_lengths` do.
    """
    columns: list[Any] = [
        iterable.by_place()
        # A list that was changed since is a list like others.
        if isinstance(iterable, Successes) and len(iterable) == len(iterable.places)
        else column
        for iterable, column in zip(iterables, as_columns(task, iterables, constants), strict=True)
    ]
    lengths = [
        iterable.total if type(column) is dict else len(column)
        for iterable, column in zip(iterables, columns, strict=True)
    ]
    check_lengths(task, lengths)
    lacking = [column for column in columns if type(column) is dict]
    if not lacking:
        return list(range(lengths[0])), zip(*columns, strict=True), lengths[0]
    places = [place for place in range(lengths[0]) if all(place in column for column in lacking)]
    return places, (tuple(column[place] for column in columns) for place in places), lengths[0]


def _as_column(task: str, iterable: Any) -> Any:
    if isinstance(iterable, MapPromise):
        return iterable
    if isinstance(iterable, Promise):
        return iterable if iterable.hooke_shape is None else list(iterable)
    if type(iterable) in {list, tuple, range} or _is_array(iterable):
        return iterable
    if _is_endless(iterable):
        raise UsageError(
            f"{task}.map got {iterable!r}, which never ends",
            where=str(user_place()),
            fix="give a list or a range; pass a value that is the same for every item as a keyword",
        )
    return _listed(task, iterable)


def _listed(task: str, iterable: Any) -> list[Any]:
    try:
        iterator = iter(iterable)
    except TypeError as error:
        if isinstance(error, HookeError):
            raise
        raise UsageError(
            f"{task}.map got {_short(iterable)}, which cannot be iterated",
            where=str(user_place()),
            fix="give a list, range, array or generator; pass a value that is the same for every item as a keyword",
        ) from None
    return list(iterator)


def _is_array(value: object) -> bool:
    """Whether it is a NumPy array of one dimension or more; NumPy is not imported to find out."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.ndim > 0


def _is_endless(value: object) -> bool:
    if isinstance(value, itertools.repeat):
        try:
            value.__length_hint__()  # not operator.length_hint: that takes the error for 0
        except TypeError:
            return True
    return isinstance(value, (itertools.count, itertools.cycle))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"


# --- Promises inside nested lists, tuples, sets, dicts and dataclasses.

LEAVES = frozenset({int, float, str, bytes, bool, complex, type(None), range})
MUTABLE = frozenset({list, dict, set})
_COPIED = frozenset({list, dict, set, tuple})


def promises_in(value: object) -> list[Promise]:
    """The promises in a nested value, in an order that depends only on its structure; other objects are not searched."""
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
    """The values directly inside `members`, all of one `kind`, without leaves and containers seen before."""
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
    return [item for item in items if type(item) not in LEAVES]


def _unseen(members: Sequence[Any], seen: set[int]) -> list[Any]:
    """The members that were not seen before. A nested value can contain itself through mutable containers."""
    new = {id(item): item for item in members if id(item) not in seen}
    seen.update(new)
    return list(new.values())


def copy_nesting(value: Any, copies: dict[int, Any] | None = None) -> Any:
    """`value` with copies of its lists, dicts and sets, so that later changes in the body do not reach the graph."""
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


def _copy_flat(value: Any, copies: dict[int, Any]) -> Any:
    if type(value) not in MUTABLE:
        return value
    known = copies.get(id(value))
    if known is None:
        known = copies[id(value)] = value.copy()
    return known
