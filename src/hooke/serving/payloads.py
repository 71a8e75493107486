"""A method's payloads: the JSON object of its parameters, read by their annotations, and its result as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import gc
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from hooke.base.errors import UsageError
from hooke.serving.problems import FieldError, Problem
from hooke.serving.service import MODEL_FIELD, Service

__all__ = [
    "DECODE_ON_LOOP",
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
    "object_bytes",
    "rank_of",
    "uncollected",
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
    return _as_annotated(annotation, _checked(_plain_array(value), value))


_UNEQUAL = "Expected rows of equal length"
_MIXED = "Expected only numbers, only booleans, or only text"


def _array_from_parts(annotation: Any, parts: Iterable[list[Any]]) -> np.ndarray:
    """As `array_from_json`, for a value in several parts, of which no Python objects are kept."""
    made = [_checked(_plain_array(part), part) for part in parts]
    if len({array.dtype.kind == "U" for array in made}) > 1:
        raise ValueError(_MIXED)
    if len({array.shape[1:] for array in made}) > 1:
        raise ValueError(_UNEQUAL)
    return _as_annotated(annotation, np.concatenate(made))


def _plain_array(value: list[Any]) -> np.ndarray:
    try:
        return np.array(value)
    except (ValueError, OverflowError):
        raise ValueError(_UNEQUAL) from None


def _checked(made: np.ndarray, value: list[Any]) -> np.ndarray:
    if made.dtype.kind not in "biufU" or (made.dtype.kind == "U" and not _all_text(value)):
        raise ValueError(_MIXED)
    return made


def _as_annotated(annotation: Any, made: np.ndarray) -> np.ndarray:
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


# --- Large bodies, decoded in another thread and in parts: one call of the decoder would hold the interpreter's lock, and stop the event loop.

DECODE_ON_LOOP = 256 << 10
"""Bytes of a body that are decoded on the event loop: it stands still for some milliseconds."""
PART = 256 << 10
"""Bytes of an array that are decoded at once."""
_QUOTE, _BACKSLASH, _COMMA, _OPEN, _CLOSE = b'"\\,{}'


def object_bytes(body: bytes) -> int:
    """The memory of a JSON text's values as Python objects, at most: of `[]` 40 times its own. It takes milliseconds."""
    lists, objects, commas, quotes = (body.count(each) for each in (b"[", b"{", b",", b'"'))
    return len(body) + 80 * lists + 200 * objects + 32 * (commas + lists + objects) + 28 * quotes


_uncollected = 0
_uncollected_lock = threading.Lock()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection: millions of new lists would start it again and again, and it would walk all of them. Any thread may use this.

    A process that left its objects out of garbage collection when it was ready (`freeze_objects`) leaves these out, too; they end with
    their request.
    """
    global _uncollected  # noqa: PLW0603 - as the collector's own state
    with _uncollected_lock:
        counted = bool(_uncollected) or gc.isenabled()
        if counted:
            if not _uncollected and gc.get_freeze_count():
                gc.collect()
            _uncollected += 1
            gc.disable()
    try:
        yield
    finally:
        with _uncollected_lock:
            _uncollected -= counted
            if counted and not _uncollected:
                if gc.get_freeze_count():
                    gc.freeze()
                gc.enable()


def _arrays(array: bytes, size: int) -> Iterator[bytes]:
    """The JSON array as several arrays of about `size` bytes, if it has commas to cut it at; it is valid JSON."""
    data = np.frombuffer(array, np.uint8)
    depth, quoted, start = 0, 0, 1
    for at in range(0, len(data), size):
        block = data[at : at + size]
        quotes = block == _QUOTE
        if quotes.any():
            escaped = np.empty_like(quotes)
            escaped[0], escaped[1:] = at > 0 and data[at - 1] == _BACKSLASH, block[:-1] == _BACKSLASH
            inside = (np.cumsum(quotes & ~escaped) + quoted) % 2
            quoted = int(inside[-1])
            outside = inside == 0
        else:
            outside = np.full(len(block), not quoted)
        folded = block | 0x20  # of a bracket the brace, and no other character of JSON becomes one
        steps = ((folded == _OPEN) & outside).astype(np.int8) - ((folded == _CLOSE) & outside)
        depths = np.cumsum(steps, dtype=np.int32) + depth
        depth = int(depths[-1])
        (cuts,) = np.nonzero((block == _COMMA) & outside & (depths == 1))
        if len(cuts):
            end = at + int(cuts[-1])
            yield b"[%b]" % array[start:end]
            start = end + 1
    yield b"[" + array[start:]


class _Field:
    """Decodes one parameter's value."""

    def __init__(self, name: str, annotation: Any) -> None:
        self.name = name
        self.annotation = annotation
        origin = get_origin(annotation) or annotation
        self._is_array = is_array(annotation)
        self.is_compact = self._is_array or annotation in (int, float, bool, str)
        self._in_parts = self._is_array or origin in _ROWS
        self._whole = msgspec.json.Decoder(annotation, dec_hook=_decode_other)
        item = (get_args(annotation) or (Any,))[0] if origin in _ROWS else Any
        self._part = msgspec.json.Decoder(list[item], dec_hook=_decode_other)  # type: ignore[valid-type]

    def read(self, text: bytes, size: int) -> Any:
        """The value, decoded in parts of this size. Raises msgspec's errors, whose paths begin with the field."""
        # After two backslashes, it depends on those before whether a quote ends its text.
        if len(text) <= size or not self._in_parts or text[:1] != b"[" or b"\\\\" in text:
            return self._decoded(self._whole, text, 0)
        parts = self._read_parts(text, size)
        if not self._is_array:
            return [item for part in parts for item in part]
        try:
            return _array_from_parts(self.annotation, parts)
        except ValueError as error:
            if isinstance(error, msgspec.MsgspecError):
                raise
            raise msgspec.ValidationError(f"{error} - at `$.{self.name}`") from error

    def _read_parts(self, text: bytes, size: int) -> Iterator[list[Any]]:
        count = 0
        for array in _arrays(text, size):
            part: list[Any] = self._decoded(self._part, array, count)
            count += len(part)
            yield part

    def _decoded(self, decoder: msgspec.json.Decoder[Any], text: bytes, count: int) -> Any:
        """Decode it; items of the value before it are counted in the path of an error."""
        try:
            return decoder.decode(text)
        except msgspec.ValidationError as error:
            said = str(error)
            at = _AT.search(said)
            what, path = (said[: at.start()], at["path"]) if at else (said, "")
            if count and (index := re.match(r"\[(\d+)\]", path)):
                path = f"[{int(index[1]) + count}]{path[index.end() :]}"
            raise msgspec.ValidationError(f"{what} - at `$.{self.name}{path}`") from error.__cause__


class _LargeBodies:
    """Decodes a method's large bodies field by field, with the same results and errors as its own decoder."""

    def __init__(
        self,
        parameters: Sequence[inspect.Parameter],
        hints: dict[str, Any],
        whole: msgspec.json.Decoder[Any],
    ) -> None:
        self._whole = whole
        raw: list[Any] = []
        self._fields: list[_Field] = []
        self._defaults: dict[str, Any] = {}
        for parameter in parameters:
            self._fields.append(_Field(parameter.name, hints.get(parameter.name, Any)))
            if parameter.default is parameter.empty:
                raw.append((parameter.name, msgspec.Raw))
            else:
                self._defaults[parameter.name] = parameter.default
                raw.append((parameter.name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET))
        body = msgspec.defstruct("Body", raw, forbid_unknown_fields=True, kw_only=True)
        self._decoder = msgspec.json.Decoder(body)

    def memory_bytes(self, body: bytes) -> int:
        """The memory that the arguments take, at most: arrays are made part by part, and keep no Python objects."""
        if all(field.is_compact for field in self._fields):
            return len(body) + 8 * (body.count(b",") + len(self._fields))
        return object_bytes(body)

    def decode(self, body: bytes, *, part: int = PART) -> dict[str, Any]:
        """The arguments, with arrays decoded in parts of so many bytes. Raises msgspec's errors."""
        try:
            values = msgspec.structs.asdict(self._decoder.decode(body))
        except RecursionError:  # it may be nested where a type is wrong already
            return msgspec.structs.asdict(self._whole.decode(body))
        return {
            field.name: self._defaults[field.name]
            if value is msgspec.UNSET
            else field.read(bytes(value), part)
            for field in self._fields
            for value in (values[field.name],)
        }


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
    large: _LargeBodies
    has_dataclasses: bool
    by_name: bool = False
    """Whether its parameter `model` is the name of a model that is loaded for it."""

    def read(self, body: bytes) -> dict[str, Any]:
        """The arguments in the body. Raises Problem: 400 for invalid JSON, 422 for values that do not fit the annotations."""
        try:
            if len(body) > DECODE_ON_LOOP:
                with uncollected():
                    arguments = self.large.decode(body)
            else:
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


ModelName: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$", max_length=128, description="The name of a model."
    ),
]
"""No slash: a name may become a part of a path."""
_ROWS = (list, Sequence)


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


def _method(declared: Service, name: str, function: Callable[..., Any]) -> Method:
    where = f"{declared.name}.{name}"
    hints = hints_of(where, function)
    by_name = declared.model_memory is not None and MODEL_FIELD in inspect.signature(function).parameters
    if by_name:
        hints[MODEL_FIELD] = ModelName
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
        large=_LargeBodies(list(parameters.values()), hints, decoder),
        has_dataclasses=has_dataclasses(decoder.type),
        by_name=by_name,
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
