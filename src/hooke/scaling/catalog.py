"""Price lists: instance types with their resources and prices per hour."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.base.table import Tabular
from hooke.base.units import parse_seconds

__all__ = [
    "COLUMNS",
    "STALE_DAYS",
    "Catalog",
    "InstanceType",
    "Range",
    "as_range",
    "parse_catalog",
    "parse_range",
]

T = TypeVar("T")

Range = tuple[float, float]
"""(low, high)."""

COLUMNS = ("instance_type", "gpu", "gpus", "vcpus", "memory_gib", "usd_per_hour", "spot_usd_per_hour")
OPTIONAL = ("startup", "speed", "reserved_usd_per_hour")
FACTS = ("source", "date", "startup", "startup_source")
"""The names of lines `# NAME: TEXT` before the header."""

STALE_DAYS = 90
"""Prices that are older may be wrong: providers change some of them several times a year."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_FACT = re.compile(r"#\s*(?P<name>\w+)\s*:\s*(?P<text>.*\S)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceType:
    """An instance type; None means unknown.

    `memory` is in bytes, prices are US dollars per hour for a whole instance. `startup_s` is the time from the request
    until the instance works. `speed` is relative to the measured machine, for the same call with as many at once.
    """

    catalog: str
    name: str
    gpu: str = ""
    gpus: int = 0
    vcpus: int | None = None
    memory: int | None = None
    usd_per_hour: float | None = None
    spot_usd_per_hour: float | None = None
    reserved_usd_per_hour: float | None = None
    startup_s: Range | None = None
    speed: Range | None = None

    @property
    def id(self) -> str:
        """`lambda:gpu_1x_a10`."""
        return f"{self.catalog}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Catalog(Tabular):
    """A price list with the source and date of its prices and the source of its start-up times."""

    name: str
    source: str
    date: str
    machines: tuple[InstanceType, ...]
    startup_source: str = ""

    def __repr__(self) -> str:
        return f"Catalog({self.name!r}, {len(self.machines)} instance types, {self.date or 'no date'})"

    def columns(self) -> dict[str, list[Any]]:
        """Column -> one value per instance type."""
        names = [each.name for each in fields(InstanceType) if each.name != "catalog"]
        return {name: [getattr(each, name) for each in self.machines] for name in names}

    def age_days(self, now: float) -> float | None:
        """Days since the date of its prices, at `now` in seconds since the epoch; None where it states none."""
        found = _DATE.search(self.date)
        if found is None:
            return None
        try:
            day = datetime.fromisoformat(found[0]).replace(tzinfo=UTC)
        except ValueError:
            return None
        return (now - day.timestamp()) / 86400

    def stale_text(self, now: float) -> str:
        """Says that its prices are older than STALE_DAYS at `now`; empty where they are not, or are not dated."""
        age = self.age_days(now)
        if age is None or age <= STALE_DAYS:
            return ""
        return f"the prices of {self.name} are {age:.0f} days old: hooke prices update FILE"

    def facts(self) -> dict[str, str]:
        """The name and the sources, for JSON."""
        names = ("source", "date", "startup_source")
        return {"catalog": self.name, **{name: getattr(self, name) for name in names}}

    def given(
        self, *, speed: Mapping[str, Any] | None = None, startup: Mapping[str, Any] | None = None
    ) -> Catalog:
        """The list with other speeds by `catalog:instance_type` and start-up times by that or by the name of the catalog.

        A speed is a number or (low, high). A start-up time is seconds, text such as "3m", or a pair of those. Names of
        other catalogs are ignored. Raises UsageError for an instance type that is not in the list.
        """
        speeds = self._by_machine(speed or {}, "speed", parse_range)
        lags = self._by_machine(startup or {}, "startup", _lag)
        return replace(
            self,
            machines=tuple(
                replace(
                    machine,
                    speed=speeds.get(machine.id, machine.speed),
                    startup_s=lags.get(machine.id, lags.get(self.name, machine.startup_s)),
                )
                for machine in self.machines
            ),
        )

    def _by_machine(
        self, given: Mapping[str, Any], what: str, parse: Callable[[str, Any], T]
    ) -> dict[str, T]:
        mine = {name: value for name, value in given.items() if name.partition(":")[0] == self.name}
        valid = [machine.id for machine in self.machines] + ([self.name] if what == "startup" else [])
        for name in mine:
            if name not in valid:
                raise UsageError(
                    f"{what}: the catalog {self.name!r} has no instance type {name!r}",
                    fix=f"{did_you_mean(name, valid)}valid names: {', '.join(valid)}",
                )
        return {name: parse(f"{what} of {name}", value) for name, value in mine.items()}


def parse_range(name: str, value: Any) -> Range:
    """A positive number, (low, high), or text such as "1.3" or "1.3-1.5". Raises UsageError, which mentions `name`."""
    return as_range(name, value, _number, "a number above 0, or low and high, such as 1.3 or 1.3-1.5")


def _lag(name: str, value: Any) -> Range:
    return as_range(name, value, parse_seconds, "a length of time, or low and high, such as 3m or 3m-5m")


def as_range(name: str, value: Any, parse: Callable[[Any], float], valid: str) -> Range:
    """(low, high) from one or two values, or text such as `1-2`, each read by `parse`. Raises UsageError with `name` and what is `valid`."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split("-")]
    parts: list[Any] = [*value] if isinstance(value, (list, tuple)) else [value]
    numbers: list[float] = []
    with contextlib.suppress(UsageError, ValueError, TypeError):  # not a pair
        numbers += [parse(part) for part in parts]
    if len(numbers) != len(parts) or len(parts) not in {1, 2} or numbers[0] > numbers[-1]:
        shown = "-".join(map(str, parts))
        raise UsageError(f"{name}: {shown!r} is not valid", fix=f"use {valid}")
    return numbers[0], numbers[-1]


def parse_catalog(text: str, *, name: str, file: str) -> Catalog:
    """The price list in the `text` of a CSV file; messages mention `file`.

    The columns are `COLUMNS`, optionally those of `OPTIONAL`, in any order; an empty cell is unknown. Before the
    header, lines `# source: ...`, `# date: ...`, `# startup: ...` and `# startup_source: ...` apply to the whole list.
    Raises UsageError with the file, the line, the column and the fix.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    facts, first = _facts(lines, file)
    reader = csv.reader(lines[first:])
    header = [cell.strip() for cell in next(reader, [])]
    _check_header(header, f"{file}, line {first + 1}")
    general = _lag(f"{file}, startup", facts["startup"]) if "startup" in facts else None
    machines: dict[str, InstanceType] = {}
    for cells in reader:
        where = f"{file}, line {first + reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        machine = _machine(_Row.of(header, cells, where), catalog=name, startup_s=general)
        if machine.name in machines:
            raise UsageError(
                f"{where}, column instance_type: {machine.name!r} is listed twice",
                fix="remove one of the lines",
            )
        machines[machine.name] = machine
    if not machines:
        raise UsageError(
            f"{file} lists no instance type", fix=f"add one line each below the header {','.join(COLUMNS)}"
        )
    return Catalog(
        name=name,
        source=facts.get("source", file),
        date=facts.get("date", "not stated"),
        machines=tuple(machines.values()),
        startup_source=facts.get("startup_source", ""),
    )


def _facts(lines: list[str], file: str) -> tuple[dict[str, str], int]:
    """The notes in comment lines, and the index of the header."""
    facts: dict[str, str] = {}
    for at, line in enumerate(lines):
        if line.strip() and not line.startswith("#"):
            return facts, at
        match = _FACT.fullmatch(line)
        if match is not None and match["name"] in FACTS:
            facts[match["name"]] = match["text"]
    raise UsageError(f"{file} has no header", fix=f"start with the line {','.join(COLUMNS)}")


def _check_header(header: list[str], where: str) -> None:
    missing = [column for column in COLUMNS if column not in header]
    unknown = [column for column in header if column not in (*COLUMNS, *OPTIONAL)]
    twice = [column for column in header if header.count(column) > 1]
    for what, columns in (("lacks the", missing), ("has an unknown", unknown), ("repeats the", twice)):
        if columns:
            raise UsageError(
                f"{where}: the header {what} column {columns[0]!r}",
                fix=f"columns: {', '.join(COLUMNS)}; optional: {', '.join(OPTIONAL)}",
            )


@dataclass(frozen=True, slots=True)
class _Row:
    """The cells of one line by column, and its location."""

    cells: Mapping[str, str]
    where: str

    @classmethod
    def of(cls, header: list[str], cells: list[str], where: str) -> _Row:
        if len(cells) != len(header):
            raise UsageError(
                f"{where} has {len(cells)} cells, but the header has {len(header)}",
                fix="write one cell per column, empty if unknown",
            )
        return cls(dict(zip(header, (cell.strip() for cell in cells), strict=True)), where)

    def get(self, column: str, parse: Callable[[str], T], valid: str) -> T | None:
        """The cell read by `parse`; None if it is empty or the column does not exist."""
        text = self.cells.get(column, "")
        if not text:
            return None
        try:
            return parse(text)
        except (ValueError, UsageError) as error:
            raise UsageError(
                f"{self.where}, column {column}: {text!r} is not {valid}",
                fix="fix the cell, or leave it empty",
            ) from error


def _machine(row: _Row, *, catalog: str, startup_s: Range | None) -> InstanceType:
    name = row.cells["instance_type"]
    if not name:
        raise UsageError(
            f"{row.where}, column instance_type: the name is empty", fix="name the instance type"
        )
    memory = row.get("memory_gib", _number, "a number of GiB above 0")
    usd = "a price in US dollars above 0"
    price, spot = row.get("usd_per_hour", _number, usd), row.get("spot_usd_per_hour", _number, usd)
    reserved = row.get("reserved_usd_per_hour", _number, usd)
    lag = row.get("startup", partial(_lag, "startup"), "a length of time such as 3m or 3m-5m")
    speed = row.get("speed", partial(parse_range, "speed"), "a number above 0 such as 1.3 or 1.3-1.5")
    if price is None and spot is None and reserved is None:
        raise UsageError(
            f"{row.where}, column usd_per_hour: {name!r} has no price", fix="add one, or remove the line"
        )
    return InstanceType(
        catalog=catalog,
        name=name,
        gpu=row.cells["gpu"],
        gpus=row.get("gpus", partial(_whole, least=0), "a whole number from 0") or 0,
        vcpus=row.get("vcpus", partial(_whole, least=1), "a whole number from 1"),
        memory=None if memory is None else round(memory * 2**30),
        usd_per_hour=price,
        spot_usd_per_hour=spot,
        reserved_usd_per_hour=reserved,
        startup_s=lag or startup_s,
        speed=speed,
    )


def _number(text: Any) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def _whole(text: str, *, least: int) -> int:
    number = int(text)
    if number < least:
        raise ValueError(text)
    return number
