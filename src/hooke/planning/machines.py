"""Where a pipeline could run: this machine, and the instance types of price lists."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil

from hooke.base.errors import UsageError
from hooke.processes.devices import cpus_here, devices_of_this_machine
from hooke.scaling.catalog import Catalog, InstanceType, parse_catalog, parse_range
from hooke.scaling.time_and_price import LOCAL, Configuration

__all__ = ["Catalogs", "configurations", "cpus_here", "given", "read_catalogs", "this_machine"]

PriceList = str | os.PathLike[str] | Catalog
"""The name of a shipped list, a CSV file, or a parsed list."""

Catalogs = PriceList | Sequence[PriceList] | None
"""The type of `plan(catalog=)`: price lists, or None for all shipped ones."""

INSTANCES = (1, 2, 4, 8, 16)
"""Numbers of instances considered for each type."""


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


def given(
    catalogs: Sequence[Catalog], *, speed: Mapping[str, Any], startup: Mapping[str, Any]
) -> list[Catalog]:
    """The lists with these speeds and start-up times, by `catalog:instance_type`; start-up times also by the list's name.

    Raises UsageError for a name that is in none of the lists.
    """
    names = [catalog.name for catalog in catalogs]
    for what, values in (("speed", speed), ("startup", startup)):
        for name in values:
            if name.partition(":")[0] not in names and not (what == "speed" and name == LOCAL):
                raise UsageError(
                    f"{what} of {name!r}: no such price list",
                    fix=f"write CATALOG:INSTANCE_TYPE; valid lists: {', '.join(names) or '(none)'}",
                )
    return [catalog.given(speed=speed, startup=startup) for catalog in catalogs]


def this_machine(speed: Mapping[str, Any], *, measured_here: bool) -> InstanceType:
    """This machine, at no cost. Its speed is 1 if the timings are its own; otherwise it must be given."""
    own = (1.0, 1.0) if measured_here else None
    told = parse_range(f"speed of {LOCAL}", speed[LOCAL]) if LOCAL in speed else own
    return InstanceType(
        catalog=LOCAL,
        name="this machine",
        vcpus=cpus_here(),
        memory=psutil.virtual_memory().available,
        gpus=len(devices_of_this_machine()),
        usd_per_hour=0.0,
        startup_s=(0.0, 0.0),
        speed=told,
    )


def configurations(
    here: InstanceType, workers: Sequence[int], catalogs: Sequence[Catalog]
) -> Iterator[Configuration]:
    """The configurations considered: this machine with each number of workers, and 1 to 16 instances of each type with a worker per vCPU."""
    for count in workers:
        yield Configuration(machine=here, workers=count)
    for catalog in catalogs:
        for machine in catalog.machines:
            for count in INSTANCES:
                yield Configuration(machine=machine, instances=count, workers=count * (machine.vcpus or 1))


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
