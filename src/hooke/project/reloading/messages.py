"""What a process that serves one version tells the process that started it, a line of JSON each."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = ["Answers", "Imported", "OfChild", "Refused", "Served", "decode", "encode"]


class Answers(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It is set up, and takes connections."""

    lines: tuple[str, ...]
    """What is said of that, and how it is asked."""


class Imported(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The project's modules that it has imported so far."""

    files: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It cannot serve: what is wrong and where, the last lines of the traceback, and the mend."""

    what: str
    where: str = ""
    why: tuple[str, ...] = ()
    mend: str = ""


class Served(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It has drained."""

    run: str
    answered: int
    cut: int


OfChild: TypeAlias = Answers | Imported | Refused | Served

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(OfChild).decode
