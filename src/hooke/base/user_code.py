"""Which code is the user's: for messages, tracebacks, and the decision which modules may change.

Not the user's are Hooke, the standard library and installed packages.
"""

from __future__ import annotations

import inspect
import linecache
import os
import re
import sys
import types
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

__all__ = [
    "HOOKE_FOLDER",
    "SourceLine",
    "cell_number",
    "is_hooke",
    "is_users",
    "kernel_shell",
    "module_of_method",
    "raising_line",
    "shorten_path",
    "user_frames",
    "user_place",
    "user_stack",
    "with_cells_named",
]

HOOKE_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def is_hooke(file: str) -> bool:
    """Whether a source file is Hooke's."""
    return file.startswith(HOOKE_FOLDER)


def is_users(file: str) -> bool:
    """Whether a source file is not Hooke's, the standard library's or an installed package's."""
    if any(part in file for part in _INSTALLED):
        return False
    return not file.startswith((HOOKE_FOLDER, _STDLIB, "<frozen "))


def shorten_path(file: str) -> str:
    """`file` relative to the working directory if it lies below it; of a notebook's cell `Cell In[3]`; else unchanged."""
    return _cell(file) or file.removeprefix(os.getcwd() + os.sep)


# --- Notebooks: code of a cell has a made-up file, which nobody finds.


def _shell() -> Any | None:
    """The IPython shell of this process, if there is one."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None


def kernel_shell() -> Any | None:
    """The IPython shell if this process is a Jupyter kernel, else None."""
    shell = _shell()
    return shell if shell is not None and getattr(shell, "kernel", None) is not None else None


def cell_number() -> int | None:
    """The number of the notebook's cell that runs now, as in `In [3]`; None if this process is no Jupyter kernel."""
    shell = kernel_shell()
    return None if shell is None else shell.execution_count


def _cell(file: str) -> str:
    """`Cell In[3]` for the file that IPython made up for a cell of this process; empty for other files."""
    namer = getattr(getattr(_shell(), "compile", None), "format_code_name", None)
    return " ".join(namer(file) or ()) if namer is not None else ""


def with_cells_named(traceback: str) -> str:
    """`traceback` (as Python formats it), in which files of this process's cells are `Cell In[3]`, as IPython writes it."""
    if _shell() is None:
        return traceback

    def named(match: re.Match[str]) -> str:
        cell = _cell(match[1])
        return f"  {cell}, line " if cell else match[0]

    return re.sub(r'^  File "(.+?)", line ', named, traceback, flags=re.MULTILINE)


def module_of_method(value: Any) -> str | None:
    """The imported module that offers a bound method as a function of its own, such as `random` for `random.shuffle`.

    None if there is none, or only `__main__`.
    """
    if not isinstance(value, types.MethodType | types.BuiltinMethodType):
        return None
    owner = value.__self__
    if owner is None or isinstance(owner, type | types.ModuleType):
        return None
    module = type(owner).__module__
    while module and module != "__main__":
        there = getattr(sys.modules.get(module), "__dict__", {}).get(value.__name__)
        if type(there) is type(value) and there == value:
            return module
        module = module.rpartition(".")[0]
    return None


LONGEST_LINE = 120
"""Characters of a line of source that a message shows."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of source: the file as it should be shown, the line's number from 1, its text (may be empty)."""

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}"
        text = self.text if len(self.text) <= LONGEST_LINE else f"{self.text[:LONGEST_LINE]} ..."
        return f"{at}: {text}" if text else at


def user_place(known: dict[tuple[str, types.CodeType, int], SourceLine] | None = None) -> SourceLine:
    """The innermost line of the user's code.

    If no frame of the user's has source (code from `exec`, `python -c`), the innermost one that is not Hooke's.
    `known` keeps the lines that were found, for many calls from the same ones while the working directory stays.
    """
    outside = None
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(HOOKE_FOLDER):
            here = file, frame.f_code, frame.f_lineno  # equal code of two files is equal
            if known is not None and here in known:
                return known[here]
            if is_users(file) and (place := _place(frame)).text:
                if known is not None:
                    known[here] = place
                return place
            outside = outside or frame
        frame = frame.f_back
    return SourceLine("?", 0) if outside is None else _place(outside)


def _place(frame: FrameType) -> SourceLine:
    file = frame.f_code.co_filename
    text = linecache.getline(file, frame.f_lineno, frame.f_globals).strip()
    return SourceLine(shorten_path(file), frame.f_lineno, text)


_FRAME = re.compile(
    r'  (?:File ")?(?P<file>(?<=").+?(?=")|Cell In\[\d+\])"?, line (?P<line>\d+)(?:, in (?P<name>.+))?$'
)
_OURS = re.compile(rf"{re.escape(HOOKE_FOLDER)}|[/\\](src|site-packages)[/\\]hooke[/\\]")
"""A traceback may come from another machine."""
_LIBRARY = re.compile(r"([/\\](site|dist)-packages[/\\])|([/\\]lib(64)?[/\\]python3(\.\d+)?[/\\])|^<frozen ")


def user_frames(traceback: str) -> list[str]:
    """Lines of `traceback` (as Python formats it) without the frames of Hooke, the standard library and packages.

    Chained exceptions keep their order and the sentences between them. A library's frame that raised stays, in
    one line. Other text comes back unchanged.
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


def raising_line(traceback: str) -> str:
    """The last line of the user's code in `traceback`: `flights.py:34: return rows[7]`; empty if there is none."""
    lines = user_frames(traceback)
    for at in reversed(range(len(lines))):
        if (match := _FRAME.match(lines[at])) is not None:
            below = lines[at + 1] if at + 1 < len(lines) else ""
            code = below.strip() if below.startswith("    ") else ""  # else the frame has no source
            return str(SourceLine(match["file"], int(match["line"]), code))
    return ""


def user_stack(trace: TracebackType | None) -> list[str]:
    """The frames of the user's code in a traceback: two lines for each, where and what."""
    lines: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_users(code.co_filename):
            text = linecache.getline(code.co_filename, trace.tb_lineno, trace.tb_frame.f_globals).strip()
            within = "" if code.co_name == "<module>" else f", in {code.co_name}"
            lines += [f"{shorten_path(code.co_filename)}, line {trace.tb_lineno}{within}", f"    {text}"]
        trace = trace.tb_next
    return lines
