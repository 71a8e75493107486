"""Registries of images: push and pull by the OCI distribution specification 1.1, with the credentials that `docker login` keeps.

A registry on this machine's loopback is spoken to without TLS, any other with it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import ipaddress
import json
import os
import re
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.images.layout import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    Descriptor,
    Image,
    ImageLayout,
    architecture,
)

__all__ = ["ImageName", "Registry", "credentials_of", "parse_image_name"]

HUB = "docker.io"
HUB_AT = "registry-1.docker.io"
TIMEOUT_S = 60.0
PIECE = 1 << 20
REDIRECTS = 5
TRIES = 4
"""Of a request that the registry is too busy to answer."""
PAUSE_S = 0.5
"""Before the second of them; twice as long before each further one."""
TOLD = (301, 302, 303, 307, 308)
ASKED = re.compile(r'(\w+)="([^"]*)"')
BUSY = (429, 500, 502, 503, 504)


class ImageName(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image is: the registry's host and port, the repository, and a tag or a digest."""

    host: str
    repository: str
    version: str

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}{'@' if ':' in self.version else ':'}{self.version}"


def parse_image_name(text: str) -> ImageName:
    """`[HOST[:PORT]/]REPOSITORY[:TAG|@DIGEST]`, as `docker pull` takes it. Raises UsageError."""
    rest, _, digest = text.partition("@")
    head, slash, tail = rest.partition("/")
    named_host = slash and ("." in head or ":" in head or head == "localhost")
    host, path = (head, tail) if named_host else (HUB, rest)
    path, colon, tag = path.partition(":")
    if host == HUB and "/" not in path:
        path = f"library/{path}"
    parts = path.split("/")
    version = digest or tag or "latest"
    good = (
        (not colon or bool(tag))
        and all(re.fullmatch(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", part) for part in parts)
        and (not digest or re.fullmatch(r"sha256:[0-9a-f]{64}", digest))
        and (bool(digest) or re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", version))
    )
    if not good:
        raise UsageError(
            f"{text!r} is no name of an image",
            fix="write HOST:PORT/NAME:TAG, the name in small letters: registry.example.com/team/churn:1",
        )
    return ImageName(host=host, repository=path, version=version)


def credentials_of(host: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """User and password for a registry, from Docker's configuration (`auths`, `credHelpers`, `credsStore`); None where it has none.

    Raises UsageError where the configuration or a helper can't be read.
    """
    folder = environment.get("DOCKER_CONFIG") or os.path.join(environment.get("HOME", ""), ".docker")
    path = Path(folder, "config.json")
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read", why=str(error), fix="mend or remove it, then: docker login"
        ) from error
    names = [host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
    if host == HUB:
        names.append("https://index.docker.io/v1/")
    helper = next(
        (config["credHelpers"][name] for name in names if name in config.get("credHelpers", {})), ""
    )
    helper = helper or config.get("credsStore", "")
    if helper:
        return _asked_helper(helper, names[-1] if host == HUB else host, environment)
    for name in names:
        auth = config.get("auths", {}).get(name, {}).get("auth")
        if auth:
            try:
                user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError) as error:
                raise UsageError(
                    f"{path} has no valid entry for {host}", fix=f"docker login {host}"
                ) from error
            return (user, password) if colon else None
    return None


def _asked_helper(helper: str, server: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    command = [f"docker-credential-{helper}", "get"]
    try:
        done = subprocess.run(
            command,
            input=server,
            capture_output=True,
            text=True,
            env=dict(environment),
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise UsageError(
            f"Docker's configuration names the helper {command[0]}, which cannot be run",
            why=str(error),
            fix=f"install it, or: docker login {server}",
        ) from error
    if done.returncode:
        return None  # it has none for this server
    told = json.loads(done.stdout)
    return told["Username"], told["Secret"]


class _Body(msgspec.Struct, frozen=True):
    """What is sent: bytes, or a file of that many."""

    content: bytes | IO[bytes]
    kind: str
    size: int

    def again(self) -> bytes | IO[bytes]:
        if not isinstance(self.content, bytes):
            self.content.seek(0)
        return self.content


class Registry:
    """One repository of a registry. Methods raise HookeError naming the registry, what was asked, and what to do."""

    def __init__(self, where: ImageName, environment: Mapping[str, str]) -> None:
        self.where = where
        self._environment = environment
        self._credentials: tuple[str, str] | None = None
        self._asked_credentials = False
        self._authorization = ""
        address = HUB_AT if where.host == HUB else where.host
        self._root = f"{'http' if _is_here(address) else 'https'}://{address}"

    def push(self, layout: ImageLayout, image: Image) -> str:
        """Send what the registry lacks; returns the digest by which the image can be pulled."""
        for blob in (*image.layers, image.config_blob):
            self._push_blob(layout, blob)
        path = f"manifests/{self.where.version}"
        manifest = layout.read(image.manifest)
        self._ask("PUT", path, _Body(manifest, image.manifest.media_type, len(manifest)))
        return image.manifest.digest

    def pull(self, layout: ImageLayout) -> Image:
        """Fetch the image for this machine's architecture into `layout`."""
        told = self._manifest(layout, self.where.version)
        if told.media_type in (INDEX, DOCKER_INDEX):
            index = json.loads(layout.read(told))
            chosen = _for_this_machine(index["manifests"])
            if chosen is None:
                others = sorted({_platform(each) for each in index["manifests"]})
                raise UsageError(
                    f"{self.where} has no image for linux/{architecture()}",
                    why=f"it has: {', '.join(others)}",
                )
            told = self._manifest(layout, chosen["digest"])
        manifest = json.loads(layout.read(told))
        blobs = [msgspec.convert(each, Descriptor) for each in (manifest["config"], *manifest["layers"])]
        for blob in blobs:
            if not layout.path(blob.digest).exists():
                with self._answer("GET", f"blobs/{blob.digest}", good=(200,)) as answer:
                    layout.receive(blob, iter(lambda answer=answer: answer.read(PIECE), b""))
        config = json.loads(layout.read(blobs[0]))
        return Image(manifest=told, config=config, config_blob=blobs[0], layers=tuple(blobs[1:]))

    def _manifest(self, layout: ImageLayout, version: str) -> Descriptor:
        accept = f"{MANIFEST}, {INDEX}, {DOCKER_MANIFEST}, {DOCKER_INDEX}"
        with self._answer("GET", f"manifests/{version}", good=(200,), accept=accept) as answer:
            content = answer.read()
            kind = answer.headers.get_content_type()
        made = layout.add(content, kind)
        if ":" in version and made.digest != version:
            raise HookeError(
                f"{self.where.host} sent another manifest than {version}",
                fix="try again; if it comes again, the registry is damaged",
            )
        return made

    def _push_blob(self, layout: ImageLayout, blob: Descriptor) -> None:
        with self._answer("HEAD", f"blobs/{blob.digest}", good=(200, 404)) as answer:
            if answer.status == 200:
                return
        with self._answer("POST", "blobs/uploads/", good=(202,)) as answer:
            answer.read()
            place = answer.headers["Location"]
        target = urljoin(self._root, place)
        target += f"{'&' if '?' in target else '?'}{urlencode({'digest': blob.digest})}"
        with layout.path(blob.digest).open("rb") as content:
            self._ask("PUT", target, _Body(content, "application/octet-stream", blob.size))

    def _ask(self, method: str, path: str, body: _Body) -> None:
        with self._answer(method, path, good=(201,), body=body) as answer:
            answer.read()

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        *,
        good: tuple[int, ...],
        body: _Body | None = None,
        accept: str = "*/*",
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request, once more with a token if the registry asks for one."""
        url = path if path.startswith("http") else f"{self._root}/v2/{self.where.repository}/{path}"
        headers = {"Accept": accept}
        if body is not None:
            headers |= {"Content-Type": body.kind, "Content-Length": str(body.size)}
        for left in range(TRIES, 0, -1):
            connection, answer = self._sent(method, url, headers, None if body is None else body.again())
            with contextlib.closing(connection):
                if answer.status == 401 and self._authorize(answer.headers.get("WWW-Authenticate", "")):
                    continue
                if answer.status in BUSY and left > 1:
                    time.sleep(PAUSE_S * 2 ** (TRIES - left))
                    continue
                if answer.status not in good:
                    raise self._refused(method, path, answer)
                yield answer
                return
        raise HookeError(
            f"{self.where.host} asks for credentials again and again", fix=f"docker login {self.where.host}"
        )

    def _sent(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | IO[bytes] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Follows redirects, which lose the authorization: the storage behind a registry has its own."""
        for _ in range(REDIRECTS):
            parts = urlsplit(url)
            own = f"{parts.scheme}://{parts.netloc}" == self._root
            signed = (
                {**headers, "Authorization": self._authorization}
                if self._authorization and own
                else {**headers}
            )
            connection = _connection(parts.scheme, parts.netloc)
            try:
                connection.request(
                    method,
                    f"{parts.path}{'?' if parts.query else ''}{parts.query}",
                    body=body,
                    headers=signed,
                )
                answer = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise HookeError(
                    f"the registry {parts.netloc} does not answer",
                    why=f"{type(error).__name__}: {error}",
                    fix="check its name and port, and that this machine reaches it",
                ) from error
            if answer.status not in TOLD or method not in ("GET", "HEAD"):
                return connection, answer
            url = urljoin(url, answer.headers["Location"])
            connection.close()
        raise HookeError(f"{self.where.host} redirects in a circle", fix="check the registry's settings")

    def _authorize(self, asked: str) -> bool:
        """Have what the registry asks for ready. False where it has been shown already, or there is nothing to show."""
        if not self._asked_credentials:
            self._credentials = credentials_of(self.where.host, self._environment)
            self._asked_credentials = True
        kind, _, rest = asked.partition(" ")
        before = self._authorization
        if kind.lower() == "basic" and self._credentials is not None:
            self._authorization = _basic(self._credentials)
        elif kind.lower() == "bearer":
            self._authorization = f"Bearer {self._token(dict(ASKED.findall(rest)))}"
        return self._authorization != before

    def _token(self, asked: Mapping[str, str]) -> str:
        realm = asked.get("realm", "")
        question = urlencode({name: asked[name] for name in ("service", "scope") if name in asked})
        parts = urlsplit(f"{realm}{'&' if '?' in realm else '?'}{question}")
        headers = {"Authorization": _basic(self._credentials)} if self._credentials else {}
        with contextlib.closing(_connection(parts.scheme, parts.netloc)) as connection:
            try:
                connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
                answer = connection.getresponse()
                told = json.loads(answer.read()) if answer.status == 200 else {}
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise HookeError(
                    f"{parts.netloc}, which gives tokens for {self.where.host}, does not answer",
                    why=str(error),
                ) from error
        token = told.get("token") or told.get("access_token") or ""
        if not token:
            raise HookeError(
                f"{self.where.host} gives no access to {self.where.repository}",
                why=f"{parts.netloc} answered {answer.status}",
                fix=f"docker login {self.where.host}, with a user who may",
            )
        return str(token)

    def _refused(self, method: str, path: str, answer: http.client.HTTPResponse) -> HookeError:
        text = answer.read(4000).decode("utf-8", "replace")
        with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
            first = json.loads(text)["errors"][0]
            text = f"{first['code']}: {first.get('message', '')}"
        if answer.status in (401, 403):
            return HookeError(
                f"{self.where.host} gives no access to {self.where.repository}",
                why=f"{answer.status} {text}".strip(),
                fix=f"docker login {self.where.host}, with a user who may",
            )
        if answer.status == 404:
            return UsageError(
                f"{self.where.host} has no image {self.where}", why=text.strip(), fix="check its name and tag"
            )
        return HookeError(f"{self.where.host} refused {method} {path}", why=f"{answer.status} {text}".strip())


def _is_here(address: str) -> bool:
    host = urlsplit(f"//{address}").hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _connection(scheme: str, address: str) -> http.client.HTTPConnection:
    if scheme == "http" and _is_here(address):
        return http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    if scheme != "https":
        raise UsageError(
            f"{scheme}://{address} is not spoken to: only https, and http on this machine's loopback"
        )
    return http.client.HTTPSConnection(address, timeout=TIMEOUT_S, context=ssl.create_default_context())


def _basic(credentials: tuple[str, str]) -> str:
    return f"Basic {base64.b64encode(':'.join(credentials).encode()).decode()}"


def _platform(told: Mapping[str, Any]) -> str:
    platform = told.get("platform", {})
    return f"{platform.get('os', '?')}/{platform.get('architecture', '?')}"


def _for_this_machine(manifests: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((each for each in manifests if _platform(each) == f"linux/{architecture()}"), None)
