"""Encodings of Arrow, Polars and pandas data: by types and content, however it is chunked or sliced.

What lies under a null is no content, so each column is its validity and its dense non-null values.
The libraries are never imported: a value of theirs proves that they are.
"""

from __future__ import annotations

from hooke.keys.encoding import Encoder

__all__ = ["frame_encoder"]


def frame_encoder(kind: type) -> Encoder | None:
    return None
