"""The runs of a project as rows, read once each: a list of ten thousand opens at once, and a search looks further while it has time."""

from __future__ import annotations

import functools
import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from hooke.base.errors import HookeError
from hooke.journal.events import RunStarted
from hooke.journal.reader import SegmentReader, first_event
from hooke.journal.run_folders import DRIVER, RunsFolder
from hooke.journal.run_view import RunRow, RunView
from hooke.journal.segments import SUFFIX
from hooke.pages.run_report import RunFollower, kept_report

__all__ = ["SORTS", "STATUSES", "FollowedRuns", "FoundRuns", "PartReader", "RunIndex", "journal_stamp"]

PAGE = 100
"""Runs of a page."""
SEARCH_S = 0.5
"""How long a request looks at runs that were not read yet; the next one goes on from there."""
MOST_FOLLOWED = 4
"""Runs whose whole state is kept."""
LARGE_BYTES = 4 << 20
"""A journal of so many is not read for the list: that takes a tenth of a second."""
NOT_READ = "not read yet"
"""The status of a run with a large journal whose page nobody has opened, or that neither runs nor has an end."""
STATUSES = ("", "running", "finished", "finished with failures", "failed", "stopped", "lost")
SORTS = ("newest", "took", "failed", "pipeline", "status")


class BriefRow(RunRow, frozen=True, kw_only=True):
    """A run of which no counts and no time are known here: they are 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRuns:
    """A page of runs: (name, row, why there is none). `partial` if `looked` of all `total` runs were looked at.

    Of `unread` runs that were looked at a search knows only what their first event says: their journals are large.
    """

    rows: list[tuple[str, RunRow | None, str]]
    found: int
    total: int
    looked: int
    page: int
    pages: int
    unread: int = 0

    @property
    def brief(self) -> set[str]:
        """The runs of this page of which no counts are known."""
        return {name for name, row, _ in self.rows if isinstance(row, BriefRow)}

    @property
    def partial(self) -> bool:
        """Whether more may match."""
        return self.looked < self.total


Fact = TypeVar("Fact")


class PartReader(Generic[Fact]):
    """A fact of each of many journals, read once each and in parts, so that no request takes long. Thread-safe.

    `read(name)` yields None after each part of the work, and the fact in the end. What cannot be read has no fact: the list of
    runs says why.
    """

    def __init__(self, read: Callable[[str], Iterator[Fact | None]]) -> None:
        self._read = read
        self._known: dict[str, tuple[Hashable, Fact | None]] = {}
        self._going: OrderedDict[str, tuple[Hashable, Iterator[Fact | None]]] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, wanted: Iterable[tuple[str, Hashable]], most_s: float) -> tuple[dict[str, Fact], int]:
        """The facts of the wanted names in their order, after reading on for about `most_s`; and how many names are not read yet.

        Each name comes with a stamp: with another one, the journal has changed and is read again.
        """
        with self._lock:
            deadline, left = time.monotonic() + most_s, 0
            found: dict[str, Fact] = {}
            for name, stamp in wanted:
                known = self._known.get(name)
                if known is None or known[0] != stamp:
                    if time.monotonic() > deadline or not self._advance(name, stamp, deadline):
                        left += 1
                        continue
                    known = self._known[name]
                if known[1] is not None:
                    found[name] = known[1]
            return found, left

    def _advance(self, name: str, stamp: Hashable, deadline: float) -> bool:
        """Read on until the deadline; whether the fact, or that there is none, is known."""
        going = self._going.pop(name, None)
        steps = going[1] if going is not None and going[0] == stamp else self._read(name)
        try:
            for fact in steps:
                if fact is not None:
                    self._known[name] = stamp, fact
                    return True
                if time.monotonic() > deadline:
                    self._going[name] = stamp, steps
                    while len(self._going) > MOST_FOLLOWED:
                        self._going.popitem(last=False)
                    return False
        except (HookeError, OSError):
            pass  # it has no fact, as said above
        self._known[name] = stamp, None
        return True


class JournalFollower(Protocol):
    """What reads a growing journal."""

    def close(self) -> None:
        """Close the file; the next read opens it again."""


Follower = TypeVar("Follower", bound=JournalFollower)


class FollowedRuns(Generic[Follower]):
    """Followers of the runs that were opened last. Thread-safe."""

    def __init__(self, make: Callable[[str], Follower]) -> None:
        self._make = make
        self._followed: OrderedDict[str, tuple[threading.Lock, Follower]] = OrderedDict()
        self._lock = threading.Lock()

    def follower(self, run: str) -> tuple[threading.Lock, Follower]:
        """A run's follower, and the lock to hold while it is used."""
        with self._lock:
            if run not in self._followed:
                self._followed[run] = threading.Lock(), self._make(run)
            self._followed.move_to_end(run)
            gone = [self._followed.popitem(last=False)[1] for _ in range(len(self._followed) - MOST_FOLLOWED)]
            found = self._followed[run]
        for lock, follower in gone:
            with lock:
                follower.close()
        return found

    def forget(self, run: str) -> None:
        """Close the run's follower, and give back its memory."""
        with self._lock:
            known = self._followed.pop(run, None)
        if known is not None:
            with known[0]:
                known[1].close()
            del known
            gc.collect()  # nodes and tasks of a run know one another, and a later request would wait for this


class RunIndex:
    """Rows of runs, each read again when its journal has grown; and followers of the runs that were opened last. Thread-safe."""

    def __init__(self, runs: RunsFolder) -> None:
        self.runs = runs
        self._rows: dict[str, tuple[tuple[int, bool], RunRow | None, str]] = {}
        self._followed = FollowedRuns(functools.partial(RunFollower, runs))

    def page(self, *, query: str = "", status: str = "", sort: str = "newest", page: int = 1) -> FoundRuns:
        """The runs whose names, pipelines, parameters and tags have all words of `query`, in the order of `sort`."""
        names = self.runs.names()
        everything = not (query or status) and sort == "newest"
        if everything:
            pages = max(-(-len(names) // PAGE), 1)
            page = min(max(page, 1), pages)
            shown = names[(page - 1) * PAGE : page * PAGE]
            rows = [self._row(name) for name in shown]
            return FoundRuns(
                rows=rows, found=len(names), total=len(names), looked=len(names), page=page, pages=pages
            )
        deadline, looked, unread = time.monotonic() + SEARCH_S, 0, 0
        found: list[tuple[str, RunRow | None, str]] = []
        words = query.lower().split()
        for name in names:
            if name not in self._rows and time.monotonic() > deadline:
                continue
            looked += 1
            each = self._row(name)
            unread += each[1] is not None and each[1].status == NOT_READ
            if _matches(each, words, status):
                found.append(each)
        found.sort(key=lambda each: _order(each[1], sort))
        pages = max(-(-len(found) // PAGE), 1)
        page = min(max(page, 1), pages)
        rows = found[(page - 1) * PAGE : page * PAGE]
        return FoundRuns(
            rows=rows,
            found=len(found),
            total=len(names),
            looked=looked,
            page=page,
            pages=pages,
            unread=unread,
        )

    def state(self) -> object:
        """Differs when a run has begun, gone on or ended, and while a search has more to look at."""
        names = self.runs.names()
        return len(names), len(self._rows), [(name, journal_stamp(self.runs, name)) for name in names[:PAGE]]

    def has(self, run: str) -> bool:
        """Whether the project has this run."""
        if run in ("", ".", "..") or set("/\\\0") & set(run):
            return False
        try:
            return self.runs.folder(run).is_dir()
        except OSError:  # no file has so long a name
            return False

    def follower(self, run: str) -> tuple[threading.Lock, RunFollower]:
        """A run's follower, and the lock to hold while it is used."""
        return self._followed.follower(run)

    def forget(self, run: str) -> None:
        """Close the run's follower, and give back its memory."""
        self._followed.forget(run)

    def _row(self, name: str) -> tuple[str, RunRow | None, str]:
        stamp = journal_stamp(self.runs, name)
        known = self._rows.get(name)
        unread = known is not None and known[1] is not None and known[1].status == NOT_READ
        if known is not None and known[0] == stamp and not stamp[1] and not unread:
            return name, known[1], known[2]
        row, trouble = None, ""
        try:
            there = self.runs.elsewhere(name)
            if there is not None:
                row = _brief(name, there.pipeline, "in the cluster", there.started_at, place=there.place)
            elif stamp[0] > LARGE_BYTES:
                row = self._row_of_large(name, alive=stamp[1])
            else:
                row = self._row_of(name, alive=stamp[1])
        except (HookeError, OSError) as error:
            trouble = error.what if isinstance(error, HookeError) else str(error)
        self._rows[name] = stamp, row, trouble
        return name, row, trouble

    def _row_of(self, name: str, *, alive: bool) -> RunRow:
        file = self.runs.folder(name) / f"{DRIVER}{SUFFIX}"
        if not file.exists():
            return _brief(name, "", "new", 0.0)
        with SegmentReader(file) as reader:
            view = RunView.fold(reader)
        view.driver_alive(
            alive, self.runs.last_written(name) if view.begun and view.begun.kind == "script" else 0.0
        )
        return view.row(time.time())

    def _row_of_large(self, name: str, *, alive: bool) -> RunRow:
        """From the report that opening its page has left, else from its first event: the whole would take seconds."""
        folder = self.runs.folder(name)
        kept = kept_report(folder, time.time())
        if kept is not None:
            return kept.row
        begun = first_event(folder, DRIVER)
        status = "running" if alive else NOT_READ
        if not isinstance(begun, RunStarted):
            return _brief(name, "", status, 0.0)
        return _brief(name, begun.pipeline, status, begun.at, place=begun.place, shown=begun.shown)


def journal_stamp(runs: RunsFolder, name: str) -> tuple[int, bool]:
    """The size of a run's journal, -1 for none that can be read, and whether a process drives the run now."""
    file = runs.folder(name) / f"{DRIVER}{SUFFIX}"
    try:
        return file.stat().st_size, runs.alive(name)
    except OSError:
        return -1, False


def _brief(
    name: str,
    pipeline: str,
    status: str,
    started_at: float,
    *,
    place: str = "",
    shown: dict[str, str] | None = None,
) -> BriefRow:
    return BriefRow(
        run=name, pipeline=pipeline, entry="", status=status, place=place, parameters=shown or {}, started_at=started_at,
        seconds=0.0, items=0, waiting=0, running=0, cached=0, done=0, failed=0, workers=0, busy=0, slots=0, peak_bytes=None,
        remaining=None, message="", resumed=0,
    )  # fmt: skip


def _matches(each: tuple[str, RunRow | None, str], words: list[str], status: str) -> bool:
    name, row, _ = each
    if row is None:
        return not status and all(word in name.lower() for word in words)
    pairs = " ".join(f"{key}={value}" for key, value in (row.parameters | row.tags).items())
    text = f"{name} {row.pipeline} {pairs}".lower()
    return status in ("", row.status) and all(word in text for word in words)


def _order(row: RunRow | None, sort: str) -> tuple[float, str]:
    """Descending by numbers, ascending by text; equal ones stay in their order, the newest first."""
    if row is None:
        return 1.0, ""
    number = {"took": row.seconds, "failed": float(row.failed)}.get(sort, 0.0)
    return -number, {"pipeline": row.pipeline, "status": row.status}.get(sort, "")
