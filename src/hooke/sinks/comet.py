"""Comet: a run is an experiment, and so is an attempt or item that logged something.

Without an API key they become archives that Comet's commands show and upload, with each point exactly once. Writing
them does not need Comet's package. With a key everything is sent to the service, at least once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import msgspec

from hooke.base.errors import ConfigError, HookeError
from hooke.base.files import write_atomic
from hooke.sinks.comet_messages import (
    EXPERIMENT,
    MESSAGES,
    comet_names,
    experiment,
    experiment_key,
    file_lines,
    name_of,
    note_lines,
    pack,
    point_lines,
    run_lines,
    status_line,
)
from hooke.sinks.sink import LoggedBatch, Receipt, ShippedRun, Sink, SinkAway

__all__ = ["CometArchives", "CometSink"]


# --- Archives of a project's runs, and drafts, which collect lines until an archive is written.

MOST_KEY = 100
"""Characters of a run's key in the name of its archive."""
_TABLES = (
    "CREATE TABLE points (line TEXT NOT NULL UNIQUE)",
    "CREATE TABLE latest (name TEXT NOT NULL PRIMARY KEY, line TEXT NOT NULL)",
)
_MADE = 1
"""The version of these tables. A draft of version 0 is incomplete: its process died."""
_RUN = "run"
_IF_NEW = "INSERT OR IGNORE INTO latest VALUES (?, ?)"
_ANYWAY = "INSERT OR REPLACE INTO latest VALUES (?, ?)"
_POINT = "INSERT OR IGNORE INTO points VALUES (?)"
_FIX = "move it away, and remove sinks/comet.json in the run's folder: everything is written again from the journal"


class CometArchives:
    """A sink that writes archives to `folder`. A run is a draft in `drafts` until the run or the shipper ends."""

    def __init__(self, folder: Path, drafts: Path, *, workspace: str = "") -> None:
        self.folder = folder
        self.drafts = drafts
        self.workspace = workspace

    def path(self, key: str) -> Path:
        """The path of this run's archive: the run's key, as far as a file name allows, and 8 characters of its hash."""
        readable = re.sub(r"[^\w-]", "-", key)[:MOST_KEY]
        return self.folder / f"{readable}.{experiment_key(key)[:8]}.zip"

    def write(self, batch: LoggedBatch) -> Receipt:
        """Add the batch to the run's draft. Raises SinkAway if the disk has no room, HookeError for a damaged file."""
        receipt = Receipt()
        names = comet_names(receipt)
        lines = [(line,) for line in point_lines(batch.points, names)]
        receipt.merged = len(lines) - len(set(lines))
        notes = note_lines(batch, names)
        with self._draft(batch.run.key) as draft:
            self._begin(draft, batch.run)
            for line, inside, file in file_lines(batch, names, receipt):
                _keep(file, self._files(self._file(batch.run.key)) / inside)
                notes.append(line)
            draft.executemany(_ANYWAY, notes)
            draft.executemany(_POINT, lines)
        return receipt

    def finish(self, run: ShippedRun) -> None:
        """Record the run's end and write its archive."""
        with self._draft(run.key) as draft:
            self._begin(draft, run)
            draft.executemany(_ANYWAY, [(_RUN, msgspec.json.encode(run).decode()), status_line(run)])
        self._write_archive(self._file(run.key))

    def close(self) -> None:
        """Write the archives that are not up to date: of runs in progress, and of those whose shipper was killed."""
        for draft in self._unwritten():
            try:
                self._write_archive(draft)
            except HookeError as error:
                # It stays a draft for the next shipper; the other drafts are still written.
                logging.getLogger("hooke.ship").log(logging.ERROR, "%s", error)

    def _unwritten(self) -> list[Path]:
        """The drafts without an up-to-date archive. Files without a draft, which a kill left, are removed."""
        for files in self.drafts.glob("*.files"):
            if not files.with_suffix(".draft").exists():
                shutil.rmtree(files, ignore_errors=True)
        return sorted(self.drafts.glob("*.draft"))

    def _write_archive(self, file: Path) -> None:
        """Write the archive of a draft, in place of an older one, and remove the draft."""
        with self._opened(file) as draft:
            if _version(draft) == _MADE:
                self._replace(draft, self._files(file))
        # The draft first: `_unwritten` removes files without a draft.
        file.unlink()
        shutil.rmtree(self._files(file), ignore_errors=True)

    def _replace(self, draft: sqlite3.Connection, files: Path) -> None:
        latest = dict(draft.execute("SELECT name, line FROM latest"))
        run = msgspec.json.decode(latest.pop(_RUN), type=ShippedRun)
        last = draft.execute("SELECT line FROM points ORDER BY rowid DESC LIMIT 1").fetchone()
        last_at = json.loads(last[0])["at"] if last else run.started_at
        insides = [
            json.loads(line)["payload"]["file_path"]
            for name, line in latest.items()
            if name.startswith("file:")
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        pack(
            self.path(run.key),
            experiment(run, workspace=self.workspace, last_at=last_at),
            _all(latest, draft),
            [(inside, files / inside) for inside in insides],
        )

    def _begin(self, draft: sqlite3.Connection, run: ShippedRun) -> None:
        """Add the facts of the run, unless they are there. Only `finish` changes its status."""
        begun = msgspec.structs.replace(run, status="running", ended_at=None)
        facts = (_RUN, msgspec.json.encode(begun).decode())
        draft.executemany(_IF_NEW, [facts, *run_lines(run), status_line(begun)])

    def _file(self, key: str) -> Path:
        return self.drafts / f"{experiment_key(key)}.draft"

    def _files(self, draft: Path) -> Path:
        return draft.with_suffix(".files")

    @contextmanager
    def _draft(self, key: str) -> Iterator[sqlite3.Connection]:
        """The draft of a run: the existing one, one made from its archive, or an empty one."""
        with self._opened(self._file(key)) as draft:
            if _version(draft) != _MADE:
                shutil.rmtree(self._files(self._file(key)), ignore_errors=True)
                for table in _TABLES:
                    draft.execute(table)
                if self.path(key).exists():
                    _take_over(self.path(key), draft, self._files(self._file(key)))
                draft.execute(f"PRAGMA user_version = {_MADE}")
            yield draft

    @contextmanager
    def _opened(self, file: Path) -> Iterator[sqlite3.Connection]:
        """The draft's database, in one transaction."""
        try:
            self.drafts.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(file, isolation_level=None)) as draft:
                draft.execute("BEGIN IMMEDIATE")
                yield draft
                draft.execute("COMMIT")
        except (sqlite3.OperationalError, OSError) as error:
            why = f"{type(error).__name__}: {error}"
            raise SinkAway("an archive for Comet cannot be written now", where=str(file), why=why) from error
        except sqlite3.DatabaseError as error:
            raise HookeError(
                f"the draft of an archive for Comet is damaged, {file}", why=str(error), fix=_FIX
            ) from error


def _version(draft: sqlite3.Connection) -> int:
    version: int = draft.execute("PRAGMA user_version").fetchone()[0]
    return version


def _all(latest: dict[str, str], draft: sqlite3.Connection) -> Iterator[str]:
    yield from latest.values()
    for (line,) in draft.execute("SELECT line FROM points ORDER BY rowid"):
        yield line


def _take_over(archive: Path, draft: sqlite3.Connection, files: Path) -> None:
    """Fill a new draft from the archive."""
    try:
        with ZipFile(archive) as made:
            run = json.loads(made.read(EXPERIMENT))["hooke"]
            draft.execute(_ANYWAY, (_RUN, json.dumps(run)))
            with made.open(MESSAGES) as messages:
                for each in messages:
                    line = each.decode().removesuffix("\n")
                    name = name_of(line)
                    draft.execute(*((_POINT, (line,)) if name is None else (_ANYWAY, (name, line))))
            for inside in set(made.namelist()) - {EXPERIMENT, MESSAGES}:
                made.extract(inside, files)
    except (BadZipFile, KeyError, ValueError) as error:
        raise HookeError(
            f"the archive {archive} cannot be read, so nothing can be added to it",
            why=f"{type(error).__name__}: {error}",
            fix=_FIX,
        ) from error


def _keep(file: Path | bytes, target: Path) -> None:
    """Keep a file: as a hard link if possible, which takes no space, else as a copy. Or a file with this content."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(file, bytes):
        write_atomic(target, file)
        return
    part = target.with_name(f".{target.name}")
    part.unlink(missing_ok=True)
    try:
        os.link(file, part)
    except OSError:
        shutil.copyfile(file, part)
    part.replace(target)
    part.unlink(missing_ok=True)  # remains if both were already the same file


VARIABLE = "COMET_API_KEY"


class CometSink:
    """Sends to Comet if COMET_API_KEY is set and `online` is not false; otherwise writes archives to `archives`, a folder in the project.

    `workspace` is Comet's workspace; empty means the uploader's default. Raises ConfigError.
    """

    def __init__(
        self, folder: Path, *, archives: str = "comet", workspace: str = "", online: bool | None = None
    ) -> None:
        for name, value in {"archives": archives, "workspace": workspace}.items():
            if not isinstance(value, str):
                raise ConfigError(f"hooke.toml: tracking.comet.{name} = {value!r} must be text")
        if (folder / archives).exists() and not (folder / archives).is_dir():
            raise ConfigError(
                f"hooke.toml: tracking.comet.archives = {archives!r} is not a folder",
                fix="name another folder",
            )
        if online is not None and not isinstance(online, bool):
            raise ConfigError(f"hooke.toml: tracking.comet.online = {online!r}", fix="write true or false")
        key = os.environ.get(VARIABLE, "")
        if online and not key:
            raise ConfigError(
                "hooke.toml: tracking.comet.online = true",
                why=f"{VARIABLE} is not set",
                fix="set it, or remove online: without a key, archives are written",
            )
        self._sink: Sink
        if key and online is not False:
            self._sink = _service(key, workspace)
        else:
            drafts = folder / ".hooke" / "comet"
            self._sink = CometArchives(folder / archives, drafts, workspace=workspace)

    def write(self, batch: LoggedBatch) -> Receipt:
        """Send the batch, or add it to the run's draft."""
        return self._sink.write(batch)

    def finish(self, run: ShippedRun) -> None:
        """Send the run's end, or write its archive."""
        self._sink.finish(run)

    def close(self) -> None:
        """Write what is left."""
        self._sink.close()


def _service(key: str, workspace: str) -> Sink:
    from hooke.sinks.comet_online import CometService

    return CometService(key, workspace=workspace)
