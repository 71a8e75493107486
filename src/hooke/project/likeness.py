"""Whether two measurements were of the same kind of work, and how they differ where not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from hooke.journal.throughput import ThroughputRow

__all__ = ["Likeness", "differences", "likeness_of"]

_NUMBERED = re.compile(r"(\w+):\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """What must be equal for throughputs to be of one curve. `shown` is for people, and is not compared."""

    code: frozenset[tuple[str, str]]
    constants: frozenset[tuple[str, str]]
    cpus: float
    place: str
    host: str
    shown: tuple[tuple[str, str], ...] = field(compare=False)

    @property
    def text(self) -> str:
        """The arguments that all items share, `size=3`; empty where there are none."""
        return ", ".join(f"{name}={value}" for name, value in self.shown)


def likeness_of(row: ThroughputRow) -> Likeness:
    """The kind of work that the row measured. How many workers a place has is no part of it: `local:8` is `local`."""
    numbered = _NUMBERED.fullmatch(row.place)
    return Likeness(
        code=frozenset(row.code.items()),
        constants=frozenset(row.constants.items()),
        cpus=row.cpus,
        place=numbered[1] if numbered else row.place,
        host=row.host,
        shown=tuple(row.shown.items()),
    )


def differences(one: Likeness, other: Likeness) -> str:
    """How `other` differs from `one`, in words."""
    return ", ".join(_differences(one, other)) or "the same"


def _differences(one: Likeness, other: Likeness) -> Iterator[str]:
    changed = sorted({name for name, _ in one.code ^ other.code})
    if changed:
        yield f"other code ({', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''})"
    shown = dict(other.shown)
    for name in sorted({name for name, _ in one.constants ^ other.constants}):
        yield f"{name}={shown[name]}" if name in shown else f"without {name}"
    if one.cpus != other.cpus:
        yield f"cpus={other.cpus:g}"
    if one.place != other.place:
        yield f"at {other.place}"
    if one.host != other.host:
        yield f"on {other.host}"
