"""Offline logs of neptune-scale: `run_operations.sqlite3`, with one message of Neptune's protocol per row.

The tables are those of neptune-scale 0.30 (database version v5), the messages those of neptune-api.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError

# pyrefly: ignore[missing-import]
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import SET_OPERATION, Run, UpdateRunSnapshot

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError
from hooke.importers import source

__all__ = ["ScaleOfflineRun", "offline_runs"]

VERSION = "v5"
UPDATE, CREATE = 0, 1
ENDED = "from an offline log: how the run ended is unknown"
PREVIEW = source.Remark("metric values that were previews", "metrics PATH.preview")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOfflineRun:
    """One run, in the databases of all processes that logged into it; see `ImportSource`."""

    project: str
    run: str
    files: list[Path]
    roots: tuple[Path, ...]
    kind: str = "an offline log of neptune-scale"

    def fingerprint(self) -> list[tuple[str, int]]:
        """The number of operations in each database. Its size is not enough, because rows wait in the write-ahead log."""
        return [(file.parent.name, _last(file)) for file in self.files]

    def glance(self) -> source.Glance:
        """Reads every operation."""
        scale, began = 1, None
        for file in self.files:
            for _, message in _operations(file):
                if isinstance(message, Run):
                    began = began or (
                        _at(message.creation_time) if message.HasField("creation_time") else None
                    )
                elif scale < source.MICRO and any(
                    value.HasField("float64") for value in message.append.values()
                ):
                    scale = source.finest_of([_micros(message.step)], scale)
        return source.Glance(scale, began, ENDED)

    def items(self) -> Iterator[source.Item]:
        """All items in logged order, metrics in batches."""
        gathered = source.GatheredPoints()
        for file in self.files:
            uploads = _uploads(file, self.roots)
            for number, message in _operations(file):
                with _sound(number, file):  # as a list: an exception of the caller is not the log's fault
                    if isinstance(message, Run):
                        items = list(_created(message))
                    else:
                        items = list(_updated(message, gathered, uploads, file))
                yield from items
                yield from gathered.full()
            yield from _errors(file)
        yield from gathered.rest()


def offline_runs(files: Iterable[Path], roots: tuple[Path, ...]) -> Iterator[ScaleOfflineRun | HookeError]:
    """The runs in these databases, which may share a run; an error for one that cannot be read.

    They may name files below `roots`.
    """
    runs: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        try:
            runs.setdefault(_identity(file), []).append(file)
        except HookeError as error:
            yield error
    for (project, run), found in runs.items():
        yield ScaleOfflineRun(project=project, run=run, files=sorted(found), roots=roots)


def _identity(file: Path) -> tuple[str, str]:
    rows = list(_rows(file, "SELECT version, project, run_id FROM metadata"))
    if not rows:
        raise HookeError(
            "a log of neptune-scale names no run",
            where=str(file),
            why="the client ended before it wrote the run's name",
            fix="move it away: nothing was logged into it",
        )
    version, project, run = rows[0]
    if version != VERSION:
        raise HookeError(
            f"a log of neptune-scale has version {version!r}, but Hooke reads {VERSION!r}",
            where=str(file),
            fix=f"try a newer Hooke ({install_command(upgrade=True)}); otherwise please report it, with the client's version",
        )
    return str(project or ""), str(run or "")


def _operations(file: Path) -> Iterator[tuple[int, Run | UpdateRunSnapshot]]:
    rows = _rows(
        file, "SELECT sequence_id, operation_type, operation FROM run_operations ORDER BY sequence_id"
    )
    for number, kind, blob in rows:
        with _sound(number, file):
            if kind not in (UPDATE, CREATE):
                raise ValueError(f"its type is {kind!r}; known types: {UPDATE}, {CREATE}")
            message = (Run if kind == CREATE else UpdateRunSnapshot).FromString(blob)
        yield number, message


@contextmanager
def _sound(number: int, file: Path) -> Iterator[None]:
    try:
        yield
    except (DecodeError, TypeError, ValueError, OverflowError, OSError) as error:
        raise HookeError(
            f"operation {number} in a log of neptune-scale cannot be read",
            where=str(file),
            why=str(error),
            fix="restore the file from a copy, or select other runs with --run",
        ) from error


def _last(file: Path) -> int:
    ((last,),) = list(_rows(file, "SELECT coalesce(max(sequence_id), 0) FROM run_operations")) or [(0,)]
    return int(last)


def _uploads(file: Path, roots: tuple[Path, ...]) -> dict[str, Path]:
    """Reference -> the file with its content. Temporary files are beside the log, which may have been moved or copied."""
    found = {}
    for uploaded, destination in _rows(file, "SELECT source_path, destination FROM file_upload_requests"):
        named = Path(str(uploaded))
        beside = file.parent / named.name
        there = named.exists() and any(named.resolve().is_relative_to(root.resolve()) for root in roots)
        found[destination] = beside if not there and beside.exists() else named
    return found


def _errors(file: Path) -> Iterator[source.Item]:
    for at, kind, details in _rows(file, "SELECT timestamp, error_type, error_details FROM operation_errors"):
        yield source.Text("neptune/errors", None, at / 1000, f"{kind}: {details}")


def _rows(file: Path, question: str) -> Iterator[tuple[Any, ...]]:
    with _reading(file), closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as opened:
        yield from opened.execute(question)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        locked = "unable to open" in str(error) or "readonly" in str(error)
        raise HookeError(
            "a log of neptune-scale cannot be read",
            where=str(file),
            why=f"SQLite: {error}",
            fix="copy it, with the -wal file beside it, into a writable folder, and import that"
            if locked
            else "restore it from a copy (with the -wal file beside it), or select other runs with --run",
        ) from error


def _created(run: Run) -> Iterator[source.Item]:
    if run.HasField("creation_time"):
        yield source.AttributeValue("sys/creation_time", "datetime", _moment(run.creation_time))
    for name, text in (("sys/name", run.experiment_id), ("sys/family", run.family)):
        if text:
            yield source.AttributeValue(name, "string", text)
    if run.HasField("fork_point"):
        fork = run.fork_point
        yield source.AttributeValue("sys/forking/parent", "string", fork.parent_run_id)
        yield source.AttributeValue("sys/forking/step", "float", _micros(fork.step) / source.MICRO)
        if fork.parent_project:
            yield source.AttributeValue("sys/forking/parent_project", "string", fork.parent_project)


def _updated(
    update: UpdateRunSnapshot, gathered: source.GatheredPoints, uploads: dict[str, Path], file: Path
) -> Iterator[source.Item]:
    at = _at(update.timestamp) if update.HasField("timestamp") else None
    micros = _micros(update.step) if update.HasField("step") else None
    preview = update.preview.is_preview
    for path, value in update.assign.items():
        yield _assigned(path, value, at, uploads, file)
    for path, value in update.append.items():
        if value.WhichOneof("value") == "float64":
            gathered.point(f"{path}.preview" if preview else path, value.float64, micros, at)
            if preview:
                yield PREVIEW
        else:
            yield _appended(path, value, micros, at, uploads, file)
    for path, change in update.modify_sets.items():
        for member, what in change.string.values.items():
            gathered.change(path, [member], added=what == SET_OPERATION.ADD)


def _assigned(path: str, value: Any, at: float | None, uploads: dict[str, Path], file: Path) -> source.Item:
    match value.WhichOneof("value"):
        case "float64":
            return source.AttributeValue(path, "float", value.float64)
        case "int64":
            return source.AttributeValue(path, "int", value.int64)
        case "bool":
            return source.AttributeValue(path, "bool", value.bool)
        case "string":
            return source.AttributeValue(path, "string", value.string)
        case "timestamp":
            return source.AttributeValue(path, "datetime", _moment(value.timestamp))
        case "string_set":
            return source.AttributeValue(path, "string_set", list(value.string_set.values))
        case "file_ref":
            content = uploads.get(value.file_ref.path)
            return source.ImportedFile(path, content, value.file_ref.path, at=at)
        case other:
            raise _unknown(path, other, file)


def _appended(
    path: str, value: Any, micros: int | None, at: float | None, uploads: dict[str, Path], file: Path
) -> source.Item:
    match value.WhichOneof("value"):
        case "string":
            return source.Text(path, micros, at, value.string)
        case "histogram":
            found = value.histogram
            kind = str(found.WhichOneof("values"))
            return source.Histogram(
                path, micros, at, kind, list(found.bin_edges), list(getattr(found, kind).values)
            )
        case "file_ref":
            content = uploads.get(value.file_ref.path)
            return source.ImportedFile(path, content, value.file_ref.path, series=True, micros=micros, at=at)
        case other:
            raise _unknown(path, other, file)


def _unknown(path: str, kind: object, file: Path) -> HookeError:
    return HookeError(
        f"attribute {path!r} has the unknown type {kind or '(not in neptune-api)'}",
        where=str(file),
        fix="try a newer neptune-api (pip install --upgrade neptune-api); otherwise please report it",
    )


def _micros(step: Any) -> int:
    return int(step.whole) * source.MICRO + int(step.micro)


def _at(when: Any) -> float:
    return float(when.seconds + when.nanos / 1e9)


def _moment(when: Any) -> datetime:
    return datetime.fromtimestamp(when.seconds, UTC) + timedelta(microseconds=when.nanos // 1000)
