"""Data sets for training: shuffled batches for any number of ranks, resumed exactly.

`order`, `balance` and `next_use` are pure; `sources` reads, `remote_files` over a network. `pack` and `scan` convert files and cut them, `weights` keeps whole files near. It knows nothing of tasks, runs and trackers.
Imports `base` and `keys`.
"""

from hooke.data.balance import Oversampled, Stratified, TokenBuckets, Weighted
from hooke.data.packed import PackedFile
from hooke.data.packing import pack
from hooke.data.quality import Balance, Quality
from hooke.data.scanning import ByteRange, RowGroup, scan
from hooke.data.shuffled import Batches, Shuffled

__all__ = [
    "Balance",
    "Batches",
    "ByteRange",
    "Oversampled",
    "PackedFile",
    "Quality",
    "RowGroup",
    "Shuffled",
    "Stratified",
    "TokenBuckets",
    "Weighted",
    "pack",
    "scan",
]
