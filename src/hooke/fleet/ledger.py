"""The ledger of a fleet: a journal of what is about to be done and of what became of it, on the disk before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import Self, get_args

from hooke.base.clock import Clock
from hooke.fleet.controller import restored
from hooke.fleet.orders import Fleet
from hooke.journal.fleets import LedgerRecord
from hooke.journal.reader import read
from hooke.journal.segments import TornTail
from hooke.journal.writer import Durability, Journal

__all__ = ["LEDGER", "Ledger", "records_of"]

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

    def fleet(self, name: str) -> Fleet:
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
