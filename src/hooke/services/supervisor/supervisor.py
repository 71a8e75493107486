"""The loop that keeps a service's replicas and front as its supervision decides, until it is told to end."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.pinned_modules import pin_modules
from hooke.journal.service_events import (
    ReplicaAdopted,
    ReplicaEnded,
    ReplicaEvent,
    ReplicaReady,
    ReplicaStarted,
)
from hooke.processes.channel import listen_at
from hooke.project.folder import Project
from hooke.services.reload.watched_files import Sources
from hooke.services.serve_file import check_bindings, how_to_ask, serve_extra, shown_given, token_file_of
from hooke.services.service_report import line_of
from hooke.services.service_runs import ServiceRun
from hooke.services.shares import Shares
from hooke.services.supervisor.autoscaler import Autoscaler
from hooke.services.supervisor.children import Child, Replicas
from hooke.services.supervisor.control_channel import (
    ControlServer,
    ReplicaTold,
    SupervisorCommand,
    decode_told,
)
from hooke.services.supervisor.generation import Aliases, Generation, ServiceOptions, ServiceSource, pinned
from hooke.services.supervisor.proxy_child import ProxyChild, front_settings
from hooke.services.supervisor.replica_events import (
    Action,
    Adopted,
    Announce,
    CutService,
    DrainProxy,
    DrainService,
    Event,
    Exited,
    GiveUp,
    KillReplica,
    ProxyDrained,
    Publish,
    Published,
    Replace,
    ReplicaPhase,
    Reported,
    RollOut,
    Scale,
    StartReplica,
    SupervisionBegan,
    SupervisionDone,
    SupervisionTick,
    Tell,
    Terminate,
)
from hooke.services.supervisor.service_folder import FRONT, ChildRecord, ServiceDescriptor, ServiceFolder
from hooke.services.supervisor.status import SupervisorView, status_of
from hooke.services.supervisor.supervision import Supervision
from hooke.serving.metrics import written_of_all
from hooke.serving.service import Service
from hooke.serving.uvicorn.metrics_endpoint import Scrape

__all__ = ["SupervisionEnded", "Supervisor", "serve_several"]


TURN_S = 0.05
STOP_LOOK_S = 0.5
SOON_S = 0.003
"""Between two looks at a child whose channel has ended."""
FRONT_LEASE = 5 / 6
"""The front's lease, of the replicas': it ends first, so that nothing is sent to one that has ended."""


def _ending() -> list[signal.Signals]:
    """What asks for the end: also that the terminal is closed, unless that is to be ignored (nohup)."""
    hung_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


class SupervisionEnded(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervision came to."""

    run: str
    answered: int
    cut: int


class Supervisor:
    """One service's. `run` takes the main thread: it listens to signals."""

    def __init__(  # noqa: PLR0913 - what a supervisor is made of, each by name
        self,
        declared: Service,
        project: Project,
        source: ServiceSource,
        *,
        first: Generation,
        wish: ServiceOptions,
        folder: ServiceFolder,
        run: ServiceRun,
        tell: Callable[[str], None],
    ) -> None:
        self.declared = declared
        self.wish = wish
        self.folder = folder
        self.bounds = wish.replicas
        self.run_id = run.id
        self.core = Supervision(wish.rules(declared), generation=first.name, wanted=max(1, wish.replicas[0]))
        self._run = run
        self._first = first
        self._logs = project.runs.folder(run.id) / "logs"
        shares = Shares(declared, wish.replicas[1])
        self.replicas = Replicas(folder, self._logs, shares, wish)
        self._say = tell
        tell(str(shares))
        self._source = source
        self._watched = SupervisorView()
        self._scrape = Scrape(first.gate(), lambda: written_of_all(self._watched.fleet()))
        settings = front_settings(declared, wish.exposure, folder.path / FRONT, folder.metrics_socket)
        self.front = ProxyChild(
            folder,
            settings,
            lease_s=wish.lease_s * FRONT_LEASE,
            log=str(self._logs / "front.log"),
            say=tell,
        )
        self._desk = ControlServer(folder.socket, self._answer)
        self._inbox: deque[Event | Callable[[], None]] = deque()
        self._woken, self._wake = os.pipe()
        self._aliases = self._aliases_of(source, first)
        self._autoscaler = Autoscaler(declared)
        self._signals = 0
        self._given_up: GiveUp | None = None
        self._renewed = self._looked = 0.0
        self._runs = project.runs
        self._said = ""
        self._said_up = self._draining = self._done = False
        self._answered = self._cut = 0

    def _aliases_of(self, source: ServiceSource, first: Generation) -> Aliases:
        def unknown(why: str) -> None:
            self._call(lambda: self._say(f"what {self.declared.name} serves stays: {why}"))

        return Aliases(source, first, every_s=self.wish.poll_s, moved=self._moved, unknown=unknown)

    @property
    def url(self) -> str:
        """By which it is asked on this machine; empty until it listens."""
        return self.wish.exposure.url(self.front.port) if self.front.up else ""

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> SupervisionEnded:
        """Until the service has ended. Raises what kept the front or all replicas from coming up."""
        former = {number: signal.signal(number, self._signalled) for number in _ending()}
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        woken = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        child_ended = signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            self._begin()
            while not self._done:
                self._turn()
            self._end_front()
        except BaseException:
            self._kill_all()
            raise
        finally:
            self._close()
            signal.set_wakeup_fd(woken)
            for number, handler in former.items():
                signal.signal(number, handler)
            signal.signal(signal.SIGCHLD, child_ended)
        if self._given_up is not None:
            raise HookeError(
                f"{self.declared.name} cannot be served: no replica was ever ready",
                where=str(self._logs),
                why="\n".join([self._given_up.cause, *self._given_up.log_tail]),
            )
        return SupervisionEnded(run=self.run_id, answered=self._answered, cut=self._cut)

    def _begin(self) -> None:
        self._desk.open()
        self._scrape.start(listen_at(self.folder.metrics_socket))
        self.replicas.add(self._first)
        records = {record.name: record for record in self.folder.living()}
        self.front.begin(records.pop(FRONT, None))
        self._record()
        adopted = self._adopt(list(records.values()))
        low, high = self.bounds
        self.core.wanted = min(max(len(adopted), self.core.wanted), high)
        self._bind(max(low, 1), high)
        self._aliases.start()
        self._step(SupervisionBegan(adopted=adopted))

    def _bind(self, low: int, high: int) -> None:
        self.bounds = (low, high)
        self._autoscaler.between(low, high, now_wanted=self.core.wanted)

    def _turn(self) -> None:
        self._wait()
        now = time.monotonic()
        self._hear_children(now)
        self.front.hear(now)
        if self.front.up and not self._said_up:
            self._said_up = True
            self._record()
            self._say(f"{self.declared.name} listens on {self.url}")
        names = self.front.acknowledged()
        if names is not None:
            self._say_answering(names)
            self._step(Published(names))
        if self._draining and self.front.drained:
            self._draining = False
            self._step(ProxyDrained())
        self._renew(now)
        self._look_for_stop(now)
        scaled = self._autoscaler.decide(now, self.core, arrived=self._answered + self.core.in_flight())
        if scaled is not None:
            self._step(scaled)
        while self._inbox:
            event = self._inbox.popleft()
            event() if callable(event) else self._step(event)
        self._step(SupervisionTick(listened=now))
        self._watched.look(self.core, self.front.stats)

    def _wait(self) -> None:
        selector = selectors.DefaultSelector()
        with selector:
            selector.register(self._woken, selectors.EVENT_READ)
            self._desk.register(selector)
            ending = False
            for child in self._all():
                if child.channel is not None:
                    selector.register(child.channel, selectors.EVENT_READ)
                else:
                    ending = True
            ready = selector.select(SOON_S if ending else TURN_S)
            for key, _ in ready:
                if key.fileobj == self._woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
            self._desk.serve([key.fileobj for key, _ in ready])

    def _hear_children(self, now: float) -> None:
        for child in list(self.replicas.children.values()):
            for message in child.take(now):
                told = decode_told(message)
                if isinstance(told, ReplicaTold):
                    self._told(child, told)
            ended = child.ended(now)
            if ended is not None:
                self.replicas.forget(child, now)
                self._watched.end(child.name)
                self._step(Exited(name=child.name, exit_code=ended[0], log_tail=child.tail()))

    def _told(self, child: Child, told: ReplicaTold) -> None:
        for window in told.windows:
            self._run.window(window)
            self._autoscaler.window(window)
        if told.counts is not None:
            self._watched.take(child.name, told.counts, time.monotonic())
        for event in told.events:
            self._told_of(event)
        before = self.core.members[child.name].report.answered if child.name in self.core.members else 0
        self._answered += max(0, told.report.answered - before)
        self._step(Reported(child.name, told.report))

    def _look_for_stop(self, now: float) -> None:
        """`hooke stop RUN` ends it as `hooke serve drain` does."""
        if now - self._looked >= STOP_LOOK_S and not self.core.closing:
            self._looked = now
            by = self._runs.stop_requested(self.run_id)
            if by is not None:
                self._step(DrainService(by))

    def _renew(self, now: float) -> None:
        if now - self._renewed >= self.wish.lease_s / 6:
            self._renewed = now
            for child in self._all():
                child.renew(now)

    def _step(self, event: Event) -> None:
        for action in self.core.step(event, time.monotonic()):
            self._perform(action)

    # -- actions -----------------------------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        now = time.monotonic()
        match action:
            case StartReplica():
                self._start(action)
            case Publish(names):
                self.front.publish({name: self.replicas.children[name].record.port for name in names}, now)
            case Terminate(name) | KillReplica(name):
                self._end(name, by_force=isinstance(action, KillReplica))
            case DrainProxy():
                self._draining = True
                within_s = self.core.rules.leave_s
                self.front.drain(within_s=within_s, now=now)
            case Announce(text):
                self._say(text)
            case Tell(event):
                self._told_of(event)
            case GiveUp():
                self._given_up = action
            case SupervisionDone():
                self._done = True

    def _end(self, name: str, *, by_force: bool) -> None:
        child = self.replicas.children.get(name)
        if child is not None:
            child.kill() if by_force else child.terminate()

    def _start(self, action: StartReplica) -> None:
        try:
            child = self.replicas.start(
                action.name, action.generation, among=max(self.bounds[1], self.core.wanted)
            )
        except (OSError, UsageError) as error:  # the latter where no port is free
            self._inbox.append(Exited(name=action.name, log_tail=(f"no process could be started: {error}",)))
            return
        self._told_of(
            ReplicaStarted(
                replica=action.name,
                generation=action.generation,
                pid=child.record.pid,
                port=child.record.port,
                reason=action.reason,
            )
        )

    def _adopt(self, records: Iterable[ChildRecord]) -> tuple[Adopted, ...]:
        found: list[Adopted] = []
        for record, report in self.replicas.adopt(records):
            if report is None:
                self._say(
                    f"replica {record.name} of an earlier supervisor does not answer: pid {record.pid} is ended"
                )
                continue
            age_s = max(0.0, time.time() - record.started_at)
            found.append(Adopted(name=record.name, generation=record.generation, report=report, age_s=age_s))
            facts = {name: getattr(record, name) for name in ("generation", "pid", "port")}
            self._told_of(ReplicaAdopted(replica=record.name, **facts))
        return tuple(found)

    def _told_of(self, event: ReplicaEvent) -> None:
        self._run.say(event)
        self._watched.happened(event)
        if isinstance(event, ReplicaReady):
            self._autoscaler.started(event.seconds)
        if isinstance(event, ReplicaEnded) and self.core.closing:
            self._cut += event.in_flight
        self._say(line_of(event))

    def _say_answering(self, names: tuple[str, ...]) -> None:
        wanted = self.core.wanted
        more = f"{len(names)} replicas answer, {wanted} wanted"
        said = more if len(names) > wanted else f"{len(names)} of {wanted} replicas answer"
        if said == self._said or self.core.closing or not (names or self._said):
            return
        if not self._said:
            paths = ", ".join(f"POST /{name}" for name in self.declared.methods())
            self._say(f"{self.declared.name} answers: {paths}; Ctrl-C drains and ends it")
            token_file = Path(self._source.token_file) if self._source.token_file else None
            self._say(how_to_ask(self.declared, self.wish.exposure, token_file, self.url))
        self._said = said
        self._say(said)

    # -- what comes from outside -------------------------------------------------------------------

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._signals += 1
        if self._signals == 1:
            self._inbox.append(
                lambda: self._say(f"{name}: what was asked is answered, then all ends; Ctrl-C now cuts")
            )
            self._inbox.append(DrainService(name))
        elif number == signal.SIGINT:
            self._inbox.append(CutService("Ctrl-C, twice"))

    def _moved(self, generation: Generation) -> None:
        """In the thread of the aliases."""

        def roll_out() -> None:
            try:
                self.replicas.add(generation)
            except HookeError as error:
                self._aliases.again()
                self._say(f"{generation.name} cannot be rolled out yet: {error.why or error.what}")
                return
            moving = ", ".join(str(value) for value in self._source.given.values() if hasattr(value, "alias"))
            self._step(RollOut(generation.name, f"{moving} moved"))

        self._call(roll_out)

    def _call(self, work: Callable[[], None]) -> None:
        """From another thread: do this in the loop's."""
        self._inbox.append(work)
        if threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(self._wake, b"x")

    def _answer(self, asked: SupervisorCommand) -> dict[str, object]:
        """What the command line asks. Raises HookeError for what cannot be."""
        by = asked.by or "hooke serve"
        if asked.verb in ("scale", "replace") and self.core.closing:
            raise HookeError(
                f"{self.declared.name} is ending: {self.core.closing}",
                fix="wait until it has, and serve it again",
            )
        if asked.verb == "scale":
            wanted = min(max(self.core.wanted, asked.low), asked.high)
            self._step(Scale(wanted, by))
            self._bind(asked.low, asked.high)
        elif asked.verb == "replace":
            if asked.replica not in self.core.members:
                raise HookeError(
                    f"there is no replica {asked.replica}", fix=f"there are: {', '.join(self.core.members)}"
                )
            member = self.core.members[asked.replica]
            if member.phase is not ReplicaPhase.READY:
                raise HookeError(
                    f"replica {asked.replica} is {member.phase.value}: only one that is ready can be replaced",
                    fix="hooke serve status says how they are",
                )
            self._step(Replace(asked.replica, by))
        elif asked.verb == "drain":
            self._step(DrainService(by))
        elif asked.verb == "down":
            self._step(CutService(by))
        return {
            "service": self.declared.name,
            "url": self.url,
            "run": self.run_id,
            "pid": os.getpid(),
            "front_pid": self.front.pid,
            "replicas_low": self.bounds[0],
            "replicas_high": self.bounds[1],
        } | status_of(self.core, self.replicas.children, self._watched)

    # -- the end -----------------------------------------------------------------------------------

    def _all(self) -> list[Child]:
        front = [self.front.child] if self.front.child is not None else []
        return [*self.replicas.children.values(), *front]

    def _end_front(self) -> None:
        self.front.drained = True
        self.front.stop(time.monotonic())
        ends = time.monotonic() + 10.0
        while self.front.child is not None and time.monotonic() < ends:
            self._wait()
            self.front.hear(time.monotonic())
        if self.front.child is not None:
            self.front.child.kill()

    def _kill_all(self) -> None:
        for child in self._all():
            child.terminate() if child.name == FRONT else child.kill()
        for child in self._all():
            if child.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(10.0)
            self.folder.forget_child(child.name)

    def _close(self) -> None:
        self._aliases.close()
        self._autoscaler.close()
        self._desk.close()
        self._scrape.close()
        self.folder.metrics_socket.unlink(missing_ok=True)
        for child in self._all():
            child.cut(time.monotonic())

    def _record(self) -> None:
        record = ServiceDescriptor(
            service=self.declared.name,
            target=self._source.target,
            run=self.run_id,
            pid=os.getpid(),
            url=self.url,
        )
        try:
            self.folder.write_record(record)
        except OSError as error:
            self._say(f"other terminals will not find where it listens: {error}")


# --- A service of several replicas, from what was asked to its end.


def serve_several(
    declared: Service,
    path: Path,
    project: Project,
    given: Mapping[str, Any],
    *,
    wish: ServiceOptions,
    tell: Callable[[str], None],
) -> Any:
    """Keep replicas and their front until SIGTERM or Ctrl-C; returns what it came to. `tell` gets a line for each event.

    Raises UsageError where the service is supervised already or the port is taken, MissingExtra, and HookeError where no
    replica can be set up.
    """
    check_bindings(declared, given)
    wish.exposure.check()
    with serve_extra():
        from hooke.serving.uvicorn.server import bind
    project.create()
    folder = ServiceFolder.of(project, declared.name)
    folder.create()
    if not folder.lock.try_acquire():
        raise _supervised_already(folder)
    try:
        front = next((one for one in folder.living() if one.name == FRONT), None)
        if wish.exposure.port and (front is None or front.port != wish.exposure.port):
            bind(
                wish.exposure.port, wish.exposure.host
            ).close()  # that it is taken is said before anything is started
        token_file = token_file_of(declared, project, wish.exposure)
        own = Sources(root=Project.root_of(path), file=path).own
        source = ServiceSource(
            target=f"{path}:{declared.name}",
            project=str(project.root),
            folder=os.getcwd(),
            given=dict(given),
            host=wish.exposure.host,
            names=wish.exposure.names,
            token_file=str(token_file.resolve()) if token_file is not None else "",
            modules=pin_modules(lambda file: bool(own([str(file)]))),
        )
        first = pinned(source)
        with ServiceRun(
            project, declared, entry=source.target, shown=shown_given(given), replicas=wish.replicas
        ) as run:
            supervisor = Supervisor(
                declared, project, source, first=first, wish=wish, folder=folder, run=run, tell=tell
            )
            return supervisor.run()
    finally:
        folder.lock.release()


def _supervised_already(folder: ServiceFolder) -> UsageError:
    record = folder.record()
    where = f"{record.url or 'it is coming up'}, pid {record.pid}" if record is not None else str(folder.path)
    return UsageError(
        f"{folder.name} is served already",
        where=where,
        fix=f"another number of replicas: hooke serve scale {folder.name} 4; end it: hooke serve down {folder.name}",
        next=f"hooke serve status {folder.name}",
    )
