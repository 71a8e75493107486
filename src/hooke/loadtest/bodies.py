"""Generates request bodies from a JSON Schema (2020-12). They vary, and are equal for equal seeds."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hooke.base.errors import UsageError

__all__ = ["made_values"]

NUMBERS = 4
"""Length of an array of numbers without a given length; for other arrays it is 1."""
TRIES = 100
WHOLE, FRACTIONS = (0.0, 100.0), (0.0, 1.0)
"""The default ranges of numbers, as far as their bounds allow."""
WORDS = ("as", "the", "load", "so", "fleet", "spring", "far", "measured", "twice", "pulls", "back", "until")
_REFERENCE = "$ref"
Schema = Any
"""A mapping, True for anything, or False for nothing."""


def made_values(schema: Schema, whole: Mapping[str, Any], *, count: int, seed: int) -> list[Any]:
    """`count` values that match `schema`, whose references are resolved in `whole`.

    Optional fields are omitted; examples in the schema are used if there are any. Raises UsageError,
    which names the field that is not specified enough.
    """
    maker = _Maker(whole, np.random.default_rng(seed))
    try:
        return [maker.value(schema, "", ()) for _ in range(count)]
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"the body's schema is not a valid JSON Schema: {error}") from error


class _Endless(UsageError):
    """A recursive schema without an end."""


class _Maker:
    """Generates values. `at` is the path in the body; `above` are the references being resolved there."""

    def __init__(self, whole: Mapping[str, Any], chance: np.random.Generator) -> None:
        self._whole = whole
        self._chance = chance

    def value(self, schema: Schema, at: str, above: tuple[str, ...]) -> Any:
        if not isinstance(schema, Mapping) or not schema:
            raise _unspecified(at, "it may be anything")
        if _REFERENCE in schema:
            return self._referred(schema[_REFERENCE], at, above)
        for name in ("examples", "enum"):
            if isinstance(schema.get(name), Sequence) and schema[name]:
                return self._one_of(schema[name])
        for name in ("example", "const"):
            if name in schema:
                return schema[name]
        if isinstance(schema.get("allOf"), Sequence):
            return self.value(self._together(schema), at, above)
        for name in ("anyOf", "oneOf"):
            if isinstance(schema.get(name), Sequence):
                return self._any(schema[name], at, above)
        return self._of_kind(schema, at, above)

    def _of_kind(self, schema: Mapping[str, Any], at: str, above: tuple[str, ...]) -> Any:
        kind = self._kind(schema)
        match kind:
            case "object":
                return self._object(schema, at, above)
            case "array":
                return self._array(schema, at, above)
            case "integer" | "number":
                return self._number(schema, at, whole=kind == "integer")
            case "string":
                return self._text(schema, at)
            case "boolean":
                return bool(self._chance.integers(2))
            case "null":
                return None
        raise _unspecified(at, "it may be anything")

    def _kind(self, schema: Mapping[str, Any]) -> str:
        """Its type; if there are several, one that is not null."""
        named = schema.get("type")
        if named is None:
            return "object" if "properties" in schema else "array" if "items" in schema else ""
        if isinstance(named, str):
            return named
        return str(self._one_of([each for each in named if each != "null"] or ["null"]))

    def _one_of(self, values: Sequence[Any]) -> Any:
        return values[int(self._chance.integers(len(values)))]

    def _referred(self, reference: str, at: str, above: tuple[str, ...]) -> Any:
        if reference in above:
            raise _Endless(_unspecified_text(at, "it contains itself without a limit"))
        return self.value(_found(self._whole, reference, at), at, (*above, reference))

    def _together(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """`allOf` and the rest of the schema merged; properties and required names add up."""
        rest = {name: value for name, value in schema.items() if name != "allOf"}
        made: dict[str, Any] = {"properties": {}, "required": []}
        for part in map(self._resolved, (*schema["allOf"], rest)):
            if isinstance(part, Mapping):
                properties = {**made["properties"], **part.get("properties", {})}
                required = [*made["required"], *part.get("required", ())]
                made = {**made, **part, "properties": properties, "required": required}
        return {
            name: value for name, value in made.items() if value or name not in ("properties", "required")
        }

    def _any(self, schemas: Sequence[Schema], at: str, above: tuple[str, ...]) -> Any:
        """A value for one of the schemas that are specified enough; null only if there is no other."""
        made: list[Any] = []
        refusal: UsageError | None = None
        for schema in sorted(schemas, key=lambda each: each == {"type": "null"}):
            if schema == {"type": "null"} and made:
                break
            try:
                made.append(self.value(schema, at, above))
            except UsageError as error:
                refusal = refusal or error
        if made:
            return self._one_of(made)
        raise refusal or _unspecified(at, "no value matches it")

    def _object(self, schema: Mapping[str, Any], at: str, above: tuple[str, ...]) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", ())
        more = schema.get("additionalProperties", True)
        if not properties and (more is not False or required):
            raise _unspecified(at, "the names of its fields are open")
        under = f"{at}." if at else ""
        return {
            name: self.value(properties.get(name, {}), f"{under}{name}", above)
            for name in dict.fromkeys(required)
        }

    def _array(self, schema: Mapping[str, Any], at: str, above: tuple[str, ...]) -> list[Any]:
        first = schema.get("prefixItems", ())
        made = [self.value(each, f"{at}[{number}]", above) for number, each in enumerate(first)]
        items, least = schema.get("items", not first), int(schema.get("minItems", 0))
        if first and (items is False or least <= len(first)):
            return made
        if isinstance(items, Mapping) and any(
            isinstance(each, Mapping) and each.get(_REFERENCE) in above for each in items.get("anyOf", ())
        ):
            raise _unspecified(at, "it is an array of any number of dimensions")
        length = int(min(max(self._length(items), least), schema.get("maxItems", math.inf)))
        try:
            return self._items(schema, length, lambda: self.value(items, f"{at}[]", above), made, at)
        except _Endless:
            if least:
                raise
            return made

    def _resolved(self, schema: Schema) -> Schema:
        """The schema behind a reference; for circular references, one of them."""
        seen: list[str] = []
        while isinstance(schema, Mapping) and _REFERENCE in schema and schema[_REFERENCE] not in seen:
            seen.append(schema[_REFERENCE])
            schema = _found(self._whole, schema[_REFERENCE], "")
        return schema

    def _length(self, items: Schema) -> int:
        items = self._resolved(items)
        kind = self._kind(items) if isinstance(items, Mapping) else ""
        return NUMBERS if kind in ("number", "integer", "boolean") else 1

    def _items(
        self, schema: Mapping[str, Any], length: int, make: Callable[[], Any], made: list[Any], at: str
    ) -> list[Any]:
        for _ in range(length * TRIES):
            if len(made) >= length:
                return made
            item = make()
            if not schema.get("uniqueItems") or _json_text(item) not in map(_json_text, made):
                made.append(item)
        if len(made) < schema.get("minItems", 0):
            raise _unspecified(at, f"there are fewer than {schema['minItems']} different values")
        return made

    def _number(self, schema: Mapping[str, Any], at: str, *, whole: bool) -> float | int:
        low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
        high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
        step = schema.get("multipleOf", 1 if whole else None)
        if low <= high and step is None:
            least, most = _within(*FRACTIONS, low, high)
            drawn = round(float(self._chance.uniform(least, most)), 4)
            fitting = [each for each in (drawn, (least + most) / 2) if _fits(schema, each)]
            if fitting:
                return fitting[0]
        elif low <= high:
            usual, most = WHOLE if whole else FRACTIONS
            least, most = _within(usual, max(most, usual + 2 * step), low, high)
            first, last = math.ceil(least / step), math.floor(most / step)
            first, last = first + (not _fits(schema, first * step)), last - (not _fits(schema, last * step))
            if first <= last:
                return int(self._chance.integers(first, last + 1)) * step
        raise _unspecified(at, "no number is within its bounds")

    def _text(self, schema: Mapping[str, Any], at: str) -> str:
        if "pattern" in schema:
            raise _unspecified(at, f"it is text with the pattern {schema['pattern']}")
        if schema.get("contentEncoding") == "base64":
            return base64.b64encode(self._chance.bytes(12)).decode()
        name = schema.get("format")
        if name is not None and name not in _FORMATS:
            raise _unspecified(at, f"it is text in the format {name}")
        if name is not None:
            return _FORMATS[name](int(self._chance.integers(1, 28)))
        words = [self._one_of(WORDS) for _ in range(int(self._chance.integers(3, 13)))]
        while len(" ".join(words)) < schema.get("minLength", 0):
            words.append(self._one_of(WORDS))
        most = schema.get("maxLength")
        return " ".join(words)[:most].ljust(schema.get("minLength", 0), "a")


_FORMATS: Mapping[str, Callable[[int], str]] = {
    "date": lambda day: f"2026-11-{day:02}",
    "date-time": lambda day: f"2026-11-{day:02}T12:30:00Z",
    "time": lambda hour: f"{hour % 24:02}:30:00",
    "duration": lambda hours: f"PT{hours}H",
    "decimal": lambda number: f"{number}.25",
    "uuid": lambda number: f"00000000-0000-4000-8000-{number:012}",
    "email": lambda number: f"user{number}@example.org",
    "uri": lambda number: f"https://example.org/{number}",
    "ipv4": lambda number: f"192.0.2.{number}",
    "password": lambda number: f"password-{number}",
}


def _within(least: float, most: float, low: float, high: float) -> tuple[float, float]:
    """The part of (least, most) within the bounds; if there is none, a range of equal width at the nearest bound."""
    if low > most:
        return low, min(low + most - least, high)
    if high < least:
        return max(high - most + least, low), high
    return max(least, low), min(most, high)


def _fits(schema: Mapping[str, Any], value: float) -> bool:
    """Whether a number is within the bounds."""
    return schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf) and schema.get(
        "exclusiveMinimum", -math.inf
    ) < value < schema.get("exclusiveMaximum", math.inf)


def _found(whole: Mapping[str, Any], reference: str, at: str) -> Schema:
    """The object that a reference within the document names."""
    found: Any = whole
    for part in reference.removeprefix("#/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if not reference.startswith("#/") or not isinstance(found, Mapping) or name not in found:
            raise _unspecified(at, f"{reference} does not exist")
        found = found[name]
    return found


def _json_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _unspecified_text(at: str, why: str) -> str:
    return f"{at or 'the body'} is not specified enough: {why}"


def _unspecified(at: str, why: str) -> UsageError:
    return UsageError(_unspecified_text(at, why))
