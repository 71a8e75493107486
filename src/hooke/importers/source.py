"""What a reader of another tracker's files gives: runs, and in each what was logged, in any order, as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

__all__ = [
    "MICRO",
    "AttributeValue",
    "GatheredPoints",
    "Glance",
    "Histogram",
    "ImportSource",
    "ImportedFile",
    "ImportedPoints",
    "Item",
    "Remark",
    "Text",
    "exact_step",
    "finest_of",
    "sizes_of",
]


MICRO = 1_000_000
"""Steps are counted in millionths, which is as fine as a decimal(18,6) is: so they are whole numbers here."""


class ImportedPoints(NamedTuple):
    """Values of metrics by column, all of one length. Steps in millionths; None counts on from the one before."""

    names: list[str]
    values: list[float]
    micros: Sequence[int | None]
    times: Sequence[float | None]
    """Seconds since the epoch; None where the source does not say."""


class AttributeValue(NamedTuple):
    """The one value of an attribute; of one path the last counts. `kind` is the source's own name for its type."""

    path: str
    kind: str
    value: float | int | str | bool | datetime | list[str]


class Text(NamedTuple):
    """A value of a series of texts."""

    path: str
    micros: int | None
    at: float | None
    value: str


class Histogram(NamedTuple):
    """A value of a series of histograms: `values` (counts, or densities, as `kind` says) between `edges`."""

    path: str
    micros: int | None
    at: float | None
    kind: str
    edges: list[float]
    values: list[float]


class ImportedFile(NamedTuple):
    """A file or a folder, or the content of one, as an attribute (`series` False) or as a value of a series of files."""

    path: str
    content: Path | bytes | None
    """None where the source itself lacks it."""
    name: str = ""
    """What the file was called, for its suffix."""
    series: bool = False
    micros: int | None = None
    at: float | None = None


class Remark(NamedTuple):
    """Something of the source that a reader could not give as any of these; equal kinds are counted together."""

    kind: str
    how: str
    """What became of it."""


Item: TypeAlias = ImportedPoints | AttributeValue | Text | Histogram | ImportedFile | Remark


class Glance(NamedTuple):
    """What must be known of a run before its first value is kept."""

    finest: int
    """The least power of ten, 1 to MICRO, that makes every step of its metrics whole."""
    began: float | None
    """When it was made, in seconds since the epoch; None where the source does not say."""
    ended: str = ""
    """What to say of how it ended, where the source does not tell."""


class ImportSource(Protocol):
    """One run in the files of another tracker."""

    @property
    def project(self) -> str:
        """Where the tracker filed it; empty where the files do not say."""
        ...

    @property
    def run(self) -> str:
        """Its id there."""
        ...

    @property
    def files(self) -> list[Path]:
        """What it is read from."""
        ...

    @property
    def kind(self) -> str:
        """The format, for people."""
        ...

    def fingerprint(self) -> list[tuple[str, int]]:
        """What is another when there is more in the files, by file. Raises as `items` does."""
        ...

    def glance(self) -> Glance:
        """What must be known first. Raises as `items` does."""
        ...

    def items(self) -> Iterator[Item]:
        """All of it, a batch at a time; can be called again. Raises HookeError for what cannot be read."""
        ...


def finest_of(micros: Iterable[int], so_far: int = 1) -> int:
    """The least power of ten, from `so_far` on and MICRO at most, that makes all these steps whole."""
    scale = so_far
    for each in micros:
        while scale < MICRO and each * scale % MICRO:
            scale *= 10
    return scale


def sizes_of(files: Iterable[Path]) -> list[tuple[str, int]]:
    """A fingerprint of files that only grow. Raises OSError."""
    return [(file.name, file.stat().st_size) for file in files]


def exact_step(micros: int | None) -> str:
    """A step as its shortest decimal: `1.5`, `3`; empty for none."""
    if micros is None:
        return ""
    whole, rest = divmod(abs(micros), MICRO)
    sign = "-" if micros < 0 else ""
    return f"{sign}{whole}.{rest:06d}".rstrip("0").rstrip(".")


# --- What a log says bit by bit, gathered: points into batches, changes of sets into the sets that they come to.

MOST_POINTS = 10_000


class GatheredPoints:
    """Points wait until there are many; sets until there is no more."""

    def __init__(self) -> None:
        self._columns = _columns()
        self._sets: dict[str, dict[str, None]] = {}

    def point(self, name: str, value: float, micros: int | None, at: float | None) -> None:
        """A value of a metric."""
        names, values, steps, times = self._columns
        names.append(name)
        values.append(value)
        steps.append(micros)
        times.append(at)

    def change(self, path: str, members: Iterable[str], *, added: bool) -> None:
        """Members of a set come or go."""
        known = self._sets.setdefault(path, {})
        for member in members:
            if added:
                known[member] = None
            else:
                known.pop(member, None)

    def full(self) -> Iterator[Item]:
        """The points, if they are many."""
        if len(self._columns[0]) >= MOST_POINTS:
            yield self._taken()

    def rest(self) -> Iterator[Item]:
        """All that waits."""
        if self._columns[0]:
            yield self._taken()
        for path, members in self._sets.items():
            yield AttributeValue(path, "string_set", list(members))

    def _taken(self) -> ImportedPoints:
        points, self._columns = ImportedPoints(*self._columns), _columns()
        return points


def _columns() -> tuple[list[str], list[float], list[int | None], list[float | None]]:
    return [], [], [], []
