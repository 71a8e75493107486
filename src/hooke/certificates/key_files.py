"""The key files of one machine: the authority's certificate, its own with the key, and their facts. No cryptography here."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hooke.base.errors import UsageError
from hooke.base.files import sync_path, write_atomic, writing

__all__ = ["CA", "CA_KEY", "Address", "CertificateFacts", "Keys", "check_name", "check_private"]

CA = "ca.pem"
CA_KEY = "ca.key"
MACHINE = "machine.pem"
FACTS = "machine.json"
PRIVATE = 0o600

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `machine.json`: facts on the certificate beside it. Times are seconds since the epoch."""

    fleet: str
    machine: str
    until: float
    valid_s: float
    """How long it was valid when it was made."""
    at: str = ""
    """`HOST:PORT` of the authority that issued it; empty on the authority's own machine."""


class Keys(msgspec.Struct, frozen=True):
    """The folder `.hooke/fleets/NAME/keys` of a machine. Only its owner can read it."""

    folder: Path

    @classmethod
    def of(cls, data: Path, fleet: str) -> Keys:
        """The keys of a fleet, below a project's `.hooke`. Raises UsageError for an invalid name."""
        return cls(data / "fleets" / check_name("fleet", fleet) / "keys")

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / CA

    @property
    def machine(self) -> Path:
        """The machine's certificate and its key: one file, so that both are replaced together."""
        return self.folder / MACHINE

    def facts(self) -> CertificateFacts:
        """Read the facts. Raises UsageError where there are no keys, or the file is damaged."""
        fleet = self.folder.parent.name
        try:
            return msgspec.json.decode((self.folder / FACTS).read_bytes(), type=CertificateFacts)
        except FileNotFoundError as error:
            raise UsageError(
                f"this machine has no keys for the fleet {fleet}",
                where=str(self.folder),
                fix=f"make the fleet's authority here (hooke fleet ca {fleet}), or join one on another machine (hooke fleet join HOST:PORT)",
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the facts on this machine's keys for the fleet {fleet} are damaged",
                where=str(self.folder / FACTS),
                why=str(error),
                fix="move the folder away, and join with a new token",
            ) from error

    def good(self, now: float) -> CertificateFacts:
        """The facts on a certificate that has not expired. Raises UsageError."""
        facts = self.facts()
        if now < facts.until:
            return facts
        expired = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.until))
        raise UsageError(
            f"this machine's certificate for the fleet {facts.fleet} expired at {expired}",
            where=str(self.machine),
            fix=f"on the authority's machine: hooke fleet token {facts.fleet}; here: hooke fleet join {facts.at}"
            if facts.at
            else "move the folder away, and make a new authority: hooke fleet ca " + facts.fleet,
        )

    def create(
        self, *, ca: bytes, machine: bytes, facts: CertificateFacts, more: Mapping[str, bytes] | None = None
    ) -> None:
        """Make the folder with all files, atomically. Raises UsageError where it exists, HookeError where it cannot be written."""
        files = {CA: ca, MACHINE: machine, FACTS: msgspec.json.encode(facts), **(more or {})}
        with writing("the keys of a fleet", self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            made = self.folder.with_name(f".keys.{os.urandom(6).hex()}.tmp")
            made.mkdir(mode=0o700)
            try:
                for name, data in files.items():
                    write_atomic(made / name, data, sync=True, mode=PRIVATE)
                _rename(made, self.folder)
            except BaseException:
                shutil.rmtree(made)
                raise
            sync_path(self.folder.parent)

    def replace(self, *, machine: bytes, facts: CertificateFacts) -> None:
        """Replace the certificate. Raises HookeError where it cannot be written."""
        with writing("the keys of a fleet", self.folder):
            write_atomic(self.machine, machine, sync=True, mode=PRIVATE)
            write_atomic(self.folder / FACTS, msgspec.json.encode(facts), sync=True, mode=PRIVATE)


def check_name(what: str, name: str) -> str:
    """Return a valid name of a fleet or machine. Raises UsageError for another."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid {what} name",
            fix="use a to z, 0 to 9 and -, at most 40 characters, such as gpu-1",
        )
    return name


def check_private(path: Path) -> None:
    """Raise UsageError for a file that is missing, or that others than its owner may read or change."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=error.strerror or str(error)) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"other users can access {path}",
            why=f"its mode is {stat.S_IMODE(mode):04o}",
            fix=f"chmod 600 {path}; if somebody may have read it, make a new authority and let all machines join again",
        )


def _rename(made: Path, folder: Path) -> None:
    try:
        os.rename(made, folder)  # fails where the folder has content
    except OSError as error:
        if not folder.is_dir():
            raise
        raise UsageError(
            f"this machine already has keys for the fleet {folder.parent.name}",
            where=str(folder),
            fix="use them; or move the folder away to start over, which invalidates everything that its authority has signed",
        ) from error


# -- addresses of authorities -----------------------------------------------------------------------

_ADDRESS = re.compile(r"(\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>[0-9]{1,5})")


class Address(msgspec.Struct, frozen=True):
    """A host, by name or IP address, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `HOST:PORT`. Raises UsageError."""
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found["port"]) > 65535:
            raise UsageError(
                f"{text!r} is not a valid address",
                fix="write HOST:PORT, such as 10.0.0.5:8788 or [fd00::5]:8788",
            )
        return cls(found["six"] or found["host"], int(found["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
