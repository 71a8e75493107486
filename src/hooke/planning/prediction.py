"""A prediction: its rows, and how they are shown as text, HTML and plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import msgspec

from hooke.base.formats import aligned, format_seconds
from hooke.base.table import html_table
from hooke.journal.events import PlannedRow
from hooke.scaling.catalog import Catalog
from hooke.scaling.pareto import Advice, front, measured, usd
from hooke.scaling.time_and_price import LOCAL, Row
from hooke.scaling.workload import Untimed

__all__ = [
    "Prediction",
    "TaskShare",
    "against",
    "filled",
    "lacking",
    "plan_facts",
    "plan_html",
    "plan_text",
    "planned_row",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskShare:
    """A task in a plan: `left` items and calls are to be done (None if unknown before it runs), and `cached` are not.

    `untimed` says why no row includes the task; empty if rows include it.
    """

    task: str
    left: int | None
    cached: int
    untimed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A prediction.

    `rows` are all configurations considered, `tasks` are in the order of the graph, `untimed` are those that no row includes,
    `notes` are the basis of the prediction, and `next` is the command to type.
    """

    title: str
    rows: tuple[Row, ...]
    advice: Advice
    tasks: tuple[TaskShare, ...]
    untimed: tuple[Untimed, ...]
    catalogs: tuple[Catalog, ...]
    notes: tuple[str, ...]
    next: str

    @property
    def front(self) -> list[Row]:
        """The rows that no other row beats in both time and cost; the cheapest first."""
        return front(self.rows)

    @property
    def main_rows(self) -> list[Row]:
        """The rows of this machine, and the other rows on the front."""
        kept = self.front
        return [row for row in self.rows if row.configuration.is_local or any(row is each for each in kept)]

    def priced_by(self) -> list[Catalog]:
        """The price lists that rows take their prices from."""
        used = {
            row.configuration.machine.catalog
            for row in self.rows
            if row.usd or row.spot_usd or row.reserved_usd
        }
        return [each for each in self.catalogs if each.name in used]

    @property
    def recommended(self) -> Row | None:
        """The best row; None if none can be recommended."""
        return self.advice.row

    @property
    def reason(self) -> str:
        """Why this row is recommended, or why none is."""
        return self.advice.reason


# --- As plain values, for JSON and for the journal.


def plan_facts(plan: Prediction) -> dict[str, Any]:
    """All rows, with marks for the front and the recommended one. An estimate is (low, value, high)."""
    return {
        "plan": plan.title,
        "recommended": None if plan.advice.row is None else str(plan.advice.row.configuration),
        "reason": plan.advice.reason,
        "measure": None if plan.advice.measure is None else list(plan.advice.measure),
        "next": plan.next,
        "tasks": msgspec.to_builtins(plan.tasks),
        "rows": [_row(plan, row) for row in plan.rows],
        "prices": [each.facts() for each in plan.catalogs],
        "notes": list(plan.notes),
    }


def planned_row(row: Row) -> PlannedRow:
    """A predicted row, for the journal."""
    configuration = row.configuration
    assert row.seconds is not None
    return PlannedRow(
        configuration=str(configuration),
        machine=LOCAL if configuration.is_local else configuration.machine.id,
        instances=configuration.instances,
        workers=configuration.workers,
        seconds=row.seconds.ends,
        usd=None if row.usd is None else row.usd.ends,
        work_s={task: work.ends for task, work in row.work_s.items()},
    )


ESTIMATES = ("seconds", "usd", "spot_usd", "reserved_usd", "efficiency")


def _row(plan: Prediction, row: Row) -> dict[str, Any]:
    configuration = row.configuration
    estimates = {name: getattr(row, name) for name in ESTIMATES}
    return {
        "configuration": str(configuration),
        "machine": LOCAL if configuration.is_local else configuration.machine.id,
        "instances": configuration.instances,
        "workers": configuration.workers,
        **{name: None if each is None else each.ends for name, each in estimates.items()},
        "front": any(row is kept for kept in plan.front),
        "refused": row.refused,
    }


# --- As text, and as a small HTML table for notebooks.

COLUMNS = ("", "configuration", "time", "cost", "spot", "reserved", "efficiency")
RESERVED = "reserved: the price of these hours alone; a reserved machine costs its other hours, too"
MOST_NAMED = 3
"""Instance types that are named when many have the same problem."""


def plan_text(plan: Prediction) -> str:
    """The plan as a table, with its basis and what it leaves out."""
    lines = [plan.title, *(f"  {line}" for line in _left(plan))]
    rows = plan.main_rows
    if rows:
        lines += ["", *filled(COLUMNS, [_cells(plan, row) for row in rows])]
    lines += ["", *_said(plan)]
    return "\n".join(lines)


def filled(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table without its empty columns; the first column stays."""
    return aligned(*_filled(columns, rows))


def _filled(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    kept = [at for at in range(len(columns)) if at == 0 or any(row[at] for row in rows)]
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]


def plan_html(plan: Prediction) -> str:
    """The plan for a notebook. All text is escaped; no script runs and nothing is loaded."""
    rows = plan.main_rows
    table = html_table(*_filled(COLUMNS, [_cells(plan, row) for row in rows])) if rows else ""
    above = "".join(f"<div>{escape(line)}</div>" for line in _left(plan))
    below = "".join(f"<div>{escape(line)}</div>" for line in _said(plan))
    return f'<div class="hooke-plan"><div><b>{escape(plan.title)}</b></div>{above}{table}{below}</div>'


def _left(plan: Prediction) -> Iterator[str]:
    left = sum(each.left or 0 for each in plan.tasks)
    cached = sum(each.cached for each in plan.tasks)
    tasks = [
        f"{each.task} {'?' if each.left is None else each.left}" for each in plan.tasks if each.left != 0
    ]
    if tasks:
        yield f"{left} calls and items left to do: {', '.join(tasks)}"
    if cached:
        yield f"left out: {cached} with stored results, or needed only by those"
    for each in plan.tasks:
        if each.untimed:
            yield f"not counted: {each.task}, {each.untimed}"


def _said(plan: Prediction) -> Iterator[str]:
    yield f"recommended: {plan.advice.reason}" if plan.advice.row is not None else plan.advice.reason
    yield from _refused(plan.rows)
    yield from plan.notes
    if any(row.reserved_usd for row in plan.main_rows):
        yield RESERVED
    for catalog in plan.priced_by():
        yield f"prices of {catalog.name}: {catalog.source} (date: {catalog.date})"
        if catalog.startup_source:
            yield f"start-up of {catalog.name}: {catalog.startup_source}"


def _refused(rows: Sequence[Row]) -> Iterator[str]:
    """Why configurations or instance types have no row: one line for each reason."""
    for reason, name, named in lacking([(_name(row), _reason(row)) for row in rows]):
        yield f"not predicted: {named}: {reason}{_fix(reason, name)}"


def lacking(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """(reason, first name, all names) for each reason, from (name, reason) of all rows; a row without a reason has a prediction."""
    rows = list(rows)
    done = {name for name, reason in rows if not reason}
    names_by: dict[str, list[str]] = {}
    for name, reason in rows:  # the smallest number of instances comes first and has the fewest problems
        if name not in done:
            done.add(name)
            names_by.setdefault(reason, []).append(name)
    for reason, names in names_by.items():
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        yield reason, names[0], ", ".join(names[:MOST_NAMED]) + more


def _reason(row: Row) -> str:
    return row.refused + (f"; {measured(row.measure)}" if row.refused and row.measure is not None else "")


def _name(row: Row) -> str:
    """The name of what has no row: this machine with a number of workers, or an instance type."""
    return str(row.configuration) if row.configuration.is_local else row.configuration.machine.id


def _fix(reason: str, name: str) -> str:
    if reason.startswith("speed"):
        return f"; give its speed relative to this machine: --speed {name}=RATIO"
    if reason.startswith("start-up"):
        return f"; --startup {name.partition(':')[0]}=3m-5m"
    if reason.startswith("its vCPUs"):
        return "; add them in a price list of your own"
    return ""


def _cells(plan: Prediction, row: Row) -> tuple[str, ...]:
    mark = "*" if row is plan.advice.row else ""
    if row.seconds is None:
        return mark, str(row.configuration), "not predicted", "", "", "", ""
    return (
        mark,
        str(row.configuration),
        row.seconds.shown(format_seconds),
        "" if row.configuration.is_local or row.usd is None else row.usd.shown(usd),
        ""
        if row.spot_usd is None
        else usd(row.spot_usd.value),  # its interval is as wide as that of the cost
        "" if row.reserved_usd is None else usd(row.reserved_usd.value),
        "" if row.efficiency is None else row.efficiency.shown("{:.0%}".format),
    )


def against(predicted: tuple[float, float, float] | None, seconds: float) -> tuple[str, str, str]:
    """The predicted time, the measured one, and where this lies: inside, faster or slower. None was not predicted."""
    if predicted is None:
        return "not counted", format_seconds(seconds), ""
    low, value, high = map(format_seconds, predicted)
    faster = "faster" if seconds < predicted[0] else "slower"
    verdict = "inside" if predicted[0] <= seconds <= predicted[2] else faster
    return f"{value} ({low} to {high})", format_seconds(seconds), verdict
