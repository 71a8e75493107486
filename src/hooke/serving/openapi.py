"""The OpenAPI 3.1 document of a service: the requests and answers of each route."""

from __future__ import annotations

import enum
import functools
import inspect
import math
import operator
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from hooke.serving.payloads import Method, ModelName, ResponseKind, dtype_of, is_array, rank_of
from hooke.serving.problems import phrase_of
from hooke.serving.routes import Operation, Route
from hooke.serving.service import MODEL_FIELD

__all__ = ["COMPONENTS", "State", "body_of", "document", "schemas_of"]


# --- JSON Schema (2020-12) of annotations, for requests and answers.

COMPONENTS = "#/components/schemas/"
_ITEMS: Mapping[str, dict[str, Any]] = {
    "b": {"type": "boolean"},
    "i": {"type": "integer"},
    "u": {"type": "integer", "minimum": 0},
    "f": {"type": "number"},
    "c": {"type": "number"},
    "U": {"type": "string"},
}
"""By the kind of a dtype."""
_ANY_ITEM: dict[str, Any] = {"type": ["number", "boolean", "string"]}


def schemas_of(annotations: Sequence[Any], *, answers: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """A schema for each annotation, and the named schemas that they refer to, at COMPONENTS.

    In `answers` an array of floats may hold null, for NaN. A type without a schema allows any value.
    """
    named: dict[str, Any] = {}

    def hook(kind: Any) -> dict[str, Any]:
        if kind is np.ndarray or issubclass(kind, _Array):
            return _array(getattr(kind, "annotation", kind), named, answers=answers)
        return _pydantic(kind, named, answers=answers)

    found = []
    for annotation in annotations:
        try:
            schemas, parts = msgspec.json.schema_components(
                [_marked(annotation)], schema_hook=hook, ref_template=COMPONENTS + "{name}"
            )
        except (TypeError, NotImplementedError, AttributeError):
            found.append({})
        else:
            named |= parts
            found.append(schemas[0])
    return found, named


class _Array:
    """Stands for an array with its dtype while msgspec looks at a type: it would see only the bare `np.ndarray`."""

    annotation: Any


def _marked(annotation: Any) -> Any:
    """The annotation with an `_Array` for each array, except in fields of classes, whose dtype is left open."""
    if is_array(annotation):
        return type("Array", (_Array,), {"annotation": annotation})
    origin, parts = get_origin(annotation), get_args(annotation)
    marked = tuple(map(_marked, parts))
    if origin is None or marked == parts:
        return annotation
    union = origin in (Union, types.UnionType)
    return functools.reduce(operator.or_, marked) if union else origin[marked]


def _array(annotation: Any, named: dict[str, Any], *, answers: bool) -> dict[str, Any]:
    """Nested arrays of its dimensions, or of any depth if these are open. No schema can say that rows have one length."""
    dtype = dtype_of(annotation)
    item = _ANY_ITEM if dtype is None else _item(dtype)
    null = answers and (dtype is None or dtype.kind in "fc")
    if rank := rank_of(annotation):
        return _nested({"anyOf": [item, {"type": "null"}]} if null else item, rank, least=0 if answers else 1)
    name = f"{'Any' if dtype is None else dtype.name.capitalize()}Array{'OrNull' if null else ''}"
    ref = {"$ref": COMPONENTS + name}
    either = [item, {"type": "null"}, ref] if null else [item, ref]
    named[name] = {"type": "array", "items": {"anyOf": either}}
    return ref


def _nested(item: dict[str, Any], rank: int, *, least: int) -> dict[str, Any]:
    """An array of so many dimensions. Inputs have `least` of all but the last: an empty one would have fewer dimensions."""
    rows: dict[str, Any] = {"type": "array", "items": item}
    for _ in range(rank - 1):
        rows = {"type": "array", "items": rows, **({"minItems": least} if least else {})}
    return rows


def _item(dtype: np.dtype[Any]) -> dict[str, Any]:
    item = dict(_ITEMS.get(dtype.kind, {}))
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        item |= {"minimum": int(bounds.min), "maximum": int(bounds.max)}
    return item


def _pydantic(kind: Any, named: dict[str, Any], *, answers: bool) -> dict[str, Any]:
    """The schema of a pydantic model; its parts are named after the model."""
    schema = kind.model_json_schema(
        ref_template=f"{COMPONENTS}{kind.__name__}.{{model}}",
        mode="serialization" if answers else "validation",
    )
    for name, part in schema.pop("$defs", {}).items():
        named[f"{kind.__name__}.{name}"] = part
    ref: dict[str, Any] = schema
    return ref


_JSON = "application/json"
_PROBLEM = "application/problem+json"
_REFUSED: Mapping[int, str] = {
    400: "The request is not valid HTTP or JSON, has no unique Host, or an unknown priority.",
    401: "The bearer token is missing or wrong.",
    403: "The Host or Origin does not belong to this service.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is not JSON.",
    422: "A field is not valid; `errors` lists the fields.",
    429: "Too many requests wait to be answered in time, or too many streams are open.",
    426: "The request is not HTTP/1.1.",
    431: "The request has too many headers.",
    500: "The service raised an exception; its log has the traceback.",
    502: "The replica ended before its answer; the request may have been done.",
    503: "The service is starting or draining, has more requests than it can answer in time, or asks for another try later.",
    504: "No answer within the service's timeout.",
}
_OF_ALL = (400, 401, 403, 426, 431)
"""Statuses that every route may answer."""
_RETRY = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
_HEADERS: Mapping[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": _RETRY},
    503: {"Retry-After": _RETRY},
}
_ID = {"description": "The id of the request, or a generated one.", "schema": {"type": "string"}}
_ANY: dict[str, Any] = {}
_NOBODY: tuple[Any, ...] = ()
_OPTIONAL = {"type": ["string", "null"]}
_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _OPTIONAL,
                "code": _OPTIONAL,
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
"""An error as OpenAI's clients read it."""


class State(enum.Enum):
    """The state of a replica, as its readiness check shows it."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """The model's own process ended, and another one is not set up yet."""
    DRAINING = "draining"


_STATE = {
    "type": "object",
    # A service without a replica is `idle`: the proxy says so, and the next call starts one.
    "properties": {"state": {"enum": [*(state.value for state in State), "idle"]}},
    "required": ["state"],
}


def document(
    declared: type, methods: Mapping[str, Method], routes: Iterable[Route], *, with_token: bool
) -> dict[str, Any]:
    """The document of a service of this class with these routes."""
    schemas: dict[str, Any] = {"Problem": _problem()}
    paths: dict[str, Any] = {}
    for route in routes:
        method = methods.get(route.path[1:])
        paths[route.path] = {
            **({"parameters": list(_parameters(route.path))} if "{" in route.path else {}),
            **{
                verb.lower(): _method(method, schemas)
                if method is not None and verb == "POST"
                else _other(route, verb, schemas)
                for verb in route.verbs
            },
        }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": declared.__name__, "version": "1", **_described(declared)},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {str(status): _refusal(status) for status in _REFUSED},
        },
    }
    if with_token:
        scopes: list[str] = []
        found["security"] = [{"token": scopes}]
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return found


def body_of(method: Method) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a method's body, and the named schemas that it refers to, at COMPONENTS."""
    hints = get_type_hints(method.function, include_extras=True)
    if method.by_name:
        hints[MODEL_FIELD] = ModelName
    parameters = list(inspect.signature(method.function).parameters.values())[-len(method.fields) :]
    given = parameters if method.fields else []
    schemas, named = schemas_of([hints.get(parameter.name, Any) for parameter in given])
    properties = {parameter.name: schema for parameter, schema in zip(given, schemas, strict=True)}
    for parameter in given:
        if _is_plain(parameter.default):
            properties[parameter.name] = {**properties[parameter.name], "default": parameter.default}
    for name in method.rows:  # a request without rows is refused
        properties[name] = {**properties[name], "minItems": max(1, properties[name].get("minItems", 0))}
    body = {
        "type": "object",
        "properties": properties,
        "required": [parameter.name for parameter in given if parameter.default is parameter.empty],
        "additionalProperties": False,
    }
    return body, named


def _is_plain(value: Any) -> bool:
    """Whether JSON can show it as it is."""
    return type(value) in (str, int, bool, type(None)) or (type(value) is float and math.isfinite(value))


def _method(method: Method, schemas: dict[str, Any]) -> dict[str, Any]:
    body, named = body_of(method)
    answered = get_type_hints(method.function, include_extras=True).get("return", Any)
    (returned,), more = schemas_of([answered], answers=True)
    schemas |= named | more
    streams = method.kind in (ResponseKind.STREAM, ResponseKind.ASYNC_STREAM)
    content = {"text/event-stream": _ANY} if streams else {_JSON: {"schema": returned}}
    said = (
        "An event for each item, then `end`, or `error` with a problem." if streams else "The returned value."
    )
    return {
        "operationId": method.name,
        **_described(method.function),
        "requestBody": {"required": True, "content": {_JSON: {"schema": body}}},
        "responses": {"200": _answer(said, content), **_refusals(_REFUSED)},
    }


def _of_protocol(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    """A route of another protocol, whose errors have a shape of their own."""
    made: dict[str, Any] = {"description": operation.said}
    content: dict[str, Any] = {_JSON: _ANY, **({"text/event-stream": _ANY} if operation.streams else {})}
    schemas["OpenAI.Error"] = _ERROR
    error = _answer("An error.", {_JSON: {"schema": {"$ref": f"{COMPONENTS}OpenAI.Error"}}})
    if operation.body is not None:
        template = f"{COMPONENTS}OpenAI.{{name}}"
        _, named = msgspec.json.schema_components([operation.body], ref_template=template)
        body = {**named.pop(operation.body.__name__), "examples": [{**operation.example}]}
        schemas |= {f"OpenAI.{name}": schema for name, schema in named.items()}
        made["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    made["responses"] = {"200": _answer("The answer.", content), "4XX": error, "5XX": error}
    return made


def _other(route: Route, verb: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """A route that belongs to no method."""
    identity = re.sub(r"\W+", "_", f"{verb.lower()}{route.path}").strip("_")
    if route.operation is not None and verb != "HEAD":
        return {"operationId": identity, **_of_protocol(route.operation, schemas)}
    own = route.path.startswith("/-/")
    schema = {"schema": _STATE} if own and route.open else _ANY
    content = {} if verb == "HEAD" else {_JSON if own and route.open else "*/*": schema}
    made: dict[str, Any] = {
        "operationId": identity,
        "responses": {"200": _answer("The requested document.", content), **_refusals(_OF_ALL)},
    }
    if route.open:
        made["security"] = [*_NOBODY]
        made["responses"]["503"] = _answer("Not ready.", content)
    if not own:
        made["responses"] |= {"4XX": _any_problem(), "5XX": _any_problem()}
        if verb == "POST":
            made["requestBody"] = {"content": {_JSON: _ANY, "application/octet-stream": _ANY}}
    return made


def _answer(said: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": said,
        "headers": {"X-Request-Id": _ID},
        **({"content": content} if content else {}),
    }


def _refusals(statuses: Iterable[int]) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _refusal(status: int) -> dict[str, Any]:
    made = _any_problem(_REFUSED[status])
    made["headers"] |= _HEADERS.get(status, {})
    return made


def _any_problem(said: str = "A problem.") -> dict[str, Any]:
    return _answer(said, {_PROBLEM: {"schema": {"$ref": f"{COMPONENTS}Problem"}}})


def _problem() -> dict[str, Any]:
    """RFC 9457, with our additions."""
    field = {"field": {"type": "string"}, "detail": {"type": "string"}}
    return {
        "type": "object",
        "properties": {
            "title": {"enum": [phrase_of(status) for status in (*_REFUSED, 404, 405, 406, 409, 501)]},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "request_id": {"type": "string"},
            "errors": {
                "type": "array",
                "items": {"type": "object", "properties": field, "required": list(field)},
            },
        },
        "required": ["title", "status", "detail"],
    }


def _parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _described(thing: Any) -> dict[str, str]:
    said = inspect.getdoc(thing)
    return {"description": said} if said else {}
