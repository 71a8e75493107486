"""Writes what a reader gives as a run of Hooke: a journal with the times of then, and artifacts beside it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, cast

from hooke.base.errors import HookeError
from hooke.base.files import write_atomic
from hooke.journal.events import ArtifactLogged, NotesLogged, PointsLogged, RunFinished, RunStarted
from hooke.journal.writer import Journal
from hooke.project.importing.losses import FORK_PATH, Losses
from hooke.project.importing.source import (
    MICRO,
    File,
    Glance,
    Histogram,
    Item,
    Points,
    Remark,
    Source,
    Text,
    Value,
    exact_step,
)
from hooke.project.importing.tables import CsvTable, JsonTable, Tables
from hooke.tracking.tracker import ARTIFACTS, PREFIX

__all__ = ["NOT_THERE", "Landing", "run_id"]

MOST_POINTS = 2000
"""Points in one event: a record of 100 kB."""
MOST_NAME = 150
"""Bytes of a part of an artifact's path; what is longer is cut, and told apart by a digest."""
SYSTEM = "sys/"
"""What the tracker itself says of a run is under this."""
NOT_THERE = Remark("files that are not where the export says", "not kept: --skip-missing was given")


class Landing:
    """One run being written into `folder`, which is its alone and holds nothing yet. `finish` makes it whole."""

    def __init__(self, source: Source, folder: Path, *, multiplier: int, glance: Glance) -> None:
        self.losses = Losses(multipliers={multiplier})
        self._source = source
        self._folder = folder
        self._multiplier = multiplier
        self._glance = glance
        self._first: float | None = None
        self._last: float | None = None
        self._otherwise = glance.began if glance.began is not None else _newest(source.files)
        self._values: dict[str, Value] = {}
        self._steps: dict[str, int] = {}
        self._tables = Tables()
        self._named: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._folders: set[str] = set()
        self._kept = 0
        self._journal = Journal.create(folder, f"{PREFIX}import")

    def take(self, item: Item, *, skip_missing: bool) -> None:
        """Keep one item. Raises HookeError for a file that is not there, unless they are to be skipped; OSError."""
        self.losses.see(item)
        match item:
            case Points():
                self._points(item)
            case Value():
                self._values[item.path] = item
            case Text():
                row = (exact_step(item.micros), self._moment(item.at), item.value)
                self._row(item.path, CsvTable, ("step", "time", "value"), row)
            case Histogram():
                row = (exact_step(item.micros), self._moment(item.at), item.kind, item.edges, item.values)
                self._row(item.path, JsonTable, ("step", "time", "type", "edges", "values"), row)
            case File():
                self._file(item, skip_missing=skip_missing)
            case Remark():
                pass

    def finish(self, run: str, experiment: str) -> None:
        """Write what ends a run. Raises JournalError, OSError."""
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
        with Journal.create(self._folder, "driver") as driver:
            driver.append(
                RunStarted(
                    at=_at(began),
                    run=run,
                    pipeline=self._source.project or "neptune",
                    entry=str(self._source.files[0]),
                    place="Neptune",
                    host=str(self._value("sys/hostname") or ""),
                    hooke=version("hooke"),
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
        """Let go of the journal, whole or not."""
        self._journal.close()

    def _points(self, points: Points) -> None:
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
        """Steps, with those that are None counted on by name."""
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

    def _file(self, file: File, *, skip_missing: bool) -> None:
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
        """Write a file; `owner` is the attribute it is the value of, empty for one of a series."""
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
        """The path, or one like it where another attribute, or another value of a series, has it already.

        Nor is a file's path the folder of another: trackers keep both as files.
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
        """Where to write the file of an artifact: under its name, in a folder of its own."""
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
        """Seconds since the epoch for a table, to the microsecond and no further; empty where nobody knows."""
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
                ["| what MLflow has no place for | how many | how it is kept |", "|---|---:|---|"]
                + [f"| {row} |" for row in rows]
            )
            if rows
            else "MLflow has a place for all of it.",
        ]
        if absent:
            parts += ["## Files that are not here", "\n".join(absent)]
        return "\n\n".join(parts) + "\n"


def run_id(project: str, run: str) -> str:
    """The id here of a run there: always the same one."""
    slug = re.sub(r"[^\w.-]+", "-", run, flags=re.ASCII).strip("-.")[:40] or "run"
    both = f"{project}\0{run}".encode("utf-8", "surrogatepass")
    return f"{slug}-{hashlib.blake2b(both, digest_size=6).hexdigest()}"


def _writer(content: Path | bytes) -> Callable[[Path], object]:
    if isinstance(content, bytes):
        return lambda target: target.write_bytes(content)
    return lambda target: shutil.copyfile(content, target)


def _free(name: str, taken: Callable[[str], bool]) -> str:
    """The name, or the first of `NAME-2`, `NAME-3`, ... that nothing has."""
    number, found = 1, name
    while taken(found):
        number += 1
        found = f"{name}-{number}"
    return found


def _safe(path: str) -> str:
    """A path as an artifact may have it: below the run's own, and no part too long for a disk."""
    return "/".join(map(_part, path.replace("\0", "_").split("/")))


def _part(part: str) -> str:
    if part in ("", ".", ".."):
        return "_"
    data = part.encode("utf-8", "backslashreplace")  # what was never text is no file's name either
    if len(data) <= MOST_NAME:
        return data.decode()
    suffix = PurePosixPath(part).suffix.encode("ascii", "ignore")[:16].decode()
    start = data[: MOST_NAME - 32].decode("utf-8", "ignore")
    return f"{start}-{hashlib.blake2b(data, digest_size=6).hexdigest()}{suffix}"


def _attributes(values: dict[str, Value]) -> str:
    facts = {
        path: {"type": value.kind, "value": _plain(value.value)} for path, value in sorted(values.items())
    }
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(_plain(value))


def _at(at: float) -> float:
    """A time for an event: 0 would mean now."""
    return at or 1e-6


def _newest(files: list[Path]) -> float:
    return max(file.stat().st_mtime for file in files)


def _missing(attribute: str, file: Path) -> HookeError:
    return HookeError(
        f"the file of attribute {attribute!r} is not there",
        where=str(file),
        mend="put it back, or say with --files where the exported files lie; --skip-missing imports the run without it",
    )
