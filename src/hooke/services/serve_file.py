"""Serve the service of a file in this process, with the values that its `setup` takes."""

from __future__ import annotations

import dataclasses
import inspect
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.annotations import annotations_of, kind_shown
from hooke.base.distributions import install_command
from hooke.base.errors import ConfigError, MissingExtra, UsageError
from hooke.base.files import private_folder, writing
from hooke.base.formats import did_you_mean, format_bytes, short_repr
from hooke.models.registry_protocol import VersionQuery, find
from hooke.project.folder import Project
from hooke.project.pipeline_file import choose, load_file
from hooke.project.settings import FILE, ServiceSettings
from hooke.registry.loaded_models import load_version, registry_of
from hooke.services.service_runs import ServiceRun
from hooke.services.shares import apply_share
from hooke.services.single_process import recorded
from hooke.serving.auth import ApiKey, ensure_token, read_token
from hooke.serving.bind_config import BindConfig
from hooke.serving.http import OPENAI
from hooke.serving.limits import BODY_LIMIT, MOST_KEYS, body_memory_bytes
from hooke.serving.observing.observer import SLOW_S, RequestObserver
from hooke.serving.observing.request_log import RequestLog, RequestLogOptions
from hooke.serving.observing.tracing import TraceSettings, start_tracing
from hooke.serving.openai.engine_routes import unhurried_paths
from hooke.serving.openai.openai_routes import CHAT
from hooke.serving.replica import DOCS, Replica
from hooke.serving.service import SETUP, Service, service_of

__all__ = [
    "InheritedSocket",
    "ObserveOptions",
    "ServeOutcome",
    "answered_paths",
    "body_room",
    "check_bindings",
    "curl_example",
    "docs_line",
    "key_files",
    "load_service",
    "make_observer",
    "pinned",
    "serve_extra",
    "serve_here",
    "setup_arguments",
    "shown_values",
    "token_file_of",
    "version_label",
]


# --- The token file, and a curl command that calls the service.


def token_file_of(declared: Service, project: Project, bind_config: BindConfig) -> Path | None:
    """The file of the bearer token, created if needed; None if the service needs no token. Raises as `ensure_token`."""
    if not bind_config.auth:
        return None
    if bind_config.token_file is not None:
        return bind_config.token_file
    path = project.create() / "services" / declared.name / "token"
    with writing("the service's folder", path.parent):
        private_folder(path.parent)
    ensure_token(path)
    return path


def answered_paths(declared: Service) -> str:
    """What clients may ask for: `POST /predict, POST /explain`."""
    own = [f"/{name}" for name in declared.methods()]
    return ", ".join(f"POST {path}" for path in [*own, *unhurried_paths(declared)])


def curl_example(declared: Service, bind_config: BindConfig, token_file: Path | None, address: str) -> str:
    """A shell command that calls the service."""
    fields = ""
    if declared.command is not None:
        path = f"{OPENAI}models"  # only the engine knows their names
    elif declared.protocol == "openai":
        path, messages = CHAT, '[{"role": "user", "content": "Hello"}]'
        fields = f'"model": "{declared.name}", "messages": {messages}'
    else:
        name, function = next(iter(declared.methods().items()))
        path = f"/{name}"
        fields = ", ".join(f'"{field}": ...' for field in list(inspect.signature(function).parameters)[1:])
    words = ["curl"]
    if bind_config.tls is not None:
        words.append(f"--cacert {shlex.quote(_short(bind_config.tls.cert))}")
    if token_file is not None:
        words.append(f'-H "Authorization: Bearer $(cat {shlex.quote(_short(token_file))})"')
    if fields or declared.command is None:
        words.append(f"-H content-type:application/json -d '{{{fields}}}'")
    words.append(f"{address}{path}")
    warned = (
        "" if token_file is not None else "--no-auth: every program on this machine can call the service; "
    )
    return f"{warned}try: {' '.join(words)}"


def docs_line(address: str) -> str:
    """Where a person reads how to call the service."""
    return f"docs: {address}{DOCS}"


def _short(path: Path) -> str:
    """Relative to the working directory if the path is below it."""
    seen = os.path.relpath(path)
    return str(path) if seen.startswith("..") else seen


class ObserveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a service tells of each request."""

    log: RequestLogOptions | None = None
    trace: bool = False
    """Whether it sends spans, as OpenTelemetry's environment variables say."""


def make_observer(
    declared: Service, options: ObserveOptions, *, version: str, replica: str = ""
) -> RequestObserver | None:
    """What writes the request log and the spans; None for neither. Called once the service is imported. Raises as `RequestLog` and `start_tracing`."""
    log = RequestLog(options.log) if options.log is not None else None
    settings = TraceSettings(service=declared.name, version=version, replica=replica)
    tracing = start_tracing(settings) if options.trace else None
    if log is None and tracing is None:
        return None
    slow_s = declared.slo.limit_s if declared.slo is not None else SLOW_S
    return RequestObserver(log=log, tracing=tracing, version=version, replica=replica, slow_s=slow_s)


@dataclass(frozen=True, slots=True)
class ServeOutcome:
    """What a service did: its run, the requests answered and cut, the batches and their rows."""

    run: str
    answered: int
    cut: int
    batches: int
    rows: int


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket that another process holds, too, and on which others may answer until this one is set up."""

    listening: socket.socket
    ready: Callable[[tuple[str, ...]], None]
    """Gets the lines that say that it answers; `tell` does not."""


def load_service(text: str) -> tuple[Service, Path]:
    """The service of `file.py` (its only one) or `file.py:Class`, and the file. Raises UsageError."""
    module, path, name = load_file(text, "service")
    classes = {key: value for key, value in vars(module).items() if inspect.isclass(value)}
    found = {key: value for key, value in classes.items() if _declared(value) is not None}
    own = {key: value for key, value in found.items() if value.__module__ == module.__name__}
    chosen = choose(path, name, own or found, what="service", fix="mark a class with @service")
    return service_of(chosen), path.resolve()


def check_bindings(declared: Service, given: Mapping[str, Any]) -> None:
    """Raises UsageError if `setup` lacks a parameter that is given, or needs one that is not."""
    parameters = declared.setup_parameters()
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in given if name not in parameters]
    if unknown and not open_ended:
        meant = did_you_mean(unknown[0], parameters)
        raise UsageError(
            f"{declared.name}.setup takes no {unknown[0]!r}",
            fix=f"{meant}it takes: {', '.join(parameters)}" if parameters else "it takes no parameters",
        )
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in plain and parameter.default is parameter.empty and name not in given
    ]
    if missing:
        kind = kind_shown(annotations_of(getattr(declared.made_by, SETUP)).get(missing[0], Any))
        either = "a registered model or a value" if kind in ("VALUE", "JSON") else "a value"
        raise UsageError(
            f"{declared.name}.setup needs {', '.join(missing)}",
            fix=f"give {either}: --with {missing[0]}={'flights@champion' if kind in ('VALUE', 'JSON') else kind}",
        )


def setup_arguments(project: Project, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `setup`: a registered model for each `VersionQuery`, other values as they are. Raises as `load_model`."""
    return {
        name: load_version(project, find(registry_of(project), value))
        if isinstance(value, VersionQuery)
        else value
        for name, value in given.items()
    }


def shown_values(given: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of `setup` for listings: the name of a model, other values shortened."""
    return {
        name: str(value) if isinstance(value, VersionQuery) else short_repr(value)
        for name, value in given.items()
    }


def pinned(project: Project, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `setup` with the numbers of the versions that aliases name now. Raises as `find`."""
    made = dict(given)
    for name, value in given.items():
        if isinstance(value, VersionQuery):
            found = find(registry_of(project), value)
            made[name] = VersionQuery(name=found.name, number=found.number)
    return made


def version_label(given: Mapping[str, Any]) -> str:
    """The registered models of these arguments: `model=flights:3`; empty without one."""
    models = {name: value for name, value in sorted(given.items()) if isinstance(value, VersionQuery)}
    return ", ".join(f"{name}={value}" for name, value in models.items())


def api_keys(declared: Service, project: Project) -> tuple[ApiKey, ...]:
    """The keys of a service's clients in `hooke.toml`. Raises UsageError for a file that holds no token or can be read by everybody, and ConfigError for two equal tokens."""
    settings = project.settings.services.get(declared.name)
    found: dict[str, ApiKey] = {}
    for client, given in sorted(settings.keys.items() if settings is not None else ()):
        token = read_token(project.root / given.file)
        if token in found:
            raise ConfigError(
                f"{project.root / FILE}: services.{declared.name}.keys.{client} has the token of {found[token].client}",
                fix="give each client a token of its own",
            )
        if given.tokens_per_minute is not None and declared.protocol is None:
            raise ConfigError(
                f"{project.root / FILE}: services.{declared.name}.keys.{client} has tokens_per_minute, and only language models count tokens",
                fix='write rate = 50, in requests a second; tokens_per_minute goes with @service(protocol="openai")',
            )
        found[token] = ApiKey(
            client=client,
            token=token,
            rate=given.rate,
            tokens_per_minute=given.tokens_per_minute,
            low=given.priority == "low",
        )
    if len(found) > MOST_KEYS:
        raise ConfigError(
            f"{project.root / FILE}: services.{declared.name} has {len(found)} keys",
            fix=f"at most {MOST_KEYS}",
        )
    return tuple(found.values())


def key_files(declared: Service, project: Project) -> list[Path]:
    """The files of the tokens of a service's clients."""
    settings = project.settings.services.get(declared.name)
    return (
        [(project.root / one.file).resolve() for one in settings.keys.values()]
        if settings is not None
        else []
    )


def body_room(declared: Service, project: Project, *, memory_bytes: int | None = None, among: int = 1) -> int:
    """Bytes of request bodies that a replica holds at once: from `hooke.toml`, or else from its memory. Raises ConfigError."""
    settings = project.settings.services.get(declared.name)
    if settings is None or settings.body_memory is None:
        return body_memory_bytes(memory_bytes=memory_bytes, among=among)
    if settings.body_memory < BODY_LIMIT:
        raise ConfigError(
            f"{project.root / FILE}: services.{declared.name}.body_memory = {format_bytes(settings.body_memory)}"
            " is smaller than one body",
            fix=f"give at least {format_bytes(BODY_LIMIT)}, the largest body, or leave it out",
        )
    return settings.body_memory


@contextmanager
def serve_extra() -> Iterator[None]:
    """For the imports of the extra `serve`. Raises MissingExtra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "hooke":
            raise
        raise MissingExtra(
            f"a service needs {error.name}, which is not installed", fix=install_command("serve")
        ) from error


def _tell_unused(declared: Service, project: Project, tell: Callable[[str], None]) -> None:
    """Say which keys of hooke.toml only the proxy of several replicas heeds."""
    settings, default = project.settings.services.get(declared.name) or ServiceSettings(), ServiceSettings()
    keys = ("rate_limit", "access_log", "proxy_threads", "retry_body")
    if unused := [key for key in keys if getattr(settings, key) != getattr(default, key)]:
        tell(
            f"{project.root / FILE}: [services.{declared.name}] {', '.join(unused)}: not used, since one process has no proxy;"
            " --replicas 1 starts it behind one"
        )


def _replica(
    declared: Service, project: Project, bind_config: BindConfig, token_file: Path | None
) -> Replica:
    token = None if token_file is None else read_token(token_file)
    auth = dataclasses.replace(bind_config.make_auth(token), keys=api_keys(declared, project))
    replica = Replica(declared, auth=auth, body_room=body_room(declared, project))
    replica.scheme = "https" if bind_config.tls else "http"
    return replica


def serve_here(  # noqa: PLR0913 - the service, its project and its listeners, each by name
    declared: Service,
    project: Project,
    given: Mapping[str, Any],
    *,
    bind_config: BindConfig,
    tell: Callable[[str], None],
    entry: str = "",
    handed: InheritedSocket | None = None,
    observe: ObserveOptions | None = None,
) -> ServeOutcome:
    """Serve until SIGTERM or Ctrl-C, then drain. `tell` gets a line when the service listens, and some when it answers.

    On an inherited socket (`handed`) it accepts nothing before it is set up. The run's journal records what it did; `entry` is what the run says it serves.
    Raises UsageError if the port is taken or `bind_config` is not safe, MissingExtra, and what loading a model or `setup` raises.
    """
    check_bindings(declared, given)
    bind_config.check()
    with serve_extra():
        from hooke.serving.server.serve import bind, serve
    token_file = token_file_of(declared, project, bind_config)
    replica = _replica(declared, project, bind_config, token_file)
    listening = bind(bind_config.port, bind_config.host) if handed is None else handed.listening
    loaded = _observed(replica, project, given, observe or ObserveOptions())
    address = bind_config.url(listening.getsockname()[1])
    lines = _lines(declared, curl_example(declared, bind_config, token_file, address), docs_line(address))
    _tell_unused(declared, project, tell)
    if handed is None:
        tell(f"{declared.name} is being set up, on {address}")

    def ready() -> None:
        if handed is not None:
            handed.ready(lines)
            return
        for line in lines:
            tell(line)

    about = ServiceRun(project, declared, entry=entry, shown=shown_values(given))
    with about as run, recorded(run, replica, url=address, target=entry):
        cut = serve(
            replica,
            partial(setup_arguments, project, loaded),
            listening,
            ready=ready,
            tls=bind_config.tls,
            windows=run.window,
            say=run.say,
            unseen=handed is not None,
        )
    tally = replica.tally
    return ServeOutcome(run=run.id, answered=replica.asked, cut=cut, batches=tally.batches, rows=tally.rows)


def _observed(
    replica: Replica, project: Project, given: Mapping[str, Any], observe: ObserveOptions
) -> Mapping[str, Any]:
    """Have it tell of its requests; returns the arguments of `setup`, of the version that it tells."""
    if observe.log is None and not observe.trace:
        return given
    loaded = pinned(project, given)
    replica.observer = make_observer(replica.declared, observe, version=version_label(loaded))
    return loaded


def _lines(declared: Service, ask: str, docs: str) -> tuple[str, ...]:
    """The lines that say that it answers; this process takes its share of the machine."""
    share = apply_share(declared)
    told = (f"{declared.name} answers: {answered_paths(declared)}; Ctrl-C drains and ends it", ask, docs)
    if not declared.replicas[0]:
        told = (
            *told,
            f"replicas={declared.replicas}: one process serves here, and it does not scale to zero",
        )
    return (*told, share) if share else told


def _declared(value: type) -> Service | None:
    try:
        return service_of(value)
    except UsageError:
        return None
