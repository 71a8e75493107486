"""Figures from plain numbers: terminal, HTML, SVG, PNG, Plotly.

It knows scaling laws but not runs; callers pass numbers. May import `scaling` and `base`.
"""

from hooke.charts.curve_chart import Curve

__all__ = ["Curve"]
