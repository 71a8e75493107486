"""`hooke fleet up`: a plan with its price, consent, rented machines that have joined and run a first task, and their end."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import click

from hooke.base.clock import SystemClock
from hooke.base.errors import HookeError, UsageError
from hooke.base.units import parse_seconds, parse_usd
from hooke.cli.options import in_project
from hooke.fleets.fleet_folder import FleetFolder, close_provider, find_fleet, line_of, settle
from hooke.fleets.renting import INTERRUPTED, FleetEnd, FleetHead, RentBudget, keep_rented
from hooke.machines.keeper import FleetKeeper
from hooke.project.folder import Project

if TYPE_CHECKING:
    from hooke.providers.lambda_cloud import InstanceOffer

__all__ = ["up"]


@click.command()
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
@click.option(
    "--machines", type=click.IntRange(min=1), metavar="N", help="By default as many as the fleet may have."
)
@click.option(
    "--budget", metavar="USD", help="End all machines before they have cost this much: 20, or '$20'."
)
@click.option("--yes", is_flag=True, help="Rent without a question, as in a script.")
@click.option(
    "--wait",
    default="30m",
    show_default=True,
    metavar="TIME",
    help="How long the machines may take to come, and to end.",
)
@in_project
def up(  # noqa: PLR0913 - one parameter for each option of the command
    *,
    name: str,
    command: tuple[str, ...],
    machines: int | None,
    budget: str | None,
    yes: bool,
    wait: str,
    project: Project,
) -> int:
    """Rent machines for the fleet NAME, and keep them until COMMAND or the work ends.

    It shows the price and the limits, and asks for consent. Then it runs the admission and Dask's scheduler here, rents the machines, waits
    until they have joined, and runs a first task on each. It ends all machines when COMMAND ends, without work for the time `idle`, before
    the budget is spent, at Ctrl-C, and when `hooke fleet down NAME` is called. Its exit code is that of COMMAND.
    """
    command = _found(command)
    chosen = find_fleet(project, name)
    rent, usd = chosen.rent, parse_usd(budget) if budget is not None else math.inf
    most = chosen.caps.most(chosen.usd_per_hour)
    count = most if machines is None else machines
    if not 1 <= count <= most:
        raise UsageError(
            f"the fleet {name} may have at most {most} machines, not {count}",
            fix=f"raise machines or max_usd_per_hour in hooke.toml under [fleets.{name}]",
        )
    _say_plan(chosen, count, usd, command)
    _ask(yes=yes)
    patience_s = parse_seconds(wait, name="--wait")
    with (
        chosen.kept(lambda record: click.echo(f"{name}: {line_of(record)}", err=True)) as keeper,
        FleetHead(project, name, rent, logs=chosen.path / "logs") as head,
        _Stop(chosen) as stop,
    ):
        chosen.mark_up()
        spent = RentBudget(usd, price=chosen.usd_per_hour, records=chosen.records, clock=SystemClock())

        def check() -> None:
            spent.check(len(keeper.fleet.members))
            if why := stop.why():
                raise _Stopped(why)

        try:
            _rent(chosen, keeper, head, check, machines=count, patience_s=patience_s)
            idle_s = parse_seconds(rent.idle)
            end = keep_rented(keeper, head, spent, idle_s=idle_s, stopped=stop.why, command=command)
        except _Stopped as stopped:
            end = FleetEnd(why=str(stopped), code=INTERRUPTED)
        except BaseException as error:  # whatever failed, the machines cost money
            _end(chosen, keeper, spent, patience_s, FleetEnd(why=getattr(error, "what", repr(error))))
            raise
        _end(chosen, keeper, spent, patience_s, end)
    return end.code


class _Stopped(Exception):
    """The fleet is to end."""


class _Stop:
    """Whether the fleet is to end: by Ctrl-C, SIGTERM, the SIGHUP of a terminal that is closed, or `hooke fleet down`.

    A signal is taken up between two actions, so that no record or request is cut in two; a second one interrupts at once.
    """

    def __init__(self, chosen: FleetFolder) -> None:
        self._chosen = chosen
        self._signal = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[each] = signal.signal(each, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def why(self) -> str:
        """What ends it; empty while nothing does."""
        if self._signal:
            return f"{self._signal} came"
        return "`hooke fleet down` was called" if self._chosen.stop_file.exists() else ""

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._signal:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name


def _found(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command with the path of its program. Raises UsageError where there is none: before anything is rented."""
    if not command:
        return ()
    program = shutil.which(command[0])
    if program is None:
        raise UsageError(
            f"program {command[0]!r} not found", fix="hooke fleet up NAME -- hooke run FILE.py --on NAME"
        )
    return os.path.abspath(program), *command[1:]


def _say_plan(chosen: FleetFolder, machines: int, budget_usd: float, command: tuple[str, ...]) -> None:
    """What would be rented, at which price, within which limits. Raises HookeError where the provider does not offer it so."""
    provider = chosen.provider()
    try:
        offer: InstanceOffer = provider.offer()  # type: ignore[attr-defined]
    finally:
        close_provider(provider)
    settings, name, price = chosen.settings, chosen.name, chosen.usd_per_hour
    together = f"${machines * price:.4g}/h together"
    click.echo(f"{name}: {machines} x {offer.name} at ${price:.4g}/h: {together}")
    if chosen.price.listed is not None:
        catalog, _ = chosen.price.listed
        click.echo(f"  price list {catalog.name}, {catalog.date}: {catalog.source}")
        if text := catalog.stale_text(time.time()):
            click.echo(f"  {text}")
    where = ", ".join(offer.regions) or "nowhere: the launches wait for it"
    click.echo(f"  {settings.provider} offers it at ${offer.usd_per_hour:.4g}/h now; capacity in {where}")
    limits = [f"{settings.machines} machine{'s' * (settings.machines != 1)}"]
    if settings.max_usd_per_hour:
        limits.append(f"${settings.max_usd_per_hour:.4g}/h")
    if not math.isinf(budget_usd):
        limits.append(f"${budget_usd:.4g} in all")
    if settings.lifetime:
        limits.append(f"{settings.lifetime} for one machine")
    click.echo(f"  never more than {', '.join(limits)}")
    when = "with the command" if command else f"after {chosen.rent.idle} without work"
    click.echo(f"  all end {when}, at Ctrl-C, and by: hooke fleet down {name}")


def _ask(*, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "nobody can be asked whether to rent these machines: there is no terminal",
            fix="if the price above is right, add --yes",
        )
    if not click.confirm("rent them?", err=True):
        raise UsageError("nothing was rented")


def _rent(
    chosen: FleetFolder,
    keeper: FleetKeeper,
    head: FleetHead,
    check: Callable[[], None],
    *,
    machines: int,
    patience_s: float,
) -> None:
    """Rent the machines, and wait until each has run a task. Raises HookeError, and what `check` raises, which is called meanwhile."""

    def turn() -> None:
        keeper.turn()
        check()

    keeper.want(machines, "hooke fleet up")
    settle(keeper, patience_s=patience_s, logs=chosen.path / "logs", check=check)
    workers = head.check_by_tasks(machines, patience_s=patience_s, turn=turn)
    shown = "a worker has" if workers == 1 else f"{workers} workers have"
    click.echo(f"{chosen.name}: {shown} joined {chosen.rent.scheduler} and run a first task")
    click.echo(
        f"{chosen.name}: they cost ${machines * chosen.usd_per_hour:.4g}/h; to stop the bill: Ctrl-C, or hooke fleet down {chosen.name}"
    )


def _end(
    chosen: FleetFolder, keeper: FleetKeeper, budget: RentBudget, patience_s: float, end: FleetEnd
) -> None:
    """End all machines, and say what they have cost. Raises HookeError where one is left."""
    click.echo(f"{chosen.name}: {end.why}; all machines are ended", err=True)
    keeper.down("hooke fleet up")
    try:
        settle(keeper, patience_s=patience_s, logs=chosen.path / "logs")
    except (HookeError, KeyboardInterrupt):
        click.echo(
            f"{chosen.name}: machines may be left and cost money; end them: hooke fleet down {chosen.name}",
            err=True,
        )
        raise
    chosen.clear_up()
    click.echo(f"{chosen.name}: no machines are left; they have cost ${budget.spent():.4g}")
