"""Figures from plain numbers: terminal, HTML, SVG, PNG, Plotly.

It knows scaling laws. It knows nothing of runs: callers pass numbers. Imports `scaling` and `base`.
"""

from hooke.charts.curve_chart import Curve

__all__ = ["Curve"]
