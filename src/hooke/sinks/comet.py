"""Comet: a run of Hooke is an experiment, and so is an attempt, or an item, that logged something.

Without a key they are archives that Comet's own commands show and upload: each point once, whatever comes twice. Writing
them needs nothing of Comet's. With a key the service gets it all, at least once.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from hooke.base.errors import ConfigError, HookeError
from hooke.journal.sink import Batch, Receipt, ShippedRun, Sink
from hooke.sinks.comet_archive import Archives

__all__ = ["CometSink"]

VARIABLE = "COMET_API_KEY"


class CometSink:
    """Sends to Comet where COMET_API_KEY is set and `online` is not false; else writes archives into `archives`, a folder of the project.

    `workspace` is the one of Comet's that they are for; empty is the default of whoever uploads them. Raises ConfigError.
    """

    def __init__(
        self, folder: Path, *, archives: str = "comet", workspace: str = "", online: bool | None = None
    ) -> None:
        for name, value in {"archives": archives, "workspace": workspace}.items():
            if not isinstance(value, str):
                raise ConfigError(f"hooke.toml: tracking.comet.{name} = {value!r} must be text")
        if (folder / archives).exists() and not (folder / archives).is_dir():
            raise ConfigError(
                f"hooke.toml: tracking.comet.archives = {archives!r} is no folder", mend="name another"
            )
        if online is not None and not isinstance(online, bool):
            raise ConfigError(f"hooke.toml: tracking.comet.online = {online!r}", mend="write true or false")
        key = os.environ.get(VARIABLE, "")
        if online and not key:
            raise ConfigError(
                "hooke.toml: tracking.comet.online = true",
                why=f"{VARIABLE} is not set",
                mend="set it; or leave online away: then archives are written where there is no key",
            )
        self._way = (
            _service(key, workspace) if key and online is not False else _Offline(folder, archives, workspace)
        )

    def write(self, batch: Batch) -> Receipt:
        """Send it, or put it into the run's draft of an archive."""
        return self._way.write(batch)

    def finish(self, run: ShippedRun) -> None:
        """Say how it ended: then its archive is written."""
        self._way.finish(run)

    def close(self) -> None:
        """Write the archives that are not yet: of runs that go on, and of those whose shipper was killed."""
        self._way.close()


class _Offline:
    """A run's archive is written when the run has ended, or the shipper: whole, in place of the older one."""

    def __init__(self, folder: Path, archives: str, workspace: str) -> None:
        self._archives = Archives(folder / archives, folder / ".hooke" / "comet", workspace=workspace)

    def write(self, batch: Batch) -> Receipt:
        return self._archives.add(batch)

    def finish(self, run: ShippedRun) -> None:
        self._archives.finish(run)

    def close(self) -> None:
        for draft in self._archives.unwritten():
            try:
                self._archives.write(draft)
            except HookeError as error:
                # It stays a draft, for the next shipper; other sinks are to be closed too.
                logging.getLogger("hooke.ship").log(logging.ERROR, "%s", error)


def _service(key: str, workspace: str) -> Sink:
    from hooke.sinks.comet_online import Service

    return Service(key, workspace=workspace)
