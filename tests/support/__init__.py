"""What only Hooke's own tests use: simulated histories, chaos, hosts that share nothing but TCP, a network proxy.

What makers of plug-ins use is in `hooke.testing`. Imports anything of `hooke`.
"""

import contextlib
import os
from pathlib import Path

__all__ = ["REPOSITORY", "environment", "fill_disk"]

REPOSITORY = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """This process's environment, in which `python -m tests.support.x` is found from any folder."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def fill_disk(ballast: Path, *, leave: int) -> None:
    """Take all room of a disk but so many bytes, with this file on it; to remove the file gives it back."""
    with ballast.open("ab", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        file.truncate(max(0, file.tell() - leave))
