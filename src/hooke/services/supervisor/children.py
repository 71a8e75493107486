"""The supervisor's child processes: started or adopted, reached over a channel, and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from hooke.base.files import writing
from hooke.processes.channel import Channel, connect_to, listen_at
from hooke.processes.exit_report import death_tail
from hooke.processes.start import python_module, start_apart
from hooke.services.shares import Share, Shares
from hooke.services.supervisor.control_channel import (
    BeginReplica,
    Renew,
    ReplicaUpdate,
    decode_from_child,
    encode,
)
from hooke.services.supervisor.generation import Generation, ServiceOptions, read_generation, write_generation
from hooke.services.supervisor.replica_events import ReplicaReport
from hooke.services.supervisor.replica_process import ReplicaOrder
from hooke.services.supervisor.service_folder import ChildRecord, ServiceFolder, is_alive
from hooke.serving.limits import KeyRates, SecondTries
from hooke.serving.server.serve import bind

__all__ = ["LOG_BYTES", "Child", "Replicas", "adopt_child", "limit_log", "start_child"]


SEEN_S = 1.0
"""The longest time from the end of a channel to the end of its process; a channel may end for other reasons."""


LOG_BYTES = 64 << 20
"""A longer log is begun anew; what it held is kept beside it until the next time."""


def limit_log(path: Path, most: int = LOG_BYTES) -> None:
    """Begin the log at `path` anew if it is longer than `most` bytes: what it held is then in `NAME.1`.

    The processes that write it append, and go on to. What they write between the copy and the cut is lost: some lines at most.
    Raises OSError, and leaves the log as it is if there is no room for the copy.
    """
    if not path.exists() or path.stat().st_size <= most:
        return
    kept = path.with_name(f"{path.name}.1")
    try:
        shutil.copyfile(path, kept)
    except OSError:
        kept.unlink(missing_ok=True)
        raise
    os.truncate(path, 0)


@dataclass(slots=True, kw_only=True, eq=False)
class Child:
    """A process of this service. `process` is None if an earlier supervisor started it."""

    record: ChildRecord
    channel: Channel | None
    process: subprocess.Popen[bytes] | None = None
    log_from: int = 0
    cut_at: float | None = None
    """When its channel ended."""

    @property
    def name(self) -> str:
        """Its name in the supervision."""
        return self.record.name

    def ended(self, now: float) -> tuple[int | None] | None:
        """The exit code in a tuple, which holds None if the code is not known; None while the process lives."""
        if self.process is not None:
            code = self.process.poll()
            return None if code is None else (code,)
        if self.cut_at is None or (is_alive(self.record) and now - self.cut_at < SEEN_S):
            return None
        return (None,)

    def take(self, now: float) -> list[bytes]:
        """The messages received so far. None come once `channel` is None."""
        if self.channel is None:
            return []
        messages, more = self.channel.take()
        if not more:
            self.cut(now)
        return messages

    def send(self, message: bytes, now: float) -> None:
        """Send a message. A closed channel is noticed when the process ends."""
        if self.channel is not None:
            try:
                self.channel.send(message)
            except OSError:
                self.cut(now)

    def renew(self, now: float) -> None:
        """Renew its lease."""
        self.send(encode(Renew()), now)

    def cut(self, now: float) -> None:
        """Close its channel."""
        if self.channel is not None:
            self.channel.close()
            self.channel, self.cut_at = None, now

    def terminate(self) -> None:
        """SIGTERM."""
        if self._lives():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.record.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, also for the processes that it started."""
        if self._lives():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.record.pid, signal.SIGKILL)

    def tail(self) -> tuple[str, ...]:
        """The end of its log."""
        log = Path(self.record.log)
        begun_anew = log.exists() and log.stat().st_size < self.log_from
        return death_tail(log, 0 if begun_anew else self.log_from)

    def _lives(self) -> bool:
        return self.process.poll() is None if self.process is not None else is_alive(self.record)


def start_child(  # noqa: PLR0913 - the parts of a child's start, each by name
    folder: ServiceFolder,
    module: str,
    order: Callable[[int], str],
    *,
    record: ChildRecord,
    cwd: str,
    descriptors: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start `python -m module ORDER` in a session of its own. `order(control)` makes the order from the descriptor of its channel.

    `environment` is added to this process's environment.
    Raises OSError.
    """
    listening = listen_at(folder.child_socket(record.name))
    try:
        log = Path(record.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            process = start_apart(
                python_module(module, order(listening.fileno())),
                descriptors=(listening.fileno(), *descriptors),
                output=output,
                cwd=cwd,
                environment=os.environ | (environment or {}),
            )
        return _started(folder, record, process, log_from=start)
    finally:
        listening.close()


def _started(
    folder: ServiceFolder, record: ChildRecord, process: subprocess.Popen[bytes], *, log_from: int
) -> Child:
    """Connect to a process that was started, and record it. If that fails it is ended: no supervisor could find it."""
    channel: Channel | None = None
    try:
        channel = Channel(connect_to(folder.child_socket(record.name)).detach())
        created = psutil.Process(process.pid).create_time()
        found = msgspec.structs.replace(record, pid=process.pid, created=created, started_at=time.time())
        folder.write_child(found)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if channel is not None:
            channel.close()
        raise
    return Child(record=found, channel=channel, process=process, log_from=log_from)


def adopt_child(folder: ServiceFolder, record: ChildRecord) -> Child | None:
    """Connect to a child of an earlier supervisor; None if it does not listen."""
    try:
        channel = Channel(connect_to(folder.child_socket(record.name)).detach())
    except OSError:
        return None
    log = Path(record.log)
    return Child(
        record=record, channel=channel, log_from=0 if not log.exists() else max(0, log.stat().st_size - 65536)
    )


# --- The replicas of a service: started for a generation, adopted, forgotten.

ADOPT_S = 2.0
"""An adopted child reports within so long, or is ended."""

STANDBY = "standby"
"""The name of the process in reserve, until it is a replica. Replicas have numbers."""


class Replicas:
    """The running replicas by name, and the generations that they may serve."""

    def __init__(self, folder: ServiceFolder, logs: Path, shares: Shares, options: ServiceOptions) -> None:
        self.children: dict[str, Child] = {}
        self._folder = folder
        self._logs = logs
        self._shares = shares
        self._lease_s = options.lease_s
        self._memory_bytes = options.memory_bytes
        self.scheme = "http"
        """How clients reach the proxy."""
        self.kept_body = 0
        """Bytes of a body that the proxy keeps for another replica."""
        self._idempotent = shares.declared.idempotent
        self._generations: dict[str, Generation] = {}
        self.standby: Child | None = None
        """The process in reserve: it has imported the service's file, and waits."""
        self._standby_share: Share | None = None
        self._standby_ended_for = ""
        """The generation for which it ended by itself: it is not started again before the next replica."""

    def add(self, generation: Generation) -> None:
        """Allow a generation to be served. Raises HookeError if it cannot be written."""
        path = self._folder.generation(generation.key)
        with writing("a generation", path):
            write_generation(path, generation)
        self._generations[generation.name] = generation

    def keys(self) -> dict[str, str]:
        """The keys of the generations, by name."""
        return {name: generation.key for name, generation in self._generations.items()}

    def start(self, name: str, generation: str, *, among: int) -> Child:
        """Start a replica on a loopback port of its own; the cores are shared among `among` replicas.

        Raises OSError, also if no GPU is free, and UsageError if no port is free.
        """
        share = self._shares.take(name, among=among)
        self._standby_ended_for = ""
        try:
            child = self._begun(name, generation, share, among) or self._start(name, generation, share, among)
            self.children[name] = child
        except BaseException:
            self._shares.release(name)
            raise
        return child

    def _start(self, name: str, generation: str, share: Share, among: int, *, waits: bool = False) -> Child:
        serves = self._generations[generation]
        write_generation(self._folder.generation(serves.key), serves)  # the file may have been damaged since
        if self._idempotent:
            SecondTries.create(self._folder.second_tries)
        KeyRates.create(self._folder.key_rates)
        with bind(0) as listening:
            port = listening.getsockname()[1]

            def order(control: int) -> str:
                made = ReplicaOrder(
                    name=name,
                    generation=str(self._folder.generation(serves.key)),
                    listening=listening.fileno(),
                    control=control,
                    lease_s=self._lease_s,
                    memory_bytes=self._memory_bytes,
                    among=among,
                    pass_on_bytes=self._pass_on(among),
                    second_tries=str(self._folder.second_tries) if self._idempotent else "",
                    key_rates=str(self._folder.key_rates),
                    waits=waits,
                    scheme=self.scheme,
                )
                return msgspec.json.encode(made).decode()

            return start_child(
                self._folder,
                "hooke.services.supervisor.replica_process",
                order,
                record=ChildRecord(
                    name=name,
                    port=port,
                    generation=generation,
                    log=self._log(name),
                    devices=share.devices,
                ),
                cwd=serves.folder,
                descriptors=[listening.fileno()],
                environment=share.environment,
            )

    def _pass_on(self, among: int) -> int:
        """The only replica would be asked again, and refuse again."""
        return self.kept_body if among > 1 else 0

    def _log(self, name: str) -> str:
        return str(self._logs / f"replica-{name}.log")

    def prepare(self, generation: str) -> None:
        """Have a process in reserve for this generation, which asks for no GPU. Raises OSError, and UsageError if no port is free."""
        if self.standby is not None and self.standby.record.generation != generation:
            self.end_standby()
        if self.standby is None and generation != self._standby_ended_for:
            share = self._shares.take(STANDBY)
            self._shares.release(STANDBY)
            self.standby = self._start(STANDBY, generation, share, among=1, waits=True)
            self._standby_share = share

    def hear_standby(self, now: float) -> tuple[str, ...] | None:
        """Look at the process in reserve; the end of its log if it has ended."""
        standby = self.standby
        if standby is None:
            return None
        standby.take(now)
        if standby.ended(now) is None:
            return None
        self._standby_ended_for = standby.record.generation
        self.end_standby()
        return standby.tail()

    def end_standby(self) -> None:
        """End the process in reserve."""
        standby, self.standby = self.standby, None
        if standby is not None:
            standby.kill()
            standby.cut(time.monotonic())
            if standby.process is not None:
                standby.process.wait()
            self._folder.forget_child(STANDBY)

    def _begun(self, name: str, generation: str, share: Share, among: int) -> Child | None:
        """The process in reserve as this replica; None if there is none that fits."""
        child = self.standby
        if (
            child is None
            or child.record.generation != generation
            or child.ended(time.monotonic()) is not None
            or share != self._standby_share
        ):
            return None
        before, after = child.record.log, self._log(name)
        record = msgspec.structs.replace(child.record, name=name, log=after, started_at=time.time())
        try:
            self._folder.rename_child(child.record, record)
            os.replace(before, after)
        except OSError:  # half renamed, no supervisor could find it
            self.end_standby()
            self._folder.forget_child(name)
            raise
        self.standby = None
        child.record, child.log_from = record, 0
        child.send(
            encode(BeginReplica(name=name, among=among, pass_on_bytes=self._pass_on(among))), time.monotonic()
        )
        return child

    def adopt(self, records: Iterable[ChildRecord]) -> Iterator[tuple[ChildRecord, ReplicaReport | None]]:
        """Adopt children of an earlier supervisor; yields each with its report. One that does not report, or whose generation is unknown, is ended and has None."""
        known = self._kept()
        for record in records:
            if record.name == STANDBY:
                Child(record=record, channel=None).kill()
                self._folder.forget_child(STANDBY)
                continue
            child = adopt_child(self._folder, record)
            report = _first_report(child) if child is not None else None
            if child is None or report is None or record.generation not in known:
                Child(record=record, channel=None).kill()
                self._folder.forget_child(record.name)
                yield record, None
                continue
            self._generations.setdefault(record.generation, known[record.generation])
            self.children[record.name] = child
            self._shares.keep(record.name, record.devices)
            yield record, report
        kept = {generation.key for generation in self._generations.values()}
        for path in (self._folder.path / "generations").iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def forget(self, child: Child, now: float) -> None:
        """Forget a replica that is gone."""
        child.cut(now)
        self._folder.forget_child(child.name)
        self._shares.release(child.name)
        self.children.pop(child.name, None)

    def _kept(self) -> dict[str, Generation]:
        known: dict[str, Generation] = {}
        for path in (self._folder.path / "generations").iterdir():
            with contextlib.suppress(OSError, msgspec.MsgspecError):  # a damaged file cannot start a replica
                generation = read_generation(path)
                known[generation.name] = generation
        return known


def _first_report(child: Child) -> ReplicaReport | None:
    ends = time.monotonic() + ADOPT_S
    child.renew(time.monotonic())
    while time.monotonic() < ends and child.channel is not None:
        for message in child.take(time.monotonic()):
            update = decode_from_child(message)
            if isinstance(update, ReplicaUpdate):
                return update.report
        time.sleep(0.01)
    return None
