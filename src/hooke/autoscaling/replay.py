"""Which rule scales a service best, by replaying its recorded arrivals. Pure: NumPy, and no clock.

A rule is a staffing law: ceil(rho + beta sqrt(rho)) replicas for an offered load of rho replicas (Halfin & Whitt 1981), held for
some time, and never below a share of what the same time of day needed before. `replay` runs all rules of a family at once
through a fluid queue in steps of a second; `choose` takes the cheapest that kept half of the budget of late requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hooke.base.formats import format_seconds

__all__ = [
    "BUDGET_SHARE",
    "DAY_S",
    "GUARD_S",
    "HISTORY_S",
    "LoadSecond",
    "ReplayResult",
    "RuleChoice",
    "RuleFamily",
    "StaffingRule",
    "StaffingRules",
    "Station",
    "StationQueue",
    "backlog_replicas",
    "blocks_of",
    "choose",
    "constants",
    "least_numbers",
    "pick",
    "replay",
    "season_floor",
    "staffing_grid",
    "trailing_max",
    "trailing_mean",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
DAY_S = 86_400


# --- What a replica does, and the rules.


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """A replica as a server of a queue that all replicas share, and the promise."""

    rate: float
    """Requests a second of a replica that is always busy."""
    wait_s: float
    """The longest wait with which a request still keeps the SLO's limit."""
    variability: float = 0.0
    """The squared coefficient of variation of the service time."""
    percent: float = 99.0
    start_s: float = 5.0
    """From the order of a replica to its first answer."""
    in_service: float = 1.0
    """Requests in a busy replica that do not count as waiting: one, or those of a batch and the next."""

    @property
    def budget(self) -> float:
        """The share of requests that may be late."""
        return 1 - self.percent / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StaffingRule:
    """One rule: a constant number, a number that follows the load, or the greater of both."""

    beta: float = 0.0
    """Spare replicas, in square roots of the load."""
    window_s: int = 0
    """The load is the mean of so many seconds; 0 where the load is not looked at."""
    hold_s: int = 1
    """The need of a moment is met for so long."""
    floor: float = 0.0
    """The least number, as a part of the greatest need within five minutes of this time of day, on the days before."""
    days: tuple[int, ...] = ()
    """Which days before."""
    least: int = 0
    """Never fewer than so many."""

    def __str__(self) -> str:
        if not self.window_s:
            return f"always {self.least}"
        text = f"load + {self.beta:g} sqrt(load) of the last {self.window_s} s, held for {_duration(self.hold_s)}"
        if self.least > 1:
            text += f", at least {self.least}"
        if self.floor:
            days = "a week ago" if self.days == (7,) else "the last days"
            text += f", at least {self.floor:.0%} of the need at this time {days}"
        return text


def _duration(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds / 60:.3g} min"


BETAS = (0.0, 0.1, 0.4, 1.2, 3.5, 10.0)
WINDOWS_S = (2, 8, 30, 120)
HOLDS_S = (10, 60, 300, 900, 2400)
CALM_BETAS, CALM_WINDOWS_S = BETAS[:4], WINDOWS_S[1:]
"""With floors and least numbers: these do what a large beta or a short window is for."""
FLOORS: tuple[tuple[float, tuple[int, ...]], ...] = ((0.7, (1, 2, 3)), (1.0, (1, 2, 3)), (1.0, (7,)))
LEAST_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Least numbers, as parts of what the greatest minute needs."""
MOST_CONSTANTS = 64


def staffing_grid(counts: Ints, station: Station, *, low: int, high: int) -> tuple[StaffingRule, ...]:
    """The rules that are compared: some that follow the load, calm ones of these with floors or least numbers, and constants."""
    following = [
        StaffingRule(beta=beta, window_s=window, hold_s=hold)
        for beta in BETAS
        for window in WINDOWS_S
        for hold in HOLDS_S
    ]
    calm = [one for one in following if one.beta in CALM_BETAS and one.window_s in CALM_WINDOWS_S]
    numbers = least_numbers(counts, station, low=low, high=high)
    return (
        *following,
        *(replace(one, floor=floor, days=days) for one in calm for floor, days in FLOORS),
        *(replace(one, least=least) for one in calm for least in numbers if least > low),
        *(StaffingRule(least=count) for count in constants(low, high)),
    )


def least_numbers(counts: Ints, station: Station, *, low: int, high: int) -> list[int]:
    """Least numbers that are worth comparing: `low`, and parts of what the greatest minute needs."""
    minutes = np.add.reduceat(counts, np.arange(0, len(counts), 60)) / 60 if len(counts) else np.zeros(1)
    peak = float(minutes.max(initial=0.0)) / station.rate
    return sorted({low, *(min(max(round(share * peak), low), high) for share in LEAST_SHARES)})


def constants(low: int, high: int) -> list[int]:
    """Constant numbers of replicas: all, or as many as are worth comparing, in equal ratios."""
    if high - low < MOST_CONSTANTS:
        return list(range(low, high + 1))
    return sorted({round(float(one)) for one in np.geomspace(low, high, MOST_CONSTANTS)})


SEASON_S = 300
"""How near to the same time of day."""


# --- Series of a second each. Index t is what is known when second t begins.


def trailing_mean(counts: Ints, window_s: int) -> Floats:
    """The mean of the `window_s` seconds before each second, or of as many as there are; (seconds + 1,)."""
    sums = np.concatenate(([0.0], np.cumsum(counts, dtype=np.float64)))
    at = np.arange(len(sums))
    since = np.maximum(at - window_s, 0)
    return (sums - sums[since]) / np.maximum(at - since, 1)


def trailing_max(values: Ints, length: int) -> Ints:
    """The greatest of each value and the `length - 1` before it."""
    out, span = values.copy(), 1
    while span < min(length, len(values)):
        step = min(span, length - span)
        out[step:] = np.maximum(out[step:], out[:-step])
        span += step
    return out


def needs(counts: Ints, station: Station, beta: float, window_s: int) -> Ints:
    """ceil(rho + beta sqrt(rho)) at the start of each second, and after the last one; (seconds + 1,)."""
    rho = trailing_mean(counts, window_s) / station.rate
    return np.ceil(rho + beta * np.sqrt(rho) - 1e-9).astype(np.int64)


def season_floor(need: Ints, floor: float, days: Sequence[int], begin: int, end: int) -> Ints:
    """`floor` times the greatest need around this time of the days before, for the seconds from `begin` to `end`.

    `end` may be up to a day, less five minutes, beyond the last need. 0 where no such day was seen.
    """
    out = np.zeros(end - begin, dtype=np.int64)
    around = trailing_max(need, 2 * SEASON_S + 1)
    at = np.arange(begin, end)
    for day in days:
        centre = at - day * DAY_S
        seen = (centre >= 0) & (centre + SEASON_S < len(need))
        out[seen] = np.maximum(out[seen], around[centre[seen] + SEASON_S])
    return np.ceil(floor * out - 1e-9).astype(np.int64)


# --- Families of rules, each with a number for all of its candidates at once.


@dataclass(frozen=True, slots=True)
class LoadSecond:
    """A service at the start of a second, one value a candidate."""

    second: int
    arrived: int
    """Arrivals in the second before."""
    in_flight: Floats
    """Requests that wait or run."""
    waiting: Floats
    busy: Floats
    """Replicas at work, on average, in the second before."""
    ready: Ints


class RuleFamily(Protocol):
    """Rules of one kind with several settings. It is asked once for each second, in order."""

    @property
    def settings(self) -> Sequence[object]:
        """What it is asked for all at once."""
        ...

    def decide(self, seen: LoadSecond) -> Ints:
        """The desired number of replicas by each setting."""
        ...


class StaffingRules:
    """Our rules: open-loop staffing, and what works a backlog off within the time of a start.

    Known from second `first` on; the seconds before are the past of its floors.
    """

    def __init__(
        self,
        counts: Ints,
        station: Station,
        settings: Sequence[StaffingRule],
        *,
        first: int = 0,
    ) -> None:
        self.settings = settings
        self._station, self._first = station, first
        self._least = np.array([one.least for one in settings])
        self._varies = np.array([one.window_s > 0 for one in settings])
        loads = sorted({(one.beta, one.window_s) for one in settings if one.window_s})
        known = {load: needs(counts, station, *load).astype(np.int32) for load in loads}

        def held(beta: float, window_s: int, hold_s: int) -> Ints:
            since = max(first - hold_s, 0)
            return trailing_max(known[beta, window_s][since:], hold_s)[first - since :]

        def floor(beta: float, window_s: int, part: float, days: tuple[int, ...]) -> Ints:
            return season_floor(known[beta, window_s], part, days, first, len(counts) + 1)

        seconds = len(counts) + 1 - first
        self._held, self._held_at = _columns_of(
            [(one.beta, one.window_s, one.hold_s) if one.window_s else None for one in settings],
            held,
            seconds,
        )
        self._floor, self._floor_at = _columns_of(
            [(one.beta, one.window_s, one.floor, one.days) if one.floor else None for one in settings],
            floor,
            seconds,
        )

    def decide(self, seen: LoadSecond) -> Ints:
        """The desired number of replicas by each rule."""
        row = seen.second - self._first
        base = np.maximum(self._held[row][self._held_at], self._least)
        if self._floor.shape[1] > 1:
            base = np.maximum(base, self._floor[row][self._floor_at])
        if not seen.waiting.any():
            return base
        more = backlog_replicas(seen.waiting, seen.ready, self._station)
        return base + np.where(self._varies, more, 0)


def _columns_of(
    keys: Sequence[tuple[Any, ...] | None], make: Callable[..., Ints], seconds: int
) -> tuple[NDArray[np.int32], Ints]:
    """The series of each distinct key once, as columns after one of zeros, and the column of each key.

    One is made at a time: all series of ten days together take more than a gigabyte.
    """
    distinct = sorted({key for key in keys if key is not None})
    at = {key: number for number, key in enumerate(distinct, start=1)}
    table = np.zeros((seconds, len(distinct) + 1), dtype=np.int32)
    for key, column in at.items():
        table[:, column] = make(*key)
    return table, np.array([0 if key is None else at[key] for key in keys], dtype=np.int64)


def backlog_replicas(waiting: Floats, ready: Ints, station: Station) -> Ints:
    """Replicas that work the waiting requests off within a start, once these wait for half of what they may."""
    long = waiting > np.maximum(ready, 1) * station.rate * max(station.wait_s, 0.0) / 2
    more = np.ceil(waiting / (station.rate * max(station.start_s, 1.0)))
    return np.where(long, more, 0).astype(np.int64)


# --- The fluid queue.


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """What each setting would have given, in each block of time."""

    settings: Sequence[object]
    requests: Ints
    """(blocks,)"""
    late: Floats
    """Requests beyond the limit; (blocks, settings)."""
    replica_s: Floats
    """Replica seconds, starts included; (blocks, settings)."""

    def part(self, which: slice) -> ReplayResult:
        """Of these settings."""
        return replace(
            self,
            settings=self.settings[which],
            late=self.late[:, which],
            replica_s=self.replica_s[:, which],
        )

    @property
    def attained(self) -> Floats:
        """The share of all requests within the limit."""
        return 1 - self.late.sum(axis=0) / max(int(self.requests.sum()), 1)

    @property
    def worst(self) -> Floats:
        """The greatest share of late requests in a block."""
        some = self.requests > 0
        if not some.any():
            return np.zeros(self.late.shape[1])
        return (self.late[some] / self.requests[some, None]).max(axis=0)

    @property
    def hours(self) -> Floats:
        """Replica-hours."""
        return self.replica_s.sum(axis=0) / 3600


class StationQueue:
    """The probability that a request of a second is late although the load of the second fits: by chance within it.

    C(c, a) exp(-2 b (b + d h) / (v h)): Erlang's C for the probability of a wait, times that of a Brownian bridge of drift -d and
    variance v a second to exceed b over the horizon h. Without the b^2 term it is the tail of M/G/c in heavy traffic (Kingman 1962).
    """

    def __init__(self, station: Station, most: int, greatest: float) -> None:
        self.station = station
        self.horizon_s = max(1.0, 1 / station.rate)
        self._step = max(greatest / 4000, 1 / self.horizon_s)
        """Loads are rounded to steps of one arrival in the horizon, or coarser for high rates."""
        load = np.arange(math.ceil(greatest / self._step) + 2) * self._step / station.rate
        self._waits = np.ones((most + 1, len(load)), dtype=np.float32)
        blocked = np.ones_like(load)
        for servers in range(1, most + 1):
            blocked = load * blocked / (servers + load * blocked)
            share = np.minimum(load / servers, 1.0)
            self._waits[servers] = np.minimum(blocked / (1 - share * (1 - blocked)), 1.0)

    def late(self, rates: Floats, ready: Ints, waiting: Floats) -> Floats:
        """(seconds, settings), for rates (seconds,) of arrivals."""
        one, horizon = self.station, self.horizon_s
        columns = np.rint(rates / self._step).astype(np.int64)[:, None]
        rate = rates.astype(np.float32)
        capacity = ready.astype(np.float32) * np.float32(one.rate)
        room = np.maximum(np.float32(max(one.wait_s, 0.0)) * capacity - waiting, 0.0)
        spare = (capacity - rate[:, None]) * np.float32(horizon)
        variance = np.maximum(rate * np.float32(horizon * (1 + one.variability)), np.float32(1e-9))[:, None]
        with np.errstate(under="ignore"):
            tail = np.exp(np.minimum(-2 * room * (room + spare) / variance, 0.0))
        return np.where(ready > 0, self._waits[ready, columns] * tail, 1.0)


BLOCK_S = 2048
"""Seconds judged at once: all settings of a block fit in some MB."""
WARM_S = 1800
"""A replay begins so long before what is judged, so that the service is in its stride."""


def replay(  # noqa: PLR0913 - the parts of an experiment
    counts: Ints,
    station: Station,
    family: RuleFamily,
    *,
    low: int = 1,
    high: int,
    ends: Sequence[int] = (),
    begin: int = 0,
) -> ReplayResult:
    """Replay arrivals (seconds,) with each setting of a family, between `low` and `high` replicas.

    Blocks are judged apart: the first from second `begin`, each to one of `ends`; one block without `ends`.
    """
    ends = tuple(ends) or (len(counts),)
    since = max(begin - WARM_S, 0)
    state = _Fluid(counts, station, family, low, high)
    tally = _Tally(counts, station, ends, begin=begin, since=since, settings=len(family.settings), high=high)
    for first in range(since, ends[-1], BLOCK_S):
        tally.take(*state.run(first, min(first + BLOCK_S, ends[-1])))
    tally.close(state.waiting)
    return ReplayResult(
        settings=family.settings, requests=tally.requests, late=tally.late, replica_s=tally.replica_s
    )


class _Fluid:
    """Requests in the system, and replicas that are ready: those that were desired for a whole start."""

    def __init__(self, counts: Ints, station: Station, family: RuleFamily, low: int, high: int) -> None:
        self._counts, self._station, self._family = counts, station, family
        self._low, self._high = low, high
        settings = len(family.settings)
        self._inside = np.zeros(settings)
        self._ring = np.full((math.ceil(station.start_s) + 1, settings), low, dtype=np.int64)
        self._began = False
        self._served = np.zeros(settings)
        self.waiting = np.zeros(settings)
        self.ready = self._ring.min(axis=0)

    def run(self, first: int, last: int) -> tuple[Ints, Floats, Ints]:
        """Desired, waiting and ready at the start of each second; each (last - first, settings)."""
        shape = (last - first, len(self._inside))
        desired, waiting, ready = (
            np.empty(shape, np.int32),
            np.empty(shape, np.float32),
            np.empty(shape, np.int32),
        )
        rate, long = self._station.rate, self._station.rate < 1
        for row, second in enumerate(range(first, last)):
            arrived = int(self._counts[second - 1]) if second else 0
            busy = self._served / rate
            in_flight = self._inside if long else self._inside + np.minimum(busy, self.ready)
            seen = LoadSecond(second, arrived, in_flight, self.waiting, busy, self.ready)
            target = np.minimum(np.maximum(self._family.decide(seen), self._low), self._high)
            if not self._began:  # replicas that were there before
                self._ring[:], self._began = target, True
            self._ring[second % len(self._ring)] = target
            self.ready = self._ring.min(axis=0)
            desired[row], waiting[row], ready[row] = target, self.waiting, self.ready
            self._inside = self._inside + self._counts[second]
            self._served = np.minimum(self.ready * rate, self._inside * min(rate, 1.0))
            self._inside = self._inside - self._served
            self.waiting = np.maximum(self._inside - self.ready, 0.0) if long else self._inside
        return desired, waiting, ready


class _Tally:
    """Late requests: those of a second that the queue serves only after more than the wait, by arrivals and backlog alone, or by chance."""

    def __init__(  # noqa: PLR0913 - it is made in one place
        self,
        counts: Ints,
        station: Station,
        ends: Sequence[int],
        *,
        begin: int,
        since: int,
        settings: int,
        high: int,
    ) -> None:
        self._counts, self._ends, self._begin = counts, np.array(ends), begin
        wait = max(station.wait_s, 0.0)
        self._whole, self._part = int(wait), wait - int(wait)
        self._ahead = self._whole + 2
        padded = np.concatenate((counts, np.zeros(self._ahead, dtype=np.int64)))
        sums = np.concatenate(([0], np.cumsum(padded)))
        at = np.arange(len(counts) + 1)
        later = sums[at + self._whole] * (1 - self._part) + sums[at + self._whole + 1] * self._part
        self._meanwhile = (later - sums[at]).astype(np.float32)
        """Arrivals within the wait after the start of each second."""
        horizon = math.ceil(max(1.0, 1 / station.rate))
        self._rates = trailing_mean(counts, horizon)[1:]
        self._chance = StationQueue(station, high, float(self._rates.max(initial=0.0)))
        starts = (begin, *ends[:-1])
        self.requests = np.array(
            [int(counts[a:b].sum()) for a, b in zip(starts, ends, strict=True)], dtype=np.int64
        )
        self.late = np.zeros((len(ends), settings))
        self.replica_s = np.zeros((len(ends), settings))
        self._waiting: Floats = np.empty((0, settings), dtype=np.float32)
        self._ready: Ints = np.empty((0, settings), dtype=np.int32)
        self._second = since

    def take(self, desired: Ints, waiting: Floats, ready: Ints) -> None:
        """The next seconds. The last ones are judged later, when it is known how long their requests waited."""
        first = self._second + len(self._waiting)
        seconds = np.arange(first, first + len(desired))
        for block, (begin, end) in enumerate(zip((self._begin, *self._ends[:-1]), self._ends, strict=True)):
            self.replica_s[block] += desired[(seconds >= begin) & (seconds < end)].sum(axis=0)
        self._waiting = np.concatenate((self._waiting, waiting))
        self._ready = np.concatenate((self._ready, ready))
        self._judge(len(self._waiting) - self._ahead)

    def close(self, waiting: Floats) -> None:
        """Judge the last seconds; what waits now keeps waiting as long as at the present rate of work."""
        left = len(self._waiting)
        drained = self._ready[-1] * self._chance.station.rate
        after = [np.maximum(waiting - drained * k, 0.0) for k in range(self._ahead)]
        self._waiting = np.concatenate((self._waiting, np.array(after, dtype=np.float32)))
        self._judge(left)

    def _judge(self, count: int) -> None:
        if count <= 0:
            return
        at = slice(self._second, self._second + count)
        whole, part = self._whole, self._part
        backlog = self._waiting
        later = backlog[whole : whole + count + 1] * np.float32(1 - part)
        later = later + backlog[whole + 1 : whole + count + 2] * np.float32(part)
        over = later - self._meanwhile[self._second : self._second + count + 1, None]
        above, below = np.maximum(over, 0.0), np.maximum(-over, 0.0)
        above, below = above[:-1] + above[1:], below[:-1] + below[1:]
        steady = above / np.maximum(above + below, 1e-12)
        by_chance = self._chance.late(self._rates[at], self._ready[:count], backlog[:count])
        late = np.maximum(steady, by_chance) * self._counts[at, None].astype(np.float32)
        seconds = np.arange(at.start, at.stop)
        for block, (begin, end) in enumerate(zip((self._begin, *self._ends[:-1]), self._ends, strict=True)):
            self.late[block] += late[(seconds >= begin) & (seconds < end)].sum(axis=0, dtype=np.float64)
        self._waiting, self._ready = backlog[count:], self._ready[count:]
        self._second += count


# --- The choice.

BUDGET_SHARE = 0.5
"""The part of the budget of late requests that a rule may use on the past: the future is not the past."""
GUARD_S = 10
"""The load of so many seconds is compared with the greatest that was replayed."""
HOPELESS = 0.5
JUDGED_DAYS = 3
"""A rule is judged by the worst of so many last days."""
HISTORY_S = (JUDGED_DAYS + 7) * DAY_S
"""What is worth reading: the judged days, and a week before them for floors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChoice:
    """The chosen rule, and its figures on the past."""

    rule: StaffingRule
    attained: float
    hours: float
    """Replica-hours in the judged time."""
    judged_s: int
    kept: bool
    """Whether it kept half of the budget; otherwise it is the one with the fewest late requests."""
    compared: int
    floors: tuple[int, ...] = ()
    """The floor of each minute of about a day from now on."""
    greatest_load: float
    """The greatest mean of GUARD_S seconds in the judged time, in requests a second."""

    @property
    def reason(self) -> str:
        """One sentence."""
        past = f"the last {format_seconds(self.judged_s)}"
        figures = f"{self.attained:.2%} in time for {self.hours:.3g} replica-hours"
        why = (
            "the cheapest that kept half of the budget"
            if self.kept
            else "none kept the promise, this the most"
        )
        return f"{self.rule}; of {self.compared} rules replayed on {past} it is {why}: {figures}"


def blocks_of(seconds: int, station: Station) -> tuple[int, tuple[int, ...]]:
    """Where judging begins, and the ends of the blocks: the last days, or one block of at most a day where there are not two.

    The first moments of a service are left out: no rule that follows the load knows it then.
    """
    days = min(seconds // DAY_S, JUDGED_DAYS)
    if days < 2:
        new = min(round(2 * station.start_s) + 60, seconds // 10)
        return max(seconds - DAY_S, new), (seconds,)
    return seconds - days * DAY_S, tuple(seconds - day * DAY_S for day in range(days - 1, -1, -1))


def pick(result: ReplayResult, budget: float) -> tuple[int, bool]:
    """The cheapest setting whose worst block keeps half of the budget, and True; or the one with the fewest late requests, and False.

    Where most are late by each setting, more of them does not tell apart how far each is behind: then it is the most replicas.
    """
    keeps = result.worst <= BUDGET_SHARE * budget
    hours = result.hours
    if keeps.any():
        return int(np.where(keeps, hours, np.inf).argmin()), True
    worst = result.worst
    fewest = float(worst.min())
    alike = worst <= fewest + 1e-4
    if fewest > HOPELESS:
        return int(np.where(alike, hours, -1.0).argmax()), False
    return int(np.where(alike, hours, np.inf).argmin()), False


def choose(counts: Ints, station: Station, *, low: int, high: int) -> RuleChoice:
    """The best rule on recorded arrivals (seconds,), constants included."""
    begin, ends = blocks_of(len(counts), station)
    grid = staffing_grid(counts[begin:], station, low=low, high=high)
    rules = StaffingRules(counts, station, grid, first=max(begin - WARM_S, 0))
    result = replay(counts, station, rules, low=low, high=high, ends=ends, begin=begin)
    at, kept = pick(result, station.budget)
    return RuleChoice(
        rule=grid[at],
        floors=_floors_ahead(counts, station, grid[at]),
        attained=float(result.attained[at]),
        hours=float(result.hours[at]),
        judged_s=ends[-1] - begin,
        kept=kept,
        compared=len(grid),
        greatest_load=float(trailing_mean(counts, GUARD_S)[begin:].max(initial=0.0)),
    )


def _floors_ahead(counts: Ints, station: Station, rule: StaffingRule) -> tuple[int, ...]:
    if not rule.floor:
        return ()
    need = needs(counts, station, rule.beta, rule.window_s)
    ahead = DAY_S - 2 * SEASON_S
    floors = season_floor(need, rule.floor, rule.days, len(counts), len(counts) + ahead)
    return tuple(floors.reshape(-1, 60).max(axis=1).tolist())
