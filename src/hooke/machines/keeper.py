"""Keeps a fleet at its size: performs the actions of `controller.step`, feeds back the results, and writes the ledger."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, Self, get_args

from hooke.base.background_fsync import Durability
from hooke.base.clock import Clock
from hooke.journal.fleet_events import LaunchFailed, LaunchIntended, LedgerRecord, MachineGone
from hooke.journal.reader import read
from hooke.journal.segments import SUFFIX, TornTail
from hooke.journal.writer import Journal
from hooke.machines import controller
from hooke.machines.provider import NotAllowed, Provider, ProviderError, Unreachable

__all__ = ["LEDGER", "FleetKeeper", "Ledger", "LedgerStore", "cost_usd", "has_ledger", "records_of"]


LEDGER = "ledger"
"""The name of the ledger's journal segment."""


class Ledger:
    """One fleet's ledger: each action is on the disk before it is performed, then its result. One controller at a time has it locked. The format is the journal's."""

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
        """The half-written record of a controller that died, cut off; its action was never performed."""
        return self._journal.torn

    def write(self, event: LedgerRecord) -> None:
        """Write a record to the disk. Raises JournalError, after which nothing may be done."""
        self._journal.append(event)

    def fleet(self, name: str) -> controller.FleetState:
        """The fleet's state according to the ledger."""
        return controller.restored(name, records_of(self._journal.folder))

    def close(self) -> None:
        """Release the ledger for another controller."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def has_ledger(folder: Path) -> bool:
    """Whether there is one, without reading it."""
    return (folder / f"{LEDGER}{SUFFIX}").is_file()


def records_of(folder: Path) -> list[LedgerRecord]:
    """All records of a ledger, in order; none where it does not exist. A torn end is omitted. Raises JournalError on damage."""
    if not has_ledger(folder):
        return []
    kinds = get_args(LedgerRecord)
    segments = read(folder, LEDGER)
    return [event for segment in segments for event in segment.events if isinstance(event, kinds)]


def cost_usd(records: Iterable[LedgerRecord], spans: Sequence[tuple[float, float]]) -> float:
    """What the machines of a ledger have cost in US dollars, each from the request for it until it was known to be gone. Pure.

    Only time within `spans` counts, in seconds since the epoch: those in which somebody could see a machine end. They do not overlap.
    """
    began: dict[str, LaunchIntended] = {}
    usd = 0.0
    for record in records:
        if isinstance(record, LaunchIntended):
            began[record.token] = record
        elif isinstance(record, LaunchFailed):
            began.pop(record.token, None)
        elif isinstance(record, MachineGone) and (launch := began.pop(record.token, None)) is not None:
            usd += launch.usd_per_hour * _seconds_within(spans, launch.at, record.at) / 3600
    return usd + sum(
        each.usd_per_hour * _seconds_within(spans, each.at, math.inf) / 3600 for each in began.values()
    )


def _seconds_within(spans: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    return sum(max(min(end, last) - max(begin, first), 0.0) for first, last in spans)


class LedgerStore(Protocol):
    """Where a fleet's ledger is. A record that `write` has returned for is durable; where it raises JournalError nothing may be done."""

    def write(self, event: LedgerRecord) -> None:
        """Write a record."""

    def fleet(self, name: str) -> controller.FleetState:
        """The fleet's state according to the ledger."""


class FleetKeeper:
    """Keeps one fleet at the wanted size while `turn` is called repeatedly. Not thread-safe.

    `step` is the controller's. After a JournalError the keeper is unusable: what could not be written was not done, and a new keeper starts from the ledger.
    """

    step = staticmethod(controller.step)

    def __init__(
        self,
        name: str,
        provider: Provider,
        ledger: LedgerStore,
        *,
        caps: controller.Caps,
        clock: Clock,
        tell: Callable[[LedgerRecord], None] = lambda _: None,
    ) -> None:
        """`tell` gets each record of the ledger."""
        self.fleet: controller.FleetState = ledger.fleet(name)
        self.trouble = ""
        """Why the last listing failed; empty where it succeeded."""
        self.refused: ProviderError | None = None
        """Why the last launch was refused; None where it succeeded."""
        self.denied: NotAllowed | None = None
        """The right that was lacking in a call since the last listing; None where none was."""
        self._provider = provider
        self._ledger = ledger
        self._caps = caps
        self._clock = clock
        self._tell = tell
        self._next_look = -math.inf  # on the monotonic clock

    def want(self, machines: int, by: str) -> None:
        """Set the wanted number of machines. Raises JournalError."""
        self._fold(controller.SetSize(machines, by))

    def down(self, by: str) -> None:
        """End all machines now, busy or not. Raises JournalError."""
        self._fold(controller.Down(by))

    def freeze(self) -> None:
        """Launch nothing from now on. Raises JournalError."""
        self._fold(controller.Frozen())

    def turn(self) -> float:
        """List the machines if it is time, and act on it; returns the seconds until the next turn. Raises JournalError."""
        if self._clock.monotonic() < self._next_look:
            self._fold(controller.FleetTick())
        else:
            self._fold(self._look())
            self._next_look = self._clock.monotonic() + self._provider.facts.look_s
        return max(self._next_look - self._clock.monotonic(), 0.0)

    def _fold(self, event: controller.Event) -> None:
        events: deque[controller.Event] = deque([event])
        while events:
            self.fleet, actions = self.step(
                self.fleet, events.popleft(), self._clock.now(), caps=self._caps, facts=self._provider.facts
            )
            for action in actions:
                result = self._do(action)
                if result is not None:
                    events.append(result)

    def _do(self, action: controller.Action) -> controller.Event | None:
        match action:
            case controller.LedgerNote(event):
                self._ledger.write(event)
                self._tell(event)
            case controller.Launch(token):
                return self._launch(token)
            case controller.Retire(machine):
                return self._call(lambda: self._provider.retire(machine))
            case controller.Release(machine):
                return self._call(lambda: self._provider.release(machine))
        return None

    def _launch(self, token: str) -> controller.Event:
        self.refused = None
        try:
            return controller.LaunchReply(token, self._provider.launch(token))
        except Unreachable as error:
            return controller.Unsure(error.what)
        except ProviderError as error:
            self.refused = error
            self._denied(error)
            return controller.LaunchRefused(token, error.kind, error.what)

    def _call(self, call: Callable[[], None]) -> controller.Event | None:
        """Call the provider; a failed call is repeated after the next listing."""
        try:
            call()
        except ProviderError as error:
            self._denied(error)
            return controller.Unsure(error.what)
        return None

    def _denied(self, error: ProviderError) -> None:
        if isinstance(error, NotAllowed):
            self.denied = error

    def _look(self) -> controller.Event:
        self.denied = None
        try:
            machines = tuple(self._provider.list())
        except ProviderError as error:
            self.trouble = error.what
            self._denied(error)
            return controller.LookFailed(error.what)
        self.trouble = ""
        return controller.ProviderListing(machines)
