"""`hooke serve`: serve the class of a file on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from hooke.base.errors import UsageError
from hooke.base.units import parse_bytes, parse_seconds
from hooke.cli.options import debug_option
from hooke.cli.parameters import bindings
from hooke.cli.screens import EXIT_FAILED, CommandSession, say_next
from hooke.cli.serve.dev_process import DevChildOrder
from hooke.processes.lease import LEASE_S
from hooke.processes.start import python_module
from hooke.project.folder import Project
from hooke.project.pipeline_file import file_of
from hooke.project.settings import Settings
from hooke.services.reload.reloader import Reloader, Sources
from hooke.services.serve_file import ObserveOptions, load_service, serve_extra, serve_here
from hooke.services.supervisor.canary import CanaryRules
from hooke.services.supervisor.generation import ServiceOptions
from hooke.services.supervisor.replica_events import Rules
from hooke.serving.bind_config import BindConfig, TlsFiles
from hooke.serving.observing.request_log import STDOUT, RequestLogOptions, check_writable, parse_sample
from hooke.serving.request_context import log_with_ids
from hooke.serving.service import Service

__all__ = ["replica_range", "serve"]


# --- Options of the address, the token and TLS.

_FILE = click.Path(dir_okay=False, path_type=Path)
_BIND_OPTIONS = (
    click.option(
        "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free port."
    ),
    click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        help="The address to listen on; others than loopback need TLS and a token.",
    ),
    click.option(
        "--allow-host", "names", multiple=True, metavar="NAME", help="A host name that clients use."
    ),
    click.option(
        "--token-file",
        type=_FILE,
        metavar="FILE",
        help="The bearer token; by default a new one in the project's .hooke.",
    ),
    click.option("--no-auth", is_flag=True, help="Require no token; only on a loopback address."),
    click.option("--tls-cert", type=_FILE, metavar="FILE", help="The certificate with its chain, as PEM."),
    click.option("--tls-key", type=_FILE, metavar="FILE", help="The key of the certificate, as PEM."),
)


def bind_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that the function gets as `bind_config`. Raises UsageError for a certificate without its key."""

    @functools.wraps(function)
    def wrapped(*args: Any, **given: Any) -> Any:
        cert, key = given.pop("tls_cert"), given.pop("tls_key")
        if (cert is None) != (key is None):
            raise UsageError("--tls-cert and --tls-key go together", fix="give both, or none")
        bind_config = BindConfig(
            host=given.pop("host"),
            port=given.pop("port"),
            names=given.pop("names"),
            auth=not given.pop("no_auth"),
            token_file=given.pop("token_file"),
            tls=TlsFiles(cert=cert, key=key) if cert is not None else None,
        )
        return function(*args, bind_config=bind_config, **given)

    for option in reversed(_BIND_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


# --- Several replicas.

_REPLICA_OPTIONS = (
    click.option(
        "--replicas",
        metavar="N|LOW:HIGH",
        help="Number of processes behind Envoy; LOW:HIGH scales with the load, 0:HIGH down to none. Default: what the class declares.",
    ),
    click.option(
        "--memory", metavar="SIZE", help="Replace a replica that uses more memory than this (1GiB)."
    ),
    click.option(
        "--keep-alive",
        metavar="TIME",
        help="With a minimum of 0: end the last replica after so long without a call (10m). Default: by the gaps between calls.",
    ),
    click.option(
        "--canary",
        metavar="SHARE|off",
        help="The share of the requests that a new version gets first, until it has proved to be as good as the old one. Default: 5%.",
    ),
    click.option(
        "--mirror",
        metavar="SHARE",
        help="Instead of a canary: a new version gets copies of this share of the requests. Only where a call has no side effects.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1),
        metavar="N",
        help="Threads of the model's libraries in each replica; overrides @service(cpus=).",
    ),
    click.option("--lease", "lease_s", default=LEASE_S, type=float, hidden=True),
    click.option("--healthy", "healthy_s", default=Rules().healthy_s, type=float, hidden=True),
    click.option("--canary-limit", "limit_s", default=CanaryRules().limit_s, type=float, hidden=True),
    click.option("--poll", "poll_s", default=ServiceOptions().poll_s, type=float, hidden=True),
)


def replica_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that the function gets as `several`, for `service_options`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **given: Any) -> Any:
        kept = ("lease_s", "healthy_s", "limit_s", "poll_s")
        names = ("replicas", "memory", "keep_alive", "canary", "mirror", "threads", *kept)
        several = {name: given.pop(name) for name in names}
        return function(*args, several=several, **given)

    for option in reversed(_REPLICA_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


# --- The request log and tracing.

_OBSERVE_OPTIONS = (
    click.option(
        "--request-log",
        "request_log",
        metavar="FILE|-",
        help="Log requests as lines of JSON; - is stdout.",
    ),
    click.option(
        "--request-log-sample",
        "request_log_sample",
        metavar="SHARE",
        help="Log this share of them (1%); errors and slow ones are always logged.",
    ),
    click.option(
        "--trace",
        is_flag=True,
        help="Send spans by OpenTelemetry, to OTEL_EXPORTER_OTLP_ENDPOINT; its other OTEL_ variables hold, too.",
    ),
)


def observe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that the function gets as `observe`. Raises UsageError for a share that is none, or without a log."""

    @functools.wraps(function)
    def wrapped(*args: Any, **given: Any) -> Any:
        path, sample, trace = (given.pop(name) for name in ("request_log", "request_log_sample", "trace"))
        if sample is not None and path is None:
            raise UsageError(
                "--request-log-sample without --request-log", fix="add --request-log requests.jsonl"
            )
        log = None
        if path is not None:
            share = parse_sample(sample) if sample is not None else 1.0
            log = RequestLogOptions(path=path if path == STDOUT else os.path.abspath(path), sample=share)
        return function(*args, observe=ObserveOptions(log=log, trace=trace), **given)

    for option in reversed(_OBSERVE_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def replica_range(text: str, *, name: str) -> tuple[int, int]:
    """`3` or `1:8`. Raises UsageError."""
    low, colon, high = text.partition(":")
    bounds = (low, high if colon else low)
    numbers = [int(bound) for bound in bounds if bound.isascii() and bound.isdigit()]
    if len(numbers) < 2 or not numbers[0] <= numbers[1] or not numbers[1]:
        raise UsageError(
            f"{name} {text}: not a valid number of replicas",
            fix="write 3, or the minimum and the maximum: 1:8; 0:8 runs none while there are no calls",
        )
    return numbers[0], numbers[1]


def service_options(
    declared: Service, bind_config: BindConfig, several: Mapping[str, Any], observe: ObserveOptions
) -> ServiceOptions | None:
    """The options of a supervised service; None if one process serves without a supervisor."""
    asked, memory, keep_alive = several["replicas"], several["memory"], several["keep_alive"]
    replicas = replica_range(asked, name="--replicas") if asked is not None else declared.replicas
    if keep_alive is not None and replicas[0]:
        raise UsageError(
            f"--keep-alive {keep_alive}: at least {replicas[0]} of {declared.name}'s replicas always run",
            fix=f"add --replicas 0:{replicas[1]}, or leave out --keep-alive",
        )
    if asked is None and memory is None and replicas == (1, 1):
        said = f"a single process serves {declared.name}, and rolls nothing out"
        _refuse_trials(several, said, "add --replicas 1")
        return None
    if observe.log is not None:
        if observe.log.path == STDOUT:
            raise UsageError(
                "--request-log -: several replicas have no stdout of their own",
                fix="give a file, and follow it: --request-log requests.jsonl, tail -F requests.jsonl",
            )
        check_writable(observe.log)  # before anything starts
    return ServiceOptions(
        observe=observe,
        replicas=replicas,
        keep_alive_s=parse_seconds(keep_alive, name="--keep-alive") if keep_alive is not None else None,
        bind_config=bind_config,
        memory_bytes=parse_bytes(memory, name="--memory") if memory is not None else None,
        canary=canary_rules(several),
        lease_s=several["lease_s"],
        healthy_s=several["healthy_s"],
        poll_s=several["poll_s"],
    )


def canary_rules(several: Mapping[str, Any]) -> CanaryRules | None:
    """How a new version is tried; None if it is not. Raises UsageError."""
    canary, mirror = several["canary"], several["mirror"]
    if canary is not None and mirror is not None:
        raise UsageError(
            "--canary and --mirror exclude each other",
            fix="--canary sends requests to a new version, --mirror copies of them: choose one",
        )
    if canary == "off":
        return None
    rules = CanaryRules(limit_s=several["limit_s"])
    if mirror is not None:
        return dataclasses.replace(rules, share=_share(mirror, "--mirror", 1.0), mirror=True)
    share = rules.share if canary is None else _share(canary, "--canary", rules.most_share)
    return dataclasses.replace(rules, share=share)


def _share(text: str, name: str, most: float) -> float:
    percent = text.removesuffix("%").strip()
    share = float(percent) / 100 if percent.replace(".", "", 1).isdecimal() else 0.0
    if not text.endswith("%") or not 0.01 <= share <= most:
        off = "; off tries nothing" if name == "--canary" else ""
        raise UsageError(
            f"{name} {text}: not a valid share of the requests", fix=f"write 1% to {100 * most:g}%{off}"
        )
    return share


def _refuse_trials(several: Mapping[str, Any], why: str, fix: str) -> None:
    """Raises UsageError for options of trials where there is none."""
    for name in ("canary", "mirror"):
        if several[name] is not None:
            raise UsageError(f"--{name} {several[name]}: {why}", fix=f"{fix}, or leave out --{name}")


def show_law(declared: Service, project: Project, run: str) -> None:
    """Print the law of a service's run, if it has one."""
    if declared.max_batch:
        from hooke.services.service_report import law_lines, read_service  # SciPy takes half a second

        for line in law_lines(read_service(project.runs.folder(run)), lacking=False):
            click.echo(line, err=True)


def serve_replicas(
    declared: Service, path: Path, project: Project, bound: Mapping[str, Any], options: ServiceOptions
) -> int:
    """Run the replicas until Ctrl-C; returns the exit code."""

    def tell(line: str) -> None:
        with _unheard():
            click.echo(f"{datetime.now().astimezone():%H:%M:%S} {line}", err=True)

    with serve_extra():
        from hooke.services.supervisor.supervisor import serve_several
    done = serve_several(declared, path, project, bound, options=options, tell=tell)
    with _unheard():
        click.echo(f"ended: {done.answered} requests answered", err=True)
        if done.cut:
            click.echo(f"{done.cut} requests were cut", err=True)
        show_law(declared, project, done.run)
        say_next(f"hooke show {done.run}", project)
    return EXIT_FAILED if done.cut else 0


def _unheard() -> contextlib.suppress:
    """The terminal may be gone: replicas are kept, and drained, all the same."""
    return contextlib.suppress(OSError)


# --- `hooke serve --dev`: one process, replaced when its files change.


def serve_reloading(
    session: CommandSession,
    target: str,
    bind_config: BindConfig,
    given: Sequence[str],
    several: Mapping[str, Any],
    observe: ObserveOptions,
) -> int:
    """Serve the current version until Ctrl-C; returns the exit code. Raises UsageError, MissingExtra."""
    _check(bind_config, several)
    path, name = file_of(target, "service")
    file = path.resolve()
    root = Project.root_of(file)
    with serve_extra():
        from hooke.serving.server.serve import bind
    listening = bind(bind_config.port, bind_config.host)
    port = listening.getsockname()[1]

    def start(listens: int, tells: int) -> Sequence[str]:
        order = DevChildOrder(
            target=f"{file}:{name}" if name else str(file),
            given=tuple(given),
            bind_config=dataclasses.replace(bind_config, port=port),
            listening=listens,
            channel=tells,
            debug=session.debug,
            observe=observe,
        )
        return python_module("hooke.cli.serve.dev_process", order.argument())

    tell(
        f"{target} is being set up, on {bind_config.url(port)}, and again whenever it changes; Ctrl-C ends it"
    )
    with serve_extra():
        parent = Reloader(Sources(root=root, file=file), listening, start, tell)
    well = parent.run()
    if parent.run_id:
        with contextlib.suppress(OSError):
            project = Project(root=root, settings=Settings())
            say_next(f"hooke show {parent.run_id}", project)
    return 0 if well else EXIT_FAILED


def tell(text: str) -> None:
    """Print a line after the time of day."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


def _check(bind_config: BindConfig, several: Mapping[str, Any]) -> None:
    """Raises UsageError for options that do not fit development."""
    if several["replicas"] is not None and replica_range(several["replicas"], name="--replicas") != (1, 1):
        raise UsageError(
            f"--dev with --replicas {several['replicas']}: it runs a single process",
            fix="leave out --replicas, or --dev",
        )
    for name, given in (("--memory", several["memory"]), ("--keep-alive", several["keep_alive"])):
        if given is not None:
            raise UsageError(f"--dev with {name}: it has no supervisor", fix=f"leave out {name}, or --dev")
    _refuse_trials(several, "--dev serves a new version at once", "leave out --dev")
    bind_config.check()
    if not ipaddress.ip_address(bind_config.host.replace("localhost", "127.0.0.1")).is_loopback:
        raise UsageError(
            f"--dev with --host {bind_config.host}: other machines could reach unfinished code",
            fix="leave out --host, or --dev",
        )


class _Context(click.Context):
    @property
    def command_path(self) -> str:
        """`hooke serve`: as a command of its own group it has no further name."""
        return super().command_path.rstrip()


class _Unnamed(click.Command):
    context_class = _Context


@click.command(cls=_Unnamed)
@click.argument("target", metavar="FILE.py[:CLASS]")
@bind_options
@click.option(
    "--with",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument of setup: a registered model (flights@champion, flights:3), or a plain value if it is annotated as one. "
    "Overrides [services.CLASS.with] of hooke.toml.",
)
@replica_options
@observe_options
@click.option("--dev", is_flag=True, help="Reload when its file, an import of it or hooke.toml changes.")
@debug_option
@click.pass_obj
def serve(  # noqa: PLR0913 - the options of the command, each by name
    session: CommandSession,
    *,
    target: str,
    bind_config: BindConfig,
    given: tuple[str, ...],
    several: dict[str, Any],
    observe: ObserveOptions,
    dev: bool,
) -> int:
    """Serve the class of FILE.py (its only service), or the named one, on this machine.

    POST /METHOD takes a JSON object of the method's parameters; GET /-/health and /-/ready show the state. Clients
    send the bearer token from the file printed at startup; other machines need TLS. Ctrl-C or SIGTERM drains: open
    requests are answered, new ones are not accepted.
    Exit codes: 0 drained, 1 setup failed or requests were cut, 2 wrong usage.
    """
    if dev and several["threads"]:
        raise UsageError("--dev and --threads exclude each other", fix="declare it: @service(cpus=2)")
    if dev:
        return serve_reloading(session, target, bind_config, given, several, observe)
    log_with_ids()
    with contextlib.redirect_stdout(sys.stderr):
        declared, path = load_service(target)
    if several["threads"]:
        declared = dataclasses.replace(declared, cpus=several["threads"])
    session.project = project = Project.find(path)
    bound = bindings(declared, given, project)
    options = service_options(declared, bind_config, several, observe)
    if options is not None:
        return serve_replicas(declared, path, project, bound, options)
    done = serve_here(
        declared,
        project,
        bound,
        bind_config=bind_config,
        tell=lambda line: click.echo(line, err=True),
        entry=f"{path}:{declared.name}",
        observe=observe,
    )
    mean = f", mean batch {done.rows / done.batches:.1f} rows" if done.batches and declared.max_batch else ""
    click.echo(f"drained: {done.answered} requests answered{mean}", err=True)
    if done.cut:
        click.echo(f"{done.cut} requests were not answered in time, and were cut", err=True)
    if done.batches:
        show_law(declared, project, done.run)
    say_next(f"hooke show {done.run}", project)
    return 1 if done.cut else 0
