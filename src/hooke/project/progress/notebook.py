"""One table in a notebook's cell, updated in place."""

from __future__ import annotations

import sys
from contextvars import Context
from typing import Any
from uuid import uuid4

from hooke.project.progress.display import Snapshot
from hooke.project.progress.html import run_html
from hooke.project.progress.summary import summary

__all__ = ["NotebookTable", "kernel_shell"]

NOT_YET = "nothing has run yet"


def kernel_shell() -> Any | None:
    """The IPython shell of the Jupyter kernel that this process is; None elsewhere, and in IPython's own terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell if shell is not None and getattr(shell, "kernel", None) is not None else None


class NotebookTable:
    """Shows HTML, and one line of text where HTML cannot be shown.

    `context` is that of the thread that calls `run`: it tells the kernel below which cell to show what the watch's thread draws.
    """

    every_s = 0.5

    def __init__(self, shell: Any, context: Context) -> None:
        self._shell = shell
        self._context = context
        self._id = f"hooke-{uuid4().hex}"
        self._shown = False

    def draw(self, snapshot: Snapshot) -> None:
        """Put the table in the place of the last one."""
        begun = bool(snapshot.run.run)
        html = run_html(snapshot.run, snapshot.tasks, stopping=snapshot.stopping)
        told = {"text/plain": summary(snapshot), "text/html": html}
        self._publish(told if begun else {"text/plain": NOT_YET, "text/html": f"<i>{NOT_YET}</i>"})

    def close(self, snapshot: Snapshot) -> None:
        """Leave the last state."""
        self.draw(snapshot)

    def _publish(self, data: dict[str, str]) -> None:
        # Only where the table first stands depends on the cell: it is found again by its id, also from later cells.
        call = self._shell.display_pub.publish if self._shown else self._first
        call(data=data, metadata={}, transient={"display_id": self._id}, update=self._shown)
        self._shown = True

    def _first(self, **message: Any) -> None:
        self._context.run(self._shell.display_pub.publish, **message)
