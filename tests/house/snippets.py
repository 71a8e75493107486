"""Turns a Markdown page into a Python script that does what the page says, in order, and checks what it shows.

A fenced block is one of
- `python`: run in the page's one namespace; if its first line is a comment that is a file name (`# delays.py`),
  it is written to that file instead;
- `console`: lines that begin with `$ ` are commands, what follows is their output (stdout, then stderr);
- `console measured`: the same, with the times, rates and names of one real run: those of another run count as equal;
- `output`: what the code since the last `output` printed;
- `python no-run`: shown only. The words after it are the reason, and must be there.
Other languages are prose. In expected output `...` stands for anything, on one line or over many.
On a page that has the line `<!-- notebook -->`, each `python` block is a cell of one Jupyter notebook, run by a real kernel.
A port that a page has something listen on (`--port 8017`) is another one when it runs, wherever the page names it: see `ports_of`.
The script keeps the page's line numbers, so that a traceback points into the page.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Block", "blocks_of", "matches", "ports_of", "script_of", "with_ports"]

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
NOTEBOOK = re.compile(r"^<!-- notebook -->$", re.MULTILINE)
PORT = re.compile(r"--port[ =]([1-9]\d*)\b")
MEASURED = re.compile(
    r"\d{8}-\d{6}-[a-z0-9]{4}|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"  # the end of a run's name; a moment
    r"|(?:\d+h |\d+m )?\d+(?:\.\d+)? (?:us|ms|s)\b|\d+(?:\.\d+)?/s\b"  # times and rates
)
FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: its language, the words after it, its text and the line that its text begins on."""

    language: str
    words: str
    body: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block is to be written to."""
        found = FILE_NAME.match(self.body.partition("\n")[0])
        return found.group(1) if found else None


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    blocks = []
    for match in FENCE.finditer(page):
        language, _, words = match["info"].strip().partition(" ")
        line = page.count("\n", 0, match.start("body")) + 1
        blocks.append(Block(language=language, words=words, body=textwrap.dedent(match["body"]), line=line))
    return blocks


def ports_of(page: str) -> list[int]:
    """Those on which commands of the page listen."""
    commands = [block.body for block in blocks_of(page) if block.language == "console"]
    return sorted({int(port) for body in commands for port in PORT.findall(body)})


def with_ports(page: str, others: Mapping[int, int]) -> str:
    """The page with other ports: nobody's programme that listens on one that the page names is in its way, or is asked."""
    for port, other in others.items():
        page = re.sub(rf"(?<=--port[ =]){port}\b|(?<=127\.0\.0\.1:){port}\b", str(other), page)
    return page


def script_of(page: str) -> str:
    """A script of as many lines as the page, to run in an empty folder with the project on the path."""
    lines = [""] * (page.count("\n") + 2)
    lines[0] = "from tests.house import page_runtime as _page"
    cells = NOTEBOOK.search(page) is not None
    for block in blocks_of(page):
        for offset, text in enumerate(_statements(block, cells=cells)):
            at = block.line - 1 + offset
            lines[at] = f"{lines[at]}; {text}" if lines[at] and text else lines[at] or text
    return "\n".join(lines)


def _statements(block: Block, *, cells: bool) -> list[str]:
    """What a block becomes in the script."""
    if block.language == "python" and block.words:
        return []
    if block.language in {"python", "toml"} and block.file:
        return [f"_page.write({block.file!r}, {block.body!r})"]
    if block.language == "python" and cells:
        return [f"_page.cell({block.body!r})"]
    if block.language == "python":
        return block.body.splitlines()
    if block.language == "console" and block.words == "measured":
        return [f"_page.console({block.body!r}, line={block.line}, measured=True)"]
    if block.language in {"console", "output"}:
        return [f"_page.{block.language}({block.body!r}, line={block.line})"]
    return []


def matches(expected: str, actual: str, *, measured: bool = False) -> bool:
    """Whether `actual` is `expected`, where `...` stands for anything and the width of gaps between columns does not count.

    With `measured`, all times, rates, moments and names of runs are equal.
    """
    if measured:
        expected, actual = (MEASURED.sub("<measured>", text) for text in (expected, actual))
    parts = [re.escape(part) for part in _tidy(expected).split("...")]
    return re.fullmatch(r"[\s\S]*?".join(parts), _tidy(actual)) is not None


def _tidy(text: str) -> str:
    return "\n".join(re.sub(r"(?<=\S) {2,}", "  ", line.rstrip()) for line in text.strip().splitlines())
