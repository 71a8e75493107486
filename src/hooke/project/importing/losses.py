"""What of an imported run a tracker such as MLflow has no place for, counted, and how it is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hooke.project.importing.source import MICRO, File, Histogram, Item, Points, Remark, Text, Value
from hooke.project.table import aligned

__all__ = ["COLUMNS", "Losses"]

COLUMNS = ("what MLflow has no place for", "how many", "how it is kept")

DECIMAL_STEPS = "metric values at decimal steps"
NO_STEP = "metric values without a step"
NO_TIME = "values without a time"
TEXTS = "values of text series"
HISTOGRAMS = "values of histogram series"
FILES = "files of file series"
SETS = "sets of strings"
TYPED = "parameters that are not text"
FORKS = "forks of another run"
ABSENT = "files that the export itself lacks"

HOW = {
    DECIMAL_STEPS: "step times {multiplier}, exact; the tag neptune.step_multiplier says by what",
    NO_STEP: "counted on from the step before, by name",
    NO_TIME: "at the time the run began",
    TEXTS: "a CSV artifact a series: step, time, value",
    HISTOGRAMS: "a JSON table a series: step, time, type, edges, values",
    FILES: "artifacts PATH/step_N",
    SETS: "a tag, members joined by a comma; exact in neptune/attributes.json",
    TYPED: "as text; with their types in neptune/attributes.json",
    FORKS: "tags neptune.parent and neptune.sys/forking/...; points before the fork stay in the parent",
    ABSENT: "not kept: their attributes are named in neptune/report.md",
}
FORK_PATH = "sys/forking/parent"


@dataclass(slots=True)
class Losses:
    """Counts by kind, of one run or of many."""

    counts: Counter[str] = field(default_factory=Counter)
    how: dict[str, str] = field(default_factory=dict)
    multipliers: set[int] = field(default_factory=set)
    absent: list[str] = field(default_factory=list)
    """Attributes whose files are nowhere."""
    values: Counter[str] = field(default_factory=Counter)
    """What was logged at all: points, parameters, files."""

    def see(self, item: Item) -> None:
        """Count one item."""
        match item:
            case Points():
                self._see_points(item)
            case Value():
                self._see_value(item)
            case Text():
                self._count(TEXTS)
            case Histogram():
                self._count(HISTOGRAMS)
            case File():
                self.values["files"] += 1
                if item.content is None:
                    self._count(ABSENT)
                    self.absent.append(item.path)
                elif item.series:
                    self._count(FILES)
            case Remark():
                self._count(item.kind)
                self.how[item.kind] = item.how

    def add(self, other: Losses) -> None:
        """Count those of another run too."""
        self.counts.update(other.counts)
        self.values.update(other.values)
        self.how.update(other.how)
        self.multipliers |= other.multipliers

    def rows(self) -> Iterable[tuple[str, str, str]]:
        """Kind, count, how it is kept; the most first."""
        by = "N" if len(self.multipliers) > 1 else str(next(iter(self.multipliers), 1))
        for kind, count in sorted(self.counts.items(), key=lambda each: (-each[1], each[0])):
            yield kind, f"{count:,}", self.how.get(kind) or HOW[kind].format(multiplier=by)

    def table(self) -> list[str]:
        """Lines for a terminal; none where nothing was lost."""
        return aligned(COLUMNS, list(self.rows()), right=(1,)) if self.counts else []

    def _count(self, kind: str, count: int = 1) -> None:
        if count:
            self.counts[kind] += count

    def _see_points(self, points: Points) -> None:
        self.values["points"] += len(points.names)
        self._count(
            DECIMAL_STEPS, sum(1 for micros in points.micros if micros is not None and micros % MICRO)
        )
        self._count(NO_STEP, points.micros.count(None))
        self._count(NO_TIME, points.times.count(None))

    def _see_value(self, value: Value) -> None:
        self.values["attributes"] += 1
        if isinstance(value.value, list):
            self._count(SETS)
        elif not isinstance(value.value, str):
            self._count(TYPED)
        if value.path == FORK_PATH:
            self._count(FORKS)
