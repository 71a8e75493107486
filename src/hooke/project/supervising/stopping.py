"""Ends what a killed supervisor left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

from hooke.project.supervising.service_folder import FRONT, ChildRecord, ServiceFolder, alive

__all__ = ["end_child", "end_what_is_left"]

GRACE_S = 2.0
"""From SIGTERM to SIGKILL: the front has to end Envoy."""


def end_what_is_left(folder: ServiceFolder) -> Iterator[str]:
    """End every child of the service that lives, the front first; a line for each. Its records go, too."""
    for record in sorted(folder.children(), key=lambda one: one.name != FRONT):
        if alive(record):
            what = "the front" if record.name == FRONT else f"replica {record.name}"
            end_child(record)
            yield f"ended: {what}, pid {record.pid}"
        folder.forget_child(record.name)


def end_child(record: ChildRecord) -> None:
    """End it now; the front gets a moment in which it ends Envoy."""
    if record.name == FRONT:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGTERM)
        ends = time.monotonic() + GRACE_S
        while alive(record) and time.monotonic() < ends:
            time.sleep(0.02)
    if alive(record):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record.pid, signal.SIGKILL)
    ends = time.monotonic() + GRACE_S
    while alive(record) and time.monotonic() < ends:
        time.sleep(0.005)
