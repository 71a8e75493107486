"""Places for the conformance suites of stores, with the faults of real ones."""

import itertools
import os
import time
from contextlib import contextmanager
from pathlib import Path

import fsspec

from hooke.base.clock import SystemClock
from hooke.store.backends.memory import MemoryBackend
from hooke.store.claims import MemoryClaims
from hooke.store.pack_file import PackFile
from hooke.store.store import Store, open_place

__all__ = ["DiskPlace", "FolderPlace", "MemoryPlace", "RemotePlace", "age_packs"]

CLOCK = SystemClock()
UNUSED_S = 7200


def store_at(url, near, secret, around, durable="group"):
    """The store at the URL as `Store.open` makes it, its backend wrapped. The secret has 32 bytes."""
    parts = open_place(url, secret=secret, near=near, clock=CLOCK, durable=durable)
    return Store(
        parts.backend if around is None else around(parts.backend),
        claims=parts.claims,
        live=parts.live,
        secret=secret,
        near=near,
        checkpoints=parts.checkpoints,
    )


def flip(data):
    """The data with another bit in the middle."""
    flipped = bytearray(data)
    flipped[len(flipped) // 2] ^= 1
    return bytes(flipped)


def flip_file(path):
    """Flip a bit of the file and set back its modification time. An empty one stays as it is."""
    before = path.stat()
    if before.st_size:
        path.chmod(0o644)
        path.write_bytes(flip(path.read_bytes()))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def age_packs(folder, used):
    """All records in the packs of a store were last used then (seconds since the epoch)."""
    for path in sorted((folder / "packs").glob("*.pack")):
        pack = PackFile(str(path))
        for offset, *_ in pack.walk():
            pack.set_used(offset, int(used))


class FolderPlace:
    """A store in a folder."""

    def __init__(self, folder, secret=None):
        self.folder, self.secret = Path(folder), secret

    def open(self, around=None):
        return store_at(self.folder, self.folder.with_name(f"{self.folder.name}-near"), self.secret, around)

    def names(self):
        return [str(path.relative_to(self.folder)) for path in self._files()]

    def damage(self, name):
        flip_file(self.folder / name)

    def age(self):
        long_ago = time.time() - UNUSED_S
        for path in self._files():
            if path.relative_to(self.folder).parts[0] not in ("claims.lock", "claims", "live"):
                os.utime(path, (long_ago, long_ago))
        age_packs(self.folder, long_ago)

    def _files(self):
        return [path for path in self.folder.rglob("*") if path.is_file()]


class Behind:
    """The machine's clock, some seconds behind."""

    def __init__(self):
        self.behind = 10.0 * UNUSED_S

    def now(self):
        return time.time() - self.behind

    def monotonic(self):
        return time.monotonic() - self.behind


class MemoryPlace:
    """A store in memory."""

    def __init__(self):
        self.clock = Behind()
        self.backend = MemoryBackend(clock=self.clock)
        self.claims, self.live = MemoryClaims(self.clock), MemoryClaims(self.clock)

    def open(self, around=None):
        backend = self.backend if around is None else around(self.backend)
        return Store(backend, claims=self.claims, live=self.live, clock=self.clock)

    def names(self):
        return [stored.name for stored in self.backend.list("")]

    def damage(self, name):
        data = bytes(self.backend.read(name).data)
        if data:
            self.backend.write(lambda sink: (sink.write(flip(data)), name)[1])

    def age(self):
        self.clock.behind -= UNUSED_S


class RemotePlace:
    """A store at a URL. Each that opens it is a host of its own, with copies of its own."""

    def __init__(self, url, folder, secret):
        self.url, self.folder, self.secret, self.count = url, folder, secret, itertools.count()
        self.files, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False)

    def open(self, around=None):
        return store_at(self.url, self.folder / str(next(self.count)), self.secret, around)

    def names(self):
        found = self.files.find(self.root)
        return [path.lstrip("/")[len(self.root.strip("/")) + 1 :] for path in found]

    def damage(self, name):
        data = self.files.cat_file(f"{self.root}/{name}")
        if data:
            self.files.pipe_file(f"{self.root}/{name}", flip(data))
        for copy in self.folder.rglob(name.rpartition("/")[2]):
            flip_file(copy)

    def age(self):
        """It records no uses."""


class DiskPlace:
    """A store on a disk whose power can be cut."""

    def __init__(self, disk):
        self.disk = disk
        self.near = disk.folder.with_name("near")
        self.count = itertools.count()

    def open(self, durable):
        return Store.open(self.disk.folder / "store", near=self.near, durable=durable)

    @contextmanager
    def after_power_loss(self):
        with self.disk.looked_at(self.disk.copy()) as folder:
            near = self.near.with_name(f"near-{next(self.count)}")
            yield Store.open(folder / "store", near=near, durable="none")

    def refuse(self):
        self.disk.break_down()
