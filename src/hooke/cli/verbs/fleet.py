"""`hooke fleet`: the machines of a project's fleets, their certificates, and the reasons for a fleet's or run's size."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import aligned, did_you_mean, format_seconds
from hooke.base.units import parse_seconds
from hooke.certificates.key_files import Address, CertificateFacts
from hooke.certificates.tokens import Token
from hooke.cli.entry import Commands
from hooke.cli.options import in_project, json_option
from hooke.cli.screens import EXIT_FAILED, say_next
from hooke.cli.verbs.fleet_up import up
from hooke.fleets import membership
from hooke.fleets.fleet_folder import FleetFolder, close_provider, find_fleet, fleets_of, line_of, settle
from hooke.journal.fleet_events import FleetDecided, LedgerRecord
from hooke.journal.run_view import moment
from hooke.machines.controller import Caps
from hooke.machines.keeper import FleetKeeper, cost_usd, records_of
from hooke.machines.provider import Machine
from hooke.project.folder import Project
from hooke.project.settings import BackendSettings, FleetSettings

if TYPE_CHECKING:
    from hooke.project.price_lists import MachinePrice

__all__ = ["VERBS", "fleet"]


# -- certificates --------------------------------------------------------------------------------

_machine_name = click.argument("name")


@click.command()
@_machine_name
@click.option(
    "--valid", default="365d", show_default=True, metavar="TIME", help="How long the authority is valid."
)
@in_project
def ca(*, name: str, valid: str, project: Project) -> int:
    """Make the certificate authority of the fleet NAME.

    The authority is on this machine, which gets a certificate as well. Its key stays here, and only you can read it. Whoever has a certificate can run code on all machines of the fleet.
    """
    keys = membership.make_authority(project, name, valid_s=_span("--valid", valid))
    click.echo(f"made the authority of the fleet {name}, {_until(keys.facts())}", err=True)
    click.echo(f"  keys: {keys.folder}", err=True)
    say_next(f"hooke fleet token {name}", project)
    return 0


@click.command()
@_machine_name
@click.option(
    "--valid", default="10m", show_default=True, metavar="TIME", help="How long the token can be used."
)
@click.option(
    "--certificate",
    default="24h",
    show_default=True,
    metavar="TIME",
    help="How long the machine's certificate is valid.",
)
@in_project
def token(*, name: str, valid: str, certificate: str, project: Project) -> int:
    """Print a token that lets one machine join the fleet NAME, once. Handle it like a password."""
    open_s, valid_s = _span("--valid", valid), _span("--certificate", certificate)
    made = membership.make_token(project, name, open_s=open_s, valid_s=valid_s)
    click.echo(made.text)
    click.echo(f"valid for one machine, within {format_seconds(open_s)}", err=True)
    say_next(f"hooke fleet admit {name} --listen ADDRESS:8788", project)
    return 0


@click.command()
@_machine_name
@click.option(
    "--listen",
    required=True,
    metavar="HOST:PORT",
    help="An address of this machine; port 0 picks a free one.",
)
@click.option(
    "--for",
    "stay",
    metavar="TIME",
    help="Run this long, and also renew certificates. By default it ends when no token is open.",
)
@in_project
def admit(*, name: str, listen: str, stay: str | None, project: Project) -> int:
    """Let machines with a token join the fleet NAME.

    It ends when every token is used or expired. Exit codes: 0 a machine joined, or --for has passed; 1 no machine joined; 2 wrong usage.
    """
    address, for_s = Address.parse(listen), None if stay is None else _span("--for", stay)
    joined = membership.admit_machines(
        project, name, address, for_s=for_s, say=lambda line: click.echo(line, err=True)
    )
    click.echo(f"{joined} machine{'s' * (joined != 1)} joined {name}")
    return 0 if joined or stay else EXIT_FAILED


@click.command()
@click.argument("address", metavar="HOST:PORT")
@click.option(
    "--token-file",
    type=click.File("r", encoding="ascii", errors="replace"),
    metavar="FILE",
    help="The token's file. Without it, the token is read from the terminal or a pipe.",
)
@click.option("--as", "machine", metavar="MACHINE", help="The machine's name; by default its host name.")
@in_project
def join(*, address: str, token_file: IO[str] | None, machine: str | None, project: Project) -> int:
    """Join the fleet whose authority admits machines at HOST:PORT.

    This machine's key is made here and stays here. No option takes the token itself, since every user of a machine can read options.
    """
    place = Address.parse(address)
    facts = membership.join_fleet(
        project, place, Token.parse(_token(token_file)), machine=machine or membership.machine_name()
    )
    click.echo(f"{facts.machine} has joined {facts.fleet}, {_until(facts)}", err=True)
    say_next(f"hooke fleet exec {facts.fleet} -- dask worker tls://SCHEDULER:8786", project)
    return 0


@click.command()
@_machine_name
@in_project
def renew(*, name: str, project: Project) -> int:
    """Renew this machine's certificate for the fleet NAME.

    The current certificate must still be valid, and the authority must listen (`hooke fleet admit --for`).
    """
    facts = membership.renew_keys(membership.keys_of(project, name))
    click.echo(f"renewed the certificate of {facts.machine}, {_until(facts)}", err=True)
    return 0


@click.command(name="exec")
@in_project
@_machine_name
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND ...")
def execute(*, name: str, words: tuple[str, ...], project: Project) -> int:
    """Run COMMAND with this machine's keys for the fleet NAME, which its environment gives to Dask.

    COMMAND ends with this command, which returns its exit code. The certificate is renewed after a third of its validity, and a Dask scheduler
    or worker loads the new one without stopping. Its dashboard is on 127.0.0.1. If the certificate cannot be renewed (`hooke fleet admit
    --for`), COMMAND is ended before the certificate expires.
    """
    keys = membership.keys_of(project, name)
    code = membership.run_with_certificate(words, keys, say=lambda line: click.echo(line, err=True))
    return code if code >= 0 else 128 - code


VERBS = (ca, token, admit, join, renew, execute)


def _token(file: IO[str] | None) -> str:
    if file is not None:
        return str(file.read(1024))
    if sys.stdin.isatty():
        return str(click.prompt("token", hide_input=True, err=True))
    return sys.stdin.readline(1024)


def _span(option: str, text: str) -> float:
    seconds = parse_seconds(text, name=option)
    if seconds < 1:
        raise UsageError(f"{option} {text!r} is too short", fix=f"{option} 10m")
    return seconds


def _until(facts: CertificateFacts) -> str:
    return f"valid until {time.strftime('%Y-%m-%d %H:%M', time.localtime(facts.until))}"


COLUMNS = ("fleet", "machine", "state", "age", "$/h")
PATIENCE = "10m"
"""Long enough for most machines to finish their work; `--wait` changes it."""

_name = click.argument("name", required=False, default="")
_wait = click.option(
    "--wait",
    "wait",
    default=PATIENCE,
    show_default=True,
    metavar="TIME",
    help="How long to wait; the request stays in force after that.",
)


@click.group(cls=Commands)
def fleet() -> None:
    """Manage billable machines ([fleets.NAME] in hooke.toml) and the certificates of fleets."""


for _verb in (*VERBS, up):
    fleet.add_command(_verb)


@fleet.command()
@_name
@json_option
@in_project
def ls(*, name: str, as_json: bool, project: Project) -> int:
    """List the machines of the fleet NAME (by default of all fleets), as their provider reports them now.

    A machine with a fleet's tag that is in no ledger is listed as a stranger: `hooke fleet reap` ends it.
    """
    chosen = [find_fleet(project, name)] if name or not fleets_of(project) else fleets_of(project)
    rows = [row for each in chosen for row in _machines(each)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return 0
    lines = aligned(COLUMNS, [tuple(_cell(key, row) for key in COLUMNS) for row in rows], right=range(3, 5))
    click.echo("\n".join(lines) if rows else f"no machines in {', '.join(each.name for each in chosen)}")
    costs = sum(row["$/h"] for row in rows)
    spent = sum(cost_usd(each.records(), [(0.0, time.time())]) for each in chosen)
    if costs or spent:
        click.echo(f"total ${costs:.4g}/h, ${spent:.4g} so far")
    return 0


@fleet.command()
@click.argument("words", nargs=-1, required=True, metavar="[NAME] N")
@_wait
@click.option("--keep", is_flag=True, help="Keep running, and replace machines that die, until Ctrl-C.")
@click.option(
    "--detach", is_flag=True, help="Have a keeper in the Kubernetes cluster do that, also after this command."
)
@click.option(
    "--print", "only_print", is_flag=True, help="With --detach: only print the keeper's Deployment."
)
@json_option
@in_project
def scale(  # noqa: PLR0913 - one parameter for each option of the command
    *,
    words: tuple[str, ...],
    wait: str,
    keep: bool,
    detach: bool,
    only_print: bool,
    as_json: bool,
    project: Project,
) -> int:
    """Scale the fleet NAME (by default the only one) to N machines.

    Surplus machines finish their work and end. The command waits for that. Machines live on after the command, but only --keep
    and --detach replace those that die. The next command without --detach ends the keeper in the cluster and takes up its ledger.
    """
    if len(words) > 2 or not words[-1].isdecimal():
        raise UsageError(f"{' '.join(words)!r} is not a fleet and a number", fix="hooke fleet scale NAME 3")
    machines = int(words[-1])
    chosen = find_fleet(project, words[0] if len(words) == 2 else "")
    if machines and chosen.is_rented:
        raise UsageError(
            f"the machines of the fleet {chosen.name} join while `hooke fleet up` runs",
            fix=f"hooke fleet up {chosen.name} --machines {machines}",
        )
    most = chosen.caps.most(chosen.usd_per_hour)
    if machines > most:
        raise UsageError(
            f"the fleet {chosen.name} may have at most {most} machines, not {machines}",
            fix=f"raise machines or max_usd_per_hour in hooke.toml under [fleets.{chosen.name}]",
        )
    if only_print:
        from hooke.base.yaml_text import write_yaml

        with closing(chosen.cluster_keeper()) as keeper:
            click.echo(write_yaml(keeper.manifest(machines, chosen.caps, chosen.usd_per_hour)), nl=False)
        return 0
    if keep and detach:
        raise UsageError(
            "--keep and --detach exclude one another",
            fix="--keep has this command keep the fleet, --detach a keeper in the cluster",
        )
    _tell_price(chosen, wait)
    if detach:
        return _detach(chosen, machines, wait, as_json=as_json)
    return _do(
        chosen, lambda keeper: keeper.want(machines, "hooke fleet scale"), wait, as_json=as_json, keep=keep
    )


@fleet.command()
@_name
@_wait
@json_option
@in_project
def drain(*, name: str, wait: str, as_json: bool, project: Project) -> int:
    """Have every machine of the fleet NAME finish its work and end."""
    chosen = find_fleet(project, name)
    return _do(chosen, lambda keeper: keeper.want(0, "hooke fleet drain"), wait, as_json=as_json)


@fleet.command()
@_name
@_wait
@json_option
@in_project
def down(*, name: str, wait: str, as_json: bool, project: Project) -> int:
    """End every machine of the fleet NAME now, even a busy one. A `hooke fleet up` that keeps the fleet ends, too."""
    chosen = find_fleet(project, name)
    chosen.ask_to_stop(parse_seconds(wait, name="--wait"))
    return _do(chosen, lambda keeper: keeper.down("hooke fleet down"), wait, as_json=as_json)


@fleet.command()
@_name
@_wait
@json_option
@in_project
def reap(*, name: str, wait: str, as_json: bool, project: Project) -> int:
    """End what nobody wants any more, and show by a list that nothing of it is left.

    NAME is a fleet or a place on Kubernetes; by default all of them. A fleet is compared with its provider's list, even one that is no
    longer in hooke.toml: wanted machines stay, and the others are ended. In the namespace of a place, the pods, jobs, Secrets, Services
    and leases of drivers that are gone are removed. Whether a driver lives its lease says, which takes up to a minute. Exit code 0 means
    that nothing unwanted is left.
    """
    fleets = [each for each in fleets_of(project) if name in ("", each.name)]
    places = [each for each in _places(project) if name in ("", each)]
    if name and not fleets and not places:
        find_fleet(project, name)  # raises
    failed: list[str] = []
    left: list[dict[str, Any]] = []
    machines: list[dict[str, Any]] = []
    for place in places:
        with _going_on(place, failed):
            left += _reap_place(project, place, wait, as_json=as_json)
    for each in fleets:
        with _going_on(each.name, failed):
            _reap_fleet(project, each, wait)
        with _going_on(each.name, failed):
            machines += _machines(each)
    lines = [f"{row['fleet']}: {row['machine']} {_stays(row)}" for row in machines]
    if as_json:
        click.echo(json.dumps(left + machines, indent=2))
    elif lines or (not failed and (fleets or not places)):
        click.echo("\n".join(lines) or "no machines are left")
    return EXIT_FAILED if failed or left or any(row["state"] == "stranger" for row in machines) else 0


@contextmanager
def _going_on(name: str, failed: list[str]) -> Iterator[None]:
    """Say what fails of one place or fleet, and go on: the others cost money, too."""
    try:
        yield
    except HookeError as error:
        click.echo(f"{name}: {error}", err=True)
        failed.append(name)


def _stays(row: Mapping[str, Any]) -> str:
    return "is left, and no fleet has asked for it" if row["state"] == "stranger" else "is wanted and stays"


def _reap_fleet(project: Project, chosen: FleetFolder, wait: str) -> None:
    """End the machines of a fleet that are not wanted. A living keeper in the cluster does that itself."""
    forgotten = chosen.up_was_killed or chosen.name not in project.settings.fleets
    if not forgotten and chosen.is_kept():
        click.echo(f"{chosen.name}: its keeper is in the cluster", err=True)
        return
    ask: Callable[[FleetKeeper], None] = _end_forgotten if forgotten else FleetKeeper.freeze
    _do(chosen, ask, wait, as_json=False, quiet=True)


def _places(project: Project) -> list[str]:
    """The places whose runs have pods."""
    return [name for name, each in project.settings.places.items() if each.engine == "kubernetes"]


def _reap_place(project: Project, name: str, wait: str, *, as_json: bool) -> list[dict[str, Any]]:
    """Remove what drivers that are gone left at a place, and say what was looked for; returns what is left of it."""
    from hooke.fleets.leftovers import KINDS, Leftovers, close_ledgers, counted
    from hooke.kubernetes.client import ApiForbidden, Kubernetes
    from hooke.kubernetes.kubeconfig import find_access

    options = project.settings.places[name].options
    client = Kubernetes(find_access(options.get("kubeconfig"), context=options.get("context", "")))
    namespace = options.get("namespace") or client.access.namespace
    try:
        there = Leftovers(client, namespace)
        dead = there.dead()
        before = there.found()
        left = there.remove(dead, patience_s=parse_seconds(wait, name="--wait"))
    except ApiForbidden as error:
        error.fix = f"have an administrator apply what `hooke fleet rbac {name} --reap` prints"
        raise
    finally:
        client.close()
    kinds = [each for each in KINDS if each not in there.unseen]
    click.echo(f"{name}: looked in the namespace {namespace} for {', '.join(kinds)} of runs", err=True)
    for what, refusal in there.unseen.items():
        click.echo(f"{name}: {what} were not looked for: {refusal}", err=True)
    for driver in sorted({each.driver for each in before}):
        of_it = [each for each in before if each.driver == driver]
        run = next((f" of run {each.run}" for each in of_it if each.run), "")
        how = "is gone; it had left" if driver in dead else "lives; it keeps"
        click.echo(f"{name}: the driver {driver}{run} {how} {counted(of_it)}", err=True)
    gone = {each.run for each in before if each.driver in dead and each.run}
    gone -= {each.run for each in left}
    close_ledgers(project.runs, gone, lambda line: click.echo(f"{name}: {line}", err=True))
    click.echo(f"{name}: of drivers that are gone there are {counted(left, kinds)}", err=as_json)
    return [
        {"place": name, "namespace": namespace, "what": each.what, "name": each.name, "run": each.run}
        for each in left
    ]


@fleet.command()
@click.argument("name", required=False, default="", metavar="[RUN|NAME]")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw a run's workers against the demand: .svg or .png.",
)
@json_option
@in_project
def why(*, name: str, save: Path | None, as_json: bool, project: Project) -> int:
    """Explain the number of workers of RUN (by default the last run), or of machines of the fleet NAME."""
    known = {each.name: each for each in fleets_of(project)}
    records: Sequence[FleetDecided | LedgerRecord]
    if name in known:
        records = known[name].records()
        nothing = f"the fleet {name} has never had a request"
    else:
        run = project.runs.find(name)
        events = project.runs.events(run)
        decided = [event for event in events if isinstance(event, FleetDecided)]
        records = sorted([*decided, *records_of(project.runs.folder(run))], key=lambda each: each.at)
        if save is not None:
            from hooke.fleets.fleet_picture import save_fleet  # NumPy and the charts

            save_fleet(events, save)
        nothing = f"run {run} kept the number of workers that it began with"
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(records), indent=2))
        return 0
    lines = [
        f"{moment(each.at)}  {each.reason if isinstance(each, FleetDecided) else line_of(each)}"
        for each in records
    ]
    click.echo("\n".join(lines) or nothing)
    if not lines and name not in known:
        say_next("hooke run FILE.py --workers 1-8", project)
    return 0


@fleet.command()
@_name
@click.option(
    "--account",
    default="",
    metavar="NAME",
    help="The service account that gets the rights: by default the place's, or hooke.",
)
@click.option(
    "--reap", "for_reap", is_flag=True, help="Also the rights that `hooke fleet reap` needs for a place."
)
@click.option(
    "--keeper",
    "for_keeper",
    is_flag=True,
    help="Also the rights that a keeper in the cluster needs for a fleet.",
)
@in_project
def rbac(*, name: str, account: str, for_reap: bool, for_keeper: bool, project: Project) -> int:
    """Print the rights on Kubernetes that the fleet or the place NAME needs (by default the only one there), as YAML.

    A service account, a Role with exactly these rights in its namespace, and the binding of both. An administrator of the
    cluster applies them: `hooke fleet rbac NAME | kubectl apply -f -`.
    """
    from hooke.kubernetes.kubeconfig import find_access
    from hooke.kubernetes.rights import FLEET_RIGHTS, KEEPER_RIGHTS, REAP_RIGHTS, RUN_RIGHTS, print_rights

    _, options, chosen = _on_kubernetes(project, name)
    on_fleet = chosen is not None
    if for_keeper and not on_fleet:
        raise UsageError("--keeper is for a fleet, and this is a place", fix="remove --keeper")
    if for_reap and on_fleet:
        raise UsageError(
            "--reap is for a place, and this is a fleet", fix="remove --reap: a fleet needs no more"
        )
    rights = FLEET_RIGHTS if on_fleet else RUN_RIGHTS
    rights += (KEEPER_RIGHTS if for_keeper else ()) + (REAP_RIGHTS if for_reap else ())
    namespace = options.get("namespace") or (
        find_access(options.get("kubeconfig"), context=options.get("context", "")).namespace
    )
    account = account or options.get("account", "") or "hooke"
    click.echo(print_rights(rights, account=account, namespace=namespace), nl=False)
    return 0


@fleet.command()
@_name
@click.option(
    "--nodes",
    metavar="N|MIN-MAX",
    help="The number of nodes; MIN-MAX lets CoreWeave's autoscaler choose. By default as many as the fleet may have machines.",
)
@click.option("--name", "pool", metavar="POOL", help="The Node Pool's name; by default the fleet's.")
@in_project
def nodepool(*, name: str, nodes: str | None, pool: str | None, project: Project) -> int:
    """Print a Node Pool of CoreWeave for the fleet or the place NAME (by default the only one on Kubernetes), as YAML.

    It has nodes of the type that `instance` names, spot nodes where `spot` is set, and a comment says what they cost:
    `hooke fleet nodepool NAME | kubectl apply -f -`. The nodes cost money until the Node Pool is deleted.
    """
    from hooke.kubernetes.node_pool import node_labels, node_pool, print_node_pool
    from hooke.kubernetes.pods import merged
    from hooke.project.price_lists import machine_price  # NumPy, by way of the laws

    found, options, chosen = _on_kubernetes(project, name)
    if not options.get("instance"):
        raise UsageError(
            "a Node Pool has nodes of one type, and there is no `instance`",
            fix='write instance = "gd-8xh100ib-i128", or another type of CoreWeave\'s, below the fleet or the place',
        )
    least, most = _nodes(nodes, chosen)
    settings = chosen.settings if chosen is not None else project.settings.places[found]
    price = machine_price(settings, where=found)
    key, _, value = str(options.get("nodes", "")).partition("=")
    label = {"spec": {"nodeSelector": {key: value}}} if key else {}
    made = node_pool(
        pool or found,
        instance=options["instance"],
        nodes=least,
        most=most,
        spot=settings.spot,
        labels=node_labels(merged(label, options.get("pod_template", {}))),
    )
    limit = Caps(workers=max(least, most or 0), usd_per_hour=settings.max_usd_per_hour or math.inf)
    costs = _costs(price, least, most, limit=limit, kind=_kind_of_price(settings))
    click.echo(print_node_pool(made, costs), nl=False)
    return 0


def _nodes(text: str | None, chosen: FleetFolder | None) -> tuple[int, int | None]:
    """The least and the most nodes; None for a pool that keeps its size. Raises UsageError."""
    if text is None:
        if chosen is None:
            raise UsageError("a place does not say how many nodes it needs", fix="--nodes 4")
        return chosen.caps.most(chosen.usd_per_hour), None
    least, dash, most = text.partition("-")
    if not least.isdecimal() or bool(dash) != most.isdecimal():
        raise UsageError(f"--nodes {text!r} is not valid", fix="--nodes 4, or --nodes 0-4 to autoscale")
    return int(least), int(most) if dash else None


def _costs(price: MachinePrice, least: int, most: int | None, *, limit: Caps, kind: str) -> list[str]:
    """What so many nodes cost, from which list, and how long a new one takes. Raises UsageError where it is more than the limit."""
    usd, largest = price.usd_per_hour, limit.workers
    if not usd:
        return ["what a node costs is not known: set `price` or `usd_per_hour`"]
    if largest * usd > limit.usd_per_hour:
        raise UsageError(
            f"{largest} nodes cost ${largest * usd:.2f}/h, and max_usd_per_hour is {limit.usd_per_hour:g}",
            fix=f"--nodes {limit.most(usd)}, or raise max_usd_per_hour",
        )
    shown = f"{least} to {most}" if most is not None else str(least)
    at_most = " at most" if most is not None else ""
    lines = [f"{shown} nodes at ${usd:.2f}/h each: ${largest * usd:.2f}/h{at_most}"]
    if price.listed is not None:
        catalog, machine = price.listed
        lines.append(f"{kind} of {catalog.date}: {catalog.source}")
        if machine.startup_s is not None:
            low, high = (format_seconds(each) for each in machine.startup_s)
            lines.append(f"a new node takes {low} to {high}: {catalog.startup_source}")
    return lines


def _on_kubernetes(project: Project, name: str) -> tuple[str, Mapping[str, Any], FleetFolder | None]:
    """Name and options of the fleet or place of that name, and the fleet if it is one; without a name, of the only one on Kubernetes."""
    fleets = {each.name: each for each in fleets_of(project)}
    places = {each: (place.engine, place.options) for each, place in project.settings.places.items()}
    found = places | {each.name: (each.settings.provider, each.settings.options) for each in fleets.values()}
    there = [each for each, (what, _) in found.items() if what == "kubernetes"]
    chosen = there[0] if not name and len(there) == 1 else name
    if chosen in there:
        return chosen, found[chosen][1], fleets.get(chosen)
    if chosen in found:
        what = f"{chosen} is not on Kubernetes: its {'provider' if chosen in fleets else 'engine'} is {found[chosen][0]!r}"
    else:
        what = (
            f"there is no fleet or place {name!r}"
            if name
            else f"{len(there)} fleets and places are on Kubernetes"
        )
    raise UsageError(
        what,
        fix=f"{did_you_mean(name, there)}name one of: {', '.join(there)}"
        if there
        else 'write one into hooke.toml: a fleet with provider = "kubernetes", or a place with engine = "kubernetes"',
    )


def _detach(chosen: FleetFolder, machines: int, wait: str, *, as_json: bool) -> int:
    patience_s = parse_seconds(wait, name="--wait")
    with chosen.handed_over(machines) as (keeper, provider):
        keeper.wait(machines, provider, patience_s=patience_s)
        facts = {"fleet": chosen.name, "machines": machines}
        facts |= {"namespace": keeper.namespace, "deployment": keeper.deployment}
    if as_json:
        click.echo(json.dumps(facts))
        return 0
    click.echo(f"{chosen.name}: {machines} machine{'s' * (machines != 1)}")
    click.echo(
        f"{chosen.name}: the deployment {keeper.deployment} keeps them (namespace {keeper.namespace})",
        err=True,
    )
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
    patience_s = parse_seconds(wait, name="--wait")
    with chosen.kept(lambda record: click.echo(f"{chosen.name}: {line_of(record)}", err=True)) as keeper:
        try:
            ask(keeper)
            settle(keeper, patience_s=patience_s, logs=chosen.path / "logs")
            chosen.clear_up()
            while keep:
                time.sleep(max(keeper.turn(), 0.02))
        except KeyboardInterrupt:
            click.echo(
                f"{chosen.name}: its machines stay and cost money; `hooke fleet ls` lists them", err=True
            )
            raise
        wanted = keeper.fleet.wanted
    if as_json and not quiet:
        click.echo(json.dumps({"fleet": chosen.name, "machines": wanted}))
    elif not quiet:
        click.echo(f"{chosen.name}: {wanted} machine{'s' * (wanted != 1)}")
    return 0


def _tell_price(chosen: FleetFolder, wait: str) -> None:
    """Where the price is from a list: which, of when; and how long a machine takes to start, where --wait is shorter."""
    if chosen.price.listed is None:
        return
    catalog, machine = chosen.price.listed
    kind = _kind_of_price(chosen.settings)
    click.echo(
        f"{chosen.name}: {kind} of one machine ${chosen.usd_per_hour:.4g}/h, of {catalog.date}: {catalog.source}",
        err=True,
    )
    if text := catalog.stale_text(time.time()):
        click.echo(f"{chosen.name}: {text}", err=True)
    if machine.startup_s is not None and machine.startup_s[1] > parse_seconds(wait, name="--wait"):
        low, high = (format_seconds(each) for each in machine.startup_s)
        click.echo(
            f"{chosen.name}: such a machine takes {low} to {high} to start, longer than --wait {wait}",
            err=True,
        )


def _kind_of_price(settings: FleetSettings | BackendSettings) -> str:
    return "spot price" if settings.spot else "reserved price" if settings.reserved else "price"


def _end_forgotten(keeper: FleetKeeper) -> None:
    keeper.down("hooke fleet reap")


def _machines(chosen: FleetFolder) -> list[dict[str, Any]]:
    records = chosen.records()
    # Of a launch whose answer was lost the token alone is known.
    known = {name for each in records for key in ("machine", "token") if (name := getattr(each, key, ""))}
    provider = chosen.provider()
    try:
        listed = provider.list()
    finally:
        close_provider(provider)
    return [
        {
            "fleet": chosen.name,
            "machine": machine.id,
            "state": machine.phase if known & {machine.id, machine.token} else "stranger",
            "age": _age(machine),
            "$/h": provider.facts.usd_per_hour,
        }
        for machine in listed
        if machine.phase != "ended"
        or provider.facts.keeps_ended  # else it is gone, and only listed for a while
    ]


def _age(machine: Machine) -> float | None:
    return max(time.time() - machine.started_at, 0.0) if machine.started_at else None


def _cell(key: str, row: dict[str, Any]) -> str:
    value = row[key]
    if key == "age":
        return format_seconds(value) if value is not None else ""
    return f"{value:.4g}" if key == "$/h" else str(value)
