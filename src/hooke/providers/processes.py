"""Processes of this machine as a fleet's machines: the simplest provider, and the reference of the others.

A process bears the fleet's tag and its launch's token in its environment, so that it is found whoever started it, and with it what it
started itself. It is retired by one SIGTERM, which such programs take as "finish and end", and is gone when it has ended.
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
from hooke.providers.provider import Impossible, Machine, NoCapacity, ProviderError, ProviderFacts

__all__ = ["FLEET", "MACHINE", "Processes"]

FLEET = "HOOKE_FLEET"
"""The environment variable with the fleet's tag."""
MACHINE = "HOOKE_MACHINE"
"""That with the token of the launch, which is the machine's id."""

STARTED = "HOOKE_MACHINE_STARTED"
"""That with the time of the launch: what the system says of a process's age is off where its clock was set."""

GRACE_S = 5.0
"""From SIGTERM to SIGKILL, where a process that was not retired is to end."""
BORN_S = 1.0
"""A program that cannot work mostly ends within a second: until then it is said to be starting."""
_FULL = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


class Processes:
    """Starts `command` once for each machine, in a session of its own; what it prints goes to `logs/TOKEN.log`."""

    def __init__(
        self,
        tag: str,
        command: Sequence[str],
        *,
        logs: Path,
        usd_per_hour: float = 0.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`tag` tells the fleet from all others on this machine. Raises UsageError where `command` is no list of words."""
        if not _is_command(command):
            raise UsageError(
                f"command = {command!r} is no program with its arguments",
                fix='write a list of words: command = ["python", "worker.py"]',
            )
        # A list of processes is never behind, so what is not listed is not there.
        self.facts = ProviderFacts(
            name="processes", usd_per_hour=usd_per_hour, visible_s=1.0, look_s=0.2, sure=True
        )
        self._tag = tag
        self._command = list(command)
        self._logs = logs
        self._environment = dict(os.environ if environment is None else environment)
        self._children: set[int] = set()
        self._told: dict[str, float] = {}
        """Machine -> when it was sent SIGTERM."""

    def launch(self, token: str) -> str:
        """Start the command. Raises Impossible where there is no such program, NoCapacity where the machine is full."""
        environment = self._environment | {FLEET: self._tag, MACHINE: token, STARTED: repr(time.time())}
        log = self._opened(token)
        files = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        try:
            # Not subprocess.Popen: these outlive whoever started them, by design.
            pid = os.posix_spawnp(
                self._command[0], self._command, environment, file_actions=files, setsid=True
            )
        except OSError as error:
            kind = NoCapacity if error.errno in _FULL else Impossible
            raise kind(f"{self._command[0]} cannot be started: {error.strerror}") from error
        finally:
            os.close(log)
        self._children.add(pid)
        return token

    def list(self) -> Sequence[Machine]:
        """All processes with the fleet's tag, those of one token together."""
        self._children = {pid for pid in self._children if not _reaped(pid)}
        return [_machine(token, _started(processes)) for token, processes in self._machines().items()]

    def retire(self, machine: str) -> None:
        """SIGTERM to the process itself, once, whoever asks: a second one is "at once" to many programs."""
        if self._when_told(machine) is None:
            self._told[machine] = time.monotonic()
            processes = self._machines().get(machine, [])
            leaders = [process for process in processes if _leads(process)]
            _signal(leaders or processes, signal.SIGTERM)
            # Without room for it another controller says it twice, which is better than never.
            with contextlib.suppress(OSError):
                self._mark(machine).touch(mode=0o600)

    def release(self, machine: str) -> None:
        """SIGTERM where that has not been; after a while SIGKILL to all that is left of it. Call it until the machine is gone."""
        self.retire(machine)
        told = self._when_told(machine)
        if told is None or time.monotonic() - told >= GRACE_S:
            _signal(self._machines().get(machine, []), signal.SIGKILL)

    def _opened(self, token: str) -> int:
        path = self._logs / f"{token}.log"
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ProviderError(f"its log {path} cannot be written: {error.strerror}") from error

    def _mark(self, machine: str) -> Path:
        """Says that the machine was sent SIGTERM, to controllers that come later."""
        return self._logs / f".{machine}.retired"

    def _when_told(self, machine: str) -> float | None:
        """On our own clock; None for never."""
        if machine not in self._told:
            try:
                ago = time.time() - self._mark(machine).stat().st_mtime
            except FileNotFoundError:
                return None
            self._told[machine] = time.monotonic() - max(ago, 0.0)
        return self._told[machine]

    def _machines(self) -> Mapping[str, Sequence[psutil.Process]]:
        found: defaultdict[str, deque[psutil.Process]] = defaultdict(deque)
        for token, process in _tagged(self._tag):
            found[token].append(process)
        return found


def _is_command(command: object) -> bool:
    return (
        isinstance(command, Sequence)
        and not isinstance(command, str)
        and bool(command)
        and all(isinstance(word, str) for word in command)
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
    """Whether the child has ended; one that has, and is not waited for, would stay as a zombie."""
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
