"""What a task read without declaring it: files, folders' listings and environment variables, each with its content's digest."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = ["ItemsObserved", "Manifest", "Observed"]


class Observed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input that was read: `name` had the content `digest` (hex) then.

    `file`, `absent` (there was none), `listing` (a folder's names) and `tree` (all files of a folder) are named by the path with
    "/", relative to the project's folder if below it, else absolute. `variable` is named by the variable; its digest is empty if it was not set.
    `size` and `mtime_ns` are a file's when it was read: where they are the same, it need not be read to be known as unchanged.
    """

    kind: Literal["file", "absent", "listing", "tree", "variable"]
    name: str
    digest: str = ""
    size: int = 0
    mtime_ns: int = 0


Manifest: TypeAlias = tuple[Observed, ...]
"""All inputs that a result was made from and that its key doesn't have, sorted by kind and name."""


class ItemsObserved(msgspec.Struct, frozen=True, kw_only=True):
    """Items `lo..hi` of an attempt (of a call 0..1) read `inputs`. `unsettled` says why their result must not be reused."""

    lo: int
    hi: int
    inputs: Manifest = ()
    unsettled: str = ""
