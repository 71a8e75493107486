"""Which encoder Arrow, Polars and pandas data have. The libraries are never imported: a value proves that they are."""

from __future__ import annotations

from hooke.keys.arrow import ARROW
from hooke.keys.encoding import Encoder
from hooke.keys.pandas_frames import PANDAS
from hooke.keys.polars_frames import POLARS

__all__ = ["frame_encoder"]

_LIBRARIES: dict[str, dict[str, Encoder]] = {"pyarrow": ARROW, "polars": POLARS, "pandas": PANDAS}


def frame_encoder(kind: type) -> Encoder | None:
    """The encoder for instances of this type by the first of its bases that has one; None for other libraries'."""
    for base in kind.__mro__:
        encoders = _LIBRARIES.get(base.__module__.partition(".")[0])
        if encoders is not None and (encoder := encoders.get(base.__name__)) is not None:
            return encoder
    return None
