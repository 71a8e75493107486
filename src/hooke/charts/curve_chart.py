"""A measured curve: the law, what it was fitted to, and every way to look at it."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from hooke.base.errors import BeyondTheData, MissingExtra, UsageError
from hooke.base.files import write_atomic
from hooke.charts import plotly_figure
from hooke.charts.html import html_of, page_of
from hooke.charts.picture import Picture, facts_of, picture_of, table_of
from hooke.charts.renderers import inline_svg, laid_out, png_of, svg_of
from hooke.charts.terminal import Ink, drawn
from hooke.scaling.cost import Cost, cost
from hooke.scaling.fitting import fit
from hooke.scaling.law import Law
from hooke.scaling.measurements import Measurements

__all__ = ["Curve"]

FORMATS = (".svg", ".png", ".html")
DOTS = 96 / 72
"""Pixels a point at scale 1: what screens count by."""


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Curve:
    """Throughput over the number of workers, or of what else N counts, with its law.

    `print` shows table and plot, a notebook the picture, and `save` writes a file. `measured` are measurements, which are
    fitted at once, or a law with its own. `plain_seconds`, one or several, are how long a unit of work took as a plain
    call in one thread: with them there is a COST. `name` says what was measured, `source` where, `unit` what
    throughput counts and `counts` what N does; `notes` are said below every picture.

    Raises NotEnoughData where the measurements do not determine a law (one N only, N changed together with conditions),
    with the N to measure next.
    """

    measurements: Measurements
    law: Law
    cost: Cost | None
    name: str
    source: str
    unit: str
    notes: tuple[str, ...]
    counts: str

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
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)

    @property
    def title(self) -> str:
        """What was measured, and where."""
        return ", ".join(part for part in (self.name, self.source) if part) or "curve"

    def picture(self) -> Picture:
        """What is drawn, as plain numbers."""
        made = picture_of(self.law, title=self.title, unit=self.unit, cost=self.cost, counts=self.counts)
        return replace(made, notes=(*made.notes, *self.notes))

    def plot(self) -> Any:
        """The curve as a `plotly.graph_objects.Figure`. Raises MissingExtra where Plotly is not installed."""
        try:
            return plotly_figure.figure(self.picture())
        except ImportError as error:
            raise _missing(error, "plotly") from error

    def svg(self) -> str:
        """The picture as an SVG file's text, 7.2 inches wide, on white."""
        return svg_of(laid_out(self.picture()))

    def png(self, *, scale: float = 2.0) -> bytes:
        """The picture as a PNG file's bytes, drawn without a browser or a display, at 96 dots an inch times `scale`.

        Raises UsageError for a scale that is out of bounds, MissingExtra where Pillow is not installed.
        """
        if not (math.isfinite(scale) and 0.25 <= scale <= 16):
            raise UsageError(
                f"scale is {scale!r}", fix="a number from 0.25 to 16, such as 2 for sharp screens"
            )
        try:
            return png_of(laid_out(self.picture()), DOTS * scale)
        except ImportError as error:
            raise _missing(error, "Pillow") from error

    def html(self) -> str:
        """A page of its own with the Plotly figure, the table and the notes; it loads nothing. Raises MissingExtra."""
        made = self.picture()
        try:
            below = html_of("", self.law, unit=self.unit, notes=made.notes)
            return page_of([plotly_figure.spec_of(made)], plotly_figure.script(), below, title=made.title)
        except ImportError as error:
            raise _missing(error, "plotly") from error

    def save(self, path: str | Path, *, scale: float = 2.0) -> Path:
        """Write `.svg`, `.png` (see `png`) or `.html` (see `html`), as the path ends; returns the path.

        Raises UsageError for another ending, MissingExtra, OSError.
        """
        file = Path(path)
        match file.suffix.lower():
            case ".svg":
                written = self.svg().encode()
            case ".png":
                written = self.png(scale=scale)
            case ".html":
                written = self.html().encode()
            case _:
                raise UsageError(
                    f"a curve cannot be saved as {file.name!r}",
                    fix=f"end the name with {', '.join(FORMATS)}",
                )
        write_atomic(file, written)
        return file

    def table(self) -> str:
        """N, throughput, speed-up, efficiency and serial fraction, with intervals, as aligned text."""
        return table_of(self.law, self.unit)

    def text(self, *, width: int | None = None, colour: bool = False, plain: bool = False) -> str:
        """Table, plot and notes in lines of `width` characters (the terminal's own); `plain` keeps to ASCII."""
        width = shutil.get_terminal_size().columns if width is None else width
        made = self.picture()
        plot = drawn(made, width=width, ink=Ink(colour=colour, ascii_only=plain))
        notes = "\n".join(textwrap.fill(each, max(width, 40), subsequent_indent="  ") for each in made.notes)
        return f"{made.title}\n\n{self.table()}\n\n{plot}\n\n{notes}"

    def facts(self) -> Mapping[str, Any]:
        """Everything as plain values, for JSON; what is infinite or unknown is None."""
        names = {"name": self.name, "source": self.source, "unit": self.unit, "notes": [*self.notes]}
        return names | facts_of(self.law, self.cost)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Curve({self.title}: {self.law.family}, N = {', '.join(f'{n:g}' for n in self.measurements.levels)})"

    def _repr_html_(self) -> str:
        made = self.picture()
        return html_of(inline_svg(laid_out(made)), self.law, unit=self.unit, notes=made.notes)


def _cost_of(law: Law, plain_seconds: ArrayLike | None) -> tuple[Cost | None, tuple[str, ...]]:
    """COST, or why there is none to be told."""
    if plain_seconds is None:
        return None, ()
    try:
        return cost(law, plain_seconds, work=1.0), ()
    except BeyondTheData as refusal:
        return None, (f"COST not determined: {refusal.what}; {refusal.next}",)


def _missing(error: ImportError, package: str) -> MissingExtra:
    return MissingExtra(
        f"this picture needs {package}, which is not installed",
        why=str(error),
        fix='pip install "hooke[plot]"; save("curve.svg") and print draw without it',
    )
