"""Vertical scaling: the CPUs and the memory that a task should declare, from what its attempts used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hooke.base.formats import format_bytes, format_seconds

__all__ = ["Needed", "Threads", "Used", "needed"]

PERCENTILE = 0.99
"""The share of attempts that must fit; the others run again with twice the memory. Below 100 attempts, the maximum counts."""
MARGIN = 1.2
"""The factor on top, because the next attempt may be a little larger."""
FEWEST = 3
"""The least number of attempts for advice."""
LEAST_BYTES = 64 * 2**20
"""Memory is never advised below this; the interpreter and its imports vary by as much."""
SHORTEST_S = 0.02
"""The CPU time of shorter attempts is too coarse."""
WAITS = 0.3
"""A call that keeps less of a core busy waits for something; even on a crowded machine a computing call gets more."""
TOLERANCE = 0.1
"""A fraction of a core that does not justify another core."""
SHARES = (0.1, 0.25, 0.5)
"""The fractions of a core to advise for calls that wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """One attempt: what it declared and used. It computed `items`; `starved` means that it died of too little memory."""

    cpus: float = 1.0
    memory: int | None = None
    items: int = 1
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int | None = None
    starved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """The yield of one core with this many CPUs: items per second, the geometric mean over `attempts`.

    `spread` is the standard error of its logarithm.
    """

    cpus: float
    attempts: int
    items_per_core_s: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What to declare, with sentences in `why`. None means: keep the declaration, too little was measured.

    `busy` is the number of cores that calls kept busy (95th percentile), `peak_bytes` their peak memory (99th).
    `threads` compares numbers of CPUs, the best first.
    """

    attempts: int
    declared_cpus: float
    declared_memory: int | None
    cpus: float | None = None
    memory: int | None = None
    busy: float | None = None
    peak_bytes: int | None = None
    threads: tuple[Threads, ...] = ()
    why: tuple[str, ...] = ()


def needed(used: Sequence[Used], *, known: str = "") -> Needed:
    """What a task with these attempts, the newest last, should declare. Raises ValueError without attempts.

    `known` is what a study found that more workers meet; then more workers are not advised.
    """
    if not used:
        raise ValueError("no attempts")
    last = used[-1]
    cpus, busy, threads, about_cpus = _cpus([each for each in used if not each.starved], last.cpus, known)
    memory, peak, about_memory = _memory(used, last.memory)
    return Needed(
        attempts=len(used),
        declared_cpus=last.cpus,
        declared_memory=last.memory,
        cpus=cpus,
        memory=memory,
        busy=busy,
        peak_bytes=peak,
        threads=threads,
        why=(*about_cpus, *about_memory),
    )


def _memory(used: Sequence[Used], declared: int | None) -> tuple[int | None, int | None, tuple[str, ...]]:
    starved = [each.memory for each in used if each.starved and each.memory is not None]
    peaks = sorted(each.peak_bytes for each in used if each.peak_bytes is not None and not each.starved)
    if starved and (not peaks or max(starved) >= peaks[-1]):
        return (
            2 * max(starved),
            max(starved),
            (f"an attempt ran out of memory at {format_bytes(max(starved))}",),
        )
    if len(peaks) < FEWEST:
        return None, None, (f"memory: needs {FEWEST} attempts with a known peak; has {len(peaks)}",)
    peak = peaks[math.ceil(PERCENTILE * len(peaks)) - 1]
    memory = _rounded_up(max(round(MARGIN * peak), LEAST_BYTES))
    share = "all" if len(peaks) < 100 else f"{PERCENTILE:.0%}"
    said = f"{share} of {len(peaks)} attempts used at most {format_bytes(peak)}"
    said += f"; with a margin of {MARGIN - 1:.0%}: {format_bytes(round(MARGIN * peak))}"
    if declared is not None and declared < peak:
        said += f"; with the declared {format_bytes(declared)}, such an attempt runs again"
    elif declared is not None and declared >= 2 * memory:
        said += f"; {declared // memory} fit in the space of one"
    return memory, peak, (said,)


def _cpus(
    used: Sequence[Used], declared: float, known: str
) -> tuple[float | None, float | None, tuple[Threads, ...], tuple[str, ...]]:
    timed = [each for each in used if each.seconds >= SHORTEST_S]
    if len(timed) < FEWEST:
        return (
            None,
            None,
            (),
            (f"cpus: needs {FEWEST} attempts of {format_seconds(SHORTEST_S)} or longer; has {len(timed)}",),
        )
    threads = _threads(timed)
    now = [each for each in timed if each.cpus == declared] or timed
    shares = sorted(each.cpu_s / each.seconds for each in now)
    busy = shares[math.ceil(0.95 * len(shares)) - 1]
    if len(threads) > 1:
        cpus, said = _by_trial(threads, declared)
        return cpus, busy, threads, (said,)
    cpus, said = _by_share(busy, declared, known)
    return cpus, busy, threads, (said,)


def _by_trial(threads: Sequence[Threads], declared: float) -> tuple[float, str]:
    """The number of CPUs with the best yield per core, if the difference is significant."""
    best = threads[0]
    other = next((each for each in threads[1:] if each.cpus == declared), threads[1])
    gain = math.log(best.items_per_core_s / other.items_per_core_s)
    error = 2 * math.hypot(best.spread, other.spread)
    low, high = math.exp(gain - error), math.exp(gain + error)
    said = (
        f"a core did {math.exp(gain):.2f} times as much ({low:.2f} to {high:.2f}) in workers with {best.cpus:g} cpus "
        f"as in workers with {other.cpus:g}"
    )
    if low < 1 + TOLERANCE / 2:
        return declared, f"{said}: not a significant difference"
    return best.cpus, said


def _by_share(busy: float, declared: float, known: str) -> tuple[float, str]:
    """The CPUs for calls that keep `busy` cores busy, if one number of CPUs was tried."""
    kept = f"calls keep {busy:.2g} cores busy; declared: {declared:g}"
    if busy < WAITS:
        more = "so use more workers than cores" if not known else f"and a study says for what: {known}"
        return next(share for share in SHARES if share >= busy), f"{kept}. The calls wait, {more}"
    whole = max(math.ceil(busy - TOLERANCE), 1)
    limit = f". A study says what more workers meet: {known}" if known else ""
    if whole > declared:
        return whole, f"{kept}. Workers compete for cores{limit}"
    if whole < declared:
        more = f". {declared / whole:.2g} times as many workers with {whole} fit on the same cores"
        return whole, f"{kept}{limit or more}"
    return declared, f"{kept}{limit}"


def _threads(timed: Sequence[Used]) -> tuple[Threads, ...]:
    """The yield per core of each number of CPUs tried, the best first."""
    tried = []
    for cpus in {each.cpus for each in timed}:
        own = [each for each in timed if each.cpus == cpus]
        if len(own) >= FEWEST:
            logs = [math.log(each.items / (cpus * each.seconds)) for each in own]
            mean = sum(logs) / len(logs)
            error = math.sqrt(sum((log - mean) ** 2 for log in logs) / (len(logs) - 1) / len(logs))
            tried.append(Threads(cpus=cpus, attempts=len(own), items_per_core_s=math.exp(mean), spread=error))
    return tuple(sorted(tried, key=lambda each: -each.items_per_core_s))


def _rounded_up(size: int) -> int:
    """Rounded up to two digits of MiB, such as `520MiB`."""
    unit = 2**20
    while size / unit >= 100:
        unit *= 10
    return math.ceil(size / unit) * unit
