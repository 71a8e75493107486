"""What tasks log where nobody has configured logging: their own messages from INFO on, others' from WARNING on.

A script configures logging below `if __name__ == "__main__"`, which no worker runs, so what tasks say would be lost. A module that calls
`logging.basicConfig` itself is left alone: this is Python's last resort, for loggers without any handler.
"""

from __future__ import annotations

import logging
import sys

from hooke.base.user_code import is_users

__all__ = ["show_what_tasks_log"]


class _LastResort(logging.Handler):
    """Writes to standard error as it is at the time: a task's log."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and not is_users(record.pathname):
            return
        try:
            sys.stderr.write(f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001 - as all handlers: a message that cannot be written does not end the task
            self.handleError(record)


def show_what_tasks_log() -> None:
    """From now on, in this process, messages of users' modules from INFO on go to standard error, with level and logger."""
    handler = _LastResort(logging.INFO)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.lastResort = handler  # type: ignore[assignment]  # any handler works
    logging.getLogger().setLevel(logging.INFO)
