"""A file as an argument or a result: keyed by its content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hooke.base.errors import InputChanged, UsageError
from hooke.base.files import content_digest
from hooke.base.ref import FileRef
from hooke.keys.fingerprint_parts import Key, combine

__all__ = [
    "File",
    "check_unchanged",
    "content_key",
    "files_keyed",
    "files_loaded",
    "key_of_content",
    "key_of_path",
    "path_within",
    "paths_keyed",
    "reduce_result",
]


_keyed: ContextVar[dict[str, Key] | None] = ContextVar("hooke_files_keyed", default=None)
_loaded: ContextVar[list[File] | None] = ContextVar("hooke_files_loaded", default=None)
_results: ContextVar[dict[str, Key] | None] = ContextVar("hooke_files_of_results", default=None)
_root: ContextVar[Path | None] = ContextVar("hooke_files_root", default=None)


@contextmanager
def files_keyed() -> Iterator[dict[str, Key]]:
    """Collects the files whose keys are computed inside: absolute path -> key."""
    files: dict[str, Key] = {}
    token = _keyed.set(files)
    try:
        yield files
    finally:
        _keyed.reset(token)


def files_loaded(root: Path | None = None) -> AbstractContextManager[list[File]]:
    """Collects the files that are unpickled inside and have a key, those behind paths included: the inputs of an attempt.

    `root` is the project's folder here. An absolute path of a result that was in the project's folder on another host
    or in another checkout is below `root`.
    """
    return _Collecting(root)


class _Collecting:
    """As a class, since a generator for each attempt takes three times as long."""

    __slots__ = ("_root", "_tokens")

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def __enter__(self) -> list[File]:
        files: list[File] = []
        self._tokens = _loaded.set(files), _root.set(self._root)
        return files

    def __exit__(self, *_: object) -> None:
        loaded, root = self._tokens
        _root.reset(root)
        _loaded.reset(loaded)


def check_unchanged(files: Iterable[File]) -> None:
    """Raise InputChanged for a file that has another content than when its key was made. A missing one is its reader's to notice."""
    for file in dict.fromkeys(files):
        if file.key is None:
            continue
        try:
            now = content_key(file.path)
        except OSError:
            continue
        if now != file.key and file.result is not None:
            raise InputChanged(
                f"{file.path} changed while this task used it",
                where=str(file.path.absolute()),
                why="it is a result of another task, and this task's key names the content that it had",
                fix="if the task itself writes to it, write to another path; if something else does, run again",
            )
        if now != file.key:
            raise InputChanged(
                f"{file.path} changed since the run was planned",
                where=str(file.path.absolute()),
                why="the key of this call names the content that the file had then",
                fix="run again: the new content has a key of its own",
            )


class File(os.PathLike[str]):
    """A path whose content, not its name, is part of a task's key. It works wherever a path does.

    A task fails with InputChanged if the content changes between planning and the task's end. In a result, the content
    of a file that the task wrote below the project's folder is stored, and put back where a later task needs it.
    """

    __slots__ = ("key", "path", "result")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.key: Key | None = None
        """The key of its content, as it was last computed; None before."""
        self.result: FileRef | None = None
        """What is stored of it, if it came from a task's result."""

    @classmethod
    def __hooke_text__(cls, text: str) -> File:
        """The file of a path as typed on a command line. Raises ValueError, which says what is wrong."""
        path = os.path.expanduser(text)
        if not os.path.isfile(path):
            raise ValueError(f"the file does not exist in {os.getcwd()}")
        return cls(path)

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
        """The key of the content, read again if size, times or inode change. Raises UsageError."""
        if (known := key_of_path(str(self.path))) is not None:
            return known
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
    """The key of a file's content, read again if size, times or inode change. Raises OSError."""
    return key_of_content(content_digest(path))


def key_of_content(digest: bytes) -> Key:
    """The key of content with this BLAKE3 digest (32 bytes)."""
    return combine("file", digest)


def _load(path: str, key: Key | None) -> File:
    file = File(path)
    file.key = key
    if (files := _loaded.get()) is not None:
        files.append(file)
    return file


# --- Files in results. Stored pickles contain the names and parameters of `_load_file` and `_load_path`: do not change them.


def reduce_result(value: File | Path, stored: FileRef) -> tuple[Any, ...]:
    """The reduction of a file or a path in a result. Loaded, it is a File or a Path again, and noted by `files_loaded`."""
    return (_load_file if isinstance(value, File) else _load_path), (os.fspath(value), stored)


def _load_path(text: str, stored: FileRef) -> Path:
    return _load_file(text, stored).path


def _load_file(text: str, stored: FileRef) -> File:
    root = _root.get()
    file = File(text if root is None or os.path.isabs(stored.path) else _placed(text, stored.path, root))
    file.key, file.result = stored.key, stored
    if (files := _loaded.get()) is not None:
        files.append(file)
    return file


def _placed(text: str, path: str, root: Path) -> str:
    """A result's path here: as the task gave it, where that is the same file of the project, too."""
    return text if path_within(text, root) == path else str(root / path)


def path_within(path: str | os.PathLike[str], root: Path) -> str:
    """The path relative to `root`, with "/", where links on the way lead to a place below it; else empty.

    The last part may be a link: it is what is read and replaced.
    """
    folder, last = os.path.split(os.path.join(os.getcwd(), path))
    if last in ("", ".", ".."):
        return ""
    top = os.path.realpath(root)
    below = os.path.relpath(os.path.join(os.path.realpath(folder), last), top)
    return "" if below.split(os.sep)[0] == ".." else below.replace(os.sep, "/")


@contextmanager
def paths_keyed(files: Iterable[File]) -> Iterator[None]:
    """Inside, the files and paths of results among `files` count by the content that they had, wherever it is now."""
    token = _results.set({str(file.path): file.key for file in files if file.result is not None and file.key})
    try:
        yield
    finally:
        _results.reset(token)


def key_of_path(path: str) -> Key | None:
    """The key of the content of a result at this path, inside `paths_keyed`; None for other paths."""
    keys = _results.get()
    return keys.get(path) if keys is not None else None
