"""Hosts that share nothing but TCP, on one machine: to start, cut off, heal, freeze, slow, fill and kill.

    with Hosts() as lan:
        head, worker = lan.start("head"), lan.start("worker")
        server = head.popen([sys.executable, "-m", "http.server", "--bind", head.address])
        worker.cut()

A host is a process with network, mount, process, IPC and host name namespaces of its own. All that it can write
to is a disk of its own, a tmpfs; what else it sees of this machine's files it can only read. A router without a
way out joins them. Nothing of this has a name outside, so nothing is left when this process dies, however that is.

Needs Linux, root, iproute2 and util-linux; `why_not()` says what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
from tests.support import REPOSITORY, environment, fill_disk
from tests.support.host_init import DISK, HOME, NAMES, PROJECT

from hooke.base.errors import HookeError, UsageError
from hooke.processes.start import python_module, with_parent

__all__ = ["CpuLimit", "Host", "Hosts", "why_not"]


# --- Less CPU time for some processes: a control group, of either version, that ends with its owner's call.

PERIOD_US = 20_000
"""Short, so that a tenth of a core is felt as slowness, not as pauses."""

EMPTIED_S = 10.0

_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")


class CpuLimit:
    """A control group of this name. Needs root; raises UsageError where neither version of them can limit CPU time."""

    def __init__(self, name: str) -> None:
        if (_V1 / "cpu.cfs_quota_us").exists():
            self._folder, self._second = _V1 / name, False
        elif "cpu" in _words(_V2 / "cgroup.controllers"):
            self._folder, self._second = _V2 / name, True
            (_V2 / "cgroup.subtree_control").write_text("+cpu", encoding="ascii")
        else:
            raise UsageError(
                "CPU time cannot be limited here",
                why="no control group `cpu`, of version 1 or 2, under /sys/fs/cgroup",
            )
        self._folder.mkdir()

    def set(self, cpus: float, pids: Sequence[int]) -> None:
        """So much for all in it together, these processes among them."""
        quota = int(cpus * PERIOD_US)
        if self._second:
            (self._folder / "cpu.max").write_text(f"{quota} {PERIOD_US}", encoding="ascii")
        else:
            (self._folder / "cpu.cfs_period_us").write_text(str(PERIOD_US), encoding="ascii")
            (self._folder / "cpu.cfs_quota_us").write_text(str(quota), encoding="ascii")
        for pid in pids:
            try:
                self._members.write_text(str(pid), encoding="ascii")
            except ProcessLookupError:
                continue  # it has ended meanwhile

    def before(self) -> list[str]:
        """What is put before a command, so that it starts in the group."""
        return [shutil.which("sh") or "/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._members)]

    def remove(self) -> None:
        """Once its processes have ended."""
        until = time.monotonic() + EMPTIED_S
        while self._members.read_text(encoding="ascii").split() and time.monotonic() < until:
            time.sleep(0.01)
        self._folder.rmdir()

    @property
    def _members(self) -> Path:
        return self._folder / "cgroup.procs"


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split() if path.exists() else []


ROUTER = "10.77.255.254"
MOST_HOSTS = 250
READY_S = 60.0
"""A host is there within a tenth of a second; a machine that others use as well may need longer."""

_OWN = ("--net", "--mount", "--pid", "--uts", "--ipc")


def why_not() -> str:
    """Why there can be no hosts here, as a sentence for `pytest.skip`; empty where there can be."""
    if sys.platform != "linux":
        return "hosts need Linux's namespaces"
    if os.geteuid() != 0:
        return "hosts need root: they are network and mount namespaces"
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            return f"hosts need `{program}`, of the package {package}"
    tried = subprocess.run(["unshare", *_OWN, "--fork", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"this machine allows no namespaces: {tried.stderr.strip()}"


class Host:
    """One of the hosts of `Hosts.start`, named `name`, at `address`. Other hosts find it by both."""

    def __init__(self, lan: Hosts, name: str, number: int, disk_bytes: int) -> None:
        """Starts it, and joins it to the router. Raises HookeError where that fails."""
        self.name = name
        self.address = f"10.77.0.{number}"
        self.addresses = [self.address]
        """Its own, and the networks behind it."""
        self._lan = lan
        self._link = f"v{number}"
        self._limit: CpuLimit | None = None
        self._entered: list[subprocess.Popen[Any]] = []
        self._top = subprocess.Popen(
            [
                *with_parent(),
                _found("unshare"),
                *_OWN,
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
                *python_module("tests.support.host_init", str(disk_bytes), *lan.keep),
            ],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self.pid = self._await_ready()
            self._namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
            self._join()
        except BaseException:
            self._end()
            raise

    def popen(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[Any]:
        """Start a command there, in its project folder unless `cwd` says otherwise; `how` as for `subprocess.Popen`.

        The process returned stands outside, and ends as the command does: by `-9` too, when its host is killed.
        """
        places = {
            "TMPDIR": str(DISK),
            "HOME": str(HOME),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(_python_path()),
        }
        inside = str(how.pop("cwd", PROJECT))
        process = subprocess.Popen(
            [
                *self._limited(),
                _found("nsenter"),
                f"--target={self.pid}",
                *_OWN,
                f"--wd={self.path(inside)}",
                "--",
                *command,
            ],
            env={**os.environ, **places, **(env or {})},
            **how,
        )
        self._entered.append(process)
        return process

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float = 60.0,
        env: Mapping[str, str] | None = None,
        **how: Any,
    ) -> str:
        """What the command printed there; `how` as for `popen`. Raises HookeError where it fails or takes longer."""
        process = self.popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
        )
        try:
            printed, complained = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.end(process)
            process.communicate()
            raise HookeError(f"{command[0]} on host {self.name} took longer than {timeout_s:g} s") from None
        if process.returncode != 0:
            raise HookeError(
                f"{command[0]} on host {self.name} ended with {process.returncode}", why=complained.strip()
            )
        return printed

    def end(self, process: subprocess.Popen[Any], how: int = signal.SIGKILL) -> None:
        """Send the command that `popen` started a signal, and wait for its end."""
        for child in _children(process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(how)
        process.wait()

    def path(self, inside: str | Path) -> Path:
        """Where a file of the host lies for those outside."""
        return Path(f"/proc/{self.pid}/root") / str(inside).lstrip("/")

    @property
    def project(self) -> Path:
        """Its project folder, as seen from outside."""
        return self.path(PROJECT)

    def processes(self) -> list[psutil.Process]:
        """All that run there, without its init."""
        return [
            each
            for each in psutil.process_iter()
            if each.pid != self.pid and _namespace(each.pid) == self._namespace
        ]

    def cut(self, other: Host | None = None) -> None:
        """Lose every packet from and to it, or between it and another, without a word to either side. Idempotent."""
        self._lan.cut(self, other)

    def heal(self, other: Host | None = None) -> None:
        """Join what `cut` parted."""
        self._lan.heal(self, other)

    def route(self, network: str) -> None:
        """Send what is for these addresses to it, as to a router with a network of its own behind it; `cut` parts that, too."""
        _in_network(self._lan.router, f"ip route add {network} via {self.address} dev {self._link}")
        self.addresses.append(network)

    def freeze(self) -> None:
        """Stop every process of it (SIGSTOP). Its kernel still acknowledges what arrives, as that of a stalled machine."""
        stopped: set[int] = set()
        while more := [each for each in self.processes() if each.pid not in stopped]:
            self._signal(more, signal.SIGSTOP)
            stopped.update(each.pid for each in more)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(self.processes(), signal.SIGCONT)
        self._go_on()

    def limit(self, cpus: float) -> None:
        """Give all that runs there, from now on, so much CPU time: 0.1 is a tenth of one core."""
        if self._limit is None:
            self._limit = CpuLimit(f"hooke-host-{self.pid}")
        self._limit.set(cpus, [each.pid for each in self.processes()])

    def fill_disk(self, *, leave: int = 0) -> None:
        """Take all room of its disk but `leave` bytes."""
        fill_disk(self._ballast, leave=leave)

    def free_disk(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it as a power cut does: no process of it says anything to anybody, no connection is closed."""
        self.cut()
        self._end()

    # -- inside ------------------------------------------------------------------------------------

    @property
    def _ballast(self) -> Path:
        return self.path(DISK / "ballast")

    def _await_ready(self) -> int:
        assert self._top.stdout is not None
        assert self._top.stderr is not None
        said = self._top.stdout.readline()
        if said.strip() != "ready":
            raise HookeError(f"host {self.name} did not start", why=self._top.stderr.read().strip())
        until = time.monotonic() + READY_S
        while not (below := _children(self._top.pid)):
            if time.monotonic() > until:
                raise HookeError(
                    f"host {self.name} did not start", why=f"no process of it after {READY_S:g} s"
                )
        return below[0].pid

    def _join(self) -> None:
        router, link = self._lan.router, self._link
        _in_network(router, f"ip link add {link} type veth peer name eth0 netns {self.pid}")
        _in_network(router, f"ip address add {ROUTER}/32 dev {link}")
        _in_network(router, f"ip link set {link} up")
        _in_network(router, f"ip route add {self.address}/32 dev {link}")
        for command in (
            "ip link set eth0 up",
            f"ip address add {self.address}/32 dev eth0",
            f"ip route add {ROUTER} dev eth0",
            f"ip route add default via {ROUTER}",
        ):
            _in_network(self.pid, command)
        self.run(["hostname", self.name])

    def _limited(self) -> list[str]:
        return [] if self._limit is None else self._limit.before()

    def _signal(self, processes: Sequence[psutil.Process], how: int) -> None:
        for each in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(how)

    def _go_on(self) -> None:
        """`nsenter` stops itself when what it entered with is stopped, and would not notice its end."""
        for process in self._entered:
            process.send_signal(signal.SIGCONT)

    def _end(self) -> None:
        ours = _children(self._top.pid)
        for each in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._top.kill()
        self._top.wait()
        until = time.monotonic() + READY_S
        # The namespace ends when each of its processes is reaped, also by an `nsenter` that was stopped.
        while psutil.wait_procs(ours, timeout=0.05)[1] and time.monotonic() < until:
            self._go_on()
        self._go_on()
        for process in self._entered:
            process.wait(timeout=READY_S)
        for pipe in (self._top.stdout, self._top.stderr):
            if pipe is not None:
                pipe.close()
        if self._limit is not None:
            self._limit.remove()
            self._limit = None


class Hosts:
    """A network of hosts. Leaving it ends them all, and all that runs there."""

    def __init__(self, *, disk_bytes: int = 512 << 20, keep: Sequence[str | Path] = ()) -> None:
        """`disk_bytes` of disk each, in memory. `keep`: folders with programs, besides this Python's, that they may read.

        Raises UsageError where there can be no hosts.
        """
        if reason := why_not():
            raise UsageError("no hosts can be made here", why=reason)
        self.keep = _programs(keep)
        self._disk_bytes = disk_bytes
        self._hosts: dict[str, Host] = {}
        self._number = 0
        self._cuts: set[str] = set()
        self._router = subprocess.Popen(
            [
                *with_parent(),
                _found("unshare"),
                "--net",
                "--",
                _found("sh"),
                "-c",
                "echo 1 > /proc/sys/net/ipv4/ip_forward && echo ready && exec sleep infinity",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._router.stdout is not None
        self._router.stdout.readline()
        self.router = self._router.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def start(self, name: str, *, disk_bytes: int | None = None) -> Host:
        """One more host. Raises UsageError where there is one of that name, or there are 250; HookeError where it fails."""
        if name in self._hosts:
            raise UsageError(f"there is a host {name} already", fix="give it another name")
        if self._number == MOST_HOSTS:
            raise UsageError(f"a network has {MOST_HOSTS} hosts at most")
        self._number += 1
        host = Host(self, name, self._number, self._disk_bytes if disk_bytes is None else disk_bytes)
        self._hosts[name] = host
        self._tell_names()
        return host

    def cut(self, one: Host, other: Host | None = None) -> None:
        """See `Host.cut`."""
        for rule in _rules(one, other):
            if rule not in self._cuts:
                _in_network(self.router, f"ip rule add {rule} blackhole")
                self._cuts.add(rule)

    def heal(self, one: Host, other: Host | None = None) -> None:
        """See `Host.heal`."""
        for rule in _rules(one, other):
            if rule in self._cuts:
                _in_network(self.router, f"ip rule del {rule} blackhole")
                self._cuts.remove(rule)

    def close(self) -> None:
        """End all of it; idempotent."""
        for host in self._hosts.values():
            host._end()
        self._hosts.clear()
        self._router.kill()
        self._router.wait()
        assert self._router.stdout is not None
        self._router.stdout.close()

    def _tell_names(self) -> None:
        lines = ["127.0.0.1 localhost", *(f"{each.address} {each.name}" for each in self)]
        for host in self:
            if psutil.pid_exists(host.pid):
                host.path(NAMES).write_text("\n".join(lines) + "\n", encoding="ascii")


def _rules(one: Host, other: Host | None) -> list[str]:
    if other is None:
        return [f"{way} {each}" for each in one.addresses for way in ("from", "to")]
    return [
        f"from {a} to {b}"
        for near, far in ((one, other), (other, one))
        for a in near.addresses
        for b in far.addresses
    ]


def _programs(keep: Sequence[str | Path]) -> list[str]:
    asked = [sys.prefix, sys.base_prefix, REPOSITORY, *_python_path(), *keep]
    return list(dict.fromkeys(str(Path(each).resolve()) for each in asked if Path(each).is_dir()))


def _python_path() -> list[str]:
    return [str(Path(each).resolve()) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]


def _in_network(pid: int, command: str) -> None:
    done = subprocess.run(
        [_found("nsenter"), f"--target={pid}", "--net", "--", *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise HookeError(f"`{command}` failed in a host's network", why=done.stderr.strip())


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or of a sandbox around this one
        return ""


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise UsageError(f"`{program}` was not found", fix="install iproute2 and util-linux")
    return path
