"""Fingerprints of values: by content, exactly; what has no honest key raises."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from blake3 import blake3

from hooke.base.errors import NotFingerprintable
from hooke.keys.code import fingerprint_code
from hooke.keys.combine import Key, frame
from hooke.keys.encoding import NoKey, text
from hooke.keys.printer import Leaf, ValuePrinter, refusal
from hooke.keys.scalars import SCALARS

__all__ = ["fingerprint_items", "fingerprint_value"]


def fingerprint_value(value: object, *, where: str = "value", leaf: Leaf | None = None) -> Key:
    """The key of a value by its type and content, the same in every process.

    Sets and dicts count in any order. Instances count their class's code where it is the project's. `leaf` is asked
    first for every object met; the key it gives stands for it. Raises NotFingerprintable with the path from `where`.
    """
    scalar = SCALARS.get(type(value)) if leaf is None else None
    encoding = scalar(value) if scalar else _encode(_printer(leaf), value, where)
    return blake3(encoding).hexdigest(length=16)


def fingerprint_items(
    items: Iterable[tuple[object, ...]], *, label: str, leaf: Leaf | None = None, where: str = "items"
) -> bytes:
    """The keys of many argument tuples, 16 raw bytes each, in order.

    That of `(a, b)` is `bytes.fromhex(combine(label, fingerprint_value(a), fingerprint_value(b)))`. The values must
    not change meanwhile: what the items share is read once.
    """
    printer, start, keys = _printer(leaf), frame(label), bytearray()
    part = frame("0" * 32)[:-32]
    for number, arguments in enumerate(items):
        content = start
        for place, value in enumerate(arguments):
            scalar = SCALARS.get(type(value)) if leaf is None else None
            encoding = scalar(value) if scalar else _encode(printer, value, f"{where}[{number}][{place}]")
            content += part + blake3(encoding).hexdigest(length=16).encode()
        keys += blake3(content).digest(length=16)
    return bytes(keys)


def _printer(leaf: Leaf | None) -> ValuePrinter:
    return ValuePrinter(code=_code, leaf=leaf)


def _code(target: Any) -> bytes:
    return b"C" + text(fingerprint_code(target).key)


def _encode(printer: ValuePrinter, value: object, where: str) -> bytes:
    try:
        return printer.encode(value)
    except NoKey as lack:
        raise refusal(lack, where) from lack
    except RecursionError as error:
        raise NotFingerprintable(
            f"no key for {where}: it is nested too deeply",
            where=where,
            mend="pass a flat form of it, such as a list of pairs",
        ) from error
