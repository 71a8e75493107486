"""Short text for a value, safe to show: no addresses, nothing long, no foreign code run."""

from __future__ import annotations

import reprlib

__all__ = ["shown"]


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


def shown(value: object) -> str:
    """A value in at most a few hundred characters."""
    return _SHORT.repr(value)


_SHORT = _Short()
