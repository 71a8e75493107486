"""Looks at what a service's processes listen on, again and again, and at their memory."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Self

import psutil
from benchmarks.serving.chaos.served import Served

__all__ = ["Ports", "memory_mb"]

EVERY_S = 1.0
PRINTED = re.compile(r"\(pid \d+, port (\d+)\)|listens on http://127\.0\.0\.1:(\d+)")


class Ports:
    """What was ever listened on, in a thread of its own; a context manager."""

    def __init__(self, services: Sequence[Served]) -> None:
        self.bound: set[tuple[str, int]] = set()
        self.looks = 0
        self._services = services
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ports", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def printed(self) -> set[int]:
        """What supervisors said that is listened on."""
        said = "\n".join(one.text for service in self._services for one in service.supervisors)
        return {int(port) for pair in PRINTED.findall(said) for port in pair if port}

    def unsaid(self) -> set[tuple[str, int]]:
        """What was listened on without having been said, or elsewhere than on loopback."""
        printed = self.printed()
        return {(host, port) for host, port in self.bound if host != "127.0.0.1" or port not in printed}

    def _look(self) -> None:
        while not self._over.wait(EVERY_S):
            self.looks += 1
            for service in self._services:
                with contextlib.suppress(
                    psutil.NoSuchProcess, FileNotFoundError
                ):  # it ended while it was looked at
                    for pid in service.processes():
                        self.bound |= _listening(pid)


def _listening(pid: int) -> set[tuple[str, int]]:
    connections = psutil.Process(pid).net_connections("inet")
    return {(one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN}


def memory_mb(service: Served) -> dict[str, float]:
    """Resident memory of each kind of process; of replicas the mean."""
    found: dict[str, list[float]] = defaultdict(list)
    for pid, role in service.processes().items():
        found[role].append(psutil.Process(pid).memory_info().rss / 2**20)
    return {role: sum(sizes) / len(sizes) for role, sizes in found.items()}
