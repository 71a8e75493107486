"""What a page's script calls: writes files, runs commands, compares output. See snippets.py."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from tests.house.snippets import matches

__all__ = ["console", "output", "write"]

_LIMIT_S = 200


_terminal = sys.stdout


class _Tee(io.StringIO):
    """Keeps what is printed, and lets it through."""

    def write(self, text: str) -> int:
        _terminal.write(text)
        return super().write(text)


_printed = _Tee()
sys.stdout = _printed


def write(name: str, text: str) -> None:
    """Make the file of a block whose first line names it."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def output(expected: str, *, line: int) -> None:
    """Compare with what was printed since the last time."""
    sys.stdout.flush()
    _compare(expected, _printed.getvalue(), f"line {line}: printed")
    _printed.seek(0)
    _printed.truncate()


def console(session: str, *, line: int) -> None:
    """Run each `$ command` through the shell; what is written below it is compared.

    Where nothing is written, or only `...`, the command must succeed.
    """
    for part in ("\n" + session).split("\n$ ")[1:]:
        command, _, expected = part.partition("\n")
        if command.startswith("pip install"):
            continue  # the environment is the tests' own
        shell = ["bash", "-c", command]
        done = subprocess.run(
            shell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_LIMIT_S, check=False
        )
        if expected.strip(". \n"):
            _compare(expected, done.stdout, f"line {line}: $ {command}")
        elif done.returncode:
            raise AssertionError(f"line {line}: $ {command}\nexit code {done.returncode}\n{done.stdout}")


def _compare(expected: str, actual: str, what: str) -> None:
    if not matches(expected, actual):
        raise AssertionError(
            f"{what}\n--- the page says\n{expected.strip()}\n--- it is\n{actual.strip()}\n---"
        )
