"""How records name values: a reference to an encoded object, and the inputs that a result was made from."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = ["ItemsObserved", "Manifest", "Observed", "Ref"]


class Ref(msgspec.Struct, frozen=True, array_like=True):
    """An encoded object in the store, the one way in which values travel between processes: content digest (64 hex), size in bytes, the bytes themselves when small."""

    digest: str
    size: int
    inline: bytes | None = None


Kind: TypeAlias = Literal["file", "absent", "listing", "tree", "variable"]


class Observed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input that was read: `name` had the content `digest` (hex) then.

    `file`, `absent` (there was none), `listing` (a folder's names) and `tree` (all files directly in a folder) are named by the path
    with "/", relative to the project's folder if below it, else absolute. `variable` is named by the variable; its digest is empty
    if it was not set, and always for a secret. `size`, `mtime_ns` and `ctime_ns` are a file's when it was read: where they are the
    same, it need not be read to be known as unchanged; zeros say nothing.
    """

    kind: Kind
    name: str
    digest: str = ""
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    stats: str = ""
    """Of a tree: the digest of the names, sizes and times of its files. Empty says nothing."""
    own: tuple[str, ...] = ()
    """Of a listing or a tree: the names in it that the attempt itself wrote, which don't count."""


Manifest: TypeAlias = tuple[Observed, ...]
"""All inputs that a result was made from and that its key doesn't have, sorted by kind and name."""


class ItemsObserved(msgspec.Struct, frozen=True, kw_only=True):
    """Items `lo..hi` of an attempt (of a call 0..1) read `inputs`. `unsettled` says why their result must not be reused."""

    lo: int
    hi: int
    inputs: Manifest = ()
    unsettled: str = ""
    wrote: tuple[str, ...] = ()
    """Files that they created or wrote over, named as in Observed, sorted."""
