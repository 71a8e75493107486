"""Where machines are let in: `HOST:PORT`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hooke.base.errors import UsageError

__all__ = ["Address"]

_TEXT = re.compile(r"(\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """A host, by name or number, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises UsageError for what is none."""
        found = _TEXT.fullmatch(text)
        if found is None or int(found["port"]) > 65535:
            raise UsageError(
                f"{text!r} is no address", mend="write HOST:PORT, as 10.0.0.5:8788 or [fd00::5]:8788"
            )
        return cls(found["six"] or found["host"], int(found["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
