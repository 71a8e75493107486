"""Where a service is to be reached, by which names, and what it asks of who asks: what may be, and what is refused."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from hooke.base.errors import UsageError
from hooke.serving.auth import LOOPBACK, Auth

__all__ = ["BindConfig", "TlsFiles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """A certificate, with what it is signed by, and its key: two files of PEM."""

    cert: Path
    key: Path

    def check(self) -> None:
        """Raises UsageError where they cannot be read or are not of each other."""
        for path in (self.cert, self.key):
            if not path.is_file():
                raise UsageError(
                    f"TLS: there is no file {path}", fix="give files of PEM: --tls-cert, --tls-key"
                )
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.cert, self.key, _no_password
            )
        except (ssl.SSLError, OSError, UsageError) as error:
            raise UsageError(
                f"TLS: {self.cert} and {self.key} are no certificate and its key",
                why=str(error),
                fix="give both as PEM, the key without a password",
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BindConfig:
    """How a service is reached. `check` refuses what would let strangers in; by default it is this machine, with a token."""

    host: str = "127.0.0.1"
    """The address that is listened on."""
    port: int = 8000
    """0: a free one."""
    names: tuple[str, ...] = ()
    """Other names by which it is asked, as `api.example.org`."""
    auth: bool = True
    token_file: Path | None = None
    """That of the user; None: one that is made for the service."""
    tls: TlsFiles | None = None

    def check(self) -> None:
        """Raises UsageError for what is no address, and for another machine's access without TLS and token."""
        address = self._address()
        for name in self.names:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", name):
                raise UsageError(
                    f"--allow-host {name!r} is no name of a host", fix="--allow-host api.example.org"
                )
        if not self.auth and self.token_file is not None:
            raise UsageError("--no-auth and --token-file contradict each other", fix="leave out one of them")
        if not address.is_loopback:
            self._check_open(address)
        if self.tls is not None:
            self.tls.check()

    def make_auth(self, token: str | None) -> Auth:
        """What lets requests through."""
        address = self._address()
        own = set() if address.is_unspecified else {_in_url(address)}
        return Auth(hosts=frozenset({*LOOPBACK, *own, *(name.lower() for name in self.names)}), token=token)

    def url(self, port: int) -> str:
        """By which it is asked on this machine."""
        address = self._address()
        name = self.names[0] if address.is_unspecified else _in_url(address)
        return f"http{'s' if self.tls else ''}://{name}:{port}"

    def _address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        try:
            return ipaddress.ip_address("127.0.0.1" if self.host == "localhost" else self.host)
        except ValueError:
            raise UsageError(
                f"--host {self.host!r} is no address to listen on",
                fix="give one of this machine's addresses; --allow-host is for the names that clients use",
            ) from None

    def _check_open(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        if not self.auth:
            raise UsageError(
                f"--no-auth with --host {self.host}: every machine that reaches it could ask",
                fix="leave out --no-auth, or serve on 127.0.0.1",
            )
        if self.tls is None:
            raise UsageError(
                f"--host {self.host} without TLS: the token and what is asked could be read on the way",
                fix="give --tls-cert and --tls-key, or serve on 127.0.0.1 behind a proxy that has them",
            )
        if address.is_unspecified and not self.names:
            raise UsageError(
                f"--host {self.host} is every address, and none by which a client asks",
                fix="say the name that clients use: --allow-host api.example.org",
            )


def _in_url(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _no_password() -> str:
    raise UsageError("the key has a password, which nobody is here to type")
