"""The supervisor's loop: runs a service's replicas and proxy as the supervision decides, until the end."""

from __future__ import annotations

import contextlib
import math
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

from hooke.autoscaling.scale_to_zero import ZeroPolicy, ZeroSnapshot
from hooke.base.errors import HookeError, UsageError
from hooke.base.pinned_modules import pin_modules
from hooke.journal.service_events import (
    BatchWindow,
    ColdStart,
    PromptsUnrouted,
    ReplicaAdopted,
    ReplicaEnded,
    ReplicaEvent,
    ReplicaReady,
    ReplicaStarted,
    RollOutChanged,
)
from hooke.processes.channel import listen_at
from hooke.project.folder import Project
from hooke.services.arrival_log import ArrivalLog
from hooke.services.control_socket import ControlServer, ServiceCommand
from hooke.services.reload.reloader import Sources
from hooke.services.serve_file import (
    answered_paths,
    api_keys,
    check_bindings,
    curl_example,
    docs_line,
    key_files,
    serve_extra,
    shown_values,
    token_file_of,
)
from hooke.services.service_report import event_line
from hooke.services.service_runs import ServiceRun
from hooke.services.shares import Shares
from hooke.services.supervisor import replica_events as events
from hooke.services.supervisor.autoscaling_loop import Autoscaler
from hooke.services.supervisor.children import LOG_BYTES, Child, Replicas, limit_log
from hooke.services.supervisor.control_channel import FirstAnswer, ReplicaUpdate, decode_from_child
from hooke.services.supervisor.generation import (
    AliasWatcher,
    Generation,
    ServiceOptions,
    ServiceSource,
    pin_generation,
)
from hooke.services.supervisor.proxy_client import ProxyChild, make_proxy_settings
from hooke.services.supervisor.roll_out_record import OutcomeReader, RollOutRecord, generation_before
from hooke.services.supervisor.service_folder import PROXY, ChildRecord, ServiceDescriptor, ServiceFolder
from hooke.services.supervisor.status import SupervisorView, status_of
from hooke.services.supervisor.supervision import Supervision
from hooke.serving.metrics import service_prometheus_text
from hooke.serving.server.metrics_endpoint import MetricsEndpoint
from hooke.serving.service import Service

__all__ = ["SupervisionEnded", "Supervisor", "serve_several"]


TURN_S = 0.05
STOP_LOOK_S = 0.5
LOGS_LOOK_S = 10.0
SHED_EVERY_S = 1.0
UNROUTED_EVERY_S = 60.0
"""The first prompt that the endpoint picker did not route is noted at once, more of them so often."""
SOON_S = 0.003
"""Between two looks at a child whose channel has ended."""
PROXY_LEASE = 5 / 6
"""The proxy's lease as a part of the replicas': it ends first, so that nothing is sent to an ended replica."""


def _ending() -> list[signal.Signals]:
    """The signals that ask for the end: a closed terminal, too, unless that is to be ignored (nohup)."""
    hung_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


class SupervisionEnded(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervised service did."""

    run: str
    answered: int
    cut: int


class Supervisor:
    """The supervisor of one service. `run` needs the main thread, for signals."""

    def __init__(  # noqa: PLR0913 - the parts of a supervisor, each by name
        self,
        declared: Service,
        project: Project,
        source: ServiceSource,
        *,
        first: Generation,
        options: ServiceOptions,
        folder: ServiceFolder,
        run: ServiceRun,
        tell: Callable[[str], None],
    ) -> None:
        self.declared = declared
        self.options = options
        self.folder = folder
        self.bounds = options.replicas
        self.run_id = run.id
        self.core = Supervision(
            options.rules(declared), generation=first.name, wanted=max(1, options.replicas[0])
        )
        self._project = project
        self._run = run
        self._first = first
        self._logs = project.runs.folder(run.id) / "logs"
        shares = Shares(declared, options.replicas[1])
        self.replicas = Replicas(folder, self._logs, shares, options)
        self._say = tell
        tell(str(shares))
        self._source = source
        self._view = SupervisorView()
        self._outcomes = OutcomeReader(options.canary.warm_up if options.canary is not None else 0)
        self._scrape = MetricsEndpoint(
            first.make_auth(), lambda: service_prometheus_text(self._view.metrics())
        )
        self.proxy = self._make_proxy()
        self._control = ControlServer(folder.socket, self._execute)
        self._inbox: deque[events.Event | Callable[[], None]] = deque()
        self._wake_reader, self._wake_writer = os.pipe()
        self._aliases = self._aliases_of(source, first)
        self._autoscaler = Autoscaler(declared, ArrivalLog(folder.arrivals_of(declared)), self._say_soon)
        self._zero = ZeroPolicy(fixed_s=options.keep_alive_s)
        self._signals = 0
        self._given_up: events.GiveUp | None = None
        self._renewed = self._looked = self._logs_looked = self._unrouted_noted = 0.0
        self._shed, self._unrouted, self._shed_noted = 0, 0, time.monotonic()
        self._said = self._unlimited = self._no_standby = ""
        """What was said last of the runs, why a log could not be limited, and why no process is kept in reserve."""
        self._said_up = self._draining = self._done = False
        self._answered = self._called = self._cut = 0

    def _make_proxy(self) -> ProxyChild:
        settings = make_proxy_settings(
            self.declared,
            self.options.bind_config,
            self.folder.path / PROXY,
            self.folder.metrics_socket,
            project=self._project,
        )
        self.replicas.kept_body = settings.kept_body
        self.replicas.scheme = settings.scheme
        return ProxyChild(
            self.folder,
            settings,
            lease_s=self.options.lease_s * PROXY_LEASE,
            log=str(self._logs / "front.log"),
            say=self._say,
            hold=not self.bounds[0],
            token_files=self._token_files(),
        )

    def _token_files(self) -> tuple[str, ...]:
        """Of the service's own token and of its keys; none without auth."""
        own = self._source.token_file
        return (own, *map(str, key_files(self.declared, self._project))) if own else ()

    def _aliases_of(self, source: ServiceSource, first: Generation) -> AliasWatcher:
        def unknown(why: str) -> None:
            self._run_in_loop(lambda: self._say(f"{self.declared.name} keeps its generation: {why}"))

        return AliasWatcher(
            source, first, every_s=self.options.poll_s, moved=self._alias_moved, unknown=unknown
        )

    def _say_soon(self, text: str) -> None:
        """Say it in the loop, from any thread."""
        self._run_in_loop(lambda: self._say(text))

    @property
    def url(self) -> str:
        """The URL on this machine; empty until the proxy listens."""
        return self.options.bind_config.url(self.proxy.port) if self.proxy.up else ""

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> SupervisionEnded:
        """Run until the service has ended. Raises the error that kept the proxy or all replicas from starting."""
        former = {number: signal.signal(number, self._signalled) for number in _ending()}
        os.set_blocking(self._wake_writer, False)
        os.set_blocking(self._wake_reader, False)
        woken = signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        child_ended = signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            self._begin()
            while not self._done:
                self._turn()
            self._end_proxy()
            self._note_unrouted(math.inf)
            self.replicas.end_standby()
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
        self._control.open()
        self._scrape.start(listen_at(self.folder.metrics_socket))
        known = self.folder.generation(self._first.key).exists()  # asked before it is written
        self.replicas.add(self._first)
        records = {record.name: record for record in self.folder.living()}
        proxy = records.pop(PROXY, None)
        self.proxy.begin(proxy)
        self._write_record()
        # With --canary off a version that was rolled back is served all the same.
        last = RollOutRecord.read(self.folder) if self.options.canary is not None else None
        before = generation_before(self.folder, last, self._first, alive=proxy is not None)
        if before is not None:
            self.replicas.add(before)
        adopted = self._adopt(list(records.values()))
        serving = [one for one in adopted if before is None or one.generation == before.name]
        low, high = self.bounds
        # The first replica shows that the service works. One that is taken over, and was served before, stays at zero.
        least = low or (0 if proxy is not None and (known or before is not None) else 1)
        self.core.wanted = min(max(len(serving), least), high)
        self._set_bounds(low, high)
        self._aliases.start()
        self._step(self._began(adopted, before, last))
        if self.core.rolling is None and not self.core.refused:
            self._keep_roll_out(RollOutRecord(serving=self.replicas.keys()[self.core.generation]))

    def _began(
        self, adopted: tuple[events.Adopted, ...], before: Generation | None, last: RollOutRecord | None
    ) -> events.SupervisionBegan:
        if before is None or last is None:
            return events.SupervisionBegan(adopted=adopted)
        refused = last.refuses(self._first.key)
        if refused:
            self._say(
                f"{self._first.name} was rolled back: {last.reason}; {before.name} is served. To serve the new one: --canary off"
            )
        return events.SupervisionBegan(
            adopted=adopted,
            serving=before.name,
            refused=refused,
            accepted=last.accepts(self._first.key),
        )

    def _set_bounds(self, low: int, high: int) -> None:
        self.bounds = (low, high)
        self.proxy.hold(not low, time.monotonic())
        self._autoscaler.between(max(low, 1), high, now_wanted=self.core.wanted)

    def _turn(self) -> None:
        self._wait()
        now = time.monotonic()
        self._hear_children(now)
        self.proxy.hear(now)
        if self.proxy.up and not self._said_up:
            self._said_up = True
            self._write_record()
            self._say(f"{self.declared.name} listens on {self.url}")
        names = self.proxy.acknowledged()
        if names is not None:
            self._say_answering(names)
            self._step(events.Published(names))
        if self._draining and self.proxy.drained:
            self._draining = False
            self._step(events.ProxyDrained())
        self._renew(now)
        self._look_for_stop(now)
        self._limit_logs(now)
        self._keep_standby(now)
        while self.proxy.first_answers:
            self._note_cold_start(self.proxy.first_answers.popleft())
        chosen = self._autoscaler.chosen(now)
        if chosen is not None:
            self._record_event(chosen)
        decided = self._autoscaler.decide(
            now, self.core, called=self._called, held=self.proxy.activator.held, shed=self.proxy.shed
        )
        self._note_shed(now)
        self._note_unrouted(now)
        scaled = self._decide_zero(now) or decided
        if scaled is not None:
            self._step(scaled)
        self.proxy.limit(self.core.room(), now)
        while self._inbox:
            event = self._inbox.popleft()
            event() if callable(event) else self._step(event)
        self._step(events.SupervisionTick(listened=now))
        self._view.update(self.core, self.proxy.stats)

    def _keep_standby(self, now: float) -> None:
        """Have a process in reserve whenever all wanted replicas answer. It holds no model."""
        log = self.replicas.hear_standby(now)
        if log is not None:
            self._say(f"the process in reserve has ended: {' '.join(log[-1:]) or 'it said nothing'}")
        core = self.core
        if not self.declared.standby or core.closing or not core.ever_ready or core.rolling is not None:
            return
        if core.starts() or len(core.ready()) < core.wanted:
            return
        try:
            self.replicas.prepare(core.generation)
        except (OSError, HookeError) as error:
            if str(error) != self._no_standby:
                self._no_standby = str(error)
                self._say(f"no process can be kept in reserve: {error}")

    def _note_shed(self, now: float) -> None:
        """Record what Envoy refused itself, which no replica counts."""
        seconds = now - self._shed_noted
        if seconds < SHED_EVERY_S:
            return
        shed = self.proxy.shed - self._shed
        self._shed, self._shed_noted = self.proxy.shed, now
        if shed:
            self._run.window(BatchWindow(replica="proxy", seconds=seconds, arrived=shed, refused=shed))

    def _note_unrouted(self, now: float) -> None:
        """Record prompts that went without the endpoint picker; at the end, which is at infinity, whatever is left."""
        prompts = self.proxy.unrouted - self._unrouted
        if prompts and (not self._unrouted or now - self._unrouted_noted >= UNROUTED_EVERY_S):
            self._unrouted, self._unrouted_noted = self.proxy.unrouted, now
            self._record_event(PromptsUnrouted(prompts=prompts))

    def _decide_zero(self, now: float) -> events.Scale | None:
        """Between no replica and one, where none is allowed."""
        if self.bounds[0] or self.core.closing:
            return None
        seen = ZeroSnapshot(
            wanted=self.core.wanted,
            starting=self.core.starts(),
            open_calls=self.core.open_calls(),
            called=self._called,
            held=self.proxy.activator.held,
            start_s=self._autoscaler.start_s,
        )
        decision = self._zero.decide(now, seen)
        return None if decision is None else events.Scale(decision.target, decision.reason)

    def _note_cold_start(self, answer: FirstAnswer) -> None:
        replica = max(self.core.ready(), key=lambda one: one.ready_at or 0.0, default=None)
        self._record_event(
            ColdStart(
                seconds=answer.seconds,
                held=answer.held,
                refused=answer.refused,
                gone=answer.gone,
                replica=replica.name if replica is not None else "",
            )
        )

    def _wait(self) -> None:
        selector = selectors.DefaultSelector()
        with selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            self._control.register(selector)
            ending = False
            for child in self._all_children():
                if child.channel is not None:
                    selector.register(child.channel, selectors.EVENT_READ)
                else:
                    ending = True
            ready = selector.select(SOON_S if ending else TURN_S)
            for key, _ in ready:
                if key.fileobj == self._wake_reader:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_reader, 4096)
            self._control.serve([key.fileobj for key, _ in ready])

    def _hear_children(self, now: float) -> None:
        for child in list(self.replicas.children.values()):
            for message in child.take(now):
                update = decode_from_child(message)
                if isinstance(update, ReplicaUpdate):
                    self._take_update(child, update)
            ended = child.ended(now)
            if ended is not None:
                self.replicas.forget(child, now)
                self._view.end(child.name)
                self._outcomes.forget(child.name)
                self._step(events.Exited(name=child.name, exit_code=ended[0], log_tail=child.tail()))

    def _take_update(self, child: Child, update: ReplicaUpdate) -> None:
        copies = self.core.mirrored(child.name)
        for window in () if copies else update.windows:
            self._run.window(window)
            self._autoscaler.window(window)
        if update.counts is not None:
            self._view.take(child.name, update.counts, time.monotonic())
        outcomes = self._outcomes.take(child.name, update, adopted=child.process is None)
        if outcomes is not None and self.core.trial is not None:
            self._step(events.OutcomesReported(child.name, outcomes))
        for event in update.events:
            self._record_event(event)
        member = self.core.members.get(child.name)
        before = member.report if member is not None else events.ReplicaReport()
        if not copies:
            self.proxy.tell_tokens(child.name, update, time.monotonic())
            self._answered += max(0, update.report.asked - before.asked)
            self._called += max(0, update.report.called - before.called)
        self._step(events.Reported(child.name, update.report))

    def _look_for_stop(self, now: float) -> None:
        """`hooke stop RUN` ends it as `hooke serve drain` does."""
        if now - self._looked >= STOP_LOOK_S and not self.core.closing:
            self._looked = now
            by = self._project.runs.stop_requested(self.run_id)
            if by is not None:
                self._step(events.DrainService(by))

    def _limit_logs(self, now: float) -> None:
        if now - self._logs_looked < LOGS_LOOK_S:
            return
        self._logs_looked = now
        try:
            for log in (*(Path(child.record.log) for child in self._all_children()), *self.proxy.logs):
                limit_log(log)
        except OSError as error:
            if str(error) != self._unlimited:
                self._unlimited = str(error)
                self._say(f"a log of more than {LOG_BYTES >> 20} MiB cannot be begun anew: {error}")

    def _renew(self, now: float) -> None:
        if now - self._renewed >= self.options.lease_s / 6:
            self._renewed = now
            for child in self._all_children():
                child.renew(now)

    def _step(self, event: events.Event) -> None:
        for action in self.core.step(event, time.monotonic()):
            self._perform(action)

    # -- actions -----------------------------------------------------------------------------------

    def _perform(self, action: events.Action) -> None:
        now = time.monotonic()
        match action:
            case events.StartReplica():
                self._start(action)
            case events.Publish():
                self._publish(action, now)
            case events.Terminate(name) | events.KillReplica(name):
                self._end(name, by_force=isinstance(action, events.KillReplica))
            case events.DrainProxy():
                self._draining = True
                within_s = self.core.rules.leave_s
                self.proxy.drain(within_s=within_s, now=now)
            case events.Announce(text):
                self._say(text)
            case events.RecordEvent(event):
                self._record_event(event)
            case events.GiveUp():
                self._given_up = action
            case events.SupervisionDone():
                self._done = True

    def _publish(self, order: events.Publish, now: float) -> None:
        records = {name: self.replicas.children[name].record for name in {*order.names, *order.new}}
        self.proxy.publish(
            {name: records[name].port for name in order.names},
            now,
            versions={name: record.generation for name, record in records.items()},
            new={name: records[name].port for name in order.new},
            share=order.share,
        )

    def _end(self, name: str, *, by_force: bool) -> None:
        child = self.replicas.children.get(name)
        if child is not None:
            child.kill() if by_force else child.terminate()

    def _start(self, action: events.StartReplica) -> None:
        try:
            child = self.replicas.start(
                action.name, action.generation, among=max(self.bounds[1], self.core.wanted)
            )
        except (OSError, UsageError) as error:  # UsageError if no port is free
            self._inbox.append(
                events.Exited(name=action.name, log_tail=(f"no process could be started: {error}",))
            )
            return
        self._record_event(
            ReplicaStarted(
                replica=action.name,
                generation=action.generation,
                pid=child.record.pid,
                port=child.record.port,
                reason=action.reason,
            )
        )

    def _adopt(self, records: Iterable[ChildRecord]) -> tuple[events.Adopted, ...]:
        found: list[events.Adopted] = []
        for record, report in self.replicas.adopt(records):
            if report is None:
                self._say(
                    f"replica {record.name} of an earlier supervisor does not report: ending pid {record.pid}"
                )
                continue
            age_s = max(0.0, time.time() - record.started_at)
            found.append(
                events.Adopted(name=record.name, generation=record.generation, report=report, age_s=age_s)
            )
            facts = {name: getattr(record, name) for name in ("generation", "pid", "port")}
            self._record_event(ReplicaAdopted(replica=record.name, **facts))
        return tuple(found)

    def _record_event(self, event: ReplicaEvent) -> None:
        if isinstance(event, RollOutChanged):  # first: another supervisor must not serve what was rolled back
            self._keep_roll_out(RollOutRecord.after(event, self.replicas.keys()))
        self._run.say(event)
        self._view.record(event)
        if isinstance(event, ReplicaReady | ColdStart):
            self._autoscaler.started(event.seconds)
        if isinstance(event, ReplicaEnded) and self.core.closing:
            self._cut += event.in_flight
        self._say(event_line(event))

    def _keep_roll_out(self, record: RollOutRecord) -> None:
        try:
            record.write(self.folder)
        except OSError as error:
            self._say(f"the roll-out's record cannot be written: a later supervisor would try again: {error}")

    def _say_answering(self, names: tuple[str, ...]) -> None:
        wanted = self.core.wanted
        more = f"{len(names)} replicas answer, {wanted} wanted"
        said = more if len(names) > wanted else f"{len(names)} of {wanted} replicas answer"
        if not wanted and not names:
            said = "no replica runs: the next request starts one"
        if said == self._said or self.core.closing or not (names or self._said):
            return
        if not self._said:
            self._say(
                f"{self.declared.name} answers: {answered_paths(self.declared)}; Ctrl-C drains and ends it"
            )
            token_file = Path(self._source.token_file) if self._source.token_file else None
            self._say(curl_example(self.declared, self.options.bind_config, token_file, self.url))
            self._say(docs_line(self.url))
        self._said = said
        self._say(said)

    # -- signals, aliases and commands -------------------------------------------------------------

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._signals += 1
        if self._signals == 1:
            self._inbox.append(
                lambda: self._say(f"{name}: draining, open requests are answered; Ctrl-C now cuts them")
            )
            self._inbox.append(events.DrainService(name))
        elif number == signal.SIGINT:
            self._inbox.append(events.CutService("Ctrl-C, twice"))

    def _alias_moved(self, generation: Generation) -> None:
        """Called in the thread of the aliases."""

        def roll_out() -> None:
            try:
                self.replicas.add(generation)
            except HookeError as error:
                self._aliases.again()
                self._say(f"{generation.name} cannot be rolled out yet: {error.why or error.what}")
                return
            moving = ", ".join(str(value) for value in self._source.given.values() if hasattr(value, "alias"))
            self._step(events.RollOut(generation.name, f"{moving} moved"))

        self._run_in_loop(roll_out)

    def _run_in_loop(self, work: Callable[[], None]) -> None:
        """Run this in the loop's thread, from any other."""
        self._inbox.append(work)
        if threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(self._wake_writer, b"x")

    def _execute(self, command: ServiceCommand) -> dict[str, object]:
        """Execute a command of the control socket. Raises HookeError if it cannot be done."""
        by = command.by or "hooke serve"
        if command.verb in ("scale", "replace") and self.core.closing:
            raise HookeError(
                f"{self.declared.name} is ending: {self.core.closing}",
                fix="wait until it has ended, and serve it again",
            )
        if command.verb == "scale":
            wanted = min(max(self.core.wanted, command.low), command.high)
            self._step(events.Scale(wanted, by))
            self._set_bounds(command.low, command.high)
        elif command.verb == "replace":
            if command.replica not in self.core.members:
                raise HookeError(
                    f"no replica is called {command.replica}", fix=f"replicas: {', '.join(self.core.members)}"
                )
            member = self.core.members[command.replica]
            if member.phase is not events.ReplicaPhase.READY:
                raise HookeError(
                    f"replica {command.replica} is {member.phase.value}: only a ready replica can be replaced",
                    fix="hooke serve status shows the states",
                )
            self._step(events.Replace(command.replica, by))
        elif command.verb in ("accept", "reject"):
            if self.core.trial is None:
                raise HookeError(
                    f"no version of {self.declared.name} is on trial",
                    fix="hooke serve status shows a roll-out under way",
                )
            self._step(events.JudgeRollOut(accept=command.verb == "accept", by=by))
        elif command.verb == "drain":
            self._step(events.DrainService(by))
        elif command.verb == "down":
            self._step(events.CutService(by))
        return {
            "service": self.declared.name,
            "url": self.url,
            "run": self.run_id,
            "pid": os.getpid(),
            "front_pid": self.proxy.pid,
            "replicas_low": self.bounds[0],
            "replicas_high": self.bounds[1],
            "zero": self._zero_facts(),
            "slo": self._autoscaler.slo_facts(),
            "scaling": self._autoscaler.choice.reason if self._autoscaler.choice is not None else None,
        } | status_of(self.core, self.replicas.children, self._view)

    def _zero_facts(self) -> dict[str, object] | None:
        """What `hooke serve status` says of a service that may have no replica; None of others."""
        if self.bounds[0]:
            return None
        keep = self._zero.keep_alive(self._autoscaler.start_s)
        facts = {"keep_alive_s": keep.seconds, "keep_alive_why": keep.reason}
        return facts | msgspec.to_builtins(self.proxy.activator) | self._view.cold_starts()

    # -- the end -----------------------------------------------------------------------------------

    def _all_children(self) -> list[Child]:
        others = [child for child in (self.proxy.child, self.replicas.standby) if child is not None]
        return [*self.replicas.children.values(), *others]

    def _end_proxy(self) -> None:
        self.proxy.drained = True
        self.proxy.stop(time.monotonic())
        ends = time.monotonic() + 10.0
        while self.proxy.child is not None and time.monotonic() < ends:
            self._wait()
            self.proxy.hear(time.monotonic())
        if self.proxy.child is not None:
            self.proxy.child.kill()

    def _kill_all(self) -> None:
        for child in self._all_children():
            child.terminate() if child.name == PROXY else child.kill()
        for child in self._all_children():
            if child.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(10.0)
            self.folder.forget_child(child.name)

    def _close(self) -> None:
        self._aliases.close()
        self._autoscaler.close()
        self._control.close()
        self._scrape.close()
        self.folder.metrics_socket.unlink(missing_ok=True)
        for child in self._all_children():
            child.cut(time.monotonic())

    def _write_record(self) -> None:
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
            self._say(f"the service's record cannot be written, so other terminals will not find it: {error}")


# --- From the options to the end of a supervised service.


def serve_several(
    declared: Service,
    path: Path,
    project: Project,
    given: Mapping[str, Any],
    *,
    options: ServiceOptions,
    tell: Callable[[str], None],
) -> Any:
    """Run replicas and their proxy until SIGTERM or Ctrl-C; returns what they did. `tell` gets a line for each event.

    Raises UsageError if the service is supervised already or the port is taken, MissingExtra, and HookeError if no
    replica can be set up.
    """
    check_bindings(declared, given)
    options.bind_config.check()
    api_keys(declared, project)  # a bad one is reported before anything starts
    with serve_extra():
        from hooke.serving.server.serve import bind
    project.create()
    folder = ServiceFolder.of(project, declared.name)
    folder.create()
    if not folder.lock.try_acquire():
        raise _supervised_already(folder)
    try:
        proxy = next((one for one in folder.living() if one.name == PROXY), None)
        if options.bind_config.port and (proxy is None or proxy.port != options.bind_config.port):
            bind(
                options.bind_config.port, options.bind_config.host
            ).close()  # a taken port is reported before anything starts
        token_file = token_file_of(declared, project, options.bind_config)
        own = Sources(root=Project.root_of(path), file=path).own
        source = ServiceSource(
            target=f"{path}:{declared.name}",
            project=str(project.root),
            folder=os.getcwd(),
            given=dict(given),
            host=options.bind_config.host,
            names=options.bind_config.names,
            token_file=str(token_file.resolve()) if token_file is not None else "",
            observe=options.observe,
            modules=pin_modules(lambda file: bool(own([file]))),
        )
        first = pin_generation(source)
        with ServiceRun(
            project, declared, entry=source.target, shown=shown_values(given), replicas=options.replicas
        ) as run:
            supervisor = Supervisor(
                declared, project, source, first=first, options=options, folder=folder, run=run, tell=tell
            )
            return supervisor.run()
    finally:
        folder.lock.release()


def _supervised_already(folder: ServiceFolder) -> UsageError:
    record = folder.record()
    where = f"{record.url or 'it is starting'}, pid {record.pid}" if record is not None else str(folder.path)
    return UsageError(
        f"{folder.name} is already being served",
        where=where,
        fix=f"to change the number of replicas: hooke serve scale {folder.name} 4; to end it: hooke serve down {folder.name}",
        next=f"hooke serve status {folder.name}",
    )
