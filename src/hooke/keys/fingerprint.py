"""Fingerprints of code (a function and everything that it reaches) and of values (by content)."""

from __future__ import annotations

import os
import sys
import types
from array import array
from binascii import hexlify
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from blake3 import blake3

from hooke.base.errors import EnvironmentMismatch, NotFingerprintable
from hooke.keys.bytecode import listing
from hooke.keys.callables import reach_class, reach_function
from hooke.keys.code_walk import EVERYTHING, CodeWalk
from hooke.keys.encoding import SCALARS, NoKey, integer, text
from hooke.keys.fingerprint_parts import CodePart, CodePrint, FingerprintPart, Key, frame
from hooke.keys.module_origin import library_of_method, origin_of
from hooke.keys.modules import module_title, reach_module
from hooke.keys.value_walk import KeptEncodings, Leaf, ValuePrinter, unkeyable_error

__all__ = [
    "EVERYTHING",
    "CodePart",
    "CodePrint",
    "SharedValueKeys",
    "check_code",
    "fingerprint_code",
    "fingerprint_items",
    "fingerprint_value",
    "index_items",
    "item_keys",
    "own_keys",
]


_NAMED = (
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
)


def fingerprint_code(function: Any, *, follow: frozenset[str] = EVERYTHING) -> CodePrint:
    """The key of a callable's code: its bytecode and all project code, globals and versions that it reaches.

    Accepts functions, classes, methods, partials, callable objects, and objects with `__hooke_code__()`, which stand
    for its result. Each call reads all globals again, so the key is never stale. `follow` weakens the walk, for tests.
    """
    walk = CodeWalk(reader=_reach, follow=follow)
    root = FingerprintPart(kind="function", name="")
    while (stand_in := getattr(type(function), "__hooke_code__", None)) is not None:
        function = stand_in(function)
    walk.bind(root, "", function, made=FingerprintPart(kind="global", name=type(function).__qualname__))
    key = walk.finish(root)
    return CodePrint(
        key=key, parts=walk.parts(), notes=tuple(walk.notes), foreign=tuple(filter(None, walk.foreigners))
    )


def _reach(walk: CodeWalk, part: FingerprintPart, label: str, value: Any) -> bool:
    if isinstance(value, types.FunctionType):
        return reach_function(walk, part, label, value)
    if isinstance(value, type):
        return reach_class(walk, part, label, value)
    if isinstance(value, types.ModuleType):
        reach_module(walk, part, label, value)
        return True
    if isinstance(value, types.CodeType):
        made = FingerprintPart(kind="function", name=value.co_qualname, digest=listing(value).digest)
        walk.place(part, label, walk.keep(value), made=lambda: made, fill=lambda _: None)
        return True
    return _reach_named(walk, part, label, value)


def _reach_named(walk: CodeWalk, part: FingerprintPart, label: str, value: Any) -> bool:
    """Functions and descriptors written in C, and bound methods that libraries offer as functions: by name."""
    if value is os.environ or value is os.environb:
        return _reach_named_in(walk, part, label, "os", "environ")
    offering = library_of_method(value)
    if offering is not None:
        return _reach_named_in(walk, part, label, offering, value.__name__)
    if isinstance(value, _NAMED):
        return _reach_named_in(walk, part, label, value.__objclass__.__module__, value.__qualname__)
    if type(value).__name__ == "cython_function_or_method":
        return _reach_named_in(walk, part, label, str(value.__module__), value.__qualname__)
    if not isinstance(value, types.BuiltinFunctionType):
        return False
    owner = value.__self__
    if owner is not None and not isinstance(owner, types.ModuleType):
        return False
    module = value.__module__ or (owner.__name__ if owner else "builtins")
    return _reach_named_in(walk, part, label, module, value.__qualname__)


def _reach_named_in(walk: CodeWalk, part: FingerprintPart, label: str, module: str, name: str) -> bool:
    found = sys.modules.get(module)
    origin = origin_of(module, getattr(found, "__file__", None))
    if origin.local and isinstance(found, types.ModuleType):
        reach_module(walk, part, label, found)
    else:
        walk.foreign(part, label, f"{module}.{name}", origin)
    return True


# --- Whether a worker has the code that the driver keyed.


def check_code(
    function: Callable[..., Any],
    *,
    name: str,
    parts: Mapping[str, str],
    allowed: Collection[str] = (),
    by_value: bool = False,
) -> None:
    """Raise EnvironmentMismatch if the code differs from the code that the driver keyed, except in `allowed` parts.

    A worker imports modules itself. A file that was edited after the driver imported it, or a global that the
    driver's script set after the import, would give results under a wrong key. A function that came `by_value` is
    the driver's own; what it reaches may differ.
    """
    found = fingerprint_code(function).parts
    mine = {part.name: part.digest for part in found}
    if mine == dict(parts):
        return
    if by_value:
        allowed = {found[0].name, *allowed}
    differing = sorted(
        name
        for name in mine.keys() | parts.keys()
        if mine.get(name) != parts.get(name)
        and not _is_elsewhere(name, mine, parts)
        and not _came_along(name)
        and name not in allowed
    )
    if not differing:
        return
    raise EnvironmentMismatch(
        "the worker's code differs from the code that this run was planned with",
        task=name,
        why="these parts differ: " + ", ".join(differing[:8]) + (" ..." if len(differing) > 8 else ""),
        fix="if code, or a file that a module reads when it is imported, was edited since your script or notebook imported it, "
        "start that again; if your script sets a global at run time (module.NAME = ...), pass the value as an argument instead",
    )


def _came_along(name: str) -> bool:
    """Whether a part belongs to the script or notebook, which came with the function as the driver had it.

    A class changes on the way (slots without their descriptors), so it could not be compared anyway.
    """
    return name.startswith(module_title(vars(sys.modules["__main__"])) + ".")


def _is_elsewhere(name: str, mine: Mapping[str, str], parts: Mapping[str, str]) -> bool:
    """Whether a part is a module that only one of the two processes imported, or its script.

    If static analysis fails, every module that the driver imported is part of the code, even its script and tests. A
    worker imports only what the task needs, and only that can be outdated.
    """
    one_sided = name not in mine or name not in parts
    return name.endswith(" (source)") and (one_sided or name == "__main__ (source)")


# --- Fingerprints of values.


def fingerprint_value(value: object, *, where: str = "value", leaf: Leaf | None = None) -> Key:
    """The key of a value by its type and content, the same in every process.

    The order of sets and dicts does not matter. Instances include the code of their class if it is project code.
    `leaf` is called first for every object; a key that it returns stands for the object. Raises NotFingerprintable
    with the path from `where`.
    """
    scalar = SCALARS.get(type(value)) if leaf is None else None
    encoding = scalar(value) if scalar else _encode(_printer(leaf), value, where)
    return blake3(encoding).hexdigest(length=16)


class SharedValueKeys:
    """Keys of the arguments of one graph, none of which changes meanwhile: what they share is read once.

    `shared` is identity -> a value that is, or is in, several of them.
    """

    def __init__(self, shared: Mapping[int, object]) -> None:
        self._kept = KeptEncodings(shared)
        self._shared = shared
        self._keys: dict[int, Key] = {}

    def scalar(self, value: object) -> Key | None:
        """As `fingerprint_value` for a plain scalar; None for anything else."""
        scalar = SCALARS.get(type(value))
        if scalar is None:
            return None
        if id(value) not in self._shared:
            return blake3(scalar(value)).hexdigest(length=16)
        key = self._keys.get(id(value))
        if key is None:
            key = self._keys[id(value)] = blake3(scalar(value)).hexdigest(length=16)
        return key

    def key(self, value: object, *, where: str, leaf: Leaf) -> Key:
        """As `fingerprint_value`. The leaf is not called for plain scalars and containers."""
        known = self.scalar(value) or self._keys.get(id(value))
        if known is not None:
            return known
        printer = ValuePrinter(code=_code, leaf=leaf, kept=self._kept)
        key = blake3(_encode(printer, value, where)).hexdigest(length=16)
        if id(value) in self._kept.shared and not printer.leaves:
            self._keys[id(value)] = key
        return key


def fingerprint_items(
    items: Iterable[tuple[object, ...]], *, label: str, leaf: Leaf | None = None, where: str = "items"
) -> bytes:
    """The keys of many argument tuples, 16 raw bytes each, in order.

    The key of `(a, b)` is `bytes.fromhex(combine(label, fingerprint_value(a), fingerprint_value(b)))`. The values
    must not change meanwhile, because parts that items share are read once.
    """
    return _keys_of_rows(items, label=label, leaf=leaf, where=where, own=False)


def index_items(
    items: Iterable[tuple[object, ...]], *, label: str, leaf: Leaf | None = None, where: str = "items"
) -> bytes:
    """The keys by which the store finds items of a map with the recipe `label`: as `fingerprint_items`, but in less time.

    An argument tuple of one int of 64 bits has a key of its own, the number itself. It tells nothing of the recipe, and
    `item_keys` gives the key that does.
    """
    return _keys_of_rows(items, label=label, leaf=leaf, where=where, own=True)


def own_keys(column: Sequence[object]) -> bytes | None:
    """The keys that `index_items` gives for a column of ints of 64 bits; None for any other."""
    if not isinstance(column, range) and set(map(type, column)) != {int}:
        return None
    try:
        numbers = array("q", cast("Sequence[int]", column))
    except OverflowError:
        return None
    words = array("q", bytes(16 * len(numbers)))
    words[::2] = numbers
    words[1::2] = array("q", [_OWN]) * len(numbers)
    return _little(words).tobytes()


def item_keys(keys: bytes, *, label: str) -> bytes:
    """The keys that `fingerprint_items` gives for the items with these keys from `index_items`."""
    if _OWN_BYTES not in keys:
        return keys
    words = _little(array("q", keys))
    numbers, marks = words[::2], words[1::2]
    own = [at for at, mark in enumerate(marks) if mark == _OWN]
    made = fingerprint_items(((numbers[at],) for at in own), label=label)
    if len(own) == len(numbers):
        return made
    found = bytearray(keys)
    for place, at in enumerate(own):
        found[16 * at : 16 * at + 16] = made[16 * place : 16 * place + 16]
    return bytes(found)


_OWN_BYTES = b"an int64"
"""The second half of a key that is a number itself; of another key with a probability of 2^-64."""
_OWN = int.from_bytes(_OWN_BYTES, "little")


def _little(words: array[int]) -> array[int]:
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _keys_of_rows(
    items: Iterable[tuple[object, ...]], *, label: str, leaf: Leaf | None, where: str, own: bool
) -> bytes:
    printer, keys, rows = _printer(leaf), bytearray(), iter(items)
    start, part = frame(label), frame("0" * 32)[:-32]
    scalars = SCALARS if leaf is None else {}
    while batch := list(islice(rows, BATCH)):
        column = [row[0] for row in batch] if len(batch[0]) == 1 else []
        if own and (numbers := own_keys(column)) is not None:
            keys += numbers
            continue
        scalar = _encoder_of(column, scalars)
        if scalar is not None and not (own and scalar is integer):
            begin = start + part
            keys += b"".join(
                [blake3(begin + hexlify(blake3(scalar(value)).digest(16))).digest(16) for value in column]
            )
            continue
        for arguments in batch:
            if own and len(arguments) == 1 and (number := own_keys(arguments)) is not None:
                keys += number
                continue
            content = start
            for place, value in enumerate(arguments):
                encoder = scalars.get(type(value))
                encoding = (
                    encoder(value)
                    if encoder is not None
                    else _encode(printer, value, f"{where}[{len(keys) // 16}][{place}]")
                )
                content += part + hexlify(blake3(encoding).digest(16))
            keys += blake3(content).digest(16)
    return bytes(keys)


BATCH = 4096
"""Items whose types are looked at together."""


def _encoder_of(
    column: Sequence[object], scalars: Mapping[type, Callable[[Any], bytes]]
) -> Callable[[Any], bytes] | None:
    """The encoder of a column of scalars of one type, as most maps have: a fifth faster."""
    kinds = set(map(type, column))
    return scalars.get(kinds.pop()) if len(kinds) == 1 else None


def _printer(leaf: Leaf | None) -> ValuePrinter:
    return ValuePrinter(code=_code, leaf=leaf)


def _code(target: Any) -> bytes:
    return b"C" + text(fingerprint_code(target).key)


def _encode(printer: ValuePrinter, value: object, where: str) -> bytes:
    try:
        return printer.encode(value)
    except NoKey as lack:
        raise unkeyable_error(lack, where) from lack
    except RecursionError as error:
        raise NotFingerprintable(
            f"cannot build a cache key for {where}: it is nested too deeply",
            where=where,
            fix="pass it in a flat form, such as a list of pairs",
        ) from error
