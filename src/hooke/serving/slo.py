"""A service's promise: `"p99 < 50ms"` as a percentage and a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hooke.base.errors import UsageError
from hooke.base.formats import format_seconds
from hooke.base.units import parse_seconds

__all__ = ["Slo", "parse_slo"]

_SLO = re.compile(r"\s*p(?P<percent>\d{1,2}(?:\.\d+)?)\s*<\s*(?P<limit>\S.*)")


@dataclass(frozen=True, slots=True)
class Slo:
    """This percentage of requests is answered within `limit_s` seconds."""

    percent: float
    limit_s: float

    def __str__(self) -> str:
        return f"p{self.percent:g} < {format_seconds(self.limit_s)}"


def parse_slo(text: str) -> Slo:
    """`"p99 < 50ms"`, `"p99.9 < 1s"`. Raises UsageError."""
    match = _SLO.fullmatch(text) if isinstance(text, str) else None
    percent = float(match["percent"]) if match else 0.0
    limit_s = parse_seconds(match["limit"]) if match else 0.0
    if not percent or not limit_s:
        raise UsageError(
            f"slo={text!r} is not a valid promise", fix='write a percentile and a time: slo="p99 < 50ms"'
        )
    return Slo(percent, limit_s)
