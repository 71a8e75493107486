"""The Pareto front of predicted configurations, and the recommended one with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hooke.base.formats import format_seconds
from hooke.scaling.families import KNEE_SHARE
from hooke.scaling.time_and_price import Row
from hooke.scaling.workload import Untimed

__all__ = ["Advice", "PlanLimits", "first_measurement", "front", "measured", "recommend", "usd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLimits:
    """Limits on the seconds until the end and on the total US dollars; None is no limit."""

    deadline_s: float | None = None
    budget_usd: float | None = None

    def granted(self, row: Row) -> bool:
        """Whether the row keeps the limits even at the high ends of its intervals."""
        if row.seconds is None or row.usd is None:
            return False
        in_time = self.deadline_s is None or row.seconds.interval[1] <= self.deadline_s
        return in_time and (self.budget_usd is None or row.usd.interval[1] <= self.budget_usd)

    def __str__(self) -> str:
        parts = [
            "" if self.deadline_s is None else f"the deadline of {format_seconds(self.deadline_s)}",
            "" if self.budget_usd is None else f"the budget of ${self.budget_usd:,.2f}",
        ]
        return " and ".join(filter(None, parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The recommended row or None, with the reason. `measure` is the (task, N) to measure next."""

    row: Row | None
    reason: str
    measure: tuple[str, int] | None = None


def front(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other row beats in both time and money, the cheapest first.

    It compares values at list prices, neither interval ends nor spot and reserved prices.
    """
    priced = [
        (row.usd.value, row.seconds.value, row)
        for row in rows
        if row.usd is not None and row.seconds is not None
    ]
    kept: list[Row] = []
    fastest = float("inf")
    for _, seconds, row in sorted(priced, key=lambda each: each[:2]):
        if seconds < fastest:
            kept.append(row)
            fastest = seconds
    return kept


def recommend(rows: Sequence[Row], wish: PlanLimits, untimed: Sequence[Untimed] = ()) -> Advice:
    """The cheapest row within the limits, the fastest among equals; with only a budget, the fastest row within it.

    `untimed` are tasks that no row counts; no row is then certain to keep a limit.
    """
    known = [row for row in rows if row.seconds is not None and row.usd is not None]
    measure = first_measurement(rows)
    if not known:
        return Advice(row=None, reason=_nothing_known(rows, measure), measure=measure)
    if untimed:
        return _in_part(known, wish, ", ".join(each.task for each in untimed))
    granted = [row for row in known if wish.granted(row)]
    if not granted:
        return _none_granted(known, wish, measure)
    if wish.budget_usd is not None and wish.deadline_s is None:
        return _within_budget(granted, wish)
    local = [row for row in granted if row.configuration.is_local]
    if local and wish.deadline_s is not None:
        row = _at_the_knee(local)
        return Advice(row=row, reason=f"you do not need a cluster: {_what(row)}, within {wish}")
    if wish.deadline_s is None:
        return _without_wish(known)
    row = min(granted, key=lambda each: (_usd(each), _seconds(each)))
    return Advice(row=row, reason=f"the cheapest that keeps {wish}: {_what(row)}{_other_prices(row)}")


def _in_part(known: Sequence[Row], wish: PlanLimits, untimed: str) -> Advice:
    if str(wish):
        row = min(known, key=_seconds)
        return Advice(
            row=None,
            reason=f"not enough data to keep {wish}: no total counts {untimed}; the rest takes at best {_what(row)}",
        )
    advice = _without_wish(known)
    return Advice(row=advice.row, reason=f"{advice.reason}; not counted: {untimed}")


def _without_wish(known: Sequence[Row]) -> Advice:
    cheapest, fastest = min(known, key=lambda row: (_usd(row), _seconds(row))), min(known, key=_seconds)
    if fastest.configuration.is_local:
        fastest = _at_the_knee([row for row in known if row.configuration.is_local])
        others = any(not row.configuration.is_local for row in known)
        why = "no other predictable configuration is faster" if others else "nothing else is predictable"
        need = "you do not need a cluster: " if others else ""
        return Advice(row=fastest, reason=f"{need}{_what(fastest)}, and {why}")
    if cheapest is fastest:
        return Advice(
            row=cheapest, reason=f"the cheapest and the fastest: {_what(cheapest)}{_other_prices(cheapest)}"
        )
    return Advice(
        row=cheapest,
        reason=f"the cheapest: {_what(cheapest)}; the fastest is {_what(fastest)}. A deadline or a budget decides between them",
    )


def _at_the_knee(local: Sequence[Row]) -> Row:
    """The row of this machine with the fewest workers that is practically as fast as the best."""
    best = min(map(_seconds, local))
    return min(
        (row for row in local if KNEE_SHARE * _seconds(row) <= best),
        key=lambda row: row.configuration.workers,
    )


def _within_budget(granted: Sequence[Row], wish: PlanLimits) -> Advice:
    row = min(granted, key=lambda each: (_seconds(each), _usd(each)))
    if row.configuration.is_local:
        row = _at_the_knee([each for each in granted if each.configuration.is_local])
        return Advice(row=row, reason=f"you do not need a cluster, nothing faster keeps {wish}: {_what(row)}")
    return Advice(row=row, reason=f"the fastest that keeps {wish}: {_what(row)}{_other_prices(row)}")


def _none_granted(known: Sequence[Row], wish: PlanLimits, measure: tuple[str, int] | None) -> Advice:
    row = min(known, key=_seconds) if wish.deadline_s is not None else min(known, key=_usd)
    best = "fastest" if wish.deadline_s is not None else "cheapest"
    more = f"; not enough data for others: {measured(measure)}" if measure is not None else ""
    return Advice(
        row=None,
        reason=f"no configuration reliably keeps {wish}: the {best} predictable one is {_what(row)}{more}",
        measure=measure,
    )


def _nothing_known(rows: Sequence[Row], measure: tuple[str, int] | None) -> str:
    if measure is not None:
        why = next(row.refused for row in rows if row.measure == measure)
        return f"not enough data: {measured(measure)} ({why})"
    reasons = sorted({row.refused for row in rows})
    return f"no prediction is possible: {'; '.join(reasons) or 'no configuration given'}"


def measured(measure: tuple[str, int]) -> str:
    """`measure features at N=4`."""
    task, n = measure
    return f"measure {task} at N={n}"


def first_measurement(rows: Sequence[Row]) -> tuple[str, int] | None:
    """The (task, N) that the smallest refused configuration lacks; larger ones ask for too much at first."""
    lacking = [row for row in rows if row.measure is not None]
    return min(lacking, key=lambda row: row.configuration.workers).measure if lacking else None


def _what(row: Row) -> str:
    assert row.seconds is not None
    assert row.usd is not None
    money = "" if row.configuration.is_local else f" for {row.usd.shown(usd)}"
    return f"{row.configuration} in {row.seconds.shown(format_seconds)}{money}"


def _other_prices(row: Row) -> str:
    found = [
        ""
        if row.spot_usd is None
        else f"{row.spot_usd.shown(usd)} at the spot price, if nothing is preempted",
        "" if row.reserved_usd is None else f"{row.reserved_usd.shown(usd)} at the reserved price",
    ]
    said = "; ".join(filter(None, found))
    return f" ({said})" if said else ""


def _seconds(row: Row) -> float:
    assert row.seconds is not None
    return row.seconds.value


def _usd(row: Row) -> float:
    assert row.usd is not None
    return row.usd.value


def usd(amount: float) -> str:
    """`$1.20`."""
    return f"${amount:,.2f}"
