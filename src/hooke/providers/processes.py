"""Processes on this machine as a fleet's machines: the simplest provider, and the reference for others.

A process has the fleet's tag and its launch's token in its environment, as have its children, so any controller can find it. One SIGTERM
retires it, which such programs take as "finish and end"; it is gone when it has ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from hooke.base.errors import UsageError
from hooke.machines.provider import Impossible, Machine, NoCapacity, ProviderError, ProviderFacts

__all__ = ["FLEET", "MACHINE", "Processes", "check_command"]

FLEET = "HOOKE_FLEET"
"""The environment variable with the fleet's tag."""
MACHINE = "HOOKE_MACHINE"
"""The environment variable with the launch's token, which is the machine's id."""

STARTED = "HOOKE_MACHINE_STARTED"
"""The environment variable with the time of the launch: the system's own is wrong after its clock was set."""

GRACE_S = 5.0
"""From SIGTERM to SIGKILL, for a process that was not retired before."""
BORN_S = 1.0
"""A program that cannot work usually ends within a second; until then it counts as starting."""
_FULL = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


class Processes:
    """Starts `command` once for each machine, in a session of its own; its output goes to `logs/TOKEN.log`."""

    def __init__(
        self,
        tag: str,
        command: Sequence[str],
        *,
        logs: Path,
        usd_per_hour: float = 0.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`tag` identifies the fleet on this machine. Raises UsageError where `command` is not a list of words."""
        check_command(command, '["python", "worker.py"]')
        # A list of processes is always current, so a process that is not listed does not exist.
        self.facts = ProviderFacts(
            name="processes", usd_per_hour=usd_per_hour, visible_s=1.0, look_s=0.2, sure=True
        )
        self._tag = tag
        self._command = list(command)
        self._logs = logs
        self._environment = dict(os.environ if environment is None else environment)
        self._children: set[int] = set()
        self._retired: dict[str, float] = {}
        """Machine -> when it was sent SIGTERM."""

    def launch(self, token: str) -> str:
        """Start the command. Raises Impossible where the program does not exist, NoCapacity where the machine is full."""
        environment = self._environment | {FLEET: self._tag, MACHINE: token, STARTED: repr(time.time())}
        log = self._opened(token)
        files = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        try:
            # Not subprocess.Popen: these processes outlive this one, by design.
            pid = os.posix_spawnp(
                self._command[0], self._command, environment, file_actions=files, setsid=True
            )
        except OSError as error:
            kind = NoCapacity if error.errno in _FULL else Impossible
            raise kind(f"cannot start {self._command[0]}: {error.strerror}") from error
        finally:
            os.close(log)
        self._children.add(pid)
        return token

    def list(self) -> Sequence[Machine]:
        """All processes with the fleet's tag, grouped by token."""
        self._children = {pid for pid in self._children if not _reaped(pid)}
        return [_machine(token, _started(processes)) for token, processes in self._machines().items()]

    def retire(self, machine: str) -> None:
        """Send SIGTERM to the process itself, once for all controllers: to many programs a second one means "at once"."""
        if self._retired_at(machine) is None:
            self._retired[machine] = time.monotonic()
            processes = self._machines().get(machine, [])
            leaders = [process for process in processes if _leads(process)]
            _signal(leaders or processes, signal.SIGTERM)
            # Without room for it another controller says it twice, which is better than never.
            with contextlib.suppress(OSError):
                self._mark(machine).touch(mode=0o600)

    def release(self, machine: str) -> None:
        """Send SIGTERM if it was not sent yet; after a while SIGKILL to all that is left. Call it until the machine is gone."""
        self.retire(machine)
        since = self._retired_at(machine)
        if since is None or time.monotonic() - since >= GRACE_S:
            _signal(self._machines().get(machine, []), signal.SIGKILL)

    def _opened(self, token: str) -> int:
        path = self._logs / f"{token}.log"
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ProviderError(f"cannot write the log {path}: {error.strerror}") from error

    def _mark(self, machine: str) -> Path:
        """The file that tells later controllers that the machine got SIGTERM."""
        return self._logs / f".{machine}.retired"

    def _retired_at(self, machine: str) -> float | None:
        """When it got SIGTERM, by this process's clock; None for never."""
        if machine not in self._retired:
            try:
                ago = time.time() - self._mark(machine).stat().st_mtime
            except FileNotFoundError:
                return None
            self._retired[machine] = time.monotonic() - max(ago, 0.0)
        return self._retired[machine]

    def _machines(self) -> Mapping[str, Sequence[psutil.Process]]:
        found: defaultdict[str, deque[psutil.Process]] = defaultdict(deque)
        for token, process in _tagged(self._tag):
            found[token].append(process)
        return found


def check_command(command: object, example: str) -> None:
    """Raises UsageError for what is not a list of words; `example` is one."""
    words = isinstance(command, Sequence) and not isinstance(command, str) and bool(command)
    if not words or not all(isinstance(word, str) for word in command):
        raise UsageError(
            f"command = {command!r} is not a program with its arguments",
            fix=f"write a list of words: command = {example}",
        )


def _tagged(tag: str) -> Iterator[tuple[str, psutil.Process]]:
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get(FLEET) == tag and process.status() != psutil.STATUS_ZOMBIE:
                yield environment.get(MACHINE, ""), process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone meanwhile, or another user's


def _reaped(pid: int) -> bool:
    """Whether the child has ended; waiting for it keeps it from staying as a zombie."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _machine(token: str, started_at: float) -> Machine:
    born = time.time() - started_at >= BORN_S
    return Machine(id=token, token=token, phase="ready" if born else "starting", started_at=started_at)


def _started(processes: Sequence[psutil.Process]) -> float:
    for process in processes:
        try:
            return float(process.environ().get(STARTED, 0.0))
        except (psutil.NoSuchProcess, psutil.AccessDenied, ValueError):
            continue
    return 0.0


def _leads(process: psutil.Process) -> bool:
    try:
        return os.getsid(process.pid) == process.pid
    except ProcessLookupError:
        return False


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
