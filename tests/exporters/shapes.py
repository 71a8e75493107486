"""Ten pipelines of different shapes, exported to each target: the file of them, and how their results are compared."""

from pathlib import Path

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
    "delays",
)
"""One pipeline each. All but `gang` run without Hooke, too, and all but `files`, which returns hooke.File."""

SOURCE = (Path(__file__).parent / "shapes_job.py").read_text("utf-8")
