"""A method's payloads: the JSON object of its parameters, read by their annotations, and its result as JSON."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from hooke.base.errors import UsageError
from hooke.serving.problems import FieldError, Problem
from hooke.serving.service import Service

__all__ = [
    "Method",
    "ResponseKind",
    "array_from_json",
    "cast",
    "check_rank",
    "convert",
    "custom_types",
    "dtype_of",
    "encode",
    "encode_other",
    "fill_defaults",
    "has_dataclasses",
    "hints_of",
    "is_array",
    "methods_of",
    "rank_of",
    "validation_problem",
]


# --- The types in annotations, as msgspec sees them, and defaults of dataclasses, which it leaves undone.


def custom_types(annotation: Any) -> list[Any]:
    """The types in it, at any depth, that msgspec cannot read by itself."""
    return [part.cls for part in _parts(annotation) if isinstance(part, msgspec.inspect.CustomType)]


def has_dataclasses(annotation: Any) -> bool:
    """Whether a value of this type may hold a dataclass object."""
    return any(isinstance(part, msgspec.inspect.DataclassType) for part in _parts(annotation))


def fill_defaults(value: Any) -> None:
    """Set the missing defaults in all dataclass objects of this value.

    msgspec leaves a default in the class, where its encoder does not look: the answer would lack the field.
    """
    if isinstance(value, dict):
        for item in value.values():
            fill_defaults(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            fill_defaults(item)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            fill_defaults(getattr(value, name))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            held = getattr(value, field.name, dataclasses.MISSING)
            if held is not dataclasses.MISSING:
                object.__setattr__(value, field.name, held)  # frozen ones, too
                fill_defaults(held)


def _parts(annotation: Any) -> Iterator[msgspec.inspect.Type]:
    """The type and all types in it, each once: a type may refer to itself."""
    left: list[Any] = [msgspec.inspect.type_info(annotation)]
    seen: dict[int, Any] = {}
    while left:
        part = left.pop()
        if isinstance(part, tuple):
            left.extend(part)
        elif isinstance(part, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(part) not in seen:
            seen[id(part)] = part
            if isinstance(part, msgspec.inspect.Type):
                yield part
            left.extend(getattr(part, name) for name in part.__struct_fields__)


# --- NumPy arrays from JSON, and as JSON.

_FITS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "c": "iufc", "U": "U"}
"""Kind of the annotated dtype -> kinds that a JSON value may have."""
_SAID = {
    "b": "booleans",
    "i": "whole numbers",
    "u": "whole numbers",
    "f": "numbers",
    "c": "numbers",
    "U": "text",
}


def is_array(annotation: Any) -> bool:
    """Whether it is `np.ndarray`, or `NDArray[...]`."""
    return annotation is np.ndarray or get_origin(annotation) is np.ndarray


def array_from_json(annotation: Any, value: Any) -> np.ndarray:
    """The array of a JSON value, with the annotation's dtype if it names one. Raises ValueError that says what does not fit.

    Nothing is coerced: no text to numbers, no fractions to integers, no overflow.
    """
    if not isinstance(value, list):
        # msgspec turns a ValueError or TypeError into its own error.
        raise TypeError(f"Expected `array`, got {_shown(value)}")
    try:
        made = np.array(value)
    except (ValueError, OverflowError):
        raise ValueError("Expected rows of equal length") from None
    if made.dtype.kind not in "biufU" or (made.dtype.kind == "U" and not _all_text(value)):
        raise ValueError("Expected only numbers, only booleans, or only text")
    check_rank(made, rank_of(annotation))
    wanted = dtype_of(annotation)
    return made if wanted is None else cast(made, wanted)


def encode_other(value: Any) -> Any:
    """Encode what msgspec cannot: NumPy arrays and numbers, pydantic models. Raises TypeError."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def cast(made: np.ndarray, wanted: np.dtype[Any]) -> np.ndarray:
    """The array as one of the wanted dtype. Raises ValueError that says what does not fit."""
    if made.dtype == wanted:
        return made
    if made.size == 0:
        return made.astype(wanted)
    if made.dtype.kind not in _FITS.get(wanted.kind, ""):
        raise ValueError(
            f"Expected {_SAID.get(wanted.kind, str(wanted))} ({wanted}), got {_SAID[made.dtype.kind]}"
        )
    with np.errstate(over="ignore"):
        bent = made.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(bent, made):
        raise ValueError(f"Expected whole numbers that a {wanted} can hold")
    return bent


def check_rank(made: np.ndarray, rank: int) -> None:
    """Raises ValueError for another number of dimensions; 0 allows any."""
    if rank and made.ndim != rank:
        raise ValueError(f"Expected an array of {rank} dimension{'s' * (rank > 1)}, got {made.ndim}")


@functools.cache
def rank_of(annotation: Any) -> int:
    """The dimensions of `np.ndarray[tuple[int, int], ...]`; 0 if they are open."""
    arguments = get_args(annotation)
    lengths = get_args(arguments[0]) if arguments else ()
    return 0 if ... in lengths else len(lengths)


@functools.cache
def dtype_of(annotation: Any) -> np.dtype[Any] | None:
    """The dtype of `NDArray[np.float32]`; None if it is open (`np.ndarray`, `NDArray[Any]`, `NDArray[np.floating]`)."""
    arguments = get_args(annotation)
    scalar = get_args(arguments[1]) if len(arguments) > 1 else ()
    if not scalar or not isinstance(scalar[0], type) or scalar[0].__subclasses__():
        return None
    return np.dtype(scalar[0])


def _all_text(value: Any) -> bool:
    """Whether all is text that NumPy keeps: it drops zeros at the end."""
    if isinstance(value, (list, tuple)):
        return all(map(_all_text, value))
    return isinstance(value, str) and not value.endswith("\0")


def _shown(value: Any) -> str:
    names = {dict: "`object`", str: "`str`", bool: "`bool`", type(None): "`null`"}
    return names.get(type(value), "a number")


# --- Validation errors, field by field, from messages of msgspec and pydantic.

_AT = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_NAMED = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<name>[^`]*)`$")


def validation_problem(error: msgspec.ValidationError, fields: Sequence[str]) -> Problem:
    """The refusal (422) that names each field that msgspec or pydantic rejected; `fields` are the valid ones."""
    text = str(error)
    at = _AT.search(text)
    what = text[: at.start()] if at else text
    path = at["path"].removeprefix(".") if at else ""
    faults = _faults_of_pydantic(error.__cause__, path) or [_fault(what, path)]
    valid = ", ".join(fields) or "(none)"
    if not faults[0].field:
        return Problem(422, f"the body must be a JSON object with the fields {valid}: {what}")
    said = "; ".join(f"{fault.field}: {fault.detail}" for fault in faults)
    hint = "" if path else f"; valid fields: {valid}"
    return Problem(422, said + hint, errors=faults)


def _fault(what: str, path: str) -> FieldError:
    named = _NAMED.match(what)
    if named is None:
        return FieldError(path, what)
    detail = "missing" if named["what"] == "missing required" else "unknown field"
    return FieldError(".".join(filter(None, (path, named["name"]))), detail)


def _faults_of_pydantic(error: BaseException | None, path: str) -> list[FieldError]:
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not isinstance(error, pydantic.ValidationError):
        return []
    return [
        FieldError(".".join([path, *map(str, fault["loc"])]), str(fault["msg"])) for fault in error.errors()
    ]


class ResponseKind(enum.Enum):
    """How a method answers."""

    PLAIN = enum.auto()
    ASYNC = enum.auto()
    STREAM = enum.auto()
    ASYNC_STREAM = enum.auto()


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One method of a service."""

    name: str
    function: Callable[..., Any]
    kind: ResponseKind
    fields: tuple[str, ...]
    rows: tuple[str, ...]
    """The parameters that hold rows of several requests; none if each call is for one request."""
    decoder: msgspec.json.Decoder[Any]
    has_dataclasses: bool

    def read(self, body: bytes) -> dict[str, Any]:
        """The arguments in the body. Raises Problem: 400 for invalid JSON, 422 for values that do not fit the annotations."""
        try:
            arguments = msgspec.structs.asdict(self.decoder.decode(body))
        except msgspec.ValidationError as error:
            raise validation_problem(error, self.fields) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(
                400, f"the body is not valid JSON: {error}" if body else "the body is empty"
            ) from None
        except RecursionError:
            raise Problem(400, "the body is nested too deeply") from None
        if self.has_dataclasses:
            fill_defaults(arguments)
        return arguments


def methods_of(declared: Service) -> dict[str, Method]:
    """The methods of a service, not bound to an object. Raises UsageError for annotations that JSON cannot be read as."""
    return {name: _method(declared, name, function) for name, function in declared.methods().items()}


def encode(value: Any) -> bytes:
    """A returned value as JSON. Raises TypeError if it has no JSON form."""
    return _ENCODER.encode(value)


def convert(value: Any, annotation: Any) -> Any:
    """A plain value converted to the annotation, as if read from JSON. Raises msgspec.ValidationError."""
    converted = msgspec.convert(value, annotation, dec_hook=_decode_other)
    if has_dataclasses(annotation):
        fill_defaults(converted)
    return converted


def hints_of(where: str, function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the function called `where`. Raises UsageError if one cannot be resolved."""
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(
            f"an annotation of {where} cannot be resolved: {error}",
            fix="import the annotated types at run time, not under TYPE_CHECKING",
        ) from error


_ENCODER = msgspec.json.Encoder(enc_hook=encode_other)
_ROWS = (list, Sequence)


def _method(declared: Service, name: str, function: Callable[..., Any]) -> Method:
    where = f"{declared.name}.{name}"
    hints = hints_of(where, function)
    parameters = dict(list(inspect.signature(function).parameters.items())[1:])
    kind = _kind(function)
    # An optional parameter does not hold rows: it may be absent.
    rows = tuple(
        key for key, one in parameters.items() if one.default is one.empty and _is_rows(hints.get(key))
    )
    decoder = _decoder(where, list(parameters.values()), hints)
    return Method(
        name=name,
        function=function,
        kind=kind,
        fields=tuple(parameters),
        rows=rows
        if declared.max_batch is not None and kind in (ResponseKind.PLAIN, ResponseKind.ASYNC)
        else (),
        decoder=decoder,
        has_dataclasses=has_dataclasses(decoder.type),
    )


def _kind(function: Callable[..., Any]) -> ResponseKind:
    if inspect.isasyncgenfunction(function):
        return ResponseKind.ASYNC_STREAM
    if inspect.isgeneratorfunction(function):
        return ResponseKind.STREAM
    return ResponseKind.ASYNC if inspect.iscoroutinefunction(function) else ResponseKind.PLAIN


def _is_rows(annotation: Any) -> bool:
    return is_array(annotation) or annotation in _ROWS or get_origin(annotation) in _ROWS


def _decoder(
    where: str, parameters: Sequence[inspect.Parameter], hints: dict[str, Any]
) -> msgspec.json.Decoder[Any]:
    fields: list[Any] = []
    for parameter in parameters:
        annotation = hints.get(parameter.name, Any)
        if parameter.default is parameter.empty:
            fields.append((parameter.name, annotation))
        else:
            # The default object itself, as in a call; msgspec would copy some defaults, and refuse others.
            default = msgspec.field(default_factory=lambda value=parameter.default: value)
            fields.append((parameter.name, annotation, default))
    try:
        body = msgspec.defstruct("Body", fields, forbid_unknown_fields=True, kw_only=True)
        unread = [kind for kind in custom_types(body) if not is_array(kind) and not _is_pydantic(kind)]
        if unread:
            raise TypeError(f"JSON cannot become a {getattr(unread[0], '__name__', unread[0])}")
        return msgspec.json.Decoder(body, dec_hook=_decode_other)
    except (TypeError, NotImplementedError) as error:
        raise UsageError(
            f"JSON cannot be read as the parameters of {where}",
            why=str(error),
            fix="annotate them with plain types, np.ndarray, dataclasses, or structs of msgspec",
        ) from error


def _decode_other(annotation: Any, value: Any) -> Any:
    """What msgspec cannot decode: arrays, and pydantic models."""
    return array_from_json(annotation, value) if is_array(annotation) else annotation.model_validate(value)


def _is_pydantic(annotation: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None and isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
    )
