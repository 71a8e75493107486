"""Where in the user's code something happened, for messages."""

from __future__ import annotations

import inspect
import linecache
import os
from dataclasses import dataclass
from types import FrameType

__all__ = ["Place", "is_users", "shorten_path", "user_place"]

_HOOKE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of source: the file as it should be shown, the line's number from 1, its text (may be empty)."""

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}"
        return f"{at}: {self.text}" if self.text else at


def user_place() -> Place:
    """The innermost line that is the user's: not Hooke's, the standard library's or an installed package's.

    Frames without source (what dataclasses generate, `python -c`) count only where there is nothing better, as
    do libraries': then it is the innermost one that is not Hooke's.
    """
    outside = None
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_HOOKE):
            if is_users(file) and (place := _place(frame)).text:
                return place
            outside = outside or frame
        frame = frame.f_back
    return Place("?", 0) if outside is None else _place(outside)


def shorten_path(file: str) -> str:
    """`file` relative to the working directory where it lies below it, else as it is."""
    folder = os.getcwd() + os.sep
    return file.removeprefix(folder)


def is_users(file: str) -> bool:
    """Whether a file of source is not Hooke's, the standard library's or an installed package's."""
    if any(part in file for part in _INSTALLED):
        return False
    return not file.startswith((_HOOKE, _STDLIB, "<frozen "))


def _place(frame: FrameType) -> Place:
    file = frame.f_code.co_filename
    text = linecache.getline(file, frame.f_lineno, frame.f_globals).strip()
    return Place(shorten_path(file), frame.f_lineno, text)
