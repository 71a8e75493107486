"""A service's promise: `"p99 < 50ms"` as a percentage and a time; that of a language model is `"p95 first < 2s, each < 100ms"`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from hooke.base.errors import UsageError
from hooke.base.formats import format_seconds
from hooke.base.units import parse_seconds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["OF_TOKENS", "Slo", "parse_slo"]

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

    @overload
    def kept(self, first_s: float, each_s: float = ...) -> bool: ...

    @overload
    def kept(self, first_s: NDArray[np.float64], each_s: NDArray[np.float64]) -> NDArray[np.bool]: ...

    def kept(self, first_s: Any, each_s: Any = math.nan) -> Any:
        """Whether a request, or each of several, was within both limits: seconds to its first token and for each other one, nan if there is none."""
        slow = each_s > (math.inf if self.each_s is None else self.each_s)
        begun = (first_s <= self.limit_s) & (first_s < math.inf)  # also where there is no limit
        return begun > slow  # "and not", of a bool and of arrays

    def facts(self) -> dict[str, float | None]:
        """As plain values for JSON."""
        if self.of_tokens:
            return {"percent": self.percent, "first_s": self.limit_s, "each_s": self.each_s}
        return {"percent": self.percent, "limit_s": self.limit_s}

    def __str__(self) -> str:
        first = " first" if self.of_tokens else ""
        each = f", each < {format_seconds(self.each_s)}" if self.each_s is not None else ""
        return f"p{self.percent:g}{first} < {format_seconds(self.limit_s)}{each}"


OF_TOKENS = "p95 first < 2s, each < 100ms"
"""An example for language models."""


def parse_slo(text: str, *, of_tokens: bool | None = None) -> Slo:
    """`"p99 < 50ms"`, `"p99.9 < 1s"`, `"p95 first < 2s, each < 100ms"`. Raises UsageError, also if it is not `of_tokens` as required."""
    match = _SLO.fullmatch(text) if isinstance(text, str) else None
    percent = float(match["percent"]) if match else 0.0
    limit_s = parse_seconds(match["limit"]) if match else 0.0
    each_s = parse_seconds(match["each"]) if match and match["each"] else None
    first = match is not None and match["first"] is not None
    if not percent or not limit_s or each_s == 0 or (each_s is not None and not first):
        raise UsageError(
            f"slo={text!r} is not a valid promise",
            fix=f'write a percentile and a time: slo="p99 < 50ms"; for a language model slo="{OF_TOKENS}"',
        )
    if of_tokens is not None and first != of_tokens:
        raise UsageError(
            f"slo={text!r} is for {'language models' if first else 'whole answers, and not for a language model'}",
            fix=f'write slo="{OF_TOKENS if of_tokens else "p99 < 50ms"}"',
        )
    return Slo(percent, limit_s, of_tokens=first, each_s=each_s)
