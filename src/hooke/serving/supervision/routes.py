"""To whom the front sends requests, or may yet: what it says comes late, and may be of what it was told before the last."""

from __future__ import annotations

__all__ = ["Routes"]


class Routes:
    """What the front was told, and what it has said of that."""

    def __init__(self) -> None:
        self._routed: tuple[str, ...] = ()
        self._unheard: list[tuple[str, ...]] = []
        """Told, and nothing said of it yet; the oldest first."""

    def told(self, names: tuple[str, ...]) -> None:
        """It is to send to these, and to no others."""
        self._unheard.append(names)

    def heard(self, names: tuple[str, ...]) -> None:
        """It says that it does. It may leave out some of what it was told, never their order."""
        self._routed = names
        if names in self._unheard:
            del self._unheard[: self._unheard.index(names) + 1]

    def reaches(self, name: str) -> bool:
        """Whether requests come to it, or may yet."""
        return name in self._routed or any(name in names for names in self._unheard)
