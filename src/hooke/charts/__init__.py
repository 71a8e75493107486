"""Figures from plain numbers: terminal, HTML, SVG, PNG, Plotly.

It knows laws; it knows nothing of runs: whoever draws a run hands in numbers. Imports `scaling` and `base`.
"""

from hooke.charts.curve_chart import Curve

__all__ = ["Curve"]
