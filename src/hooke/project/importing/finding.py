"""Which runs of Neptune lie below a path: parts of a dump, and logs that were never sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.project.importing.neptune_classic import is_log
from hooke.project.importing.neptune_classic import offline_runs as classic_runs
from hooke.project.importing.source import Source

__all__ = ["Found", "find"]

DATABASE = "run_operations.sqlite3"


@dataclass(slots=True)
class Found:
    """Runs, the dump's first, and what looks like one and cannot be read."""

    sources: list[Source] = field(default_factory=list)
    broken: list[HookeError] = field(default_factory=list)

    def add(self, several: Iterable[Source | HookeError]) -> None:
        """Sort them by what they are."""
        for each in several:
            (self.broken if isinstance(each, HookeError) else self.sources).append(each)  # type: ignore[arg-type]


def find(path: Path, files: Path | None = None) -> Found:
    """All runs at `path`: a dump's folder (or the one with its `data` and `files`), a log, or a folder with some below.

    Raises UsageError where there is neither; MissingExtra.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder", mend=WHAT)
    if files is not None and not files.is_dir():
        raise UsageError(f"--files {files}: there is no such folder")
    found = Found()
    _find_dump(path, files, found)
    _find_logs(path, found)
    if not found.sources and not found.broken:
        raise UsageError(
            "there is nothing of Neptune to import",
            where=str(path),
            why="below it is no PROJECT/RUN_part_N.parquet, no run_operations.sqlite3 and no run__ID/data-N.log",
            mend=WHAT,
        )
    return found


WHAT = (
    "name what `neptune-exporter export` wrote (the folder with data/ and files/, or --data-path with --files), "
    "or a folder with offline logs (.neptune, or the log_directory of neptune-scale)"
)


def _find_dump(path: Path, files: Path | None, found: Found) -> None:
    parts = [path] if path.suffix == ".parquet" else []
    data = path
    if path.is_dir():
        data = path / "data" if (path / "data").is_dir() else path
        parts = sorted({*data.glob("*_part_*.parquet"), *data.glob("*/*_part_*.parquet")})
        found.add(_cut_off([*data.glob("*_part_*.parquet.tmp"), *data.glob("*/*_part_*.parquet.tmp")]))
    if not parts:
        return
    try:
        from hooke.project.importing.neptune_dump import PART, dumped_runs
    except ModuleNotFoundError as error:
        raise _missing("a dump of neptune-exporter", error) from error
    runs: dict[str, list[tuple[int, Path]]] = {}
    for file in parts:
        if (named := PART.fullmatch(file.name)) is not None:
            runs.setdefault(str(file.parent / named[1]), []).append((int(named[2]), file))
    sorted_parts = {prefix: [file for _, file in sorted(some)] for prefix, some in runs.items()}
    found.add(dumped_runs(sorted_parts, files or _files_beside(data)))


def _cut_off(files: list[Path]) -> Iterator[HookeError]:
    for file in sorted(files):
        yield HookeError(
            "a part of a dump was not finished when its export ended",
            where=str(file),
            why="neptune-exporter takes .tmp off when a run is complete",
            mend="rename it without .tmp to import what is whole of it, or move it away",
        )


def _find_logs(path: Path, found: Found) -> None:
    databases: list[Path] = []
    logs: list[Path] = []
    for folder, _, names in os.walk(path) if path.is_dir() else [(path.parent, (), [path.name])]:
        for name in names:
            if name == DATABASE or (not path.is_dir() and name.endswith(".sqlite3")):
                databases.append(Path(folder, name))
            elif is_log(Path(folder, name)):
                logs.append(Path(folder, name))
    found.add(classic_runs(sorted(logs)))
    if not databases:
        return
    try:
        from hooke.project.importing.neptune_scale import offline_runs
    except ModuleNotFoundError as error:
        raise _missing("a log of neptune-scale", error) from error
    found.add(offline_runs(sorted(databases)))


def _missing(what: str, error: ModuleNotFoundError) -> Exception:
    """What to raise for a library that is not there."""
    if (error.name or "").partition(".")[0] not in ("pyarrow", "neptune_api", "google"):
        return error
    return MissingExtra(
        f"{what} needs {error.name}, which is not installed",
        why=str(error),
        mend='pip install "hooke[neptune]"',
    )


def _files_beside(data: Path) -> Path:
    """The exporter's default: `files` beside `data`; else the files are with the data."""
    for candidate in (data.parent / "files", data / "files", data.parent.parent / "files"):
        if candidate.is_dir():
            return candidate
    return data
