"""Files that grow by rows while a run is imported: many at once, few of their rows in memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["CsvTable", "JsonTable", "Tables"]

MOST_CHARACTERS = 4_000_000
"""Of rows in memory, all tables together."""


class CsvTable:
    """A table as CSV, texts quoted where they need it."""

    suffix = ".csv"
    end = ""

    @staticmethod
    def begin(columns: Sequence[str]) -> str:
        """What comes before the rows."""
        return CsvTable.row(columns, first=True)

    @staticmethod
    def row(cells: Sequence[Any], *, first: bool) -> str:  # noqa: ARG004 - as JsonTable's
        """One row."""
        file = io.StringIO(newline="")
        csv.writer(file).writerow(cells)  # with another end of line it would leave a bare \\r unquoted
        return file.getvalue()


class JsonTable:
    """A table as JSON, `{"columns": [...], "data": [...]}`: what MLflow's pages show as a table."""

    suffix = ".json"
    end = "\n]}\n"

    @staticmethod
    def begin(columns: Sequence[str]) -> str:
        """What comes before the rows."""
        return f'{{"columns": {json.dumps(list(columns))}, "data": ['

    @staticmethod
    def row(cells: Sequence[Any], *, first: bool) -> str:
        """One row."""
        return ("\n" if first else ",\n") + json.dumps(list(cells))


class Tables:
    """Tables by name; `place` says where the file of a new one goes."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self._files: dict[str, Path] = {}
        self._forms: dict[str, type[CsvTable | JsonTable]] = {}
        self._waiting: dict[str, list[str]] = {}
        self._characters = 0

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def open(self, name: str, file: Path, form: type[CsvTable | JsonTable], columns: Sequence[str]) -> None:
        """Begin a table in a file that does not exist yet."""
        self._files[name], self._forms[name], self.rows[name] = file, form, 0
        self._waiting[name] = [form.begin(columns)]

    def add(self, name: str, *cells: Any) -> None:
        """A row of an open table. Raises OSError when the disk refuses."""
        row = self._forms[name].row(cells, first=self.rows[name] == 0)
        self._waiting[name].append(row)
        self.rows[name] += 1
        self._characters += len(row)
        if self._characters > MOST_CHARACTERS:
            self._write()

    def close(self) -> dict[str, Path]:
        """Write the ends; returns the files by name. Raises OSError."""
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
