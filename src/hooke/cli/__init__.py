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
        _start_ahead(sys.argv[1:] if arguments is None else arguments, forks=arguments is None)
        from hooke.cli.entry import run_command

        code = run_command(arguments)
    except KeyboardInterrupt:  # before the verb started
        code = 130
    finally:
        gc.enable()
    sys.exit(code)


_NO_WORKERS = ("--help", "--on", "--detach")
"""With these, `hooke run` may need no workers of this machine."""


def _start_ahead(words: Sequence[str], *, forks: bool) -> None:
    """Have the server that forks workers ready when a run needs it.

    It is a fork of this process, which has only imported what workers need by then: a tenth of a second less than another interpreter. Where a fork would
    differ from that (`fork_serves`), another interpreter starts while this one imports what a run needs; on one core it would wait for it.
    """
    told = {word.partition("=")[0] for word in words}
    if words[:1] not in (["run"], ["resume"]) or not told.isdisjoint(_NO_WORKERS):
        return
    from hooke.processes.devices import cpus_here
    from hooke.processes.fork import fork_serves
    from hooke.processes.start import start_ahead

    if forks and fork_serves():
        from hooke.engines.worker import fork_server

        start_ahead(fork_server.__name__, main=fork_server.main)
    elif cpus_here() > 1:
        start_ahead("hooke.engines.worker.fork_server")
