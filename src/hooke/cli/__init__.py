"""The command line: `verbs/` has the verbs, a module each or with the verb next to it; this folder has what verbs share.

`entry` finds the verb, `options` and `parameters` read arguments, `drive` shows a run from its first event to its
result, `screens` prints errors. It makes no decisions about runs and knows nothing of engines'
libraries. Imports every folder below.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line with `arguments` (by default the process's own) and leave the process with its exit code."""
    gc.disable()  # imports make no garbage: `keep_imports` turns it on
    try:
        from hooke.cli.entry import run_command

        code = run_command(arguments)
    except KeyboardInterrupt:  # before the verb started
        code = 130
    finally:
        gc.enable()
    sys.exit(code)
