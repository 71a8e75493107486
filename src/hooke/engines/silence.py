"""Which machines have said nothing for too long: frozen, swapping, or behind a network that tells nobody. Pure."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SILENT_S", "Silence"]

SILENT_S = 30.0
"""Dask's workers say each half second that they live, from a thread that no attempt of ours holds up; a machine short of memory may take
seconds. A cut connection is noticed by TCP after as long."""


class Silence:
    """Compares signs of life by their value, never by their clock: that is another machine's."""

    def __init__(self, silent_s: float = SILENT_S) -> None:
        self._silent_s = silent_s
        self._signs: dict[str, tuple[object, float]] = {}
        """Address -> the last sign, and when it was new here."""
        self.silent: set[str] = set()

    def look(self, signs: Mapping[str, object], now: float) -> tuple[set[str], set[str]]:
        """Who has fallen silent, and who speaks again, since the last look. `now`: seconds of a clock that does not jump."""
        for address, sign in signs.items():
            if address not in self._signs or self._signs[address][0] != sign:
                self._signs[address] = sign, now
        for address in self._signs.keys() - signs.keys():
            del self._signs[address]
        silent = {address for address, (_, since) in self._signs.items() if now - since >= self._silent_s}
        before, self.silent = self.silent, silent
        return silent - before, (before - silent) & signs.keys()
