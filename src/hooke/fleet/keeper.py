"""The shell of a fleet's controller: it does what `controller.step` returns, and tells it what came of that."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from hooke.base.clock import Clock
from hooke.fleet.controller import step
from hooke.fleet.ledger import Ledger
from hooke.fleet.orders import (
    Action,
    Answered,
    Caps,
    Down,
    Event,
    Fleet,
    Frozen,
    Launch,
    Looked,
    LookFailed,
    Note,
    Refused,
    Release,
    Retire,
    Tick,
    Unsure,
    Wanted,
)
from hooke.fleet.provider import Provider, ProviderError, Unreachable
from hooke.journal.fleets import LedgerRecord

__all__ = ["Keeper"]


class Keeper:
    """Keeps one fleet as it is wanted, while `turn` is called again and again. Not thread-safe.

    `step` is the controller's. After a JournalError it is of no use any more: what could not be written was not done, and a new one begins from the ledger.
    """

    step = staticmethod(step)

    def __init__(
        self,
        name: str,
        provider: Provider,
        ledger: Ledger,
        *,
        caps: Caps,
        clock: Clock,
        tell: Callable[[LedgerRecord], None] = lambda _: None,
    ) -> None:
        """`tell` hears what is written into the ledger."""
        self.fleet: Fleet = ledger.fleet(name)
        self.trouble = ""
        """Why the last look failed; empty where it did not."""
        self.refused: ProviderError | None = None
        """Why the last launch was refused; None where it was not."""
        self._provider = provider
        self._ledger = ledger
        self._caps = caps
        self._clock = clock
        self._tell = tell
        self._next_look = -math.inf  # on the clock that is never set

    def want(self, machines: int, by: str) -> None:
        """Have so many from now on. Raises JournalError."""
        self._happened(Wanted(machines, by))

    def down(self, by: str) -> None:
        """End all now, whatever they do. Raises JournalError."""
        self._happened(Down(by))

    def freeze(self) -> None:
        """Launch nothing from now on, whatever is missing. Raises JournalError."""
        self._happened(Frozen())

    def turn(self) -> float:
        """Look where it is time for it, and do what follows; the seconds until the next turn. Raises JournalError."""
        if self._clock.monotonic() < self._next_look:
            self._happened(Tick())
        else:
            self._happened(self._look())
            self._next_look = self._clock.monotonic() + self._provider.facts.look_s
        return max(self._next_look - self._clock.monotonic(), 0.0)

    def _happened(self, event: Event) -> None:
        events: deque[Event] = deque([event])
        while events:
            self.fleet, actions = self.step(
                self.fleet, events.popleft(), self._clock.now(), caps=self._caps, facts=self._provider.facts
            )
            for action in actions:
                told = self._do(action)
                if told is not None:
                    events.append(told)

    def _do(self, action: Action) -> Event | None:
        match action:
            case Note(event):
                self._ledger.write(event)
                self._tell(event)
            case Launch(token):
                return self._launch(token)
            case Retire(machine):
                return self._told(lambda: self._provider.retire(machine))
            case Release(machine):
                return self._told(lambda: self._provider.release(machine))
        return None

    def _launch(self, token: str) -> Event:
        self.refused = None
        try:
            return Answered(token, self._provider.launch(token))
        except Unreachable as error:
            return Unsure(error.what)
        except ProviderError as error:
            self.refused = error
            return Refused(token, error.kind, error.what)

    def _told(self, call: Callable[[], None]) -> Event | None:
        """It is done, or will be asked for again after the next look."""
        try:
            call()
        except ProviderError as error:
            return Unsure(error.what)
        return None

    def _look(self) -> Event:
        try:
            machines = tuple(self._provider.list())
        except ProviderError as error:
            self.trouble = error.what
            return LookFailed(error.what)
        self.trouble = ""
        return Looked(machines)
