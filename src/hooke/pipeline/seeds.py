"""Reproducible random numbers: they follow from the key of a call or an item, not from where or when it runs.

Hooke seeds `random`, NumPy's legacy global state and PyTorch, the latter two if they are imported, or as soon as the
call imports them. It does not seed generators that a task creates (`numpy.random.default_rng()`).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from hooke.keys.fingerprint_parts import CodePrint

__all__ = ["KEY_BYTES", "isolated_randomness", "seed_from", "seeded_attempt", "uses_no_randomness"]

KEY_BYTES = 16
"""Length of an item's key in `Call.keys`."""


_CERTAIN = frozenset(
    {
        "abc", "bisect", "builtins", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions",
        "functools", "hashlib", "heapq", "itertools", "json", "math", "operator", "os", "pathlib", "re", "string", "struct",
        "time", "types", "typing", "zlib",
    }
)  # fmt: skip
"""Modules that use no global random generator."""
_PLAIN = frozenset({bool, bytes, complex, float, int, str, type(None)})


def uses_no_randomness(code: CodePrint, arguments: Iterable[object], columns: Iterable[Any]) -> bool:
    """Whether certainly no item of a map uses random numbers, so that seeding, slower than a short item, can be skipped.

    True if the code uses only modules of a known list and gets only numbers and text: other objects may bring code.
    """
    if code.notes or not all(name.partition(".")[0] in _CERTAIN for name in code.foreign):
        return False
    if not all(type(value) in _PLAIN for value in arguments):
        return False
    return all(isinstance(column, range) or _is_plain(column) for column in columns)


def _is_plain(column: Any) -> bool:
    return type(column) in {list, tuple} and all(type(value) in _PLAIN for value in column)


@contextlib.contextmanager
def seeded_attempt(*, restored: bool) -> Iterator[None]:
    """Surrounds an attempt that calls `seed_from`. With `restored` the generators get their earlier state back."""
    before = _states() if restored else {}
    sys.meta_path.insert(0, _watch)
    try:
        yield
    finally:
        sys.meta_path.remove(_watch)
        _watch.number = None
        for set_state, state in before.values():
            set_state(state)


@contextlib.contextmanager
def isolated_randomness(name: str) -> Iterator[None]:
    """Inside, random numbers follow from the name; afterwards the generators continue as if nothing had been drawn."""
    before, number = _states(), _watch.number
    seed_from(hashlib.blake2b(name.encode(), digest_size=KEY_BYTES).digest())
    try:
        yield
    finally:
        for set_state, state in before.values():
            set_state(state)
        _watch.number = number
        for library in _SEEDED.keys() - before.keys():  # imported inside
            if library in sys.modules and number is not None:
                _SEEDED[library](sys.modules[library], number)


def seed_from(key: bytes) -> None:
    """Seed the global generators with the first eight bytes of a key."""
    number = int.from_bytes(key[:8], "little")
    random.seed(number)
    _watch.number = number
    for name, seed in _SEEDED.items():
        module = sys.modules.get(name)
        if module is not None:
            seed(module, number)


def _seed_numpy(module: Any, number: int) -> None:
    if (seed := getattr(module, "seed", None)) is not None:
        seed(number & 0xFFFF_FFFF)


def _seed_torch(module: Any, number: int) -> None:
    if not hasattr(module, "manual_seed"):  # another thread imports it now
        return
    if getattr(module.version, "cuda", None) or getattr(module.version, "hip", None):
        module.manual_seed(number)
    else:
        module.default_generator.manual_seed(
            number
        )  # manual_seed would record a stack trace for each missing GPU


_SEEDED = {"numpy.random": _seed_numpy, "torch": _seed_torch}


def _states() -> dict[str, tuple[Any, Any]]:
    states: dict[str, tuple[Any, Any]] = {"random": (random.setstate, random.getstate())}
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None and hasattr(numpy_random, "get_state"):
        states["numpy.random"] = (numpy_random.set_state, numpy_random.get_state())
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_rng_state"):
        states["torch"] = (torch.set_rng_state, torch.get_rng_state())
    return states


class _Watch:
    """A module finder that finds nothing itself: it seeds a library as soon as it is imported."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._looking = False

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the later finders, with seeding added to its loader."""
        if name not in _SEEDED or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            self._seed_after(spec.loader, name)
        return spec

    def _seed_after(self, loader: Any, name: str) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self.number is not None:
                _SEEDED[name](module, self.number)

        loader.exec_module = exec_module


_watch = _Watch()
