"""The folders of a project's runs: `<path>/<run id>/{driver.journal, *.journal, logs/, driver.lock, stop}`."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from hooke.base.background_fsync import sync_files
from hooke.base.errors import JournalError, UsageError
from hooke.base.files import FileLock, write_atomic
from hooke.journal.events import Event
from hooke.journal.reader import read
from hooke.journal.segments import segment_files

__all__ = ["DRIVER", "LOCK", "RunsFolder"]

DRIVER = "driver"
"""The segment of the process that drives the run."""
LOCK = "driver.lock"
STOP = "stop"
MOST_NAMED = 10
"""How many run ids an error lists."""


class RunsFolder:
    """All runs below `path`, which need not exist yet. Each folder in it is a run; its name is the run's id."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def names(self) -> list[str]:
        """Run ids, the newest first (by the time in the id, then by when the folder last changed)."""
        try:
            with os.scandir(self.path) as entries:
                found = [(entry.name, entry.stat().st_mtime_ns) for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []
        return [name for name, _ in sorted(found, key=lambda run: (_time_in(run[0]), run[1]), reverse=True)]

    def folder(self, run: str) -> Path:
        """The run's folder, whether or not it exists."""
        return self.path / run

    def events(self, run: str, segment: str | None = DRIVER) -> list[Event]:
        """The events of one segment of the run, in order; of all segments, the driver's first, for None. Raises JournalError."""
        return [event for each in read(self.folder(run), segment) for event in each.events]

    def create(self, run: str) -> Path:
        """The run's folder, created with `logs` if it does not exist. Raises OSError."""
        folder = self.folder(run)
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        return folder

    def sync(self, run: str) -> None:
        """Return when the segments of the run's workers are on the disk: they may have ended before they synced them.

        The driver's own writer syncs the driver's. Raises JournalError.
        """
        files = segment_files(self.folder(run))
        try:
            sync_files(file for file in files if file.stem != DRIVER)
        except OSError as error:
            raise JournalError(
                "the run's journals are written, but the disk did not confirm them",
                where=str(self.folder(run)),
                why=str(error),
                fix="check the disk (dmesg); the latest events may be lost if the machine goes down",
            ) from error

    def find(self, prefix: str = "") -> str:
        """The run whose id is `prefix` or begins with it; the newest run for an empty prefix.

        Raises UsageError, with candidates, if no run or more than one matches.
        """
        names = self.names()
        if not names:
            raise UsageError("there are no runs yet", where=str(self.path), next="hooke run FILE.py")
        if not prefix or prefix in names:
            return prefix or names[0]
        fitting = [name for name in names if name.startswith(prefix)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            what, listed = f"{len(fitting)} runs begin with {prefix!r}", fitting
        else:
            what = f"no run begins with {prefix!r}"
            listed = get_close_matches(prefix, names, MOST_NAMED, 0.5) or names
        raise UsageError(what, where=str(self.path), fix=f"name one of: {_some(listed)}", next="hooke runs")

    def alive(self, run: str) -> bool:
        """Whether a process drives the run now: it holds the lock on `driver.lock`."""
        return FileLock(self.folder(run) / LOCK).taken()

    def last_written(self, run: str) -> float:
        """When a segment of the run was last written, in seconds since the epoch; 0 if there is none."""
        return max((file.stat().st_mtime for file in segment_files(self.folder(run))), default=0.0)

    def request_stop(self, run: str, by: str) -> None:
        """Ask the run's driver to stop; it checks for the request between events. `by` goes into the journal.

        Raises UsageError if the run does not exist.
        """
        try:
            write_atomic(self.folder(run) / STOP, by.encode())
        except FileNotFoundError as error:
            raise UsageError(f"there is no run {run!r}", where=str(self.path), next="hooke runs") from error

    def stop_requested(self, run: str) -> str | None:
        """The `by` of a stop request; None if there is none."""
        try:
            return (self.folder(run) / STOP).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def clear_stop(self, run: str) -> None:
        """Remove a stop request, before the run is resumed."""
        (self.folder(run) / STOP).unlink(missing_ok=True)


def _time_in(name: str) -> tuple[str, ...]:
    """The `20261125-004622` of `delays-20261125-004622-x7k2`; empty for other names, which sort last."""
    parts = name.split("-")[-3:-1]
    return tuple(parts) if len(parts) == 2 and all(part.isdigit() for part in parts) else ()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
