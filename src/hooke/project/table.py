"""A run as a plain-text table."""

from __future__ import annotations

from hooke.journal.view import RunView

__all__ = ["run_table"]


def run_table(view: RunView, run: str) -> str:
    """The run's tasks, one a line."""
    return run + " " + view.status
