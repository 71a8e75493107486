"""The internals of uvicorn that `limited_connection` and `server` use: checked at the start rather than at the first request."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from hooke.base.distributions import requirements
from hooke.base.errors import HookeError

__all__ = ["PARTS", "check_uvicorn", "missing"]

_HTTP, _SERVER = "uvicorn.protocols.http.httptools_impl", "uvicorn.server"
PARTS: Mapping[tuple[str, str], tuple[str, ...]] = {
    (_HTTP, "STATUS_LINE"): (),
    (_HTTP, "HttpToolsProtocol"): (
        "_start_asgi_task", "_unsupported_upgrade_warning", "connection_lost", "connection_made", "connections", "cycle",
        "data_received", "expect_100_continue", "flow", "headers", "on_header", "on_message_complete", "on_url", "scope",
        "send_400_response", "server_state", "timeout_keep_alive_task", "transport", "url",
    ),
    (_HTTP, "RequestResponseCycle"): (
        "body", "disconnected", "flow", "keep_alive", "message_event", "more_body", "on_response", "response_complete",
        "response_started", "scope", "transport", "waiting_for_100_continue",
    ),
    ("uvicorn.protocols.http.flow_control", "FlowControl"): ("pause_reading", "resume_reading", "write_paused"),
    (_SERVER, "ServerState"): ("connections", "default_headers"),
    (_SERVER, "Server"): (
        "capture_signals", "force_exit", "handle_exit", "on_tick", "server_state", "servers", "should_exit", "shutdown", "startup",
    ),
}  # fmt: skip
"""By module and name: attributes that are read or written, methods that are called or overridden."""
TAKES = ("config", "server_state", "app_state", "_loop")
"""The constructor parameters of a protocol."""


def check_uvicorn() -> None:
    """Raises HookeError with the supported versions if this one lacks something."""
    lacking = list(missing())
    if lacking:
        wanted = _wanted()
        raise HookeError(
            f"uvicorn {_installed()} is not supported",
            why=f"it lacks {', '.join(lacking)}",
            fix=f"install another version: pip install {wanted!r}; if you have that one, please report it",
        )


def missing(parts: Mapping[tuple[str, str], tuple[str, ...]] = PARTS) -> Iterator[str]:
    """The missing parts, as `module.name.attribute`."""
    for (module, name), attributes in parts.items():
        try:
            part = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            yield f"{module}.{name}"
            continue
        yield from (f"{name}.{attribute}" for attribute in attributes if attribute not in _attributes(part))
        if name == "HttpToolsProtocol" and tuple(inspect.signature(part).parameters) != TAKES:
            yield f"{name}({', '.join(TAKES)})"


def _attributes(part: type) -> set[str]:
    """The attributes of the class, and the names in its methods: attributes of instances show up only there."""
    methods = filter(inspect.isfunction, vars(part).values())
    return {*dir(part), *(name for method in methods for name in method.__code__.co_names)}


def _installed() -> str:
    try:
        return version("uvicorn")
    except PackageNotFoundError:
        return "(of unknown version)"


def _wanted() -> str:
    asked = [one.partition(";")[0].strip() for one in requirements() if one.startswith("uvicorn")]
    return asked[0] if asked else "uvicorn"
