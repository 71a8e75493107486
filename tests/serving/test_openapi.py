"""The OpenAPI document: valid, whole, and what is answered conforms to it."""

import re
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.serving.openai.paged_model import Paged
from tests.serving.services import Item, Kinds, Person, Place, Rows, Slow

import hooke.serving
from hooke.serving.auth import Auth
from hooke.serving.openapi import State, schemas_of
from hooke.serving.replica import DOCS, OPENAPI
from hooke.serving.service import service_of
from hooke.testing import client
from hooke.testing.service_client import ServiceClient


def check(told):
    from openapi_spec_validator import OpenAPIV31SpecValidator  # slow to import

    OpenAPIV31SpecValidator(told).validate()


def document(made):
    answer = made.get(OPENAPI)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return answer.json()


@pytest.mark.needs("processes")
@pytest.mark.parametrize("made_by", [Kinds, Rows, Slow, Paged])
def test_it_is_valid_and_tells_of_every_route(made_by):
    with client(made_by) as made:
        told = document(made)
        check(told)
        routes = {
            (route.path, verb.lower())
            for route in made.replica.routes
            if route.path not in (DOCS, "/docs")
            for verb in route.verbs
        }
    assert {
        (path, verb) for path, item in told["paths"].items() for verb in item if verb != "parameters"
    } == routes
    assert told["info"]["title"] == made_by.__name__
    assert told["info"]["description"] == made_by.__doc__
    ids = [
        one["operationId"]
        for item in told["paths"].values()
        for verb, one in item.items()
        if verb != "parameters"
    ]
    assert len(ids) == len(set(ids))


@pytest.mark.needs("processes")
def test_the_token_is_told_of_where_one_is_asked_for():
    with client(Rows) as made:
        assert "security" not in document(made)
    headers = {"authorization": "Bearer 0123456789abcdef"}
    with ServiceClient(service_of(Rows), {}, auth=Auth(token="0123456789abcdef")) as made:
        told = made.request("GET", OPENAPI, headers=headers).json()
        check(told)
    assert told["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    open_to_all = [
        path
        for path, item in told["paths"].items()
        for verb in item
        if verb != "parameters" and item[verb].get("security") == []
    ]
    assert set(open_to_all) == {"/-/health", "/-/ready"}


def valid(schema, named, value):
    import jsonschema

    whole = {**schema, "components": {"schemas": named}}
    return jsonschema.Draft202012Validator(whole).is_valid(value)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (NDArray[np.int8], [[1], [-128]], [[128]]),
        (NDArray[np.uint8], [0, 255], [-1]),
        (NDArray[np.float32], [[0.5], []], [["a"]]),
        (NDArray[np.bool_], [True], [1]),
        (NDArray[np.str_], ["a"], [1]),
        (np.ndarray, [[1, "a"]], 3),
        (list[NDArray[np.float64]], [[0.5]], [0.5]),
        (Item, {"name": "a"}, {"price": 1}),
        (Place, {"city": "c", "items": [{"name": "a"}]}, {"city": "c", "items": [{}]}),
        (Person, {"age": 3}, {"age": "old"}),
        (list[Person], [{"age": 3}], [{}]),
        (dict[str, int], {"a": 1}, {"a": "b"}),
        (int | None, None, "x"),
    ],
)
def test_schemas_of_annotations(annotation, right, wrong):
    (schema,), named = schemas_of([annotation])
    assert valid(schema, named, right)
    assert not valid(schema, named, wrong)


def test_what_may_be_anything_and_nan_in_answers():
    assert schemas_of([object, set[Item] | complex])[0] == [{}, {}]
    for answers in (True, False):
        (schema,), named = schemas_of([NDArray[np.float64]], answers=answers)
        assert valid(schema, named, [[0.5, None]]) is answers


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/plain", {"a": 1}), ("/plain", {"a": "x"}), ("/dataclass", {"item": {"name": "a"}}), ("/struct", {"place": {"city": "c"}}),
        ("/model", {"person": {"age": 3}}), ("/floats", {"rows": [0.5]}), ("/busy", {}), ("/thread", {}), ("/leaves", {}),
    ],
)  # fmt: skip
def test_answers_conform(path, value):
    with client(Kinds) as made:
        told, answer = document(made), made.post(path, value)
    said = told["paths"][path]["post"]["responses"][str(answer.status)]
    if "$ref" in said:
        said = told["components"]["responses"][said["$ref"].rpartition("/")[2]]
    schema = said["content"][answer.headers["content-type"]]["schema"]
    assert valid(schema, told["components"]["schemas"], answer.json())
    assert {name.lower() for name in said["headers"]} <= set(answer.headers)


def test_every_state_and_the_least_rows_are_told():
    """A schema that allowed no rows would call a request valid that is refused."""
    with client(Rows) as made:
        told = document(made)
        states = told["paths"]["/-/ready"]["get"]["responses"]["200"]["content"]["application/json"]
        assert set(states["schema"]["properties"]["state"]["enum"]) == {state.value for state in State} | {
            "idle"
        }
        assert "restarting" in states["schema"]["properties"]["state"]["enum"]
        named = told["components"]["schemas"]
        for path in ("/predict", "/square", "/listed", "/later", "/optional"):
            sent = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            assert not valid(sent, named, {"rows": []}), path
            assert made.post(path, {"rows": []}).status == 422
            assert valid(sent, named, {"rows": [[1.0]] if path in ("/predict", "/square") else [1]})
    with client(Kinds) as made:
        sent = document(made)["paths"]["/floats"]["post"]["requestBody"]["content"]["application/json"]
        assert valid(sent["schema"], document(made)["components"]["schemas"], {"rows": []}), (
            "it takes no rows"
        )
        assert made.post("/floats", {"rows": []}).status == 200


def test_titles_are_those_of_every_status_that_is_refused_with():
    """Of Problem(406, ...) as of all others that the code of serving makes."""
    code = "".join(path.read_text() for path in Path(hooke.serving.__file__).parent.rglob("*.py"))
    made = {int(status) for status in re.findall(r"Problem\(\s*(\d{3}),", code)}
    assert made >= {400, 404, 406, 503}
    with client(Kinds) as kinds:
        titles = document(kinds)["components"]["schemas"]["Problem"]["properties"]["title"]["enum"]
    assert {HTTPStatus(status).phrase for status in made} <= set(titles)
