"""`hooke serve --dev`: one replica that is set up anew when its files change."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from hooke.base.errors import UsageError
from hooke.base.processes import python_module
from hooke.cli.dev_child import Order
from hooke.cli.screens import EXIT_FAILED, Session, command
from hooke.cli.several import whole_range
from hooke.project.folder import Project
from hooke.project.loading import file_of
from hooke.project.reloading.files import Sources
from hooke.project.serving import serve_extra
from hooke.project.settings import Settings
from hooke.serving.exposure import Exposure

__all__ = ["keep_reloading"]


def keep_reloading(
    session: Session, target: str, exposure: Exposure, given: Sequence[str], several: Mapping[str, Any]
) -> int:
    """Keep a version of it until Ctrl-C; returns the exit code. Raises UsageError, MissingExtra."""
    _check(exposure, several)
    path, name = file_of(target, "service")
    file = path.resolve()
    root = Project.root_of(file)
    with serve_extra():
        from hooke.project.reloading.parent import Parent
        from hooke.serving.server import bind
    listening = bind(exposure.port, exposure.host)
    port = listening.getsockname()[1]

    def start(listens: int, tells: int) -> Sequence[str]:
        order = Order.of(f"{file}:{name}" if name else str(file), given, exposure, port=port)
        return python_module("hooke.cli.dev_child", order.handed(listens, tells, debug=session.debug))

    tell(f"{target} is being set up, on {exposure.url(port)}, and anew whenever it changes; Ctrl-C ends it")
    parent = Parent(Sources(root=root, file=file), listening, start, tell)
    well = parent.run()
    if parent.run_id:
        with contextlib.suppress(OSError):
            project = Project(root=root, settings=Settings())
            click.echo(f"next: {command(f'hooke show {parent.run_id}', project)}", err=True)
    return 0 if well else EXIT_FAILED


def tell(text: str) -> None:
    """With the time of day."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


def _check(exposure: Exposure, several: Mapping[str, Any]) -> None:
    """Raises UsageError for what is not for development."""
    if several["replicas"] is not None and whole_range(several["replicas"], name="--replicas") != (1, 1):
        raise UsageError(
            f"--dev with --replicas {several['replicas']}: one replica is set up anew, not several",
            mend="leave out --replicas, or --dev",
        )
    if several["memory"] is not None:
        raise UsageError(
            "--dev with --memory: nobody supervises what is being developed",
            mend="leave out --memory, or --dev",
        )
    exposure.check()
    if not ipaddress.ip_address(exposure.host.replace("localhost", "127.0.0.1")).is_loopback:
        raise UsageError(
            f"--dev with --host {exposure.host}: other machines could ask what is being written just now",
            mend="leave out --host, or --dev",
        )
