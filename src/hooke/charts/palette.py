"""Colours that the colour-blind can tell apart, and that can be seen on white and on near-black alike.

The hues are of Okabe and Ito, "Color Universal Design", 2008. Nothing is told by colour alone: each thing has a shape,
a dash or a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COLOURS", "GREY", "INK", "LAW_ON_EITHER", "SERIES", "SHAPES"]

COLOURS: Mapping[str, str] = {
    "law": "#0072b2",
    "knee": "#d55e00",
    "peak": "#009e73",
    "COST": "#b0568f",
    "plain": "#b0568f",
}
LAW_ON_EITHER = "#2b8ccf"
"""The law's colour where the ground may be dark: a contrast of 3.6 to white, and of 5.2 to near-black."""
INK = "#222222"
"""Points and text on white."""
GREY = "#757575"
"""The ideal line, axes and their numbers: a contrast of 4.6 to white, and of 4.0 to near-black."""
SHAPES: Mapping[str, str] = {"knee": "diamond", "peak": "triangle", "COST": "square"}
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b0568f", "#e69f00", "#56b4e9", "#222222", "#757575")
"""Of lines that are told apart by name; after eight they come again."""
