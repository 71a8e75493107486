"""A service in one process without a supervisor: the record that lets other terminals find it, and its control socket."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import private_folder, write_atomic, writing
from hooke.processes.devices import anonymous_bytes
from hooke.processes.usage import lives
from hooke.services.control_socket import ControlServer, ServiceCommand, send_command
from hooke.services.service_runs import ServiceRun
from hooke.serving.metrics import Counts, ProcessCounts
from hooke.serving.replica import Replica
from hooke.serving.token_metrics import TokenRates, token_rates

__all__ = ["SingleProcess", "recorded", "single_process_status", "single_processes"]

TURN_S = 0.2
"""How soon the control socket's thread ends."""


class SingleProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that serves without a supervisor; `created` tells it from a later process with the same pid."""

    pid: int
    created: float
    started_at: float
    """Seconds since the epoch."""
    target: str
    run: str
    url: str


@contextlib.contextmanager
def recorded(run: ServiceRun, replica: Replica, *, url: str, target: str) -> Iterator[None]:
    """While this process serves, let `hooke serve status` find and ask it. Raises HookeError where the folder cannot be made."""
    folder = run.project.data / "services" / replica.declared.name
    with writing("the service's folder", folder):
        private_folder(folder)
    record = SingleProcess(
        pid=os.getpid(),
        created=psutil.Process().create_time(),
        started_at=time.time(),
        target=target,
        run=run.id,
        url=url,
    )
    path = folder / f"single-{record.pid}.json"
    ended = threading.Event()
    server = ControlServer(path.with_suffix(".sock"), lambda command: _reply(command, replica))
    thread = threading.Thread(target=_serve, args=(server, ended), name="hooke-control", daemon=True)
    with contextlib.suppress(OSError):  # a full disk does not keep it from serving; it is then not listed
        server.open()
        write_atomic(path, msgspec.json.encode(record))
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        ended.set()
        thread.join()


def _serve(server: ControlServer, ended: threading.Event) -> None:
    while not ended.is_set():
        server.turn(TURN_S)
    server.close()


def _reply(command: ServiceCommand, replica: Replica) -> dict[str, Any]:
    if command.verb != "status":
        raise UsageError(f"a single process has no {command.verb!r}", fix="serve it with --replicas 2")
    counts = replica.counts(ProcessCounts())
    return {
        "state": "serving" if counts.ready else "not ready",
        "in_flight": counts.active,
        "answered": counts.requests(),
        "p99_s": counts.p99_s(),
        "tokens": msgspec.to_builtins(_tokens(counts)),
    }


def _tokens(counts: Counts) -> TokenRates | None:
    """Of a language model, since its start; None for others."""
    began = counts.ready_at
    if counts.tokens is None or began is None:
        return None
    return token_rates(counts.tokens, time.time() - began)


def single_processes(folder: Path) -> list[SingleProcess]:
    """The running ones in a service's folder. Damaged records are skipped: no process can be found by them."""
    found: list[SingleProcess] = []
    for path in sorted(folder.glob("single-*.json")):
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            record = msgspec.json.decode(path.read_bytes(), type=SingleProcess)
            if lives(record.pid, record.created):
                found.append(record)
    return found


def single_process_status(folder: Path, record: SingleProcess) -> dict[str, Any]:
    """For `hooke serve status --json`. Facts that are not known are None, and `unknown` says why."""
    facts: dict[str, Any] = {
        "service": folder.name,
        "supervised": False,
        "state": None,
        "url": record.url,
        "run": record.run,
        "target": record.target,
        "pid": record.pid,
        "age_s": max(0.0, time.time() - record.started_at),
        "memory_bytes": anonymous_bytes(record.pid),
        "in_flight": None,
        "answered": None,
        "rate": None,
        "p99_s": None,
        "tokens": None,
        "unknown": "",
    }
    socket = folder / f"single-{record.pid}.sock"
    try:
        facts |= send_command(socket, ServiceCommand(verb="status"), name=f"{folder.name}", pid=record.pid)
    except HookeError as error:
        facts["unknown"] = f"{error.what}: {error.why}" if error.why else error.what
    else:
        facts["rate"] = facts["answered"] / facts["age_s"] if facts["age_s"] else None
    return facts
