"""A plan as plain values: for JSON, and for the journal."""

from __future__ import annotations

from typing import Any

from hooke.journal.plans import PlannedRow
from hooke.project.planning.answer import Answer
from hooke.scaling.estimate import Estimate
from hooke.scaling.planning import LOCAL, Row

__all__ = ["plan_facts", "planned_row"]


def plan_facts(plan: Answer) -> dict[str, Any]:
    """Every row considered, those on the front and the recommended one marked; each estimate as low, value and high."""
    return {
        "plan": plan.title,
        "recommended": None if plan.advice.row is None else str(plan.advice.row.configuration),
        "reason": plan.advice.reason,
        "measure": None if plan.advice.measure is None else list(plan.advice.measure),
        "next": plan.next,
        "tasks": [
            {"task": each.task, "left": each.left, "cached": each.cached, "untimed": each.untimed}
            for each in plan.tasks
        ],
        "rows": [_row(plan, row) for row in plan.rows],
        "prices": [
            {
                "catalog": each.name,
                "source": each.source,
                "date": each.date,
                "startup_source": each.startup_source,
            }
            for each in plan.catalogs
        ],
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
        seconds=_ends(row.seconds),
        usd=None if row.usd is None else _ends(row.usd),
        work_s={task: _ends(work) for task, work in row.work_s.items()},
    )


def _row(plan: Answer, row: Row) -> dict[str, Any]:
    configuration = row.configuration
    estimates = {
        "seconds": row.seconds,
        "usd": row.usd,
        "spot_usd": row.spot_usd,
        "efficiency": row.efficiency,
    }
    return {
        "configuration": str(configuration),
        "machine": LOCAL if configuration.is_local else configuration.machine.id,
        "instances": configuration.instances,
        "workers": configuration.workers,
        **{name: None if each is None else _ends(each) for name, each in estimates.items()},
        "front": any(row is kept for kept in plan.front),
        "refused": row.refused,
    }


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    low, high = estimate.interval
    return low, estimate.value, high
