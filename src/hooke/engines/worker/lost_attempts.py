"""What is said of an attempt whose worker ended under it."""

from __future__ import annotations

import os
import signal

from hooke.base.errors import HookeError
from hooke.engines.worker.fork_server import STOPPED_S, ForkEnded
from hooke.engines.worker.pool import Process
from hooke.engines.worker.worker import WorkerTask
from hooke.journal.events import Failure
from hooke.processes.exit_report import death_tail

__all__ = ["GONE", "code_and_signal", "death", "given_up", "host_failed", "how_it_ended", "lost"]

GONE = "is gone"
"""What became of a machine that the cluster itself no longer knows."""

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})


def death(process: Process, ended: ForkEnded | None, task: WorkerTask) -> Failure:
    """Why an attempt has no answer: its worker was killed, ended itself, used too much memory, or was stopped."""
    log_tail = death_tail(process.log, process.log_from)
    code, number = code_and_signal(ended) if ended is None or ended.cause != "stopped" else (None, None)
    peak = ended.peak_bytes if ended is not None else None
    if ended is not None and ended.cause == "memory":
        return Failure(
            kind="OutOfMemory",
            message="it used more memory than its limit",
            arguments=task.shown,
            peak_bytes=peak,
            limit_bytes=task.memory,
            log_tail=log_tail,
            fix="raise memory=, or give the task less to hold at once",
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
        fix=_fix(number),
    )


def _fix(number: int | None) -> str:
    if number == signal.SIGKILL:
        return "if nobody killed it, the machine was out of memory (dmesg says so): declare memory= to be given room"
    if number in _CRASHES:
        return "native code crashed: the log ends with the lines of Python that called it"
    return ""


def code_and_signal(ended: ForkEnded | None) -> tuple[int | None, int | None]:
    """`(exit code, signal)` of a process that ended: one of them, or neither where it is not known."""
    if ended is None:
        return None, None
    return (None, -ended.status) if ended.status < 0 else (ended.status, None)


def how_it_ended(ended: ForkEnded | None) -> str:
    """The same in words."""
    if ended is None:
        return "how is not known, the fork server that watched it is gone"
    if ended.cause == "connection":
        return "it closed its connection to the driver, and was ended"
    if ended.cause == "stopped":
        return f"it was stopped (SIGSTOP) for {STOPPED_S:g} s and then ended"
    if ended.status < 0:
        return f"killed by {signal.Signals(-ended.status).name}"
    return f"exit code {ended.status}"


def lost(
    where: str, what: str, ended: tuple[int | None, int | None], *, arguments: str, limit_bytes: int | None
) -> Failure:
    """The end of an attempt whose machine was lost with it. `what` became of that, as a verb; `ended`: exit code and signal, if known."""
    code, number = ended
    silent = what != GONE
    if silent:
        why = "; it may run on there, and what comes of it does not count"
    else:
        why = "; how it ended is not known" if code is None and number is None else ""
    return Failure(
        kind="WorkerDied",
        message=f"{where}, which ran it, {what}{why}",
        arguments=arguments,
        exit_code=code,
        signal=number,
        limit_bytes=limit_bytes,
        fix="look at that machine: lost, frozen, cut off, out of memory, or its worker was ended; retries= runs the task elsewhere",
    )


def given_up(library: str, error: BaseException, *, arguments: str) -> Failure:
    """The end of an attempt for which an engine's library has no answer, though its machine is there."""
    said = f"{type(error).__name__}: {error}".partition("\n")[0]
    return Failure(kind="WorkerDied", message=f"{library} gave the attempt up: {said}", arguments=arguments)


def host_failed(error: Exception) -> HookeError:
    """What a host of workers says that has failed itself."""
    return HookeError(
        f"the host of the workers on {os.uname().nodename} failed",
        why=f"{type(error).__name__}: {error}",
        next="hooke doctor",
    )
