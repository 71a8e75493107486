"""The Pythons of this machine, in which tests install Hooke."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["RUNNING", "VERSIONS", "find_python"]

VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


def find_python(version: str) -> str | None:
    """A Python of this version that makes environments: this one, or one on PATH or among pyenv's or uv's."""
    name = f"python{version}"
    candidates = [sys.executable] if version == RUNNING else []
    candidates += [str(Path(folder, name)) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    for installed in (
        Path.home() / ".pyenv" / "versions",
        Path.home() / ".local" / "share" / "uv" / "python",
    ):
        candidates += [str(path / "bin" / name) for path in sorted(installed.glob(f"*{version}.*"))]
    ask = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for each in candidates:
        if not os.access(each, os.X_OK):
            continue
        # pyenv's shims are on PATH for versions that are not chosen, too, and fail.
        done = subprocess.run([each, "-I", "-c", ask], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return each
    return None
