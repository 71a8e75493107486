"""What is looked at before every route: for whom a request was meant, from which page it comes, and whether it has the token."""

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

__all__ = ["LOOPBACK", "Auth", "ensure_token", "read_token"]


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
"""Headers of which two would mean two things."""
MOST_HEADERS = 128


@dataclass(frozen=True, slots=True)
class Auth:
    """Lets requests through for these hosts alone, from pages of the same address alone, and with this token alone.

    A page elsewhere cannot make a browser send a request to a loopback address: its `Origin` is another, and a name that was
    made to mean 127.0.0.1 is no known `Host`. Without a token (None) any program that reaches the port is let through.
    """

    hosts: frozenset[str] = LOOPBACK
    """In lower case, without ports; addresses of IPv6 in brackets."""
    token: str | None = field(default=None, repr=False)
    _hosts: frozenset[bytes] = field(init=False, repr=False)
    _expected: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hosts", frozenset(host.encode() for host in self.hosts))
        object.__setattr__(self, "_expected", b"Bearer " + self.token.encode() if self.token else b"")

    def check(self, exchange: Exchange) -> None:
        """Raises Problem: 400 where there is not one Host, 403 where it or the Origin is not of this service, 431."""
        headers = exchange.headers
        if len(headers) != len(exchange.raw_headers):
            _refuse_repeated(exchange)
        if len(exchange.raw_headers) > MOST_HEADERS:
            raise Problem(431, f"there are more than {MOST_HEADERS} headers")
        if b"transfer-encoding" in headers and headers[b"transfer-encoding"].lower() != b"chunked":
            raise Problem(400, "the transfer encoding is not chunked")
        host = headers.get(b"host")
        if host is None:
            raise Problem(400, "there is no Host header")
        if _without_port(host) not in self._hosts:
            raise Problem(403, "the Host is not one of this service", reason="host")
        origin = headers.get(b"origin")
        if origin is not None and origin not in (b"http://" + host, b"https://" + host):
            raise Problem(403, "the Origin is not of this service", reason="origin")

    def has_token(self, exchange: Exchange) -> bool:
        """Whether the request has the token, or none is asked for."""
        if not self._expected:
            return True
        shown = exchange.headers.get(b"authorization", b"")
        if shown[:7] != b"Bearer " or shown[7:8] == b" ":
            scheme, _, rest = shown.partition(b" ")
            shown = b"Bearer " + rest.strip() if scheme.lower() == b"bearer" else b""
        return hmac.compare_digest(shown, self._expected)

    def refusal(self, exchange: Exchange) -> Problem:
        """What who has not the token is told (401), as RFC 6750 has it."""
        if b"authorization" in exchange.headers:
            said, challenge = "the token is not that of this service", 'Bearer error="invalid_token"'
        else:
            said, challenge = "there is no token; send authorization: Bearer TOKEN", "Bearer"
        return Problem(401, said, headers={"www-authenticate": challenge}, reason="token")


def _refuse_repeated(exchange: Exchange) -> None:
    seen: set[bytes] = set()
    for name, _ in exchange.raw_headers:
        if name in seen and name in _ONCE:
            raise Problem(400, f"there are two {name.decode().title()} headers")
        seen.add(name)


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.lower().rpartition(b":")
    return name if colon and port.isdigit() else host.lower()


# --- The secret that who asks a service shows: made once, kept in a file of its owner alone, and read from such files only.

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,4096}=*")
"""What a bearer token may be made of (RFC 6750, b64token), and no short one: it is all that is asked for."""
MAKE_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"  # noqa: S105 - a command


def ensure_token(path: Path) -> str:
    """The token in the file `path`, which is made, with 256 random bits and for its owner alone, where there is none.

    Raises UsageError as `read_token`, and HookeError where it cannot be written.
    """
    if not path.exists():
        with writing("the token of a service", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
    return read_token(path, fix=f"remove {path}: the next start makes another one")


def read_token(path: Path, *, fix: str = "") -> str:
    """The token in a file; `fix` is said where it holds none. Raises UsageError where there is none, where everybody may read it, or where it is too short."""
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
            f"the token in {path} is open to every user of this machine",
            why=f"its mode is {stat.S_IMODE(mode):04o}",
            fix=f"chmod 600 {path}, and make another one if somebody may have read it",
        )
    text = held.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(text):
        raise UsageError(
            f"{path} holds no token",
            why=f"a token is one line of at least 16 letters of ASCII, digits and -._~+/ ({len(text)} characters are there)",
            fix=fix or f"make one: (umask 077; {MAKE_TOKEN} > {path})",
        )
    return text


def _make(path: Path) -> None:
    """Whole or absent, and whoever comes second keeps what the first one made."""
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
