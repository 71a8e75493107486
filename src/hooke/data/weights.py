"""Files that each start of a service needs, such as a model's weights: fetched once for a machine, then read from its disk.

    <cache>/<version>/lock           held by the process that fetches; others wait for it
    <cache>/<version>/partial        what has come so far
    <cache>/<version>/progress       how many bytes of it are on the disk, even after a loss of power
    <cache>/<version>/files/<name>   the whole file, read-only, for all processes

A version is the digest that was asked for, or the URL with what the server says of the object: size, times and ETag. Replicas that map a
file share one copy of it in memory, that of the kernel. What is not used any more stays until somebody removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import make_folders, write_all, writing
from hooke.base.formats import format_bytes
from hooke.data.cache_folder import default_cache
from hooke.data.remote_files import RemoteObject, is_url

__all__ = ["weights"]

PART_BYTES = 8 << 20
"""Of one request."""
AT_ONCE = 8
"""Requests: 64 MiB of memory."""
SYNC_BYTES = 256 << 20
"""After so many the disk has all that came: less would make it wait."""
READ_BYTES = 4 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


def weights(
    place: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Path:
    """The path of a local copy of the file at a URL that fsspec knows (`s3://`, `https://`, ...); a path of a local file is returned as it is.

    The first call on a machine fetches it into the folder `cache`, by default below the user's cache; calls of other processes wait for
    it, and later ones find it. A fetch that was cut goes on where it was. `sha256`, in hexadecimal, is compared with what
    came; with it, a file that is there is found without asking the server. Without it, an object that was written anew is fetched anew.

    Raises UsageError for a missing file, a wrong digest, a server that does not say how long the file is, or one that says neither ETag
    nor time of change where `sha256` is not given; HookeError if the server cannot be reached or the disk is full, and MissingExtra.
    """
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise UsageError(
            f"sha256={sha256!r} is not a SHA-256", fix="pass 64 digits, as `sha256sum FILE` prints them"
        )
    if not is_url(place):
        return _local(Path(place), sha256)
    url = str(place)
    root = (default_cache().parent / "weights") if cache is None else Path(cache).absolute()
    name = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    if sha256 is not None and (found := _found(root / sha256, name)):
        return found
    there = RemoteObject(url, kind="file")
    if sha256 is None and not there.stamp:
        raise UsageError(
            f"nothing tells whether {url} was written anew",
            why="its server sends no ETag and no time of the last change",
            fix="pass its digest: weights(..., sha256=...), 64 digits as `sha256sum FILE` prints them",
        )
    version = sha256 or hashlib.sha256(f"{url}\n{there.size}\n{there.stamp}".encode()).hexdigest()
    folder = root / version
    if found := _found(folder, name):
        return found
    with writing(f"the copy of {url}", folder):
        make_folders(folder, 0o700)
        with _alone(folder / "lock"):
            return _found(folder, name) or _Fetch(there, folder, name, sha256).run()


def _local(path: Path, sha256: str | None) -> Path:
    if not path.is_file():
        raise UsageError(
            f"there is no file {path}",
            fix="pass the path of a file, or a URL such as s3://bucket/model.safetensors",
        )
    if sha256 is not None:
        with path.open("rb") as file:
            _check(str(path), hashlib.file_digest(file, "sha256").hexdigest(), sha256)
    return path


def _found(folder: Path, name: str) -> Path | None:
    path = folder / "files" / name
    return path if path.is_file() else None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # freed with the process, whatever ends it
        yield
    finally:
        os.close(fd)


def _check(place: str, came: str, sha256: str) -> None:
    if came != sha256:
        raise UsageError(
            f"{place} has another digest than was asked for",
            why=f"its SHA-256 is {came}",
            fix=f"see whether it is the right file; then pass this one, or fetch the file anew: it should be {sha256}",
        )


class _Fetch:
    """Fetches one file, alone."""

    def __init__(self, there: RemoteObject, folder: Path, name: str, sha256: str | None) -> None:
        self._there, self._folder, self._name, self._sha256 = there, folder, name, sha256
        self._partial, self._progress = folder / "partial", folder / "progress"
        self._digest = hashlib.sha256()

    def run(self) -> Path:
        """The path of the whole file."""
        fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            done = self._resumed(fd)
            self._check_room(self._there.size - done)
            self._fetch(fd, done)
            os.fsync(fd)
        finally:
            os.close(fd)
        if self._sha256 is not None and self._digest.hexdigest() != self._sha256:
            self._forget()
            _check(self._there.url, self._digest.hexdigest(), self._sha256)
        path = self._folder / "files" / self._name
        make_folders(path.parent, 0o700)
        self._partial.rename(path)
        path.chmod(0o444)  # not before: a part that is read-only could not be opened again
        self._progress.unlink(missing_ok=True)
        return path

    def _resumed(self, fd: int) -> int:
        """How many bytes there are already."""
        done = 0
        with suppress(OSError, ValueError):  # none yet, or a torn number: then it begins anew
            done = int(self._progress.read_text("ascii"))
        done = min(done, os.fstat(fd).st_size, self._there.size)
        os.ftruncate(fd, done)
        for at in range(0, done, READ_BYTES):
            self._digest.update(os.pread(fd, min(READ_BYTES, done - at), at))
        os.lseek(fd, done, os.SEEK_SET)
        return done

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise HookeError(
                f"there is no room for a copy of {self._there.url}",
                where=str(self._folder),
                why=f"{format_bytes(needed)} are needed, and {format_bytes(free)} are free",
                fix="remove what is not used any more in the folder of copies, or pass another one as cache=",
            )

    def _fetch(self, fd: int, done: int) -> None:
        parts = iter(range(done, self._there.size, PART_BYTES))
        synced = done
        with ThreadPoolExecutor(AT_ONCE if self._there.parallel else 1) as threads:
            waiting: list[Future[bytes]] = []
            try:
                while True:
                    while len(waiting) < AT_ONCE and (low := next(parts, None)) is not None:
                        waiting.append(
                            threads.submit(self._there.get, low, low + PART_BYTES, f"bytes from {low:,} on")
                        )
                    if not waiting:
                        break
                    data = waiting.pop(0).result()
                    write_all(fd, data)
                    self._digest.update(data)
                    done += len(data)
                    if done - synced >= SYNC_BYTES:
                        synced = self._keep(fd, done)
            except BaseException:
                for each in waiting:
                    each.cancel()
                self._keep(fd, done)
                raise
        self._there.check_same()

    def _keep(self, fd: int, done: int) -> int:
        """Note how far it is."""
        os.fdatasync(fd)
        new = self._progress.with_suffix(".new")
        new.write_text(str(done), "ascii")
        new.replace(self._progress)
        return done

    def _forget(self) -> None:
        self._partial.unlink()
        self._progress.unlink(missing_ok=True)
