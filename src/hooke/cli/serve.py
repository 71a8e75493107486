"""`hooke serve`: a service of a file, answering on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hooke.base.errors import UsageError
from hooke.cli.conversion import convert
from hooke.cli.exposure import exposure_options
from hooke.cli.options import debug_option
from hooke.cli.screens import Session, command
from hooke.cli.several import keep_several, several_options, wish_of
from hooke.models.names import parse_wanted
from hooke.project.folder import Project
from hooke.project.serving import load_service, serve_here
from hooke.serving.contexts import RequestIds
from hooke.serving.exposure import Exposure
from hooke.serving.service import SETUP, Service

__all__ = ["serve"]

_PLAIN = (str, int, float, bool, Path, type(None), list, tuple, dict, set, frozenset)
"""Kinds of parameters that take a value from the command line; any other takes a registered model."""


@click.command()
@click.argument("target", metavar="FILE.py[:CLASS]")
@exposure_options
@click.option(
    "--with",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="What setup takes: a registered model (flights@champion, flights:3), or a plain value where it is annotated as one.",
)
@several_options
@debug_option
@click.pass_obj
def serve(
    session: Session, *, target: str, exposure: Exposure, given: tuple[str, ...], several: dict[str, Any]
) -> int:
    """Serve the class of FILE.py (its only service), or the named one, on this machine.

    POST /METHOD takes a JSON object of the method's parameters; GET /-/health and /-/ready say how it is. Ctrl-C or SIGTERM
    drains: what was asked is answered, nothing new is taken. Who asks shows the token that is in the file
    which is named when it answers; another machine can ask only with TLS.
    Exit codes: 0 drained, 1 setup failed or requests were cut, 2 wrong usage.
    """
    logged = logging.StreamHandler()
    logged.addFilter(RequestIds())
    form = "%(asctime)s %(levelname)s [%(request_id)s] %(message)s"
    logging.basicConfig(format=form, level=logging.WARNING, handlers=[logged])
    with contextlib.redirect_stdout(sys.stderr):
        declared, path = load_service(target)
    session.project = project = Project.find(path)
    bound = _bound(declared, given)
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
    if done.batches and declared.max_batch:
        from hooke.project.service_report import law_lines, read_service  # SciPy takes half a second

        for line in law_lines(read_service(project.runs.folder(done.run)), lacking=False):
            click.echo(line, err=True)
    click.echo(f"next: {command(f'hooke show {done.run}', project)}", err=True)
    return 1 if done.cut else 0


def _bound(declared: Service, given: Sequence[str]) -> dict[str, Any]:
    """The values of `--with`. Raises UsageError naming the one that is wrong."""
    kinds = _kinds(declared)
    bound: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(
                f"--with {text}: there is no NAME=VALUE in it", mend="write --with model=flights@champion"
            )
        if name in bound:
            raise UsageError(f"--with {name}= is given twice", mend=f"give one of: {shlex.join(given)}")
        kind = kinds.get(name, object)
        bound[name] = convert(value, kind, name=f"--with {name}") if _is_plain(kind) else parse_wanted(value)
    return bound


def _kinds(declared: Service) -> dict[str, Any]:
    function = getattr(declared.made_by, SETUP, None)
    if function is None:
        return {}
    try:
        return typing.get_type_hints(function)
    except NameError:
        # `model: Model` may name what is imported for checkers only; then all that is no builtin is a model.
        return {name: _builtin(kind) for name, kind in function.__annotations__.items()}


def _builtin(kind: Any) -> Any:
    return {"str": str, "int": int, "float": float, "bool": bool}.get(kind, object)


def _is_plain(kind: Any) -> bool:
    parts = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, type(int | None)):
        return all(map(_is_plain, parts))
    return (origin or kind) in _PLAIN
