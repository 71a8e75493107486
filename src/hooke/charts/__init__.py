"""What a fitted law looks like: a picture of plain numbers, and who draws it (a terminal, a page, paper, Plotly).

Beside laws, learning curves and parallel coordinates of plain numbers, for Plotly. Knows what a law and its intervals
are; knows nothing of runs, tasks or journals. SVG and text are drawn here, by NumPy at most; Pillow stays in `pixels`
and Plotly in `interactive`, each imported when it is asked for.
Imports `hooke.base` and `hooke.scaling` only.
"""

from hooke.charts.curve import Curve

__all__ = ["Curve"]
