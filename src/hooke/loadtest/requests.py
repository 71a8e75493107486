"""The bodies of a load test's requests: given by the user, or generated from the service's schema."""

from __future__ import annotations

import csv
import hashlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from hooke.base.errors import HookeError, UsageError
from hooke.loadtest.bodies import made_values
from hooke.loadtest.target import Arrivals, Target, constant, poisson, recorded
from hooke.serving.openapi import body_of
from hooke.serving.payloads import Method, methods_of
from hooke.serving.service import Service

__all__ = [
    "OF_LENGTHS",
    "Sent",
    "arrivals_of",
    "bodies_of",
    "described",
    "given",
    "made_for_file",
    "made_for_url",
    "opener",
]


# --- Bodies and arrival times given by the user.

MOST_BODIES = 100_000
NAMED = {"poisson": poisson, "constant": constant}


def bodies_of(data: str) -> list[bytes]:
    """`--data`: JSON, or `@FILE` with one JSON document, or with one per line, sent in turn. Raises UsageError."""
    if not data.startswith("@"):
        return [_json(data.encode(), "--data")]
    path = Path(data[1:])
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--data {data}: {error.strerror}", fix="give a JSON file: --data @rows.json"
        ) from error
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            return [_json(text, str(path))]
        return [_json(line, f"{path}, line {at}") for at, line in enumerate(lines[:MOST_BODIES], 1)]
    return [text.strip()]


def arrivals_of(name: str) -> Arrivals:
    """`--arrivals`: a name, or a CSV file whose first column has the arrival times in seconds. Raises UsageError."""
    if name in NAMED:
        return NAMED[name]
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"--arrivals {name} is neither a known name nor a file",
            fix=f"valid: {', '.join(NAMED)}, or a CSV file with a trace",
        )
    times: list[float] = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                times.append(float(row[0]))
            except (ValueError, IndexError):
                if number > 1 and row:
                    raise UsageError(
                        f"{path}, line {number}: {row[0]!r} is not a time",
                        fix="the first column must be seconds, optionally after a heading",
                    ) from None
    return recorded(np.array(times))


def _json(text: bytes, where: str) -> bytes:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{where} is not valid JSON: {error}", fix="--data '{\"rows\": [[1, 2]]}', or --data @FILE"
        ) from error
    return text.strip()


DESCRIBED_AT = "/-/openapi.json"
COUNT = 256
"""Number of generated bodies, which are sent in turn: too many for a small cache."""
MOST_BYTES = 16 * 1024 * 1024
MOST_SHOWN = 160
OF_LENGTHS = "--lengths azure-conversation"
"""How a language model is tested."""
_GIVE = "give a request body: --data '{\"rows\": [[1, 2]]}', or --data @FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Bodies, sent in turn. `made_from` is their source; empty if the user gave them."""

    bodies: tuple[bytes, ...]
    made_from: str = ""
    seed: int = 0

    @property
    def digest(self) -> str:
        """A hash of the bodies and their order."""
        hashed = hashlib.blake2b(digest_size=8)
        for body in self.bodies:
            hashed.update(len(body).to_bytes(8) + body)
        return hashed.hexdigest()

    def __str__(self) -> str:
        """The first body, and the number of others."""
        text = self.bodies[0].decode(errors="replace")
        shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}... ({len(text):,} letters)"
        more = f" and {len(self.bodies) - 1:,} more in turn" if len(self.bodies) > 1 else ""
        made = f", made from {self.made_from} (seed {self.seed})" if self.made_from else ""
        return f"{shown}{more}{made}"


def given(bodies: Sequence[bytes]) -> Sent:
    """Bodies from the user."""
    return Sent(bodies=tuple(bodies))


def made_for_file(declared: Service, path: str, *, seed: int) -> Sent:
    """Bodies for a method, from its annotations, without optional parameters. Raises UsageError if they do not say enough."""
    name = path.lstrip("/")
    methods = methods_of(declared)
    if name not in methods:
        known = ", ".join(f"--path /{each}" for each in methods)
        raise UsageError(
            f"no requests for {declared.name}{path}: {declared.name} has no such method",
            fix=f"valid: {known}; or give a request body: --data JSON, or --data @FILE",
        )
    schema, named = body_of(methods[name])
    whole = {"components": {"schemas": named}}
    try:
        return _made(schema, whole, seed=seed, source=f"the annotations of {declared.name}.{name}")
    except UsageError as error:
        raise UsageError(
            f"no request body for {declared.name}{path} can be generated: {error.what}",
            fix=f"give a request body: {_shown_body(methods[name])}, or --data @FILE; or annotate the method with lengths, "
            "fields and dimensions, such as np.ndarray[tuple[int, int], np.dtype[np.float64]]",
        ) from error


def made_for_url(document: Mapping[str, Any], target: Target, path: str, *, seed: int) -> Sent:
    """Bodies for a path, from the service's OpenAPI document. Raises UsageError if it does not say enough."""
    url, source = f"{target.authority}{path}", f"{target.authority}{DESCRIBED_AT}"
    try:
        paths = msgspec.convert(document, _Document).paths
    except msgspec.ValidationError as error:
        raise UsageError(
            f"no request body for {url} can be generated: {source} is not an OpenAPI document: {error}",
            fix=_GIVE,
        ) from error
    operation = paths.get(path.partition("?")[0], _Path()).post
    if operation is None:
        asked = [name for name, each in paths.items() if each.post is not None and "{" not in name]
        valid = f"valid: {', '.join(f'--path {name}' for name in asked)}" if asked else _GIVE
        raise UsageError(
            f"{url} does not accept POST requests",
            fix=f"for a language model: {OF_LENGTHS}; {valid}" if "/v1/completions" in asked else valid,
        )
    content = operation.body.content.get("application/json", _Content())
    examples = [each["value"] for each in content.examples.values() if "value" in each]
    examples += [content.example] if content.example is not None else []
    if examples:
        return Sent(bodies=tuple(map(msgspec.json.encode, examples)), made_from=f"the examples of {source}")
    try:
        return _made(content.schema, document, seed=seed, source=source)
    except UsageError as error:
        raise UsageError(f"no request body for {url} can be generated: {error.what}", fix=_GIVE) from error


def opener(target: Target, *, ca: str) -> urllib.request.OpenerDirector:
    """For requests to a target itself: without proxies, and a redirect is an HTTPError. Raises OSError if `ca` is no file of certificates."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirects()]
    if target.tls:
        trusted = ssl.create_default_context(cafile=ca or None)
        handlers.append(urllib.request.HTTPSHandler(context=trusted))
    return urllib.request.build_opener(*handlers)


def described(target: Target, *, token: str, ca: str, timeout_s: float) -> Mapping[str, Any]:
    """The OpenAPI document of the target. Raises UsageError if it has none, HookeError if it does not answer."""
    scheme = "https" if target.tls else "http"
    url = f"{scheme}://{target.authority}{DESCRIBED_AT}"
    asked = urllib.request.Request(url)  # noqa: S310 - only http and https, as `parse_target` checked
    if token:
        asked.add_header("authorization", f"Bearer {token}")
    try:
        with opener(target, ca=ca).open(asked, timeout=timeout_s) as answer:
            found = msgspec.json.decode(answer.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        token_asked = "; it needs its token: --token-file FILE" if error.code == 401 else ""
        raise UsageError(
            f"no request body for {target.authority} can be generated: {url} answers {error.code}",
            fix=f"{_GIVE}{token_asked}",
        ) from error
    except urllib.error.URLError as error:
        raise UsageError(
            f"nothing answers at {target.authority}",
            why=str(error.reason),
            fix="start the service, or give the address that it names: hooke serve FILE.py",
        ) from error
    except OSError as error:
        raise HookeError(f"{url} gave no answer: {error}", fix=_GIVE) from error
    except msgspec.DecodeError as error:
        raise UsageError(
            f"no request body for {target.authority} can be generated: {url} is not JSON ({error})", fix=_GIVE
        ) from error
    return found if isinstance(found, Mapping) else {}


class _Content(msgspec.Struct):
    schema: Any = None
    example: Any = None
    examples: dict[str, dict[str, Any]] = {}


class _Body(msgspec.Struct):
    content: dict[str, _Content] = {}


class _Operation(msgspec.Struct, rename={"body": "requestBody"}):
    body: _Body = msgspec.field(default_factory=_Body)


class _Path(msgspec.Struct):
    post: _Operation | None = None


class _Document(msgspec.Struct):
    """The used part of an OpenAPI document."""

    paths: dict[str, _Path] = {}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: the token, and the permission for a load test, are only for this address."""

    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002 - urllib's signature
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: HTTPMessage,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        """Refuse the redirect."""
        return


def _made(schema: Any, whole: Mapping[str, Any], *, seed: int, source: str) -> Sent:
    values = made_values(schema, whole, count=COUNT, seed=seed)
    bodies = dict.fromkeys(map(msgspec.json.encode, values))
    return Sent(bodies=tuple(bodies), made_from=source, seed=seed)


def _shown_body(method: Method) -> str:
    body = ", ".join(f'"{field}": ...' for field in method.fields)
    return f"--data '{{{body}}}'"
