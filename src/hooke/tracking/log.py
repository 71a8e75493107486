"""The functions that user code calls to log. None of them blocks, and none raises for what it could not log."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hooke.tracking.current import current
from hooke.tracking.rendering import figure_bytes, table_bytes

__all__ = [
    "log_artifact",
    "log_figure",
    "log_metric",
    "log_metrics",
    "log_param",
    "log_params",
    "log_table",
    "log_text",
    "set_tag",
    "set_tags",
]


def log_metric(name: str, value: Any, step: int | None = None) -> None:
    """Log one value of a metric: any number, also a NumPy scalar or a tensor of one element.

    Without `step` the steps of each name count up from 0: in a run, and in each task (in a map, in each item) anew.
    """
    if (tracker := current("log_metric")) is not None:
        tracker.log_metric(name, value, step)


def log_metrics(values: Mapping[str, Any], step: int | None = None) -> None:
    """Log values of several metrics at once: they are kept all or none."""
    if (tracker := current("log_metrics")) is not None:
        tracker.log_metrics(values, step)


def log_param(name: str, value: Any) -> None:
    """Log a parameter, as text. Of one name the last value counts."""
    if (tracker := current("log_param")) is not None:
        tracker.log_params({name: value})


def log_params(params: Mapping[str, Any]) -> None:
    """Log several parameters."""
    if (tracker := current("log_params")) is not None:
        tracker.log_params(params)


def set_tag(name: str, value: Any) -> None:
    """Set a tag, as text. Of one name the last value counts."""
    if (tracker := current("set_tag")) is not None:
        tracker.set_tags({name: value})


def set_tags(tags: Mapping[str, Any]) -> None:
    """Set several tags."""
    if (tracker := current("set_tags")) is not None:
        tracker.set_tags(tags)


def log_artifact(path: str | os.PathLike[str], name: str | None = None) -> None:
    """Keep a copy of a file, or of a folder with all files in it, under `name` (its own name if none is given).

    `name` may have folders in it (`plots/loss.png`). Of one name the last copy counts.
    """
    if (tracker := current("log_artifact")) is not None:
        tracker.log_files(Path(path), name)


def log_text(text: str, name: str) -> None:
    """Keep a text as the file `name`."""
    if (tracker := current("log_text")) is not None:
        tracker.log_made(name, text.encode)


def log_figure(figure: Any, name: str) -> None:
    """Keep a figure as the file `name`: of Matplotlib as .png, .svg or .pdf, of Plotly as .html or .json."""
    if (tracker := current("log_figure")) is not None:
        tracker.log_made(name, lambda: figure_bytes(figure, name))


def log_table(table: Any, name: str) -> None:
    """Keep a table as the file `name`: .json, .csv or .parquet.

    A table is a mapping of columns, a list of mappings, or a frame of Polars, pandas or Arrow.
    """
    if (tracker := current("log_table")) is not None:
        tracker.log_made(name, lambda: table_bytes(table, name))
