"""A study in sentences: its law, its knee, its COST, and which measurement is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from hooke.base.errors import NotEnoughData
from hooke.base.formats import format_seconds
from hooke.journal.studies import StudyRecord
from hooke.scaling import Cost, Estimate, Law
from hooke.studies.measured import cost_of, law_of, spread_in
from hooke.studies.noise import ENOUGH
from hooke.studies.rows import plain_throughput, rows_of

__all__ = ["law_sentence", "sentences_of"]

EVEN = 0.9
"""Below this share of N, the most that whole items allow is worth saying."""


def sentences_of(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """(about what, sentence), a refusal in the place of what the measurements do not tell."""
    missing: float | None = None
    by_law = False
    try:
        law = law_of(record)
    except NotEnoughData as refusal:
        yield "law", _refused(refusal)
        missing = refusal.measure_at
    else:
        yield from _of_law(law, record)
        missing, by_law = law.next_measurement().n, True
    yield from (("", said) for said in _uneven(record))
    if not record.of_service:
        yield "COST", _cost(record, by_law=by_law)
    yield from (("noise", said) for said in _noise(record))
    if missing and not record.started.sizes:
        cores = record.started.cpus
        yield (
            "next",
            f"measure at N = {missing:g}" + (f" (this machine has {cores} cores)" if missing > cores else ""),
        )


def _of_law(law: Law, record: StudyRecord) -> Iterator[tuple[str, str]]:
    yield "law", law_sentence(law, record.started.unit, counts=record.counts)
    if law.alternatives:
        yield "", f"not ruled out either: {', '.join(each.family for each in law.alternatives)}"
    yield from (("", flag) for flag in law.flags)
    if not record.started.sizes:
        yield "knee", _answer(lambda: f"N = {_with_interval(law.determined_knee())}")


def law_sentence(law: Law, unit: str = "items", *, counts: str = "workers") -> str:
    """What the law says, with its parameters and their intervals."""
    rate = law.parameters.get("g")
    each = f"{_with_interval(rate)} {unit}/s by one {counts.removesuffix('s')}" if rate is not None else ""
    symbols = law.parameters
    match law.family:
        case "linear":
            return f"linear: {each}, and as much by each further one"
        case "amdahl":
            serial = symbols["a"]
            most = f"at most {1 / serial.value:.3g} times that" if serial.value > 0 else "no limit seen"
            return f"amdahl: {each}; the share {_with_interval(serial)} of the work is serial: {most}"
        case "usl":
            return (
                f"usl: {each}; contention {_with_interval(symbols['a'])}, "
                f"coherency {_with_interval(symbols['b'])}; most at N = {law.peak.value:.3g}"
            )
        case "hard_knee":
            return (
                f"hard_knee: {each}, and as much by each further one up to N = {_with_interval(symbols['c'])}"
            )
        case "power":
            return f"power: {each}; N {counts} do N^p times that, p = {_with_interval(symbols['p'])}"
        case "gustafson":
            return f"gustafson: {each}; of its time the share {_with_interval(symbols['s'])} is serial"
        case _:
            per_item, per_call = (_seconds(symbols[symbol]) for symbol in ("a", "b"))
            return f"batch: {per_item} for each of the {unit}, and {per_call} once"


def cost_sentence(cost: Cost, record: StudyRecord, *, by_law: bool) -> str:
    """Which N beats the plain calls, or that none does: none at all `by_law`, else none of those measured."""
    low, high = ("never" if math.isinf(end) else f"{end:g}" for end in cost.interval)
    sure = "" if low == high else f" ({low} to {high} at {cost.level:.0%})"
    what = record.started.unit if record.started.sizes else "workers"
    plain = _plain_thread(record)
    if cost.never:
        none = f"never: no number of {what}" if by_law else _none_measured(record)
        return f"{none} beats {plain}{sure}"
    what = what if cost.n != 1 or record.started.sizes else "worker"
    beats = "beats" if what == "worker" else "beat"
    return f"{cost.n:g} {what} {beats} {plain}{sure}"


def _uneven(record: StudyRecord) -> Iterator[str]:
    """The N among which so few items cannot be shared out evenly: that bounds throughput, whatever the task does."""
    if record.started.unit != "items" or record.started.sizes:
        return
    for row in rows_of(record):
        best = row.work / math.ceil(row.work / row.n)
        if best < EVEN * row.n:
            yield f"N = {row.n}: {row.work:g} items do not go evenly into {row.n}, so that it is at most {best:.3g} times one"


def _cost(record: StudyRecord, *, by_law: bool) -> str:
    """The COST; where the law meets the plain calls too far away, what was measured still says."""
    try:
        return cost_sentence(cost_of(record), record, by_law=by_law)
    except NotEnoughData as refusal:
        ahead = record.plain and max(row.throughput for row in rows_of(record)) < plain_throughput(record)
        if not ahead:
            return _refused(refusal)
        return (
            f"{_none_measured(record)} beats {_plain_thread(record)}; whether more do is {_refused(refusal)}"
        )


def _none_measured(record: StudyRecord) -> str:
    return f"none of the {'sizes' if record.started.sizes else 'N'} measured"


def _plain_thread(record: StudyRecord) -> str:
    return f"one plain thread ({record.started.plain})" if record.started.plain else "one plain thread"


def _noise(record: StudyRecord) -> Iterator[str]:
    spread = spread_in(record.measured, record.plain)
    rounds = record.rounds
    if not spread.freedom:
        yield "nothing was repeated, so it is not known: measure with repeats"
    elif rounds and spread.half_width(rounds) > ENOUGH:
        known, needed = spread.half_width(rounds), spread.repeats_needed()
        yield f"too much to conclude: each N is known to {known:.0%} only; {needed} repeats would make it {ENOUGH:.0%}"


def _answer(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except NotEnoughData as refusal:
        return _refused(refusal)


def _refused(refusal: NotEnoughData) -> str:
    return f"not known: {refusal.what}" + (f" ({refusal.why})" if refusal.why else "")


def _with_interval(each: Estimate) -> str:
    low, high = each.interval
    return f"{each.value:.3g} ({low:.3g} to {high:.3g})"


def _seconds(each: Estimate) -> str:
    low, high = (format_seconds(max(end, 0.0)) if math.isfinite(end) else "any" for end in each.interval)
    return f"{format_seconds(each.value)} ({low} to {high})"
