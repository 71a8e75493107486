"""Imports Neptune's runs: finds them in a folder, selects them, and imports them one by one, each completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError, JournalError, MissingExtra, UsageError
from hooke.base.files import FileLock, sync_path, write_atomic
from hooke.importers.landing import NOT_THERE, Landing, Losses, run_id
from hooke.importers.neptune_classic import is_log
from hooke.importers.neptune_classic import offline_runs as classic_runs
from hooke.importers.source import ImportedFile, ImportSource, Item, allowed
from hooke.processes.start import Interrupts
from hooke.project.folder import Project

__all__ = ["Found", "ImportOptions", "ImportedRun", "find", "import_neptune"]


# --- Finding runs below a path: dumps, and offline logs that were never sent.

DATABASE = "run_operations.sqlite3"


@dataclass(slots=True)
class Found:
    """The runs found, those of dumps first, and errors for those that cannot be read."""

    sources: list[ImportSource] = field(default_factory=list)
    broken: list[HookeError] = field(default_factory=list)

    def add(self, several: Iterable[ImportSource | HookeError]) -> None:
        """Add runs and errors."""
        for each in several:
            (self.broken if isinstance(each, HookeError) else self.sources).append(each)  # type: ignore[arg-type]


def find(path: Path, files: Path | None = None) -> Found:
    """All runs at `path`: a dump's folder (or its parent with `data` and `files`), a log, or a folder with some below.

    Raises UsageError if there are none; MissingExtra.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder", fix=WHAT)
    if files is not None and not files.is_dir():
        raise UsageError(f"--files {files}: no such folder")
    found = Found()
    _find_dump(path, files, found)
    _find_logs(path, found, files)
    if not found.sources and not found.broken:
        raise UsageError(
            "there are no Neptune runs to import",
            where=str(path),
            why="it has no PROJECT/RUN_part_N.parquet, run_operations.sqlite3 or run__ID/data-N.log",
            fix=WHAT,
        )
    return found


WHAT = (
    "give the folder that `neptune-exporter export` wrote (with data/ and files/, or its --data-path with --files), "
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
        from hooke.importers.neptune_dump import PART, dumped_runs
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
            "a part of a dump is incomplete: its export did not finish",
            where=str(file),
            why="neptune-exporter removes .tmp when a run is complete",
            fix="rename it without .tmp to import its complete rows, or move it away",
        )


def _find_logs(path: Path, found: Found, files: Path | None) -> None:
    root = path if path.is_dir() else path.parent
    roots = (root, *([files] if files is not None else []))
    databases: list[Path] = []
    logs: list[Path] = []
    for folder, _, names in os.walk(path) if path.is_dir() else [(root, (), [path.name])]:
        for name in names:
            if name == DATABASE or (not path.is_dir() and name.endswith(".sqlite3")):
                databases.append(Path(folder, name))
            elif is_log(Path(folder, name)):
                logs.append(Path(folder, name))
    found.add(classic_runs(sorted(logs), roots))
    if not databases:
        return
    try:
        from hooke.importers.neptune_scale import offline_runs
    except ModuleNotFoundError as error:
        raise _missing("a log of neptune-scale", error) from error
    found.add(offline_runs(sorted(databases), roots))


def _missing(what: str, error: ModuleNotFoundError) -> Exception:
    """The error for a missing library."""
    if (error.name or "").partition(".")[0] not in ("pyarrow", "neptune_api", "google"):
        return error
    return MissingExtra(
        f"{what} needs {error.name}, which is not installed",
        why=str(error),
        fix=install_command("neptune"),
    )


def _files_beside(data: Path) -> Path:
    """The folder of files: by the exporter's default `files` beside `data`, else the data folder."""
    for candidate in (data.parent / "files", data / "files", data.parent.parent / "files"):
        if candidate.is_dir():
            return candidate
    return data


RECORD = "import.json"
"""In a run's folder: its source."""
LOCK = "import.lock"
IN_PROGRESS = "importing"
"""In the project's data: runs that are being imported. The next import removes what a killed one left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What to import, and how. Patterns are shell patterns; none means all."""

    path: Path
    files: Path | None = None
    """The folder of a dump's files, if not beside its data; or one outside the logs with files that they may name."""
    projects: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    experiment: str = ""
    step_multiplier: int | None = None
    """For all runs; None means the smallest one for each run."""
    skip_missing: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRun:
    """The result for one run: `imported`, `there` (imported earlier), `changed` since it was imported, `failed`, or `found`."""

    state: str
    project: str = ""
    neptune_run: str = ""
    run: str = ""
    kind: str = ""
    losses: Losses = field(default_factory=Losses)
    error: HookeError | None = None


def import_neptune(project: Project, wanted: ImportOptions) -> Iterator[ImportedRun]:
    """Import the selected runs, one at a time. A run that cannot be imported is `failed`, and the others continue.

    Raises UsageError if nothing matches or another import is running, MissingExtra, HookeError for other files.
    """
    found = find(wanted.path.resolve(), wanted.files.resolve() if wanted.files is not None else None)
    chosen = _chosen(found, wanted)
    if wanted.dry_run:
        yield from (_failed(error) for error in found.broken)
        for source in chosen:
            yield from _import(project, source, wanted)
        return
    project.create()
    lock = FileLock(project.data / LOCK)
    if not lock.try_acquire():
        raise UsageError(
            "another import is running in this project",
            where=str(lock.path),
            fix="wait until it ends, then import again: runs that are already imported are skipped",
        )
    try:
        shutil.rmtree(project.data / IN_PROGRESS, ignore_errors=True)
        yield from (_failed(error) for error in found.broken)
        for source in chosen:
            yield from _import(project, source, wanted)
    finally:
        shutil.rmtree(project.data / IN_PROGRESS, ignore_errors=True)
        lock.release()


def _chosen(found: Found, wanted: ImportOptions) -> list[ImportSource]:
    chosen = [
        source
        for source in found.sources
        if _fits(source.project, wanted.projects) and _fits(source.run, wanted.runs)
    ]
    if not chosen and found.sources:
        known = sorted({f"{source.project or '(no project)'}: {source.run}" for source in found.sources})
        more = f" and {len(known) - 10} more" if len(known) > 10 else ""
        raise UsageError(
            "no run matches --from-project and --run",
            where=str(wanted.path),
            fix=f"valid: {'; '.join(known[:10])}{more}",
        )
    return chosen


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _import(project: Project, source: ImportSource, wanted: ImportOptions) -> Iterator[ImportedRun]:
    """The one run. Ctrl-C waits from the moment that it is in its place until the caller knows of it."""
    run = run_id(source.project, source.run)
    facts = {"project": source.project, "neptune_run": source.run, "run": run, "kind": source.kind}
    folder = project.data / IN_PROGRESS / run
    try:
        before, fingerprint = _before(project, run), _fingerprint(source)
        if before is not None:
            yield ImportedRun(state="there" if before == fingerprint else "changed", **facts)
            return
        if wanted.dry_run:
            yield ImportedRun(state="found", losses=_expected_losses(source, wanted), **facts)
            return
        losses = _land(source, folder, wanted, run)
        write_atomic(folder / RECORD, json.dumps(_record(source, fingerprint), indent=1).encode(), sync=True)
        project.runs.path.mkdir(exist_ok=True)
        with Interrupts(deferred=True):
            os.rename(folder, project.runs.folder(run))
            sync_path(project.runs.path)
            yield ImportedRun(state="imported", losses=losses, **facts)
    except (HookeError, OSError) as error:
        yield ImportedRun(state="failed", error=_of_run(error, source), **facts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # removes a failed run, to make room for the next


def _land(source: ImportSource, folder: Path, wanted: ImportOptions, run: str) -> Losses:
    glance = source.glance()
    multiplier = wanted.step_multiplier or glance.finest
    if multiplier % glance.finest:
        raise UsageError(
            f"--step-multiplier {multiplier} does not make the steps of run {source.run!r} whole",
            fix=f"give {glance.finest} or a multiple of it, or omit the option to use the smallest one for each run",
        )
    (folder / "logs").mkdir(parents=True)
    landing = Landing(source, folder, multiplier=multiplier, glance=glance)
    try:
        for item in _allowed_items(source):
            landing.take(item, skip_missing=wanted.skip_missing)
        landing.finish(run, wanted.experiment)
    finally:
        landing.close()
    return landing.losses


def _allowed_items(source: ImportSource) -> Iterator[Item]:
    """The items, with real paths. Raises HookeError for a file outside the source's folders, and as `items` does."""
    for item in source.items():
        if not isinstance(item, ImportedFile) or not isinstance(item.content, Path):
            yield item
            continue
        what, where = f"the file of attribute {item.path!r}", str(source.files[0])
        real = allowed(item.content, source.roots, what=what, where=where)
        for each in real.rglob("*") if real.is_dir() else ():
            allowed(each, source.roots, what=what, where=where)
        yield item._replace(content=real)


def _expected_losses(source: ImportSource, wanted: ImportOptions) -> Losses:
    losses = Losses(multipliers={wanted.step_multiplier or source.glance().finest})
    for item in _allowed_items(source):
        losses.see(item)
        if isinstance(item, ImportedFile) and isinstance(item.content, Path) and not item.content.exists():
            losses.see(NOT_THERE)
    return losses


def _before(project: Project, run: str) -> str | None:
    """The fingerprint of the run's source; None if it was not imported."""
    record = project.runs.folder(run) / RECORD
    if not record.is_file():
        return None
    known: str = json.loads(record.read_text(encoding="utf-8"))["fingerprint"]
    return known


def _record(source: ImportSource, fingerprint: str) -> dict[str, object]:
    return {
        "from": source.kind,
        "project": source.project,
        "run": source.run,
        "files": [str(file) for file in source.files],
        "fingerprint": fingerprint,
    }


def _fingerprint(source: ImportSource) -> str:
    return hashlib.blake2b(json.dumps(sorted(source.fingerprint())).encode(), digest_size=8).hexdigest()


def _failed(error: HookeError) -> ImportedRun:
    return ImportedRun(state="failed", error=error)


def _of_run(error: HookeError | OSError, source: ImportSource) -> HookeError:
    """The error with a note that nothing of this run was kept."""
    nothing = f"nothing of run {source.run!r} was kept"
    if isinstance(error, HookeError) and not isinstance(error, JournalError):
        error.why = "; ".join(part for part in (error.why, nothing) if part)
        return error
    where, why = str(getattr(error, "filename", "") or ""), str(error)
    if isinstance(error, JournalError):
        where, why = error.where, error.why.partition(";")[0]
    made = HookeError(
        f"run {source.run!r} cannot be imported",
        where=where,
        why=f"{why}; {nothing}",
        fix="free some space, or make the file readable; then import again: runs that are already imported are skipped",
    )
    made.__cause__ = error
    return made
