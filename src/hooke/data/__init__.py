"""Data sets for training: shuffled batches for any number of ranks, resumed exactly.

`order` is pure; `sources` reads. `pack` and `scan` convert files and cut them. It knows nothing of tasks, runs and trackers. Imports
`base` and `keys`.
"""

from hooke.data.packed import PackedFile
from hooke.data.packing import pack
from hooke.data.quality import Quality
from hooke.data.scanning import ByteRange, RowGroup, scan
from hooke.data.shuffled import Batches, Shuffled

__all__ = ["Batches", "ByteRange", "PackedFile", "Quality", "RowGroup", "Shuffled", "pack", "scan"]
