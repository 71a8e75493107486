"""Data sets for training: shuffled batches for any number of ranks, resumed exactly.

`order` and `balance` are pure; `sources` reads. It knows nothing of tasks, runs and trackers. Imports `base`.
"""

from hooke.data.balance import Oversampled, Stratified, TokenBuckets, Weighted
from hooke.data.quality import Balance, Quality
from hooke.data.shuffled import Batches, Shuffled

__all__ = [
    "Balance",
    "Batches",
    "Oversampled",
    "Quality",
    "Shuffled",
    "Stratified",
    "TokenBuckets",
    "Weighted",
]
