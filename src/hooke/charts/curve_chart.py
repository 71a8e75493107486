"""A measured curve: its law, its measurements, and every way to show them."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from hooke.base.errors import BeyondTheData
from hooke.charts import plotly_figure
from hooke.charts.curve_picture import CurvePicture, curve_facts, curve_picture, curve_table
from hooke.charts.curve_sheet import curve_sheet
from hooke.charts.html import curve_html, plotly_page
from hooke.charts.renderers import inline_svg, png_of, save_as, svg_of
from hooke.charts.terminal import Ink, curve_plot
from hooke.scaling.cost import Cost, cost
from hooke.scaling.law import Law, fit
from hooke.scaling.measurements import Measurements

__all__ = ["Curve"]


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Curve:
    """Throughput over the number of workers (or whatever N counts), with its law.

    `print` shows a table and a plot, a notebook shows the figure, and `save` writes a file. `measured` is a law, or
    measurements to fit. `plain_seconds`, one or several, are the seconds a unit of work took as a plain call in one
    thread; they determine COST. `name` says what was measured and `source` where; `unit` is what throughput counts,
    `counts` what N counts. `notes` appear below every figure. N cannot be above `most`, so no larger one is
    advised. `points` says what the points are, where they are not measured but, say, simulated.

    Raises NotEnoughData, with the N to measure next, if the measurements do not determine a law: one N only, or N changed
    together with conditions.
    """

    measurements: Measurements
    law: Law
    cost: Cost | None
    name: str
    source: str
    unit: str
    notes: tuple[str, ...]
    counts: str
    most: float
    points: str

    def __init__(  # noqa: PLR0913 - what is shown of it, each by name
        self,
        measured: Law | Measurements,
        plain_seconds: ArrayLike | None = None,
        *,
        name: str = "",
        source: str = "",
        unit: str = "items",
        notes: Sequence[str] = (),
        counts: str = "workers",
        most: float = math.inf,
        points: str = "measured",
    ) -> None:
        law = fit(measured) if isinstance(measured, Measurements) else measured
        found, refused = _cost_of(law, plain_seconds)
        values: Mapping[str, Any] = {
            "measurements": law.measurements,
            "law": law,
            "cost": found,
            "name": name,
            "source": source,
            "unit": unit,
            "notes": (*refused, *notes),
            "counts": counts,
            "most": most,
            "points": points,
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)

    @property
    def title(self) -> str:
        """What was measured and where."""
        return ", ".join(part for part in (self.name, self.source) if part) or "curve"

    def picture(self) -> CurvePicture:
        """The figure as plain numbers."""
        made = curve_picture(
            self.law, title=self.title, unit=self.unit, cost=self.cost, counts=self.counts, most=self.most
        )
        return replace(made, notes=(*made.notes, *self.notes), points_text=self.points)

    def to_plotly(self) -> Any:
        """The curve as a `plotly.graph_objects.Figure`. Raises MissingExtra if Plotly is not installed."""
        return plotly_figure.curve_figure(self.picture())

    def svg(self) -> str:
        """The text of an SVG file, 7.2 inches wide, on white."""
        return svg_of(curve_sheet(self.picture()))

    def png(self, *, scale: float = 2.0) -> bytes:
        """The bytes of a PNG file, drawn without a browser or a display, with 96 dots an inch times `scale`.

        Raises UsageError for a scale out of bounds, MissingExtra if Pillow is not installed.
        """
        return png_of(curve_sheet(self.picture()), scale=scale)

    def html(self) -> str:
        """A self-contained page with the Plotly figure, the table and the notes. Raises MissingExtra."""
        made = self.picture()
        below = curve_html("", self.law, unit=self.unit, notes=made.notes)
        script = plotly_figure.plotly_script()
        return plotly_page([plotly_figure.curve_spec(made)], script, below, title=made.title)

    def save(self, path: str | Path, *, scale: float = 2.0) -> Path:
        """Write `.svg`, `.png` (see `png`) or `.html` (see `html`), as the path ends; returns the path.

        Raises UsageError for another ending or a missing folder, MissingExtra, OSError.
        """
        makers = {".svg": self.svg, ".png": partial(self.png, scale=scale), ".html": self.html}
        return save_as(path, "a curve", makers)

    def table(self) -> str:
        """N, throughput, speed-up, efficiency and serial fraction, with intervals, as aligned text."""
        return curve_table(self.law, self.unit)

    def text(self, *, width: int | None = None, colour: bool = False, plain: bool = False) -> str:
        """Table, plot and notes in lines of `width` characters (default: the terminal's width); `plain` uses ASCII only."""
        return self.text_with(self.table(), width=width, colour=colour, plain=plain)

    def text_with(
        self, table: str, *, width: int | None = None, colour: bool = False, plain: bool = False
    ) -> str:
        """As `text`, with another table."""
        width = shutil.get_terminal_size().columns if width is None else width
        made = self.picture()
        plot = curve_plot(made, width=width, ink=Ink(colour=colour, ascii_only=plain))
        notes = "\n".join(textwrap.fill(each, max(width, 40), subsequent_indent="  ") for each in made.notes)
        return f"{made.title}\n\n{table}\n\n{plot}\n\n{notes}"

    def facts(self) -> Mapping[str, Any]:
        """Everything as plain values for JSON; infinite and unknown numbers are None."""
        names = {"name": self.name, "source": self.source, "unit": self.unit, "notes": [*self.notes]}
        facts = curve_facts(self.law, self.cost)
        if self.measurements.n[-1] >= self.most:
            facts["next_measurement"] = None
        return names | facts

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Curve({self.title}: {self.law.family}, N = {', '.join(f'{n:g}' for n in self.measurements.levels)})"

    def _repr_html_(self) -> str:
        made = self.picture()
        return curve_html(inline_svg(curve_sheet(made)), self.law, unit=self.unit, notes=made.notes)


def _cost_of(law: Law, plain_seconds: ArrayLike | None) -> tuple[Cost | None, tuple[str, ...]]:
    """COST, or the note that says why it is not determined."""
    if plain_seconds is None:
        return None, ()
    try:
        return cost(law, plain_seconds, work=1.0), ()
    except BeyondTheData as refusal:
        return None, (f"COST not determined: {refusal.what}; {refusal.next}",)
