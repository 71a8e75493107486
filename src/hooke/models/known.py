"""The models that a project knows: those that were registered from it, and those that somebody said to trust."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from hooke.base.files import write_atomic

__all__ = ["KnownModels"]


class KnownModels:
    """Digests, each a file in a folder of the project, so that no two processes meet in one. A registry cannot write there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, digest: str) -> bool:
        return bool(re.fullmatch(r"[0-9a-f]{64}", digest)) and (self._folder / digest).is_file()

    def add(self, digest: str, why: str) -> None:
        """Know this model from now on. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._folder / digest, msgspec.json.encode({"why": why}))
