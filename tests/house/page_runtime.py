"""What a page's script calls: writes files, runs commands, compares output. See snippets.py."""

from __future__ import annotations

import atexit
import functools
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.house.snippets import matches

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient

__all__ = ["cell", "console", "output", "write"]

_LIMIT_S = 400
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGER = re.compile(r"^run \S+-\d{8}-\d{6}-\w{4} (running for|finished in) .*\n", re.MULTILINE)
"""What a run off a terminal prints when it has taken some seconds, as it does on a busy machine only."""

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


@functools.cache
def _kernel() -> BlockingKernelClient:
    """The kernel of the page's notebook, started with its first cell and ended with the page."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    atexit.register(manager.shutdown_kernel, now=True)
    atexit.register(client.stop_channels)
    return client


def cell(source: str) -> None:
    """Run a cell in the page's notebook. What the notebook shows below it counts as printed: text, values and errors."""
    _kernel().execute_interactive(source, timeout=_LIMIT_S, output_hook=_shown)


def _shown(message: dict[str, Any]) -> None:
    """Print what one message of a kernel adds to the notebook, in its plain form."""
    content = message["content"]
    if message["msg_type"] == "stream":
        print(_COLOURS.sub("", content["text"]), end="")
    elif message["msg_type"] in {"display_data", "execute_result"}:
        print(content["data"]["text/plain"])
    elif message["msg_type"] == "error":
        print(f"{content['ename']}: {content['evalue']}")


def output(expected: str, *, line: int) -> None:
    """Compare with what was printed since the last time."""
    sys.stdout.flush()
    _compare(expected, _printed.getvalue(), f"line {line}: printed")
    _printed.seek(0)
    _printed.truncate()


def console(session: str, *, line: int, measured: bool = False) -> None:
    """Run each `$ command` through the shell; what is written below it is compared, without figures if it was `measured`.

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
        printed = done.stdout if "started on" in expected else _LONGER.sub("", done.stdout)
        if expected.strip(". \n"):
            _compare(expected, printed, f"line {line}: $ {command}", measured=measured)
        elif done.returncode:
            raise AssertionError(f"line {line}: $ {command}\nexit code {done.returncode}\n{done.stdout}")


def _compare(expected: str, actual: str, what: str, *, measured: bool = False) -> None:
    if not matches(expected, actual, measured=measured):
        raise AssertionError(
            f"{what}\n--- the page says\n{expected.strip()}\n--- it is\n{actual.strip()}\n---"
        )
