"""A file as an argument: keyed by its content."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from blake3 import blake3

from hooke.base.errors import UsageError
from hooke.keys.fingerprint_parts import Key, combine

__all__ = ["File", "content_key", "files_keyed"]

_keyed: ContextVar[dict[str, Key] | None] = ContextVar("hooke_files_keyed", default=None)


@contextmanager
def files_keyed() -> Iterator[dict[str, Key]]:
    """Collects the files whose keys are computed inside: absolute path -> key."""
    files: dict[str, Key] = {}
    token = _keyed.set(files)
    try:
        yield files
    finally:
        _keyed.reset(token)


class File(os.PathLike[str]):
    """A path whose content, not its name, is part of a task's key. It works wherever a path does."""

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"File({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and self.path == other.path

    def __hash__(self) -> int:
        return hash(("hooke.File", self.path))

    def __hooke_key__(self) -> Key:
        """The key of the content, read again if size, modification time or inode change. Raises UsageError."""
        try:
            key = content_key(self.path)
        except OSError as error:
            raise UsageError(
                f"cannot read {self.path}",
                where=str(self.path.absolute()),
                why=str(error),
                fix="give hooke.File the path of a file that this process can read",
            ) from error
        if (files := _keyed.get()) is not None:
            files[str(self.path.absolute())] = key
        return key


def content_key(path: str | os.PathLike[str]) -> Key:
    """The key of a file's content, read again if size, modification time or inode change. Raises OSError."""
    facts = os.stat(path)
    return _content_key(os.path.realpath(path), facts.st_size, facts.st_mtime_ns, facts.st_ino)


@functools.lru_cache(maxsize=4096)
def _content_key(path: str, _size: int, _mtime_ns: int, _inode: int) -> Key:
    hasher = blake3()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return combine("file", hasher.digest())
