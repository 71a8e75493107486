"""The published data sets, as measurements."""

from __future__ import annotations

import csv
from pathlib import Path

from hooke.scaling import Measurements

__all__ = ["published", "rows"]

FOLDER = Path(__file__).parent / "data"


def rows(name: str) -> list[dict[str, str]]:
    """The lines of a file, by column."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def published(name: str, *, first: int | None = None) -> Measurements:
    """N and throughput: the first two columns of a file, or of its first rows."""
    pairs = [tuple(float(value) for value in list(row.values())[:2]) for row in rows(name)[:first]]
    return Measurements([n for n, _ in pairs], throughput=[x for _, x in pairs])
