"""What the disk refuses, said as an error of ours wherever it is met: full, read-only, not allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hooke.base.errors import HookeError

__all__ = ["writing"]


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Raise HookeError, naming `what` and the path, for an OSError inside."""
    try:
        yield
    except OSError as error:
        raise HookeError(
            f"{what} cannot be written",
            where=str(error.filename or path),
            why=f"{type(error).__name__}: {error.strerror or error}",
            mend=f"free some space on the file system of {path}, or make it writable; then try again (`hooke resume` goes on with a run)",
        ) from error
