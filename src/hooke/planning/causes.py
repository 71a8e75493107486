"""The cause of lost time: named from where the workers' time went at each N. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hooke.base.table import Printed
from hooke.journal.events import Measured
from hooke.scaling.measurements import spread_of

__all__ = ["Bottleneck", "cause_of"]

LOSS = 0.15
"""The worker-seconds of an item must grow by this share from the smallest to the largest N to count as lost,"""
ERRORS = 2.5
"""and by as many standard errors."""
MAIN_PART = 0.4
"""The cause is a kind of time that makes up at least this share of the growth."""
WAITING = 0.5
"""Without such a loss, a wait is named if it takes this share of the workers' time at every N,"""
QUEUED = 0.3
"""waiting for the GIL if it takes this share,"""
CROWDED = 0.2
"""waiting for a core if it takes this share,"""
TAKEN = 0.3
"""and other processes if they took as many cores."""
OUTWEIGHS = 2.0
"""With a loss, such a wait is named if it takes so many times as long as what the kind that grows most adds."""
IN_USE = 0.75
"""The cores are in use if workers and others keep this share of them busy."""
WOKEN = 0.5
"""Time without a core while nobody uses the cores counts as waiting for the disk, if workers wait at least this share of it for the disk."""
SKEWED = 3.0
"""An item that takes so many times as long as usual is named."""
LEAST_SAMPLES = 5
"""Of workers that compute little: fewer samples tell nothing about their waits."""
INFERRED = "inferred: memory bandwidth cannot be read without hardware counters; user time per item rises while workers have cores"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Bottleneck(Printed):
    """What a task loses time to: a short `name`, a `sentence`, and the `evidence` in sentences, with what is inferred from what."""

    name: str
    sentence: str
    evidence: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Bottleneck({self.sentence})"

    def __str__(self) -> str:
        return "\n".join([self.sentence, *(f"  {each}" for each in self.evidence)])

    def facts(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"name": self.name, "sentence": self.sentence, "evidence": list(self.evidence)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """The mean measurement at one N: worker-seconds per item by kind; those of `kinds` and the rest add up to `whole`."""

    n: int
    counts: str
    """What N counts: `workers`, or `ranks` of a gang."""
    whole: float
    kinds: dict[str, float]
    places: dict[str, float]
    """Kind and place of waits -> worker-seconds per item."""
    others: float
    runnable: float
    """Workers that computed or waited for a core, on average."""
    computing: float
    """Workers that computed, on average."""
    longest: float
    """The longest attempt, as a share of the whole measurement."""
    uneven: float
    """The longest item over the mean one."""
    items: float


WAITS = {
    "lock": "lock",
    "retry": "lock",
    "gil": "gil",
    "network": "network",
    "disk": "disk",
    "ranks": "ranks",
}
MEETING = ("lock", "network")
"""In such system calls the ranks of a gang wait for one another, too."""
"""What workers sample -> the kind of lost time. Other waits are none: a sleep is what the code asks for."""


def cause_of(measured: Sequence[Measured], *, cores: int, counts: str = "workers") -> Bottleneck | None:
    """The cause of the time that a task loses, or spends waiting, on a machine with `cores` for it; None if nothing is wrong or known.

    `measured` vary N, with equal work. Each has worker-seconds by kind (`TimeUse`). The kind that grows most per item from the
    smallest to the largest N is the cause of lost speed-up (after the speed-up stacks of Eyerman, Du Bois & Eeckhout, ISPASS 2012).
    If little is lost, or nothing grows half as much, a wait that takes most of the time at every N is the cause. Time without a
    core is no cause where nobody uses the cores. `counts` is what N counts: `workers`, or `ranks` of a gang, whose work is not cut
    by Hooke: what all ranks do is repeated work.
    """
    known = [each for each in measured if each.use is not None]
    levels = [
        _level([each for each in known if each.n == n], counts) for n in sorted({each.n for each in known})
    ]
    if not levels:
        return None
    if counts == "ranks":
        levels = _met(levels)
    first, last = levels[0], levels[-1]
    judged = levels if _crowded(levels, cores) is not None else _woken(levels)
    wait = _steady_wait(judged)
    lost = last.whole / first.whole - 1
    if len(levels) > 1 and lost >= LOSS and math.log1p(lost) >= ERRORS * _error(known, first.n, last.n):
        growth = {kind: seconds - judged[0].kinds[kind] for kind, seconds in judged[-1].kinds.items()}
        most, *others = sorted(growth, key=growth.__getitem__, reverse=True)
        if wait not in ("", most) and judged[-1].kinds[wait] >= OUTWEIGHS * growth[most]:
            return _waiting(wait, levels)
        for kind in (most, *others):
            is_main = growth[kind] >= MAIN_PART * (last.whole - first.whole)
            if is_main and (found := _grown(kind, levels, cores)) is not None:
                return found
    if wait:
        return _waiting(wait, levels)
    if all(level.kinds["delay"] >= CROWDED * level.whole and level.others >= TAKEN for level in levels):
        return _crowded(levels, cores)
    return None


def _woken(levels: Sequence[_Level]) -> list[_Level]:
    """The levels for a choice where nobody uses the cores: then time without one is what waking up takes.

    A fast disk wakes workers so often that this takes as long as its calls, and is a part of the wait for it.
    """
    last = levels[-1]
    if last.kinds["disk"] < WOKEN * last.kinds["delay"]:
        return list(levels)
    return [
        replace(
            level,
            kinds=level.kinds | {"disk": level.kinds["disk"] + level.kinds["delay"], "delay": 0.0},
        )
        for level in levels
    ]


def _met(levels: Sequence[_Level]) -> list[_Level]:
    """The levels of a gang: what its ranks wait for locks and sockets beyond what one rank alone does, they wait for one another."""
    first = levels[0]
    alone = {what: seconds for what, seconds in first.places.items() if first.n == 1}
    found = []
    for level in levels:
        kinds = dict(level.kinds)
        if level.n > 1:
            for kind in MEETING:
                own = min(first.kinds[kind] if first.n == 1 else 0.0, kinds[kind])
                kinds["ranks"] += kinds[kind] - own
                kinds[kind] = own
        grown = {
            f"ranks {what.partition(' ')[2]}": seconds - alone.get(what, 0.0)
            for what, seconds in level.places.items()
            if WAITS.get(what.partition(" ")[0]) in MEETING
        }
        found.append(replace(level, kinds=kinds, places=level.places | grown))
    return found


def _error(measured: Sequence[Measured], first: int, last: int) -> float:
    """The standard error of the logarithm of the ratio of the times at two N."""
    groups = {
        n: [each.work / each.seconds for each in measured if each.n == n]
        for n in {each.n for each in measured}
    }
    spread = spread_of(groups)
    if not spread.freedom:
        return math.log1p(LOSS) / ERRORS
    return spread.share * math.sqrt(1 / len(groups[first]) + 1 / len(groups[last]))


def _level(measured: Sequence[Measured], counts: str) -> _Level:
    parts = [_kinds(each) for each in measured]
    kinds = {kind: float(np.mean([part[kind] for part in parts])) for kind in parts[0]}
    places: dict[str, float] = {}
    for each in measured:
        assert each.use is not None
        for what, seconds in each.use.waits.items():
            places[what] = places.get(what, 0.0) + seconds / each.work / len(measured)
    loads = [each.load.others for each in measured if each.load is not None]
    uses = [(each, each.use) for each in measured if each.use is not None]
    return _Level(
        n=measured[0].n,
        counts=counts,
        whole=float(np.mean([each.n * each.seconds / each.work for each in measured])),
        kinds=kinds,
        places=places,
        others=float(np.mean(loads)) if loads else 0.0,
        runnable=float(
            np.mean([(use.user_s + use.sys_s + (use.delay_s or 0.0)) / each.seconds for each, use in uses])
        ),
        computing=float(np.mean([(use.user_s + use.sys_s) / each.seconds for each, use in uses])),
        longest=float(np.median([use.longest_s / each.seconds for each, use in uses])),
        uneven=float(
            np.median(
                [use.longest_s / use.longest_items / max(use.busy_s / each.work, 1e-9) for each, use in uses]
            )
        ),
        items=measured[0].work,
    )


def _kinds(each: Measured) -> dict[str, float]:
    """Worker-seconds per item by kind of time."""
    use = each.use
    assert use is not None
    kinds = dict.fromkeys(("lock", "gil", "network", "disk", "ranks"), 0.0)
    if use.samples >= LEAST_SAMPLES:
        for what, seconds in use.waits.items():
            kind = WAITS.get(what.partition(" ")[0])
            if kind is not None:
                kinds[kind] += seconds
    first = min(use.first_s, use.busy_s)
    kinds |= {
        "user": max(0.0, use.user_s - first * use.user_s / max(use.busy_s, 1e-9)),
        "system": max(0.0, use.sys_s - first * use.sys_s / max(use.busy_s, 1e-9)),
        "delay": use.delay_s or 0.0,
        "start": use.start_s + use.first_s,
        "serial": sum(use.serial.values()),
        "gap": use.gap_s,
        "tail": use.tail_s,
    }
    return {kind: seconds / each.work for kind, seconds in kinds.items()}


def _grown(kind: str, levels: Sequence[_Level], cores: int) -> Bottleneck | None:
    """The cause where this kind of time grows most with N; None if nobody uses the cores that workers lack."""
    last = levels[-1]
    if kind == "user":
        rises = f"CPU per {'call' if last.counts == 'ranks' else 'item'} rises {_over(levels, _cpu)}"
        if last.counts == "ranks":
            return _cause("repeated work", f"each rank repeats a part of the work: {rises}", levels)
        return _cause("memory bandwidth", f"memory-bound: {rises}", levels, INFERRED)
    if kind == "system":
        return _cause(
            "kernel", f"the kernel: system time per item rises {_over(levels, _of('system'))}", levels
        )
    if kind == "delay":
        return _crowded(levels, cores)
    if kind == "network":
        rises = f"response time grows with N, {_over(levels, _of('network'))}"
        return _cause("shared server", f"a slow shared server: {rises}, in {_place(last, 'network')}", levels)
    if kind in ("lock", "disk", "gil", "ranks"):
        return _waiting(kind, levels)
    if kind == "start":
        return _cause("start-up", f"start-up takes {_over(levels, _of('start'))} for each item", levels)
    if kind == "serial":
        alone = f"a serial part: while it runs, the other workers wait for {_over(levels, _of('serial'))}"
        return _cause("serial part", f"{alone} for each run", levels)
    if kind == "gap":
        waits = f"waiting for the next one takes {_over(levels, _of('gap'))}"
        return _cause("short items", f"short items: {waits}", levels)
    return _ended(levels)


def _ended(levels: Sequence[_Level]) -> Bottleneck:
    """The cause where workers have nothing to do at the end."""
    last = levels[-1]
    if last.uneven >= SKEWED and last.longest * last.n > 1:
        return _cause(
            "skewed items",
            f"skewed items: one takes {last.longest:.0%} of the time at N = {last.n}",
            levels,
            f"the longest item takes {last.uneven:.1f} times as long as the mean one",
        )
    best = last.items / math.ceil(last.items / last.n)
    return _cause(
        "too few items",
        f"too few items: {last.items:g} for {last.n} workers, so some have nothing to do at the end",
        levels,
        f"if all items took equally long, the speed-up would be at most {best:.3g}",
    )


def _crowded(levels: Sequence[_Level], cores: int) -> Bottleneck | None:
    """Who uses the cores: other processes, or the workers themselves; None if nobody does."""
    last = levels[-1]
    if last.others >= TAKEN and (last.n <= cores or last.others >= last.computing):
        taken = ", ".join(f"{level.others:.1f}" for level in levels)
        ns = ", ".join(f"{level.n}" for level in levels)
        sentence = f"other processes take the cores: {taken} cores at N = {ns}"
        return _cause("cores taken", sentence, levels)
    if last.runnable > cores * 1.1 and last.computing + last.others >= IN_USE * cores:
        return _cause(
            "cores", f"the cores are all in use: {last.n} {last.counts} compute on {cores} cores", levels
        )
    return None


def _waiting(kind: str, levels: Sequence[_Level]) -> Bottleneck:
    last = levels[-1]
    place = _place(last, kind)
    share = f"{last.kinds[kind] / last.whole:.0%} of the {last.counts}' time at N = {last.n}"
    match kind:
        case "lock":
            return _cause("lock", f"waits for a lock in {place}: {share}", levels)
        case "gil":
            return _cause(
                "GIL", f"waits for the GIL in {place}: its threads compute one at a time", levels, share
            )
        case "ranks":
            return _cause("communication", f"waits for other ranks in {place}: {share}", levels)
        case "disk":
            return _cause("disk", f"waits for the disk in {place}: {share}", levels)
        case _:
            return _cause("network", f"waits for a server (network) in {place}: {share}", levels)


def _steady_wait(levels: Sequence[_Level]) -> str:
    """The longest wait of those that take most of the time at every N; empty if none does."""
    least = {"gil": QUEUED, "network": WAITING, "disk": WAITING, "lock": WAITING, "ranks": WAITING}
    found = [
        kind
        for kind, share in least.items()
        if all(level.kinds[kind] >= share * level.whole for level in levels)
    ]
    return max(found, key=levels[-1].kinds.__getitem__, default="")


def _of(kind: str) -> Callable[[_Level], float]:
    return lambda level: level.kinds[kind]


def _cpu(level: _Level) -> float:
    return level.kinds["user"] + level.kinds["system"]


def _over(levels: Sequence[_Level], seconds: Callable[[_Level], float]) -> str:
    """`28, 34, 47 ms at 1, 2, 4 workers`."""
    values = [seconds(level) for level in levels]
    unit, name = next(
        ((unit, name) for unit, name in ((1.0, "s"), (1e-3, "ms")) if max(values) >= unit), (1e-6, "us")
    )
    ns, counts = [level.n for level in levels], levels[0].counts
    counted = f"{', '.join(map(str, ns))} {counts.removesuffix('s') if ns == [1] else counts}"
    return f"{', '.join(f'{value / unit:.3g}' for value in values)} {name} at {counted}"


def _place(level: _Level, kind: str) -> str:
    """The place with most of these waits; the code of a library or a thread has none that is the user's."""
    own = {
        what: seconds for what, seconds in level.places.items() if WAITS.get(what.partition(" ")[0]) == kind
    }
    return max(own, key=own.__getitem__).partition(" ")[2] if own else "an unknown place"


SHOWN = 0.02
"""A kind of time below this share of the whole is left out of the evidence."""
KINDS = {
    "user": "user CPU",
    "system": "system CPU",
    "delay": "ready without a core",
    "lock": "waiting for locks",
    "gil": "waiting for the GIL",
    "network": "waiting for the network",
    "disk": "waiting for the disk",
    "ranks": "waiting for other ranks",
    "start": "start-up",
    "serial": "idle while a task runs alone",
    "gap": "idle between items",
    "tail": "idle at the end",
}


def _cause(name: str, sentence: str, levels: Sequence[_Level], *more: str) -> Bottleneck:
    """The cause, with the worker-seconds per item as its evidence."""
    shown = [kind for kind in KINDS if any(level.kinds[kind] >= SHOWN * level.whole for level in levels)]
    item, counted = ("call", "rank") if levels[0].counts == "ranks" else ("item", "worker")
    kinds = [f"{KINDS[kind]} per {item}: {_over(levels, _of(kind))}" for kind in shown]
    whole = f"{counted}-seconds per {item}: {_over(levels, lambda level: level.whole)}"
    return Bottleneck(name=name, sentence=sentence, evidence=(*more, whole, *kinds))
