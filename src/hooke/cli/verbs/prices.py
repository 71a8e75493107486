"""`hooke prices`: the known price lists, their prices, and their updates."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hooke.base.formats import aligned
from hooke.cli.entry import Commands
from hooke.cli.options import debug_option, json_option

if TYPE_CHECKING:
    from hooke.scaling.catalog import Catalog

__all__ = ["prices"]

LISTS = ("list", "types", "date", "source")
TYPES = ("instance type", "gpus", "vcpus", "memory", "$/h", "spot", "reserved")


@click.group(cls=Commands)
def prices() -> None:
    """List and update the price lists of providers, which plans, fleets and places take their prices from."""


@prices.command()
@click.argument("name", required=False, metavar="[LIST|FILE.csv]")
@json_option
@debug_option
def ls(*, name: str | None, as_json: bool) -> int:
    """List the known price lists; or the instance types of LIST with their prices in US dollars an hour.

    A list that is older than 90 days is named: providers change some prices several times a year.
    """
    from hooke.project.price_lists import prices_of, read_catalogs  # NumPy, by way of the laws

    catalogs = read_catalogs(name)
    now = time.time()
    if as_json:
        facts = [
            each.facts()
            | {"age_days": each.age_days(now)}
            | {"machines": {machine.name: prices_of(machine) for machine in each.machines}}
            for each in catalogs
        ]
        click.echo(json.dumps(facts, indent=2))
        return 0
    if name is None:
        rows = [(each.name, str(len(each.machines)), each.date, each.source) for each in catalogs]
        click.echo("\n".join(aligned(LISTS, rows, right=range(1, 2))))
    else:
        click.echo("\n".join(aligned(TYPES, _rows(catalogs[0]), right=range(1, 7))))
        click.echo(f"{catalogs[0].name}: {catalogs[0].source} (date: {catalogs[0].date})")
    for text in filter(None, (each.stale_text(now) for each in catalogs)):
        click.echo(text, err=True)
    return 0


@prices.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.csv")
@debug_option
def update(*, file: Path) -> int:
    """Take the price list in FILE.csv instead of the known one of its name, for all projects of this user.

    The file says where its prices are from and of which day, in lines `# source: PAGE` and `# date: 2026-11-30` before the header. It is
    checked first, and replaces the known list at once. What has changed is printed.
    """
    from hooke.project.price_lists import update_prices

    made, changes = update_prices(file, time.time())
    click.echo("\n".join(changes) or "no price has changed")
    click.echo(f"{made.name}: {made.source} (date: {made.date})")
    return 0


def _rows(catalog: Catalog) -> list[tuple[str, ...]]:
    from hooke.project.price_lists import ON_DEMAND, prices_of

    rows: list[tuple[str, ...]] = []
    for each in catalog.machines:
        known = {kind: f"{usd:.4g}" for kind, usd in prices_of(each).items()}
        memory = "" if each.memory is None else f"{each.memory / 2**30:.0f} GiB"
        gpus = f"{each.gpus} {each.gpu}" if each.gpus else ""
        usd = (known.get(kind, "") for kind in (ON_DEMAND, "spot", "reserved"))
        rows.append((each.name, gpus, str(each.vcpus or ""), memory, *usd))
    return rows
