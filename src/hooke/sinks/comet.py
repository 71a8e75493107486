"""Comet: a run of Hooke is an experiment, and so is an attempt, or an item, that logged something.

Without a key they are archives that Comet's own commands show and upload: each point once, whatever comes twice.
Writing them needs no library of Comet's.
"""

from __future__ import annotations

import logging
from pathlib import Path

from hooke.base.errors import HookeError
from hooke.journal.sink import Batch, Receipt, ShippedRun
from hooke.sinks.comet_archive import Archives

__all__ = ["CometSink"]


class CometSink:
    """Writes archives into `archives`, a folder below the project's.

    A run's archive is written when the run has ended, and when the shipper ends before it: whole, in place of the older one.
    `workspace` is the one of Comet's that they are for; empty is the default of whoever uploads them.
    """

    def __init__(self, folder: Path, *, archives: str = "comet", workspace: str = "") -> None:
        self._archives = Archives(folder / archives, folder / ".hooke" / "comet", workspace=workspace)

    def write(self, batch: Batch) -> Receipt:
        """Put it into the run's draft."""
        return self._archives.add(batch)

    def finish(self, run: ShippedRun) -> None:
        """Write the run's archive."""
        self._archives.finish(run)

    def close(self) -> None:
        """Write the archives of runs that go on, and of those whose shipper was killed. What fails stays a draft, for the next time."""
        for draft in self._archives.unwritten():
            try:
                self._archives.write(draft)
            except HookeError as error:
                logging.getLogger("hooke.ship").log(logging.ERROR, "%s", error)
