"""A host's part in one run: its workers, and the files that the driver cannot see."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from hooke.engines.remote.handshake import HandshakeReply, ProbeAnswer
from hooke.engines.remote.host import WorkerHost
from hooke.engines.remote.log_sync import LogSync
from hooke.engines.remote.worker_protocol import HostReport, HostSession, Note
from hooke.engines.worker.pool import shared_pool

__all__ = ["JoinedHost"]


class JoinedHost:
    """Made when a host has answered the driver's probe (`answer_probe`). `log_sync` is None where the driver sees the run's files."""

    def __init__(
        self,
        session: HostSession,
        answer: ProbeAnswer | None,
        *,
        name: str,
        slots: int,
        tell: Callable[[list[Note]], None],
        address: str,
    ) -> None:
        self.answer = answer
        self._slots = slots
        unshared = answer is not None and not answer.shares
        self.log_sync = LogSync(Path(session.logs).parent) if unshared else None
        # Without its own suffix a resumed run's logs would overwrite the earlier ones on the driver's machine.
        suffix = f"-{session.id[-4:]}" if unshared else ""
        self.workers = WorkerHost(session, name=name + suffix, slots=slots, tell=tell, address=address)

    def reply(self, host_id: str, *, memory: int | None = None) -> HandshakeReply:
        """Start the workers that the run wants at once, and describe this host to the driver."""
        notes = self.workers.prepare()
        report = HostReport(
            id=host_id,
            pid=os.getpid(),
            host=os.uname().nodename,
            python=platform.python_version(),
            hooke=version("hooke"),
            threads=self._slots,
            memory=memory,
            gpus=len(shared_pool().devices),
        )
        return HandshakeReply(report=report, answer=self.answer, notes=notes)

    def close(self) -> None:
        """End the workers, and remove the files that the driver has a copy of."""
        self.workers.close()
        if self.log_sync is not None:
            self.log_sync.end()
