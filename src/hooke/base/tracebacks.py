"""A formatted traceback cut to what its reader can act on: the frames of his own code."""

from __future__ import annotations

import re

__all__ = ["user_frames"]

_FRAME = re.compile(r'  File "(?P<file>.+?)", line (?P<line>\d+)(?:, in (?P<name>.+))?$')
_OURS = re.compile(
    r"(^|[/\\])hooke[/\\](base|cli|engines|journal|keys|pipeline|project|serving|store|testing)[/\\]"
)
_LIBRARY = re.compile(r"([/\\](site|dist)-packages[/\\])|([/\\]lib(64)?[/\\]python3(\.\d+)?[/\\])|^<frozen ")


def user_frames(traceback: str) -> list[str]:
    """Lines of `traceback` (as Python formats it) without the frames of Hooke, the standard library and packages.

    Chains of exceptions keep their order and the sentences between them. A library's frame stays, in one line,
    where it is the one that raised. Text of another shape comes back as it is.
    """
    kept: list[str] = []
    frame: list[str] = []
    for line in traceback.rstrip().splitlines():
        if _FRAME.match(line):
            kept += _own(frame)
            frame = [line]
        elif frame and line.startswith("    "):
            frame.append(line)
        else:
            kept += _own(frame) or _raised_in(frame)
            frame = []
            kept.append(line)
    return kept + (_own(frame) or _raised_in(frame))


def _own(frame: list[str]) -> list[str]:
    match = _FRAME.match(frame[0]) if frame else None
    if match is None:
        return frame
    return [] if _OURS.search(match["file"]) or _LIBRARY.search(match["file"]) else frame


def _raised_in(frame: list[str]) -> list[str]:
    match = _FRAME.match(frame[0]) if frame else None
    if match is None or _OURS.search(match["file"]):
        return []
    return [f"  raised in {match['name']}, line {match['line']} of {match['file']}"]
