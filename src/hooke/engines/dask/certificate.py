"""Dask's `preload`: a scheduler, nanny or worker reloads its certificate when the file has changed.

Dask reads it only at the start. Its TLS contexts accept another one; existing connections go on.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from distributed import Scheduler, Status

__all__ = ["Certificate", "dask_setup"]

LOOK_S = 2.0


class Certificate:
    """The certificate of one Dask server."""

    def __init__(self, server: Any) -> None:
        self._server = server
        role = "scheduler" if isinstance(server, Scheduler) else "worker"
        self._path = Path(server.security.get_tls_config_for_role(role)["cert"])
        self._seen = self._version()

    def look(self) -> None:
        """Reload the certificate where the file has changed. Raises OSError where it cannot be read."""
        version = self._version()
        if version != self._seen:
            for each in self._contexts():
                each.load_cert_chain(self._path)
            self._seen = version

    def _version(self) -> tuple[int, int]:
        found = self._path.stat()  # it is replaced by renaming, so its inode changes
        return found.st_ino, found.st_mtime_ns

    def _contexts(self) -> list[ssl.SSLContext]:
        listening = [each.server_args.get("ssl_options") for each in self._server.listeners]
        return [
            each for each in (self._server.connection_args["ssl_context"], *listening) if each is not None
        ]


def dask_setup(server: Any) -> None:
    """Watch the certificate; Dask calls this when the server starts."""
    _watch(server, Certificate(server))


def _watch(server: Any, certificate: Certificate) -> None:
    if server.status not in (Status.closed, Status.failed):
        server.loop.call_later(LOOK_S, _watch, server, certificate)  # first, since a look may fail
        certificate.look()
