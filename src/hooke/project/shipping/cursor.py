"""How far a run has been brought into one sink: a small file beside its journal, replaced whole."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hooke.base.errors import JournalError
from hooke.base.files import write_atomic

__all__ = ["FOLDER", "Cursor", "load_cursor", "save_cursor"]

FOLDER = "sinks"
MOST_NOTES = 20


class Cursor(msgspec.Struct, kw_only=True):
    """What of a run is in the sink. Whatever lies behind it may be there too: it is written again, which changes nothing."""

    offsets: dict[str, int] = {}
    """Segment -> bytes of it that are shipped."""
    opened: dict[str, str] = {}
    """Key of each run that the sink has -> the status it has there."""
    driver_bytes: int = 0
    """Of the driver's segment when the sink was told how the run ended."""
    points: int = 0
    merged: int = 0
    """Points that the sink keeps as one with equal ones."""
    notes: list[str] = []
    """What the sink could not take as it was."""
    more_notes: int = 0
    away_since: float | None = None
    """Since when the sink has not answered."""
    trouble: str = ""
    """Why it goes no further; empty while it does."""

    def note(self, sentences: list[str]) -> None:
        """Keep what the sink said; the first ones, and how many more there were."""
        new = [each for each in sentences if each not in self.notes]
        room = MOST_NOTES - len(self.notes)
        self.notes = [*self.notes, *new[:room]]
        self.more_notes += len(new[room:]) if room < len(new) else 0


def load_cursor(folder: Path, sink: str) -> Cursor:
    """Where the run in `folder` stands; the beginning where it never began. Raises JournalError when the file is damaged."""
    path = folder / FOLDER / f"{sink}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cursor)
    except FileNotFoundError:
        return Cursor()
    except msgspec.MsgspecError as error:
        raise JournalError(
            "what was shipped cannot be told",
            where=str(path),
            why=str(error),
            mend="remove the file: all is shipped again, and what the tracker has already stays as it is",
        ) from error


def save_cursor(folder: Path, sink: str, cursor: Cursor) -> None:
    """Keep it. Raises OSError when the disk refuses."""
    (folder / FOLDER).mkdir(exist_ok=True)
    write_atomic(folder / FOLDER / f"{sink}.json", msgspec.json.encode(cursor))
