"""The files of one machine: the authority's certificate, its own with the key, and until when that is good. No cryptography here."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hooke.base.errors import UsageError
from hooke.base.files import sync_folder, write_atomic, writing

__all__ = ["CA", "CA_KEY", "CertificateFacts", "Keys", "check_name", "check_private"]

CA = "ca.pem"
CA_KEY = "ca.key"
MACHINE = "machine.pem"
FACTS = "machine.json"
PRIVATE = 0o600

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What `machine.json` says of the certificate beside it. Times are seconds since the epoch."""

    fleet: str
    machine: str
    until: float
    valid_s: float
    """How long it was good for when it was made."""
    at: str = ""
    """`HOST:PORT` where it was got; empty on the authority's own machine."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The folder `.hooke/fleets/NAME/keys` of a machine. It is readable to its owner alone."""

    folder: Path

    @classmethod
    def of(cls, data: Path, fleet: str) -> Keys:
        """Those of a fleet, below a project's `.hooke`. Raises UsageError for what is no name of a fleet."""
        return cls(data / "fleets" / check_name("fleet", fleet) / "keys")

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / CA

    @property
    def machine(self) -> Path:
        """The machine's certificate and its key, in one file, so that they are replaced together."""
        return self.folder / MACHINE

    def facts(self) -> CertificateFacts:
        """Raises UsageError where there are no keys, or what is said of them cannot be read."""
        fleet = self.folder.parent.name
        try:
            return msgspec.json.decode((self.folder / FACTS).read_bytes(), type=CertificateFacts)
        except FileNotFoundError as error:
            raise UsageError(
                f"this machine has no keys of the fleet {fleet}",
                where=str(self.folder),
                fix=f"hooke fleet ca {fleet} makes the fleet's authority here; hooke fleet join HOST:PORT joins one that is elsewhere",
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"what is known of this machine's keys of the fleet {fleet} is damaged",
                where=str(self.folder / FACTS),
                why=str(error),
                fix="move the folder away, and join with a new token",
            ) from error

    def good(self, now: float) -> CertificateFacts:
        """The facts of a certificate that has not ended. Raises UsageError."""
        facts = self.facts()
        if now < facts.until:
            return facts
        ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.until))
        raise UsageError(
            f"this machine's certificate of the fleet {facts.fleet} ended at {ended}",
            where=str(self.machine),
            fix=f"on the authority's machine: hooke fleet token {facts.fleet}; here: hooke fleet join {facts.at}"
            if facts.at
            else "move the folder away, and make another authority: hooke fleet ca " + facts.fleet,
        )

    def create(
        self, *, ca: bytes, machine: bytes, facts: CertificateFacts, more: Mapping[str, bytes] | None = None
    ) -> None:
        """Make the folder with all files, whole or not at all. Raises UsageError where it is there, HookeError where it cannot be written."""
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
            sync_folder(self.folder.parent)

    def replace(self, *, machine: bytes, facts: CertificateFacts) -> None:
        """Put another certificate in the place of the one that is there. Raises HookeError where it cannot be written."""
        with writing("the keys of a fleet", self.folder):
            write_atomic(self.machine, machine, sync=True, mode=PRIVATE)
            write_atomic(self.folder / FACTS, msgspec.json.encode(facts), sync=True, mode=PRIVATE)


def check_name(what: str, name: str) -> str:
    """The name, if it can be one of a fleet or a machine. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a {what}",
            fix="write a to z, 0 to 9 and -, at most 40 characters, as gpu-1",
        )
    return name


def check_private(path: Path) -> None:
    """Raises UsageError for a file that is not there, or that others than its owner may read or change."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"{path} is open to others",
            why=f"its mode is {stat.S_IMODE(mode):04o}",
            fix=f"chmod 600 {path}; if somebody may have read it, make another authority and have all join anew",
        )


def _rename(made: Path, folder: Path) -> None:
    try:
        os.rename(made, folder)  # onto a folder with something in it: refused
    except OSError as error:
        if not folder.is_dir():
            raise
        raise UsageError(
            f"this machine has keys of the fleet {folder.parent.name} already",
            where=str(folder),
            fix="use them; to begin anew move the folder away: what its authority has signed is good for nothing then",
        ) from error
