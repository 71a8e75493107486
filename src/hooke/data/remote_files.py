"""Packed files at a URL: parts of them are fetched by ranged GETs, ahead of their use, into a folder on a local disk."""

from __future__ import annotations

import atexit
import itertools
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.base.files import writing
from hooke.base.formats import format_bytes
from hooke.base.this_process import on_fork
from hooke.data.balance import whole
from hooke.data.cache_folder import CacheFolder, default_cache, default_limit
from hooke.data.next_use import NEVER, FetchOrder, NextFetch
from hooke.data.order import Rows

__all__ = ["RemoteFile", "RemoteObject", "is_url"]


UNIT_BYTES = 2 << 20
"""Of a part that is fetched at once, where all of them fit: a request of 30 ms is as long as so many bytes at 500 Mbit/s."""
MOST_IN_FLIGHT = 32
IN_FLIGHT_BYTES = 32 << 20
"""Of the parts that are fetched at once: this much memory, and as much again while a library puts a part together."""
AHEAD_BYTES = 512 << 20
"""Fetched beyond what the window needs that is being used, or a quarter of the limit, or two more windows where these are larger.

What is fetched earlier takes the place of what is used sooner: later, what the windows in between have used could go.
"""
TAIL_BYTES = 256 << 10
"""Read with one request when a file is opened: the index is at its end."""
PIECE_BYTES = 8 << 20
TRIES = 5
FIRST_PAUSE_S = 0.2
"""Before the second try; then twice as long each time."""
IDLE_S = 2.0
"""A thread without work ends after that."""
POLL_S = 0.01
LOOK_S = 1.0
"""After so long, a process sees again what others have fetched and need."""
LEAST_UNITS = 4
"""Of the largest block: what the limit must have room for."""

_jitter = random.Random()  # noqa: S311 - no secret
"""Not the numbers of the user's program, which draws them in its own order."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(place: Any) -> bool:
    """Whether a place is a URL rather than a path."""
    return isinstance(place, str) and _URL.match(place) is not None


# --- The object.


class RemoteObject:
    """An object at a URL that fsspec knows, of which ranges are read. Requests that fail are made again, a few times.

    Raises UsageError where there is none, it may not be read or its size is not known, MissingExtra without the library, HookeError if it cannot be reached.
    """

    def __init__(self, url: str, *, kind: str = "packed file") -> None:
        """`kind` says what it should be, for messages."""
        self.url, self._kind = url, kind
        self._fs: Any = None
        self._at = ""
        self._one_at_a_time: AbstractContextManager[Any] = nullcontext()
        self.parallel = True
        """Whether several requests may be made at once."""
        facts = self._retried(self._info, "its size")
        self.size, self.stamp = self._size_of(facts), _stamp_of(facts)

    def after_fork(self) -> None:
        """In a child: connections are the parent's."""
        self._fs = None

    def get(self, low: int, high: int, what: str) -> bytes:
        """The bytes [low, high), fewer at the end; `what` they are, for messages."""
        high = min(high, self.size)
        if low >= high:
            return b""

        def part() -> bytes:
            try:
                data: bytes = self._connected().cat_file(self._at, start=low, end=high)
            except OSError as error:
                if "range" in str(error).lower():  # there are no such bytes
                    self.check_same()
                raise
            if len(data) != high - low:
                self.check_same()
                raise OSError(f"{len(data):,} bytes came for the {high - low:,} from byte {low:,} on")
            return data

        return self._retried(part, what)

    def check_same(self) -> None:
        """Raise UsageError if it is another object now, as far as its size, times and ETag tell."""
        facts = self._retried(self._info, "its size")
        if (self._size_of(facts), _stamp_of(facts)) != (self.size, self.stamp):
            raise UsageError(
                f"{self.url} is another object than the one that was opened",
                why="it was written since",
                fix="open it anew, or put the former object back",
            )

    def _size_of(self, facts: dict[str, Any]) -> int:
        if facts.get("size") is None:
            raise UsageError(
                f"the size of {self.url} is not known",
                why="the server does not say it",
                fix="pass a URL whose server sends a Content-Length, or download the file and pass its path",
            )
        return int(facts["size"])

    def _info(self) -> dict[str, Any]:
        found: dict[str, Any] = self._connected().info(self._at)
        if found.get("type") == "directory":
            raise UsageError(f"{self.url} is a folder", fix=f"pass the URL of a {self._kind}")
        return found

    def _connected(self) -> Any:
        if self._fs is None:
            self._fs, self._at = _file_system(self.url)
            self.parallel = bool(self._fs.async_impl)
            if not self.parallel:  # such a client may mix up answers, as that of sftp:// does
                self._one_at_a_time = threading.RLock()
        return self._fs

    def _retried(self, request: Callable[[], Any], what: str) -> Any:
        for number in itertools.count(1):
            try:
                self._connected()
                with self._one_at_a_time:
                    return request()
            except HookeError:
                raise
            except FileNotFoundError as error:
                raise UsageError(
                    f"there is no {self.url}", why=str(error), fix=f"pass the URL of a {self._kind}"
                ) from error
            except Exception as error:  # each library has its own
                refused = isinstance(error, PermissionError) or type(error).__name__.endswith(
                    "CredentialsError"
                )
                if refused or number == TRIES:
                    raise _unread(self.url, what, error, refused=refused, tries=number) from error
                time.sleep(FIRST_PAUSE_S * 2 ** (number - 1) * (0.5 + _jitter.random()))
        raise AssertionError


def _file_system(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        import fsspec

        options: dict[str, Any] = {}
        if protocol in ("s3", "s3a"):
            # By itself the library lets ten requests in flight, and draws from the program's random numbers before it tries again.
            known = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            ours = {"max_pool_connections": MOST_IN_FLIGHT, "retries": {"total_max_attempts": 1}}
            options["config_kwargs"] = ours | known
        fs, at = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        raise MissingExtra(
            f"reading {protocol}:// needs a library", why=str(error), fix=install_command("remote")
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{url} cannot be opened",
            why=str(error),
            fix="pass a URL of a protocol that fsspec knows, such as s3://bucket/data.packed",
        ) from error
    return fs, at


_STAMPS = (
    *("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created", "md5Hash"),
    *("Last-Modified", "Content-MD5", "Digest"),  # http://
    *("blob_id", "sha", "modify", "modificationTime"),  # hf://, github://, ftp://, webhdfs://
)
"""What tells one version of an object from another, by the names of fsspec's file systems."""


def _stamp_of(facts: dict[str, Any]) -> str:
    return "; ".join(f"{name} {facts[name]}" for name in _STAMPS if facts.get(name) is not None)


def _unread(url: str, what: str, error: Exception, *, refused: bool, tries: int) -> HookeError:
    why = f"{type(error).__name__}: {error}"
    if refused:
        return UsageError(
            f"{url} may not be read",
            where=what,
            why=why,
            fix="give this process credentials that may read it, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    return HookeError(
        f"{url} cannot be read",
        where=what,
        why=f"{why}, {tries} times",
        fix="see that this machine reaches the server and that it serves ranges of bytes, then try again (`hooke resume` continues a run)",
    )


# --- Reading.


@dataclass(eq=False, slots=True)
class _Fetch:
    """A unit that is to be fetched, or is being fetched. What came, if somebody waits for it, or what went wrong."""

    unit: int
    urgent: bool = False
    """Somebody waits for it."""
    done: bool = False
    data: bytes | None = None
    error: Exception | None = None


class RemoteFile:
    """The bytes of an object at a URL, for PackedFile. Reads them from copies near, for which `cut` says where they are cut."""

    def __init__(self, url: str, cache: str | os.PathLike[str] | None, cache_bytes: int | None) -> None:
        self.url, self._limit = url, None if cache_bytes is None else whole("cache_bytes", cache_bytes)
        if not (cache is None or (isinstance(cache, str) and cache) or hasattr(cache, "__fspath__")):
            raise UsageError(f"cache is {cache!r}", fix="pass the path of a folder for copies")
        self._root = default_cache() if cache is None else Path(cache).absolute()
        self._object = RemoteObject(url)
        self.size = self._object.size
        self._tail_at = max(0, self.size - TAIL_BYTES)
        self._tail = self._object.get(self._tail_at, self.size, "its end, which has the index")
        self._edges: Rows | None = None
        self._name, self._taken_at_most = "", 0
        self._fetcher: _Fetcher | None = None
        self._lock = threading.Lock()
        on_fork(self)

    def after_fork(self) -> None:
        """In a child: threads, locks and connections are the parent's."""
        self._lock = threading.Lock()
        self._object.after_fork()
        if self._fetcher is not None:
            self._fetcher.after_fork()
        self._fetcher = None

    def cut(self, digest: str, parts: list[Rows]) -> None:
        """Fetch units of whole blocks from now on. `parts` say where the blocks of a part of the file begin, and where the last ends.

        All that fit are large; where not all do, blocks are fetched one by one, the part with fewer bytes last.
        Raises UsageError if the limit is too small for a few units.
        """
        with writing(f"the copies of {self.url}", self._root):
            limit = default_limit(self._root) if self._limit is None else self._limit
        unit = min(UNIT_BYTES, limit // (2 * LEAST_UNITS))
        edges: list[Rows] = []
        left = limit
        for places in sorted(parts, key=lambda each: int(each[-1] - each[0])):
            size = int(places[-1] - places[0])
            fits = size <= left if len(edges) == len(parts) - 1 else 2 * size <= left
            left -= size if fits else 0
            edges.append(_joined(places, unit) if fits else places)
        self._edges = np.unique(np.concatenate(edges))
        largest = int(np.diff(self._edges).max(initial=0))
        if limit < min(LEAST_UNITS * largest, int(self._edges[-1] - self._edges[0])):
            raise UsageError(
                f"cache_bytes is {format_bytes(limit)}, which is too little for {self.url}",
                why=f"its largest block has {format_bytes(largest)}",
                fix=f"pass at least {format_bytes(LEAST_UNITS * largest)}, better as much as the file has: {format_bytes(self.size)}",
            )
        # Processes that cut it in another way have another folder.
        self._name = f"{digest[:32]}-{blake3(self._edges.tobytes()).hexdigest()[:8]}"
        self._taken_at_most = limit

    @property
    def _fetching(self) -> _Fetcher:
        with self._lock:
            if self._fetcher is None:
                assert self._edges is not None
                folder = CacheFolder(self._root, self._name, np.diff(self._edges), self._taken_at_most)
                self._fetcher = _Fetcher(self._object, folder, self._edges)
            return self._fetcher

    def units_of(self, offsets: Rows) -> Rows:
        """The units that have these bytes, each once."""
        return np.unique(self._unit(offsets))

    def _unit(self, offsets: Any) -> Any:
        assert self._edges is not None
        return _unit_of(self._edges, offsets)

    def read(self, offset: int, size: int) -> bytes:
        """See ByteReader."""
        if offset >= self._tail_at:
            return self._tail[offset - self._tail_at :][:size]
        if self._edges is None or not self._edges[0] <= offset < self._edges[-1]:
            high = min(offset + size, self.size)
            pieces = range(offset, high, PIECE_BYTES)
            return b"".join(
                self._object.get(low, min(low + PIECE_BYTES, high), f"the bytes from {low:,} on")
                for low in pieces
            )
        found = bytearray(size)
        return bytes(found[: self.fill(offset, memoryview(found))])

    def fill(self, offset: int, into: memoryview) -> int:
        """See ByteReader. The bytes are those of one block."""
        if not len(into):
            return 0
        unit = int(self._unit(offset))
        assert self._edges is not None
        return self._fetching.read(unit, offset - int(self._edges[unit]), into)

    def expect(self, offsets: Rows) -> None:
        """See ByteReader."""
        self._fetching.expect(self._unit(offsets))

    def renew(self, offset: int) -> bool:
        """See ByteReader. Raises UsageError if the object is another one now."""
        self._object.check_same()
        self._fetching.renew(int(self._unit(offset)))
        return True

    def follow(self, windows: Iterator[Rows], count: int) -> None:
        """Fetch ahead: `windows` are the places of the blocks that each of them needs, of which an epoch has `count`."""
        self._fetching.follow(windows, count)

    def begin(self, units: Rows) -> None:
        """A window begins, that uses these units. Of windows that `follow` knows, the next one."""
        self._fetching.begin(units)


def _unit_of(edges: Rows, offsets: Any) -> Any:
    # An empty block at the end is in no unit; any will do.
    return np.minimum(np.searchsorted(edges, offsets, side="right") - 1, len(edges) - 2)


def _units_of_windows(windows: Iterator[Rows], edges: Rows) -> Iterator[Rows]:
    """The units of each window, each once."""
    for offsets in windows:
        if _ending.is_set():
            return
        yield np.unique(_unit_of(edges, offsets))


def _joined(places: Rows, unit: int) -> Rows:
    """Of the places where blocks begin those that are at least so many bytes apart, and the end."""
    found, at = [0], 0
    while at < len(places) - 1:
        at = max(at + 1, int(np.searchsorted(places, places[at] + unit)))
        found.append(min(at, len(places) - 1))
    return places[found]


_ending = threading.Event()
_fetchers: weakref.WeakSet[_Fetcher] = weakref.WeakSet()


@atexit.register
def _end_threads() -> None:
    """Let no thread be within NumPy while the interpreter ends: that aborts the process."""
    _ending.set()
    for each in list(_fetchers):
        each.end()


class _Fetcher:
    """Threads that fetch units: those that somebody waits for, those that are expected, then those of the windows to come."""

    def __init__(self, source: RemoteObject, folder: CacheFolder, edges: Rows) -> None:
        self._object, self._folder, self._edges = source, folder, edges
        self._state = threading.RLock()
        self._more = threading.Condition(self._state)
        """There is something to fetch, or room."""
        self._landed = threading.Condition(self._state)
        ahead = min(AHEAD_BYTES, folder.limit // 4)
        self._order = FetchOrder(folder.sizes, folder.limit, ahead=ahead, next_uses=folder.next_uses)
        self._fetches: dict[int, _Fetch] = {}
        self._threads = 0
        self._starved = False
        """Whether a thread waits for room."""
        self._others: Rows | None = None
        self._look_at = 0.0
        mean = max(int(folder.sizes.mean()), 1) if len(folder.sizes) else 1
        self._most_threads = max(1, min(MOST_IN_FLIGHT, IN_FLIGHT_BYTES // mean)) if source.parallel else 1
        for unit in folder.held():
            self._order.found(unit, there=True)
        _fetchers.add(self)

    def after_fork(self) -> None:
        """In a child: its locks would be held after the parent's death."""
        self._folder.close()
        _fetchers.discard(self)

    def end(self) -> None:
        """The process ends: from now on, each thread that looks for work waits for the lock."""
        self._state.acquire(timeout=IDLE_S)

    def read(self, unit: int, offset: int, into: memoryview) -> int:
        """Write the bytes of a unit from one of them on into memory; how many."""
        for _ in range(TRIES):
            size = self._folder.read(unit, offset, into)
            if size is None and (data := self._awaited(unit)) is not None:
                size = max(0, min(len(into), len(data) - offset))
                into[:size] = data[offset : offset + size]
            if size is not None:
                with self._state:  # only now: it would give way
                    self._order.uses.use(unit, once=self._order.once)
                    if self._starved:
                        self._more.notify()
                return size
        raise HookeError(
            f"copies of {self._object.url} go as soon as they are there",
            where=str(self._folder.root),
            why="other processes need the room",
            fix="pass a larger cache_bytes, or another folder as cache",
        )

    def _awaited(self, unit: int) -> bytes | None:
        """Fetch a unit: its bytes, or None if another process has fetched it."""
        with self._state:
            if _ending.is_set():
                raise HookeError(f"{self._object.url} is not read any more", why="the program ends")
            self._order.wait_for(unit)
            fetch = self._fetches.setdefault(unit, _Fetch(unit))
            fetch.urgent = True
            self._start()
            self._landed.wait_for(lambda: fetch.done)
        if fetch.error is not None:
            raise fetch.error
        return fetch.data

    def expect(self, units: Rows) -> None:
        """These units are read next, in this order."""
        with self._state:
            missing = units[~self._order.uses.held[units]]
            for unit in dict.fromkeys(missing.tolist()):
                self._order.expect(unit)
            if missing.size:
                self._start()

    def renew(self, unit: int) -> None:
        """Forget the copy of a unit."""
        with self._state:
            self._folder.remove(unit)
            self._order.found(unit, there=False)

    def follow(self, windows: Iterator[Rows], count: int) -> None:
        """See RemoteFile."""
        with self._state:
            self._order.follow(_units_of_windows(windows, self._edges), count)
            self._start()

    def begin(self, units: Rows) -> None:
        """See RemoteFile."""
        with self._state:
            unknown = self._order.begin(units)
            self._folder.now = self._order.uses.now
            for unit in unknown:
                self._order.found(unit, there=self._folder.path(unit).exists())
            self._start()

    # All of the following hold the lock, but for `_work` and `_fetch`.

    def _start(self) -> None:
        while self._threads < self._most_threads:
            self._threads += 1
            threading.Thread(target=self._work, name="hooke-data-fetch", daemon=True).start()
        self._more.notify_all()

    def _work(self) -> None:
        while True:
            with self._state:
                try:
                    fetch = self._next()
                    if fetch is None and not self._more.wait(IDLE_S) and (fetch := self._next()) is None:
                        self._threads -= 1
                        return
                except Exception as error:  # noqa: BLE001 - raised where somebody waits
                    self._threads -= 1
                    self._give_up(error)
                    return
            if fetch is not None:
                self._fetch(*fetch)

    def _give_up(self, error: Exception) -> None:
        for unit in self._order.expected:
            fetch = self._fetches.setdefault(unit, _Fetch(unit))
            fetch.error = error
            self._end(fetch, None, there=False)

    def _next(self) -> tuple[_Fetch, bool] | None:
        """What to fetch now, and whether there is room for it."""
        self._starved = False
        choice = self._order.next()
        if choice is None:
            return None
        room = self._room(choice)  # before it counts as begun, for that may fail
        if not room and not choice.urgent:
            self._starved = True
            return None
        self._order.begun(choice.unit)
        return self._fetches.setdefault(choice.unit, _Fetch(choice.unit)), room

    def _room(self, choice: NextFetch) -> bool:
        """Reserve room for a unit."""
        size = int(self._folder.sizes[choice.unit])
        if self._folder.taken() + size > self._folder.limit:
            self._order.look_ahead()
        self._look()
        return self._folder.reserve(size, lambda: self._order.give_way(choice.before, self._used_by_others))

    def _used_by_others(self, unit: int) -> int:
        return NEVER if self._others is None else self._order.uses.now + int(self._others[unit])

    def _look(self) -> None:
        """See what other processes have fetched and need, at most once a second, and for a twentieth of the time."""
        began = time.monotonic()
        if began < self._look_at:
            return
        alone, self._others = self._others is None, self._folder.used_by_others()
        if not alone:
            self._order.uses.rank_again()
        if self._others is not None:
            for unit in set(self._folder.held()).difference(self._order.pending):
                self._order.found(unit, there=True)
        now = time.monotonic()
        self._look_at = now + max(LOOK_S, 19 * (now - began))

    def _fetch(self, fetch: _Fetch, reserved: bool) -> None:  # noqa: FBT001 - as `_next` returns it
        unit, size = fetch.unit, int(self._folder.sizes[fetch.unit])
        data: bytes | None = None
        there = claimed = False
        try:
            while not (claimed := self._folder.claim(unit)) and fetch.urgent:
                if there := self._folder.path(unit).exists():
                    break
                time.sleep(POLL_S)
            there = there or self._folder.path(unit).exists()
            if claimed and not there:
                low = int(self._edges[unit])
                data = self._object.get(
                    low,
                    low + size,
                    f"block {unit:,} of {len(self._edges) - 1:,}: {format_bytes(size)} from byte {low:,} on",
                )
                if reserved:
                    self._folder.store(unit, data)
                    there, reserved = True, False
        except Exception as error:  # noqa: BLE001 - raised where somebody waits for it
            fetch.error = error
        try:
            if claimed:
                self._folder.end_claim(unit)
            if reserved:
                self._folder.release(size)
        except OSError as error:
            fetch.error = fetch.error or error
        self._end(fetch, data, there=there)

    def _end(self, fetch: _Fetch, data: bytes | None, *, there: bool) -> None:
        with self._state:
            self._fetches.pop(fetch.unit, None)
            self._order.ended(fetch.unit, there=there)
            fetch.data, fetch.done = data if fetch.urgent else None, True
            self._landed.notify_all()
            self._more.notify()
