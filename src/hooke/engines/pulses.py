"""Whether hosts that should say each second that they are there still do. Pure: time is an argument."""

from __future__ import annotations

__all__ = ["Pulses"]


class Pulses:
    """When each host was heard last. A pause of our own (we were stopped) is not counted against them."""

    def __init__(self, silent_s: float, now: float) -> None:
        self._silent_s = silent_s
        self._looked = now
        self._heard: dict[str, float] = {}

    def heard(self, host: str, now: float) -> None:
        """It gave a sign of life."""
        self._heard[host] = now

    def forget(self, host: str) -> None:
        """It is gone."""
        self._heard.pop(host, None)

    def silent(self, now: float, *, every_s: float) -> list[str]:
        """Those that were not heard for too long; to be called every `every_s`."""
        late = max(0.0, now - self._looked - 2 * every_s)
        self._looked = now
        for host in self._heard:
            self._heard[host] += late
        return [host for host, at in self._heard.items() if now - at > self._silent_s]
