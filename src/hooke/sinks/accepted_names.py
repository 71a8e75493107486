"""Names as a tracker accepts them, no two of which become the same."""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from hooke.sinks.sink import Receipt

__all__ = ["AcceptedNames", "told_apart"]


class AcceptedNames:
    """Names as `change` makes them. A changed one is noted in the receipt, as called so `where`."""

    def __init__(self, receipt: Receipt, change: Callable[[str], str], *, where: str, most: int) -> None:
        self._receipt = receipt
        self._change = change
        self._where = where
        self._most = most
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name there."""
        known = self._known.get(name)
        if known is None:
            known = self._change(name)
            if known != name:
                known = told_apart(known, name, self._most)
                self._receipt.notes.append(f"{name[:80]!r} is called {known[:80]!r} {self._where}")
            self._known[name] = known
        return known


def told_apart(changed: str, name: str, most: int) -> str:
    """At most so many characters of a changed name, with a digest of the `name` that it was."""
    mark = f"-{blake3(name.encode()).hexdigest(4)}"
    return changed[: most - len(mark)] + mark
