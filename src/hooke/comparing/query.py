"""Conditions on runs, such as `params.depth>6`, names in several runs, and sorting. Conditions are parsed, not evaluated as code.

    condition = field operator value
    field     = "status" | "pipeline" | "name" | ("params." | "tags." | "metrics.") name
    name      = characters except < > = ! and quotes, or any text in backquotes, double or single quotes
    operator  = "=" | "==" | "!=" | "<" | "<=" | ">" | ">="
    value     = a number, text in quotes, or text without operators and quotes

Both sides are compared as numbers if both are numbers, otherwise as text; text is neither above nor below a number.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

from hooke.base.errors import UsageError
from hooke.comparing.facts import Name, RunFacts

__all__ = [
    "FIELDS",
    "GROUPS",
    "WHICH",
    "Condition",
    "NameGroup",
    "RunQuery",
    "cell_of",
    "holds",
    "is_system",
    "number",
    "parse_condition",
    "selected",
]


# --- The meaning of a name in several runs.

WHICH = ("last", "min", "max")
"""The values of a metric; `auc` means `auc.last`."""


class NameGroup:
    """The names of one group (`params`, `tags`, `metrics`, `artifacts`) in these runs."""

    def __init__(self, group: str, runs: Iterable[RunFacts]) -> None:
        self.group = group
        self._tasks: dict[str, dict[str, None]] = {}
        for facts in runs:
            for task, name in getattr(facts, group):
                self._tasks.setdefault(name, {})[task] = None

    def all(self) -> list[Name]:
        """All names, those of the run itself first."""
        found = [Name(task, name) for name, tasks in self._tasks.items() for task in tasks]
        return sorted(found, key=lambda each: (bool(each.task), each.task, each.name))

    def shown(self, name: Name) -> str:
        """The shortest text that `find` accepts for it."""
        return name.name if list(self._tasks[name.name]) == [name.task] else str(name)

    def find(self, text: str) -> Name:
        """The full name. Raises UsageError for a name that no run has, with similar names, and for a name of several tasks."""
        tasks = self._tasks.get(text)
        if tasks is not None and ("" in tasks or len(tasks) == 1):
            return Name("" if "" in tasks else next(iter(tasks)), text)
        for task, name in _splits(text):
            if task in self._tasks.get(name, {}):
                return Name(task, name)
        if tasks is not None:
            raise UsageError(
                f"several tasks logged {text!r} among {self.group}",
                fix=f"choose one: {', '.join(f'{task}.{text}' for task in tasks)}",
            )
        raise near(text, [self.shown(name) for name in self.all()], f"no run here has {self.group}.{text}")

    def metric(self, text: str) -> tuple[Name, str]:
        """A metric and one of WHICH: `auc`, `auc.max`, `fit.auc.min`. Raises as `find` does."""
        stem, _, which = text.rpartition(".")
        try:
            return self.find(text), "last"
        except UsageError:
            if which not in WHICH or not stem:
                raise
            return self.find(stem), which


def is_system(name: Name) -> bool:
    """Whether it is a system metric."""
    return name.name.startswith("system/")


def near(text: str, valid: Sequence[str], what: str) -> UsageError:
    """The error for an unknown name."""
    alike = get_close_matches(text, valid, n=5, cutoff=0.5)
    listed = [name for name in valid if not name.startswith("system/")][:20]
    if alike:
        fix = f"did you mean {' or '.join(alike)}?"
    else:
        fix = f"valid: {', '.join(listed)}" if listed else "these runs logged nothing of this kind"
    return UsageError(what, fix=fix)


def _splits(text: str) -> Iterable[tuple[str, str]]:
    """Each way to split `a.b.c` into a task and a name, which may both have dots."""
    at = text.find(".")
    while at > 0:
        yield text[:at], text[at + 1 :]
        at = text.find(".", at + 1)


GROUPS = ("params", "tags", "metrics")
FIELDS = ("status", "pipeline", "name")
EXAMPLE = "write one comparison, such as params.depth>6, tags.team=ours, metrics.auc>=0.9 or status=finished"

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUALITY = frozenset({"=", "==", "!="})
_CONDITION = re.compile(
    r"""\s* (?P<group> [a-z]+ ) \s*
        (?: \. \s* (?: (?P<quote> [`"'] ) (?P<quoted> .+? ) (?P=quote) | (?P<bare> [^<>=!`"']+? ) ) \s* )?
        (?P<operator> <= | >= | == | != | = | < | > ) \s*
        (?: (?P<mark> ["'] ) (?P<text> .* ) (?P=mark) | (?P<plain> [^<>=!"']*? ) ) \s*""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A comparison. `group` is one of GROUPS, with a `name`, or one of FIELDS, without."""

    group: str
    name: str
    operator: str
    value: str

    def __str__(self) -> str:
        """Text that parses into an equal condition."""
        mark = "'" if '"' in self.value else '"'
        quote = next((each for each in "`\"'" if each not in self.name), "`")
        name = f".{quote}{self.name}{quote}" if self.name else ""
        return f"{self.group}{name} {self.operator} {mark}{self.value}{mark}"


def parse_condition(text: str) -> Condition:
    """Parse a condition. Raises UsageError, which says what is wrong."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise UsageError(f"the condition {text!r} is not valid", fix=EXAMPLE)
    group, name = found["group"], (found["quoted"] or found["bare"] or "").strip()
    if group not in (*GROUPS, *FIELDS) or (group in GROUPS) != bool(name):
        raise _no_such(text, group, name)
    plain = found["plain"]
    value = found["text"] if plain is None else plain.strip()
    if plain is not None and re.search(r"\s(and|or)\s", plain):
        raise UsageError(
            f"the condition {text!r} has more than one comparison",
            fix="give one --where (or entry of where=) for each; all must hold. Put text with ` and ` in quotes",
        )
    if plain is not None and not value:
        raise UsageError(f"the condition {text!r} has no value", fix=f'{EXAMPLE}; "" is empty text')
    return Condition(group=group, name=name, operator=found["operator"], value=value)


def holds(condition: Condition, values: Iterable[str | float]) -> bool:
    """Whether the condition holds for one of the values. It never holds without values, not even `!=`."""
    return any(_fits(condition, value) for value in values)


def number(text: str | float) -> float | None:
    """The text as a number, if Python reads it as one; None for `nan`, which cannot be compared."""
    try:
        found = float(text)
    except ValueError:
        return None
    return None if math.isnan(found) else found


def _fits(condition: Condition, value: str | float) -> bool:
    compare = _COMPARE[condition.operator]
    left, right = number(value), number(condition.value)
    if left is not None and right is not None:
        return compare(left, right)
    if (left is None) != (right is None) and condition.operator not in _EQUALITY:
        return False
    return compare(str(value), condition.value)


def _no_such(text: str, group: str, name: str) -> UsageError:
    if group in FIELDS:
        why = f"{group} takes no name"
    elif group in GROUPS:
        why = f"{group} needs a name: {group}.NAME"
    else:
        near = get_close_matches(group, (*GROUPS, *FIELDS), n=1)
        meant = f"; did you mean {near[0]}{'.' + name if name and near[0] in GROUPS else ''}?" if near else ""
        why = f"{group!r} is not a field{meant}"
    valid = ", ".join([*FIELDS, *(f"{each}.NAME" for each in GROUPS)])
    return UsageError(f"the condition {text!r} is not valid", why=why, fix=f"valid: {valid}")


# --- Selecting and sorting runs.

ROW = ("started", "took", *FIELDS)
"""Fields of a run's row that runs can be sorted by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Conditions, all of which must hold, and a sort key: descending with a leading `-`; empty means the newest first."""

    where: tuple[Condition, ...] = ()
    sort: str = ""

    @classmethod
    def of(cls, where: str | Sequence[str] = (), sort: str = "") -> RunQuery:
        """Parse a query. Raises UsageError for an invalid condition."""
        texts = (where,) if isinstance(where, str) else tuple(where)
        return cls(where=tuple(map(parse_condition, texts)), sort=sort)


def selected(runs: Sequence[RunFacts], query: RunQuery) -> list[RunFacts]:
    """The matching runs, sorted; runs without the sort key come last. Raises UsageError for names that no run has."""
    if not runs:
        return []
    names = {group: NameGroup(group, runs) for group in ("params", "tags", "metrics")}
    tests = [partial(_holds, condition, _name(condition, names)) for condition in query.where]
    kept = [facts for facts in runs if all(test(facts) for test in tests)]
    return _sorted(kept, query.sort, names) if query.sort else kept


def cell_of(facts: RunFacts, metric: tuple[Name, str]) -> float | None:
    """The value of a metric that `NameGroup.metric` found; None if the run did not log it."""
    name, which = metric
    spread = facts.metrics.get(name)
    return None if spread is None else spread.value(which)


def _name(condition: Condition, names: dict[str, NameGroup]) -> tuple[Name, str] | None:
    if condition.group in FIELDS:
        return None
    if condition.group == "metrics":
        return names["metrics"].metric(condition.name)
    return names[condition.group].find(condition.name), ""


def _holds(condition: Condition, found: tuple[Name, str] | None, facts: RunFacts) -> bool:
    if found is None:
        return holds(condition, [getattr(facts.row, condition.group)])
    return holds(condition, _values(facts, condition.group, found))


def _values(facts: RunFacts, group: str, found: tuple[Name, str]) -> Sequence[str | float]:
    if group == "metrics":
        value = cell_of(facts, found)
        return [] if value is None else [value]
    values: tuple[str, ...] = getattr(facts, group).get(found[0], ())
    return values


def _sorted(runs: list[RunFacts], sort: str, names: dict[str, NameGroup]) -> list[RunFacts]:
    text = sort.removeprefix("-")
    group, found = _sort_key(text, names)
    keyed = [(_key(facts, text, group, found), facts) for facts in runs]
    there = [(key, facts) for key, facts in keyed if key is not None]
    there.sort(key=lambda pair: pair[0], reverse=sort.startswith("-"))
    return [facts for _, facts in there] + [facts for key, facts in keyed if key is None]


def _sort_key(text: str, names: dict[str, NameGroup]) -> tuple[str, tuple[Name, str] | None]:
    """The group and the name in it. A bare name is a field of the row, else a metric."""
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
        raise near(text, valid, f"runs cannot be sorted by {text!r}: no run has it") from error


def _key(
    facts: RunFacts, text: str, group: str, found: tuple[Name, str] | None
) -> tuple[bool, float, str] | None:
    """A sort key that puts numbers before text."""
    if found is None:
        value = {
            "started": facts.row.started_at,
            "took": facts.row.seconds,
            "status": facts.row.status,
            "pipeline": facts.row.pipeline,
            "name": facts.row.name,
        }[text]
        values: Sequence[str | float] = [value]
    else:
        values = _values(facts, group, found)
    if not values or (isinstance(values[0], float) and math.isnan(values[0])):
        return None
    size = number(values[0])
    return (False, size, "") if size is not None else (True, 0.0, str(values[0]))
