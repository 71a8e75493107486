"""A port for the ranks of a gang to meet at, kept for them until they are done."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

__all__ = ["Rendezvous"]


class Rendezvous:
    """A free port of this machine that nobody else is given while this is open, and that rank 0 can listen at.

    It is bound here with SO_REUSEADDR and nobody listens at it. So the kernel gives it to no one who asks for any
    port, and lets one listen who asks for this one, with SO_REUSEADDR as servers do (torch, gRPC and Python's own).
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self._held = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind((address, 0))
        self.port: int = self._held.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the port; idempotent."""
        self._held.close()
