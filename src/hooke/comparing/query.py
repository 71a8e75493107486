"""Conditions on runs, such as `params.depth>6`, names in several runs, and sorting. Conditions are parsed, not evaluated as code.

    where     = all ("or" all)*
    all       = part ("and" part)*
    part      = "(" where ")" | condition | field "in" "(" value ("," value)* ")"
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.comparing.facts import Name, RunFacts
from hooke.journal.events import FINISHED, WITH_FAILURES

__all__ = [
    "FIELDS",
    "GROUPS",
    "WHICH",
    "AllOf",
    "AnyOf",
    "Condition",
    "NameGroup",
    "RunQuery",
    "Where",
    "cell_of",
    "holds",
    "is_system",
    "number",
    "parse_condition",
    "parse_where",
    "selected",
    "values_hint",
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
EXAMPLE = "write one comparison, such as params.depth>6, tags.team=ours, metrics.auc>=0.9 or status=finished; join several with and, or"

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
    if not text.strip():
        raise UsageError("a comparison is missing", fix=EXAMPLE)
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
            fix='put a value that has "and" or "or" in quotes: tags.note="salt and pepper"',
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


# --- Conditions joined by `and` and `or`.


@dataclass(frozen=True, slots=True)
class AllOf:
    """All parts hold."""

    parts: tuple[Where, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Where, ...]


Where: TypeAlias = Condition | AllOf | AnyOf

STATUSES = ("running", FINISHED, WITH_FAILURES, "failed", "stopped", "lost", "new")
_WORD = re.compile(r"(?P<word>and|or)(?=[\s(]|$)")
_LIST = re.compile(
    r"""(?P<field> [a-z]+ (?: \s* \. \s* (?: [`"'] .+? [`"'] | [^<>=!`"']+? ) )? ) \s+ (?P<negated> not \s+ )? in \b \s*
        (?: [(\[] (?P<values> .* ) [)\]] | (?P<bare> .* ) )""",
    re.VERBOSE | re.DOTALL,
)


def parse_where(text: str) -> Where:
    """Parse conditions joined by `and`, `or` and parentheses. Raises UsageError, also for a status that no run can have."""
    for word, joined in (("or", AnyOf), ("and", AllOf)):
        parts = _split(text, word)
        if len(parts) > 1:
            return joined(tuple(_part(part, text) for part in parts))
    inner = text.strip()
    if inner.startswith("(") and _closing(inner) == len(inner) - 1:
        return parse_where(inner[1:-1])
    listed = _LIST.fullmatch(inner)
    if listed is not None:
        return _parse_list(inner, listed)
    condition = parse_condition(text)
    if condition.group == "status" and condition.value not in STATUSES:
        raise UsageError(
            f"the condition {text!r} has an unknown status",
            fix=f"{did_you_mean(condition.value, STATUSES)}valid: {', '.join(STATUSES)}",
        )
    if (
        condition.group == "metrics"
        and condition.operator not in _EQUALITY
        and number(condition.value) is None
    ):
        raise UsageError(
            f"the condition {text!r} never holds: a metric is a number, and {condition.value!r} is not",
            fix=f"write a number: metrics.{condition.name}{condition.operator}0.9",
        )
    return condition


def _part(part: str, whole: str) -> Where:
    try:
        return parse_where(part.strip())
    except UsageError as error:
        error.where = error.where or repr(whole)
        raise


def _parse_list(text: str, found: re.Match[str]) -> Where:
    values = [each.strip() for each in _split(found["values"] or "", ",")]
    if not all(values):
        raise UsageError(
            f"the condition {text!r} is not valid", fix=f"write a list: {found['field']} in (one, other)"
        )
    operator_, joined = ("!=", AllOf) if found["negated"] else ("=", AnyOf)
    return joined(tuple(parse_where(f"{found['field']}{operator_}{value}") for value in values))


def _split(text: str, mark: str) -> list[str]:
    """The parts of `text` between commas, or between the words `and` or `or`, outside of quotes and parentheses."""
    parts: list[str] = []
    depth, start, at = 0, 0, 0
    while at < len(text):
        letter = text[at]
        if letter in "`\"'" and (end := text.find(letter, at + 1)) > 0:
            at = end
        depth = max(depth + (letter in "([") - (letter in ")]"), 0)
        if not depth and _is_mark(text, at, mark):
            parts.append(text[start:at])
            start = at + len(mark)
            at = start - 1
        at += 1
    return [*parts, text[start:]]


def _is_mark(text: str, at: int, mark: str) -> bool:
    if mark == ",":
        return text[at] == mark
    found = _WORD.match(text, at)
    return (
        found is not None
        and found["word"] == mark
        and at > 0
        and (text[at - 1].isspace() or text[at - 1] == ")")
    )


def _closing(text: str) -> int:
    """Where the parenthesis that `text` begins with is closed; -1 if nowhere."""
    depth, at = 0, 0
    while at < len(text):
        letter = text[at]
        if letter in "`\"'" and (end := text.find(letter, at + 1)) > 0:
            at = end
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return at
        at += 1
    return -1


def _leaves(where: Where) -> Iterator[Condition]:
    if isinstance(where, Condition):
        yield where
    else:
        for part in where.parts:
            yield from _leaves(part)


# --- Selecting and sorting runs.

MOST_VALUES = 10
"""Values that a hint lists."""
ROW = ("started", "took", *FIELDS)
"""Fields of a run's row that runs can be sorted by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Conditions, all of which must hold, and a sort key: descending with a leading `-`; empty means the newest first."""

    where: tuple[Where, ...] = ()
    sort: str = ""

    @classmethod
    def of(cls, where: str | Sequence[str] = (), sort: str = "") -> RunQuery:
        """Parse a query. Raises UsageError for an invalid condition."""
        texts = (where,) if isinstance(where, str) else tuple(where)
        return cls(where=tuple(map(parse_where, texts)), sort=sort)


def selected(runs: Sequence[RunFacts], query: RunQuery) -> list[RunFacts]:
    """The matching runs, sorted; runs without the sort key come last. Raises UsageError for names that no run has."""
    if not runs:
        return []
    names = {group: NameGroup(group, runs) for group in GROUPS}
    found = {each: _name(each, names) for where in query.where for each in _leaves(where)}
    kept = [facts for facts in runs if all(_holds(where, found, facts) for where in query.where)]
    return _sorted(kept, query.sort, names) if query.sort else kept


def values_hint(runs: Sequence[RunFacts], query: RunQuery) -> str:
    """For a query that no run matches: the values that there are, of fields that are asked for a text which none has."""
    names = {group: NameGroup(group, runs) for group in GROUPS}
    for each in (each for where in query.where for each in _leaves(where)):
        if each.operator not in ("=", "==") or each.group in ("status", "metrics"):
            continue
        name = _name(each, names)
        there = dict.fromkeys(str(value) for facts in runs for value in _condition_values(each, name, facts))
        if not any(holds(each, [value]) for value in there):
            shown = f"{each.group}.{each.name}" if each.name else each.group
            listed = ", ".join(list(there)[:MOST_VALUES]) + (", ..." if len(there) > MOST_VALUES else "")
            return f"no run has {shown}={each.value}: {did_you_mean(each.value, there)}there are: {listed}"
    return ""


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


def _holds(where: Where, found: Mapping[Condition, tuple[Name, str] | None], facts: RunFacts) -> bool:
    match where:
        case AllOf(parts):
            return all(_holds(part, found, facts) for part in parts)
        case AnyOf(parts):
            return any(_holds(part, found, facts) for part in parts)
        case Condition():
            return holds(where, _condition_values(where, found[where], facts))


def _condition_values(
    condition: Condition, found: tuple[Name, str] | None, facts: RunFacts
) -> Sequence[str | float]:
    if found is None:
        return [getattr(facts.row, condition.group)]
    return _values(facts, condition.group, found)


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
