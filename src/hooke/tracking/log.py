"""The functions that user code calls to log. None of them blocks, and none raises if it cannot log."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from hooke.base.errors import UsageError
from hooke.tracking.tracker import current

__all__ = [
    "figure_bytes",
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
    "table_bytes",
]


# --- Figures and tables as files, in the format of the file name's suffix.


def figure_bytes(figure: Any, name: str) -> bytes:
    """A Matplotlib or Plotly figure (any object with `savefig` or `to_html`) in the format of the suffix of `name`.

    Raises UsageError for another object, and for a suffix that its library does not write without a browser.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if hasattr(figure, "savefig"):
        file = io.BytesIO()
        figure.savefig(file, format=suffix.removeprefix(".") or "png")
        return file.getvalue()
    if hasattr(figure, "to_html") and hasattr(figure, "to_json"):
        if suffix == ".html":
            page: str = figure.to_html()
            return page.encode()
        if suffix == ".json":
            text: str = figure.to_json()
            return text.encode()
        raise UsageError(f"a Plotly figure's file name ends in .html or .json, not in {suffix or 'nothing'}")
    raise UsageError(
        f"{type(figure).__name__} is not a figure: it has neither savefig() nor to_html() and to_json()"
    )


def table_bytes(table: Any, name: str) -> bytes:
    """A table in the format of the suffix of `name`: `.json` (columns and rows, as in MLflow), `.csv` or `.parquet`.

    A table is a mapping of columns, a sequence of mappings, or a frame of Polars, pandas or Arrow. Raises UsageError
    for another object, and for another suffix.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".json":
        columns = _columns(table)
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        return json.dumps({"columns": list(columns), "data": rows}, default=_plain).encode()
    if suffix == ".csv":
        return _csv(_columns(table))
    if suffix == ".parquet":
        return _parquet(table)
    raise UsageError(f"a table's file name ends in .json, .csv or .parquet, not in {suffix or 'nothing'}")


def _columns(table: Any) -> dict[str, list[Any]]:
    if isinstance(table, Mapping):
        return {str(name): list(column) for name, column in table.items()}
    if hasattr(table, "to_pydict"):  # Arrow
        columns: dict[str, list[Any]] = table.to_pydict()
        return columns
    if hasattr(table, "columns") and hasattr(table, "__getitem__"):  # Polars, pandas
        return {str(name): table[name].to_list() for name in table.columns}
    if isinstance(table, Sequence) and table and all(isinstance(row, Mapping) for row in table):
        names = list(dict.fromkeys(name for row in table for name in row))
        return {str(name): [row.get(name) for row in table] for name in names}
    raise UsageError(
        f"{type(table).__name__} is not a table: give a mapping of columns, a list of mappings, or a data frame"
    )


def _csv(columns: dict[str, list[Any]]) -> bytes:
    import csv

    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return file.getvalue().encode()


def _parquet(table: Any) -> bytes:
    file = io.BytesIO()
    if hasattr(table, "write_parquet"):
        table.write_parquet(file)
        return file.getvalue()
    if hasattr(table, "to_parquet"):
        table.to_parquet(file)
        return file.getvalue()
    raise UsageError(
        f"{type(table).__name__} has neither write_parquet() nor to_parquet(): use .json or .csv"
    )


def _plain(value: Any) -> Any:
    """Values that JSON lacks: NumPy's numbers, else text."""
    return value.item() if hasattr(value, "item") else str(value)


def log_metric(name: str, value: Any, step: int | None = None) -> None:
    """Log one value of a metric: any number, also a NumPy scalar or a tensor of one element.

    Without `step`, the steps of each name count from 0, separately in the run, in each task and in each item of a map.
    """
    if (tracker := current("log_metric")) is not None:
        tracker.log_metric(name, value, step)


def log_metrics(values: Mapping[str, Any], step: int | None = None) -> None:
    """Log values of several metrics, in one record. A value that is not a number is refused; the others are kept."""
    if (tracker := current("log_metrics")) is not None:
        tracker.log_metrics(values, step)


def log_param(name: str, value: Any) -> None:
    """Log a parameter as text. The last value of a name counts."""
    if (tracker := current("log_param")) is not None:
        tracker.log_param(name, value)


def log_params(params: Mapping[str, Any]) -> None:
    """Log several parameters. One that cannot be shown as text is refused; the others are kept."""
    if (tracker := current("log_params")) is not None:
        tracker.log_params(params)


def set_tag(name: str, value: Any) -> None:
    """Set a tag as text. The last value of a name counts."""
    if (tracker := current("set_tag")) is not None:
        tracker.set_tag(name, value)


def set_tags(tags: Mapping[str, Any]) -> None:
    """Set several tags. One that cannot be shown as text is refused; the others are kept."""
    if (tracker := current("set_tags")) is not None:
        tracker.set_tags(tags)


def log_artifact(path: str | os.PathLike[str], name: str | None = None) -> None:
    """Keep a copy of a file, or of a folder with all its files, under `name` (by default its own name).

    `name` may contain folders (`plots/loss.png`). The last copy of a name counts.
    """
    if (tracker := current("log_artifact")) is not None:
        tracker.log_files(path, name)


def log_text(text: str, name: str) -> None:
    """Keep a text as the file `name`."""
    if (tracker := current("log_text")) is not None:
        tracker.log_text(text, name)


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
