"""The protocol of an importer: a run in another tracker's files, as a stream of logged items in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from hooke.base.errors import HookeError

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
    "allowed",
    "exact_step",
    "finest_of",
    "sizes_of",
]


MICRO = 1_000_000
"""Steps are whole numbers of millionths, the precision of a decimal(18,6)."""


class ImportedPoints(NamedTuple):
    """Values of metrics as columns of equal length. Steps are in millionths; None means the next step."""

    names: list[str]
    values: list[float]
    micros: Sequence[int | None]
    times: Sequence[float | None]
    """Seconds since the epoch; None if unknown."""


class AttributeValue(NamedTuple):
    """The single value of an attribute; the last value of a path counts. `kind` is the source's name for its type."""

    path: str
    kind: str
    value: float | int | str | bool | datetime | list[str]


class Text(NamedTuple):
    """A value of a text series."""

    path: str
    micros: int | None
    at: float | None
    value: str


class Histogram(NamedTuple):
    """A value of a histogram series: `values` (counts or densities, by `kind`) between `edges`."""

    path: str
    micros: int | None
    at: float | None
    kind: str
    edges: list[float]
    values: list[float]


class ImportedFile(NamedTuple):
    """A file, a folder, or a file's content, as an attribute (`series` is False) or as a value of a file series."""

    path: str
    content: Path | bytes | None
    """None if the source lacks it."""
    name: str = ""
    """The original file name, for its suffix."""
    series: bool = False
    micros: int | None = None
    at: float | None = None


class Remark(NamedTuple):
    """Something in the source that does not fit any of these; equal kinds are counted together."""

    kind: str
    how: str
    """What was done with it."""


Item: TypeAlias = ImportedPoints | AttributeValue | Text | Histogram | ImportedFile | Remark


class Glance(NamedTuple):
    """Facts of a run that are needed before its first value is written."""

    finest: int
    """The smallest power of ten, from 1 to MICRO, that makes every step of its metrics whole."""
    began: float | None
    """When the run was created, in seconds since the epoch; None if unknown."""
    ended: str = ""
    """A note on its end, if the source does not say how it ended."""


class ImportSource(Protocol):
    """One run in the files of another tracker."""

    @property
    def project(self) -> str:
        """Its project in the tracker; empty if unknown."""

    @property
    def run(self) -> str:
        """Its id in the tracker."""

    @property
    def files(self) -> list[Path]:
        """The files that it is read from."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders with the files that it may name: what a log or a dump names elsewhere is never read."""
        ...

    @property
    def kind(self) -> str:
        """The format's name for display."""

    def fingerprint(self) -> list[tuple[str, int]]:
        """A value per file that changes when the files grow. Raises as `items` does."""

    def glance(self) -> Glance:
        """Read the facts that are needed first. Raises as `items` does."""

    def items(self) -> Iterator[Item]:
        """All items, in batches; can be called again. Raises HookeError for unreadable files."""


def finest_of(micros: Iterable[int], so_far: int = 1) -> int:
    """The smallest power of ten, from `so_far` to MICRO, that makes all these steps whole."""
    scale = so_far
    for each in micros:
        while scale < MICRO and each * scale % MICRO:
            scale *= 10
    return scale


def sizes_of(files: Iterable[Path]) -> list[tuple[str, int]]:
    """A fingerprint of files that only grow. Raises OSError."""
    return [(file.name, file.stat().st_size) for file in files]


def exact_step(micros: int | None) -> str:
    """A step as its shortest decimal, such as `1.5` or `3`; empty for None."""
    if micros is None:
        return ""
    whole, rest = divmod(abs(micros), MICRO)
    sign = "-" if micros < 0 else ""
    return f"{sign}{whole}.{rest:06d}".rstrip("0").rstrip(".")


# --- Which files may be read: a log or a dump comes from elsewhere, and its files may go on to a tracker.


def allowed(named: Path, roots: Sequence[Path], *, what: str, where: str) -> Path:
    """The real path of a file that a log names, below one of `roots`, also after all symbolic links.

    A file elsewhere that does not exist is returned as it is: it is a missing one. Raises HookeError for one that exists.
    """
    try:
        real = named.resolve()
        inside = any(real.is_relative_to(root.resolve()) for root in roots)
        if inside or not named.exists():
            return real
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a NUL
        raise HookeError(
            f"{what} has a path that cannot be read: {str(named)!r}",
            where=where,
            why=str(error),
            fix="remove that entry from a copy, and import the copy",
        ) from error
    raise HookeError(
        f"{what} is outside the imported folder: {named}",
        where=where,
        why=(f"it is a link to {real}, and " if real != Path(os.path.abspath(named)) else "")
        + f"an import reads only files below {', '.join(map(str, roots))}: others may be files of yours that the "
        "maker of the log should not get into a tracker",
        fix=f"if you want this file in the run, allow its folder: --files {real if real.is_dir() else real.parent}",
    )


# --- Collects a log's single entries: points into batches, changes of sets into final sets.

MOST_POINTS = 10_000


class GatheredPoints:
    """Collects points until there are many, and sets until the end."""

    def __init__(self) -> None:
        self._columns = _columns()
        self._sets: dict[str, dict[str, None]] = {}

    def point(self, name: str, value: float, micros: int | None, at: float | None) -> None:
        """Add a value of a metric."""
        names, values, steps, times = self._columns
        names.append(name)
        values.append(value)
        steps.append(micros)
        times.append(at)

    def change(self, path: str, members: Iterable[str], *, added: bool) -> None:
        """Add or remove members of a set."""
        known = self._sets.setdefault(path, {})
        for member in members:
            if added:
                known[member] = None
            else:
                known.pop(member, None)

    def full(self) -> Iterator[Item]:
        """The points, if there are many."""
        if len(self._columns[0]) >= MOST_POINTS:
            yield self._taken()

    def rest(self) -> Iterator[Item]:
        """Everything that is left."""
        if self._columns[0]:
            yield self._taken()
        for path, members in self._sets.items():
            yield AttributeValue(path, "string_set", list(members))

    def _taken(self) -> ImportedPoints:
        points, self._columns = ImportedPoints(*self._columns), _columns()
        return points


def _columns() -> tuple[list[str], list[float], list[int | None], list[float | None]]:
    return [], [], [], []
