"""`Comparison`, the result of `hooke.compare()`: differences of runs side by side, and names of what is equal."""

from __future__ import annotations

import shutil
import string
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from hooke.base.errors import UsageError
from hooke.base.files import write_atomic
from hooke.base.formats import aligned, format_bytes, format_seconds
from hooke.base.table import html_table
from hooke.comparing import drawing
from hooke.comparing.facts import RunFacts
from hooke.comparing.query import WHICH, NameGroup, is_system, number
from hooke.journal.run_folders import RunsFolder
from hooke.journal.run_view import moment

__all__ = ["Comparison", "Section", "columns_of", "conditions_of", "letters", "sections_of", "side_by_side"]


# --- Differences by kind, as plain values.

_Values = Sequence[Any]
"""One value per run; None if the run has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One kind of fact: name -> values that differ, one per run (None if it has none); and name -> the value that all runs have."""

    title: str
    differ: Mapping[str, Sequence[Any]]
    equal: Mapping[str, Any]

    def rows(self, runs: int) -> Iterator[tuple[str, list[str], bool]]:
        """Each name, its cells for so many runs, and whether they differ; those that do come first."""
        for name in self.differ:
            yield name, self.cells(name), True
        for name, value in self.equal.items():
            yield name, [_short(value)] * runs, False

    def cells(self, name: str) -> list[str]:
        """A row that differs as text: numbers with six digits, or with all digits if six are not enough to see the difference."""
        values = self.differ[name]
        texts = ["-" if value is None else _short(value) for value in values]
        if len(set(texts)) < 2:
            texts = ["-" if value is None else str(value) for value in values]
        return texts


def sections_of(runs: Sequence[RunFacts], *, artifacts: bool = True) -> list[Section]:
    """Parameters, metrics, tags, artifacts, durations and code. Reads artifacts whose sizes are equal, unless they are left out."""
    return [
        _section("parameters", _notes(runs, "params")),
        _section("metrics", _metrics(runs)),
        _section("tags", _notes(runs, "tags")),
        *([_section("artifacts", _artifacts(runs))] if artifacts else []),
        _section("durations", _durations(runs)),
        _section("code", _code(runs)),
    ]


def conditions_of(runs: Sequence[RunFacts]) -> Section:
    """Under which conditions each ran: the backend, host, commit, environment and hardware."""
    names = dict.fromkeys(name for each in runs for name in each.conditions)
    return _section("conditions", {name: [each.conditions.get(name) for each in runs] for name in names})


def columns_of(sections: Sequence[Section]) -> tuple[str, ...]:
    """The default columns of parallel coordinates: parameters, then last values of metrics, that differ."""
    groups = {"parameters": "params", "metrics": "metrics"}
    return tuple(
        f"{groups[each.title]}.{name}"
        for each in sections
        if each.title in groups
        for name in each.differ
        if each.title == "parameters" or not name.endswith((".min", ".max"))
    )


def _section(title: str, rows: Mapping[str, _Values]) -> Section:
    # Compared as text, because `nan` does not equal `nan`.
    equal = {name for name, values in rows.items() if len({repr(value) for value in values}) == 1}
    differ = {name: values for name, values in rows.items() if name not in equal}
    return Section(title=title, differ=differ, equal={name: rows[name][0] for name in rows if name in equal})


def _short(value: Any) -> str:
    if isinstance(value, str) and not value.lstrip("-").isdigit() and (found := number(value)) is not None:
        return f"{found:.6g}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _notes(runs: Sequence[RunFacts], group: str) -> dict[str, _Values]:
    names = NameGroup(group, runs)
    return {
        names.shown(name): [
            None if (values := getattr(each, group).get(name)) is None else ", ".join(values) for each in runs
        ]
        for name in names.all()
    }


def _metrics(runs: Sequence[RunFacts]) -> dict[str, _Values]:
    names = NameGroup("metrics", runs)
    rows: dict[str, _Values] = {}
    for name in names.all():
        if is_system(name):
            continue
        spreads = [each.metrics.get(name) for each in runs]
        several = any(spread is not None and spread.count > 1 for spread in spreads)
        for which in WHICH if several else WHICH[:1]:
            shown = names.shown(name) + ("" if which == "last" else f".{which}")
            rows[shown] = [None if spread is None else spread.value(which) for spread in spreads]
    return rows


def _artifacts(runs: Sequence[RunFacts]) -> dict[str, _Values]:
    """The sizes; if only the contents differ, also the beginning of their digests."""
    names = NameGroup("artifacts", runs)
    rows: dict[str, _Values] = {}
    for name in names.all():
        kept = [each.artifacts.get(name, []) for each in runs]
        sizes = [_size(files) for files in kept]
        if None not in sizes and len(set(sizes)) == 1:
            digests = [_digest([file for file, _ in files]) for files in kept]
            if len(set(digests)) > 1:
                sizes = [f"{size} ({digest})" for size, digest in zip(sizes, digests, strict=True)]
        rows[names.shown(name)] = sizes
    return rows


def _size(files: Sequence[tuple[Path, int]]) -> str | None:
    if not files:
        return None
    size = format_bytes(sum(size for _, size in files))
    return size if len(files) == 1 else f"{size} in {len(files)}"


def _digest(files: Sequence[Path]) -> str:
    digest = blake3()
    for file in files:
        try:
            digest.update_mmap(file)
        except OSError:
            return "its file is missing"
    return digest.hexdigest(length=4)


def _durations(runs: Sequence[RunFacts]) -> dict[str, _Values]:
    """The run's seconds, and for each task the total time of its attempts."""
    rows: dict[str, _Values] = {
        "run": [format_seconds(each.row.seconds) if each.row.run else None for each in runs]
    }
    tasks = [{row.task: row for row in each.tasks} for each in runs]
    for task in dict.fromkeys(name for each in tasks for name in each):
        found = [each.get(task) for each in tasks]
        rows[f"task {task}"] = [
            None if row is None else format_seconds(row.seconds) if row.seconds else row.state
            for row in found
        ]
    return rows


def _code(runs: Sequence[RunFacts]) -> dict[str, _Values]:
    """Digests of parts of the code that several runs have. Parts of only one run do not count as differences."""
    rows = {
        name: [None if name not in each.code else each.code[name][:8] for each in runs]
        for name in dict.fromkeys(name for each in runs for name in each.code)
    }
    return {name: values for name, values in rows.items() if sum(value is not None for value in values) > 1}


# --- As text that fits a terminal.

LEAST = 11
"""Minimum width of a column: a number with six digits, such as 0.000398483."""
LABEL = 26
"""Maximum width of a name."""
INDENT = "  "


def letters(count: int) -> list[str]:
    """Short labels of runs: a, b, ... z, then a2, b2, ..."""
    kinds = string.ascii_lowercase
    return [kinds[at % 26] + (str(at // 26 + 1) if at >= 26 else "") for at in range(count)]


def side_by_side(
    legend: Sequence[Sequence[str]], sections: Sequence[Section], *, width: int | None = None
) -> str:
    """The comparison as text. `legend` has one row per run, which begins with its letter. A row that does not fit is written with one run per line."""
    width = max(shutil.get_terminal_size().columns if width is None else width, 40)
    names = [row[0] for row in legend]
    parts = ["\n".join(line.rstrip() for line in aligned(*_headless(legend)))]
    parts += ["\n".join(_section_lines(section, names, width)) for section in sections if section.differ]
    if alike := [_equal(section, width) for section in sections if section.equal]:
        parts.append("\n".join(["equal", *alike]))
    return "\n\n".join(parts)


def _headless(rows: Sequence[Sequence[str]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    return rows[0], rows[1:]


def _section_lines(section: Section, names: Sequence[str], width: int) -> Iterator[str]:
    yield section.title
    label = min(max(len(name) for name in section.differ), LABEL)
    room = width - len(INDENT) - label
    blocks = -(-len(names) // max(room // (LEAST + 2), 1))
    most = -(-len(names) // blocks)
    for first in range(0, len(names), most):
        block = slice(first, first + most)
        if first:
            yield ""
        yield from _block(section, names, block, label=label, room=room)


def _block(section: Section, names: Sequence[str], block: slice, *, label: int, room: int) -> Iterator[str]:
    cap = room // len(names[block]) - 2
    rows: list[tuple[str, list[str]]] = []
    long: list[tuple[str, list[str]]] = []
    for name in section.differ:
        cells = section.cells(name)[block]
        (rows if max(map(len, cells)) <= cap else long).append((name, cells))
    lines = aligned(["", *names[block]], [[_cut(name, label).ljust(label), *cells] for name, cells in rows])
    if rows:
        yield from (INDENT + line for line in lines)
    for name, cells in long:
        yield INDENT + name
        for letter, cell in zip(names[block], cells, strict=True):
            yield from textwrap.wrap(
                cell, label + room, initial_indent=f"{INDENT * 2}{letter}  ", subsequent_indent=INDENT * 4
            ) or [f"{INDENT * 2}{letter}"]


def _equal(section: Section, width: int) -> str:
    """`parameters (3): depth, rate, kind`, cut to one line."""
    return _cut(f"{INDENT}{section.title} ({len(section.equal)}): {', '.join(section.equal)}", width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


class Comparison:
    """Two or more runs side by side. `print` shows the differences; a notebook shows them as tables."""

    def __init__(self, folder: RunsFolder, runs: Sequence[RunFacts]) -> None:
        if len(runs) < 2:
            raise UsageError(
                f"nothing to compare: {len(runs)} run{'' if len(runs) == 1 else 's'}",
                fix="give two or more runs",
                next="hooke runs",
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
        """The comparison in lines of `width` characters; by default the terminal's width, or 80."""
        return side_by_side(self._legend(), self.sections, width=width)

    def facts(self) -> dict[str, Any]:
        """The comparison as plain values, for JSON: for each section the differences, one value per run, and the names of equal ones."""
        sections = {
            each.title: {"differ": {name: list(values) for name, values in each.differ.items()}, "equal": list(each.equal)}
            for each in self.sections
        }  # fmt: skip
        return {"runs": list(self.runs)} | sections

    def learning_curves(self, *metrics: str) -> Any:
        """A `plotly.graph_objects.Figure`: one panel per metric over its steps, one colour per run; by default metrics with several values.

        Raises UsageError for a metric that no run logged, MissingExtra if Plotly is not installed.
        """
        return drawing.figure(self._curves(metrics))

    def parallel_coordinates(self, *columns: str, colour: str = "") -> Any:
        """A `plotly.graph_objects.Figure`: one line per run through `columns`, such as `params.depth` or `metrics.auc.max`.

        By default through the parameters and metrics that differ; `colour` is the column that colours the lines, by default the
        last. Raises UsageError for a column that no run has, and if nothing differs; MissingExtra.
        """
        return drawing.figure(drawing.parallel(self._facts, columns or columns_of(self.sections), colour))

    def html(self) -> str:
        """A self-contained HTML page with tables, learning curves and parallel coordinates. Raises MissingExtra."""
        specs = []
        if columns := columns_of(self.sections):
            specs.append(drawing.parallel(self._facts, columns, ""))
        if any(name.endswith((".min", ".max")) for name in self._metrics()):
            specs.append(self._curves(()))
        title = f"{len(self.runs)} runs: {', '.join(self.runs[:4])}"
        return drawing.page(specs, self._repr_html_(), title=title)

    def save(self, path: str | Path) -> Path:
        """Write the HTML page to `path`, which must end with .html. Raises UsageError, MissingExtra, OSError."""
        file = Path(path)
        if file.suffix.lower() != ".html":
            raise UsageError(
                f"a comparison cannot be saved as {file.name!r}", fix="use a name that ends with .html"
            )
        write_atomic(file, self.html().encode())
        return file

    def _legend(self) -> list[tuple[str, str, str, str, str]]:
        return [
            (
                letter,
                each.run,
                each.row.pipeline,
                each.row.status if each.row.run else "never started",
                moment(each.row.started_at) if each.row.run else "",
            )
            for letter, each in zip(self._letters, self._facts, strict=True)
        ]

    def _curves(self, metrics: Sequence[str]) -> dict[str, Any]:
        return drawing.curves(self._folder, self._facts, self._letters, metrics)

    def _metrics(self) -> list[str]:
        (section,) = [each for each in self.sections if each.title == "metrics"]
        return [*section.differ, *section.equal]
