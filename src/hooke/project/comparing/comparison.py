"""`hooke.compare`: what differs between runs, side by side; what is equal is counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hooke.base.errors import UsageError
from hooke.base.files import write_atomic
from hooke.journal.runs import RunsFolder
from hooke.project.comparing import drawing
from hooke.project.comparing.facts import Facts
from hooke.project.comparing.html import html_table
from hooke.project.comparing.sections import sections_of
from hooke.project.comparing.sides import letters, side_by_side
from hooke.project.table import moment

__all__ = ["Comparison"]


class Comparison:
    """Two runs or more, side by side. `print` shows what differs, a notebook the same as tables."""

    def __init__(self, folder: RunsFolder, runs: Sequence[Facts]) -> None:
        if len(runs) < 2:
            raise UsageError(
                f"there is nothing to compare: {len(runs)} runs", mend="name two or more", next="hooke runs"
            )
        self.runs = [each.run for each in runs]
        self.sections = sections_of(runs)
        self._folder = folder
        self._facts = list(runs)
        self._letters = letters(len(runs))

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<comparison of {', '.join(self.runs)}>"

    def _repr_html_(self) -> str:
        parts = [html_table(("", "run", "pipeline", "status", "started"), self._legend())]
        for section in self.sections:
            if section.differ:
                rows = [(name, *section.cells(name)) for name in section.differ]
                parts.append(html_table((section.title, *self._letters), rows))
        alike = ", ".join(f"{len(each.equal)} of the {each.title}" for each in self.sections if each.equal)
        return f'<div class="hooke-comparison">{"".join(parts)}<div>equal: {alike or "nothing"}</div></div>'

    def text(self, *, width: int | None = None) -> str:
        """In lines of `width` characters: the terminal's own, 80 where there is none."""
        return side_by_side(self._legend(), self.sections, width=width)

    def facts(self) -> dict[str, Any]:
        """Everything as plain values, for JSON: by section what differs, a value a run, and the names of what is equal."""
        sections = {
            each.title: {"differ": {name: list(values) for name, values in each.differ.items()}, "equal": list(each.equal)}
            for each in self.sections
        }  # fmt: skip
        return {"runs": list(self.runs)} | sections

    def learning_curves(self, *metrics: str) -> Any:
        """A `plotly.graph_objects.Figure`: a panel a metric over its steps, a colour a run; by default of those with several values.

        Raises UsageError for a metric that no run logged, MissingExtra where Plotly is not installed.
        """
        return drawing.figure(self._curves(metrics))

    def parallel_coordinates(self, *columns: str, colour: str = "") -> Any:
        """A `plotly.graph_objects.Figure`: a line a run through `columns`, as `params.depth` or `metrics.auc.max`.

        By default the parameters and metrics that differ; `colour` names the column that lines are coloured by, by default the
        last. Raises UsageError for a column that no run has, and where nothing differs; MissingExtra.
        """
        return drawing.figure(drawing.parallel(self._facts, columns or self._columns(), colour))

    def html(self) -> str:
        """A page of its own: tables, learning curves and parallel coordinates; it loads nothing. Raises MissingExtra."""
        specs = []
        if columns := self._columns():
            specs.append(drawing.parallel(self._facts, columns, ""))
        if any(name.endswith((".min", ".max")) for name in self._metrics()):
            specs.append(self._curves(()))
        title = f"{len(self.runs)} runs: {', '.join(self.runs[:4])}"
        return drawing.page(specs, self._repr_html_(), title=title)

    def save(self, path: str | Path) -> Path:
        """Write the page (see `html`) into `path`, which ends with .html. Raises UsageError, MissingExtra, OSError."""
        file = Path(path)
        if file.suffix.lower() != ".html":
            raise UsageError(f"a comparison cannot be saved as {file.name!r}", mend="end the name with .html")
        write_atomic(file, self.html().encode())
        return file

    def _legend(self) -> list[tuple[str, str, str, str, str]]:
        return [
            (
                letter,
                each.run,
                each.row.pipeline,
                each.row.status if each.row.run else "never began",
                moment(each.row.started_at) if each.row.run else "",
            )
            for letter, each in zip(self._letters, self._facts, strict=True)
        ]

    def _curves(self, metrics: Sequence[str]) -> dict[str, Any]:
        return drawing.curves(self._folder, self._facts, self._letters, metrics)

    def _metrics(self) -> list[str]:
        (section,) = [each for each in self.sections if each.title == "metrics"]
        return [*section.differ, *section.equal]

    def _columns(self) -> tuple[str, ...]:
        """What parallel coordinates show by default: parameters, then the last values of metrics."""
        groups = {"parameters": "params", "metrics": "metrics"}
        return tuple(
            f"{groups[each.title]}.{name}"
            for each in self.sections
            if each.title in groups
            for name in each.differ
            if each.title == "parameters" or not name.endswith((".min", ".max"))
        )
