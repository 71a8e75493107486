"""What the bookkeeping of attempts over several hosts needs of a library that brings these."""

from __future__ import annotations

from typing import Protocol

from hooke.engines.host_messages import Order
from hooke.engines.ranks import Word

__all__ = ["Roads"]


class Roads(Protocol):
    """The way to the hosts. Nothing here waits for an answer, nor raises for a host that is gone."""

    def ship(self, address: str, orders: list[Order]) -> None:
        """Bring attempts to a host, in this order."""
        ...

    def cancel(self, address: str, attempt: int) -> None:
        """Have a host end an attempt, of which it will say nothing more."""
        ...

    def withdraw(self, address: str, attempts: list[int]) -> None:
        """Ask back what has not begun."""
        ...

    def speak(self, address: str, attempt: int, word: Word) -> None:
        """Tell a host something about a gang of which it was given a part."""
        ...
