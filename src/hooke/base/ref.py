"""A reference to an encoded object: the one way in which values travel between processes."""

from __future__ import annotations

import msgspec

__all__ = ["Ref"]


class Ref(msgspec.Struct, frozen=True, array_like=True):
    """An encoded object in the store: content digest (64 hex), size in bytes, the bytes themselves when small."""

    digest: str
    size: int
    inline: bytes | None = None
