"""A law of scaling as a policy reads it: speed-ups of whole numbers of workers, as far as the law supports them."""

from __future__ import annotations

from hooke.base.errors import BeyondTheData
from hooke.fleet.observation import Scaling
from hooke.scaling.law import Law

__all__ = ["scaling_of"]


def scaling_of(law: Law, most: int) -> Scaling:
    """Up to `most` workers, or to the N at which the law ends. The knee only where the measurements determine it."""
    one = law.predict(1)
    speedup, low = [1.0], [one.interval[0] / one.value]
    for n in range(2, most + 1):
        try:
            there = law.predict(n)
        except BeyondTheData:
            break
        speedup.append(there.value / one.value)
        low.append(max(there.interval[0], 0.0) / one.value)
    try:
        knee = law.determined_knee().interval[0]
    except BeyondTheData:
        knee = None
    return Scaling(speedup=tuple(speedup), low=tuple(low), knee=knee, family=law.family)
