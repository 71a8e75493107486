"""`params.depth>6`: a condition on runs, read by a small parser of its own; nothing of it is evaluated as code.

    condition = field operator value
    field     = "status" | "pipeline" | ("params." | "tags." | "metrics.") name
    name      = characters without < > = ! and quotes, or any in backquotes, double or single quotes
    operator  = "=" | "==" | "!=" | "<" | "<=" | ">" | ">="
    value     = a number, text in quotes, or text without operators and quotes

Both sides are compared as numbers where both are numbers, else as text; text is neither above nor below a number.
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
    "near",
    "number",
    "parse_condition",
    "selected",
]


# --- Which thing somebody means by a name, in several runs at once.

WHICH = ("last", "min", "max")
"""Of a metric; `auc` is `auc.last`."""


class NameGroup:
    """The names of one group (`params`, `tags`, `metrics`, `artifacts`) in these runs."""

    def __init__(self, group: str, runs: Iterable[RunFacts]) -> None:
        self.group = group
        self._tasks: dict[str, dict[str, None]] = {}
        for facts in runs:
            for task, name in getattr(facts, group):
                self._tasks.setdefault(name, {})[task] = None

    def all(self) -> list[Name]:
        """Every one, those of the run itself first."""
        found = [Name(task, name) for name, tasks in self._tasks.items() for task in tasks]
        return sorted(found, key=lambda each: (bool(each.task), each.task, each.name))

    def shown(self, name: Name) -> str:
        """As short as `find` finds it again."""
        return name.name if list(self._tasks[name.name]) == [name.task] else str(name)

    def find(self, text: str) -> Name:
        """What is meant. Raises UsageError for what no run has, with names like it, and for a name of several tasks."""
        tasks = self._tasks.get(text)
        if tasks is not None and ("" in tasks or len(tasks) == 1):
            return Name("" if "" in tasks else next(iter(tasks)), text)
        for task, name in _splits(text):
            if task in self._tasks.get(name, {}):
                return Name(task, name)
        if tasks is not None:
            raise UsageError(
                f"several tasks logged {text!r} among {self.group}",
                fix=f"name one: {', '.join(f'{task}.{text}' for task in tasks)}",
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
    """Whether it is a sample of the machine, which nobody logged."""
    return name.name.startswith("system/")


def near(text: str, valid: Sequence[str], what: str) -> UsageError:
    """The error for a name that is not there."""
    alike = get_close_matches(text, valid, n=5, cutoff=0.5)
    listed = [name for name in valid if not name.startswith("system/")][:20]
    if alike:
        fix = f"did you mean {' or '.join(alike)}?"
    else:
        fix = f"valid: {', '.join(listed)}" if listed else "nothing of that kind was logged in these runs"
    return UsageError(what, fix=fix)


def _splits(text: str) -> Iterable[tuple[str, str]]:
    """Each way to read `a.b.c` as a task and a name: both may hold dots."""
    at = text.find(".")
    while at > 0:
        yield text[:at], text[at + 1 :]
        at = text.find(".", at + 1)


GROUPS = ("params", "tags", "metrics")
FIELDS = ("status", "pipeline")
EXAMPLE = "write one comparison, as params.depth>6, tags.team=ours, metrics.auc>=0.9 or status=finished"

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
    """`group` is one of GROUPS, with a `name`, or of FIELDS, without."""

    group: str
    name: str
    operator: str
    value: str

    def __str__(self) -> str:
        """Text that is parsed into an equal condition."""
        mark = "'" if '"' in self.value else '"'
        quote = next((each for each in "`\"'" if each not in self.name), "`")
        name = f".{quote}{self.name}{quote}" if self.name else ""
        return f"{self.group}{name} {self.operator} {mark}{self.value}{mark}"


def parse_condition(text: str) -> Condition:
    """Raises UsageError, saying what is wrong with it."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise UsageError(f"the condition {text!r} cannot be read", fix=EXAMPLE)
    group, name = found["group"], (found["quoted"] or found["bare"] or "").strip()
    if group not in (*GROUPS, *FIELDS) or (group in GROUPS) != bool(name):
        raise _no_such(text, group, name)
    plain = found["plain"]
    value = found["text"] if plain is None else plain.strip()
    if plain is not None and re.search(r"\s(and|or)\s", plain):
        raise UsageError(
            f"the condition {text!r} holds more than one comparison",
            fix="give --where (or an entry of where=) for each: all of them must hold; text with ` and ` in it goes in quotes",
        )
    if plain is not None and not value:
        raise UsageError(
            f"the condition {text!r} has nothing to compare with", fix=f'{EXAMPLE}; "" is empty text'
        )
    return Condition(group=group, name=name, operator=found["operator"], value=value)


def holds(condition: Condition, values: Iterable[str | float]) -> bool:
    """Whether one of the values fits; without values nothing does, `!=` neither."""
    return any(_fits(condition, value) for value in values)


def number(text: str | float) -> float | None:
    """The number that it is, if it is one as Python writes numbers. `nan` is none: it compares with nothing."""
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
        why = f"{group} has no parts"
    elif group in GROUPS:
        why = f"{group} of which name? {group}.NAME"
    else:
        near = get_close_matches(group, (*GROUPS, *FIELDS), n=1)
        meant = f"; did you mean {near[0]}{'.' + name if name and near[0] in GROUPS else ''}?" if near else ""
        why = f"there is no {group!r} to ask for{meant}"
    valid = ", ".join([*FIELDS, *(f"{each}.NAME" for each in GROUPS)])
    return UsageError(f"the condition {text!r} cannot be read", why=why, fix=f"valid are {valid}")


# --- Runs that fit conditions, in an order.

ROW = ("started", "took", *FIELDS)
"""What runs are sorted by that nobody logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Conditions that all must hold, and what to sort by: descending with a `-` before it; empty is the newest first."""

    where: tuple[Condition, ...] = ()
    sort: str = ""

    @classmethod
    def of(cls, where: str | Sequence[str] = (), sort: str = "") -> RunQuery:
        """From text. Raises UsageError for a condition that cannot be read."""
        texts = (where,) if isinstance(where, str) else tuple(where)
        return cls(where=tuple(map(parse_condition, texts)), sort=sort)


def selected(runs: Sequence[RunFacts], query: RunQuery) -> list[RunFacts]:
    """The runs that fit, sorted; runs without what they are sorted by come last. Raises UsageError for names that no run has."""
    if not runs:
        return []
    names = {group: NameGroup(group, runs) for group in ("params", "tags", "metrics")}
    tests = [partial(_holds, condition, _name(condition, names)) for condition in query.where]
    kept = [facts for facts in runs if all(test(facts) for test in tests)]
    return _sorted(kept, query.sort, names) if query.sort else kept


def cell_of(facts: RunFacts, metric: tuple[Name, str]) -> float | None:
    """The value of a metric that `Names.metric` found; None where the run did not log it."""
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
    facts: RunFacts, text: str, group: str, found: tuple[Name, str] | None
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
