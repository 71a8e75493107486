"""A file as an argument: keyed by its content."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from blake3 import blake3

from hooke.base.errors import InputChanged, UsageError
from hooke.keys.fingerprint_parts import Key, combine

__all__ = ["File", "check_unchanged", "content_key", "files_keyed", "files_loaded"]

_keyed: ContextVar[dict[str, Key] | None] = ContextVar("hooke_files_keyed", default=None)
_loaded: ContextVar[list[File] | None] = ContextVar("hooke_files_loaded", default=None)


@contextmanager
def files_keyed() -> Iterator[dict[str, Key]]:
    """Collects the files whose keys are computed inside: absolute path -> key."""
    files: dict[str, Key] = {}
    token = _keyed.set(files)
    try:
        yield files
    finally:
        _keyed.reset(token)


@contextmanager
def files_loaded() -> Iterator[list[File]]:
    """Collects the files that are unpickled inside and have a key: the inputs of an attempt."""
    files: list[File] = []
    token = _loaded.set(files)
    try:
        yield files
    finally:
        _loaded.reset(token)


def check_unchanged(files: Iterable[File]) -> None:
    """Raise InputChanged for a file that has another content than when its key was made. A missing one is its reader's to notice."""
    for file in dict.fromkeys(files):
        if file.key is None:
            continue
        try:
            now = content_key(file.path)
        except OSError:
            continue
        if now != file.key:
            raise InputChanged(
                f"{file.path} changed since the run was planned",
                where=str(file.path.absolute()),
                why="the key of this call names the content that the file had then",
                fix="run again: the new content has a key of its own",
            )


class File(os.PathLike[str]):
    """A path whose content, not its name, is part of a task's key. It works wherever a path does.

    A task fails with InputChanged if the content changes between planning and the task's end.
    """

    __slots__ = ("key", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.key: Key | None = None
        """The key of its content, as it was last computed; None before."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (str(self.path), self.key)

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
        self.key = key
        if (files := _keyed.get()) is not None:
            files[str(self.path.absolute())] = key
        return key


def content_key(path: str | os.PathLike[str]) -> Key:
    """The key of a file's content, read again if size, modification time or inode change. Raises OSError."""
    facts = os.stat(path)
    while True:
        key = _content_key(os.path.realpath(path), facts.st_size, facts.st_mtime_ns, facts.st_ino)
        before, facts = facts, os.stat(path)
        if _stamp(before) == _stamp(facts):
            return key
        _content_key.cache_clear()  # it was written to while it was read


def _stamp(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def _load(path: str, key: Key | None) -> File:
    file = File(path)
    file.key = key
    if (files := _loaded.get()) is not None:
        files.append(file)
    return file


@functools.lru_cache(maxsize=4096)
def _content_key(path: str, _size: int, _mtime_ns: int, _inode: int) -> Key:
    hasher = blake3()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return combine("file", hasher.digest())
