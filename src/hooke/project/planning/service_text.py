"""A service's plan as text, and as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from hooke.project.planning.service import ServicePlan
from hooke.project.table import aligned
from hooke.scaling.estimate import Estimate
from hooke.scaling.provision import Offer

__all__ = ["service_plan_facts", "service_plan_text"]

COLUMNS = ("", "configuration", "bears", "of that asked for", "an hour", "a million requests")
MOST_NAMED = 3
"""Instance types named where many lack the same."""


def service_plan_text(plan: ServicePlan) -> str:
    """The plan as a table, with what it rests on and what it leaves out."""
    lines = [_title(plan)]
    offers = [offer for offer in plan.main_offers if offer.bears is not None]
    if offers:
        cells = [_cells(plan, offer) for offer in offers]
        kept = [at for at in range(len(COLUMNS)) if at == 0 or any(row[at] for row in cells)]
        lines += ["", *aligned([COLUMNS[at] for at in kept], [[row[at] for at in kept] for row in cells])]
    return "\n".join([*lines, "", *_said(plan)])


def service_plan_facts(plan: ServicePlan) -> dict[str, Any]:
    """Every offer, those on the front and the chosen one marked."""
    question, front = plan.question, plan.front
    return {
        "plan": _title(plan),
        "service": question.declared.name,
        "method": plan.method,
        "rate": question.rate,
        "promise": {"percent": plan.promise.percent, "limit_s": plan.promise.limit_s},
        "recommended": None if plan.choice.offer is None else str(plan.choice.offer.setup),
        "reason": plan.choice.reason,
        "measure": None if plan.choice.missing is None else msgspec.to_builtins(plan.choice.missing),
        "next": plan.next,
        "offers": [
            {
                "configuration": str(offer.setup),
                "machine": offer.setup.machine.id,
                "instances": offer.setup.instances,
                "replicas": offer.setup.replicas,
                "threads": offer.setup.threads,
                "requests_per_s": None if offer.bears is None else _estimate(offer.bears),
                "usd_per_hour": offer.setup.usd_per_hour,
                "grants": offer.grants(question.rate),
                "on_front": any(offer is each for each in front),
                "refused": offer.refused or None,
            }
            for offer in plan.offers
        ],
        "prices": [
            {"catalog": each.name, "source": each.source, "date": each.date} for each in plan.catalogs
        ],
        "notes": list(plan.notes),
    }


def _title(plan: ServicePlan) -> str:
    question = plan.question
    return f"plan of {question.declared.name}/{plan.method} for {question.rate:,.4g} requests/s within {plan.promise}"


def _said(plan: ServicePlan) -> Iterator[str]:
    chosen = plan.choice.offer is not None
    yield f"recommended: {plan.choice.reason}" if chosen else plan.choice.reason
    yield from _refused(plan)
    yield from plan.notes
    used = {offer.setup.machine.catalog for offer in plan.offers if offer.bears is not None}
    for catalog in plan.catalogs:
        if catalog.name in used:
            yield f"prices of {catalog.name}: {catalog.source} (date: {catalog.date})"


def _refused(plan: ServicePlan) -> Iterator[str]:
    """Why setups of this machine, and instance types, have no row: a line for each reason."""
    lacking: dict[str, list[str]] = {}
    told = {_name(offer) for offer in plan.offers if not offer.refused}
    for offer in plan.offers:  # the fewest instances of a type come first, and lack least
        if _name(offer) not in told:
            told.add(_name(offer))
            lacking.setdefault(offer.refused, []).append(_name(offer))
    for reason, names in lacking.items():
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        mend = f"; --speed {names[0]}=RATIO says how many times as fast as this machine one is"
        speed = mend if reason.startswith("speed") else ""
        yield f"not predicted: {', '.join(names[:MOST_NAMED])}{more}: {reason}{speed}"


def _name(offer: Offer) -> str:
    return str(offer.setup) if offer.setup.is_local else offer.setup.machine.id


def _cells(plan: ServicePlan, offer: Offer) -> tuple[str, ...]:
    assert offer.bears is not None
    usd, rate = offer.setup.usd_per_hour, plan.question.rate
    local = offer.setup.is_local
    return (
        "*" if offer is plan.choice.offer else "",
        str(offer.setup),
        f"{_rate(offer.bears.value)}/s ({_ends(offer.bears)})",
        f"{offer.bears.interval[0] / rate:.0%}" + ("" if offer.grants(rate) else ", too little"),
        "" if local or usd is None else f"${usd:,.2f}",
        "" if local or usd is None or not offer.grants(rate) else f"${usd / rate / 3600 * 1e6:,.2f}",
    )


def _ends(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{_rate(low)} to {_rate(high)}" if math.isfinite(high) else f"{_rate(low)} at least"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _estimate(each: Estimate) -> dict[str, Any]:
    low, high = each.interval
    return {
        "value": each.value,
        "interval": [low, high if math.isfinite(high) else None],
        "level": each.level,
    }
