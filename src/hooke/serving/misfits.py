"""What does not fit in a request, field by field, from what msgspec and pydantic say of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import msgspec

from hooke.serving.problems import FieldFault, Problem

__all__ = ["misfit"]

_AT = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_NAMED = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<name>[^`]*)`$")


def misfit(error: msgspec.ValidationError, fields: Sequence[str]) -> Problem:
    """The refusal (422) that names each field that msgspec, or a model of pydantic, found wrong; `fields` are the valid ones."""
    text = str(error)
    at = _AT.search(text)
    what = text[: at.start()] if at else text
    path = at["path"].removeprefix(".") if at else ""
    faults = _faults_of_pydantic(error.__cause__, path) or [_fault(what, path)]
    valid = ", ".join(fields) or "(none)"
    if not faults[0].field:
        return Problem(422, f"the body must be a JSON object with the fields {valid}: {what}")
    said = "; ".join(f"{fault.field}: {fault.detail}" for fault in faults)
    hint = "" if path else f"; the fields are {valid}"
    return Problem(422, said + hint, errors=faults)


def _fault(what: str, path: str) -> FieldFault:
    named = _NAMED.match(what)
    if named is None:
        return FieldFault(path, what)
    detail = "it is missing" if named["what"] == "missing required" else "there is no such field"
    return FieldFault(".".join(filter(None, (path, named["name"]))), detail)


def _faults_of_pydantic(error: BaseException | None, path: str) -> list[FieldFault]:
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not isinstance(error, pydantic.ValidationError):
        return []
    return [
        FieldFault(".".join([path, *map(str, fault["loc"])]), str(fault["msg"])) for fault in error.errors()
    ]
