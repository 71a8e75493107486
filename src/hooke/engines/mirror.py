"""Files that grow on one machine and are to be the same on another: logs and what tasks log, where the run's folder is not shared."""

from __future__ import annotations

import os
import threading
from pathlib import Path, PurePosixPath

import msgspec

from hooke.base.errors import HookeError

__all__ = ["LEFT", "Mirror", "Piece", "write_piece"]

PIECE_BYTES = 16 * 1024
"""What is sent in one message: the messages pass through a scheduler, which keeps the last thousand."""

MOST_PIECES = 64
"""At once; the rest follows with the next look."""

LARGEST_ARTIFACT = 1 << 20

LEFT = "logs/left-behind.log"
"""Says which files stayed where they were made."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a file from `start` on."""

    path: str
    start: int
    data: bytes


class Mirror:
    """What is new in the files below a folder since it was last asked. Safe to use from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sent: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self) -> list[Piece]:
        """What is to be written elsewhere, in order."""
        with self._lock:
            pieces: list[Piece] = []
            for path in sorted(self.folder.rglob("*")):
                if path.name.startswith(".") or not path.is_file():
                    continue
                pieces += self._of_file(path, MOST_PIECES - len(pieces))
                if len(pieces) >= MOST_PIECES:
                    break
            return pieces

    def _of_file(self, path: Path, most: int) -> list[Piece]:
        name = path.relative_to(self.folder).as_posix()
        size, start = path.stat().st_size, self._sent.get(name, 0)
        if size == start:
            return []
        if name.startswith("artifacts/") and size > LARGEST_ARTIFACT:
            self._sent[name] = size
            self._leave(name, size)
            return []
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(most * PIECE_BYTES)
        self._sent[name] = start + len(data)
        return [
            Piece(name, start + at, data[at : at + PIECE_BYTES]) for at in range(0, len(data), PIECE_BYTES)
        ]

    def _leave(self, name: str, size: int) -> None:
        note = self.folder / LEFT
        note.parent.mkdir(exist_ok=True)
        with note.open("a", encoding="utf-8") as file:
            file.write(
                f"{name} ({size} bytes, more than {LARGEST_ARTIFACT}) is on {os.uname().nodename} only: {self.folder}\n"
            )


def write_piece(folder: Path, piece: Piece) -> None:
    """Write a piece to where it belongs below `folder`. Raises HookeError for one that belongs elsewhere."""
    path = PurePosixPath(piece.path)
    if path.is_absolute() or ".." in path.parts or piece.start < 0:
        raise HookeError(
            f"a worker sent a piece of the file {piece.path!r}, which is not below the run's folder"
        )
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(fd, piece.data, piece.start)
    finally:
        os.close(fd)
