"""Comet's offline archives: what `comet offline` shows and `comet upload` sends, one zip an experiment.

In an archive lie `experiment.json`, `messages.json` with a message a line, and the files that messages name. A point's line
bears, beside what Comet knows, its time as a float, which Comet passes over: so equal lines are one point that came twice.
Until an archive is written its lines gather in a draft, an SQLite file, so that whatever dies leaves old or new, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import msgspec

from hooke.base.errors import HookeError
from hooke.base.files import sync_folder
from hooke.journal.sink import Batch, Points, Receipt, ShippedRun, SinkAway

__all__ = ["Archives", "experiment_key"]

EXPERIMENT = "experiment.json"
MESSAGES = "messages.json"
MOST_KEY = 100
"""Letters of a run's key in the name of its archive."""
_SCHEMA = """
CREATE TABLE points (line TEXT NOT NULL UNIQUE);
CREATE TABLE latest (name TEXT NOT NULL PRIMARY KEY, line TEXT NOT NULL);
"""
_VERSION = 1


class Archives:
    """The archives in `folder`; those that are to be written anew are drafts in `drafts`."""

    def __init__(self, folder: Path, drafts: Path, *, workspace: str = "") -> None:
        self.folder = folder
        self.drafts = drafts
        self.workspace = workspace

    def path(self, key: str) -> Path:
        """Where the archive of this run lies: the run's key, as far as a file's name can bear it, and 8 letters of its hash."""
        readable = re.sub(r"[^\w-]", "-", key)[:MOST_KEY]
        return self.folder / f"{readable}.{experiment_key(key)[:8]}.zip"

    def add(self, batch: Batch) -> Receipt:
        """Put it into the run's draft. Raises SinkAway where the disk has no room, HookeError for a file that is damaged."""
        receipt = Receipt()
        names = _Names(receipt)
        run = batch.run
        lines = list(_points(batch.points, names))
        notes = list(_notes(batch, names))
        with self._draft(run.key) as draft:
            files = list(self._kept(batch, names, receipt))
            draft.executemany("INSERT OR IGNORE INTO latest VALUES (?, ?)", _of_run(run))
            draft.executemany("INSERT OR REPLACE INTO latest VALUES (?, ?)", notes + files)
            draft.executemany("INSERT OR IGNORE INTO points VALUES (?)", ((line,) for line in lines))
        return receipt

    def finish(self, run: ShippedRun) -> None:
        """Note how it ended, and write its archive."""
        with self._draft(run.key) as draft:
            draft.executemany("INSERT OR IGNORE INTO latest VALUES (?, ?)", _of_run(run))
            ended = [("run", msgspec.json.encode(run).decode()), _other("hooke.status", run.status, run)]
            draft.executemany("INSERT OR REPLACE INTO latest VALUES (?, ?)", ended)
        self.write(self._file(run.key))

    def unwritten(self) -> list[Path]:
        """The drafts that wait for their archive."""
        return sorted(self.drafts.glob("*.draft"))

    def write(self, file: Path) -> None:
        """Write the archive of a draft whole, in place of an older one, and let go of the draft."""
        with self._opened(file) as draft:
            if draft.execute("PRAGMA user_version").fetchone() != (
                0,
            ):  # else who made it died before the first line
                self._replace(draft, self._files(file))
        # The draft first: files without a draft are swept away by the next one.
        file.unlink()
        shutil.rmtree(self._files(file), ignore_errors=True)

    def _replace(self, draft: sqlite3.Connection, files: Path) -> None:
        latest = dict(draft.execute("SELECT name, line FROM latest"))
        run = msgspec.json.decode(latest.pop("run"), type=ShippedRun)
        self.folder.mkdir(parents=True, exist_ok=True)
        archive = self.path(run.key)
        # Of one name: what a kill leaves is written over by the next try, for the draft is still there.
        temporary = archive.with_name(f".{archive.name}.tmp")
        with ZipFile(temporary, "w", ZIP_DEFLATED, strict_timestamps=False) as made:
            made.writestr(EXPERIMENT, json.dumps(self._facts(run, draft)))
            with made.open(MESSAGES, "w", force_zip64=True) as messages:
                for line in latest.values():
                    messages.write(line.encode() + b"\n")
                for (line,) in draft.execute("SELECT line FROM points ORDER BY rowid"):
                    messages.write(line.encode() + b"\n")
            for name, line in latest.items():
                if name.startswith("file:"):
                    inside = json.loads(line)["payload"]["file_path"]
                    made.write(files / inside, inside)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(archive)
        sync_folder(self.folder)

    def _facts(self, run: ShippedRun, draft: sqlite3.Connection) -> dict[str, Any]:
        last = draft.execute("SELECT line FROM points ORDER BY rowid DESC LIMIT 1").fetchone()
        ended_at = run.ended_at or (json.loads(last[0])["at"] if last else run.started_at)
        failed = run.status in ("failed", "lost")
        return {
            "offline_id": experiment_key(run.key),
            "user_provided_experiment_key": True,
            "resume_strategy": "get_or_create",
            "comet_start_sourced": False,
            "project_name": run.experiment,
            "workspace": self.workspace or None,
            "start_time": _ms(run.started_at),
            "stop_time": _ms(ended_at),
            "tags": [run.parent or run.key],
            "customer_error_reported": failed,
            "customer_error_message": f"the run was {run.status}" if failed else None,
            "hooke": msgspec.to_builtins(run),
        }

    def _kept(self, batch: Batch, names: _Names, receipt: Receipt) -> Iterator[tuple[str, str]]:
        """Take the batch's files along: as second names of them where the file system allows that, so that it costs no room."""
        for path, file in batch.artifacts.items():
            if not file.exists():
                receipt.notes.append(f"artifact {path!r} is not there any more: {file}")
                continue
            inside = f"asset-{hashlib.sha256(path.encode()).hexdigest()[:24]}"
            folder = self._files(self._file(batch.run.key))
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f".{inside}"
            part.unlink(missing_ok=True)
            try:
                os.link(file, part)
            except OSError:
                shutil.copyfile(file, part)
            part.replace(folder / inside)
            part.unlink(missing_ok=True)  # stays where both were the same file already
            yield _file(names.of(path), inside, batch.run)

    def _file(self, key: str) -> Path:
        return self.drafts / f"{experiment_key(key)}.draft"

    def _files(self, draft: Path) -> Path:
        return draft.with_suffix(".files")

    @contextmanager
    def _draft(self, key: str) -> Iterator[sqlite3.Connection]:
        """The draft of a run: the one that is there, or one made from its archive, or an empty one."""
        with self._opened(self._file(key)) as draft:
            if draft.execute("PRAGMA user_version").fetchone() == (0,):
                shutil.rmtree(self._files(self._file(key)), ignore_errors=True)
                for statement in _SCHEMA.strip().split(";\n"):
                    draft.execute(statement)
                if self.path(key).exists():
                    self._take_over(key, draft)
                draft.execute(f"PRAGMA user_version = {_VERSION}")
            yield draft

    @contextmanager
    def _opened(self, file: Path) -> Iterator[sqlite3.Connection]:
        try:
            self.drafts.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(file, isolation_level=None)) as draft:
                draft.execute("BEGIN IMMEDIATE")
                yield draft
                draft.execute("COMMIT")
        except (sqlite3.OperationalError, OSError) as error:
            raise SinkAway(
                "the archive cannot be written now", where=str(file), why=f"{type(error).__name__}: {error}"
            ) from error
        except sqlite3.DatabaseError as error:
            raise HookeError(
                f"the draft of an archive is damaged, {file}",
                why=str(error),
                mend="move it away, and remove sinks/comet.json in the run's folder: all is written anew from the journal",
            ) from error

    def _take_over(self, key: str, draft: sqlite3.Connection) -> None:
        """Begin with what the archive has."""
        archive = self.path(key)
        try:
            with ZipFile(archive) as made:
                run = json.loads(made.read(EXPERIMENT))["hooke"]
                draft.execute("INSERT INTO latest VALUES ('run', ?)", (json.dumps(run),))
                with made.open(MESSAGES) as messages:
                    for line in messages:
                        table, values = _sorted_in(line.decode().removesuffix("\n"))
                        marks = ", ".join("?" * len(values))
                        draft.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)  # noqa: S608 - two names of ours
                for inside in set(made.namelist()) - {EXPERIMENT, MESSAGES}:
                    made.extract(inside, self._files(self._file(key)))
        except (BadZipFile, KeyError, ValueError) as error:
            raise HookeError(
                f"the archive {archive} cannot be read, so nothing can be added to it",
                why=f"{type(error).__name__}: {error}",
                mend="move it away, and remove sinks/comet.json in the run's folder: all is written anew from the journal",
            ) from error


class _Names:
    """Names as Comet's readers take them: of one line. One that had to be changed is said in the receipt."""

    def __init__(self, receipt: Receipt) -> None:
        self._receipt = receipt
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name to use."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = name.replace("\n", " ")
            if known != name:
                self._receipt.notes.append(
                    f"{name[:80]!r} is called {known[:80]!r} in Comet: a name has no line break there"
                )
        return known


def experiment_key(key: str) -> str:
    """Comet's key of the experiment for this run: 32 letters that follow from the run's own key."""
    return hashlib.sha256(f"hooke:{key}".encode()).hexdigest()[:32]


def _points(points: Points, names: _Names) -> Iterator[str]:
    for name, value, step, at in zip(*points, strict=True):
        metric = {"metricName": names.of(name), "metricValue": value, "step": step, "epoch": None}
        # NaN and Infinity as Python's JSON has them: by the text "NaN", which Comet writes, `comet offline` is broken off.
        yield _message("metric_msg", {"local_timestamp": _ms(at), "metric": metric}, at=at)


def _notes(batch: Batch, names: _Names) -> Iterator[tuple[str, str]]:
    for given, value in batch.params.items():
        name = names.of(given)
        param = {"paramName": name, "paramValue": value, "step": None, "source": "manual"}
        payload = {"local_timestamp": _ms(batch.run.started_at), "param": param}
        yield f"param:{name}", _message("parameter_msg", payload)
    for given, value in batch.tags.items():
        yield _other(names.of(given), value, batch.run)


def _of_run(run: ShippedRun) -> Iterable[tuple[str, str]]:
    yield "run", msgspec.json.encode(msgspec.structs.replace(run, status="running", ended_at=None)).decode()
    # Comet takes `Name` for the experiment's. It nests nothing: the run above is a note, and the tag that all of it bear.
    notes = {"Name": run.name, "hooke.run_id": run.key, "hooke.status": "running"} | run.tags
    if run.parent is not None:
        notes["hooke.parent"] = run.parent
    for name, value in notes.items():
        yield _other(name, value, run)


def _other(name: str, value: str, run: ShippedRun) -> tuple[str, str]:
    # The older form of the message: `comet offline` shows the newer one as two rows without a name.
    payload = {"local_timestamp": _ms(run.started_at), "log_other": {"key": name, "val": value}}
    return f"other:{name}", _message("ws_msg", payload)


def _file(path: str, inside: str, run: ShippedRun) -> tuple[str, str]:
    named = {"fileName": path, "context": None, "step": None, "overwrite": True}
    payload = {
        "additional_params": named,
        "clean": True,
        "file_path": inside,
        "local_timestamp": _ms(run.started_at),
        "metadata": None,
        "upload_type": "asset",
    }
    return f"file:{path}", _message("file_upload", payload)


def _message(kind: str, payload: dict[str, Any], **beside: float) -> str:
    return json.dumps({"type": kind, "payload": payload} | beside)


def _sorted_in(line: str) -> tuple[str, tuple[str, ...]]:
    """The table of a draft that a line of an archive belongs into, with its row."""
    message = json.loads(line)
    payload = message["payload"]
    match message["type"]:
        case "metric_msg":
            return "points", (line,)
        case "parameter_msg":
            return "latest", (f"param:{payload['param']['paramName']}", line)
        case "ws_msg":
            return "latest", (f"other:{payload['log_other']['key']}", line)
        case "file_upload":
            return "latest", (f"file:{payload['additional_params']['fileName']}", line)
        case other:
            raise ValueError(f"a message of type {other!r}")


def _ms(at: float) -> int:
    return int(at * 1000)
