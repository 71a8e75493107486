"""MLflow's registry in a SQLite file, read without MLflow, whose import takes seconds instead of milliseconds."""

from __future__ import annotations

import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from hooke.base.errors import HookeError, MissingObject
from hooke.models.registry_protocol import RegisteredVersion

__all__ = ["SqliteRegistry"]

DELETED = "Deleted_Internal"
"""The stage of a deleted version in MLflow."""
WAIT_S = 30.0

VERSIONS = (
    "SELECT version, run_id, coalesce(storage_location, source), creation_time FROM model_versions"
    " WHERE name = :name AND current_stage IS NOT :deleted AND {here} ORDER BY version DESC"
)
ALIASES = "SELECT version, alias FROM registered_model_aliases WHERE name = :name AND {here} ORDER BY alias"
TAGS = "SELECT version, key, value FROM model_version_tags WHERE name = :name AND {here}"


class SqliteRegistry:
    """Reads the tables of MLflow 2.3 and newer, in its workspace `default`. A missing file has no models.

    `elsewhere` fetches files that are not in a folder of this machine.
    """

    def __init__(self, file: Path, *, elsewhere: Callable[[RegisteredVersion, str, Path], None]) -> None:
        self.file = file
        self._elsewhere = elsewhere

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        (rows,) = self._rows("SELECT name FROM registered_models WHERE {here} ORDER BY name")
        return [name for (name,) in rows]

    def versions(self, name: str) -> list[RegisteredVersion]:
        """The versions of one model, the newest first."""
        known, named, tagged = self._rows(VERSIONS, ALIASES, TAGS, name=name, deleted=DELETED)
        aliases: dict[int, list[str]] = defaultdict(list)
        tags: dict[int, dict[str, str]] = defaultdict(dict)
        for number, alias in named:
            aliases[number].append(alias)
        for number, key, value in tagged:
            tags[number][key] = value or ""
        return [
            RegisteredVersion(
                name=name,
                number=number,
                aliases=tuple(aliases[number]),
                tags=tags[number],
                mlflow_run=run or "",
                location=location or "",
                created_at=(created or 0) / 1000,
            )
            for number, run, location, created in known
        ]

    def fetch(self, version: RegisteredVersion, file: str, target: Path) -> None:
        """Write one of the version's files to `target`."""
        parts = urlsplit(version.location)
        if parts.scheme not in ("", "file"):
            self._elsewhere(version, file, target)
            return
        source = Path(unquote(parts.path) if parts.scheme else version.location) / file
        try:
            shutil.copyfile(source, target)
        except FileNotFoundError as error:
            raise MissingObject(
                f"the file {file} of {version.label} is missing",
                where=str(source),
                fix="restore the folder at the location in MLflow, or register the model again",
            ) from error

    def _rows(self, *questions: str, **values: str) -> list[list[tuple[Any, ...]]]:
        """The results, all from one transaction; empty if MLflow has not created its tables yet."""
        if not self.file.exists():
            return [[] for _ in questions]
        try:
            place = f"file:{quote(str(self.file))}?mode=ro"
            with closing(sqlite3.connect(place, uri=True, timeout=WAIT_S, isolation_level=None)) as db:
                db.execute("BEGIN")
                columns = {row[1] for row in db.execute("PRAGMA table_info(registered_model_aliases)")}
                if not columns:
                    return [[] for _ in questions]
                here = "workspace = 'default'" if "workspace" in columns else "true"
                return [db.execute(each.format(here=here), values).fetchall() for each in questions]
        except sqlite3.Error as error:
            raise HookeError(
                "MLflow's registry cannot be read",
                where=str(self.file),
                why=f"{type(error).__name__}: {error}",
                fix="check that it is an intact MLflow database; `mlflow db upgrade sqlite:///FILE` upgrades an old one",
            ) from error
