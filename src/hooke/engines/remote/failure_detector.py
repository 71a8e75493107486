"""Detects hosts without a sign of life: frozen, swapping, or cut off without notice. Pure."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SILENT_S", "FailureDetector"]

SILENT_S = 30.0
"""Dask's workers give a sign of life each half second, Ray's hosts each second, from threads that no attempt blocks. A machine
short of memory may take seconds. TCP notices a cut connection after about as long; Ray itself may take minutes."""


class FailureDetector:
    """Compares the values of signs of life, and never trusts their timestamps, which other machines made."""

    def __init__(self, silent_s: float = SILENT_S, *, every_s: float | None = None) -> None:
        """`every_s`: how often `look` is called, where this process gathers the signs: time during which it was stopped itself does not count."""
        self._silent_s = silent_s
        self._every_s = every_s
        self._looked: float | None = None
        self._signs: dict[str, tuple[object, float]] = {}
        """Address -> the last sign, and when it arrived."""
        self.silent: set[str] = set()

    def look(self, signs: Mapping[str, object], now: float) -> tuple[set[str], set[str]]:
        """The addresses that have fallen silent, and those that are back, since the last look. `now`: seconds of a clock that does not jump."""
        late = self._late_s(now)
        for address, sign in signs.items():
            if address not in self._signs or self._signs[address][0] != sign:
                self._signs[address] = sign, now
            else:
                self._signs[address] = sign, self._signs[address][1] + late
        for address in self._signs.keys() - signs.keys():
            del self._signs[address]
        silent = {address for address, (_, since) in self._signs.items() if now - since >= self._silent_s}
        before, self.silent = self.silent, silent
        return silent - before, (before - silent) & signs.keys()

    def _late_s(self, now: float) -> float:
        """How long this process was stopped since the last look."""
        looked, self._looked = self._looked, now
        if self._every_s is None or looked is None:
            return 0.0
        return max(0.0, now - looked - 2 * self._every_s)
