"""The failures of attempts that have no answer: their worker, or their whole machine, ended."""

from __future__ import annotations

import os
import signal

from hooke.base.errors import HookeError
from hooke.engines.worker.fork_server import STOPPED_S, ForkEnded
from hooke.engines.worker.pool import Process
from hooke.engines.worker.worker_process import WorkerTask
from hooke.journal.events import Failure
from hooke.processes.devices import ContainerMemory
from hooke.processes.exit_report import death_tail

__all__ = ["GONE", "code_and_signal", "exit_failure", "given_up", "host_failed", "how_it_ended", "lost"]

GONE = "is gone"
"""The end of a machine that the cluster no longer lists."""

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})


def exit_failure(process: Process, ended: ForkEnded | None, task: WorkerTask) -> Failure:
    """The failure of an attempt whose worker was killed, ended itself, used too much memory, or was stopped."""
    log_tail = death_tail(process.log, process.log_from)
    # The code of a worker that Hooke ended says nothing; its cause does.
    known = ended is None or ended.cause in ("", "container", "memory")
    code, number = code_and_signal(ended) if known else (None, None)
    peak = ended.peak_bytes if ended is not None else None
    if ended is not None and ended.cause == "memory":
        return Failure(
            kind="OutOfMemory",
            message="it used more memory than its limit",
            arguments=task.shown,
            peak_bytes=peak,
            limit_bytes=task.memory,
            log_tail=log_tail,
            fix="raise memory=, or have the task hold less data at once",
        )
    if ended is not None and ended.cause == "container":
        return Failure(
            kind="OutOfMemory",
            message="the memory of its container was used up, and the kernel killed it",
            arguments=task.shown,
            signal=number,
            peak_bytes=peak,
            limit_bytes=ContainerMemory.now().limit,
            log_tail=log_tail,
            fix="give the container more (`memory` of a place on Kubernetes), or declare memory= so that fewer tasks run at once",
        )
    return Failure(
        kind="WorkerDied",
        message=f"its worker {process.name} died: {how_it_ended(ended)}",
        arguments=task.shown,
        exit_code=code,
        signal=number,
        peak_bytes=peak,
        limit_bytes=task.memory,
        log_tail=log_tail,
        fix=_fix(code, number),
    )


def _fix(code: int | None, number: int | None) -> str:
    if number == signal.SIGKILL:
        return (
            "if nobody killed it, the machine ran out of memory (see dmesg): declare memory= to reserve room"
        )
    if number in _CRASHES:
        return "native code crashed: the log ends with the Python lines that called it"
    if code is not None:
        return (
            "the task, or a library that it calls, ended its process (os._exit): raise an exception instead"
        )
    return ""


def code_and_signal(ended: ForkEnded | None) -> tuple[int | None, int | None]:
    """`(exit code, signal)` of a process that ended: one of them is set, or none where it is unknown."""
    if ended is None:
        return None, None
    return (None, -ended.status) if ended.status < 0 else (ended.status, None)


def how_it_ended(ended: ForkEnded | None) -> str:
    """How a process ended, in words."""
    if ended is None:
        return "how is unknown, since the fork server that watched it is gone"
    if ended.cause == "connection":
        return "it closed its connection to the driver, and was ended"
    if ended.cause.startswith("send: "):
        return f"the driver could not send to it ({ended.cause.removeprefix('send: ')}), and ended it"
    if ended.cause == "stopped":
        return f"it was stopped (SIGSTOP) for {STOPPED_S:g} s and then ended"
    if ended.status < 0:
        return f"killed by {signal.Signals(-ended.status).name}"
    return f"exit code {ended.status}"


def lost(
    where: str, what: str, ended: tuple[int | None, int | None], *, arguments: str, limit_bytes: int | None
) -> Failure:
    """The failure of an attempt whose machine is lost. `what` happened to the machine, as a verb; `ended`: exit code and signal, if known."""
    code, number = ended
    silent = what != GONE
    if silent:
        why = "; it may still run there, but its result does not count"
    else:
        why = "; how it ended is unknown" if code is None and number is None else ""
    return Failure(
        kind="WorkerDied",
        message=f"{where}, which ran it, {what}{why}",
        arguments=arguments,
        exit_code=code,
        signal=number,
        limit_bytes=limit_bytes,
        host_lost=True,
        fix="look at that machine: lost, frozen, cut off, out of memory, or its worker was ended; retries= runs the task elsewhere",
    )


def given_up(library: str, error: BaseException, *, arguments: str) -> Failure:
    """The failure of an attempt for which an engine's library has no answer, although its machine lives."""
    said = f"{type(error).__name__}: {error}".partition("\n")[0]
    return Failure(kind="WorkerDied", message=f"{library} gave the attempt up: {said}", arguments=arguments)


def host_failed(error: Exception) -> HookeError:
    """The error of a host that has failed itself."""
    return HookeError(
        f"the host of the workers on {os.uname().nodename} failed",
        why=f"{type(error).__name__}: {error}",
        next="hooke doctor",
    )
