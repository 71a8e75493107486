"""`hooke serve`: a service of a file, answering on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from typing import Any

import click

from hooke.base.errors import UsageError
from hooke.cli.bindings import bindings
from hooke.cli.dev import keep_reloading
from hooke.cli.exposure import exposure_options
from hooke.cli.options import debug_option
from hooke.cli.screens import Session, command
from hooke.cli.several import keep_several, law_told, several_options, wish_of
from hooke.project.folder import Project
from hooke.project.serving import load_service, serve_here
from hooke.serving.contexts import log_with_ids
from hooke.serving.exposure import Exposure

__all__ = ["serve"]


class _Context(click.Context):
    @property
    def command_path(self) -> str:
        """`hooke serve`: below the group of its verbs it has no name of its own."""
        return super().command_path.rstrip()


class _Unnamed(click.Command):
    context_class = _Context


@click.command(cls=_Unnamed)
@click.argument("target", metavar="FILE.py[:CLASS]")
@exposure_options
@click.option(
    "--with",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="What setup takes: a registered model (flights@champion, flights:3), or a plain value where it is annotated as one. "
    "It goes before [services.CLASS.with] of hooke.toml.",
)
@several_options
@click.option(
    "--dev", is_flag=True, help="Set it up anew when its file, what that imports or hooke.toml changes."
)
@debug_option
@click.pass_obj
def serve(
    session: Session,
    *,
    target: str,
    exposure: Exposure,
    given: tuple[str, ...],
    several: dict[str, Any],
    dev: bool,
) -> int:
    """Serve the class of FILE.py (its only service), or the named one, on this machine.

    POST /METHOD takes a JSON object of the method's parameters; GET /-/health and /-/ready say how it is. Ctrl-C or SIGTERM
    drains: what was asked is answered, nothing new is taken. Who asks shows the token that is in the file
    which is named when it answers; another machine can ask only with TLS.
    Exit codes: 0 drained, 1 setup failed or requests were cut, 2 wrong usage.
    """
    if dev and several["threads"]:
        raise UsageError("--dev and --threads do not go together", mend="declare it: @service(cpus=2)")
    if dev:
        return keep_reloading(session, target, exposure, given, several)
    log_with_ids()
    with contextlib.redirect_stdout(sys.stderr):
        declared, path = load_service(target)
    if several["threads"]:
        declared = dataclasses.replace(declared, cpus=several["threads"])
    session.project = project = Project.find(path)
    bound = bindings(declared, given, project)
    wish = wish_of(declared, exposure, several)
    if wish is not None:
        return keep_several(declared, path, project, bound, wish)
    done = serve_here(
        declared,
        project,
        bound,
        exposure=exposure,
        tell=lambda line: click.echo(line, err=True),
        entry=f"{path}:{declared.name}",
    )
    mean = f", mean batch {done.rows / done.batches:.1f} rows" if done.batches and declared.max_batch else ""
    click.echo(f"drained: {done.answered} requests answered{mean}", err=True)
    if done.cut:
        click.echo(f"{done.cut} requests had no answer in time and were cut", err=True)
    if done.batches:
        law_told(declared, project, done.run)
    click.echo(f"next: {command(f'hooke show {done.run}', project)}", err=True)
    return 1 if done.cut else 0
