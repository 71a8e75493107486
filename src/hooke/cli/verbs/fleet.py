"""`hooke fleet`: the machines of a project's fleets, and why a run or a fleet has as many workers as it has."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import format_seconds
from hooke.base.units import parse_seconds
from hooke.certificates.admission import Address
from hooke.certificates.keys import CertificateFacts
from hooke.certificates.tokens import Token
from hooke.cli.groups import Commands
from hooke.cli.options import in_project, json_option, the_project
from hooke.cli.screens import EXIT_FAILED, CommandSession, command
from hooke.fleets.fleet_folder import FleetFolder, find_fleet, fleets_of, line_of, settle
from hooke.fleets.keeper import FleetKeeper, records_of
from hooke.fleets.membership import (
    join_fleet,
    keep,
    keys_of,
    let_in,
    machine_name,
    make_authority,
    make_token,
    renew_keys,
)
from hooke.journal.fleet_events import FleetDecided, LedgerRecord
from hooke.journal.run_table import aligned, moment
from hooke.providers.provider import Machine

__all__ = ["VERBS", "fleet"]


# --- `hooke fleet ca`, `token`, `admit`, `join`, `renew` and `exec`: machines that trust one another, and nobody else.

_machine_name = click.argument("name")


@click.command()
@_machine_name
@click.option(
    "--valid", default="365d", show_default=True, metavar="TIME", help="How long the fleet may last."
)
@in_project
@click.pass_obj
def ca(session: CommandSession, *, name: str, valid: str, project: Path | None) -> int:
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
@_machine_name
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
def token(session: CommandSession, *, name: str, valid: str, certificate: str, project: Path | None) -> int:
    """Print a token that lets one machine into the fleet NAME, once. Carry it there as you would a password."""
    where = the_project(session, project)
    open_s, valid_s = _span("--valid", valid), _span("--certificate", certificate)
    made = make_token(where, name, open_s=open_s, valid_s=valid_s)
    click.echo(made.text)
    click.echo(f"for one machine, within {format_seconds(open_s)}", err=True)
    _next(f"hooke fleet admit {name} --listen ADDRESS:8788", session)
    return 0


@click.command()
@_machine_name
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
def admit(session: CommandSession, *, name: str, listen: str, stay: str | None, project: Path | None) -> int:
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
    session: CommandSession,
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
@_machine_name
@in_project
@click.pass_obj
def renew(session: CommandSession, *, name: str, project: Path | None) -> int:
    """Renew this machine's certificate of the fleet NAME.

    The one that it has must still be good, and the authority listen (`hooke fleet admit --for`).
    """
    facts = renew_keys(keys_of(the_project(session, project), name))
    click.echo(f"the certificate of {facts.machine} is renewed, {_until(facts)}", err=True)
    return 0


@click.command(name="exec")
@in_project
@_machine_name
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND ...")
@click.pass_obj
def execute(session: CommandSession, *, name: str, words: tuple[str, ...], project: Path | None) -> int:
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
        raise UsageError(f"{option} {text!r} is too short", fix=f"{option} 10m")
    return seconds


def _until(facts: CertificateFacts) -> str:
    return f"good until {time.strftime('%Y-%m-%d %H:%M', time.localtime(facts.until))}"


def _next(text: str, session: CommandSession) -> None:
    click.echo(f"next: {command(text, session.project)}", err=True)


COLUMNS = ("fleet", "machine", "state", "age", "$/h")
PATIENCE = "10m"
"""Long enough for what runs on most machines to finish; `--wait` says otherwise."""

_name = click.argument("name", required=False, default="")
_wait = click.option(
    "--wait",
    "wait",
    default=PATIENCE,
    show_default=True,
    metavar="TIME",
    help="How long to see it through; the fleet keeps what was asked for after that, too.",
)


@click.group(cls=Commands)
def fleet() -> None:
    """Machines that cost as long as they live: those of [fleets.NAME] in hooke.toml; and who takes part in a fleet, by certificates."""


for _verb in VERBS:
    fleet.add_command(_verb)


@fleet.command()
@_name
@json_option
@in_project
@click.pass_obj
def ls(session: CommandSession, *, name: str, as_json: bool, project: Path | None) -> int:
    """List the machines of the fleet NAME (by default of all), as their provider has them now.

    What bears a fleet's tag and is in no ledger is listed as a stranger: `hooke fleet reap` ends it.
    """
    where = the_project(session, project)
    chosen = [find_fleet(where, name)] if name or not fleets_of(where) else fleets_of(where)
    rows = [row for each in chosen for row in _machines(each)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return 0
    lines = aligned(COLUMNS, [tuple(_cell(key, row) for key in COLUMNS) for row in rows], right=range(3, 5))
    click.echo("\n".join(lines) if rows else f"no machine of {', '.join(each.name for each in chosen)}")
    costs = sum(row["$/h"] for row in rows)
    if costs:
        click.echo(f"together ${costs:.4g}/h")
    return 0


@fleet.command()
@click.argument("words", nargs=-1, required=True, metavar="[NAME] N")
@_wait
@click.option("--keep", is_flag=True, help="Stay, and replace what dies, until Ctrl-C.")
@json_option
@in_project
@click.pass_obj
def scale(
    session: CommandSession,
    *,
    words: tuple[str, ...],
    wait: str,
    keep: bool,
    as_json: bool,
    project: Path | None,
) -> int:
    """Have N machines in the fleet NAME (by default the only one).

    Those too many finish what they do, and end. The command waits until it is so; machines go on without it, and are not
    replaced then: --keep does that.
    """
    if len(words) > 2 or not words[-1].isdecimal():
        raise UsageError(f"{' '.join(words)!r} is no fleet and number", fix="hooke fleet scale NAME 3")
    machines = int(words[-1])
    where = the_project(session, project)
    chosen = find_fleet(where, words[0] if len(words) == 2 else "")
    most = chosen.caps.most(chosen.settings.usd_per_hour)
    if machines > most:
        raise UsageError(
            f"{machines} machines are more than the {most} that the fleet {chosen.name} may have",
            fix=f"raise machines or max_usd_per_hour in hooke.toml under [fleets.{chosen.name}]",
        )
    return _do(
        chosen, lambda keeper: keeper.want(machines, "hooke fleet scale"), wait, as_json=as_json, keep=keep
    )


@fleet.command()
@_name
@_wait
@json_option
@in_project
@click.pass_obj
def drain(session: CommandSession, *, name: str, wait: str, as_json: bool, project: Path | None) -> int:
    """Have every machine of the fleet NAME finish what it does, and end."""
    chosen = find_fleet(the_project(session, project), name)
    return _do(chosen, lambda keeper: keeper.want(0, "hooke fleet drain"), wait, as_json=as_json)


@fleet.command()
@_name
@_wait
@json_option
@in_project
@click.pass_obj
def down(session: CommandSession, *, name: str, wait: str, as_json: bool, project: Path | None) -> int:
    """End every machine of the fleet NAME now, whatever it does."""
    chosen = find_fleet(the_project(session, project), name)
    return _do(chosen, lambda keeper: keeper.down("hooke fleet down"), wait, as_json=as_json)


@fleet.command()
@_wait
@json_option
@in_project
@click.pass_obj
def reap(session: CommandSession, *, wait: str, as_json: bool, project: Path | None) -> int:
    """End what no fleet of the project wants, and say what is left and costs.

    Every fleet is compared with what its provider lists, also one that hooke.toml has forgotten: what is wanted stays,
    the rest is ended. Exit code 0 means that nothing else is left.
    """
    where = the_project(session, project)
    fleets = fleets_of(where)
    failed = False
    for each in fleets:
        forgotten = each.name not in where.settings.fleets
        ask: Callable[[FleetKeeper], None] = _end_forgotten if forgotten else FleetKeeper.freeze
        try:
            _do(each, ask, wait, as_json=as_json, quiet=True)
        except HookeError as error:  # the others cost, too
            click.echo(f"{each.name}: {error}", err=True)
            failed = True
    left = [row for each in fleets for row in _machines(each)]
    if as_json:
        click.echo(json.dumps(left, indent=2))
    else:
        click.echo(
            "\n".join(f"{row['fleet']}: {row['machine']} is wanted, and stays" for row in left)
            or "nothing is left"
        )
    return EXIT_FAILED if failed or any(row["state"] == "stranger" for row in left) else 0


@fleet.command()
@click.argument("name", required=False, default="", metavar="[RUN|NAME]")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw a run's workers against what could have used them: .svg or .png.",
)
@json_option
@in_project
@click.pass_obj
def why(session: CommandSession, *, name: str, save: Path | None, as_json: bool, project: Path | None) -> int:
    """Say why RUN (by default the last one) has had so many workers, or the fleet NAME its machines."""
    where = the_project(session, project)
    known = {each.name: each for each in fleets_of(where)}
    records: list[FleetDecided] | list[LedgerRecord]
    if name in known:
        records = records_of(known[name].path)
        lines = [f"{moment(each.at)}  {line_of(each)}" for each in records]
        nothing = f"nothing was ever asked of the fleet {name}"
    else:
        run = where.runs.find(name)
        events = where.runs.events(run)
        records = [event for event in events if isinstance(event, FleetDecided)]
        if save is not None:
            from hooke.fleets.elastic import save_fleet  # NumPy and the charts

            save_fleet(events, save)
        lines = [f"{moment(each.at)}  {each.reason}" for each in records]
        nothing = f"run {run} kept the workers that it began with: no other number was decided"
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(records), indent=2))
        return 0
    click.echo("\n".join(lines) or nothing)
    if not lines and name not in known:
        click.echo(f"next: {command('hooke run FILE.py --workers 1-8', where)}", err=True)
    return 0


def _do(
    chosen: FleetFolder,
    ask: Callable[[FleetKeeper], None],
    wait: str,
    *,
    as_json: bool,
    keep: bool = False,
    quiet: bool = False,
) -> int:
    patience_s = parse_seconds(wait)
    with chosen.kept(lambda record: click.echo(f"{chosen.name}: {line_of(record)}", err=True)) as keeper:
        try:
            ask(keeper)
            settle(keeper, patience_s=patience_s, logs=chosen.path / "logs")
            while keep:
                time.sleep(max(keeper.turn(), 0.02))
        except KeyboardInterrupt:
            click.echo(f"{chosen.name}: what there is stays, and costs: `hooke fleet ls` has it", err=True)
            raise
        wanted = keeper.fleet.wanted
    if as_json and not quiet:
        click.echo(json.dumps({"fleet": chosen.name, "machines": wanted}))
    elif not quiet:
        click.echo(f"{chosen.name}: {wanted} machine{'s' * (wanted != 1)}")
    return 0


def _end_forgotten(keeper: FleetKeeper) -> None:
    keeper.down("hooke fleet reap")


def _machines(chosen: FleetFolder) -> list[dict[str, Any]]:
    records = records_of(chosen.path)
    # Of a launch whose answer was lost the token alone is known.
    known = {name for each in records for key in ("machine", "token") if (name := getattr(each, key, ""))}
    provider = chosen.provider()
    return [
        {
            "fleet": chosen.name,
            "machine": machine.id,
            "state": machine.phase if known & {machine.id, machine.token} else "stranger",
            "age": _age(machine),
            "$/h": provider.facts.usd_per_hour,
        }
        for machine in provider.list()
    ]


def _age(machine: Machine) -> float | None:
    return max(time.time() - machine.started_at, 0.0) if machine.started_at else None


def _cell(key: str, row: dict[str, Any]) -> str:
    value = row[key]
    if key == "age":
        return format_seconds(value) if value is not None else ""
    return f"{value:.4g}" if key == "$/h" else str(value)
