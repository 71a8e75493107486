"""Join tokens: each admits one machine, once and soon. They are stored as hashes, and the first machine to show one uses it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import write_atomic, writing

__all__ = ["Token", "TokenExpired", "Tokens", "UnknownToken"]

SECRET_BYTES = 24
"""192 random bits: nobody can guess them, so a hash without salt or stretching is enough."""

REMEMBERED_S = 7 * 86400.0
"""How long used and expired tokens are remembered, for a better message than that there is no such token."""

ID = r"[0-9a-f]{12}"

_TEXT = re.compile(
    rf"(?P<fleet>[a-z0-9-]+)\.(?P<id>{ID})\.(?P<secret>[A-Za-z0-9_-]{{32}})\.(?P<pin>[A-Za-z0-9_-]{{43}})"
)


class TokenExpired(HookeError):
    """The token was used already, or has expired."""


class UnknownToken(HookeError):
    """There never was such a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a new machine joins with. It also identifies the fleet's authority, by the fingerprint of its certificate."""

    fleet: str
    id: str
    secret: str = field(repr=False)
    pin: bytes
    """SHA-256 of the authority's certificate."""

    @property
    def text(self) -> str:
        """The token as text, as a user carries it to the machine."""
        pin = base64.urlsafe_b64encode(self.pin).decode().rstrip("=")
        return f"{self.fleet}.{self.id}.{self.secret}.{pin}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """Parse a token's text. Raises UsageError, which does not contain the text."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                "this is not a join token",
                why=f"it has {len(text.strip())} characters" if text.strip() else "it is empty",
                fix="copy the whole line that `hooke fleet token` printed: FLEET.ID.SECRET.FINGERPRINT",
            )
        pin = base64.urlsafe_b64decode(found["pin"] + "=")
        return cls(fleet=found["fleet"], id=found["id"], secret=found["secret"], pin=pin)


class _StoredToken(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    until: float
    valid_s: float
    by: str = ""


class Tokens:
    """A folder with a file for each token: `ID.json`, or `ID.used` for a used one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, fleet: str, pin: bytes, *, now: float, open_s: float, valid_s: float) -> Token:
        """Make a token that is open for `open_s` seconds, and brings a certificate valid for `valid_s`. Raises HookeError where it cannot be written."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        token = Token(fleet=fleet, id=secrets.token_hex(6), secret=secret, pin=pin)
        kept = _StoredToken(digest=_digest(secret), until=now + open_s, valid_s=valid_s)
        with writing("the token", self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._forget(now)
            write_atomic(self._path(token.id), msgspec.json.encode(kept), sync=True, mode=0o600)
        return token

    def spend(self, name: str, secret: str, *, now: float, by: str) -> float:
        """Use up the token with the id `name`; returns for how many seconds its certificate is valid.

        Of several at once only one succeeds; `by` names it to the others. Raises UnknownToken, TokenExpired, and HookeError where its use
        cannot be recorded.
        """
        kept, used = self._read(self._path(name)), self._read(self._spent(name))
        known = used or kept
        if known is None or not hmac.compare_digest(known.digest, _digest(secret)):
            raise UnknownToken("the token is unknown", fix="get one with `hooke fleet token`")
        if used is not None or kept is None:
            raise self._used(used)
        if now >= kept.until:
            raise TokenExpired("the token has expired", fix="get another one with `hooke fleet token`")
        with writing("that a token was used", self._folder):
            try:
                os.link(self._path(name), self._spent(name))  # only one of those that try creates it
            except (FileExistsError, FileNotFoundError) as error:
                raise self._used(self._read(self._spent(name))) from error
            self._path(name).unlink()
            spent = msgspec.structs.replace(kept, by=by)
            write_atomic(self._spent(name), msgspec.json.encode(spent), sync=True, mode=0o600)
        return kept.valid_s

    def open(self, now: float) -> int:
        """How many tokens can still be used."""
        kept = [self._read(path) for path in self._folder.glob("*.json")]
        return sum(1 for each in kept if each is not None and now < each.until)

    def _used(self, used: _StoredToken | None) -> TokenExpired:
        by = f" by {used.by}" if used is not None and used.by else ""
        return TokenExpired(
            f"the token was already used{by}",
            fix="get another one with `hooke fleet token`; if you do not know that machine, somebody read the token: see who has joined",
        )

    def _forget(self, now: float) -> None:
        for path in [*self._folder.glob("*.json"), *self._folder.glob("*.used")]:
            kept = self._read(path)
            if kept is not None and now > kept.until + REMEMBERED_S:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _spent(self, name: str) -> Path:
        return self._folder / f"{name}.used"

    @staticmethod
    def _read(path: Path) -> _StoredToken | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=_StoredToken)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HookeError(
                "a token's file is damaged", where=str(path), fix="remove it, and make another token"
            ) from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
