"""Which machines a fleet's authority has certified: a file for each, which is taken away to let one go."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hooke.base.errors import HookeError
from hooke.base.files import write_atomic
from hooke.base.refusals import writing

__all__ = ["Member", "Members"]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that was given out. Times are seconds since the epoch."""

    machine: str
    serial: int
    until: float
    valid_s: float
    address: str
    """Where it asked from."""


class Members:
    """The folder `members`, with `MACHINE-SERIAL.json` for each certificate that has not ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, member: Member, *, now: float) -> None:
        """Note it, and forget those that have ended. Raises HookeError where it cannot be written."""
        with writing("who has joined", self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = self._folder / f"{member.machine}-{member.serial:040x}.json"
            write_atomic(path, msgspec.json.encode(member), sync=True, mode=0o600)
            for other in self._folder.glob("*.json"):
                known = self._read(other)
                if known is not None and now > known.until:
                    other.unlink(missing_ok=True)

    def find(self, serial: int) -> Member | None:
        """None for one that was let go. Raises HookeError where its file is damaged."""
        return next(filter(None, map(self._read, self._folder.glob(f"*-{serial:040x}.json"))), None)

    @staticmethod
    def _read(path: Path) -> Member | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Member)
        except FileNotFoundError:  # taken away meanwhile
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HookeError(
                "a member's file is damaged",
                where=str(path),
                mend="remove it: that machine joins with another token",
            ) from error
