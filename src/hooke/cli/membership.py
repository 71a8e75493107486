"""`hooke fleet ca`, `token`, `admit`, `join`, `renew` and `exec`: machines that trust one another, and nobody else."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import IO

import click

from hooke.base.errors import UsageError
from hooke.base.units import format_seconds, parse_seconds
from hooke.certificates.address import Address
from hooke.certificates.keys import Facts
from hooke.certificates.tokens import Token
from hooke.cli.options import in_project, the_project
from hooke.cli.screens import EXIT_FAILED, Session, command
from hooke.project.certified import keep
from hooke.project.membership import (
    join_fleet,
    keys_of,
    let_in,
    machine_name,
    make_authority,
    make_token,
    renew_keys,
)

__all__ = ["VERBS"]

_name = click.argument("name")


@click.command()
@_name
@click.option(
    "--valid", default="365d", show_default=True, metavar="TIME", help="How long the fleet may last."
)
@in_project
@click.pass_obj
def ca(session: Session, *, name: str, valid: str, project: Path | None) -> int:
    """Make the certificate authority of the fleet NAME.

    It is on this machine, which gets a certificate as well. The key stays here, for you alone to read. Whoever has a certificate can run code on all machines of the fleet.
    """
    where = the_project(session, project)
    keys = make_authority(where, name, valid_s=_span("--valid", valid))
    click.echo(f"the fleet {name} has an authority, {_until(keys.facts())}", err=True)
    click.echo(f"  keys: {keys.folder}", err=True)
    _next(f"hooke fleet token {name}", session)
    return 0


@click.command()
@_name
@click.option("--valid", default="10m", show_default=True, metavar="TIME", help="How long it can be used.")
@click.option(
    "--certificate",
    default="24h",
    show_default=True,
    metavar="TIME",
    help="How long the certificate is good that it brings.",
)
@in_project
@click.pass_obj
def token(session: Session, *, name: str, valid: str, certificate: str, project: Path | None) -> int:
    """Print a token that lets one machine into the fleet NAME, once. Carry it there as you would a password."""
    where = the_project(session, project)
    open_s, valid_s = _span("--valid", valid), _span("--certificate", certificate)
    made = make_token(where, name, open_s=open_s, valid_s=valid_s)
    click.echo(made.text)
    click.echo(f"for one machine, within {format_seconds(open_s)}", err=True)
    _next(f"hooke fleet admit {name} --listen ADDRESS:8788", session)
    return 0


@click.command()
@_name
@click.option(
    "--listen", required=True, metavar="HOST:PORT", help="An address of this machine; port 0: a free one."
)
@click.option(
    "--for",
    "stay",
    metavar="TIME",
    help="Stay so long, and renew certificates, too. By default it ends when no token is open.",
)
@in_project
@click.pass_obj
def admit(session: Session, *, name: str, listen: str, stay: str | None, project: Path | None) -> int:
    """Let machines with a token join the fleet NAME.

    It ends when each token was used or is over. Exit codes: 0 somebody joined, or --for is over; 1 nobody came; 2 wrong usage.
    """
    where = the_project(session, project)
    address, for_s = Address.parse(listen), None if stay is None else _span("--for", stay)
    came = let_in(where, name, address, for_s=for_s, tell=lambda line: click.echo(line, err=True))
    click.echo(f"{came} machine{'s' * (came != 1)} joined {name}")
    return 0 if came or stay else EXIT_FAILED


@click.command()
@click.argument("address", metavar="HOST:PORT")
@click.option(
    "--token-file",
    type=click.File("r", encoding="ascii", errors="replace"),
    metavar="FILE",
    help="Where the token is; without it you are asked, or it is read from a pipe.",
)
@click.option("--as", "machine", metavar="MACHINE", help="The machine's name; by default its host name.")
@in_project
@click.pass_obj
def join(
    session: Session,
    *,
    address: str,
    token_file: IO[str] | None,
    machine: str | None,
    project: Path | None,
) -> int:
    """Join a fleet, whose authority lets machines in at HOST:PORT.

    The key is made here and stays here. The token is in no option, for every user of a machine can read those.
    """
    where = the_project(session, project)
    place = Address.parse(address)
    facts = join_fleet(where, place, Token.parse(_token(token_file)), machine=machine or machine_name())
    click.echo(f"{facts.machine} has joined {facts.fleet}, {_until(facts)}", err=True)
    _next(f"hooke fleet exec {facts.fleet} -- dask worker tls://SCHEDULER:8786", session)
    return 0


@click.command()
@_name
@in_project
@click.pass_obj
def renew(session: Session, *, name: str, project: Path | None) -> int:
    """Renew this machine's certificate of the fleet NAME.

    The one that it has must still be good, and the authority listen (`hooke fleet admit --for`).
    """
    facts = renew_keys(keys_of(the_project(session, project), name))
    click.echo(f"the certificate of {facts.machine} is renewed, {_until(facts)}", err=True)
    return 0


@click.command(name="exec")
@in_project
@_name
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND ...")
@click.pass_obj
def execute(session: Session, *, name: str, words: tuple[str, ...], project: Path | None) -> int:
    """Run COMMAND with this machine's keys of the fleet NAME: Dask's settings for TLS are in its environment.

    It ends with this command, and its exit code is this one's. A certificate that has had a third of its time is renewed, and a Dask scheduler
    or worker takes the new one without stopping; its pages are on 127.0.0.1. Where nobody renews it (`hooke fleet admit --for`), COMMAND
    is ended before its certificate is.
    """
    keys = keys_of(the_project(session, project), name)
    code = keep(words, keys, tell=lambda line: click.echo(line, err=True))
    return code if code >= 0 else 128 - code


VERBS = (ca, token, admit, join, renew, execute)


def _token(file: IO[str] | None) -> str:
    if file is not None:
        return str(file.read(1024))
    if sys.stdin.isatty():
        return str(click.prompt("token", hide_input=True, err=True))
    return sys.stdin.readline(1024)


def _span(option: str, text: str) -> float:
    seconds = parse_seconds(text)
    if seconds < 1:
        raise UsageError(f"{option} {text!r} is too short", mend=f"{option} 10m")
    return seconds


def _until(facts: Facts) -> str:
    return f"good until {time.strftime('%Y-%m-%d %H:%M', time.localtime(facts.until))}"


def _next(text: str, session: Session) -> None:
    click.echo(f"next: {command(text, session.project)}", err=True)
