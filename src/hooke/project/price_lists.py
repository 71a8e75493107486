"""Price lists by name or file, and what one machine of a fleet or a place costs by its settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hooke.base.errors import ConfigError, UsageError
from hooke.base.formats import did_you_mean
from hooke.project.settings import BackendSettings, FleetSettings
from hooke.scaling.catalog import Catalog, InstanceType, parse_catalog
from hooke.scaling.time_and_price import LOCAL

__all__ = ["Catalogs", "MachinePrice", "machine_price", "read_catalogs"]

PriceList = str | os.PathLike[str] | Catalog
"""The name of a shipped list, a CSV file, or a parsed list."""

Catalogs = PriceList | Sequence[PriceList] | None
"""The type of `plan(catalog=)`: price lists, or None for all shipped ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinePrice:
    """What one machine costs, and the row of a price list that says so; no row where the price is set by hand."""

    usd_per_hour: float
    listed: tuple[Catalog, InstanceType] | None = None


def machine_price(settings: BackendSettings | FleetSettings, *, where: str) -> MachinePrice:
    """The price of one machine, as set or as listed; 0 where there is none. `where` is the table: `[fleets.pool]`.

    Raises ConfigError where a list has no price for it.
    """
    if not settings.price:
        if settings.spot:
            raise ConfigError(
                f"{where} spot = true is about a price list, and there is no price",
                fix='add price = "LIST:INSTANCE_TYPE", or set usd_per_hour and remove spot',
            )
        return MachinePrice(usd_per_hour=settings.usd_per_hour)
    shown = f"{where} price = {settings.price!r}"
    if settings.usd_per_hour:
        raise ConfigError(f"{shown}: there is usd_per_hour as well", fix="remove one of the two")
    catalog, machine = _row(settings.price, str(settings.options.get("instance", "")), shown)
    usd = machine.spot_usd_per_hour if settings.spot else machine.usd_per_hour
    if usd is None:
        kind, other = ("spot", "false") if settings.spot else ("on-demand", "true")
        raise ConfigError(
            f"{shown}: the list has no {kind} price of it",
            fix=f"write spot = {other}, or usd_per_hour instead of price",
        )
    return MachinePrice(usd_per_hour=usd, listed=(catalog, machine))


def _row(text: str, instance: str, shown: str) -> tuple[Catalog, InstanceType]:
    """The row that `LIST:ROW` names, or `LIST` alone: the row that is called like the nodes' instance type."""
    name, colon, kind = text.rpartition(":")
    if not colon:
        name, kind = text, instance
    try:
        (catalog,) = read_catalogs(name)
    except UsageError as error:
        raise ConfigError(f"{shown}: {error.what}", fix=error.fix) from error
    machines = {each.name: each for each in catalog.machines}
    if kind in machines:
        return catalog, machines[kind]
    what = f"machine {kind!r}" if kind else "machine without a name"
    raise ConfigError(
        f"{shown}: the list has no {what}",
        fix=f'{did_you_mean(kind, machines)}write price = "{name}:ROW" with one of: {", ".join(machines)}',
    )


def read_catalogs(wanted: Catalogs) -> list[Catalog]:
    """The requested price lists. Raises UsageError, which names the file, line and column, or the shipped lists."""
    if wanted is None:
        return [_shipped(name) for name in _shipped_names()]
    several = [wanted] if isinstance(wanted, (str, os.PathLike, Catalog)) else list(wanted)
    found = [each if isinstance(each, Catalog) else _read(os.fspath(each)) for each in several]
    names = [catalog.name for catalog in found]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise UsageError(f"two price lists are called {twice!r}", fix="rename one of the files")
    return found


def _shipped_names() -> list[str]:
    folder = files("hooke.scaling").joinpath("catalogs")
    return sorted(each.name[:-4] for each in folder.iterdir() if each.name.endswith(".csv"))


def _shipped(name: str) -> Catalog:
    file = files("hooke.scaling").joinpath("catalogs", f"{name}.csv")
    return parse_catalog(file.read_text("utf-8"), name=name, file=f"{name}.csv")


def _read(text: str) -> Catalog:
    if text in _shipped_names():
        return _shipped(text)
    path = Path(text)
    if not path.is_file():
        raise UsageError(
            f"no price list {text!r}",
            where=os.getcwd(),
            fix=f"give a CSV file or a shipped list: {', '.join(_shipped_names())}",
        )
    if path.stem == LOCAL:
        raise UsageError(f"{text}: the name {LOCAL!r} is reserved for this machine", fix="rename the file")
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{text} cannot be read: {error}", fix="give a CSV file in UTF-8") from error
    return parse_catalog(content, name=path.stem, file=text)
