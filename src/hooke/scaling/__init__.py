"""Scaling laws with confidence intervals, as pure mathematics on measurements.

Families, fits, model selection, knee, COST, predicted time and price. It knows nothing of runs and journals, and imports
no clock, thread or socket. Imports `base`.
"""

from hooke.scaling.cost import Cost, cost
from hooke.scaling.diagnostics import Candidate, LackOfFit
from hooke.scaling.law import Law, NextMeasurement, fit, karp_flatt
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
