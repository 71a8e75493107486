"""Short text for people: amounts (which `units` reads back) and values."""

from __future__ import annotations

import ast
import contextlib
import itertools
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "BINARY",
    "aligned",
    "clip",
    "did_you_mean",
    "first_line",
    "format_bytes",
    "format_rate",
    "format_seconds",
    "preformatted",
    "readable",
    "short_call",
    "short_parameters",
    "short_plain",
    "short_repr",
    "text_of",
    "tries_text",
    "without_password",
]


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


def format_rate(value: float) -> str:
    """`1172.4` -> `1,172`, `50.26` -> `50.3`: three digits or more, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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


def tries_text(number: int, tries: int) -> str:
    """Which of a task's tries: `try 1 of 3`."""
    return f"try {number} of {tries}" if number <= tries else f"try {number}"


def aligned(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> list[str]:
    """Lines of an aligned table, header first. Columns in `right` are right-aligned."""
    lines = [list(header), *([readable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def did_you_mean(name: str, valid: Iterable[str], *, form: str = "{}") -> str:
    """`did you mean train? `, before the list of valid names; empty if none is similar. `form` shows the name, as `{}=` for a parameter."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(valid), n=1)
    return f"did you mean {form.format(near[0])}? " if near else ""


# --- Values, for listings and messages: the shapes of large values, never their contents.

# --- Short text for a value, safe to show: no addresses, nothing long, no foreign code run.


class _Short(reprlib.Repr):
    """Basic values and containers by their repr, cut short; anything else by its type."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 200
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 20

    def repr_instance(self, x: object, level: int) -> str:
        """The hook of reprlib for types without a rule of their own."""
        del level
        plain = isinstance(x, int | float | complex | bool | bytes | None.__class__)
        return repr(x)[: self.maxother] if plain else f"<{type(x).__qualname__}>"


def short_plain(value: object) -> str:
    """A value in at most a few hundred characters."""
    return _SHORT.repr(value)


_SHORT = _Short()


_LONGEST = 60

_BRIEF = (int, float, bool, type(None))

_SORTED = 1000


class _Repr(reprlib.Repr):
    """The parts of a dict or set sorted, unless that would take long."""

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if len(x) <= _SORTED or level <= 0:
            return super().repr_dict(x, level)
        shown = super().repr_dict(dict(itertools.islice(x.items(), self.maxdict)), level)
        return f"{shown[:-1]}, ...}}"

    def repr_set(self, x: set[Any], level: int) -> str:
        if len(x) <= _SORTED or level <= 0:
            return super().repr_set(x, level)
        return f"{super().repr_set(set(itertools.islice(x, self.maxset)), level)[:-1]}, ...}}"


_repr = _Repr()
_repr.maxstring = _repr.maxother = _LONGEST
_repr.maxlist = _repr.maxtuple = _repr.maxset = _repr.maxdict = 4
_repr.maxlevel = 2


def short_repr(value: Any) -> str:
    """`value` in at most about 60 characters; never raises, whatever its `__repr__` does."""
    if type(value) in _BRIEF and (type(value) is not int or -1 << 63 <= value < 1 << 63):
        return repr(value)
    try:
        text = _text_of(value)
    except Exception:  # noqa: BLE001 - a user's property, or Python's own refusal to print an enormous number
        text = f"<{type(value).__name__}>"
    # In a trace a promise says that it has not run; here that is no news.
    return readable(text.replace("\n", " ").replace(", not run yet>", ">")[: 2 * _LONGEST])


def text_of(shown: str) -> str:
    """A parameter as it was shown, without the quotes of a text: `'forest'` is the text forest."""
    if len(shown) > 1 and shown[0] == shown[-1] and shown[0] in "'\"":
        with contextlib.suppress(ValueError, SyntaxError):
            found = ast.literal_eval(shown)
            return found if isinstance(found, str) else shown
    return shown


def _text_of(value: Any) -> str:
    shape = getattr(type(value), "shape", None) is not None and getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__}{shape}"
    return _repr.repr(value)


def short_call(arguments: Mapping[str, Any]) -> str:
    """Arguments as they would be written in a call: `month=3, depth=6`."""
    return ", ".join(f"{name}={short_repr(value)}" for name, value in arguments.items())


def short_parameters(args: Sequence[Any], params: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of a pipeline as short text, by name or position."""
    positional = {f"[{at}]": short_repr(value) for at, value in enumerate(args)}
    return positional | {name: short_repr(value) for name, value in params.items()}


# --- Text of others: exceptions, and what their processes printed.

_COLOURS = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would move a terminal's cursor, change the order of letters, or not encode as UTF-8."""


def readable(text: str) -> str:
    """`text` without a terminal's colours, and with other control characters but line feeds and tabs as escapes."""
    if _INVISIBLE.search(text) is None:
        return text
    return _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], _COLOURS.sub("", text))


def preformatted(text: str) -> str:
    """HTML of lines as they are, escaped."""
    return f'<pre style="font-family:monospace;white-space:pre-wrap">{escape(text)}</pre>'


def clip(text: str, most: int) -> str:
    """`text` with at most about `most` characters: of a longer one the beginning and the end, and how much is left out."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]}\n... {len(text) - most:,} characters left out ...\n{text[-end:]}"


def first_line(text: str, most: int = 200) -> str:
    """The first line of `text` on one line of at most `most` characters."""
    line = " ".join(text.strip().partition("\n")[0][: 10 * most].split())
    return line if len(line) <= most else f"{line[: most - 4].rstrip()} ..."


def without_password(uri: str) -> str:
    """The address to show: without user, password and query. A password that was not quoted may have any character."""
    scheme, separator, rest = uri.partition("://")
    authority = urlsplit(uri).netloc
    if "@" in rest and ("@" in authority or ":" in authority):
        rest = rest.rpartition("@")[2]
    return f"{scheme}{separator}{rest.partition('?')[0]}"
