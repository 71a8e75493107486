"""The client of an API server: objects are plain manifests, and one field manager applies them."""

from __future__ import annotations

import contextlib
import http.client
import math
import random
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from hooke.base.errors import HookeError
from hooke.kubernetes.kubeconfig import Access

__all__ = [
    "ApiError",
    "ApiForbidden",
    "ApiUnreachable",
    "Conflicting",
    "Kubernetes",
    "Manifest",
    "NotThere",
    "Stream",
    "TooOld",
    "key_of",
    "refused",
    "selector",
]

Manifest = dict[str, Any]
"""An object as YAML has it."""

CONNECT_S = 10.0
ANSWER_S = 35.0
"""An API server gives up after 30 s or so; a stream of a watch or a log may be silent for longer."""
WATCH_S = 300.0
"""The server ends a watch after this time; it goes on where it was."""
SILENT_S = 30.0
"""Where the other machine's kernel has not answered for this time, the connection is lost."""
PAGE = 500
MOST_WAITS = 5
"""How often a server that is busy is asked again, as it wishes."""
IDLE_CONNECTIONS = 8

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class ApiError(HookeError):
    """The API server refused. `code` is that of HTTP, `reason` Kubernetes' own word."""

    code = 0
    reason = ""


class NotThere(ApiError):
    """There is no such object, or no such kind."""


class Conflicting(ApiError):
    """It exists already, or it is not as the request says, or another manager has its fields."""


class ApiForbidden(ApiError):
    """The account has no right to do it: the message names the verb and the resource."""


class TooOld(ApiError):
    """A watch or a list cannot go on from there: list again."""


class ApiUnreachable(HookeError):
    """No answer: the request may or may not have taken effect."""


_BRANCHES: dict[int, type[ApiError]] = {
    401: ApiForbidden,
    403: ApiForbidden,
    404: NotThere,
    409: Conflicting,
    410: TooOld,
}


def key_of(object: Manifest) -> tuple[str, str]:  # noqa: A002 - Kubernetes' word
    """Namespace and name."""
    about = object["metadata"]
    return about.get("namespace", ""), about["name"]


def selector(labels: Mapping[str, str]) -> str:
    """Labels as a selector of all of them."""
    return ",".join(f"{name}={value}" for name, value in labels.items())


class Kubernetes:
    """Calls one API server. `kind` is `v1/Pod` or `apps/v1/Deployment`; the namespace is by default the access's. Thread-safe.

    All methods raise ApiError, by its branch, where the server refuses, and ApiUnreachable where it does not answer.
    """

    def __init__(self, access: Access, *, manager: str = "hooke") -> None:
        """`manager` owns the fields that are applied."""
        self.access = access
        self.manager = manager
        parts = urlsplit(access.server)
        assert parts.hostname is not None
        self._address = (parts.hostname, parts.port or 443)
        self._path = parts.path.rstrip("/")
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._context: tuple[bytes, ssl.SSLContext] | None = None
        self._made: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._silence_s = math.inf
        self._answered_at = 0.0
        self._closed = threading.Event()
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}
        """Group and version -> kind -> its plural, and whether it is namespaced."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the API server."""
        return self._address

    # -- objects -----------------------------------------------------------------------------------

    def get(self, kind: str, name: str, *, namespace: str = "", part: str = "") -> Manifest:
        """One object, or a part of it: `status`, `scale`."""
        return self._json("GET", self._object(kind, name, namespace, part))

    def list(
        self,
        kind: str,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        trim: Callable[[Manifest], Manifest] = lambda each: each,
    ) -> tuple[list[Manifest], str]:
        """All that fit the selectors, as they are now, and the version to watch from. `namespace="*"`: of all namespaces.

        `trim` makes of each object what is kept of it: whole ones of ten thousand pods take hundreds of megabytes.
        """
        asked = _chosen(labels, fields) | {"limit": str(PAGE)}
        found: list[Manifest] = []
        while True:
            page = self._json("GET", f"{self._kind(kind, namespace)}?{urlencode(asked)}")
            about = page["metadata"]
            found += (
                trim({"apiVersion": kind.rpartition("/")[0], "kind": kind.rpartition("/")[2]} | each)
                for each in page["items"]
            )
            if not about.get("continue"):
                return found, about["resourceVersion"]
            asked["continue"] = about["continue"]

    def check_listing(self, kind: str, *, namespace: str = "", labels: str = "") -> None:
        """Ask for one object at most of those that fit: whether the server answers, and lets them be listed."""
        asked = _chosen(labels, "") | {"limit": "1"}
        self._json("GET", f"{self._kind(kind, namespace)}?{urlencode(asked)}")

    def create(self, manifest: Manifest, *, namespace: str = "") -> Manifest:
        """Create an object; raises Conflicting where there is one of that name."""
        path = self._kind(_kind_of(manifest), _namespace_of(manifest, namespace))
        return self._json("POST", f"{path}?{urlencode(self._written())}", manifest)

    def apply(self, manifest: Manifest, *, namespace: str = "", force: bool = False) -> Manifest:
        """Have these fields be as in the manifest, and those gone that an earlier one of this manager had.

        Raises Conflicting where another manager has one of them to another value, unless `force` takes it.
        """
        path = self._object(
            _kind_of(manifest), manifest["metadata"]["name"], _namespace_of(manifest, namespace)
        )
        asked = self._written() | {"force": "true" if force else "false"}
        return self._json("PATCH", f"{path}?{urlencode(asked)}", manifest, content=_APPLY)

    def patch(
        self, kind: str, name: str, change: Manifest, *, namespace: str = "", part: str = ""
    ) -> Manifest:
        """Merge a change into an object (RFC 7396)."""
        path = self._object(kind, name, namespace, part)
        return self._json("PATCH", f"{path}?{urlencode(self._written())}", change, content=_MERGE)

    def _written(self) -> dict[str, str]:
        """What each request says that writes: who does, and that a field which the server does not know is an error, not left out."""
        return {"fieldManager": self.manager, "fieldValidation": "Strict"}

    def delete(
        self,
        kind: str,
        name: str,
        *,
        namespace: str = "",
        grace_s: float | None = None,
        uid: str = "",
        owned_first: bool = False,
    ) -> None:
        """Delete an object and, after it, what it owns; with a `uid`, that very one or none.

        With `owned_first` it stays until what it owns is gone.
        """
        order = "Foreground" if owned_first else "Background"
        how: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": order}
        if grace_s is not None:
            how["gracePeriodSeconds"] = int(grace_s)
        if uid:
            how["preconditions"] = {"uid": uid}
        self._json("DELETE", self._object(kind, name, namespace), how)

    def replicas(self, kind: str, name: str, *, namespace: str = "") -> int:
        """How many it shall have, by its scale."""
        return int(self.get(kind, name, namespace=namespace, part="scale")["spec"].get("replicas", 0))

    def scale(self, kind: str, name: str, replicas: int, *, namespace: str = "") -> None:
        """Have it have so many."""
        self.patch(kind, name, {"spec": {"replicas": replicas}}, namespace=namespace, part="scale")

    def evict(self, name: str, *, namespace: str = "", grace_s: float | None = None) -> None:
        """Have a pod leave, if its disruption budgets allow it: ApiError of code 429 where they do not now."""
        how: Manifest = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        if grace_s is not None:
            how["deleteOptions"] = {"gracePeriodSeconds": int(grace_s)}
        self._json("POST", self._object("v1/Pod", name, namespace, "eviction"), how, waits=0)

    def logs(
        self,
        pod: str,
        *,
        namespace: str = "",
        container: str = "",
        follow: bool = False,
        since: str = "",
        previous: bool = False,
    ) -> Stream:
        """The lines of a container's log, as they come with `follow` until it ends. `since`: RFC 3339. `previous`: before it was restarted."""
        asked = {
            "container": container,
            "follow": "true" if follow else "",
            "sinceTime": since,
            "previous": "true" if previous else "",
        }
        question = urlencode({name: value for name, value in asked.items() if value})
        return self._stream(f"{self._object('v1/Pod', pod, namespace, 'log')}?{question}")

    def watch_from(
        self,
        kind: str,
        version: str,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        for_s: float = WATCH_S,
    ) -> Stream:
        """The lines of a watch: the server's events after a version, until it ends the stream. See `Watch`, which goes on by itself.

        Raises TooOld where the server does not know the version any more, if it says so at once.
        """
        asked = _chosen(labels, fields) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(int(for_s), 1)),
        }
        return self._stream(f"{self._kind(kind, namespace)}?{urlencode(asked)}")

    def limit_silence(self, seconds: float) -> None:
        """From now on give up where the server has not answered anything for so long: requests that run end, and later ones fail at once."""
        with self._lock:
            if self._silence_s < math.inf:
                return
            self._answered_at, self._silence_s = time.monotonic(), seconds
        threading.Thread(target=self._end_silent, name="hooke-silence", daemon=True).start()

    def _end_silent(self) -> None:
        while (left := self._patience_s()) > 0:
            if self._closed.wait(left):
                return
        with self._lock:
            made = list(self._made)
        for each in made:
            each.cut()

    def _patience_s(self) -> float:
        """How long the server may go on to answer nothing."""
        return self._answered_at + self._silence_s - time.monotonic()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._closed.set()
        with self._lock:
            idle = list(self._idle)
            self._idle.clear()
        for each in idle:
            each.close()

    # -- paths -------------------------------------------------------------------------------------

    def _kind(self, kind: str, namespace: str) -> str:
        version, _, name = kind.rpartition("/")
        plural, namespaced = self._known(version, name)
        path = f"{_root(version)}"
        if namespaced and namespace != "*":
            path += f"/namespaces/{quote(namespace or self.access.namespace, safe='')}"
        return f"{path}/{plural}"

    def _object(self, kind: str, name: str, namespace: str, part: str = "") -> str:
        path = f"{self._kind(kind, namespace)}/{quote(name, safe='')}"
        return f"{path}/{part}" if part else path

    def _known(self, version: str, name: str) -> tuple[str, bool]:
        """What the server's discovery says of a kind; asked once for each version, and again for a kind that came later."""
        if name not in self._kinds.get(version, {}):
            listed = self._json("GET", _root(version))
            self._kinds[version] = {
                each["kind"]: (each["name"], each["namespaced"])
                for each in listed["resources"]
                if "/" not in each["name"]
            }
        try:
            return self._kinds[version][name]
        except KeyError:
            raise NotThere(
                f"the cluster knows no kind {name} of {version}",
                fix="install what defines it, or correct apiVersion and kind",
            ) from None

    # -- requests ----------------------------------------------------------------------------------

    def _json(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        *,
        content: str = "application/json",
        waits: int = MOST_WAITS,
    ) -> Manifest:
        connection, answer = self._asked(method, path, body, content=content, waits=waits)
        try:
            found: Manifest = msgspec.json.decode(answer.read())
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            raise _lost(self.access.server, error) from error
        finally:
            self._give_back(connection, answer)
        return found

    def _stream(self, path: str) -> Stream:
        connection, answer = self._asked("GET", path, None, content="application/json", waits=MOST_WAITS)
        connection.patience(None)
        return Stream(self.access.server, connection, answer)

    def _asked(
        self, method: str, path: str, body: Manifest | None, *, content: str, waits: int
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        again = True
        while True:
            connection, answer = self._sent(method, path, body, content)
            if answer.status < 300:
                return connection, answer
            try:
                said = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise _lost(self.access.server, error) from error
            delay = answer.headers.get("Retry-After", "")
            self._give_back(connection, answer)
            if answer.status == 401 and again and self.access.credentials.forget():
                again = False  # the plug-in's answer or the file's token has ended before its time
            elif answer.status in (429, 503) and waits > 0 and delay.isdecimal():
                waits -= 1
                # Not all at the same moment: they would be refused again.
                pause = min(float(delay), 10.0) * random.uniform(1.0, 1.5)  # noqa: S311
                time.sleep(min(pause, max(self._patience_s(), 0.0)))
            else:
                raise refused(answer.status, _status(said), path)

    def _sent(
        self, method: str, path: str, body: Manifest | None, content: str
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        token, certificate, key = self.access.credentials.current()
        headers = {
            "Accept": "application/json",
            "User-Agent": self.manager,
            **self.access.credentials.headers,
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        encoded = None
        if body is not None:
            headers["Content-Type"] = content
            encoded = msgspec.json.encode(body)
        while True:
            if self._patience_s() <= 0:
                raise _lost(self.access.server, TimeoutError(f"nothing for {self._silence_s:g} s"))
            connection, used = self._take(certificate, key)
            try:
                connection.request(method, self._path + path, encoded, headers)
                answer = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A server closes connections that were idle; then the request was not read, or does no harm twice.
                if used and method != "POST" and not isinstance(error, TimeoutError):
                    continue
                raise _lost(self.access.server, error) from error
            else:
                self._answered_at = time.monotonic()
                return connection, answer

    def _take(self, certificate: bytes, key: bytes) -> tuple[_Connection, bool]:
        """A connection, and whether it was used before."""
        with self._lock:
            if self._context is None or self._context[0] != certificate:
                self._context = (certificate, self.access.context(certificate, key))
            context = self._context[1]
            while self._idle:
                connection = self._idle.pop()
                if connection.context is context and not connection.is_ended():
                    return connection, True
                connection.close()
            within_s = min(CONNECT_S, max(self._patience_s(), 0.1))
            made = _Connection(self._address, context, self.access.server_name, within_s)
            self._made.add(made)
        return made, False

    def _give_back(self, connection: _Connection, answer: http.client.HTTPResponse) -> None:
        whole = answer.isclosed() and not answer.will_close
        answer.close()
        with self._lock:
            if whole and len(self._idle) < IDLE_CONNECTIONS:
                connection.patience(ANSWER_S)
                self._idle.append(connection)
                return
        connection.close()


class Stream:
    """Lines as the server sends them; raises ApiUnreachable where the connection is lost before the server ends it."""

    def __init__(self, server: str, connection: _Connection, answer: http.client.HTTPResponse) -> None:
        self._server = server
        self._connection = connection
        self._answer = answer
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                line = self._answer.readline()
            except (OSError, http.client.HTTPException, ValueError) as error:
                if self._ended:
                    return
                raise _lost(self._server, error) from error
            if not line or self._ended:
                return
            yield line.removesuffix(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()

    def end(self) -> None:
        """End the iteration, from any thread."""
        self._ended = True
        self._connection.cut()


class _Connection(http.client.HTTPSConnection):
    """One that notices a machine that is gone, also while it only listens."""

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext, server_name: str, within_s: float
    ) -> None:
        super().__init__(*address, context=context, timeout=within_s)
        self._within_s = within_s
        self.context = context
        self._server_name = server_name or address[0]

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self._within_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", int(SILENT_S / 3)),
            ("TCP_KEEPINTVL", int(SILENT_S / 6)),
            ("TCP_KEEPCNT", 4),
            ("TCP_USER_TIMEOUT", int(SILENT_S * 1000)),
        ):
            if hasattr(socket, name):  # macOS has not all of them
                plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        try:
            self.sock = self.context.wrap_socket(plain, server_hostname=self._server_name)
        except BaseException:
            plain.close()
            raise
        self.patience(ANSWER_S)

    def is_ended(self) -> bool:
        """Whether the server has ended it while it was idle: what is to be read then is the end."""
        waiting = select.poll()
        waiting.register(self.sock, select.POLLIN)
        return bool(waiting.poll(0))

    def cut(self) -> None:
        """Have a read in another thread end."""
        if self.sock is not None:
            with contextlib.suppress(OSError):  # the server did so before
                self.sock.shutdown(socket.SHUT_RDWR)

    def patience(self, seconds: float | None) -> None:
        """How long a read may take."""
        if self.sock is not None:
            self.sock.settimeout(seconds)


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _chosen(labels: str, fields: str) -> dict[str, str]:
    return {name: value for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


def _kind_of(manifest: Manifest) -> str:
    return f"{manifest['apiVersion']}/{manifest['kind']}"


def _namespace_of(manifest: Manifest, namespace: str) -> str:
    return namespace or str(manifest["metadata"].get("namespace", ""))


def _status(said: bytes) -> Manifest:
    """What a Status object says; a proxy in between may answer with text."""
    try:
        status = msgspec.json.decode(said)
    except msgspec.DecodeError:
        return {"message": said.decode(errors="replace").strip()}
    return status if isinstance(status, dict) else {}


def refused(code: int, status: Manifest, path: str) -> ApiError:
    """The error that a Status object is."""
    kind = _BRANCHES.get(code, ApiError)
    error = kind(
        f"Kubernetes refused: {status.get('message') or f'HTTP {code}'}",
        where=path.partition("?")[0],
        fix="ask the cluster's administrator for that right" if code == 403 else "",
    )
    error.code, error.reason = code, str(status.get("reason", ""))
    return error


def _lost(server: str, error: BaseException) -> ApiUnreachable:
    return ApiUnreachable(
        f"{server} does not answer",
        why=f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
    )
