"""Runs of Neptune: found in a folder, chosen, and landed one by one, each whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from hooke.base.errors import HookeError, JournalError, UsageError
from hooke.base.files import FileLock, sync_folder, write_atomic
from hooke.project.folder import Project
from hooke.project.importing.finding import Found, find
from hooke.project.importing.landing import NOT_THERE, Landing, run_id
from hooke.project.importing.losses import Losses
from hooke.project.importing.source import File, Source

__all__ = ["Imported", "Wanted", "import_neptune"]

RECORD = "import.json"
"""In a run's folder: what it was imported from."""
LOCK = "import.lock"
UNDER_WAY = "importing"
"""In the project's data: runs that are being imported. What a killed import leaves there is removed by the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to import, and how. Patterns are as a shell's; none is all."""

    path: Path
    files: Path | None = None
    """Where the files of a dump lie, if not beside its data."""
    projects: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    experiment: str = ""
    step_multiplier: int | None = None
    """For all runs; None is the least for each."""
    skip_missing: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of one run: `imported`, `there` (from before), `changed` since it was imported, `failed`, or `found`."""

    state: str
    project: str = ""
    neptune_run: str = ""
    run: str = ""
    kind: str = ""
    losses: Losses = field(default_factory=Losses)
    error: HookeError | None = None


def import_neptune(project: Project, wanted: Wanted) -> Iterator[Imported]:
    """Import what is wanted, one run at a time; a run that cannot be is `failed`, and the others go on.

    Raises UsageError where nothing fits or another import is going on, MissingExtra, HookeError for what is no dump and no log.
    """
    found = find(wanted.path.resolve(), wanted.files.resolve() if wanted.files is not None else None)
    chosen = _chosen(found, wanted)
    if wanted.dry_run:
        yield from (_failed(error) for error in found.broken)
        yield from (_looked_at(project, source, wanted) for source in chosen)
        return
    project.create()
    lock = FileLock(project.data / LOCK)
    if not lock.try_acquire():
        raise UsageError(
            "another import is going on in this project",
            where=str(lock.path),
            mend="wait for it to end, then import again: what it brought is found",
        )
    try:
        shutil.rmtree(project.data / UNDER_WAY, ignore_errors=True)
        yield from (_failed(error) for error in found.broken)
        for source in chosen:
            yield _import(project, source, wanted)
    finally:
        shutil.rmtree(project.data / UNDER_WAY, ignore_errors=True)
        lock.release()


def _chosen(found: Found, wanted: Wanted) -> list[Source]:
    chosen = [
        source
        for source in found.sources
        if _fits(source.project, wanted.projects) and _fits(source.run, wanted.runs)
    ]
    if not chosen and found.sources:
        known = sorted({f"{source.project or '(no project)'}: {source.run}" for source in found.sources})
        more = f" and {len(known) - 10} more" if len(known) > 10 else ""
        raise UsageError(
            "no run there fits --from-project and --run",
            where=str(wanted.path),
            mend=f"there are {'; '.join(known[:10])}{more}",
        )
    return chosen


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _import(project: Project, source: Source, wanted: Wanted) -> Imported:
    run = run_id(source.project, source.run)
    facts = {"project": source.project, "neptune_run": source.run, "run": run, "kind": source.kind}
    folder = project.data / UNDER_WAY / run
    try:
        before, fingerprint = _before(project, run), _fingerprint(source)
        if before is not None:
            return Imported(state="there" if before == fingerprint else "changed", **facts)
        losses = _land(source, folder, wanted, run)
        write_atomic(folder / RECORD, json.dumps(_record(source, fingerprint), indent=1).encode(), sync=True)
        project.runs.path.mkdir(exist_ok=True)
        os.rename(folder, project.runs.folder(run))
        sync_folder(project.runs.path)
    except (HookeError, OSError) as error:
        return Imported(state="failed", error=_of_run(error, source), **facts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that failed, to make room for the next
    return Imported(state="imported", losses=losses, **facts)


def _land(source: Source, folder: Path, wanted: Wanted, run: str) -> Losses:
    glance = source.glance()
    multiplier = wanted.step_multiplier or glance.finest
    if multiplier % glance.finest:
        raise UsageError(
            f"--step-multiplier {multiplier} does not make the steps of run {source.run!r} whole",
            mend=f"give {glance.finest} or a multiple of it, or leave it out: then each run has the least that does",
        )
    (folder / "logs").mkdir(parents=True)
    landing = Landing(source, folder, multiplier=multiplier, glance=glance)
    try:
        for item in source.items():
            landing.take(item, skip_missing=wanted.skip_missing)
        landing.finish(run, wanted.experiment)
    finally:
        landing.close()
    return landing.losses


def _looked_at(project: Project, source: Source, wanted: Wanted) -> Imported:
    """As an import would say, with nothing written."""
    run = run_id(source.project, source.run)
    facts = {"project": source.project, "neptune_run": source.run, "run": run, "kind": source.kind}
    try:
        before = _before(project, run)
        if before is not None:
            return Imported(state="there" if before == _fingerprint(source) else "changed", **facts)
        losses = Losses(multipliers={wanted.step_multiplier or source.glance().finest})
        for item in source.items():
            losses.see(item)
            if isinstance(item, File) and isinstance(item.content, Path) and not item.content.exists():
                losses.see(NOT_THERE)
    except (HookeError, OSError) as error:
        return Imported(state="failed", error=_of_run(error, source), **facts)
    return Imported(state="found", losses=losses, **facts)


def _before(project: Project, run: str) -> str | None:
    """The fingerprint of what the run was imported from; None where it was not."""
    record = project.runs.folder(run) / RECORD
    if not record.is_file():
        return None
    known: str = json.loads(record.read_text(encoding="utf-8"))["fingerprint"]
    return known


def _record(source: Source, fingerprint: str) -> dict[str, object]:
    return {
        "from": source.kind,
        "project": source.project,
        "run": source.run,
        "files": [str(file) for file in source.files],
        "fingerprint": fingerprint,
    }


def _fingerprint(source: Source) -> str:
    return hashlib.blake2b(json.dumps(sorted(source.fingerprint())).encode(), digest_size=8).hexdigest()


def _failed(error: HookeError) -> Imported:
    return Imported(state="failed", error=error)


def _of_run(error: HookeError | OSError, source: Source) -> HookeError:
    """The error as one of the run: nothing of it was kept, whatever the error says."""
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
        mend="make room, or make it readable; then import again: the runs that are here already are found",
    )
    made.__cause__ = error
    return made
