"""Data sets for training: shuffled batches for any number of ranks, resumed exactly.

`order` is pure; `sources` reads. It knows nothing of tasks, runs and trackers. Imports `base`.
"""

from hooke.data.quality import Quality
from hooke.data.shuffled import Batches, Shuffled

__all__ = ["Batches", "Quality", "Shuffled"]
