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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from hooke.base.errors import UsageError

__all__ = ["FIELDS", "GROUPS", "Condition", "holds", "number", "parse_condition"]

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
        raise UsageError(f"the condition {text!r} cannot be read", mend=EXAMPLE)
    group, name = found["group"], (found["quoted"] or found["bare"] or "").strip()
    if group not in (*GROUPS, *FIELDS) or (group in GROUPS) != bool(name):
        raise _no_such(text, group, name)
    plain = found["plain"]
    value = found["text"] if plain is None else plain.strip()
    if plain is not None and re.search(r"\s(and|or)\s", plain):
        raise UsageError(
            f"the condition {text!r} holds more than one comparison",
            mend="give --where (or an entry of where=) for each: all of them must hold; text with ` and ` in it goes in quotes",
        )
    if plain is not None and not value:
        raise UsageError(
            f"the condition {text!r} has nothing to compare with", mend=f'{EXAMPLE}; "" is empty text'
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
    return UsageError(f"the condition {text!r} cannot be read", why=why, mend=f"valid are {valid}")
