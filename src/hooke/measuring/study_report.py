"""The report of a study: its table, law, knee, COST, the missing measurement, and the number of workers to use."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from hooke.base.errors import NotEnoughData
from hooke.base.formats import aligned, format_seconds
from hooke.journal.events import MachineLoad, StudyStarted
from hooke.journal.study_records import StudyRecord
from hooke.measuring.design import Design, Question, StudyProgress, half_width, taken_in
from hooke.planning.causes import Bottleneck, cause_of
from hooke.planning.task_facts import cost_of, law_of_study, spread_in, uses_all_cores
from hooke.scaling import Cost, Estimate, Law, fit
from hooke.scaling.cost import ShellCost, shell_cost
from hooke.scaling.diagnostics import TOO_FEW
from hooke.scaling.law import facts_or_refusal
from hooke.scaling.measurements import ENOUGH, finite

__all__ = [
    "StudyRow",
    "WorkersToUse",
    "budget_unit",
    "cause_of_study",
    "facts_of",
    "heading_of",
    "known_to",
    "plain_throughput",
    "rows_of",
    "sentences_of",
    "table_of",
    "text_of",
    "workers_to_use",
]


# --- Rows: throughput with its error, speed-up and efficiency at each N.


class StudyRow(msgspec.Struct, frozen=True, kw_only=True):
    """`n` workers did `work` in `seconds`, the mean of `repeats`; throughput is work per second.

    `error` is half the 95 % interval of throughput, as a share, from the scatter at all N together; that of speed-up and
    efficiency is the root of the sum of the squares of this row's and the first one's. It is infinite if nothing was repeated. Speed-up is relative to the
    first row; efficiency is speed-up divided by the ratio of the numbers of workers.
    """

    n: int
    work: float
    seconds: float
    throughput: float
    error: float
    speedup: float
    efficiency: float
    repeats: int


def rows_of(record: StudyRecord) -> list[StudyRow]:
    """A row for each N, or for each size if sizes were varied, in ascending order."""
    spread = spread_in(record.measured, record.plain)
    groups: dict[tuple[int, float], list[float]] = {}
    for each in sorted(record.measured, key=lambda each: (each.n, each.work)):
        groups.setdefault((each.n, each.work), []).append(each.seconds)
    rows: list[StudyRow] = []
    for (n, work), seconds in groups.items():
        rate = work / _middle(seconds)
        first = rows[0] if rows else None
        speedup = rate / first.throughput if first is not None else 1.0
        rows.append(
            StudyRow(
                n=n,
                work=work,
                seconds=_middle(seconds),
                throughput=rate,
                error=spread.half_width(len(seconds)),
                speedup=speedup,
                efficiency=speedup / (n / (first.n if first is not None else n)),
                repeats=len(seconds),
            )
        )
    return rows


def plain_throughput(record: StudyRecord) -> float:
    """Work per second of the plain calls; nan if none was measured."""
    if not record.plain:
        return math.nan
    return record.plain[0].work / _middle([each.seconds for each in record.plain])


def _middle(seconds: Sequence[float]) -> float:
    """The geometric mean, because errors are relative."""
    return float(np.exp(np.log(seconds).mean()))


# --- The number of workers to use.

PAYS = 1.1
"""More workers are used if they are at least so many times as fast, and surely faster."""
MATTERS = 1.25
"""If the noise could hide that more workers than one are so many times as fast, the number to use is unknown."""
LARGER = 100
"""The time is predicted for so many times the measured work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersToUse:
    """The smallest of the measured numbers of workers of which none larger is clearly faster; 0 if one plain thread is.

    `speedup` is that over `than` workers, and `seconds` the time of `work` (items or runs), by the law if there is one. `not_faster`
    are the larger numbers that were measured.
    """

    workers: int
    than: int
    speedup: Estimate
    work: float
    seconds: Estimate
    not_faster: tuple[int, ...]

    def facts(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "workers": self.workers,
            "than": self.than,
            "speedup": self.speedup.facts(),
            "work": self.work,
            "seconds": self.seconds.facts(),
            "not_faster": list(self.not_faster),
        }


def workers_to_use(record: StudyRecord) -> WorkersToUse:
    """Raises NotEnoughData if the noise hides it, with the number of repeats that would tell."""
    rows, spread = rows_of(record), spread_in(record.measured, record.plain)
    if not rows:
        raise NotEnoughData("nothing was measured")
    if not spread.freedom:
        raise NotEnoughData("nothing was repeated", why="--repeats 3 shows how noisy the machine is")
    best = first = rows[0]
    for row in rows[1:]:
        if row.throughput > max(_sure(row.error, best.error), PAYS) * best.throughput:
            best = row
    hidden = max((row.throughput * _sure(row.error, best.error) for row in rows[1:]), default=0.0)
    if best is first and hidden > MATTERS * best.throughput:
        raise NotEnoughData(
            f"the noise hides whether more than {first.n} is faster",
            why=f"--repeats {max(spread.repeats_needed(), record.repeats[0] + 1)} may tell",
        )
    plain, off = plain_throughput(record), spread.half_width(len(record.plain))
    is_plain = plain > max(_sure(off, best.error), PAYS) * best.throughput
    sure = _sure(off, best.error) if is_plain else _sure(best.error, first.error)
    speedup = (plain if is_plain else best.throughput) / (best if is_plain else first).throughput
    rate = _measured_rate(plain, off) if is_plain else _rate(record, best)
    work = LARGER * best.work
    low, value, high = rate.ends
    return WorkersToUse(
        workers=0 if is_plain else best.n,
        than=(best if is_plain else first).n,
        speedup=_estimate("speed-up", speedup, (speedup / sure, speedup * sure)),
        work=work,
        seconds=_estimate("seconds", work / value, (work / high, work / low)),
        not_faster=tuple(row.n for row in rows if row.n > best.n),
    )


def _sure(one: float, other: float) -> float:
    """The ratio of two throughputs above which one is surely higher, where these are half the intervals of their logarithms."""
    return math.exp(math.hypot(one, other))


def _rate(record: StudyRecord, row: StudyRow) -> Estimate:
    """The throughput at the row's N: by the law, or as it was measured."""
    try:
        return law_of_study(record).predict(row.n)
    except NotEnoughData:
        return _measured_rate(row.throughput, row.error)


def _measured_rate(rate: float, error: float) -> Estimate:
    off = math.exp(error)
    return _estimate("throughput", rate, (rate / off, rate * off))


def _estimate(name: str, value: float, interval: tuple[float, float]) -> Estimate:
    return Estimate(name=name, value=value, interval=interval, level=0.95)


def _use(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """What to do with the result. Only of strong scaling: elsewhere the work is not the same at every N."""
    if record.started.sizes or record.started.weak or record.of_service or not record.measured:
        return
    try:
        use = workers_to_use(record)
    except NotEnoughData as refusal:
        yield "use", _refused(refusal)
        return
    times = f"{use.speedup.shown()} times as fast as {_counted(use.than, record)}"
    if not use.workers:
        yield "use", f"no engine: {_plain_thread(record)} is {times}"
        how = "it"
    else:
        how = _counted(use.workers, record)
        more = " and ".join(map(str, use.not_faster))
        none = f"{more} {'are' if len(use.not_faster) > 1 else 'is'} not clearly faster" if more else ""
        alone = [times] if use.workers != use.than else []
        yield "use", f"{how}: {'; '.join([*alone, *filter(None, [none])])}".removesuffix(": ")
    yield (
        "",
        f"{use.work:,.0f} {record.started.unit}, {LARGER} times as many, take {how} {_seconds(use.seconds)}",
    )


def _counted(n: int, record: StudyRecord) -> str:
    """`1 worker`, `4 workers`, `2 ranks`."""
    return f"{n} {record.counts.removesuffix('s') if n == 1 else record.counts}"


EVEN = 0.9
"""Below this share of N, the report mentions the limit from whole items."""


def sentences_of(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """Pairs (subject, sentence). If the measurements do not show something, the sentence says why."""
    missing: float | None = None
    by_law = False
    try:
        law = law_of_study(record)
    except NotEnoughData as refusal:
        yield "law", _refused(refusal)
        missing = refusal.measure_at
    else:
        yield from _of_law(law, record)
        missing, by_law = law.next_measurement().n, True
    yield from (("", said) for said in _uneven(record))
    yield from _time(record)
    yield from _unanswered(record)
    yield from _left_out(record)
    if not record.of_service:
        yield "COST", _cost(record, by_law=by_law)
        yield from (("", said) for said in _from_shell(record))
    yield from (("noise", said) for said in _noise(record))
    yield from (("load", said) for said in _load(record))
    if missing and not record.started.sizes:
        yield "next", _next(record, missing)
    yield from _cause(record)
    yield from _use(record)


def _of_law(law: Law, record: StudyRecord) -> Iterator[tuple[str, str]]:
    sentence = law_sentence(law, record.started.unit, counts=record.counts)
    unsure = [flag for flag in law.flags if flag.startswith(TOO_FEW)]
    yield "law", unsure[0] if unsure else sentence
    if unsure:
        yield "", f"as measured, {sentence}"
    if law.alternatives:
        yield "", _undecided(law, record.started.unit)
    yield from (("", flag) for flag in law.flags if flag not in unsure)
    if not record.started.sizes:
        yield "knee", _answer(lambda: f"N = {law.determined_knee().shown()}")


KINDS = {
    "linear": "no limit",
    "amdahl": "a serial share",
    "hard_knee": "a capacity",
    "closed_queue": "a lock",
    "usl": "USL",
    "power": "a power of N",
    "bent_line": "a bent line",
    "gustafson": "a serial share of growing work",
    "staircase": "whole items alone",
    "batch": "time per call",
    "cliff": "a cliff",
}
"""What a family says, in a few words."""


def _undecided(law: Law, unit: str) -> str:
    """The throughput at the largest N by all families that are not ruled out, and their names."""
    most = float(law.measurements.levels[-1])
    told = [law.family, *(each.family for each in law.alternatives)]
    at = _answer(lambda: f"{law.predict(most).shown()} {unit}/s")
    *several, last = dict.fromkeys(KINDS[family.removeprefix("staircase_")] for family in told)
    if not several:
        return f"at N = {most:g}: {at}"
    return f"at N = {most:g}: {at}; {', '.join(several)} or {last}, the data do not tell which"


def law_sentence(law: Law, unit: str = "items", *, counts: str = "workers") -> str:
    """The law in words, with its parameters and their intervals."""
    rate = law.parameters.get("g")
    each = f"{rate.shown()} {unit}/s per {counts.removesuffix('s')}" if rate is not None else ""
    whole = law.family.startswith("staircase")
    family = law.family.removeprefix("staircase_").replace("staircase", "linear")
    steps = f"; {law.measurements.items} {unit} over N {counts} take whole rounds" if whole else ""
    return f"{law.family}: {_of_family(family, law, each, unit, counts)}{steps}"


def _of_family(family: str, law: Law, each: str, unit: str, counts: str) -> str:
    """The law in words; `each` is its unit rate."""
    symbols = law.parameters
    match family:
        case "linear":
            return (
                f"{each}, without a limit" if family == law.family else f"{each}, and nothing else bends it"
            )
        case "amdahl":
            serial = symbols["a"]
            most = f"at most {1 / serial.value:.3g} times that" if serial.value > 0 else "no limit seen"
            return f"{each}; serial share of the work {serial.shown()}: {most}"
        case "usl":
            return (
                f"{each}; contention {symbols['a'].shown()}, "
                f"coherency {symbols['b'].shown()}; maximum at N = {law.peak.value:.3g}"
            )
        case "hard_knee":
            return f"{each}, linear up to N = {symbols['c'].shown()}"
        case "power":
            return f"{each}; N {counts} give N^p times that, p = {symbols['p'].shown()}"
        case "gustafson":
            return f"{each}; serial share of its time {symbols['s'].shown()}"
        case "closed_queue":
            held = symbols["a"]
            most = f"at most {1 / held.value:.3g} times that" if held.value > 0 else "no limit seen"
            of = unit.removesuffix("s")
            return f"{each}; a lock held for {held.shown(_percent)} of each {of}'s time: {most}"
        case "bent_line":
            return f"{each} up to N = {symbols['c'].shown()}, and {symbols['q'].shown(_percent)} of that for each more"
        case "cliff":
            return f"{each} up to N = {symbols['c'].shown()}; beyond, {symbols['r'].shown(_percent)} of its throughput"
        case _:
            per_item, per_call = (_seconds(symbols[symbol]) for symbol in ("a", "b"))
            return f"{per_item} for each of the {unit}, plus {per_call} once"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def cost_sentence(cost: Cost, record: StudyRecord, *, by_law: bool) -> str:
    """The COST: which N beats the plain calls, or that none does. `by_law` says that this holds for any N, not only the measured ones."""
    low, high = ("infinity" if math.isinf(end) else f"{end:g}" for end in cost.interval)
    sure = "" if low == high else f" ({cost.level:.0%}: {low} to {high})"
    what = record.started.unit if record.started.sizes else record.counts
    plain = _plain_thread(record)
    if cost.never:
        none = f"never: no number of {what}" if by_law else _none_measured(record)
        return f"{none} beats {plain}{sure}"
    one = cost.n == 1 and not record.started.sizes
    what, beats = (what.removesuffix("s"), "beats") if one else (what, "beat")
    return f"{cost.n:g} {what} {beats} {plain}{sure}"


def _uneven(record: StudyRecord) -> Iterator[str]:
    """Notes for each N whose speed-up is limited because the items do not divide evenly among the workers."""
    if record.started.unit != "items" or record.started.sizes:
        return
    for row in rows_of(record):
        best = row.work / math.ceil(row.work / row.n)
        if best < EVEN * row.n:
            yield f"N = {row.n}: {row.work:g} items do not divide evenly by {row.n}, so its speed-up is at most {best:.3g}"


def _cost(record: StudyRecord, *, by_law: bool) -> str:
    """The COST. If the law reaches the plain calls too far from the data, what the measurements show."""
    try:
        return cost_sentence(cost_of(record), record, by_law=by_law)
    except NotEnoughData as refusal:
        ahead = record.plain and max(row.throughput for row in rows_of(record)) < plain_throughput(record)
        if not ahead:
            return _refused(refusal)
        return f"{_none_measured(record)} beats {_plain_thread(record)}; whether a larger one does is {_refused(refusal)}"


def shell_cost_of(record: StudyRecord) -> ShellCost | None:
    """The COST from the shell; None if the study did not time both start-ups, or measured no items."""
    begun = record.started
    starts = [each.start_s for each in record.plain if each.start_s]
    workers = [each.workers_start_s for each in record.plain if each.workers_start_s]
    if not (begun.command_s and starts and workers) or begun.unit != "items" or begun.sizes or begun.weak:
        return None
    rows = rows_of(record)
    return shell_cost(
        dict.fromkeys((row.n for row in rows), begun.command_s + statistics.median(workers)),
        {row.n: row.throughput for row in rows},
        plain_start_s=statistics.median(starts),
        plain_rate=plain_throughput(record),
        error=spread_in(record.measured, record.plain).half_width(len(record.plain)),
    )


def _from_shell(record: StudyRecord) -> Iterator[str]:
    """The COST with the start-up of the command, its workers and all imports."""
    found = shell_cost_of(record)
    if found is None:
        return
    ends = ["never" if math.isinf(end) else f"{end:,.0f}" for end in found.interval]
    start = f"start-up {format_seconds(found.start_s)} against {format_seconds(found.plain_start_s)}"
    if math.isinf(found.items):
        yield f"from the shell, plain Python wins for any number of items ({start}; 95%: {ends[0]} to {ends[1]})"
        return
    yield (
        f"from the shell, plain Python wins until {found.items:,.0f} items, then {_counted(found.n, record)} "
        f"({start}; 95%: {ends[0]} to {ends[1]})"
    )


def _none_measured(record: StudyRecord) -> str:
    return f"none of the {'sizes' if record.started.sizes else 'N'} measured"


def _plain_thread(record: StudyRecord) -> str:
    return f"one plain thread ({record.started.plain})" if record.started.plain else "one plain thread"


def _noise(record: StudyRecord) -> Iterator[str]:
    spread = spread_in(record.measured, record.plain)
    fewest, _ = record.repeats
    if not spread.freedom:
        yield "unknown, because nothing was repeated: measure with repeats"
    elif fewest and spread.half_width(fewest) > ENOUGH:
        known, needed = spread.half_width(fewest), max(spread.repeats_needed(), fewest + 1)
        yield f"too high to conclude: each N is known only to {known:.0%}; {needed} repeats would give {ENOUGH:.0%}"


def _time(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """The time with the N that the study was asked about."""
    started = record.started
    if started.answer.isdecimal() and record.measured:
        n, work = int(started.answer), record.measured[0].work

        def said() -> str:
            low, value, high = law_of_study(record).predict(n).ends
            seconds = _seconds(_estimate("seconds", work / value, (work / high, work / low)))
            return f"{work:g} {started.unit} take {_counted(n, record)} {seconds}"

        yield "time", _answer(said)


def known_to(record: StudyRecord) -> float:
    """Half the interval of the answer that the study was asked for, by the law that it went by; infinite where it is unknown."""
    question = Question(answer=record.started.answer, within=record.started.within)
    design = Design(levels=record.started.levels)
    progress = StudyProgress(design=design, taken=taken_in(record.plain, record.measured))
    try:
        return half_width(question, fit(progress.measurements()), progress)
    except NotEnoughData:
        return math.inf


def _unanswered(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """That a study ended without its answer, and why."""
    started = record.started
    if not (started.answer and record.complete and record.plain):
        return
    half = known_to(record)
    if half <= started.within:
        return
    known = f"known to {_percent(half)}" if math.isfinite(half) else "unknown"
    taken = len(record.measured) + len(record.plain)
    every = taken >= started.repeats * (1 + len(started.levels))
    ended = (
        f"all {taken} measurements are taken"
        if every
        else f"{started.budget:g} {budget_unit(started)} are used up"
    )
    yield "answer", f"{known}; {_percent(started.within)} was asked, and {ended}"


def budget_unit(started: StudyStarted) -> str:
    """What the budget of a study is counted in."""
    if not started.plain:
        return "plain calls"
    return f"times the time of {'the largest size' if started.sizes else f'N = {min(started.levels)}'}"


def _left_out(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """The N or sizes that a study left out to stay within its budget."""
    started = record.started
    if started.sizes:
        out = set(started.sizes) - {each.work for each in record.measured}
    else:
        out = set(started.levels) - {each.n for each in record.measured}
    if started.budget and record.complete and out:
        what = "sizes" if started.sizes else "N ="
        which = _each([f"{each:g}" for each in sorted(out)])
        within = f"to stay within {started.budget:g} {budget_unit(started)}"
        yield "cut", f"{what} {which} not measured, {within}; --repeats 1 measures all"


def _next(record: StudyRecord, n: float) -> str:
    """The next measurement: at an N that was not measured, or else more repeats. None beyond the cores if they are all in use."""
    cores = record.started.cpus
    if n > cores and uses_all_cores(record):
        return f"a machine with more cores: here all {cores} are in use"
    if any(each.n == n for each in record.measured):
        return f"more repeats, because N = {n:g} was measured: --repeats {2 * max(record.repeats[0], 1)}"
    return f"measure at N = {n:g}" + (f" (this machine has {cores} cores)" if n > cores else "")


OTHERS = 0.25
"""Cores that other processes took, from which it is said,"""
OTHERS_SHARE = 0.05
"""if they are also this share of all cores."""
SLOWER = 0.9
"""A frequency below this share of the highest is said."""


def loads_by_n(record: StudyRecord) -> dict[int, list[MachineLoad]]:
    """N -> the load of the machine during its measurements, as far as it is known; 0 are the plain calls."""
    found: dict[int, list[MachineLoad]] = {}
    for n, load in [(0, each.load) for each in record.plain] + [
        (each.n, each.load) for each in record.measured
    ]:
        if load is not None:
            found.setdefault(n, []).append(load)
    return dict(sorted(found.items()))


def _load(record: StudyRecord) -> Iterator[str]:
    """What else the machine did: at which N other processes or machines took cores, or the cores were slower."""
    loads = loads_by_n(record)
    least = max(OTHERS, OTHERS_SHARE * record.started.cpus)
    for who, amounts in (
        ("other processes took", {n: [each.others for each in own] for n, own in loads.items()}),
        ("other machines took", {n: [each.stolen or 0.0 for each in own] for n, own in loads.items()}),
    ):
        much = {n: mean for n, own in amounts.items() if (mean := sum(own) / len(own)) >= least}
        if much:
            yield f"{who} {_each([f'{mean:.1f}' for mean in much.values()])} cores while {_measured_at(list(much))}"
    speeds = {n: [each.mhz for each in own if each.mhz is not None] for n, own in loads.items()}
    means = {n: sum(own) / len(own) for n, own in speeds.items() if own}
    slow = {n: mean for n, mean in means.items() if mean < SLOWER * max(means.values())}
    if slow:
        shown = _each([f"{mean / 1000:.1f}" for mean in slow.values()])
        yield f"the cores ran at {shown} GHz instead of {max(means.values()) / 1000:.1f} while {_measured_at(list(slow))}"


def cause_of_study(record: StudyRecord) -> Bottleneck | None:
    """What the task loses time to; None if nothing is wrong or known, and in studies where more than N varies."""
    started = record.started
    if started.sizes or started.weak or record.of_service:
        return None
    return cause_of(record.measured, cores=started.cpus, counts=record.counts)


def _cause(record: StudyRecord) -> Iterator[tuple[str, str]]:
    found = cause_of_study(record)
    if found is not None:
        yield "cause", found.sentence
        yield from (("", evidence) for evidence in found.evidence)


def _measured_at(levels: Sequence[int]) -> str:
    """`N = 1 and 2 were measured`; 0 are the plain calls."""
    ns = [f"{n}" for n in levels if n]
    named = [*(["the plain calls"] if 0 in levels else []), *([f"N = {_each(ns)}"] if ns else [])]
    one = len(levels) == 1 and 0 not in levels
    return f"{' and '.join(named)} {'was' if one else 'were'} measured"


def _each(shown: Sequence[str]) -> str:
    """`1, 2 and 4`."""
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def _answer(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except NotEnoughData as refusal:
        return _refused(refusal)


def _refused(refusal: NotEnoughData) -> str:
    return f"unknown: {refusal.what}" + (f" ({refusal.why})" if refusal.why else "")


def _seconds(each: Estimate) -> str:
    low, high = (format_seconds(max(end, 0.0)) if math.isfinite(end) else "any" for end in each.interval)
    return f"{format_seconds(each.value)} ({low} to {high})"


# --- As text, and as plain values for JSON.


def text_of(record: StudyRecord) -> str:
    """The table of the measurements, and the conclusions."""
    parts = ["\n".join(heading_of(record))]
    if record.measured:
        columns, rows = table_of(record)
        parts.append("\n".join(aligned(columns, rows, right=range(len(columns)))))
    parts.append("\n".join(f"{about:<5} {sentence}" for about, sentence in sentences_of(record)))
    return "\n\n".join(parts)


def heading_of(record: StudyRecord) -> list[str]:
    """The heading: what was measured, where and how."""
    started = record.started
    what = f"{started.task} of {started.pipeline}" if started.task else started.pipeline
    parameters = ", ".join(f"{name}={value}" for name, value in started.shown.items())
    if record.of_service:
        return [
            f"{what}({parameters}), safe rates by N {record.counts}",
            f"  on {started.place}: {started.machine}",
        ]
    how = "weak scaling" if started.weak else "work sizes" if started.sizes else "strong scaling"
    fewest, most = (record.rounds, record.rounds) if not started.budget else record.repeats
    done = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    done = done if fewest >= started.repeats or record.complete else f"{done} of {started.repeats}"
    done = f"{done} {'repeat' if done == '1' else 'repeats'}"
    bound = "each bound to its own cores" if started.pinned else f"not bound to cores: {_unbound(record)}"
    order = "" if started.budget else " in random order"
    return [
        f"{what}({parameters}), {how}: {done}{order}",
        f"  on {started.place}: {started.machine}; {record.counts} {bound}",
    ]


def facts_of(record: StudyRecord) -> dict[str, Any]:
    """The study as plain values, for JSON. Infinite and unknown numbers are None."""
    facts: dict[str, Any] = msgspec.to_builtins(record.started)
    del facts["event"]
    return facts | {
        "status": record.finished.status if record.finished is not None else "unfinished",
        "rounds": record.rounds,
        "rows": [
            {name: finite(value) for name, value in msgspec.to_builtins(row).items()}
            for row in rows_of(record)
        ],
        "plain_throughput": finite(plain_throughput(record)),
        "law": facts_or_refusal(lambda: law_of_study(record).facts()),
        "known_to": finite(known_to(record)) if record.started.answer and record.plain else None,
        "cost": facts_or_refusal(lambda: cost_of(record).facts()),
        "cost_from_shell": None if (shell := shell_cost_of(record)) is None else shell.facts(),
        "use": facts_or_refusal(lambda: workers_to_use(record).facts()),
        "cause": cause.facts() if (cause := cause_of_study(record)) is not None else None,
    }


def _unbound(record: StudyRecord) -> str:
    most = max(record.started.levels, default=0)
    return (
        f"{most} {record.counts}, {record.started.cpus} cores"
        if most > record.started.cpus
        else "not possible here"
    )


def table_of(record: StudyRecord) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """The table of the measurements: column names, and a row for the plain calls and for each N, or for each size."""
    unit, rows = record.started.unit, rows_of(record)
    over = "" if rows[0].n == 1 else f" over N = {rows[0].n}"
    header = ("N", unit, "seconds", f"{unit}/s", "+-", f"speed-up{over}", "efficiency")
    lines = [_cells(row) for row in rows]
    if record.plain:
        work, rate = record.plain[0].work, plain_throughput(record)
        lines.insert(0, ("plain", f"{work:g}", format_seconds(work / rate), f"{rate:.4g}", "", "", ""))
    shown = len(header) - 2 if record.started.sizes else len(header)
    return header[:shown], [line[:shown] for line in lines]


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
