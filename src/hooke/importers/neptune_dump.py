"""Parquet files of neptune-exporter: `PROJECT/RUN_part_N.parquet`, a run in parts, with a row for each value of an attribute.

The layout and the columns are those of github.com/neptune-ai/neptune-exporter (storage/parquet_writer.py,
model.py and README of early 2026): by default `data` and `files` are side by side, and part 0 is renamed last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError
from hooke.importers import source

__all__ = ["DumpedRun", "dumped_runs"]

pc: Any = pyarrow.compute  # its functions are created at import
ROWS = 65_536
"""Rows in memory at a time."""
COLUMNS = {
    "project_id": pa.string(),
    "run_id": pa.string(),
    "attribute_path": pa.string(),
    "attribute_type": pa.string(),
    "step": pa.decimal128(18, 6),
    "timestamp": pa.timestamp("ms", tz="UTC"),
    "int_value": pa.int64(),
    "float_value": pa.float64(),
    "string_value": pa.string(),
    "bool_value": pa.bool_(),
    "datetime_value": pa.timestamp("ms", tz="UTC"),
    "string_set_value": pa.list_(pa.string()),
    "file_value": pa.struct([("path", pa.string())]),
    "histogram_value": pa.struct(
        [("type", pa.string()), ("edges", pa.list_(pa.float64())), ("values", pa.list_(pa.float64()))]
    ),
}
REPEATED = ["project_id", "run_id", "attribute_path", "attribute_type"]
SINGLE = {"float": "float_value", "int": "int_value", "string": "string_value", "bool": "bool_value"}
SINGLE |= {"datetime": "datetime_value", "string_set": "string_set_value"}
FILES = ("file", "file_series", "file_set", "artifact")
"""The last two come from Neptune 2: a folder, and the references of an artifact."""
KNOWN = (*SINGLE, "float_series", "string_series", "histogram_series", *FILES)
PART = re.compile(r"(.+)_part_(\d+)\.parquet")
NULL = source.Remark("values that are null in the export", "not kept")
LACKING = source.Remark("parts of the export that are missing", "the other parts were imported")


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpedRun:
    """One run of a dump; see `ImportSource`."""

    project: str
    run: str
    files: list[Path]
    folder: Path
    """The folder to which file paths in the dump are relative."""
    kind: str = "a dump of neptune-exporter"

    @property
    def roots(self) -> tuple[Path, ...]:
        """The dump's folder of files."""
        return (self.folder,)

    def fingerprint(self) -> list[tuple[str, int]]:
        """Names and sizes of the parts."""
        return source.sizes_of(self.files)

    def glance(self) -> source.Glance:
        """Reads three columns."""
        scale, began = 1, None
        for file in self.files:
            for batch in _batches(file, ["attribute_type", "attribute_path", "step", "datetime_value"]):
                steps = _micros(batch.filter(pc.equal(batch["attribute_type"], "float_series"))["step"])
                # Only steps that the scale so far leaves fractional: most batches have none.
                broken = steps[steps % (source.MICRO // scale) != 0] if scale < source.MICRO else steps[:0]
                scale = source.finest_of(broken.tolist(), scale)
                made = batch.filter(pc.equal(batch["attribute_path"], "sys/creation_time"))
                for when in made["datetime_value"].drop_null().cast(pa.int64()).to_pylist():
                    began = when / 1000
        return source.Glance(scale, began)

    def items(self) -> Iterator[source.Item]:
        """Metrics in batches, everything else by row."""
        numbers = [_part(file) for file in self.files]
        yield from [LACKING] * (max(numbers) + 1 - len(numbers))
        for file in self.files:
            for batch in _batches(file):
                _check_one_run(batch, self.run, file)
                metric = pc.equal(batch["attribute_type"], "float_series")
                yield from _points(batch.filter(metric))
                with _reading(file):  # also here: a date may be out of Python's range
                    rows = batch.filter(pc.invert(metric)).to_pylist()
                    rest = [item for row in rows for item in (self._item(row, file), *_null_members(row))]
                yield from rest

    def _item(self, row: dict[str, Any], file: Path) -> source.Item:
        path, kind = row["attribute_path"], row["attribute_type"]
        at = row["timestamp"].timestamp() if row["timestamp"] is not None else None
        micros = int(row["step"].scaleb(6)) if row["step"] is not None else None
        if kind in FILES:
            named = (row["file_value"] or {}).get("path") or ""
            if Path(named).is_absolute() or ".." in Path(named).parts:
                raise HookeError(
                    f"the file of attribute {path!r} is outside the dump: {named}",
                    where=str(file),
                    why="an exporter writes only paths below its folder of files; this one would read another file of yours",
                    fix="do not import a dump that you did not make, or fix that row",
                )
            content = self.folder / named if named else None
            return source.ImportedFile(path, content, named, kind == "file_series", micros, at)
        if kind in SINGLE:
            value = row[SINGLE[kind]]
            if kind == "string_set" and value is not None:
                value = [each for each in value if each is not None]
            return NULL if value is None else source.AttributeValue(path, kind, value)
        if kind == "string_series":
            return NULL if row["string_value"] is None else source.Text(path, micros, at, row["string_value"])
        if kind == "histogram_series":
            found = row["histogram_value"]
            if found is None:
                return NULL
            return source.Histogram(path, micros, at, found["type"], found["edges"], found["values"])
        raise HookeError(
            f"attribute {path!r} has the unknown type {kind!r}",
            where=str(file),
            why=f"known types: {', '.join(KNOWN)}",
            fix=f"try a newer Hooke ({install_command(upgrade=True)}); otherwise please report it, with the exporter's version",
        )


def dumped_runs(parts: dict[str, list[Path]], folder: Path) -> Iterator[DumpedRun | HookeError]:
    """The runs of these parts, by prefix; an error for one that cannot be read. `folder` has the exported files."""
    for prefix, files in parts.items():
        try:
            named = next((found for file in files if (found := _identity(file)) is not None), None)
        except HookeError as error:
            yield error
            continue
        if named is None:
            yield HookeError(
                "an exported run has no rows",
                where=f"{prefix}_part_*.parquet",
                why="the exporter had nothing to write, or failed",
                fix="move it away; the exporter's log may say why",
            )
        else:
            yield DumpedRun(project=named[0], run=named[1], files=files, folder=folder)


def _identity(file: Path) -> tuple[str, str] | None:
    for batch in _batches(file, ["project_id", "run_id"], rows=1):
        if batch.num_rows:
            return batch["project_id"][0].as_py() or "", batch["run_id"][0].as_py() or ""
    return None


def _batches(file: Path, columns: list[str] | None = None, *, rows: int = ROWS) -> Iterator[pa.RecordBatch]:
    """A file in batches, with the column types above. Raises HookeError for a damaged or other file."""
    with _reading(file):
        lacking = [name for name in COLUMNS if name not in pq.read_schema(file).names]
        if lacking:
            raise HookeError(
                "a Parquet file was not written by neptune-exporter",
                where=str(file),
                why=f"it has no column {', '.join(lacking)}",
                fix="give the folder that `neptune-exporter export --data-path` wrote",
            )
    with _reading(file), pq.ParquetFile(file, read_dictionary=REPEATED, pre_buffer=False) as opened:
        for batch in opened.iter_batches(batch_size=rows, columns=columns or list(COLUMNS)):
            yield _typed(batch)


def _typed(batch: pa.RecordBatch) -> pa.RecordBatch:
    batch.validate(full=True)  # also checks texts
    arrays = []
    for name in batch.schema.names:
        array, wanted = batch.column(name), COLUMNS[name]
        if name in REPEATED and pa.types.is_dictionary(array.type):
            wanted = pa.dictionary(array.type.index_type, pa.string())
        arrays.append(array if array.type == wanted else array.cast(wanted))
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError, TypeError) as error:
        raise HookeError(
            "a Parquet file cannot be read",
            where=str(file),
            why=str(error).strip().partition("\n")[0][:300],
            fix="copy it again from the export, or select other runs with --run",
        ) from error


def _check_one_run(batch: pa.RecordBatch, run: str, file: Path) -> None:
    if batch["attribute_path"].null_count or batch["attribute_type"].null_count:
        raise HookeError(
            "a Parquet file has rows without attribute_path or attribute_type",
            where=str(file),
            fix="export it again, or remove those rows",
        )
    others = set(pc.unique(batch["run_id"]).to_pylist()) - {run}
    if others:
        raise HookeError(
            f"a Parquet file of run {run!r} has rows of {', '.join(map(repr, sorted(map(str, others))))}",
            where=str(file),
            fix="neptune-exporter writes one run per file: export it again, or split the file by run_id",
        )


def _points(batch: pa.RecordBatch) -> Iterator[source.Item]:
    whole = batch.filter(pc.is_valid(batch["float_value"]))
    for _ in range(batch.num_rows - whole.num_rows):
        yield NULL
    if whole.num_rows == 0:
        return
    words = whole["attribute_path"]
    if not pa.types.is_dictionary(words.type):
        words = words.dictionary_encode()
    known = words.dictionary.to_pylist()
    steps, times = whole["step"], whole["timestamp"]
    micros: list[int | None] = _micros(steps).tolist() if steps.null_count == 0 else _with_nulls(steps)
    moments: list[float | None]
    if times.null_count:
        moments = [None if at is None else at / 1000 for at in times.cast(pa.int64()).to_pylist()]
    else:
        moments = (times.cast(pa.int64()).to_numpy() / 1000).tolist()
    names = [known[at] for at in words.indices.to_numpy().tolist()]
    yield source.ImportedPoints(names, whole["float_value"].to_numpy().tolist(), micros, moments)


def _null_members(row: dict[str, Any]) -> list[source.Item]:
    members = row["string_set_value"] if row["attribute_type"] == "string_set" else None
    return [NULL] * (members or []).count(None)


def _micros(steps: pa.Decimal128Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Steps in millionths, without nulls. The lower of a decimal(18,6)'s two words is the whole number."""
    steps = steps.drop_null()
    if len(steps) == 0:
        return np.empty(0, np.int64)
    words = np.frombuffer(steps.buffers()[1], "<i8")
    return words[2 * steps.offset : 2 * (steps.offset + len(steps)) : 2]


def _with_nulls(steps: pa.Decimal128Array) -> list[int | None]:
    return [None if step is None else int(step.scaleb(6)) for step in steps.to_pylist()]


def _part(file: Path) -> int:
    found = PART.fullmatch(file.name)
    return int(found[2]) if found else -1
