"""Eleven pipelines of different shapes, exported to each target: the file of them, and how their results are compared."""

from pathlib import Path

from tests.support.sizes import choose_size

NAMES = (
    "chain",
    "fan",
    "dynamic",
    "maps_of_maps",
    "two_lists",
    "nested",
    "files",
    "optional",
    "gang",
    "lossy",
    "delays",
)
"""One pipeline each."""

PLAIN_NAMES = tuple(name for name in NAMES if name not in ("files", "gang", "lossy"))
"""Those that run without Hooke, too: not with hooke.File, ranks, or items that may fail."""

SOURCE = (Path(__file__).parent / "shapes_job.py").read_text("utf-8")


def some_of(*names: str) -> tuple[str, ...]:
    """The shapes that one scheduler is tried with; scripts run all of them, and `make soak-campaigns` runs all on each scheduler."""
    return choose_size(sample=names, full=names, soak=NAMES)
