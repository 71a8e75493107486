"""The checks before every route (Host, Origin, bearer token), and the file of the token."""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from hooke.base.errors import UsageError
from hooke.base.files import write_all, writing
from hooke.serving.http import Exchange
from hooke.serving.problems import Problem

__all__ = ["LOOPBACK", "ApiKey", "Auth", "ensure_token", "read_token"]


LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_ONCE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        b"inference-header-content-length",
        b"origin",
        b"transfer-encoding",
    }
)
"""Headers that must not be repeated: two would be ambiguous."""
MOST_HEADERS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """The token of one client."""

    client: str
    token: str = field(repr=False)
    rate: int | None = None
    """Requests a second, and the size of a burst; None: no limit."""
    tokens_per_minute: int | None = None
    """Of prompts and answers of a language model, and the size of a burst; None: no limit."""
    low: bool = False
    """Whether its requests are of low priority."""


@dataclass(frozen=True, slots=True)
class Auth:
    """Admits requests for these hosts only, from pages of the same origin only, and with this token only.

    A foreign page cannot make a browser send a request to a loopback address: its `Origin` differs, and a name that was
    pointed at 127.0.0.1 is not an allowed `Host`. Without a token (None) every program that reaches the port is admitted.
    """

    hosts: frozenset[str] = LOOPBACK
    """In lower case, without ports; IPv6 addresses in brackets."""
    token: str | None = field(default=None, repr=False)
    keys: tuple[ApiKey, ...] = ()
    """Further tokens, by client."""
    _hosts: frozenset[bytes] = field(init=False, repr=False)
    _expected: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hosts", frozenset(host.encode() for host in self.hosts))
        object.__setattr__(self, "_expected", b"Bearer " + self.token.encode() if self.token else b"")

    def check(self, exchange: Exchange) -> None:
        """Raises Problem: 400 for ambiguous or missing headers, 403 for a Host or Origin of another service, 426, 431."""
        if exchange.is_http_10:  # as Envoy in front of several replicas
            raise Problem(426, "the only supported version is HTTP/1.1", headers={"upgrade": "HTTP/1.1"})
        headers = exchange.headers
        if len(headers) != len(exchange.raw_headers):
            _refuse_repeated(exchange)
        if len(exchange.raw_headers) > MOST_HEADERS:
            raise Problem(431, f"the request has more than {MOST_HEADERS} headers")
        if b"transfer-encoding" in headers and headers[b"transfer-encoding"].lower() != b"chunked":
            raise Problem(400, "the transfer encoding must be chunked")
        host = headers.get(b"host")
        if host is None:
            raise Problem(400, "the Host header is missing")
        if _without_port(host) not in self._hosts:
            raise Problem(403, "this service does not serve that Host", reason="host")
        origin = headers.get(b"origin")
        if origin is not None and origin not in (b"http://" + host, b"https://" + host):
            raise Problem(403, "this service does not accept that Origin", reason="origin")

    def has_token(self, exchange: Exchange) -> bool:
        """Whether the request has the token or one of the keys, or the service needs none."""
        if not self._expected:
            return True
        shown = exchange.headers.get(b"authorization", b"")
        return hmac.compare_digest(shown, self._expected) or self.accepts(shown)

    def accepts(self, authorization: bytes) -> bool:
        """Whether this value of the header has the token or one of the keys, or the service needs none."""
        shown = _bearer(authorization)
        return (
            not self._expected or hmac.compare_digest(shown, self._expected) or self._key(shown) is not None
        )

    def key_of(self, exchange: Exchange) -> ApiKey | None:
        """The key of the request; None if it has none of `keys`."""
        if not self.keys:
            return None
        return self._key(_bearer(exchange.headers.get(b"authorization", b"")))

    def _key(self, shown: bytes) -> ApiKey | None:
        # All are compared, so that the time tells nothing.
        found = [key for key in self.keys if hmac.compare_digest(shown, b"Bearer " + key.token.encode())]
        return found[0] if found else None

    def refusal(self, exchange: Exchange) -> Problem:
        """The answer to a request without the token (401), by RFC 6750."""
        if b"authorization" in exchange.headers:
            said, challenge = "the bearer token is wrong", 'Bearer error="invalid_token"'
        else:
            said, challenge = "the bearer token is missing; send authorization: Bearer TOKEN", "Bearer"
        return Problem(401, said, headers={"www-authenticate": challenge}, reason="token")


def _bearer(shown: bytes) -> bytes:
    """The header with its scheme written as we do; empty for another scheme."""
    if shown[:7] == b"Bearer " and shown[7:8] != b" ":
        return shown
    scheme, _, rest = shown.partition(b" ")
    return b"Bearer " + rest.strip() if scheme.lower() == b"bearer" else b""


def _refuse_repeated(exchange: Exchange) -> None:
    seen: set[bytes] = set()
    for name, _ in exchange.raw_headers:
        if name in seen and name in _ONCE:
            raise Problem(400, f"the request has two {name.decode().title()} headers")
        seen.add(name)


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.lower().rpartition(b":")
    return name if colon and port.isdigit() else host.lower()


# --- The bearer token: created once in a file of its owner alone, and read from such files only.

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,4096}=*")
"""A bearer token (RFC 6750, b64token) of at least 16 characters: it is the only secret."""
MAKE_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"  # noqa: S105 - a command


def ensure_token(path: Path) -> str:
    """The token in the file `path`; creates one with 256 random bits, readable by its owner alone, if there is none.

    Raises as `read_token`, and HookeError if it cannot be written.
    """
    if not path.exists():
        with writing("the token of a service", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
    return read_token(path, fix=f"remove {path}: the next start makes another one")


def read_token(path: Path, *, fix: str = "") -> str:
    """Read the token in a file; `fix` is the hint for a bad one. Raises UsageError if it is missing, too short, or readable by everybody."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            held = file.read(8192)
    except OSError as error:
        raise UsageError(
            f"the token in {path} cannot be read",
            why=error.strerror or str(error),
            fix=f"make one: (umask 077; {MAKE_TOKEN} > {path})",
        ) from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise UsageError(
            f"the token in {path} can be read by every user of this machine",
            why=f"its mode is {stat.S_IMODE(mode):04o}",
            fix=f"chmod 600 {path}, and make another one if someone may have read it",
        )
    text = held.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(text):
        raise UsageError(
            f"{path} does not hold a valid token",
            why=f"a token is one line of at least 16 ASCII letters, digits and -._~+/; the file has {len(text)} characters",
            fix=fix or f"make one: (umask 077; {MAKE_TOKEN} > {path})",
        )
    return text


def _make(path: Path) -> None:
    """Create it atomically; if two processes do at once, the first one wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, secrets.token_urlsafe(32).encode() + b"\n")
        finally:
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
