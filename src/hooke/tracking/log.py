"""The functions that user code calls to log. None of them blocks, and none raises if it cannot log."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra, UsageError
from hooke.base.formats import short_repr
from hooke.tracking.logged_values import HistogramFile
from hooke.tracking.tracker import current

__all__ = [
    "figure_bytes",
    "histogram_bytes",
    "image_bytes",
    "log_artifact",
    "log_figure",
    "log_histogram",
    "log_image",
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


# --- Images as PNG, histograms as JSON.

_PNG = b"\x89PNG\r\n\x1a\n"
_IN_PNG = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})
"""Pillow's modes that a PNG file has."""
_TO_RGB = frozenset({"CMYK", "HSV", "LAB", "YCbCr"})
MOST_BINS = 1000


def image_bytes(image: Any) -> bytes:
    """An array, a tensor, an image of Pillow or an image file, as PNG.

    An array has the shape (height, width) or (height, width, channels), a tensor of PyTorch (height, width) or (channels,
    height, width), with 1 (grey), 3 (RGB) or 4 (RGBA) channels. Numbers are uint8, bool, or floats from 0 to 1. Raises
    UsageError for anything else, and MissingExtra for a file that is not PNG without Pillow.
    """
    if isinstance(image, str) or hasattr(image, "__fspath__"):
        return _png_of_file(Path(image))
    if hasattr(image, "save") and hasattr(image, "mode"):
        return _png_of_pillow(image)
    if hasattr(image, "__array__"):
        return _png(_pixels(image))
    raise UsageError(
        f"{type(image).__name__} is not an image: give an array, a tensor, an image of Pillow, or the path of a file"
    )


def _png_of_file(path: Path) -> bytes:
    data = path.read_bytes()
    if data.startswith(_PNG):
        return data
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{path.name} is not a PNG file, and only Pillow converts it", fix=install_command("plot")
        ) from error
    with Image.open(io.BytesIO(data)) as image:
        return _png_of_pillow(ImageOps.exif_transpose(image))


def _png_of_pillow(image: Any) -> bytes:
    if image.mode in _TO_RGB:
        image = image.convert("RGB")
    if image.mode not in _IN_PNG:
        raise UsageError(f"PNG has no mode {image.mode}: convert the image to L, RGB or RGBA")
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _array(values: Any) -> Any:
    """NumPy's array of a list, an array, or a tensor on any device, also one with a gradient; of several tensors, all their values."""
    import numpy as np

    if type(values) in (list, tuple) and any(hasattr(each, "detach") for each in values):
        return np.concatenate([_array(each).ravel() for each in values])
    if not hasattr(values, "detach"):
        return np.asarray(values)
    tensor = values.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # NumPy lacks bfloat16
        return tensor.float().numpy()


def _pixels(image: Any) -> Any:
    """(height, width, channels) of uint8. Raises UsageError."""
    import numpy as np

    array, first = _array(image), hasattr(image, "detach")
    shape = tuple(array.shape)
    if array.ndim == 2:
        array = array[:, :, None]
    elif first and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        channels = "(1 or 3 or 4, height, width)" if first else "(height, width, 1 or 3 or 4)"
        raise UsageError(f"the shape {shape} is not that of an image: (height, width) or {channels}")
    if not array.size:
        raise UsageError(f"the shape {shape} has no pixels")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind != "f":
        raise UsageError(f"pixels are uint8, bool, or floats from 0 to 1, not {array.dtype}")
    if missing := int(np.isnan(array).sum()):
        raise UsageError(f"{missing} of {array.size} numbers in the image are NaN")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise UsageError(f"floats in an image are from 0 to 1, not from {low:g} to {high:g}")
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def _png(pixels: Any) -> bytes:
    """The format is that of https://www.w3.org/TR/png-3: each row less the one above it (filter 2), deflated."""
    import numpy as np

    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256
    colour = {1: 0, 3: 2, 4: 6}[channels]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(filtered.tobytes())),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return _PNG + b"".join(parts)


def histogram_bytes(values: Any, bins: Any = 64) -> bytes:
    """A `HistogramFile` of the values, as JSON: `bins` of equal width from the smallest finite value to the largest.

    NaN and infinities are counted apart. Raises UsageError for what is not numbers, for none, and for a wrong number of
    bins.
    """
    import numpy as np

    if not hasattr(bins, "__index__") or not 1 <= index(bins) <= MOST_BINS:
        raise UsageError(f"bins is {short_repr(bins)}, and not a number from 1 to {MOST_BINS}")
    number = index(bins)
    array = _array(values).ravel()
    if array.dtype.kind not in "biuf":
        raise UsageError(f"a histogram is of numbers, not of {array.dtype}")
    if not array.size:
        raise UsageError("a histogram of no values")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    finite = array[np.isfinite(array)]
    edges: list[float] = []
    counts: list[int] = []
    if finite.size:
        found = _edges(float(finite.min()), float(finite.max()), number)
        edges, counts = found.tolist(), np.histogram(finite, bins=found)[0].tolist()
    made = HistogramFile(
        edges=edges,
        counts=counts,
        nan=int(np.isnan(array).sum()),
        negative_infinity=int(np.isneginf(array).sum()),
        positive_infinity=int(np.isposinf(array).sum()),
    )
    return msgspec.json.encode(made)


def _edges(low: float, high: float, bins: int) -> Any:
    """Ascending, from `low` to `high` exactly; a single value lies in the middle of a bin 1 wide."""
    import numpy as np

    if low == high:
        low, high = low - 0.5, high + 0.5
    share = np.linspace(0, 1, bins + 1)
    # Not numpy.linspace(low, high): high - low may overflow.
    edges = np.clip(low * (1 - share) + high * share, low, high)
    edges[0], edges[-1] = low, high
    return np.maximum.accumulate(edges)


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


def log_image(name: str, image: Any, step: int | None = None) -> None:
    """Keep an image as PNG, under its name and step: `images/NAME/STEP.png`.

    An array is (height, width) or (height, width, channels), a tensor of PyTorch (height, width) or (channels, height,
    width): 1, 3 or 4 channels, of uint8, bool, or floats from 0 to 1. Or an image of Pillow, or the path of an image file.
    Steps are those of `log_metric`. The last image of a name and step counts.
    """
    if (tracker := current("log_image")) is not None:
        tracker.log_media("image", name, step, lambda: image_bytes(image))


def log_histogram(name: str, values: Any, step: int | None = None, bins: int = 64) -> None:
    """Keep how many of the values lie in each of `bins` of equal width, as JSON: `histograms/NAME/STEP.json`.

    `values` is an array, a tensor or a list of numbers, of any shape. NaN and infinities are counted apart. Steps are those
    of `log_metric`. The last histogram of a name and step counts.
    """
    if (tracker := current("log_histogram")) is not None:
        tracker.log_media("histogram", name, step, lambda: histogram_bytes(values, bins))
