"""A Ray that Hooke starts on this machine: on loopback, with a token of its own, without a dashboard. It ends with its driver."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import psutil

from hooke.base.errors import HookeError
from hooke.base.files import write_atomic
from hooke.processes.devices import cpus_here, devices_of_this_machine
from hooke.processes.start import python_module, with_parent

__all__ = ["Head", "answer_for_agent", "environment_of_head"]

STORE_BYTES = 128 << 20
"""Shared memory for Ray's own objects; values go through Hooke's store."""

UP_S = 120.0
"""Ray takes 5 s to start, and 25 s on a machine at a load of ten."""

END_S = 5.0

_OURS = {
    "RAY_AUTH_MODE": "token",
    # With this switch, meant for platforms without clusters, Ray binds 127.0.0.1; otherwise all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": str(int(UP_S)),
    "RAY_gcs_server_request_timeout_seconds": str(int(UP_S)),
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Ray's monitor would kill a host with all its tasks; Hooke's own ends only the task that is too large.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_enable_metrics_collection": "0",
}
_OTHERS = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_NAMESPACE", "RAY_RUNTIME_ENV_HOOK", "RAY_START_HOOK")
"""Variables of the user's environment that concern another Ray."""


def environment_of_head(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a Ray that Hooke starts and of its clients, with a new token in `folder` that only this user can read."""
    token = folder / "token"
    descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    kept = {name: value for name, value in environment.items() if name not in _OTHERS}
    return kept | _OURS | {"RAY_AUTH_TOKEN_PATH": str(token)}


class Head:
    """The processes of a Ray of one node."""

    def __init__(
        self, folder: Path, *, environment: Mapping[str, str] = os.environ, cpus: int | None = None
    ) -> None:
        """Start the processes, with the environment of `environment_of_head`; `wait` returns when they are ready.

        With `cpus` other code than Hooke's uses this Ray as well: objects have Ray's default room, and the output of tasks
        goes to the process that started them.
        """
        self._cpus = cpus
        self._log = folder / "ray.log"
        self._folder = folder
        self._reserved: list[socket.socket] = []
        self._port = self._reserve_port()
        self.address = f"127.0.0.1:{self._port}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *with_parent(),  # and Ray's processes end with it
                    *python_module("ray.scripts.scripts", "start", "--head", "--block"),
                    *self._options(folder),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(environment),
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until Ray accepts connections. Raises HookeError where it does not start."""
        deadline = time.monotonic() + UP_S
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                ended = self._process.returncode
                raise self.failure("it took too long" if ended is None else f"exit code {ended}")
            if answer_for_agent(self._folder):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1.0):
                    return
            time.sleep(0.05)

    def release_ports(self) -> None:
        """Keep its ports no longer: Ray has them."""
        for each in self._reserved:
            each.close()
        self._reserved.clear()

    def check_loopback(self) -> None:
        """Raise HookeError where another machine could reach one of its processes."""
        open_to_all = {
            f"{connection.laddr.ip}:{connection.laddr.port}"
            for each in psutil.Process(self._process.pid).children(recursive=True)
            for connection in each.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN and not _is_loopback(connection.laddr.ip)
        }
        if open_to_all:
            raise HookeError(
                "the started Ray would be open to other machines",
                where=", ".join(sorted(open_to_all)),
                why="this version of Ray ignores the setting that keeps it on 127.0.0.1",
                fix='pip install "ray==2.60.*"',
            )

    def failure(self, why: str) -> HookeError:
        """That Ray could not be started, with the last words of its processes."""
        raylet = self._folder / "session_latest" / "logs" / "raylet.out"
        said = [*_last_words(self._log, 8), *_last_words(raylet, 2, _FAILED)]
        return HookeError(
            "cannot start Ray on this machine",
            why="\n".join(dict.fromkeys([*said, why])),
            fix='on="local" runs on this machine without Ray',
            next="hooke doctor",
        )

    def end(self) -> None:
        """End all processes."""
        self.release_ports()
        below: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self._process.pid).children(recursive=True)
        for pid in (self._process.pid, *(each.pid for each in below)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        psutil.wait_procs(below, timeout=END_S)

    def _reserve_port(self) -> int:
        """A free port, which until `release_ports` only a process that asks for this very number can have: Ray takes seconds to."""
        reserved = socket.socket()
        self._reserved.append(reserved)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port: int = reserved.getsockname()[1]
        return port

    def _options(self, folder: Path) -> list[str]:
        options = {
            "port": self._port,
            "num-cpus": self._cpus or cpus_here(),
            "num-gpus": len(devices_of_this_machine()),
            "temp-dir": folder,
            "include-dashboard": "false",
            # With ports given, Ray does not wait for its agents to report theirs.
            "dashboard-agent-grpc-port": self._reserve_port(),
            "dashboard-agent-listen-port": self._reserve_port(),
            "runtime-env-agent-port": self._reserve_port(),
            "metrics-export-port": self._reserve_port(),
        }
        if self._cpus is None:
            options |= {"object-store-memory": STORE_BYTES, "include-log-monitor": "false"}
        if find_spec("grpc") is not None:  # else Ray has no server for ray://, and refuses the option
            options["ray-client-server-port"] = self._reserve_port()
        return [
            *(f"--{name}={value}" for name, value in options.items()),
            "--no-monitor",
            "--disable-usage-stats",
        ]


def answer_for_agent(folder: Path) -> bool:
    """Write in the place of the agent of Ray's dashboard that it has no port, as it does without its optional dependencies.

    `folder` is Ray's folder for temporary files. Returns whether the head has begun its session there. A raylet crashes if the agent,
    which imports for seconds, has not written after 15 s. Without a dashboard nobody asks for its port.
    """
    begun = False
    for each in folder.glob("session_*/gcs_server_port_*"):
        begun = True
        node = each.name.rpartition("_")[2]
        written = each.with_name(f"dashboard_agent_listen_port_{node}")
        if not written.exists():
            write_atomic(written, b"-1")
    return begun


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


_FAILED = re.compile(r"^\[[^]]* [ECF] ")
"""Lines of Ray's own log that tell of an error."""
_STACK = re.compile(r" @ +0x|^-----|tail \(exit code")


def _last_words(path: Path, most: int, which: re.Pattern[str] = re.compile("")) -> list[str]:
    """The last lines of a log, without the stacks of compiled code."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    told = [line for line in lines if line.strip() and which.search(line) and not _STACK.search(line)]
    return told[-most:]
