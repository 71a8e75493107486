"""Writes an imported run: a journal with the original times, and artifacts beside it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, cast

from hooke.base.distributions import HOOKE_VERSION
from hooke.base.errors import HookeError
from hooke.base.files import write_atomic
from hooke.base.formats import aligned
from hooke.importers.source import (
    MICRO,
    AttributeValue,
    Glance,
    Histogram,
    ImportedFile,
    ImportedPoints,
    ImportSource,
    Item,
    Remark,
    Text,
    exact_step,
)
from hooke.journal.events import ArtifactLogged, NotesLogged, PointsLogged, RunFinished, RunStarted
from hooke.journal.writer import Journal
from hooke.tracking.tracker import ARTIFACTS, PREFIX

__all__ = ["COLUMNS", "NOT_THERE", "CsvTable", "JsonTable", "Landing", "Losses", "Tables", "run_id"]


# --- What MLflow cannot represent of an imported run, counted, and how it is kept.

COLUMNS = ("not representable in MLflow", "count", "how it is kept")

DECIMAL_STEPS = "metric values at decimal steps"
NO_STEP = "metric values without a step"
NO_TIME = "values without a time"
TEXTS = "values of text series"
HISTOGRAMS = "values of histogram series"
FILES = "files of file series"
SETS = "sets of strings"
TYPED = "parameters that are not text"
FORKS = "forks of another run"
ABSENT = "files that the export itself lacks"

HOW = {
    DECIMAL_STEPS: "step times {multiplier}, exact; the multiplier is in the tag neptune.step_multiplier",
    NO_STEP: "the next step of the metric",
    NO_TIME: "at the run's start time",
    TEXTS: "one CSV artifact per series: step, time, value",
    HISTOGRAMS: "one JSON table per series: step, time, type, edges, values",
    FILES: "artifacts PATH/step_N",
    SETS: "a tag, members separated by commas; exact in neptune/attributes.json",
    TYPED: "as text; with their types in neptune/attributes.json",
    FORKS: "tags neptune.parent and neptune.sys/forking/...; points before the fork stay in the parent",
    ABSENT: "not kept; neptune/report.md lists their attributes",
}
FORK_PATH = "sys/forking/parent"


@dataclass(slots=True)
class Losses:
    """Counts by kind, of one or several runs."""

    counts: Counter[str] = field(default_factory=Counter)
    how: dict[str, str] = field(default_factory=dict)
    multipliers: set[int] = field(default_factory=set)
    absent: list[str] = field(default_factory=list)
    """Attributes whose files are missing."""
    values: Counter[str] = field(default_factory=Counter)
    """Totals of logged points, attributes and files."""

    def see(self, item: Item) -> None:
        """Count one item."""
        match item:
            case ImportedPoints():
                self._see_points(item)
            case AttributeValue():
                self._see_value(item)
            case Text():
                self._count(TEXTS)
            case Histogram():
                self._count(HISTOGRAMS)
            case ImportedFile():
                self.values["files"] += 1
                if item.content is None:
                    self._count(ABSENT)
                    self.absent.append(item.path)
                elif item.series:
                    self._count(FILES)
            case Remark():
                self._count(item.kind)
                self.how[item.kind] = item.how

    def add(self, other: Losses) -> None:
        """Add the counts of another run."""
        self.counts.update(other.counts)
        self.values.update(other.values)
        self.how.update(other.how)
        self.multipliers |= other.multipliers

    def rows(self) -> Iterable[tuple[str, str, str]]:
        """(kind, count, how it is kept), in descending order of count."""
        by = "N" if len(self.multipliers) > 1 else str(next(iter(self.multipliers), 1))
        for kind, count in sorted(self.counts.items(), key=lambda each: (-each[1], each[0])):
            yield kind, f"{count:,}", self.how.get(kind) or HOW[kind].format(multiplier=by)

    def table(self) -> list[str]:
        """The table's lines; empty if nothing was lost."""
        return aligned(COLUMNS, list(self.rows()), right=(1,)) if self.counts else []

    def _count(self, kind: str, count: int = 1) -> None:
        if count:
            self.counts[kind] += count

    def _see_points(self, points: ImportedPoints) -> None:
        self.values["points"] += len(points.names)
        self._count(
            DECIMAL_STEPS, sum(1 for micros in points.micros if micros is not None and micros % MICRO)
        )
        self._count(NO_STEP, points.micros.count(None))
        self._count(NO_TIME, points.times.count(None))

    def _see_value(self, value: AttributeValue) -> None:
        self.values["attributes"] += 1
        if isinstance(value.value, list):
            self._count(SETS)
        elif not isinstance(value.value, str):
            self._count(TYPED)
        if value.path == FORK_PATH:
            self._count(FORKS)


# --- Table files that grow by rows during an import, with few rows in memory.

MOST_CHARACTERS = 4_000_000
"""Characters of rows in memory, for all tables together."""


class CsvTable:
    """A table as CSV."""

    suffix = ".csv"
    end = ""

    @staticmethod
    def begin(columns: Sequence[str]) -> str:
        """The text before the rows."""
        return CsvTable.row(columns, first=True)

    @staticmethod
    def row(cells: Sequence[Any], *, first: bool) -> str:  # noqa: ARG004 - same signature as JsonTable.row
        """The text of one row."""
        file = io.StringIO(newline="")
        csv.writer(file).writerow(cells)  # the default line end, so that a bare \\r is quoted
        return file.getvalue()


class JsonTable:
    """A table as JSON, `{"columns": [...], "data": [...]}`, which MLflow's pages show as a table."""

    suffix = ".json"
    end = "\n]}\n"

    @staticmethod
    def begin(columns: Sequence[str]) -> str:
        """The text before the rows."""
        return f'{{"columns": {json.dumps(list(columns))}, "data": ['

    @staticmethod
    def row(cells: Sequence[Any], *, first: bool) -> str:
        """The text of one row."""
        return ("\n" if first else ",\n") + json.dumps(list(cells))


class Tables:
    """Open tables by name."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self._files: dict[str, Path] = {}
        self._forms: dict[str, type[CsvTable | JsonTable]] = {}
        self._waiting: dict[str, list[str]] = {}
        self._characters = 0

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def open(self, name: str, file: Path, form: type[CsvTable | JsonTable], columns: Sequence[str]) -> None:
        """Start a table in a new file."""
        self._files[name], self._forms[name], self.rows[name] = file, form, 0
        self._waiting[name] = [form.begin(columns)]

    def add(self, name: str, *cells: Any) -> None:
        """Add a row to an open table. Raises OSError if the disk refuses."""
        row = self._forms[name].row(cells, first=self.rows[name] == 0)
        self._waiting[name].append(row)
        self.rows[name] += 1
        self._characters += len(row)
        if self._characters > MOST_CHARACTERS:
            self._write()

    def close(self) -> dict[str, Path]:
        """Finish all tables and return the files by name. Raises OSError."""
        for name, form in self._forms.items():
            self._waiting[name].append(form.end)
        self._write()
        return self._files

    def _write(self) -> None:
        for name, waiting in self._waiting.items():
            if waiting:
                with self._files[name].open(
                    "a", encoding="utf-8", errors="backslashreplace", newline=""
                ) as file:
                    file.writelines(waiting)
                waiting.clear()
        self._characters = 0


MOST_POINTS = 2000
"""Points in one event, which then has 100 kB."""
MOST_NAME = 150
"""Bytes of a part of an artifact's path; longer parts are cut and get a digest."""
SYSTEM = "sys/"
"""Prefix of the tracker's own attributes of a run."""
NOT_THERE = Remark("files that are not where the export says", "not kept, because of --skip-missing")


class Landing:
    """Writes one run into `folder`, which must be empty. `finish` completes it."""

    def __init__(self, source: ImportSource, folder: Path, *, multiplier: int, glance: Glance) -> None:
        self.losses = Losses(multipliers={multiplier})
        self._source = source
        self._folder = folder
        self._multiplier = multiplier
        self._glance = glance
        self._first: float | None = None
        self._last: float | None = None
        self._otherwise = glance.began if glance.began is not None else _newest(source.files)
        self._values: dict[str, AttributeValue] = {}
        self._steps: dict[str, int] = {}
        self._tables = Tables()
        self._named: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._folders: set[str] = set()
        self._kept = 0
        self._journal = Journal.create(folder, f"{PREFIX}import")

    def take(self, item: Item, *, skip_missing: bool) -> None:
        """Write one item. Raises HookeError for a missing file, unless these are skipped; OSError."""
        self.losses.see(item)
        match item:
            case ImportedPoints():
                self._points(item)
            case AttributeValue():
                self._values[item.path] = item
            case Text():
                row = (exact_step(item.micros), self._moment(item.at), item.value)
                self._row(item.path, CsvTable, ("step", "time", "value"), row)
            case Histogram():
                row = (exact_step(item.micros), self._moment(item.at), item.kind, item.edges, item.values)
                self._row(item.path, JsonTable, ("step", "time", "type", "edges", "values"), row)
            case ImportedFile():
                self._file(item, skip_missing=skip_missing)
            case Remark():
                pass

    def finish(self, run: str, experiment: str) -> None:
        """Write the end of the run. Raises JournalError, OSError."""
        began = self._began()
        for name, file in self._tables.close().items():
            self._artifact(self._named[name], file, began)
        self._made("neptune/attributes.json", _attributes(self._values), began)
        self._made("neptune/report.md", self._report(), began)
        params, tags = self._notes()
        self._journal.append(NotesLogged(at=_at(began), params=params, tags=tags))
        self._journal.close()
        ended = max(began, self._last or began)
        failed = self._value("sys/failed") is True
        # Not `open_run`: the run began elsewhere, at its own time, and this process does not drive it.
        with Journal.create(self._folder, "driver") as driver:
            driver.append(
                RunStarted(
                    at=_at(began),
                    run=run,
                    pipeline=self._source.project or "neptune",
                    entry=str(self._source.files[0]),
                    place="Neptune",
                    host=str(self._value("sys/hostname") or ""),
                    hooke=HOOKE_VERSION,
                    kind="imported",
                    experiment=experiment or self._source.project or "neptune",
                )
            )
            driver.append(
                RunFinished(
                    at=_at(ended),
                    status="failed" if failed else "finished",
                    message="the run was marked as failed in Neptune" if failed else self._glance.ended,
                    seconds=ended - began,
                )
            )

    def close(self) -> None:
        """Close the journal, complete or not."""
        self._journal.close()

    def _points(self, points: ImportedPoints) -> None:
        micros = self._counted(points.names, points.micros)
        steps = micros if self._multiplier == MICRO else [each * self._multiplier // MICRO for each in micros]
        times = [self._otherwise if at is None else at for at in points.times]
        rows = list(zip(points.names, points.values, steps, strict=True))
        for start in range(0, len(rows), MOST_POINTS):
            own = tuple(times[start : start + MOST_POINTS])
            some = tuple(rows[start : start + MOST_POINTS])
            self._journal.append(PointsLogged(at=_at(own[0]), points=some, times=own))
        if times:
            self._seen(min(times))
            self._seen(max(times))

    def _counted(self, names: list[str], micros: Sequence[int | None]) -> list[int]:
        """The steps, where None becomes the metric's next step."""
        if None not in micros:
            whole = cast("list[int]", micros)
            self._steps.update(zip(names, whole, strict=True))
            return whole
        found: list[int] = []
        for name, each in zip(names, micros, strict=True):
            step = self._steps.get(name, -MICRO) + MICRO if each is None else each
            self._steps[name] = step
            found.append(step)
        return found

    def _row(
        self, path: str, form: type[CsvTable | JsonTable], columns: tuple[str, ...], row: tuple[Any, ...]
    ) -> None:
        if path not in self._tables:
            self._named[path] = self._own(f"{_safe(path)}{form.suffix}", path)
            self._tables.open(path, self._place(self._named[path]), form, columns)
        self._tables.add(path, *row)

    def _file(self, file: ImportedFile, *, skip_missing: bool) -> None:
        if file.content is None:
            return
        if isinstance(file.content, Path) and not file.content.exists():
            if not skip_missing:
                raise _missing(file.path, file.content)
            self.losses.see(NOT_THERE)
            self.losses.absent.append(file.path)
            return
        at = self._seen(file.at)
        if isinstance(file.content, Path) and file.content.is_dir():
            for each in sorted(one for one in file.content.rglob("*") if one.is_file()):
                path = _safe(f"{file.path}/{each.relative_to(file.content).as_posix()}")
                self._keep(path, file.path, at, _writer(each))
            return
        suffix = PurePosixPath(file.name).suffix
        path = file.path
        if file.series:
            (step,) = self._counted([file.path], [file.micros])
            path = f"{file.path}/step_{exact_step(step)}"
        if file.series or PurePosixPath(path).suffix != suffix:
            path += suffix
        self._keep(_safe(path), "" if file.series else file.path, at, _writer(file.content))

    def _keep(self, path: str, owner: str, at: float, write: Callable[[Path], object]) -> None:
        """Write a file. `owner` is its attribute; empty for a file of a series."""
        path = self._own(path, owner)
        place = self._place(path)
        write(place)
        self._artifact(path, place, at)

    def _made(self, path: str, text: str, at: float) -> None:
        self._keep(
            path, path, at, lambda target: write_atomic(target, text.encode("utf-8", "backslashreplace"))
        )

    def _artifact(self, path: str, file: Path, at: float) -> None:
        where = file.relative_to(self._folder).as_posix()
        self._journal.append(ArtifactLogged(at=_at(at), path=path, file=where, size=file.stat().st_size))

    def _own(self, path: str, owner: str) -> str:
        """A unique path: the given one, or a similar one if another attribute or value of a series has it.

        A file's path must not be a folder of another file either.
        """
        *folders, name = path.split("/")
        above: list[str] = []
        for each in folders:
            above.append(_free(each, lambda one: "/".join([*above, one]) in self._owners))
        stem, suffix = name.removesuffix(PurePosixPath(name).suffix), PurePosixPath(name).suffix

        def taken(one: str) -> bool:
            full = "/".join([*above, f"{one}{suffix}"])
            known = self._owners.get(full)
            return full in self._folders or (known is not None and (not owner or known != owner))

        path = "/".join([*above, f"{_free(stem, taken)}{suffix}"])
        self._folders.update("/".join(above[:depth]) for depth in range(1, len(above) + 1))
        self._owners[path] = owner
        return path

    def _place(self, path: str) -> Path:
        """Where to write an artifact's file: under its name, in its own folder."""
        self._kept += 1
        place = self._folder / ARTIFACTS / "run" / str(self._kept) / PurePosixPath(path).name
        place.parent.mkdir(parents=True)
        return place

    def _seen(self, at: float | None) -> float:
        if at is None:
            return self._otherwise
        self._first = at if self._first is None else min(self._first, at)
        self._last = at if self._last is None else max(self._last, at)
        return at

    def _moment(self, at: float | None) -> str:
        """Seconds since the epoch for a table, to the microsecond; empty if unknown."""
        return "" if at is None else f"{self._seen(at):.6f}".rstrip("0").rstrip(".")

    def _began(self) -> float:
        if self._glance.began is not None:
            return self._glance.began
        return self._otherwise if self._first is None else self._first

    def _value(self, path: str) -> Any:
        value = self._values.get(path)
        return value.value if value is not None else None

    def _notes(self) -> tuple[dict[str, str], dict[str, str]]:
        source = self._source
        params: dict[str, str] = {}
        tags = {"neptune.project": source.project, "neptune.run": source.run, "neptune.source": source.kind}
        if self._multiplier > 1:
            tags["neptune.step_multiplier"] = str(self._multiplier)
        if isinstance(parent := self._value(FORK_PATH), str):
            tags["neptune.parent"] = run_id(source.project, parent)
        for path, value in self._values.items():
            if path.startswith(SYSTEM):
                tags[f"neptune.{path}"] = _text(value.value)
            elif isinstance(value.value, list):
                tags[path] = _text(value.value)
            else:
                params[path] = _text(value.value)
        return params, {name: text for name, text in tags.items() if text}

    def _report(self) -> str:
        rows = [" | ".join(cells) for cells in self.losses.rows()]
        absent = [f"- {path}" for path in self.losses.absent]
        parts = [
            f"# Run {self._source.run} of {self._source.project or 'no project'}",
            f"Imported from {self._source.kind}: {', '.join(str(file) for file in self._source.files)}",
            "\n".join(
                ["| not representable in MLflow | count | how it is kept |", "|---|---:|---|"]
                + [f"| {row} |" for row in rows]
            )
            if rows
            else "MLflow can represent everything.",
        ]
        if absent:
            parts += ["## Missing files", "\n".join(absent)]
        return "\n\n".join(parts) + "\n"


def run_id(project: str, run: str) -> str:
    """The run's id in Hooke, which is always the same for a run in the tracker."""
    slug = re.sub(r"[^\w.-]+", "-", run, flags=re.ASCII).strip("-.")[:40] or "run"
    both = f"{project}\0{run}".encode("utf-8", "surrogatepass")
    return f"{slug}-{hashlib.blake2b(both, digest_size=6).hexdigest()}"


def _writer(content: Path | bytes) -> Callable[[Path], object]:
    if isinstance(content, bytes):
        return lambda target: target.write_bytes(content)
    return lambda target: shutil.copyfile(content, target)


def _free(name: str, taken: Callable[[str], bool]) -> str:
    """The name, or the first unused of `NAME-2`, `NAME-3`, ..."""
    number, found = 1, name
    while taken(found):
        number += 1
        found = f"{name}-{number}"
    return found


def _safe(path: str) -> str:
    """A valid artifact path: relative, with parts that are not too long for a file name."""
    return "/".join(map(_part, path.replace("\0", "_").split("/")))


def _part(part: str) -> str:
    if part in ("", ".", ".."):
        return "_"
    data = part.encode("utf-8", "backslashreplace")  # unpaired surrogates are not valid in file names
    if len(data) <= MOST_NAME:
        return data.decode()
    suffix = PurePosixPath(part).suffix.encode("ascii", "ignore")[:16].decode()
    start = data[: MOST_NAME - 32].decode("utf-8", "ignore")
    return f"{start}-{hashlib.blake2b(data, digest_size=6).hexdigest()}{suffix}"


def _attributes(values: dict[str, AttributeValue]) -> str:
    facts = {
        path: {"type": value.kind, "value": _plain(value.value)} for path, value in sorted(values.items())
    }
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(_plain(value))


def _at(at: float) -> float:
    """A time for an event; 0 would mean now."""
    return at or 1e-6


def _newest(files: list[Path]) -> float:
    return max(file.stat().st_mtime for file in files)


def _missing(attribute: str, file: Path) -> HookeError:
    return HookeError(
        f"the file of attribute {attribute!r} is missing",
        where=str(file),
        fix="restore it, or give the folder of exported files with --files; --skip-missing imports the run without it",
    )
