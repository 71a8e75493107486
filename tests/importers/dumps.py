"""Dumps as neptune-exporter writes them: its layout, its schema, Snappy; made here, with every type of attribute."""

import hashlib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("project_id", pa.string()),
        ("run_id", pa.string()),
        ("attribute_path", pa.string()),
        ("attribute_type", pa.string()),
        ("step", pa.decimal128(18, 6)),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("int_value", pa.int64()),
        ("float_value", pa.float64()),
        ("string_value", pa.string()),
        ("bool_value", pa.bool_()),
        ("datetime_value", pa.timestamp("ms", tz="UTC")),
        ("string_set_value", pa.list_(pa.string())),
        ("file_value", pa.struct([("path", pa.string())])),
        (
            "histogram_value",
            pa.struct(
                [
                    ("type", pa.string()),
                    ("edges", pa.list_(pa.float64())),
                    ("values", pa.list_(pa.float64())),
                ]
            ),
        ),
    ]
)
PROJECT, RUN = "team/flights", "RUN-1"
MADE = datetime(2025, 3, 1, 12, tzinfo=UTC)
COLUMN = {
    "float": "float_value",
    "int": "int_value",
    "string": "string_value",
    "bool": "bool_value",
    "datetime": "datetime_value",
    "string_set": "string_set_value",
    "float_series": "float_value",
    "string_series": "string_value",
    "histogram_series": "histogram_value",
    "file": "file_value",
    "file_series": "file_value",
    "file_set": "file_value",
    "artifact": "file_value",
}


def at(seconds):
    return datetime.fromtimestamp(MADE.timestamp() + seconds, UTC)


def row(path, kind, value, step=None, timestamp=None):
    cells = {"attribute_path": path, "attribute_type": kind, "timestamp": timestamp}
    cells["step"] = None if step is None else Decimal(step).quantize(Decimal("1.000000"))
    return cells | ({COLUMN[kind]: value} if kind in COLUMN else {"string_value": value})


def every_type():
    """Rows of a run with each type of attribute; decimal steps down to the millionth, a fork, a step that is missing."""
    return [
        row("sys/creation_time", "datetime", MADE),
        row("sys/name", "string", "trees"),
        row("sys/failed", "bool", False),
        row("sys/tags", "string_set", ["a", "b, c"]),
        row("sys/forking/parent", "string", "RUN-0"),
        row("sys/forking/step", "float", 10.5),
        row("lr", "float", 0.1),
        row("depth", "int", 6),
        row("model/name", "string", "gbt"),
        row("model/deep", "bool", True),
        row("data/until", "datetime", at(-86400.5)),
        row("data/columns", "string_set", ["x", "y"]),
        *[row("loss", "float_series", 1 / (step + 1), step, at(step)) for step in range(5)],
        *[row("acc", "float_series", step / 8, Decimal(step) / 8, at(step)) for step in range(5)],
        row("acc", "float_series", 0.75, "0.625001", at(9)),
        row("acc", "float_series", 1.0, None, at(10)),
        row("out", "string_series", "hello\nworld", 0, at(1)),
        row("out", "string_series", 'a, "b"', "1.5", at(2)),
        row(
            "weights",
            "histogram_series",
            {"type": "COUNTING", "edges": [0, 1, 2.5], "values": [3, 4]},
            1,
            at(3),
        ),
        row("config.yaml", "file", {"path": "config.yaml"}),
        row("model/weights", "file", {"path": "team/weights.bin"}),
        row("code", "file_set", {"path": "code"}),
        row("data/source", "artifact", {"path": "files_list.json"}),
        row("pictures", "file_series", {"path": "0.png"}, 0, at(4)),
        row("pictures", "file_series", {"path": "1.png"}, "0.5", at(5)),
        row("gone", "file", None),
    ]


def write_files(folder):
    for name in (
        "config.yaml",
        "team/weights.bin",
        "code/a.py",
        "code/sub/b.py",
        "files_list.json",
        "0.png",
        "1.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"content of {name}".encode())


def sanitized(name):
    return "".join(each if each.isalnum() or each in "_-" else "_" for each in name) + (
        "-" + hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    )


def write_dump(folder: Path, rows, *, project=PROJECT, run=RUN, parts=1) -> list[Path]:
    """`folder/data/PROJECT/RUN_part_N.parquet`; returns the parts."""
    place = folder / "data" / sanitized(project)
    place.mkdir(parents=True, exist_ok=True)
    full = [{"project_id": project, "run_id": run} | each for each in rows]
    size, files = -(-len(full) // parts), []
    for part in range(parts):
        file = place / f"{sanitized(run)}_part_{part}.parquet"
        table = pa.Table.from_pylist(full[part * size : (part + 1) * size], schema=SCHEMA)
        pq.write_table(table, file, compression="snappy")
        files.append(file)
    return files
