"""A service's promise: `"p99 < 50ms"` as a percentage and a time; that of a language model is `"p95 first < 2s, each < 100ms"`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hooke.base.errors import UsageError
from hooke.base.formats import format_seconds
from hooke.base.units import parse_seconds

__all__ = ["Slo", "parse_slo"]

_SLO = re.compile(
    r"\s*p(?P<percent>\d{1,2}(?:\.\d+)?)(?P<first>\s+first)?\s*<\s*(?P<limit>[^,]*[^,\s])(?:\s*,\s*each\s*<\s*(?P<each>\S.*))?"
)


@dataclass(frozen=True, slots=True)
class Slo:
    """This percentage of requests is answered within `limit_s` seconds.

    Of a language model's `of_tokens`, they have their first token by then, and the others one every `each_s` seconds on average.
    """

    percent: float
    limit_s: float
    of_tokens: bool = False
    each_s: float | None = None

    def __str__(self) -> str:
        first = " first" if self.of_tokens else ""
        each = f", each < {format_seconds(self.each_s)}" if self.each_s is not None else ""
        return f"p{self.percent:g}{first} < {format_seconds(self.limit_s)}{each}"


def parse_slo(text: str) -> Slo:
    """`"p99 < 50ms"`, `"p99.9 < 1s"`, `"p95 first < 2s, each < 100ms"`. Raises UsageError."""
    match = _SLO.fullmatch(text) if isinstance(text, str) else None
    percent = float(match["percent"]) if match else 0.0
    limit_s = parse_seconds(match["limit"]) if match else 0.0
    each_s = parse_seconds(match["each"]) if match and match["each"] else None
    of_tokens = match is not None and match["first"] is not None
    if not percent or not limit_s or each_s == 0 or (each_s is not None and not of_tokens):
        raise UsageError(
            f"slo={text!r} is not a valid promise",
            fix='write a percentile and a time: slo="p99 < 50ms"; for a language model slo="p95 first < 2s, each < 100ms"',
        )
    return Slo(percent, limit_s, of_tokens=of_tokens, each_s=each_s)
