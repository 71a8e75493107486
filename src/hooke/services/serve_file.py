"""A service of a file, with what its `setup` takes, served from this process."""

from __future__ import annotations

import inspect
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hooke.base.errors import ConfigError, MissingExtra, UsageError
from hooke.base.formats import format_bytes, short_repr
from hooke.models.registry_protocol import VersionQuery, find
from hooke.project.folder import Project
from hooke.project.loading import choose, load_file
from hooke.project.settings import FILE
from hooke.registry.loaded_models import load_version
from hooke.registry.project_registry import registry_of
from hooke.services.service_runs import ServiceRun
from hooke.services.shares import apply_share
from hooke.services.single_process import recorded
from hooke.serving.auth import ensure_token, read_token
from hooke.serving.bind_config import BindConfig
from hooke.serving.limits import BODY_LIMIT, body_memory_bytes
from hooke.serving.replica import Replica
from hooke.serving.service import Service, service_of
from hooke.serving.uvicorn.compat import check_uvicorn

__all__ = [
    "InheritedSocket",
    "ServeOutcome",
    "body_room",
    "check_bindings",
    "curl_example",
    "load_service",
    "serve_extra",
    "serve_here",
    "setup_arguments",
    "shown_values",
    "token_file_of",
]


# --- How a service is asked: the file of its token, and a line for the shell.


def token_file_of(declared: Service, project: Project, bind_config: BindConfig) -> Path | None:
    """The file of the token that is asked for, made where there is none; None where no token is. Raises as `kept_token`."""
    if not bind_config.auth:
        return None
    if bind_config.token_file is not None:
        return bind_config.token_file
    path = project.create() / "services" / declared.name / "token"
    ensure_token(path)
    return path


def curl_example(declared: Service, bind_config: BindConfig, token_file: Path | None, address: str) -> str:
    """A line that asks it, to be pasted into a shell."""
    name, function = next(iter(declared.methods().items()))
    fields = ", ".join(f'"{field}": ...' for field in list(inspect.signature(function).parameters)[1:])
    words = ["curl"]
    if bind_config.tls is not None:
        words.append(f"--cacert {shlex.quote(_short(bind_config.tls.cert))}")
    if token_file is not None:
        words.append(f'-H "Authorization: Bearer $(cat {shlex.quote(_short(token_file))})"')
    words.append(f"-H content-type:application/json -d '{{{fields}}}' {address}/{name}")
    warned = (
        "" if token_file is not None else "--no-auth: whatever program of this machine asks is answered; "
    )
    return f"{warned}ask: {' '.join(words)}"


def _short(path: Path) -> str:
    """Seen from the working directory, where it is below that."""
    seen = os.path.relpath(path)
    return str(path) if seen.startswith("..") else seen


@dataclass(frozen=True, slots=True)
class ServeOutcome:
    """What ended: its run, how many requests were answered, how many were cut, and what the model did."""

    run: str
    answered: int
    cut: int
    batches: int
    rows: int


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A socket that another process holds, too, and on which others may answer until this one is set up."""

    listening: socket.socket
    ready: Callable[[tuple[str, ...]], None]
    """Gets the lines that say that it answers, in place of `tell`."""


def load_service(text: str) -> tuple[Service, Path]:
    """The service of `file.py` (its only one) or `file.py:Class`, and the file. Raises UsageError."""
    module, path, name = load_file(text, "service")
    classes = {key: value for key, value in vars(module).items() if inspect.isclass(value)}
    found = {key: value for key, value in classes.items() if _declared(value) is not None}
    own = {key: value for key, value in found.items() if value.__module__ == module.__name__}
    chosen = choose(path, name, own or found, what="service", fix="mark a class with @service")
    return service_of(chosen), path.resolve()


def check_bindings(declared: Service, given: Mapping[str, Any]) -> None:
    """Raises UsageError where `setup` takes another, or more, than what is given."""
    parameters = declared.setup_parameters()
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in given if name not in parameters]
    if unknown and not open_ended:
        near = get_close_matches(unknown[0], parameters, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"{declared.name}.setup takes no {unknown[0]!r}",
            fix=f"{meant}it takes: {', '.join(parameters) or 'nothing'}",
        )
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in plain and parameter.default is parameter.empty and name not in given
    ]
    if missing:
        raise UsageError(
            f"{declared.name}.setup needs {', '.join(missing)}",
            fix=f"give a registered model or a value: --with {missing[0]}=flights@champion",
        )


def setup_arguments(project: Project, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `setup` is called with: a registered model for each `Wanted`, other values as they are. Raises as `load_model`."""
    return {
        name: load_version(project, find(registry_of(project), value))
        if isinstance(value, VersionQuery)
        else value
        for name, value in given.items()
    }


def shown_values(given: Mapping[str, Any]) -> dict[str, str]:
    """What `setup` takes as it stands in listings: a model as it was asked for, other values in short."""
    return {
        name: str(value) if isinstance(value, VersionQuery) else short_repr(value)
        for name, value in given.items()
    }


def body_room(declared: Service, project: Project, *, memory_bytes: int | None = None, among: int = 1) -> int:
    """Bytes of bodies that a replica takes in at once: as `hooke.toml` says, else by what memory it may have. Raises ConfigError."""
    settings = project.settings.services.get(declared.name)
    if settings is None or settings.body_memory is None:
        return body_memory_bytes(memory_bytes=memory_bytes, among=among)
    if settings.body_memory < BODY_LIMIT:
        raise ConfigError(
            f"{project.root / FILE}: services.{declared.name}.body_memory = {format_bytes(settings.body_memory)}"
            " has no room for one body",
            fix=f"a body may have {format_bytes(BODY_LIMIT)}: give at least that, or leave it out",
        )
    return settings.body_memory


@contextmanager
def serve_extra() -> Iterator[None]:
    """Around the imports of what the extra `serve` brings. Raises MissingExtra, and HookeError for a uvicorn that is another inside."""
    try:
        import_module("uvicorn")
        check_uvicorn()
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "hooke":
            raise
        raise MissingExtra(
            f"a service needs {error.name}, which is not installed", fix='pip install "hooke[serve]"'
        ) from error


def serve_here(  # noqa: PLR0913 - what is served and by whom, each by name
    declared: Service,
    project: Project,
    given: Mapping[str, Any],
    *,
    bind_config: BindConfig,
    tell: Callable[[str], None],
    entry: str = "",
    handed: InheritedSocket | None = None,
) -> ServeOutcome:
    """Serve until SIGTERM or Ctrl-C, and drain. `tell` gets a line when it listens, and two when it answers.

    On a socket that is `handed` over it takes nothing before it is set up.

    What it did is journalled, as a run that says that it serves `entry`.
    Raises UsageError where the port is taken or `exposure` would let strangers in, MissingExtra, and what reading a model or `setup` raises.
    """
    check_bindings(declared, given)
    bind_config.check()
    with serve_extra():
        from hooke.serving.uvicorn.server import bind, serve
    token_file = token_file_of(declared, project, bind_config)
    token = None if token_file is None else read_token(token_file)
    replica = Replica(declared, auth=bind_config.make_auth(token), body_room=body_room(declared, project))
    listening = bind(bind_config.port, bind_config.host) if handed is None else handed.listening
    port = listening.getsockname()[1]
    address = bind_config.url(port)
    lines = _lines(declared, curl_example(declared, bind_config, token_file, address))
    if handed is None:
        tell(f"{declared.name} is being set up, on {address}")

    def ready() -> None:
        if handed is not None:
            handed.ready(lines)
            return
        for line in lines:
            tell(line)

    with (
        ServiceRun(project, declared, entry=entry, shown=shown_values(given)) as run,
        recorded(run, replica, url=address, target=entry),
    ):
        cut = serve(
            replica,
            partial(setup_arguments, project, given),
            listening,
            ready=ready,
            tls=bind_config.tls,
            windows=run.window,
            say=run.say,
            unseen=handed is not None,
        )
    tally = replica.tally
    return ServeOutcome(
        run=run.id, answered=replica.answered, cut=cut, batches=tally.batches, rows=tally.rows
    )


def _lines(declared: Service, ask: str) -> tuple[str, ...]:
    """What is said when it answers, once this process has taken its share of the machine."""
    paths = ", ".join(f"POST /{name}" for name in declared.methods())
    share = apply_share(declared)
    told = (f"{declared.name} answers: {paths}; Ctrl-C drains and ends it", ask)
    return (*told, share) if share else told


def _declared(value: type) -> Service | None:
    try:
        return service_of(value)
    except UsageError:
        return None
