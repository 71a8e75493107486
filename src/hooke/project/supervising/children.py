"""Children of a supervisor: started by it or adopted, spoken to over their channel, seen to end, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from hooke.base.processes import python_module
from hooke.engines.channel import Channel
from hooke.engines.crash_log import death_tail
from hooke.project.supervising.messages import Renew, pack
from hooke.project.supervising.service_folder import ChildRecord, ServiceFolder, alive
from hooke.project.supervising.sockets import connect_to, listen_at

__all__ = ["Child", "adopt_child", "start_child"]

SEEN_S = 1.0
"""From the end of its channel to the end of its process; longer, and it closed its channel for another reason."""


@dataclass(slots=True, kw_only=True, eq=False)
class Child:
    """A process that somebody started for this service. `process` is None where that was an earlier supervisor."""

    record: ChildRecord
    channel: Channel | None
    process: subprocess.Popen[bytes] | None = None
    log_from: int = 0
    cut_at: float | None = None
    """When its channel ended."""

    @property
    def name(self) -> str:
        """By which the supervision knows it."""
        return self.record.name

    def ended(self, now: float) -> tuple[int | None] | None:
        """Its exit code in a tuple, None in it where nobody knows; None while it lives."""
        if self.process is not None:
            code = self.process.poll()
            return None if code is None else (code,)
        if self.cut_at is None or (alive(self.record) and now - self.cut_at < SEEN_S):
            return None
        return (None,)

    def take(self, now: float) -> list[bytes]:
        """What it said. Nothing comes any more once `channel` is None."""
        if self.channel is None:
            return []
        messages, more = self.channel.take()
        if not more:
            self.cut(now)
        return messages

    def send(self, message: bytes, now: float) -> None:
        """Tell it something; that it does not listen is seen by its end."""
        if self.channel is not None:
            try:
                self.channel.send(message)
            except OSError:
                self.cut(now)

    def renew(self, now: float) -> None:
        """Its supervisor is there."""
        self.send(pack(Renew()), now)

    def cut(self, now: float) -> None:
        """Let go of its channel."""
        if self.channel is not None:
            self.channel.close()
            self.channel, self.cut_at = None, now

    def terminate(self) -> None:
        """SIGTERM."""
        if self._lives():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.record.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, to what it started, too."""
        if self._lives():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.record.pid, signal.SIGKILL)

    def tail(self) -> tuple[str, ...]:
        """The end of its log."""
        return death_tail(Path(self.record.log), self.log_from)

    def _lives(self) -> bool:
        return self.process.poll() is None if self.process is not None else alive(self.record)


def start_child(  # noqa: PLR0913 - what a process is started with, each by name
    folder: ServiceFolder,
    module: str,
    order: Callable[[int], str],
    *,
    record: ChildRecord,
    cwd: str,
    descriptors: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start `python -m module ORDER` in a session of its own. `order(control)` makes the order from the descriptor of its channel.

    `environment` is what it has beside this process's.
    Raises OSError.
    """
    listening = listen_at(folder.child_socket(record.name))
    try:
        log = Path(record.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*python_module(module), order(listening.fileno())],
                cwd=cwd,
                env=None if environment is None else os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor, which drains first
                pass_fds=(listening.fileno(), *descriptors),
            )
        channel = Channel(connect_to(folder.child_socket(record.name)).detach())
    finally:
        listening.close()
    try:
        created = psutil.Process(process.pid).create_time()
        found = msgspec.structs.replace(record, pid=process.pid, created=created, started_at=time.time())
        folder.write_child(found)
    except BaseException:
        process.kill()  # nobody could find it
        process.wait()
        channel.close()
        raise
    return Child(record=found, channel=channel, process=process, log_from=start)


def adopt_child(folder: ServiceFolder, record: ChildRecord) -> Child | None:
    """A child that an earlier supervisor started; None where it does not listen."""
    try:
        channel = Channel(connect_to(folder.child_socket(record.name)).detach())
    except OSError:
        return None
    log = Path(record.log)
    return Child(
        record=record, channel=channel, log_from=0 if not log.exists() else max(0, log.stat().st_size - 65536)
    )
