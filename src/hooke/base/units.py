"""Reads amounts that people write, such as `"2GiB"` and `"30m"`. A plain number is bytes or seconds."""

from __future__ import annotations

import math
import re

from hooke.base.errors import UsageError
from hooke.base.formats import BINARY, format_bytes, format_seconds

__all__ = ["format_bytes", "format_seconds", "parse_bytes", "parse_seconds", "parse_usd"]

_BYTES = {unit.lower(): 1024**power for power, unit in enumerate(BINARY)} | {
    unit.lower(): 1000**power for power, unit in enumerate(("B", "KB", "MB", "GB", "TB", "PB", "EB"))
}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_NUMBER = r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)"
_ONE_SIZE = re.compile(rf"\s*{_NUMBER}\s*([A-Za-z]*)\s*")
_ONE_SPAN = re.compile(rf"\s*{_NUMBER}\s*([A-Za-zµ]*)\s*")


def parse_bytes(value: str | float, *, name: str = "") -> int:
    """Bytes in `value`: a number of bytes, or text such as `"512MB"`, `"1.5 GiB"` (case does not matter).

    Raises UsageError, which says the `name`, for anything else, also for negative numbers and NaN. `"2G"` is rejected as ambiguous.
    """
    if isinstance(value, str):
        match = _ONE_SIZE.fullmatch(value)
        scale = _BYTES.get(match[2].lower() or "b") if match else None
        if match is None or scale is None:
            raise _bad_size(value, name)
        # Whole numbers stay exact past 2**53, where a float would round.
        return int(match[1]) * scale if match[1].isdigit() else _whole(value, float(match[1]) * scale, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad_size(value, name)
    return _whole(value, value, name)


def parse_seconds(value: str | float, *, name: str = "") -> float:
    """Seconds in `value`: a number of seconds, or text such as `"90s"`, `"30m"`, `"1h 30m"`, `"250ms"`.

    Raises UsageError, which says the `name`, for anything else, also for negative numbers and NaN.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _bad_span(value, name)
    seconds = _sum_spans(value) if isinstance(value, str) else float(value)
    if seconds is None or not (math.isfinite(seconds) and seconds >= 0):
        raise _bad_span(value, name)
    return seconds


def parse_usd(budget: str | float) -> float:
    """US dollars in `"$20"`, `"1,000"` or a number. Raises UsageError."""
    try:
        amount = float(budget.strip().lstrip("$").replace(",", "") if isinstance(budget, str) else budget)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise UsageError(f"budget={budget!r} is not an amount in US dollars", fix='write "$20" or 20')
    return amount


def _whole(value: object, size: float, name: str) -> int:
    if not (math.isfinite(size) and size >= 0):
        raise _bad_size(value, name)
    return round(size)


def _sum_spans(text: str) -> float | None:
    """The seconds of all spans in the text; None if it has anything else."""
    total, at = 0.0, 0
    while at < len(text):
        match = _ONE_SPAN.match(text, at)
        whole = match is not None and at == 0 and match.end() == len(text)
        scale = _SECONDS.get(match[2] or ("s" if whole else "")) if match else None
        if match is None or scale is None:
            return None
        total, at = total + float(match[1]) * scale, match.end()
    return total if text.strip() else None


def _bad_size(value: object, name: str) -> UsageError:
    return UsageError(
        f"{name} {value!r} is not a size".lstrip(),
        fix='write a number of bytes or a number with a unit, such as "2GiB" (2**30) or "2GB" (10**9); '
        "valid units: B, KB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB, EiB",
    )


def _bad_span(value: object, name: str) -> UsageError:
    return UsageError(
        f"{name} {value!r} is not a duration".lstrip(),
        fix='write a number of seconds or numbers with units, such as "90s", "30m", "1h 30m"; '
        "valid units: us, ms, s, m, h, d, w",
    )
