"""The shell of a fleet's controller: it does what `controller.step` returns, and tells it what came of that."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self, get_args

from hooke.base.clock import Clock
from hooke.fleets.controller import (
    Action,
    Caps,
    Down,
    Event,
    FleetState,
    FleetTick,
    Frozen,
    Launch,
    LaunchRefused,
    LaunchReply,
    LedgerNote,
    LookFailed,
    ProviderListing,
    Release,
    Retire,
    SetSize,
    Unsure,
    restored,
    step,
)
from hooke.journal.fleet_events import LedgerRecord
from hooke.journal.reader import read
from hooke.journal.segments import TornTail
from hooke.journal.writer import Durability, Journal
from hooke.providers.provider import Provider, ProviderError, Unreachable

__all__ = ["LEDGER", "FleetKeeper", "Ledger", "records_of"]


# --- The ledger of a fleet: a journal of what is about to be done and of what became of it, on the disk before anything is done.

LEDGER = "ledger"
"""The segment's name."""


class Ledger:
    """One fleet's, written by one controller at a time: it is locked while it is open. The format is the journal's."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @classmethod
    def open(cls, folder: Path, *, clock: Clock | None = None, durable: Durability = "each") -> Self:
        """The ledger in `folder`; one that exists goes on.

        Raises JournalError where another controller has it, where it is damaged in the middle, or the disk is full.
        """
        return cls(Journal.create(folder, LEDGER, durable=durable, clock=clock))

    @property
    def torn(self) -> TornTail | None:
        """What a controller that died had half written, and is cut off: of that nothing had been done."""
        return self._journal.torn

    def write(self, event: LedgerRecord) -> None:
        """On the disk when it returns. Raises JournalError, and then nothing may be done."""
        self._journal.append(event)

    def fleet(self, name: str) -> FleetState:
        """The fleet as the ledger has it."""
        return restored(name, records_of(self._journal.folder))

    def close(self) -> None:
        """Let another controller have it."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def records_of(folder: Path) -> list[LedgerRecord]:
    """All records of a ledger, in order; of one that does not exist none. A torn end is left out. Raises JournalError on damage."""
    if not folder.is_dir():
        return []
    kinds = get_args(LedgerRecord)
    segments = read(folder, LEDGER)
    return [event for segment in segments for event in segment.events if isinstance(event, kinds)]


class FleetKeeper:
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
        self.fleet: FleetState = ledger.fleet(name)
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
        self._happened(SetSize(machines, by))

    def down(self, by: str) -> None:
        """End all now, whatever they do. Raises JournalError."""
        self._happened(Down(by))

    def freeze(self) -> None:
        """Launch nothing from now on, whatever is missing. Raises JournalError."""
        self._happened(Frozen())

    def turn(self) -> float:
        """Look where it is time for it, and do what follows; the seconds until the next turn. Raises JournalError."""
        if self._clock.monotonic() < self._next_look:
            self._happened(FleetTick())
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
            case LedgerNote(event):
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
            return LaunchReply(token, self._provider.launch(token))
        except Unreachable as error:
            return Unsure(error.what)
        except ProviderError as error:
            self.refused = error
            return LaunchRefused(token, error.kind, error.what)

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
        return ProviderListing(machines)
