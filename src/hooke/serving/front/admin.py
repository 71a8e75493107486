"""Envoy, asked over its unix socket."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError

__all__ = ["Admin"]

TIMEOUT_S = 10.0
"""It answers within a millisecond; a machine that swaps takes longer."""


class Admin:
    """Questions and orders to one Envoy. Each raises OSError where none listens, and HookeError for an answer that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def counters(self, pattern: str) -> Mapping[str, Any]:
        """What is counted, and texts, under names that the pattern (RE2) finds."""
        found = msgspec.json.decode(self._ask("GET", f"/stats?format=json&filter={pattern}"))
        return {one["name"]: one.get("value", 0) for one in found["stats"] if "name" in one}

    def hosts(self, cluster: str) -> Mapping[str, Mapping[str, int]]:
        """What is counted of each host of the cluster, by `address:port`."""
        found = msgspec.json.decode(self._ask("GET", "/clusters?format=json"))
        statuses = [one for one in found["cluster_statuses"] if one["name"] == cluster]
        return {
            _place(host["address"]): {one["name"]: int(one.get("value", 0)) for one in host["stats"]}
            for status in statuses
            for host in status.get("host_statuses", [])
        }

    def listeners(self) -> list[str]:
        """Where it listens, as `address:port`."""
        found = msgspec.json.decode(self._ask("GET", "/listeners?format=json"))
        return [_place(one["local_address"]) for one in found.get("listener_statuses", [])]

    def heap_bytes(self) -> int:
        """What it has allocated."""
        return int(msgspec.json.decode(self._ask("GET", "/memory"))["allocated"])

    def is_live(self) -> bool:
        """Whether it has read all of its configuration and takes requests."""
        return self._ask("GET", "/server_info").find(b'"state": "LIVE"') >= 0

    def order(self, path: str) -> None:
        """Something done, such as `/quitquitquit`."""
        self._ask("POST", path)

    def _ask(self, verb: str, path: str) -> bytes:
        with closing(_Connection(self.path)) as connection:
            try:
                connection.request(verb, path)
                answer = connection.getresponse()
                body = answer.read()
            except OSError:  # also RemoteDisconnected, which is an HTTPException, too
                raise
            except http.client.HTTPException as error:  # it died in the middle of it
                raise HookeError(f"Envoy gave no whole answer to {verb} {path}: {error!r}") from error
        if answer.status != 200:
            raise HookeError(
                f"Envoy refused {verb} {path}: {answer.status} {body[:200].decode(errors='replace')}"
            )
        return body


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _place(address: Mapping[str, Any]) -> str:
    found = address["socket_address"]
    return f"{found['address']}:{found['port_value']}"
