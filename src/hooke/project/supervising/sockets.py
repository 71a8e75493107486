"""Unix sockets in a folder, however long its path is."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

__all__ = ["connect_to", "listen_at"]

LONGEST = 100
"""Bytes of a path that every system takes as the address of a socket."""


def listen_at(path: Path) -> socket.socket:
    """A socket at `path`, which replaces what is there. Raises OSError."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _at(path, made.bind)
        made.listen(16)
    except BaseException:
        made.close()
        raise
    return made


def connect_to(path: Path) -> socket.socket:
    """A connection to the socket at `path`. Raises OSError where nobody listens there."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _at(path, made.connect)
    except BaseException:
        made.close()
        raise
    return made


def _at(path: Path, work: Callable[[str], None]) -> None:
    if len(os.fsencode(path)) <= LONGEST:
        work(str(path))
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        work(f"/proc/self/fd/{folder}/{path.name}")  # Linux; elsewhere the system refuses it, and says so
    finally:
        os.close(folder)
