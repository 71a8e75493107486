"""The supervisor's side of the proxy: starts or adopts its process, publishes replicas, and restarts it after its death."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.base.files import writing
from hooke.processes.lease import Backoff
from hooke.project.folder import Project
from hooke.project.settings import ServiceSettings
from hooke.proxy.activator import HoldFacts
from hooke.proxy.proxy_settings import ProxySettings, ProxyTls
from hooke.services.supervisor import control_channel as messages
from hooke.services.supervisor.children import Child, adopt_child, start_child
from hooke.services.supervisor.proxy_process import ProxyProcessOrder
from hooke.services.supervisor.service_folder import PROXY, ChildRecord, ServiceFolder, end_child
from hooke.serving.bind_config import BindConfig
from hooke.serving.metrics import ProxyStats
from hooke.serving.openai.engine_routes import unhurried_paths
from hooke.serving.payloads import ResponseKind, methods_of
from hooke.serving.replica import METRICS
from hooke.serving.service import Service

__all__ = ["ProxyChild", "make_proxy_settings"]

LIMIT_EVERY_S, LIMIT_AGAIN_S = 0.2, 5.0
"""Between two different limits of requests in progress, and between two equal ones: an Envoy that was restarted needs it again."""
LIMIT_STEP = 0.05
"""A smaller change is noise."""
_KINDS = {"UsageError": UsageError, "MissingExtra": MissingExtra}


def make_proxy_settings(
    declared: Service,
    bind_config: BindConfig,
    folder: Path,
    metrics: Path | None = None,
    *,
    project: Project | None = None,
) -> ProxySettings:
    """The settings of a service's proxy; the socket `metrics` answers for the metrics of all replicas.

    Limits and the access log are those of the project's hooke.toml. Raises UsageError for invalid values.
    """
    tls = bind_config.tls
    given = (
        project.settings.services.get(declared.name) if project is not None else None
    ) or ServiceSettings()
    access_log = project.root / given.access_log if project is not None and given.access_log else None
    if access_log is not None:
        with writing("the access log", access_log):
            access_log.parent.mkdir(parents=True, exist_ok=True)
            access_log.touch()
    low_keys, keys = _files_of_keys(given, bind_config, project)
    streams = (ResponseKind.STREAM, ResponseKind.ASYNC_STREAM)
    return ProxySettings(
        service=declared.name,
        folder=folder.resolve(),
        address="127.0.0.1" if bind_config.host == "localhost" else bind_config.host,
        port=bind_config.port,
        tls=ProxyTls(certificate=tls.cert.resolve(), key=tls.key.resolve()) if tls is not None else None,
        timeout_s=declared.timeout_s,
        idempotent=declared.idempotent,
        names_requests=declared.idempotent,
        metrics_path=METRICS,
        metrics_socket=metrics.resolve() if metrics is not None else None,
        drain_s=max(1, math.ceil(declared.slo.limit_s)) if declared.slo is not None else 1,
        rate_limit=given.rate_limit,
        access_log=access_log.resolve() if access_log is not None else None,
        threads=given.proxy_threads,
        retry_body_limit=given.retry_body,
        streams=tuple(f"/{name}" for name, method in methods_of(declared).items() if method.kind in streams),
        unhurried=unhurried_paths(declared),
        prompts=unhurried_paths(declared),
        # Engines do not say which tokens they have sent.
        kept=unhurried_paths(declared) if declared.idempotent and declared.command is None else (),
        low_key_files=low_keys,
        key_files=keys,
    )


def _files_of_keys(
    given: ServiceSettings, bind_config: BindConfig, project: Project | None
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Those of low priority, and the others; none unless a key has a low one."""
    if project is None or not any(key.priority == "low" for key in given.keys.values()):
        return (), ()
    files: dict[str, list[Path]] = {"low": [], "high": []}
    for key in given.keys.values():
        files[key.priority].append((project.root / key.file).resolve())
    if bind_config.token_file is not None:
        files["high"].append(bind_config.token_file.resolve())
    return tuple(files["low"]), tuple(files["high"])


class ProxyChild:
    """The proxy of a service. `port` is 0 until it accepts requests."""

    def __init__(  # noqa: PLR0913 - the parts of a proxy, each by name
        self,
        folder: ServiceFolder,
        settings: ProxySettings,
        *,
        lease_s: float,
        log: str,
        say: Callable[[str], None],
        hold: bool = False,
        token_files: tuple[str, ...] = (),
    ) -> None:
        """`hold`: whether requests are held where there is no replica; they then need the token in one of `token_files`."""
        self.port = 0
        self.pid = 0
        """Envoy's own."""
        self.stats: ProxyStats | None = None
        """Its last counters; None while it does not run."""
        self.shed = self.unrouted = 0
        """Requests that Envoy refused itself because the replicas had enough, and prompts that went without the endpoint picker, while this supervisor heard of it."""
        self._counted: tuple[int, int] | None = None
        """The last counters of the Envoy that runs; None until an adopted one has reported."""
        self.child: Child | None = None
        self.activator = HoldFacts()
        self.first_answers: deque[messages.FirstAnswer] = deque()
        """Not taken yet."""
        self.drained = False
        self._draining = False
        self._folder = folder
        self._settings = settings
        self._key = _key_of(settings, token_files)
        self._lease_s = lease_s
        self._log = log
        self._say = say
        self._token_files = token_files
        self._order = messages.PublishPorts(replicas={}, hold=hold)
        self._acknowledged: tuple[str, ...] | None = None
        self._most: int | None = None
        self._limited = 0.0
        self._backoff = Backoff(first_s=0.1, cap_s=10.0)
        self._restart_at: float | None = None
        self._why: HookeError | None = None

    @property
    def logs(self) -> tuple[Path, ...]:
        """The files that Envoy writes."""
        access = self._settings.access_log
        return (self._settings.log,) if access is None else (self._settings.log, access)

    @property
    def up(self) -> bool:
        """Whether it accepts requests."""
        return bool(self.port) and self.child is not None

    def begin(self, record: ChildRecord | None) -> None:
        """Adopt the running one if its settings are the same, else start one."""
        if record is not None:
            wanted = self._settings.port in (0, record.port) and record.generation == self._key
            self.child = adopt_child(self._folder, record) if wanted else None
            if self.child is None:
                self._say(
                    f"ending the proxy of an earlier supervisor (pid {record.pid}): its settings differ"
                )
                end_child(record)
                self._folder.forget_child(PROXY)
        if self.child is None:
            self._start()

    def publish(
        self,
        ports: Mapping[str, int],
        now: float,
        *,
        versions: Mapping[str, str],
        new: Mapping[str, int],
        share: float | None,
    ) -> None:
        """Send new requests to these replicas; `acknowledged` tells when that is in effect. Other options as in `PublishPorts`."""
        order = messages.PublishPorts(
            replicas=dict(ports), versions=dict(versions), new=dict(new), share=share, hold=self._order.hold
        )
        self._publish(order, now)

    def hold(self, hold: bool, now: float) -> None:  # noqa: FBT001 - a switch
        """Whether requests are held where there is no replica."""
        if hold != self._order.hold:
            self._publish(msgspec.structs.replace(self._order, hold=hold), now)

    def _publish(self, order: messages.PublishPorts, now: float) -> None:
        self._order, self._acknowledged = order, None
        self._send(order, now)

    def limit(self, most: int | None, now: float) -> None:
        """Admit so many requests at once, if that differs enough from the last number, and from time to time in any case."""
        before = self._most
        same = most == before or (most and before and abs(most - before) <= LIMIT_STEP * before)
        if now - self._limited < (LIMIT_AGAIN_S if same else LIMIT_EVERY_S):
            return
        self._most, self._limited = most, now
        if self.up:
            self._send(messages.LimitRequests(most=most), now)

    def tell_tokens(self, name: str, update: messages.ReplicaUpdate, now: float) -> None:
        """Pass on what a replica of a language model has to do."""
        if self.up and self._settings.prompts:
            report = update.report
            told = messages.ReportTokens(
                name=name, load=report.tokens, taken=update.taken, open_calls=report.open_calls
            )
            self._send(told, now)

    def drain(self, *, within_s: float, now: float) -> None:
        """Accept nothing new; `drained` becomes true, also if the proxy dies: then it is not restarted."""
        self._draining, self._restart_at = True, None
        if not self.up:
            self.drained = True
        self._send(messages.ProxyDrainOrder(within_s=within_s), now)

    def stop(self, now: float) -> None:
        """End it."""
        self._restart_at = None
        self._send(messages.StopProxy(), now)

    def acknowledged(self) -> tuple[str, ...] | None:
        """The replicas that it sends new requests to, once after each `publish`. A proxy that does not run sends none."""
        if self.child is None:
            return ()
        found, self._acknowledged = self._acknowledged, None
        return found

    def hear(self, now: float) -> None:
        """Process its messages, and check that it lives. Raises the error that kept it from starting the first time."""
        if self.child is not None:
            for message in self.child.take(now):
                self._take(messages.decode_from_child(message), now)
            self._see_end(self.child, now)
        elif self._restart_at is not None and now >= self._restart_at:
            self._restart_at = None
            try:
                self._start()
            except OSError as error:
                waits_s = self._backoff.failed(now)
                self._restart_at = now + waits_s
                self._say(f"the proxy cannot be started, next try in {waits_s:g} s: {error}")

    def _take(self, message: Any, now: float) -> None:
        match message:
            case messages.ProxyUp():
                if not self.port:
                    self._backoff.succeeded(now)
                    self._note(message.port)
                    self._send(self._order, now)
                    self._send(messages.LimitRequests(most=self._most), now)
                self.port, self.pid, self.stats = message.port, message.pid, message.stats
                self.activator = message.activator
                self._count(message)
                # A restart uses the same port.
                self._settings = dataclasses.replace(self._settings, port=message.port)
            case messages.ProxyPublished():
                self._acknowledged = message.names
            case messages.FirstAnswer():
                self.first_answers.append(message)
            case messages.ProxyDrainReply():
                self.drained = True
            case messages.ProxyFailed():
                facts = {name: getattr(message, name) for name in ("where", "why", "fix")}
                self._why = _KINDS.get(message.kind, HookeError)(message.what, **facts)
            case _:
                pass

    def _count(self, report: messages.ProxyUp) -> None:
        if report.stats is not None:
            now = (report.stats.shed, report.stats.unrouted)
            before = now if self._counted is None else self._counted
            self.shed += max(0, now[0] - before[0])
            self.unrouted += max(0, now[1] - before[1])
            self._counted = now

    def _note(self, port: int) -> None:
        """Record its port for a later supervisor."""
        if self.child is not None:
            self.child.record = msgspec.structs.replace(self.child.record, port=port)
            try:
                self._folder.write_child(self.child.record)
            except OSError as error:
                self._say(
                    f"the proxy's record cannot be written, so a later supervisor will not find it: {error}"
                )

    def _see_end(self, child: Child, now: float) -> None:
        if child.ended(now) is None:
            return
        self._folder.forget_child(PROXY)
        child.cut(now)
        self.child, self._counted = None, (0, 0)
        was_up, self.port, self.stats, self.activator = bool(self.port), 0, None, HoldFacts()
        why = self._why or HookeError("the proxy ended", why="\n".join(child.tail()))
        self._why = None
        if self._draining and not self.drained:
            self._say("the proxy ended before all its requests were answered")
            self.drained = True
        if self.drained:
            return
        if not was_up and not self._backoff.failures:
            raise why
        waits_s = self._backoff.failed(now)
        self._restart_at = now + waits_s
        last = why.why.rpartition("\n")[2]
        self._say(f"the proxy ended and restarts: {why.what}{f', {last}' if last else ''}")

    def _start(self) -> None:
        record = ChildRecord(name=PROXY, port=self._settings.port, generation=self._key, log=self._log)

        def order(control: int) -> str:
            made = ProxyProcessOrder(
                control=control,
                lease_s=self._lease_s,
                settings=self._settings,
                first=self._order,
                token_files=self._token_files,
            )
            return msgspec.json.encode(made, enc_hook=str).decode()

        self.child = start_child(
            self._folder,
            "hooke.services.supervisor.proxy_process",
            order,
            record=record,
            cwd=str(self._folder.path),
        )

    def _send(self, message: Any, now: float) -> None:
        if self.child is not None:
            self.child.send(messages.encode(message), now)


def _key_of(settings: ProxySettings, token_files: tuple[str, ...]) -> str:
    """Equal for proxies that differ only in their port."""
    said = msgspec.json.encode((dataclasses.replace(settings, port=0), token_files), enc_hook=str)
    return hashlib.blake2b(said, digest_size=6).hexdigest()
