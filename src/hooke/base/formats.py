"""Amounts as short text for people; `units` reads the same text back."""

from __future__ import annotations

__all__ = ["BINARY", "format_bytes", "format_seconds"]

BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
"""Units of `format_bytes`, each 1024 of the one before."""


def format_bytes(size: int) -> str:
    """`1536` -> `1.50 KiB`: three significant digits in binary units."""
    if size < 0:
        return "-" + format_bytes(-size)
    if size < 1024:
        return f"{size} B"
    value = float(size)
    unit = 0
    while value >= 999.5 and unit < len(BINARY) - 1:
        value /= 1024
        unit += 1
    return f"{_three_digits(value)} {BINARY[unit]}"


def format_seconds(seconds: float) -> str:
    """`0.00123` -> `1.23 ms`, `4.2` -> `4.20 s`, `185` -> `3m 05s`, `7620` -> `2h 07m`, `277200` -> `3d 05h`."""
    if seconds < 0:
        return "-" + format_seconds(-seconds)
    if seconds < 59.95:
        return _under_a_minute(seconds)
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days}d {hours:02d}h"


def _under_a_minute(seconds: float) -> str:
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{_three_digits(seconds * scale)} {unit}"
    return f"{_three_digits(seconds)} s"


def _three_digits(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
