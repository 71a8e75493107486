"""A study as text for people and as plain values for programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from hooke.base.errors import NotEnoughData
from hooke.base.formats import format_seconds
from hooke.journal.studies import StudyRecord
from hooke.scaling import Cost, Estimate, Law
from hooke.studies.measured import cost_of, law_of
from hooke.studies.rows import StudyRow, plain_throughput, rows_of
from hooke.studies.sentences import sentences_of

__all__ = ["facts_of", "heading_of", "text_of"]


def text_of(record: StudyRecord) -> str:
    """The table of what was measured, and what follows from it."""
    parts = ["\n".join(heading_of(record))]
    if record.measured:
        parts.append("\n".join(_table(record)))
    parts.append("\n".join(f"{about:<5} {sentence}" for about, sentence in sentences_of(record)))
    return "\n\n".join(parts)


def heading_of(record: StudyRecord) -> list[str]:
    """What was measured, where and how."""
    started = record.started
    what = f"{started.task} of {started.pipeline}" if started.task else started.pipeline
    parameters = ", ".join(f"{name}={value}" for name, value in started.shown.items())
    if record.of_service:
        return [
            f"{what}({parameters}), safe rates by N {record.counts}",
            f"  on {started.place}: {started.machine}",
        ]
    how = "weak scaling" if started.weak else "work sizes" if started.sizes else "strong scaling"
    rounds = record.rounds
    done = f"{rounds} {'repeat' if rounds == 1 else 'repeats'}"
    done = done if rounds >= started.repeats else f"{done} of {started.repeats}"
    bound = "each bound to cores of its own" if started.pinned else f"not bound to cores: {_unbound(record)}"
    return [
        f"{what}({parameters}), {how}: {done} in random order",
        f"  on {started.place}: {started.machine}; workers {bound}",
    ]


def facts_of(record: StudyRecord) -> dict[str, Any]:
    """Everything that `text_of` shows and more, in values that JSON has; infinite and unknown numbers are None."""
    facts: dict[str, Any] = msgspec.to_builtins(record.started)
    del facts["event"]
    return facts | {
        "status": record.finished.status if record.finished is not None else "unfinished",
        "rounds": record.rounds,
        "rows": [_finite(msgspec.to_builtins(row)) for row in rows_of(record)],
        "plain_throughput": _number(plain_throughput(record)),
        "law": _asked(lambda: _law(law_of(record))),
        "cost": _asked(lambda: _cost(cost_of(record))),
    }


def _unbound(record: StudyRecord) -> str:
    most = max(record.started.levels, default=0)
    return (
        f"{most} workers, {record.started.cpus} cores" if most > record.started.cpus else "not possible here"
    )


def _table(record: StudyRecord) -> list[str]:
    unit, rows = record.started.unit, rows_of(record)
    over = "" if rows[0].n == 1 else f" over N = {rows[0].n}"
    header = ("N", unit, "seconds", f"{unit}/s", "+-", f"speed-up{over}", "efficiency")
    lines = [header, *(_cells(row) for row in rows)]
    if record.plain:
        work, rate = record.plain[0].work, plain_throughput(record)
        lines.insert(1, ("plain", f"{work:g}", format_seconds(work / rate), f"{rate:.4g}", "", "", ""))
    shown = [at for at in range(len(header)) if at < 5 or not record.started.sizes]
    widths = [max(len(line[at]) for line in lines) for at in shown]
    return [
        "  ".join(line[at].rjust(width) for at, width in zip(shown, widths, strict=True)).rstrip()
        for line in lines
    ]


def _cells(row: StudyRow) -> tuple[str, ...]:
    error = f"{row.error:.0%}" if math.isfinite(row.error) else "?"
    return (
        str(row.n),
        f"{row.work:g}",
        format_seconds(row.seconds),
        f"{row.throughput:.4g}",
        error,
        f"{row.speedup:.2f}",
        f"{row.efficiency:.0%}",
    )


def _law(law: Law) -> dict[str, Any]:
    return {
        "family": law.family,
        "parameters": {symbol: _estimate(each) for symbol, each in law.parameters.items()},
        "knee": _asked(lambda: _estimate(law.determined_knee())),
        "peak": _estimate(law.peak),
        "alternatives": [each.family for each in law.alternatives],
        "flags": list(law.flags),
        "level": law.level,
        "next_measurement": law.next_measurement().n,
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {"n": _number(cost.n), "interval": [*map(_number, cost.interval)], "never": cost.never}


def _estimate(each: Estimate) -> dict[str, Any]:
    return {"value": _number(each.value), "interval": [*map(_number, each.interval)]}


def _asked(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer, or why there is none."""
    try:
        return ask()
    except NotEnoughData as refusal:
        return {"refused": refusal.what, "why": refusal.why, "measure_at": refusal.measure_at}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
