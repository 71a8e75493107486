"""What a model is called: `name`, `name@alias`, `name:3`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hooke.base.errors import UsageError

__all__ = ["Wanted", "check_alias", "check_name", "parse_wanted"]

_NAME = re.compile(r"\w[\w.-]*")
_ALIAS = re.compile(r"[\w-]+")
_RESERVED = re.compile(r"latest|[vV]\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which version somebody means: that of an alias, that of a number, or the newest."""

    name: str
    alias: str = ""
    number: int | None = None

    def __str__(self) -> str:
        if self.alias:
            return f"{self.name}@{self.alias}"
        return self.name if self.number is None else f"{self.name}:{self.number}"


def parse_wanted(text: str) -> Wanted:
    """Raises UsageError for what is none of the three forms."""
    name, mark, rest = re.fullmatch(r"([^@:]*)([@:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if _NAME.fullmatch(name):
        if not mark:
            return Wanted(name=name)
        if mark == "@" and _ALIAS.fullmatch(rest):
            return Wanted(name=name, alias=rest)
        if mark == ":" and re.fullmatch(r"[1-9][0-9]{0,9}", rest):
            return Wanted(name=name, number=int(rest))
    raise UsageError(
        f"{text!r} names no model",
        mend="write NAME (its newest version), NAME@ALIAS or NAME:VERSION, as in flights@champion or flights:3",
    )


def check_name(name: str) -> None:
    """Raises UsageError for what cannot be a model's name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"name={name!r} cannot be a model's name",
            mend="use letters, digits, '-', '_' and '.'; an alias is given as alias=",
        )


def check_alias(alias: str) -> None:
    """Raises UsageError for what cannot be an alias; MLflow reserves `latest` and `v1`."""
    if not _ALIAS.fullmatch(alias) or _RESERVED.fullmatch(alias):
        raise UsageError(
            f"alias={alias!r} cannot be an alias",
            mend="use letters, digits, '-' and '_', and not 'latest' or 'v1'",
        )
