"""The bind configuration of a service: address, names, token and TLS, and the checks that refuse unsafe combinations."""

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
    """A certificate with its chain, and its key: two PEM files."""

    cert: Path
    key: Path

    def check(self) -> None:
        """Raises UsageError if a file cannot be read, or the key does not match."""
        for path in (self.cert, self.key):
            if not path.is_file():
                raise UsageError(f"TLS: {path} does not exist", fix="give PEM files: --tls-cert, --tls-key")
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.cert, self.key, _no_password
            )
        except (ssl.SSLError, OSError, UsageError) as error:
            raise UsageError(
                f"TLS: certificate {self.cert} does not match key {self.key}",
                why=str(error),
                fix="give both as PEM, the key without a password",
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BindConfig:
    """How clients reach a service: by default from this machine only, with a token."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 8000
    """0: any free port."""
    names: tuple[str, ...] = ()
    """Other names that clients use, such as `api.example.org`."""
    auth: bool = True
    token_file: Path | None = None
    """The user's token file; None: the service makes its own."""
    tls: TlsFiles | None = None

    def check(self) -> None:
        """Raises UsageError for an invalid address, and for access from other machines without TLS and token."""
        address = self._address()
        for name in self.names:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", name):
                raise UsageError(
                    f"--allow-host {name!r} is not a valid host name", fix="--allow-host api.example.org"
                )
        if not self.auth and self.token_file is not None:
            raise UsageError("--no-auth and --token-file exclude each other", fix="leave out one of them")
        if not address.is_loopback:
            self._check_open(address)
        if self.tls is not None:
            self.tls.check()

    def make_auth(self, token: str | None) -> Auth:
        """The check of Host, Origin and token."""
        address = self._address()
        own = set() if address.is_unspecified else {_in_url(address)}
        return Auth(hosts=frozenset({*LOOPBACK, *own, *(name.lower() for name in self.names)}), token=token)

    def url(self, port: int) -> str:
        """The service's URL on this machine."""
        address = self._address()
        name = self.names[0] if address.is_unspecified else _in_url(address)
        return f"http{'s' if self.tls else ''}://{name}:{port}"

    def _address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        try:
            return ipaddress.ip_address("127.0.0.1" if self.host == "localhost" else self.host)
        except ValueError:
            raise UsageError(
                f"--host {self.host!r} is not an IP address",
                fix="give one of this machine's addresses; --allow-host is for the names that clients use",
            ) from None

    def _check_open(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        if not self.auth:
            raise UsageError(
                f"--no-auth with --host {self.host}: every machine that reaches it could call the service",
                fix="leave out --no-auth, or serve on 127.0.0.1",
            )
        if self.tls is None:
            raise UsageError(
                f"--host {self.host} without TLS: the token and the requests could be read on the way",
                fix="give --tls-cert and --tls-key, or serve on 127.0.0.1 behind a proxy that has TLS",
            )
        if address.is_unspecified and not self.names:
            raise UsageError(
                f"--host {self.host} is every address, and tells no name that clients use",
                fix="give the name that clients use: --allow-host api.example.org",
            )


def _in_url(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _no_password() -> str:
    raise UsageError("the key has a password")
