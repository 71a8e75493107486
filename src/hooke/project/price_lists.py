"""Price lists by name or file, their updates, and what one machine of a fleet or a place costs by its settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hooke.base.errors import ConfigError, UsageError
from hooke.base.files import write_atomic, writing
from hooke.base.formats import did_you_mean
from hooke.project.settings import BackendSettings, FleetSettings
from hooke.scaling.catalog import Catalog, InstanceType, parse_catalog
from hooke.scaling.time_and_price import LOCAL

__all__ = [
    "ON_DEMAND",
    "Catalogs",
    "MachinePrice",
    "changed_prices",
    "known_lists",
    "machine_price",
    "own_prices",
    "prices_of",
    "read_catalogs",
    "update_prices",
]

ON_DEMAND = "on-demand"

PriceList = str | os.PathLike[str] | Catalog
"""The name of a known list, a CSV file, or a parsed list."""

Catalogs = PriceList | Sequence[PriceList] | None
"""The type of `plan(catalog=)`: price lists, or None for all known ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinePrice:
    """What one machine costs, and the row of a price list that says so; no row where the price is set by hand."""

    usd_per_hour: float
    listed: tuple[Catalog, InstanceType] | None = None


def machine_price(settings: BackendSettings | FleetSettings, *, where: str) -> MachinePrice:
    """The price of one machine, as set or as listed; 0 where there is none. `where` is the table: `[fleets.pool]`.

    Raises ConfigError where a list has no price for it.
    """
    chosen = [name for name in ("spot", "reserved") if getattr(settings, name)]
    if len(chosen) > 1:
        raise ConfigError(f"{where} has spot and reserved", fix="remove one of the two")
    if not settings.price:
        if chosen:
            raise ConfigError(
                f"{where} {chosen[0]} = true is about a price list, and there is no price",
                fix=f'add price = "LIST:INSTANCE_TYPE", or set usd_per_hour and remove {chosen[0]}',
            )
        return MachinePrice(usd_per_hour=settings.usd_per_hour)
    shown = f"{where} price = {settings.price!r}"
    if settings.usd_per_hour:
        raise ConfigError(f"{shown}: there is usd_per_hour as well", fix="remove one of the two")
    catalog, machine = _row(settings.price, str(settings.options.get("instance", "")), shown)
    prices = prices_of(machine)
    kind = chosen[0] if chosen else ON_DEMAND
    if (usd := prices.get(kind)) is None:
        raise ConfigError(
            f"{shown}: the list has no {kind} price of it",
            fix=f"it has: {', '.join(prices)}. Set spot or reserved to that, or usd_per_hour instead of price",
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


def prices_of(machine: InstanceType) -> dict[str, float]:
    """The known prices of an instance type in US dollars an hour: `on-demand`, `spot`, `reserved`."""
    found = {
        ON_DEMAND: machine.usd_per_hour,
        "spot": machine.spot_usd_per_hour,
        "reserved": machine.reserved_usd_per_hour,
    }
    return {kind: usd for kind, usd in found.items() if usd is not None}


# -- lists by name, and their updates --------------------------------------------------------------


def own_prices(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of this user's price lists: prices are the same in all projects. `HOOKE_PRICES` overrides it."""
    if given := environment.get("HOOKE_PRICES"):
        return Path(given)
    above = environment.get("XDG_CONFIG_HOME")
    return (Path(above) if above else Path.home() / ".config") / "hooke" / "prices"


def read_catalogs(wanted: Catalogs) -> list[Catalog]:
    """The requested price lists. Raises UsageError, which names the file, line and column, or the known lists."""
    if wanted is None:
        return [_known(name) for name in known_lists()]
    several = [wanted] if isinstance(wanted, (str, os.PathLike, Catalog)) else list(wanted)
    found = [each if isinstance(each, Catalog) else _read(os.fspath(each)) for each in several]
    names = [catalog.name for catalog in found]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise UsageError(f"two price lists are called {twice!r}", fix="rename one of the files")
    return found


def known_lists() -> list[str]:
    """The names of the shipped lists and of this user's own."""
    folder = files("hooke.scaling").joinpath("catalogs")
    shipped = {each.name[:-4] for each in folder.iterdir() if each.name.endswith(".csv")}
    return sorted(shipped | {each.stem for each in own_prices().glob("*.csv")})


def _known(name: str) -> Catalog:
    """This user's list of that name, else the shipped one."""
    own = own_prices() / f"{name}.csv"
    if own.is_file():
        return _parsed(own)
    file = files("hooke.scaling").joinpath("catalogs", f"{name}.csv")
    return parse_catalog(file.read_text("utf-8"), name=name, file=f"{name}.csv")


def _read(text: str) -> Catalog:
    if text in known_lists():
        return _known(text)
    path = Path(text)
    if not path.is_file():
        raise UsageError(
            f"no price list {text!r}",
            where=os.getcwd(),
            fix=f"give a CSV file or a known list: {', '.join(known_lists())}",
        )
    return _parsed(path)


def _parsed(path: Path) -> Catalog:
    if path.stem == LOCAL:
        raise UsageError(f"{path}: the name {LOCAL!r} is reserved for this machine", fix="rename the file")
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", fix="give a CSV file in UTF-8") from error
    return parse_catalog(content, name=path.stem, file=str(path))


def update_prices(path: Path, now: float) -> tuple[Catalog, list[str]]:
    """Take a price list from a CSV file, instead of the known one of its name; returns it and what has changed, a line each.

    The file is checked before anything is written, and the list is replaced at once. Raises UsageError where it is not valid, has no source
    or date, is older than the known one or from the future, and HookeError where it cannot be written.
    """
    if not path.is_file():
        raise UsageError(
            f"no price list {str(path)!r}", fix="give a CSV file called like the list: lambda.csv"
        )
    new = _parsed(path)
    age = new.age_days(now)
    if new.source == str(path) or age is None or age < -1:
        raise UsageError(
            f"{path} does not say where its prices are from, and of which day",
            fix="add two lines before the header: # source: PAGE, and # date: 2026-11-30",
        )
    old = _known(new.name) if new.name in known_lists() else None
    known_age = old.age_days(now) if old is not None else None
    if old is not None and known_age is not None and age > known_age:
        raise UsageError(
            f"{path} is of {new.date}, older than the known list: {old.date}",
            fix=f"to go back all the same, remove {own_prices() / f'{new.name}.csv'}",
        )
    target = own_prices() / f"{new.name}.csv"
    with writing("the price list", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, path.read_bytes(), sync=True)
    return new, changed_prices(old, new)


def changed_prices(old: Catalog | None, new: Catalog) -> list[str]:
    """What differs between two lists of one provider, a line for each instance type. Pure."""
    before = {each.name: each for each in old.machines} if old is not None else {}
    after = {each.name: each for each in new.machines}
    lines = []
    for name in sorted(before | after):
        if name not in after:
            lines.append(f"{name}: is gone")
        elif name not in before:
            lines.append(f"{name}: new, {_shown(prices_of(after[name]))}")
        elif (was := prices_of(before[name])) != (now := prices_of(after[name])):
            lines.append(f"{name}: {_shown(was)} -> {_shown(now)}")
        elif before[name] != after[name]:
            lines.append(f"{name}: the same price, other facts")
    return lines


def _shown(prices: Mapping[str, float]) -> str:
    return ", ".join(f"${usd:.4g}/h{'' if kind == ON_DEMAND else f' {kind}'}" for kind, usd in prices.items())
