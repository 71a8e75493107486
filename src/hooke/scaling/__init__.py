"""Scaling laws with confidence intervals, as pure mathematics on measurements.

Families, fits, model selection, knee, COST, predicted time and price. It does not know runs or journals and imports no
clock, thread or socket. May import `base`.
"""

from hooke.scaling.cost import Cost, cost
from hooke.scaling.diagnostics import Candidate, LackOfFit
from hooke.scaling.fitting import fit
from hooke.scaling.law import Law, NextMeasurement, karp_flatt
from hooke.scaling.measurements import Estimate, Measurements

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
