"""Packs: many small names of a folder in a few append-only files, one for each process that writes.

A pack is open (a living process holds its lock and appends, or the next one goes on with it) or closed (it has an index on the
disk, and never grows again). Of several records of a name, in whichever packs, the one with the highest sequence number counts.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter

from blake3 import blake3

from hooke.base.files import TICK_NS, FileLock, make_folders, sync_path, write_all
from hooke.base.this_process import on_fork
from hooke.store.backend import Torn
from hooke.store.pack_file import (
    DEAD,
    HIDDEN,
    LIVE,
    NO_ROOM,
    PACKED,
    PackFile,
    PackRecord,
    hash_of,
    is_name,
    packed,
)

__all__ = ["Packs"]

FULL_BYTES = 64 << 20
"""A pack of this size is closed."""

SMALL_BYTES = 128 << 10
"""A new writer goes on with a pack of up to this size, whose records each process reads when it opens the store (1 ms)."""

MERGE_BELOW_BYTES = 16 << 20
"""Larger packs are merged only to free room in them."""

IDLE_S = 24 * 3600.0
"""A pack of another host that was not changed for so long has no writer any more."""

MERGED_BYTES = 128 << 20
"""The most that a merge puts into one pack."""

MOST_PACKS = 32
"""More than this many are merged by the next writer: each costs a lookup a microsecond."""

DECIDING_S = 5.0
"""How long to wait for an eviction's decision about a record; an eviction that was killed never decides."""

JUST_NOW_S = 0.001
"""So long, what a lookup has read counts for the note of its use."""

TOUCH_EVERY_S = 60
"""A use is recorded at most this often for a record: eviction works in hours."""


MOST_ABSENT = 50_000
"""So many names that closed packs lack are remembered: some 8 MB."""


class _Looking(threading.local):
    """Whether a thread is inside of `refreshed`."""

    depth = 0


def _is_small(pack: PackFile, _live: int) -> bool:
    return pack.size < MERGE_BELOW_BYTES


@functools.cache
def _host() -> str:
    return blake3(os.uname().nodename.encode()).hexdigest(4)


class Packs:
    """The packs in a folder, which is made with the first record. Safe to use from all threads and processes at once.

    A file gets `mode`, a folder `folder_mode`, each less the umask. `beside` are the folders of the names that were files
    before there were packs.
    """

    def __init__(self, folder: str, *, beside: str, folder_mode: int) -> None:
        self._folder = folder
        self._beside = beside
        self._folder_mode = folder_mode
        self._packs: dict[str, PackFile] = {}
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """In a child: the parent goes on with its pack, and the child begins one of its own."""
        self._lock = threading.RLock()
        self._looking = _Looking()
        self._last = 0
        self._forget()

    def _forget(self) -> None:
        self._own: PackFile | None = None
        self._packs = {}
        self._open: list[PackFile] = []
        self._growing: list[PackFile] = []
        self._files: frozenset[str] = frozenset()
        self._listed: tuple[int, int] | None = None
        self._settled = False
        self._found: tuple[PackRecord | None, float] = None, 0.0
        self._absent: set[str] = set()
        """Names that no closed pack holds: these never get another record."""

    def close_files(self) -> None:
        """Close the packs that nobody reads any more. They are opened again when needed.

        The own one is left to the next writer if it is small. Else it gets its index here, where its names are known: whoever opens
        it would read all of it for that.
        """
        with self._lock:
            own = self._own
            # Reading the mapped file behind its end would kill the process, so not if something has cut it.
            if own is not None and own.size_there() >= own.end > SMALL_BYTES:
                with suppress(OSError):  # then it has none, and whoever opens it next tries again
                    own.write_index()
            self._forget()

    # -- which packs there are ----------------------------------------------------------------------

    def _refresh(self) -> None:
        """Learn of all that any process wrote until now."""
        try:
            facts = os.stat(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
            return
        key = facts.st_ino, facts.st_mtime_ns
        if key != self._listed or not self._settled:
            # Two changes within a tick of the file system's clock have one time.
            self._settled = time.time_ns() - facts.st_mtime_ns > TICK_NS
            try:
                self._list()
            except FileNotFoundError:  # the whole store is being removed
                self._forget()
                return
            self._listed = key
        for pack in self._growing:
            pack.follow()

    def _list(self) -> None:
        entries = {entry.name: entry.inode() for entry in os.scandir(self._folder)}
        self._files = frozenset(name.removesuffix(".files") for name in entries if name.endswith(".files"))
        known, kept = self._packs, dict[str, PackFile]()
        for name, inode in entries.items():
            if not name.endswith(".pack"):
                continue
            pack = known.get(name)
            indexed = name.removesuffix(".pack") + ".index" in entries
            if pack is not None and pack.inode == inode and (pack.closed or not indexed):
                kept[name] = pack
                continue
            with suppress(FileNotFoundError):  # merged meanwhile
                kept[name] = self._opened(f"{self._folder}/{name}")
        if any(each.closed and known.get(name) is not each for name, each in kept.items()):
            self._absent.clear()
        self._packs = kept
        if self._own is not None and self._own not in kept.values():
            self._own = None
        self._sort()

    def _sort(self) -> None:
        self._open = [each for each in self._packs.values() if not each.closed]
        self._growing = [each for each in self._open if each is not self._own]

    def _opened(self, path: str) -> PackFile:
        """The pack. If its writer has died and left many records, it gets an index, so that this is done once."""
        pack = PackFile(path)
        if pack.closed or pack.end <= SMALL_BYTES or not self._take(pack) or os.path.exists(pack.index_path):
            return pack
        try:
            pack.write_index()
        except OSError as error:
            if error.errno not in (*NO_ROOM, errno.EACCES, errno.EROFS):
                raise
        pack.close()
        return PackFile(path)

    def _take(self, pack: PackFile, *, idle_s: float | None = None) -> bool:
        """Lock a pack that a dead writer of this user has left, and learn of its last records.

        Not every network file system tells this host of the locks of another. So of another's packs none is taken, or only
        those that nobody has changed for `idle_s`.
        """
        local = pack.path.endswith(f"-{_host()}.pack")
        if not local and (idle_s is None or not pack.is_idle(idle_s)):
            return False
        if not pack.writable or not pack.is_ours() or not pack.lock():
            return False
        pack.follow()
        return True

    def may_be_file(self, name: str) -> bool:
        """Whether the name may be that of a file, if no pack held it a moment ago."""
        kind = name.partition("/")[0]
        return self._listed is None or kind in self._files

    # -- reading ---------------------------------------------------------------------------------------

    @contextmanager
    def refreshed(self) -> Iterator[None]:
        """Inside, this thread finds what any process wrote before, without a look at the folder for each name."""
        with self._lock:
            self._refresh()
        self._looking.depth += 1
        try:
            yield
        finally:
            self._looking.depth -= 1

    def lacking(self, names: Sequence[str]) -> list[bool]:
        """Inside of `refreshed`: whether each name has no record, and no file."""
        if not self._looking.depth or self._listed is None:
            return [False] * len(names)
        with self._lock:
            return [
                (name in self._absent or self._find_closed(name) is None)
                and not self._is_in_open(name)
                and not (self._files and self.may_be_file(name))
                for name in names
            ]

    def _is_in_open(self, name: str) -> bool:
        for pack in self._open:  # noqa: SIM110 - any() takes twice as long
            if pack.knows(name):
                return True
        return False

    def find(self, name: str, *, fresh: bool = False) -> PackRecord | None:
        """The newest record of the name that is not removed; with `fresh`, as of now in any case."""
        with self._lock:
            if fresh or not self._looking.depth or self._listed is None:
                self._refresh()
            found = self._find(name)
            self._found = found, time.monotonic()
            return found

    def _find(self, name: str) -> PackRecord | None:
        best = self._find_closed(name) if name not in self._absent else None
        for pack in self._open:
            found = pack.newest(name, -1)
            if found is not None and (best is None or found.order > best.order):
                best = found
        return best

    def _find_closed(self, name: str) -> PackRecord | None:
        best: PackRecord | None = None
        hashed = -1
        for pack in self._packs.values():
            if not pack.closed:
                continue
            hashed = hash_of(name) if hashed < 0 else hashed
            found = pack.newest(name, hashed)
            if found is not None and (best is None or found.order > best.order):
                best = found
        if best is None:
            if len(self._absent) >= MOST_ABSENT:
                self._absent.clear()
            self._absent.add(name)
        return best

    def listed(self, prefix: str) -> Iterator[PackRecord]:
        """The newest record of each name with this prefix, pack by pack, in the order in which they lie there."""
        with self._lock:
            self._refresh()
            packs = list(self._packs.values())
        if prefix.startswith("items/") and prefix.count("/") == 2:
            names = {name for each in packs for name in each.grouped(prefix, hash_of(prefix))}
            found = (self.find(name) for name in sorted(names))
            yield from (record for record in found if record is not None)
            return
        for pack in packs:
            for offset, _end, head, name, sound in pack.confirmed():
                if head is None or head.state == DEAD or not name.startswith(prefix) or not is_name(name):
                    continue
                with self._lock:
                    newest = self._find(name)
                if newest is not None and (newest.pack.salt, newest.offset) == (pack.salt, offset):
                    data = memoryview(b"") if sound else None
                    yield PackRecord(
                        pack, offset, head.state, head.used, head.sequence, name, head.data_bytes, data
                    )

    def about(self) -> int:
        """About how many names there are."""
        with self._lock:
            self._refresh()
            return sum(map(len, self._packs.values()))

    def newest(self, prefixes: tuple[str, ...]) -> Iterator[str]:
        """The names with these prefixes, the last written first."""
        with self._lock:
            self._refresh()
            packs = list(self._packs.values())
        seen: set[tuple[bytes, int]] = set()
        given: set[str] = set()
        count = 128
        while True:
            places = [(pack, offset) for pack in packs for offset in pack.latest(count)]
            records = [
                record
                for pack, offset in places
                if (pack.salt, offset) not in seen and (record := pack.record(offset)) is not None
            ]
            seen.update((pack.salt, offset) for pack, offset in places)
            for record in sorted(records, key=lambda record: record.order, reverse=True):
                if record.state != DEAD and record.name.startswith(prefixes) and record.name not in given:
                    given.add(record.name)
                    if self.find(record.name) is not None:
                        yield record.name
            if all(count >= 2 * len(pack) for pack in packs):
                return
            count *= 8

    def torn(self) -> Iterator[Torn]:
        """All bytes that are no records. An append in progress is none of them."""
        with self._lock:
            self._refresh()
            packs = list(self._packs.values())
        for pack in packs:
            last = 0
            for offset, last, head, name, _sound in pack.confirmed():
                if head is None or not is_name(name):
                    yield Torn(pack.path, offset, last, at_end=False)
            size = pack.size_there()
            if last < size and not FileLock(pack.path).taken():  # else a living process appends to it
                yield Torn(pack.path, last, size, at_end=last >= pack.end)

    def paths(self, names: Sequence[str]) -> Iterator[str | None]:
        """For each name the file of its pack; None if no pack holds it."""
        for name in names:
            record = self.find(name) if name.startswith(PACKED) else None
            yield record.pack.path if record is not None else None

    # -- writing ---------------------------------------------------------------------------------------

    def append(self, records: Sequence[tuple[str, bytes]]) -> PackRecord:
        """Write the records with one append, and return the last of them. Raises OSError; then none of them is there."""
        with self._lock:
            self._refresh()
            own = self._writable()
            used, offset = int(time.time()) + 1, own.end
            places: list[tuple[int, str]] = []
            pieces: list[bytes] = []
            for name, data in records:
                is_new = name in self._absent and not self._is_in_open(name)
                former = None if is_new else self._find(name)
                self._last = max(
                    time.time_ns(), self._last + 1, former.sequence + 1 if former is not None else 0
                )
                pieces.append(packed(own.salt, name, data, sequence=self._last, used=used))
                places.append((offset, name))
                offset += len(pieces[-1])
            own.append(b"".join(pieces))
            for place in places:
                own.learn(*place)
            own.end = own.size = offset
            if own.end >= FULL_BYTES:
                self._retire(own)
            name, data = records[-1]
            return PackRecord(own, places[-1][0], LIVE, used, self._last, name, len(data), memoryview(data))

    def _writable(self) -> PackFile:
        """This process's pack, whose end is that of its file."""
        own = self._own
        if own is not None and not own.cut():
            own = None
        if own is None:
            own = self._begin()
            self._own = own
            self._packs[os.path.basename(own.path)] = own
            self._sort()
        return own

    def _begin(self) -> PackFile:
        """A pack that no living process writes to: one that an earlier writer left, or a new one."""
        self.make()
        if len(self._packs) > MOST_PACKS:
            self._merge_small()
        for pack in list(self._packs.values()):
            if pack.closed:
                continue
            if self._take(pack) and not os.path.exists(pack.index_path) and pack.end <= SMALL_BYTES:
                pack.cut()
                return pack
            pack.unlock()
        return self._new()

    def _new(self) -> PackFile:
        path = f"{self._folder}/{os.urandom(16).hex()}-{_host()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(f"{path}.tmp", flags, self._folder_mode & 0o666)
        try:
            # Before it has its name, so that nobody takes it for one that was left.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(f"{path}.tmp", f"{path}.pack")
        except BaseException:
            os.close(fd)
            raise
        return PackFile(f"{path}.pack", fd=fd)

    def _retire(self, own: PackFile) -> None:
        """Close the own pack, with an index."""
        try:
            own.write_index()
        except OSError as error:
            if error.errno in NO_ROOM:
                return  # the record is there; the next one tries again
            raise
        self._own = None
        self._packs[os.path.basename(own.path)] = PackFile(own.path)
        self._sort()
        self._absent.clear()
        own.close()

    def make(self) -> None:
        """Make the folder. Names that are files until now are looked for as files, too."""
        if os.path.isdir(self._folder):
            return
        make_folders(os.path.dirname(self._folder), self._folder_mode)
        new = f"{self._folder}-{os.urandom(6).hex()}"
        os.mkdir(new, self._folder_mode)
        try:
            kinds = [each for each in ("keys", "items") if os.path.isdir(f"{self._beside}{each}")]
            for name in ("lock", *(f"{kind}.files" for kind in kinds)):
                os.close(
                    os.open(
                        f"{new}/{name}", os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, self._folder_mode & 0o666
                    )
                )
            os.rename(new, self._folder)
        except OSError as error:
            for name in os.listdir(new):
                os.unlink(f"{new}/{name}")
            os.rmdir(new)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                raise

    def expect_files(self, name: str) -> None:
        """From now on, names like this one may be those of files."""
        self.make()
        path = f"{self._folder}/{name.partition('/')[0]}.files"
        if not os.path.exists(path):
            os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, self._folder_mode & 0o666))

    # -- use and removal -------------------------------------------------------------------------------

    @contextmanager
    def locked(self, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Inside, no other process merges packs; with LOCK_EX, none removes a record either. Raises BlockingIOError for LOCK_NB."""
        fd = os.open(
            f"{self._folder}/lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, self._folder_mode & 0o666
        )
        try:
            fcntl.flock(fd, kind)
            yield
        finally:
            os.close(fd)

    def touch(self, name: str, now: float) -> tuple[bool, int | None]:
        """Whether a pack holds the name, and the size of its bytes (None if they are damaged, or are being removed)."""
        if (read := self._read_just_now(name)) is not None and now - read.used < TOUCH_EVERY_S:
            return True, read.size
        deadline = time.monotonic() + DECIDING_S
        fresh = False
        while (record := self.find(name, fresh=fresh)) is not None:
            fresh = True
            pack, offset = record.pack, record.offset
            if pack.is_bad(offset):
                return True, None
            noted = now - record.used < TOUCH_EVERY_S or not pack.writable
            if not noted:
                # First the use, then the look: an eviction hides the record first and then looks for uses.
                pack.set_used(offset, int(now) + 1)
            state = record.state if noted else pack.state(offset)
            if state == HIDDEN:
                if time.monotonic() > deadline:
                    return True, None
                time.sleep(0.001)
            elif state != DEAD and (noted or pack.is_there()):
                return True, record.size
        return False, None

    def _read_just_now(self, name: str) -> PackRecord | None:
        """What the last lookup found, as when a result is found: an eviction that spares what was used lately spares it, too."""
        record, at = self._found
        if record is None or record.name != name or time.monotonic() - at > JUST_NOW_S:
            return None
        return record if record.data is not None and record.state == LIVE else None

    def remove(
        self, name: str, *, unused_since: float | None, before: Callable[[PackRecord], None]
    ) -> bool | None:
        """Remove the name; None if no pack holds it. `before` is called when that is decided. See Backend.remove."""
        if self.find(name, fresh=True) is None:
            return None
        with self.locked(fcntl.LOCK_SH):
            record = self.find(name, fresh=True)
            if record is None:
                return None
            pack, offset = record.pack, record.offset
            if unused_since is not None:
                if pack.used(offset) >= unused_since:
                    return False
                pack.set_state(offset, HIDDEN)
                if pack.used(offset) >= unused_since:
                    pack.set_state(offset, LIVE)
                    return False
            before(record)
            self._kill(record)
        return True

    def kill(self, name: str) -> None:
        """Remove all records of the name; the caller holds the lock."""
        record = self.find(name, fresh=True)
        if record is not None:
            self._kill(record)

    def _kill(self, record: PackRecord) -> None:
        """Remove a record and the older ones of its name, which would count again without it; it goes last."""
        with self._lock:
            hashed = hash_of(record.name)
            for pack in self._packs.values():
                for offset in pack.offsets(record.name, hashed):
                    if (pack.salt, offset) == (record.pack.salt, record.offset):
                        continue
                    other = pack.record(offset)
                    if other is not None and other.order < record.order:
                        pack.set_state(offset, DEAD)
            record.pack.set_state(record.offset, DEAD)

    # -- merging ---------------------------------------------------------------------------------------

    def _merge_small(self) -> None:
        with suppress(BlockingIOError), self.locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._merge(_is_small, most=MERGE_BELOW_BYTES)

    def compact(self, aside: Callable[[Torn], None]) -> None:
        """Free the room of removed records; a pack with less than half of that stays, unless bytes of it are damaged.

        `aside` is called before damaged bytes go. Raises OSError.
        """
        if not os.path.isdir(self._folder):
            return
        with self.locked(), self._lock:
            damaged: set[str] = set()
            for torn in self.torn():
                damaged.add(torn.path)
                if not torn.at_end:
                    aside(torn)
            self._forget()  # and so release the own pack
            self._refresh()
            self._clear_leftovers()
            few = len(self._packs) <= 4

            def chosen(pack: PackFile, live: int) -> bool:
                return pack.path in damaged or 2 * live < pack.size or (not few and live < MERGE_BELOW_BYTES)

            self._merge(chosen)

    def _clear_leftovers(self) -> None:
        """Files of merges and of new packs whose process was killed."""
        for entry in list(os.scandir(self._folder)):
            stem, _, kind = entry.name.rpartition(".")
            with suppress(FileNotFoundError):  # a merge that just ended, or another that clears
                if (kind == "index" and not os.path.exists(f"{self._folder}/{stem}.pack")) or (
                    kind == "tmp" and entry.stat().st_mtime < time.time() - 3600
                ):
                    os.unlink(entry.path)

    def _merge(self, chosen: Callable[[PackFile, int], bool], *, most: int | None = None) -> None:
        """Write the records of chosen packs that nobody writes to into new ones. The caller holds the lock.

        A crash leaves old and new packs with the same records, which count once.
        """
        self._refresh()
        batch: list[tuple[PackFile, list[int]]] = []
        total = 0
        for known in list(self._packs.values()):
            if most is not None and known.size > most:
                continue
            with suppress(FileNotFoundError):
                pack = PackFile(known.path)
                if not self._take(pack, idle_s=IDLE_S):
                    continue
                self._refresh()  # what its writer wrote last counts when records are compared
                offsets, live = self._live(pack)
                if not chosen(pack, live):
                    continue
                if total + live > MERGED_BYTES and batch:
                    self._write_merged(batch)
                    batch.clear()
                    total = 0
                batch.append((pack, offsets))
                total += live
        if batch:
            self._write_merged(batch)
        self._listed = None
        self._refresh()

    def _live(self, pack: PackFile) -> tuple[list[int], int]:
        """Where the records of a pack lie that count, and their bytes."""
        offsets: list[int] = []
        total = 0
        for offset, end, head, name, sound in pack.confirmed():
            # What is hidden was hidden by an eviction that was killed: one at work would hold the lock.
            if head is None or head.state in (DEAD, HIDDEN) or not sound:
                continue
            newest = self._find(name)
            if newest is not None and (newest.pack.salt, newest.offset) == (pack.salt, offset):
                offsets.append(offset)
                total += end - offset
        return offsets, total

    def _write_merged(self, batch: Sequence[tuple[PackFile, list[int]]]) -> None:
        moved: list[tuple[PackFile, int, int, int]] = []
        new: PackFile | None = None
        if any(offsets for _, offsets in batch):
            new, moved = self._copied(batch)
        # What replaces a record that goes must be on the disk before.
        for other in self._packs.values():
            if not other.closed:
                other.sync()
        for pack, _ in batch:
            os.unlink(pack.path)
            with suppress(FileNotFoundError):
                os.unlink(pack.index_path)
        # A use that was noted before its pack lost its name; later ones are noted in the new pack.
        for pack, offset, at, used in moved:
            later = pack.used(offset)
            if new is not None and later > used:
                new.set_used(at, later)
        for pack, _ in batch:
            pack.close()
        if new is not None:
            new.close()

    def _copied(
        self, batch: Sequence[tuple[PackFile, list[int]]]
    ) -> tuple[PackFile, list[tuple[PackFile, int, int, int]]]:
        """A new closed pack with the records of the batch, and each record's (old pack, old offset, offset, use)."""
        salt = os.urandom(16)
        path = f"{self._folder}/{salt.hex()}-{_host()}"
        moved: list[tuple[PackFile, int, int, int]] = []
        fd = os.open(
            f"{path}.tmp", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._folder_mode & 0o666
        )
        try:
            at = 0
            # In their order in time, so that the last of a pack are the newest.
            order = (
                (head.sequence, pack, offset)
                for pack, offsets in batch
                for offset in offsets
                if (head := pack.head(offset))
            )
            places = ((pack, offset) for _, pack, offset in sorted(order, key=itemgetter(0)))
            while block := list(itertools.islice(places, 1024)):
                pieces: list[bytes] = []
                for pack, offset in block:
                    record = pack.record(offset)
                    if record is None or record.data is None:
                        continue
                    pieces.append(
                        packed(salt, record.name, record.data, sequence=record.sequence, used=record.used)
                    )
                    moved.append((pack, offset, at, record.used))
                    at += len(pieces[-1])
                write_all(fd, b"".join(pieces))
            os.fsync(fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(f"{path}.tmp", f"{path}.pack")
        except BaseException:
            os.close(fd)
            with suppress(FileNotFoundError):
                os.unlink(f"{path}.tmp")
            raise
        new = PackFile(f"{path}.pack", fd=fd)
        new.write_index()
        sync_path(self._folder)
        return new, moved
