"""Tokens that let one machine in, once and soon: made here, kept as hashes, spent by whoever shows one first."""

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

__all__ = ["Token", "Tokens", "Turned", "Wrong"]

SECRET_BYTES = 24
"""192 bits of chance: nobody guesses it, so a hash without salt or stretching keeps it."""

REMEMBERED_S = 7 * 86400.0
"""How long it is known of a token that it was used or is over, for a better answer than that there is none."""

ID = r"[0-9a-f]{12}"

_TEXT = re.compile(
    rf"(?P<fleet>[a-z0-9-]+)\.(?P<id>{ID})\.(?P<secret>[A-Za-z0-9_-]{{32}})\.(?P<pin>[A-Za-z0-9_-]{{43}})"
)


class Turned(HookeError):
    """A token that was good, and is not any more."""


class Wrong(HookeError):
    """A token that never was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What the new machine is given. It says, too, by which certificate to know the fleet's authority."""

    fleet: str
    id: str
    secret: str = field(repr=False)
    pin: bytes
    """SHA-256 of the authority's certificate."""

    @property
    def text(self) -> str:
        """As it is carried to the machine."""
        pin = base64.urlsafe_b64encode(self.pin).decode().rstrip("=")
        return f"{self.fleet}.{self.id}.{self.secret}.{pin}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises UsageError, without the text, for what is no token."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                "this is no join token",
                why=f"it has {len(text.strip())} characters" if text.strip() else "it is empty",
                fix="copy it whole, as `hooke fleet token` printed it: one line, FLEET.ID.SECRET.FINGERPRINT",
            )
        pin = base64.urlsafe_b64decode(found["pin"] + "=")
        return cls(fleet=found["fleet"], id=found["id"], secret=found["secret"], pin=pin)


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    until: float
    valid_s: float
    by: str = ""


class Tokens:
    """A folder with a file for each token, `ID.json`, and `ID.used` for one that was spent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, fleet: str, pin: bytes, *, now: float, open_s: float, valid_s: float) -> Token:
        """One that is good for `open_s` seconds, and brings a certificate for `valid_s`. Raises HookeError where it cannot be written."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        token = Token(fleet=fleet, id=secrets.token_hex(6), secret=secret, pin=pin)
        kept = _Kept(digest=_digest(secret), until=now + open_s, valid_s=valid_s)
        with writing("the token", self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._forget(now)
            write_atomic(self._path(token.id), msgspec.json.encode(kept), sync=True, mode=0o600)
        return token

    def spend(self, name: str, secret: str, *, now: float, by: str) -> float:
        """Take the token with the id `name`, for good; how many seconds its certificate is good for.

        Of many that ask at once one is told so. `by` is who, for the others. Raises Wrong, Turned where it was used or is over, and HookeError
        where that cannot be written.
        """
        kept, used = self._read(self._path(name)), self._read(self._spent(name))
        known = used or kept
        if known is None or not hmac.compare_digest(known.digest, _digest(secret)):
            raise Wrong("there is no such token", fix="get one with `hooke fleet token`")
        if used is not None or kept is None:
            raise self._used(used)
        if now >= kept.until:
            raise Turned("the token is over", fix="get another with `hooke fleet token`")
        with writing("that a token was used", self._folder):
            try:
                os.link(self._path(name), self._spent(name))  # of all that try, for one it is not there yet
            except (FileExistsError, FileNotFoundError) as error:
                raise self._used(self._read(self._spent(name))) from error
            self._path(name).unlink()
            spent = msgspec.structs.replace(kept, by=by)
            write_atomic(self._spent(name), msgspec.json.encode(spent), sync=True, mode=0o600)
        return kept.valid_s

    def open(self, now: float) -> int:
        """How many could still be spent."""
        kept = [self._read(path) for path in self._folder.glob("*.json")]
        return sum(1 for each in kept if each is not None and now < each.until)

    def _used(self, used: _Kept | None) -> Turned:
        by = f" by {used.by}" if used is not None and used.by else ""
        return Turned(
            f"the token was used already{by}",
            fix="get another with `hooke fleet token`; if that was nobody of yours, somebody read the token: see who has joined",
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
    def _read(path: Path) -> _Kept | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HookeError(
                "a token's file is damaged", where=str(path), fix="remove it, and make another token"
            ) from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
