"""Vertical scaling: how much of one machine a task needs, from what its attempts used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hooke.base.formats import format_bytes

__all__ = ["Needed", "Threads", "Used", "needed"]

PERCENTILE = 0.99
"""Of attempts, so many must fit: one that does not is run again with twice the memory. Of fewer than 100 it is the largest."""
MARGIN = 1.2
"""Over that: the next one may be a little larger than any that was seen."""
FEWEST = 3
"""Attempts that say anything of a percentile."""
LEAST_BYTES = 64 * 2**20
"""Nothing below is advised: the interpreter and its imports move by as much."""
SHORTEST_S = 0.02
"""The cpu time of shorter attempts is too coarse to divide by."""
WAITS = 0.3
"""A call that keeps less of a core busy waits for something; under a crowded machine a call that computes still has more."""
TOLERANCE = 0.1
"""A share of a core that is not worth another one."""
SHARES = (0.1, 0.25, 0.5)
"""Parts of a core that are advised for calls that wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """One attempt: what it declared and what it used. `items` were computed; `starved` is that it died of too little memory."""

    cpus: float = 1.0
    memory: int | None = None
    items: int = 1
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int | None = None
    starved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """What calls with so many cpus brought: items per second of one core, the geometric mean over `attempts`.

    `spread` is the standard error of its logarithm.
    """

    cpus: float
    attempts: int
    items_per_core_s: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What to declare. None is: as it is now, since too little was measured; `why` says so, in sentences.

    `busy` is the cores that its calls kept busy (95th percentile), `peak_bytes` what they held at most (99th);
    `threads` compares numbers of cpus, the best first.
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


def needed(used: Sequence[Used]) -> Needed:
    """What to declare for a task with these attempts, the newest last. Raises ValueError for none."""
    if not used:
        raise ValueError("no attempts")
    last = used[-1]
    cpus, busy, threads, about_cpus = _cpus([each for each in used if not each.starved], last.cpus)
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
            (f"an attempt died of {format_bytes(max(starved))}: it needs more",),
        )
    if len(peaks) < FEWEST:
        return None, None, (f"memory: needs {FEWEST} attempts with known memory; has {len(peaks)}",)
    peak = peaks[math.ceil(PERCENTILE * len(peaks)) - 1]
    memory = _rounded_up(max(round(MARGIN * peak), LEAST_BYTES))
    share = "all" if len(peaks) < 100 else f"{PERCENTILE:.0%}"
    said = f"{share} of {len(peaks)} attempts held {format_bytes(peak)} at most"
    said += f", and {MARGIN - 1:.0%} more is {format_bytes(round(MARGIN * peak))}"
    if declared is not None and declared < peak:
        said += f"; {format_bytes(declared)} are declared, so such an attempt is run again"
    elif declared is not None and declared >= 2 * memory:
        said += f"; {declared // memory} fit where one does now"
    return memory, peak, (said,)


def _cpus(
    used: Sequence[Used], declared: float
) -> tuple[float | None, float | None, tuple[Threads, ...], tuple[str, ...]]:
    timed = [each for each in used if each.seconds >= SHORTEST_S]
    if len(timed) < FEWEST:
        return None, None, (), (f"cpus: needs {FEWEST} longer attempts; has {len(timed)}",)
    threads = _threads(timed)
    now = [each for each in timed if each.cpus == declared] or timed
    shares = sorted(each.cpu_s / each.seconds for each in now)
    busy = shares[math.ceil(0.95 * len(shares)) - 1]
    if len(threads) > 1:
        cpus, said = _by_trial(threads, declared)
        return cpus, busy, threads, (said,)
    cpus, said = _by_share(busy, declared)
    return cpus, busy, threads, (said,)


def _by_trial(threads: Sequence[Threads], declared: float) -> tuple[float, str]:
    """The cpus that brought most per core, if that is more than chance would have it."""
    best = threads[0]
    other = next((each for each in threads[1:] if each.cpus == declared), threads[1])
    gain = math.log(best.items_per_core_s / other.items_per_core_s)
    error = 2 * math.hypot(best.spread, other.spread)
    low, high = math.exp(gain - error), math.exp(gain + error)
    said = (
        f"a core did {math.exp(gain):.2f} times as much ({low:.2f} to {high:.2f}) in workers of {best.cpus:g} cpus "
        f"as in workers of {other.cpus:g}"
    )
    if low < 1 + TOLERANCE / 2:
        return declared, f"{said}: no difference to act on"
    return best.cpus, said


def _by_share(busy: float, declared: float) -> tuple[float, str]:
    """The cpus for calls that keep `busy` cores busy, where nothing else was tried."""
    kept = f"its calls keep {busy:.2g} cores busy, and {declared:g} are declared"
    if busy < WAITS:
        return next(
            share for share in SHARES if share >= busy
        ), f"{kept}: they wait, so more workers than cores do more"
    whole = max(math.ceil(busy - TOLERANCE), 1)
    if whole > declared:
        return whole, f"{kept}: as many as the cores at once crowd each other"
    if whole < declared:
        return whole, f"{kept}: {declared / whole:.2g} times as many workers of {whole} fit on the same cores"
    return declared, kept


def _threads(timed: Sequence[Used]) -> tuple[Threads, ...]:
    """What each number of cpus that was tried brought per core, the best first."""
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
    """Two digits of MiB: `512MiB`, `1.1GiB` rather than a number that nobody would write."""
    unit = 2**20
    while size / unit >= 100:
        unit *= 10
    return math.ceil(size / unit) * unit
