"""The page that shows a service's OpenAPI document to a person: routes, fields, examples as curl commands, errors. Pure.

It is plain HTML without scripts. What a service's author wrote is escaped, and the page's policy lets the browser load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

from hooke.serving.openapi import COMPONENTS
from hooke.serving.problems import PRIORITY_HEADER

__all__ = ["PAGE_HEADERS", "docs_page", "example", "shown_type", "token_page"]

Json: TypeAlias = Mapping[str, Any]

_STYLE = """
:root{color-scheme:light dark;--text:#1d2129;--dim:#5b6472;--line:#d9dee5;--soft:#f4f6f8;--page:#fff;--accent:#0b5cad;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--text:#e4e7ec;--dim:#9aa4b2;--line:#343b46;--soft:#1c2129;--page:#12151a;--accent:#7db7f5;--bad:#f2a29b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:2rem 1.2rem 4rem;font:16px/1.55 system-ui,sans-serif;color:var(--text);background:var(--page)}
h1{font-size:1.7rem;margin:0 0 .3rem}
h2{font-size:1.15rem;margin:2.6rem 0 .6rem;padding-bottom:.25rem;border-bottom:1px solid var(--line)}
h3{font-size:.8rem;margin:1.3rem 0 .3rem;color:var(--dim);text-transform:uppercase;letter-spacing:.05em}
a{color:var(--accent)}
p{margin:.5rem 0}
.said{white-space:pre-line}
.dim{color:var(--dim)}
code,pre{font:.88em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{overflow-wrap:anywhere}
h3 code{text-transform:none;letter-spacing:0;font-size:1rem}
td:first-child code{overflow-wrap:normal;white-space:nowrap}
pre{background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;overflow-x:auto;margin:.3rem 0}
table{display:block;overflow-x:auto;border-collapse:collapse;width:100%;font-size:.94rem}
tbody,thead{width:100%}
th{text-align:left;color:var(--dim);font-weight:600}
th,td{padding:.3rem 1rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
.verb{display:inline-block;min-width:3.4rem;margin-right:.5rem;padding:.05rem .4rem;border-radius:4px;background:var(--accent);color:var(--page);font-size:.75rem;font-weight:700;text-align:center;vertical-align:.1em}
nav{display:flex;flex-wrap:wrap;gap:0 1rem}
nav a{white-space:nowrap}
.bad{color:var(--bad)}
input,button{font:inherit;color:inherit;background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:.4rem .7rem}
input{width:min(28rem,100%)}
button{cursor:pointer;border-color:var(--accent);color:var(--accent)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _POLICY.encode()),
    (b"cache-control", b"no-store"),
    # With `no-referrer` a browser would send `Origin: null` with the form, which is refused.
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
)
"""Headers of the page. Its policy allows its own style by digest, and forms to the service itself."""


def docs_page(document: Json, *, address: str) -> bytes:
    """The page of an OpenAPI document that `hooke.serving.openapi` made. `address` is where clients send requests to."""
    title, with_token = document["info"]["title"], "security" in document
    named = document["components"]["schemas"]
    calls = [
        (path, item["post"])
        for path, item in document["paths"].items()
        if "schema"
        in item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
    ]
    links = "".join(
        f'<a href="#{escape(told["operationId"])}">{escape(told["operationId"])}</a>' for _, told in calls
    )
    methods = "".join(_call(path, told, named, address, with_token=with_token) for path, told in calls)
    others = {path: item for path, item in document["paths"].items() if path not in dict(calls)}
    body = (
        f"<h1>{escape(title)}</h1>{_said(document['info'])}"
        f'<p><code>{escape(address)}</code> <span class="dim">·</span> <a href="/-/openapi.json">OpenAPI document</a>'
        f"{'' if not with_token else ' (needs the token)'}</p>"
        f"<nav>{links}<a href='#types'>types</a><a href='#headers'>headers</a><a href='#errors'>errors</a>"
        f"<a href='#others'>other routes</a></nav>{methods}"
        f"{_types(named)}{_headers(with_token=with_token)}{_errors(document)}{_others(others)}"
    )
    return _page(title, body)


def token_page(*, wrong: bool = False) -> bytes:
    """The page that asks for the bearer token. It tells nothing of the service."""
    said = '<p class="bad">The token is wrong.</p>' if wrong else ""
    return _page(
        "API documentation",
        "<h1>API documentation</h1><p>This service needs a bearer token. <code>hooke serve</code> prints its file.</p>"
        f'{said}<form method="post" action="/-/docs"><p><label>Token<br>'
        '<input name="token" type="password" autocomplete="off" required autofocus></label></p>'
        "<p><button>Show the documentation</button></p></form>",
    )


def _page(title: str, body: str) -> bytes:
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n"
    ).encode()


# --- One method: what it takes, an example, what it answers.


def _call(path: str, told: Json, named: Json, address: str, *, with_token: bool) -> str:
    schema = told["requestBody"]["content"]["application/json"]["schema"]
    answers = told["responses"]["200"]["content"]
    streams = "application/json" not in answers
    if streams:
        answer = "<p>Server-sent events: one for each item, then <code>end</code>, or <code>error</code> with a problem.</p>"
    elif "schema" in answers["application/json"]:
        answer = f"<p>{_linked(answers['application/json']['schema'])}</p>"
    else:
        more = ", or server-sent events with <code>stream</code>" if len(answers) > 1 else ""
        answer = f"<p>As OpenAI's clients read it{more}. Errors are <code>OpenAI.Error</code>.</p>"
    return (
        f'<h2 id="{escape(told["operationId"])}"><span class="verb">POST</span>{escape(path)}</h2>'
        f"{_said(told)}<h3>Fields</h3>{_fields(schema)}"
        f"<h3>Example</h3><pre>{escape(_curl(address + path, example(schema, named), with_token=with_token, streams=streams))}</pre>"
        f"<h3>Answer</h3>{answer}"
    )


def _fields(schema: Json) -> str:
    properties, required = schema.get("properties", {}), schema.get("required", ())
    if not properties:
        return "<p>None: send <code>{}</code>.</p>"
    rows = [
        (
            f"<code>{escape(name)}</code>",
            _linked(field),
            _presence(name, field, required),
            escape(field.get("description", "")),
        )
        for name, field in properties.items()
    ]
    return _table(("field", "type", "", ""), rows)


def _presence(name: str, field: Json, required: Sequence[str]) -> str:
    if name in required:
        return "required"
    if "default" in field:
        return f"default <code>{escape(json.dumps(field['default']))}</code>"
    return "optional"


def _curl(url: str, body: Any, *, with_token: bool, streams: bool) -> str:
    words = ["curl -N" if streams else "curl"]
    if with_token:
        words.append('-H "Authorization: Bearer $TOKEN"')
    words.append("-H 'Content-Type: application/json'")
    words.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join([*words, shlex.quote(url)])


# --- Schemas as text, and a value for each.

MOST_VALUES = 8
"""Of an enumeration that are shown."""


def shown_type(schema: Any) -> str:
    """A JSON Schema as a short type: `array of number`, `string or null`, `Item`."""
    if not isinstance(schema, Mapping) or not schema:
        return "any value"
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(COMPONENTS)
    for key in ("enum", "const"):
        if key in schema:
            values = schema[key] if key == "enum" else [schema[key]]
            shown = [json.dumps(value, ensure_ascii=False) for value in values[:MOST_VALUES]]
            return " or ".join(shown) + (f" or … ({len(values)} values)" if len(values) > MOST_VALUES else "")
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(map(shown_type, schema[key])))
    kind = schema.get("type", "any value")
    if isinstance(kind, list):
        return " or ".join(kind)
    return _shown_kind(kind, schema)


def _linked(schema: Any) -> str:
    """The type as markup, with a link if it is only a name, or an array of it."""
    shown = escape(shown_type(schema))
    inner = (
        schema.get("items", schema)
        if isinstance(schema, Mapping) and schema.get("type") == "array"
        else schema
    )
    if isinstance(inner, Mapping) and "$ref" in inner:
        name = escape(shown_type(inner))
        shown = f'{shown.removesuffix(name)}<a href="#type-{name}">{name}</a>'
    return f"<code>{shown}</code>"


def _shown_kind(kind: str, schema: Mapping[str, Any]) -> str:
    if kind == "array":
        items = schema.get("prefixItems")
        if items:
            return f"[{', '.join(map(shown_type, items))}]"
        inner = shown_type(schema.get("items"))
        return f"array of ({inner})" if " or " in inner else f"array of {inner}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {shown_type(values)}" if isinstance(values, Mapping) else "object"
    limits = [
        f"{sign} {schema[key]}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    form = f" ({schema['format']})" if "format" in schema else ""
    return f"{kind}{form}{', '.join(['', *limits])}"


DEEP = 8
"""Levels of an example; types that contain themselves have no end."""


def example(schema: Any, named: Json, depth: int = DEEP) -> Any:
    """A value that a JSON Schema allows, without what is optional: null for one that allows anything, or is nested too deeply."""
    if not isinstance(schema, Mapping) or not schema or not depth:
        return None
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "const" in schema or "default" in schema:
        return schema["const"] if "const" in schema else schema["default"]
    if "$ref" in schema:
        return example(named.get(str(schema["$ref"]).removeprefix(COMPONENTS)), named, depth - 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example(schema[key][0], named, depth - 1)
    kind = schema.get("type")
    return _example_of(kind[0] if isinstance(kind, list) else kind, schema, named, depth)


_BY_FORMAT = {
    "date": "2030-01-31",
    "date-time": "2030-01-31T12:00:00Z",
    "time": "12:00:00",
    "duration": "PT1H",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "decimal": "1.5",
}


def _example_of(kind: str | None, schema: Json, named: Json, depth: int) -> Any:
    match kind:
        case "boolean":
            return True
        case "integer" | "number":
            return _number(schema, whole=kind == "integer")
        case "string":
            text = _BY_FORMAT.get(
                schema.get("format", ""), "text" if "contentEncoding" not in schema else "dGV4dA=="
            )
            return text.ljust(schema.get("minLength", 0), "t")[: schema.get("maxLength")]
        case "array":
            if "prefixItems" in schema:
                return [example(item, named, depth - 1) for item in schema["prefixItems"]]
            item = example(schema.get("items"), named, depth - 1)
            return [item] * max(1, schema.get("minItems", 1)) if schema.get("maxItems", 1) else []
        case "object":
            needed = schema.get("required", ())
            properties = schema.get("properties", {})
            return {name: example(properties.get(name), named, depth - 1) for name in needed}
        case _:
            return None


def _number(schema: Json, *, whole: bool) -> float:
    least = schema.get(
        "minimum", schema.get("exclusiveMinimum", 0) + 1 if "exclusiveMinimum" in schema else None
    )
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    value = 1 if whole else 1.5
    if least is not None and value < least:
        value = least
    if most is not None and value > most:
        value = most
    return value


# --- What is the same for all methods.


def _said(told: Mapping[str, Any]) -> str:
    return f'<p class="said">{escape(told["description"])}</p>' if told.get("description") else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are markup."""
    head = "".join(f"<th>{name}</th>" for name in header)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _types(named: Json) -> str:
    parts: list[str] = []
    for name, schema in named.items():
        told = _fields(schema) if schema.get("properties") else f"<p>{_linked(schema)}</p>"
        parts.append(f'<h3 id="type-{escape(name)}"><code>{escape(name)}</code></h3>{_said(schema)}{told}')
    return f'<h2 id="types">Types</h2>{"".join(parts)}'


def _headers(*, with_token: bool) -> str:
    rows = [
        ("Content-Type", "<code>application/json</code>; needed."),
        (
            "X-Request-Id",
            "Your id of the request. The answer and the logs carry it; without one they carry a new one.",
        ),
        ("traceparent", "W3C Trace Context: the trace goes on in the service."),
        (
            PRIORITY_HEADER,
            "<code>low</code> for a request that may be refused first; <code>high</code> is the default.",
        ),
    ]
    if with_token:
        rows.insert(
            0,
            (
                "Authorization",
                "<code>Bearer TOKEN</code>; needed. The token of the service, or a key of yours.",
            ),
        )
    return '<h2 id="headers">Headers</h2>' + _table(
        ("header", ""), [(f"<code>{name}</code>", said) for name, said in rows]
    )


def _errors(document: Json) -> str:
    rows = [
        (f"<code>{escape(status)}</code>", escape(told["description"]), _named_headers(told))
        for status, told in sorted(document["components"]["responses"].items())
    ]
    return (
        '<h2 id="errors">Errors</h2><p>The body is a <code>Problem</code> (RFC 9457, <code>application/problem+json</code>).</p>'
        + _table(("status", "", "headers"), rows)
    )


def _named_headers(told: Json) -> str:
    names = [name for name in told.get("headers", {}) if name != "X-Request-Id"]
    return ", ".join(f"<code>{escape(name)}</code>" for name in names)


def _others(paths: Json) -> str:
    rows = [
        (
            " ".join(verb.upper() for verb in item if verb not in ("parameters", "head")),
            f"<code>{escape(path)}</code>",
            "without a token"
            if any(one.get("security") == [] for one in item.values() if isinstance(one, dict))
            else "",
        )
        for path, item in paths.items()
    ]
    return '<h2 id="others">Other routes</h2>' + _table(("", "path", ""), rows)
