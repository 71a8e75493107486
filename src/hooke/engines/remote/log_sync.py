"""Copies growing files from a host to the driver: logs and what tasks log, where the run's folder is not shared."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from hooke.base.errors import HookeError
from hooke.base.files import writing

__all__ = ["LEFT", "FilePiece", "LogSync", "write_piece"]

PIECE_BYTES = 16 * 1024
"""The most in one message: messages may pass through a scheduler, which keeps the last thousand."""

LARGEST_ARTIFACT = 1 << 20
LARGEST_LOG = 16 << 20
"""Of one worker in one run: as much as the scheduler keeps in all. The rest stays on the host."""

LEFT = "left-behind"
"""Prefix of the logs that list the files left on a host, one log for each host that has some."""

_KINDS = ("logs/*", "artifacts/**/*", "track-*")
"""The files that are copied. Files that a task writes itself lie in another folder."""


class FilePiece(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a file from `start` on; 0 begins a new or replaced file."""

    path: str
    start: int
    data: bytes


@dataclass(slots=True)
class _Sent:
    inode: int
    bytes: int = 0
    left: bool = False


class LogSync:
    """The new bytes of the files below a folder since the last `take`. Safe to use from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sent: dict[str, _Sent] = {}
        self._notes = 0
        self._lock = threading.Lock()

    def take(self) -> list[FilePiece]:
        """The new pieces, in order."""
        with self._lock:
            return [
                piece
                for kind in _KINDS
                for path in sorted(self.folder.glob(kind))
                for piece in self._of(path)
            ]

    def end(self) -> None:
        """Remove the folder, except for files that were not copied."""
        with self._lock:
            left = [name for name, each in self._sent.items() if each.left]
            if not left:
                shutil.rmtree(self.folder, ignore_errors=True)
                return
            for path in sorted(self.folder.rglob("*"), reverse=True):
                name = path.relative_to(self.folder).as_posix()
                if path.is_dir() and not path.is_symlink():
                    if not any(path.iterdir()):
                        path.rmdir()
                elif name not in left:
                    path.unlink(missing_ok=True)

    def _of(self, path: Path) -> Iterator[FilePiece]:
        if path.name.startswith(".") or not path.is_file():
            return
        try:
            with path.open("rb") as file:
                facts = os.fstat(file.fileno())
                name = path.relative_to(self.folder).as_posix()
                sent = self._sent.setdefault(name, _Sent(facts.st_ino))
                if facts.st_ino != sent.inode or facts.st_size < sent.bytes:  # a new file of that name
                    sent = self._sent[name] = _Sent(facts.st_ino)
                if facts.st_size == sent.bytes or sent.left:
                    return
                most = _most(name)
                sent.left = facts.st_size > most
                if not (sent.left and name.startswith("artifacts/")):  # a partial artifact is useless
                    file.seek(sent.bytes)
                    while data := file.read(int(min(PIECE_BYTES, most - sent.bytes))):
                        yield FilePiece(name, sent.bytes, data)
                        sent.bytes += len(data)
                if sent.left:
                    yield self._note(name, most)
        except FileNotFoundError:  # removed meanwhile
            return

    def _note(self, name: str, most: float) -> FilePiece:
        where = os.uname().nodename
        text = f"all of {name}, more than {most / (1 << 20):g} MiB, is on {where} only: {self.folder / name}\n".encode()
        piece = FilePiece(f"logs/{LEFT}-{where}-{self.folder.name}.log", self._notes, text)
        self._notes += len(text)
        return piece


def _most(name: str) -> float:
    if name.startswith("artifacts/"):
        return LARGEST_ARTIFACT
    return LARGEST_LOG if name.startswith("logs/") else math.inf


def write_piece(folder: Path, piece: FilePiece) -> None:
    """Write a piece to its file below `folder`. Raises HookeError for a path outside of it, and where there is no room."""
    path = PurePosixPath(piece.path)
    if path.is_absolute() or ".." in path.parts or piece.start < 0:
        raise HookeError(
            f"a worker sent a piece of the file {piece.path!r}, which is outside the run's folder"
        )
    target = folder / path
    truncate = os.O_TRUNC if piece.start == 0 else 0
    with writing("what a worker printed or logged", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | truncate, 0o644)
        try:
            os.pwrite(fd, piece.data, piece.start)
        finally:
            os.close(fd)
