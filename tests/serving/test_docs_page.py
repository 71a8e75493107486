"""The page of a service's routes: what it shows, that it is safe to look at, and that its examples work."""

import base64
import hashlib
import re
import shlex
import subprocess
from html.parser import HTMLParser

import msgspec
import pytest
from tests.serving.services import Kinds, Rows, Slow

from hooke import service
from hooke.serving.auth import ApiKey, Auth
from hooke.serving.docs_page import docs_page, example, shown_type
from hooke.serving.openapi import body_of
from hooke.serving.payloads import methods_of
from hooke.serving.service import service_of
from hooke.testing import client
from hooke.testing.service_client import ServiceClient

TOKEN = "0123456789abcdef-A_z~"
KEY = ApiKey(client="shop", token="shop-shop-shop-shop")
HOST = {"host": "127.0.0.1:8000"}


class Read(HTMLParser):
    """The page's tags with their attributes, and its text; a tag that is not closed is seen."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(page.decode())
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def said(self):
        return "".join(self.text)


class Marked(msgspec.Struct):
    """</p><script>alert("type")</script>"""

    city: str
    parts: list["Marked"] = []


@service
class Nasty:
    """<img src=x onerror=alert(1)> & "quotes"."""

    def say(self, place: Marked, how: str = "'<b>' & $(id)") -> Marked:
        """</pre><script>alert(1)</script>"""
        return place


def page_of(made, **headers):
    answer = made.request("GET", "/-/docs", headers=HOST | headers)
    assert answer.status == 200
    return answer


def test_it_shows_routes_fields_an_example_types_headers_and_errors():
    with client(Kinds) as made:
        read = Read(page_of(made).body)
    for said in ("/dataclass", "curl", "Retry-After", "x-hooke-priority", "/v2/models/{name}/infer"):
        assert said in read.said
    assert "One request a call, of every kind of type." in read.said
    assert 'default "x"' in read.said
    assert "Authorization" not in read.said
    links = [given["href"][1:] for tag, given in read.tags if tag == "a" and given["href"].startswith("#")]
    assert set(links) <= {given.get("id") for _, given in read.tags}
    assert "type-Item" in links


def test_what_the_author_wrote_is_text_and_nothing_is_loaded():
    with client(Nasty) as made:
        answer = page_of(made)
    read = Read(answer.body)
    assert not {"script", "img", "iframe", "b"} & {tag for tag, _ in read.tags}
    assert not [
        name for _, given in read.tags for name in given if name.startswith("on") or name in ("src", "style")
    ]
    assert '<img src=x onerror=alert(1)> & "quotes".' in read.said
    assert '</p><script>alert("type")</script>' in read.said
    policy = dict(
        part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";")
    )
    (style,) = re.findall(rb"<style>(.*?)</style>", answer.body, re.DOTALL)
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(style).digest()).decode()}'"
    assert {policy[name] for name in ("base-uri", "frame-ancestors")} == {"'none'"}
    assert b"prefers-color-scheme:dark" in style
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("made_by", [Kinds, Rows, Slow, Nasty])
def test_each_example_is_a_body_that_the_method_takes(made_by):
    for method in methods_of(service_of(made_by)).values():
        schema, named = body_of(method)
        method.read(msgspec.json.encode(example(schema, named)))


def test_a_shell_reads_the_example_as_it_is_meant(tmp_path):
    document = {
        "info": {"title": "T"},
        "components": {"schemas": {}, "responses": {}},
        "paths": {
            "/say": {
                "post": {
                    "operationId": "say",
                    "requestBody": {
                        "content": {
                            "application/json": {
                                "schema": {
                                    "type": "object",
                                    "required": ["how"],
                                    "properties": {"how": {"enum": ["it's $(id)"]}},
                                }
                            }
                        }
                    },
                    "responses": {"200": {"content": {"application/json": {"schema": {}}}}},
                }
            }
        },
    }
    page = Read(docs_page(document, address="http://127.0.0.1:8000"))
    (command,) = [text for text in page.text if text.startswith("curl")]
    words = subprocess.run(
        ["sh", "-c", command.replace("curl", "printf '%s\\n'", 1)], capture_output=True, text=True, check=True
    ).stdout
    assert words.splitlines() == [
        "-H",
        "Content-Type: application/json",
        "-d",
        '{"how": "it\'s $(id)"}',
        "http://127.0.0.1:8000/say",
    ]
    assert shlex.split(command.replace("\\\n", ""))[0] == "curl"


@pytest.mark.parametrize(
    ("schema", "shown", "value"),
    [
        ({}, "any value", None),
        ({"type": "integer", "minimum": 5, "maximum": 9}, "integer, ≥ 5, ≤ 9", 5),
        ({"type": "number", "exclusiveMinimum": 2}, "number, > 2", 3),
        (
            {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            "string (date) or null",
            "2030-01-31",
        ),
        (
            {"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
            "array of (number or null)",
            [1.5],
        ),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]},
            "[integer, boolean]",
            [1, True],
        ),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "object of integer", {}),
        ({"type": "string", "minLength": 6}, "string", "texttt"),
        ({"$ref": "#/components/schemas/Loop"}, "Loop", {"again": None}),
        ({"enum": list(range(20))}, "0 or 1 or 2 or 3 or 4 or 5 or 6 or 7 or … (20 values)", 0),
    ],
)
def test_a_schema_as_text_and_as_a_value(schema, shown, value):
    loop = {
        "type": "object",
        "required": ["again"],
        "properties": {"again": {"$ref": "#/components/schemas/Loop"}},
    }
    assert shown_type(schema) == shown
    assert example(schema, {"Loop": loop}, 3) == value


@pytest.fixture(scope="module")
def guarded():
    with ServiceClient(service_of(Nasty), {}, auth=Auth(token=TOKEN, keys=(KEY,))) as made:
        yield made


def send(made, form, **headers):
    return made.request(
        "POST", "/-/docs", body=form, headers=HOST | {"content-length": str(len(form))} | headers
    )


def test_without_the_token_a_form_asks_for_it_and_tells_nothing(guarded):
    read = Read(page_of(guarded).body)
    assert "Nasty" not in read.said
    assert "say" not in read.said
    assert [given for tag, given in read.tags if tag == "form"] == [{"method": "post", "action": "/-/docs"}]


@pytest.mark.parametrize("token", [TOKEN, KEY.token])
def test_with_the_token_of_the_form_or_of_a_header_it_is_shown(guarded, token):
    assert "/say" in Read(page_of(guarded, authorization=f"Bearer {token}").body).said
    for origin in ({}, {"origin": "http://127.0.0.1:8000"}):
        answer = send(guarded, f"token={token}".encode(), **origin)
        assert answer.status == 200
        read = Read(answer.body)
        assert "Authorization: Bearer $TOKEN" in read.said
        assert token not in read.said


def test_another_token_another_page_and_a_large_form_are_refused(guarded):
    before = guarded.replica.refused.get("token", 0)
    for form in (b"token=wrong", b"", b"token=", b"token=%ff%fe", b"other=1"):
        answer = send(guarded, form)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert b"The token is wrong." in answer.body
    assert guarded.replica.refused["token"] == before + 5
    assert send(guarded, f"token={TOKEN}".encode(), origin="http://evil.example").status == 403
    assert send(guarded, b"token=" + b"x" * 9000).status == 413
    chunked = HOST | {"transfer-encoding": "chunked"}
    assert guarded.request("POST", "/-/docs", body=b"token=x", headers=chunked).status == 413


def test_it_is_found_at_docs_unless_a_method_is():
    @service
    class Own:
        def docs(self) -> str:
            return "mine"

    with client(Nasty) as made:
        answer = made.get("/docs")
        assert (answer.status, answer.headers["location"]) == (308, "/-/docs")
    with client(Own) as made:
        assert made.post("/docs", {}).json() == "mine"
        assert made.get("/docs").status == 405
        assert "/docs" in Read(page_of(made).body).said
