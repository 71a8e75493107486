"""Runs that fit conditions, in an order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from hooke.base.errors import UsageError
from hooke.project.comparing.facts import Facts, Name
from hooke.project.comparing.names import Names, near
from hooke.project.comparing.where import FIELDS, Condition, holds, number, parse_condition

__all__ = ["Query", "cell_of", "selected"]

ROW = ("started", "took", *FIELDS)
"""What runs are sorted by that nobody logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Conditions that all must hold, and what to sort by: descending with a `-` before it; empty is the newest first."""

    where: tuple[Condition, ...] = ()
    sort: str = ""

    @classmethod
    def of(cls, where: str | Sequence[str] = (), sort: str = "") -> Query:
        """From text. Raises UsageError for a condition that cannot be read."""
        texts = (where,) if isinstance(where, str) else tuple(where)
        return cls(where=tuple(map(parse_condition, texts)), sort=sort)


def selected(runs: Sequence[Facts], query: Query) -> list[Facts]:
    """The runs that fit, sorted; runs without what they are sorted by come last. Raises UsageError for names that no run has."""
    if not runs:
        return []
    names = {group: Names(group, runs) for group in ("params", "tags", "metrics")}
    tests = [partial(_holds, condition, _name(condition, names)) for condition in query.where]
    kept = [facts for facts in runs if all(test(facts) for test in tests)]
    return _sorted(kept, query.sort, names) if query.sort else kept


def cell_of(facts: Facts, metric: tuple[Name, str]) -> float | None:
    """The value of a metric that `Names.metric` found; None where the run did not log it."""
    name, which = metric
    spread = facts.metrics.get(name)
    return None if spread is None else spread.value(which)


def _name(condition: Condition, names: dict[str, Names]) -> tuple[Name, str] | None:
    if condition.group in FIELDS:
        return None
    if condition.group == "metrics":
        return names["metrics"].metric(condition.name)
    return names[condition.group].find(condition.name), ""


def _holds(condition: Condition, found: tuple[Name, str] | None, facts: Facts) -> bool:
    if found is None:
        return holds(condition, [getattr(facts.row, condition.group)])
    return holds(condition, _values(facts, condition.group, found))


def _values(facts: Facts, group: str, found: tuple[Name, str]) -> Sequence[str | float]:
    if group == "metrics":
        value = cell_of(facts, found)
        return [] if value is None else [value]
    values: tuple[str, ...] = getattr(facts, group).get(found[0], ())
    return values


def _sorted(runs: list[Facts], sort: str, names: dict[str, Names]) -> list[Facts]:
    text = sort.removeprefix("-")
    group, found = _sort_key(text, names)
    keyed = [(_key(facts, text, group, found), facts) for facts in runs]
    there = [(key, facts) for key, facts in keyed if key is not None]
    there.sort(key=lambda pair: pair[0], reverse=sort.startswith("-"))
    return [facts for _, facts in there] + [facts for key, facts in keyed if key is None]


def _sort_key(text: str, names: dict[str, Names]) -> tuple[str, tuple[Name, str] | None]:
    """The group and the name in it; of a bare name, first a field of the row, then a metric."""
    if text in ROW:
        return "", None
    group, _, name = text.partition(".")
    if group in ("params", "tags") and name:
        return group, (names[group].find(name), "")
    try:
        return "metrics", names["metrics"].metric(name if group == "metrics" and name else text)
    except UsageError as error:
        if group == "metrics" or error.what.startswith("several"):
            raise
        valid = [*ROW, *(names["metrics"].shown(each) for each in names["metrics"].all())]
        valid += [f"params.{names['params'].shown(each)}" for each in names["params"].all()]
        raise near(text, valid, f"runs cannot be sorted by {text!r}: no run here has it") from error


def _key(
    facts: Facts, text: str, group: str, found: tuple[Name, str] | None
) -> tuple[bool, float, str] | None:
    """Numbers before text."""
    if found is None:
        value = {
            "started": facts.row.started_at,
            "took": facts.row.seconds,
            "status": facts.row.status,
            "pipeline": facts.row.pipeline,
        }[text]
        values: Sequence[str | float] = [value]
    else:
        values = _values(facts, group, found)
    if not values or (isinstance(values[0], float) and math.isnan(values[0])):
        return None
    size = number(values[0])
    return (False, size, "") if size is not None else (True, 0.0, str(values[0]))
