"""Bodies that are made: they fit what they are made from, vary, and are none where too little is said."""

import dataclasses
import enum
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import hypothesis.strategies as some
import msgspec
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from numpy.typing import NDArray

from hooke import UsageError, service
from hooke.loadtest.bodies import made_values
from hooke.loadtest.requests import Sent, made_for_file, made_for_url
from hooke.loadtest.target import parse_target
from hooke.serving.payloads import methods_of
from hooke.serving.service import service_of

TARGET = parse_target("127.0.0.1:8000")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=2, max_length=5)]
    below: list["Leaf"] = []


class Tree(msgspec.Struct, tag=True):
    size: Annotated[int, msgspec.Meta(gt=100)]
    below: list["Tree"]


class Bush(msgspec.Struct, tag=True):
    leaf: Leaf


@dataclasses.dataclass
class Flight:
    carrier: Literal["UA", "AA"]
    day: date
    delay: float = 0.0


@service(max_batch=8)
class Many:
    """A method for each kind of parameter."""

    def flights(self, flights: list[Flight]) -> list[float]: ...
    def plain(self, number: int, share: float, is_new: bool, text: str, colour: Colour): ...
    def formats(
        self, at: Annotated[datetime, msgspec.Meta(tz=True)], day: date, who: UUID, price: Decimal, raw: bytes
    ): ...
    def bounded(self, a: Annotated[float, msgspec.Meta(ge=5, lt=6)], b: Annotated[int, msgspec.Meta(le=-7, multiple_of=3)]): ...  # fmt: skip
    def examples(self, word: Annotated[str, msgspec.Meta(pattern="^x+$", examples=["x", "xx"])]): ...
    def lengths(self, rows: list[Annotated[list[float], msgspec.Meta(min_length=8, max_length=8)]]): ...
    def pairs(self, pair: tuple[int, str], several: set[int], null: None, perhaps: int | None): ...
    def matrix(self, rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]): ...
    def tree(self, plant: Tree | Bush, limit: int = 3): ...
    def nothing(self): ...


@service
class Unsaid:
    """Too little is said of each."""

    def anything(self, rows): ...
    def free(self, data: dict): ...
    def names(self, data: dict[str, float]): ...
    def inner(self, rows: list[dict[str, Any]]): ...
    def array(self, rows: np.ndarray): ...
    def typed(self, rows: NDArray[np.float64]): ...
    def pattern(self, word: Annotated[str, msgspec.Meta(pattern="^x+$")]): ...


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("method", methods_of(service_of(Many)).values(), ids=lambda method: method.name)
def test_a_service_reads_what_is_made_from_its_annotations(method):
    sent = made_for_file(service_of(Many), f"/{method.name}", seed=3)
    read = [method.read(body) for body in sent.bodies]
    assert len(sent.bodies) == (1 if method.name == "nothing" else 2 if method.name == "examples" else len(set(sent.bodies)))  # fmt: skip
    assert sent == made_for_file(service_of(Many), f"/{method.name}", seed=3), "the seed decides"
    if method.name == "matrix":
        assert {each["rows"].shape for each in read} == {(1, 4)}, "rows of one length"
    if method.name == "flights":
        assert all(len(each["flights"]) == 1 for each in read) and len(sent.bodies) > 20
        assert b"delay" not in sent.bodies[0], "what has a default is left out"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("anything", "rows is not specified enough: it may be anything"),
        ("free", "data is not specified enough: the names of its fields are open"),
        ("names", "data is not specified enough: the names of its fields are open"),
        ("inner", r"rows\[\] is not specified enough: the names"),
        ("array", "rows is not specified enough: it is an array of any number of dimensions"),
        ("typed", "rows is not specified enough: it is an array of any number of dimensions"),
        ("pattern", r"word is not specified enough: it is text with the pattern \^x\+\$"),
        ("predcit", "Unsaid has no such method"),
    ],
)
def test_where_too_little_is_said_the_field_is_named_with_the_mend(name, said):
    with pytest.raises(UsageError, match=said) as caught:
        made_for_file(service_of(Unsaid), f"/{name}", seed=0)
    assert "--data" in caught.value.fix


numbers = some.fixed_dictionaries(
    {"type": some.sampled_from(["integer", "number"])},
    optional={
        "minimum": some.integers(-300, 300), "maximum": some.integers(301, 900),
        "exclusiveMinimum": some.integers(-300, 300), "exclusiveMaximum": some.integers(302, 900), "multipleOf": some.integers(1, 5),
    },
)  # fmt: skip
texts = some.fixed_dictionaries(
    {"type": some.just("string")}, optional={"minLength": some.integers(0, 40), "maxLength": some.integers(40, 90)}
)  # fmt: skip
leaves = (
    numbers
    | texts
    | some.just({"type": ["null", "boolean"]})
    | some.just({"enum": [1, "a", None]})
    | some.just({"const": [3]})
)


def larger(inner):
    named = some.dictionaries(some.sampled_from("abcd"), inner, min_size=1)
    arrays = some.fixed_dictionaries(
        {"type": some.just("array"), "items": inner}, optional={"minItems": some.integers(0, 3), "maxItems": some.integers(3, 6)}
    )  # fmt: skip
    objects = named.map(
        lambda fields: {"type": "object", "properties": fields, "required": sorted(fields)[:2]}
    )
    either = some.lists(inner, min_size=1, max_size=3).map(lambda several: {"anyOf": several})
    return arrays | objects | either | objects.map(lambda one: {"allOf": [one, {"type": "object"}]})


@pytest.mark.needs("cpu")
@settings(deadline=None, max_examples=25)  # jsonschema is slow to import
@drawn(some.recursive(leaves, larger, max_leaves=6), some.integers(0, 5))
def test_what_is_made_is_valid(schema, seed):
    import jsonschema

    for value in made_values(schema, {}, count=3, seed=seed):
        jsonschema.validate(value, schema)
        msgspec.json.encode(value)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number is within its bounds"),
        ({"type": "number", "exclusiveMinimum": 2, "maximum": 2}, "no number is within its bounds"),
        ({"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 5}, "no number is within its bounds"),
        ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3}, "fewer than 3 different"),
        ({"$ref": "#/none"}, "#/none does not exist"),
        ({"$ref": "other.json"}, "other.json does not exist"),
        ({"anyOf": []}, "no value matches it"),
        ({"type": "object", "required": ["a"]}, "names of its fields are open"),
        ({"type": "string", "format": "iban"}, "format iban"),
        ({"type": "integer", "minimum": "many"}, "not a valid JSON Schema"),
        (False, "may be anything"),
    ],
)  # fmt: skip
def test_schemas_that_nothing_can_be_made_from(schema, said):
    with pytest.raises(UsageError, match=said):
        made_values(schema, {}, count=1, seed=0)


def test_a_reference_that_ends_nowhere():
    whole = {"a": {"type": "object", "properties": {"a": {"$ref": "#/a"}}, "required": ["a"]}}
    with pytest.raises(UsageError, match="contains itself without a limit"):
        made_values({"$ref": "#/a"}, whole, count=1, seed=0)


def document(content):
    return {"paths": {"/predict": {"post": {"requestBody": {"content": {"application/json": content}}}}}}


def test_of_a_url_its_examples_go_before_its_schema():
    content = {"schema": {"type": "integer"}, "examples": {"one": {"value": {"rows": [1]}}}}
    assert made_for_url(document(content), TARGET, "/predict", seed=0).bodies == (b'{"rows":[1]}',)
    del content["examples"]
    made = made_for_url(document(content), TARGET, "/predict?x=1", seed=0)
    assert len(made.bodies) > 50
    assert "127.0.0.1:8000/-/openapi.json (seed 0)" in str(made)


@pytest.mark.parametrize(
    ("told", "path", "said"),
    [
        ({}, "/predict", "does not accept POST requests"),
        (document({}), "/predcit", "does not accept POST requests"),
        (document({}), "/predict", "the body is not specified enough"),
        ({"paths": []}, "/predict", "is not an OpenAPI document"),
        ({"paths": {"/v1/completions": {"post": {}}}}, "/predict", "for a language model: --lengths"),
    ],
)
def test_of_a_url_that_does_not_say(told, path, said):
    with pytest.raises(UsageError, match=said):
        made_for_url(told, TARGET, path, seed=0)


def test_what_was_sent_is_shown_in_a_line():
    assert str(Sent(bodies=(b"{}",))) == "{}"
    long = Sent(bodies=(b'"' + b"a" * 500 + b'"', b"2"), made_from="there", seed=1)
    assert str(long) == '"' + "a" * 159 + "... (502 letters) and 1 more in turn, made from there (seed 1)"
