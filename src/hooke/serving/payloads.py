"""A method and its payloads: the JSON object that its parameters are read from, by their annotations, and its answer as JSON."""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_origin, get_type_hints

import msgspec

from hooke.base.errors import UsageError
from hooke.serving.annotations import complete, custom_types, has_dataclasses
from hooke.serving.arrays import array_from_json, is_array, plain
from hooke.serving.misfits import misfit
from hooke.serving.problems import Problem
from hooke.serving.service import Service

__all__ = ["Kind", "Method", "convert", "encode", "hints_of", "methods_of"]


class Kind(enum.Enum):
    """How a method answers."""

    PLAIN = enum.auto()
    ASYNC = enum.auto()
    STREAM = enum.auto()
    ASYNC_STREAM = enum.auto()


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One method, as it is called for requests."""

    name: str
    function: Callable[..., Any]
    kind: Kind
    fields: tuple[str, ...]
    rows: tuple[str, ...]
    """The parameters that are rows of several requests; none where each call is for one request."""
    decoder: msgspec.json.Decoder[Any]
    has_dataclasses: bool

    def read(self, body: bytes) -> dict[str, Any]:
        """The arguments in the body. Raises Problem: 400 for what is no JSON, 422 for what does not fit the annotations."""
        try:
            arguments = msgspec.structs.asdict(self.decoder.decode(body))
        except msgspec.ValidationError as error:
            raise misfit(error, self.fields) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(400, f"the body is no JSON: {error}" if body else "the body is empty") from None
        except RecursionError:
            raise Problem(400, "the body is nested too deeply") from None
        if self.has_dataclasses:
            complete(arguments)
        return arguments


def methods_of(declared: Service) -> dict[str, Method]:
    """The methods of a service, not bound to an object. Raises UsageError for an annotation that no JSON can be read as."""
    return {name: _method(declared, name, function) for name, function in declared.methods().items()}


def encode(value: Any) -> bytes:
    """A returned value as JSON. Raises TypeError for what has none."""
    return _ENCODER.encode(value)


def convert(value: Any, annotation: Any) -> Any:
    """A plain value as what the annotation says, as if JSON had brought it. Raises msgspec.ValidationError."""
    converted = msgspec.convert(value, annotation, dec_hook=_decode_other)
    if has_dataclasses(annotation):
        complete(converted)
    return converted


def hints_of(where: str, function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function that is called `where`. Raises UsageError for one without a meaning at run time."""
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(
            f"an annotation of {where} has no meaning: {error}",
            mend="import what the annotations name where it is seen at run time, not under TYPE_CHECKING",
        ) from error


_ENCODER = msgspec.json.Encoder(enc_hook=plain)
_ROWS = (list, Sequence)


def _method(declared: Service, name: str, function: Callable[..., Any]) -> Method:
    where = f"{declared.name}.{name}"
    hints = hints_of(where, function)
    parameters = dict(list(inspect.signature(function).parameters.items())[1:])
    kind = _kind(function)
    # One that may be left out is not rows: there may be none of it.
    rows = tuple(
        key for key, one in parameters.items() if one.default is one.empty and _is_rows(hints.get(key))
    )
    decoder = _decoder(where, list(parameters.values()), hints)
    return Method(
        name=name,
        function=function,
        kind=kind,
        fields=tuple(parameters),
        rows=rows if declared.max_batch is not None and kind in (Kind.PLAIN, Kind.ASYNC) else (),
        decoder=decoder,
        has_dataclasses=has_dataclasses(decoder.type),
    )


def _kind(function: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(function):
        return Kind.ASYNC_STREAM
    if inspect.isgeneratorfunction(function):
        return Kind.STREAM
    return Kind.ASYNC if inspect.iscoroutinefunction(function) else Kind.PLAIN


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
            # A default is the object itself, as in a call; msgspec would copy some, and refuse others.
            default = msgspec.field(default_factory=lambda value=parameter.default: value)
            fields.append((parameter.name, annotation, default))
    try:
        body = msgspec.defstruct("Body", fields, forbid_unknown_fields=True, kw_only=True)
        unread = [kind for kind in custom_types(body) if not is_array(kind) and not _is_pydantic(kind)]
        if unread:
            raise TypeError(f"nothing says how JSON becomes a {getattr(unread[0], '__name__', unread[0])}")
        return msgspec.json.Decoder(body, dec_hook=_decode_other)
    except (TypeError, NotImplementedError) as error:
        raise UsageError(
            f"JSON cannot be read as the parameters of {where}",
            why=str(error),
            mend="annotate them with plain types, np.ndarray, dataclasses, or structs of msgspec",
        ) from error


def _decode_other(annotation: Any, value: Any) -> Any:
    """What msgspec does not know: arrays, and models of pydantic."""
    return array_from_json(annotation, value) if is_array(annotation) else annotation.model_validate(value)


def _is_pydantic(annotation: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None and isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
    )
