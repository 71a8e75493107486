"""Laws of scaling: throughput measured at several N in; a law with intervals, and what follows from it, out.

Pure mathematics on NumPy and SciPy. Knows what was measured; knows nothing of tasks, runs or journals, and no clock.
Imports `hooke.base` only.
"""

from hooke.scaling.advice import NextMeasurement
from hooke.scaling.cost import Cost, cost
from hooke.scaling.estimate import Estimate
from hooke.scaling.fitting import fit
from hooke.scaling.lack_of_fit import LackOfFit
from hooke.scaling.law import Law, karp_flatt
from hooke.scaling.measurements import Measurements
from hooke.scaling.selection import Candidate

__all__ = [
    "Candidate",
    "Cost",
    "Estimate",
    "LackOfFit",
    "Law",
    "Measurements",
    "NextMeasurement",
    "cost",
    "fit",
    "karp_flatt",
]
