"""Keeps a fleet at its size: performs the actions of `controller.step`, feeds back the results, and writes the ledger."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, Self, TypeAlias, get_args

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
_Call: TypeAlias = controller.Launch | controller.Retire | controller.Release


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
        following: controller.Event | None = event
        while following is not None:
            self.fleet, actions = self.step(
                self.fleet, following, self._clock.now(), caps=self._caps, facts=self._provider.facts
            )
            results = [
                result
                for call, answer in self._perform(actions)
                if (result := self._result(call, answer)) is not None
            ]
            following = controller.CallResults(tuple(results)) if results else None

    def _perform(
        self, actions: Iterable[controller.Action]
    ) -> list[tuple[_Call, str | ProviderError | None]]:
        """Write and call in this order, as many calls at once as the provider takes: none begins before the records ahead of it are written."""
        most = self._provider.facts.calls
        pool, slots = ThreadPoolExecutor(most), threading.BoundedSemaphore(most)
        calls: list[tuple[_Call, Future[str | ProviderError | None]]] = []
        try:
            for action in actions:
                if isinstance(action, controller.LedgerNote):
                    self._ledger.write(action.event)
                    self._tell(action.event)
                    continue
                made: Future[str | ProviderError | None] = Future()
                if most == 1:  # in this thread: what a provider starts may be bound to it
                    made.set_result(self._answer(action))
                else:
                    slots.acquire()
                    made = pool.submit(self._answer, action)
                    made.add_done_callback(lambda _: slots.release())
                calls.append((action, made))
            return [(call, each.result()) for call, each in calls]
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, call: _Call) -> str | ProviderError | None:
        """What the provider says to a call: the new machine, nothing, or what went wrong."""
        try:
            match call:
                case controller.Launch(token):
                    return self._provider.launch(token)
                case controller.Retire(machine):
                    self._provider.retire(machine)
                case controller.Release(machine):
                    self._provider.release(machine)
        except ProviderError as error:
            return error
        return None

    def _result(
        self, call: _Call, answer: str | ProviderError | None
    ) -> controller.LaunchReply | controller.LaunchRefused | controller.Unsure | None:
        """What the controller is told of it. A call that failed, and was no launch, is repeated after the next listing."""
        launch = call if isinstance(call, controller.Launch) else None
        if launch is not None:
            self.refused = None
        if isinstance(answer, str) and launch is not None:
            return controller.LaunchReply(launch.token, answer)
        if not isinstance(answer, ProviderError):
            return None
        if launch is None or isinstance(answer, Unreachable):
            self._denied(answer)
            return controller.Unsure(answer.what)
        self.refused = answer
        self._denied(answer)
        return controller.LaunchRefused(launch.token, answer.kind, answer.what)

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
