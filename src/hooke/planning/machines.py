"""Where a pipeline could run: this machine, and the instance types of price lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil

from hooke.base.errors import UsageError
from hooke.processes.devices import cpus_here, devices_of_this_machine
from hooke.scaling.catalog import Catalog, InstanceType, parse_range
from hooke.scaling.time_and_price import LOCAL, Configuration

__all__ = ["configurations", "cpus_here", "given", "this_machine"]

INSTANCES = (1, 2, 4, 8, 16)
"""Numbers of instances considered for each type."""


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
