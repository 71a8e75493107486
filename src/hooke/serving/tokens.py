"""The secret that who asks a service shows: made once, kept in a file of its owner alone, and read from such files only."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from hooke.base.errors import UsageError
from hooke.base.files import write_all
from hooke.base.refusals import writing

__all__ = ["kept_token", "read_token"]

_SAID = re.compile(r"[A-Za-z0-9._~+/-]{16,4096}=*")
"""What a bearer token may be made of (RFC 6750, b64token), and no short one: it is all that is asked for."""
MAKE = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def kept_token(path: Path) -> str:
    """The token in the file `path`, which is made, with 256 random bits and for its owner alone, where there is none.

    Raises UsageError as `read_token`, and HookeError where it cannot be written.
    """
    if not path.exists():
        with writing("the token of a service", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
    return read_token(path, mend=f"remove {path}: the next start makes another one")


def read_token(path: Path, *, mend: str = "") -> str:
    """The token in a file; `mend` is said where it holds none. Raises UsageError where there is none, where everybody may read it, or where it is too short."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            held = file.read(8192)
    except OSError as error:
        raise UsageError(
            f"the token in {path} cannot be read",
            why=error.strerror or str(error),
            mend=f"make one: (umask 077; {MAKE} > {path})",
        ) from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise UsageError(
            f"the token in {path} is open to every user of this machine",
            why=f"its mode is {stat.S_IMODE(mode):04o}",
            mend=f"chmod 600 {path}, and make another one if somebody may have read it",
        )
    text = held.decode("ascii", "replace").strip()
    if not _SAID.fullmatch(text):
        raise UsageError(
            f"{path} holds no token",
            why=f"a token is one line of at least 16 letters of ASCII, digits and -._~+/ ({len(text)} characters are there)",
            mend=mend or f"make one: (umask 077; {MAKE} > {path})",
        )
    return text


def _make(path: Path) -> None:
    """Whole or absent, and whoever comes second keeps what the first one made."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, secrets.token_urlsafe(32).encode() + b"\n")
        finally:
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
