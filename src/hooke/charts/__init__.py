"""What a fitted law looks like: a picture of plain numbers, and who draws it (a terminal, a page, paper, Plotly).

Knows what a law and its intervals are; knows nothing of runs, tasks or journals. SVG, PNG and text are drawn here, by
NumPy at most; Plotly stays in `interactive`, and is imported when a figure is asked for.
Imports `hooke.base` and `hooke.scaling` only.
"""

from hooke.charts.curve import Curve

__all__ = ["Curve"]
