"""Predicted time, price and efficiency of the remaining work for each configuration.

Method and accuracy: docs/explanation/planning.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hooke.scaling.call_times import LEVEL, NORMAL, Calibration, Ends
from hooke.scaling.catalog import InstanceType
from hooke.scaling.measurements import Estimate
from hooke.scaling.workload import (
    MOST_SINGLE,
    MachineRoom,
    NodeCalls,
    NodeWork,
    PerCall,
    Workload,
    makespan,
    slices_of,
)

__all__ = ["LOCAL", "MOST_EXTRAPOLATED", "Configuration", "Planner", "Row", "expected"]

LOCAL = "local"
"""The catalog of this machine."""
MOST_BOUNDS = 1.5
"""Tasks with unknown contention are accepted if they leave the total uncertain by at most this factor."""
MOST_EXTRAPOLATED = 2.5
"""Laws that leave the total uncertain by a larger factor are refused."""
MOST_SHOWN = 100
"""Larger factors are not shown: all of them mean that nothing is known."""
DRAWS = 8
"""Random orders of the measured durations, from which the spread of the schedule's end is estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """`instances` of a type with `workers` slots in total."""

    machine: InstanceType
    instances: int = 1
    workers: int = 1

    @property
    def is_local(self) -> bool:
        """Whether this is the local machine, which costs nothing."""
        return self.machine.catalog == LOCAL

    def __str__(self) -> str:
        if self.is_local:
            return f"this machine, {self.workers} worker{'s' * (self.workers != 1)}"
        return f"{self.instances} x {self.machine.id}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Row:
    """The prediction for a configuration, or in `refused` the reason why there is none.

    `seconds` lasts from the request for machines until the last result, including start-up. `usd` is the price of all
    machines for that time, `spot_usd` the price without preemptions at the spot price, `reserved_usd` that of the same hours of
    reserved machines, whose other hours cost as much. `efficiency` is the time of one
    worker over workers times seconds. `work_s` maps tasks to the seconds of all their calls. `measure` is the (task, N)
    to measure next.
    """

    configuration: Configuration
    seconds: Estimate | None = None
    usd: Estimate | None = None
    spot_usd: Estimate | None = None
    reserved_usd: Estimate | None = None
    efficiency: Estimate | None = None
    work_s: Mapping[str, Estimate] = field(default_factory=dict)
    refused: str = ""
    measure: tuple[str, int] | None = None

    def __repr__(self) -> str:
        known = {"seconds": self.seconds, "usd": self.usd}
        told = [f"{name} {each.shown()}" for name, each in known.items() if each is not None and each.value]
        return f"Row({self.configuration}: {'; '.join(told) or self.refused})"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The length of the schedule on machines as fast as the measured one, or why it is unknown."""

    seconds: Ends = (0.0, 0.0, 0.0)
    work: Mapping[str, Ends] = field(default_factory=dict)
    refused: str = ""
    measure: tuple[str, int] | None = None


class Planner:
    """Predicts rows for one workload. Schedules are cached, so hundreds of rows are cheap.

    `elsewhere` is the same work with what is known about other machines, if that is less than about this one.
    `overhead_s` is the time of a run beside its calls: (low, value, high).
    """

    def __init__(
        self, workload: Workload, *, elsewhere: Workload | None = None, overhead_s: Ends = (0.0, 0.0, 0.0)
    ) -> None:
        self.workload = workload
        self._elsewhere = elsewhere or workload
        self._overhead_s = overhead_s
        self._outcomes: dict[tuple[bool, MachineRoom, tuple[int, ...]], _Outcome] = {}

    def row(self, configuration: Configuration) -> Row:
        """The prediction for a configuration."""
        machine, works = configuration.machine, self.workload.works
        refused = _missing(machine)
        fits = () if refused else tuple(_fits(work, configuration) for work in works)
        small = [work.task for work, most in zip(works, fits, strict=False) if not most]
        if small:
            refused = f"one instance is too small for {small[0]}"
        wide = max(works, key=lambda work: work.slots, default=None)
        if not refused and wide is not None and wide.slots > configuration.workers:
            refused = f"{wide.task} is a gang of {wide.slots} ranks, which must all run at once"
        if refused:
            return Row(configuration=configuration, refused=refused)
        outcome = self._outcome(_room(configuration), fits, is_local=configuration.is_local)
        if outcome.refused:
            return Row(configuration=configuration, refused=outcome.refused, measure=outcome.measure)
        return self._priced(configuration, outcome)

    def _priced(self, configuration: Configuration, outcome: _Outcome) -> Row:
        machine = configuration.machine
        speed, startup = machine.speed or (1.0, 1.0), machine.startup_s or (0.0, 0.0)
        lags = (startup[0], sum(startup) / 2, startup[1])
        ran = _divided(outcome.seconds, speed)
        seconds = _summed(_each(sum, ran, lags), self._overhead_s)

        def price(name: str, usd_per_hour: float | None) -> Estimate | None:
            if usd_per_hour is None:
                return None
            low, value, high = (configuration.instances * usd_per_hour * each / 3600 for each in seconds)
            return _estimate(name, (low, value, high))

        return Row(
            configuration=configuration,
            seconds=_estimate("seconds", seconds),
            usd=price("US dollars", machine.usd_per_hour),
            spot_usd=price("US dollars at the spot price", machine.spot_usd_per_hour),
            reserved_usd=price("US dollars at the reserved price", machine.reserved_usd_per_hour),
            efficiency=self._efficiency(configuration, seconds, speed),
            work_s={
                task: _estimate(f"seconds of {task}", _divided(ends, speed))
                for task, ends in outcome.work.items()
            },
        )

    def _efficiency(
        self, configuration: Configuration, seconds: Ends, speed: tuple[float, float]
    ) -> Estimate | None:
        """Pairs the same ends of time and of work, because a slow day is slow for many workers and for one."""
        fits = (1,) * len(self.workload.works)
        alone = self._outcome(MachineRoom(slots=1, cpus=math.inf), fits, is_local=configuration.is_local)
        if alone.refused or not all(seconds):
            return None
        work = _summed(_divided(alone.seconds, speed), self._overhead_s)
        shares = [each / (configuration.workers * s) for each, s in zip(work, seconds, strict=True)]
        return _estimate("efficiency", (min(shares), shares[1], max(shares)))

    def _outcome(self, room: MachineRoom, fits: tuple[int, ...], *, is_local: bool) -> _Outcome:
        key = (is_local, room, fits)
        if key not in self._outcomes:
            load = self.workload if is_local else self._elsewhere
            self._outcomes[key] = _scheduled(load, room, fits)
        return self._outcomes[key]


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected seconds of a schedule, without start-up and overhead; `chance` and `laws` are as in `PredictedRun`."""

    seconds: float
    chance: float
    laws: float


def expected(load: Workload, configuration: Configuration, *, within: float) -> Expected | None:
    """The expected seconds of a schedule; None if laws leave it open by more than the factor `within`."""
    fits = tuple(_fits(work, configuration) for work in load.works)
    schedule = _schedule(load, _room(configuration), fits)
    total = _Total(schedule, load.calibration)
    if any(each.open for each in schedule.per_call) or not total.value or total.model_factor > within:
        return None
    return Expected(total.value, total.chance(), (math.log(total.model_factor) / (2 * NORMAL)) ** 2)


def _schedule(load: Workload, room: MachineRoom, fits: tuple[int, ...]) -> _Schedule:
    at_once = [
        max(1, min(room.slots, most, load.items[work.task]))
        for work, most in zip(load.works, fits, strict=True)
    ]
    per_call = [load.per_call(number, n) for number, n in enumerate(at_once)]
    return _Schedule(load.works, per_call, at_once, fits, room)


def _scheduled(load: Workload, room: MachineRoom, fits: tuple[int, ...]) -> _Outcome:
    schedule = _schedule(load, room, fits)
    refusal = schedule.undetermined()
    if refusal is not None:
        return refusal
    total = _Total(schedule, load.calibration)
    if total.model_factor > MOST_EXTRAPOLATED:
        return total.refusal()
    work: dict[str, Ends] = {}
    for each, per in zip(load.works, schedule.per_call, strict=True):
        items = each.items or 0
        mine = (per.seconds[0] * items, per.seconds[1] * items, per.seconds[2] * items)
        work[each.task] = _each(sum, work.get(each.task, (0.0, 0.0, 0.0)), mine)
    return _Outcome(seconds=total.ends(), work=work)


@dataclass(frozen=True, slots=True)
class _Schedule:
    works: Sequence[NodeWork]
    per_call: Sequence[PerCall]
    at_once: Sequence[int]
    fits: Sequence[int]
    room: MachineRoom

    def seconds(self, means: Sequence[float], *, draw: int = 0) -> float:
        """Seconds until the last call ends, given the mean of each node's calls. `draw` is as in `slices_of`."""
        return makespan(
            [
                NodeCalls(
                    slices=slices_of(work.items or 0, mean, at_once=n, shape=per.shape, draw=draw),
                    items=work.items or 0,
                    needs=work.needs,
                    cpus=work.cpus,
                    memory=float(work.memory or 0),
                    gpus=work.gpus,
                    most=most,
                )
                for work, per, mean, n, most in zip(
                    self.works, self.per_call, means, self.at_once, self.fits, strict=True
                )
            ],
            self.room,
        )

    def _roughly(self, means: Sequence[float]) -> float:
        """The maximum of the total work over all slots and of the longest chain of rounds."""
        rounds = [
            math.ceil((work.items or 0) / n) * mean
            for work, mean, n in zip(self.works, means, self.at_once, strict=True)
        ]
        ends: list[float] = []
        for work, mine in zip(self.works, rounds, strict=True):
            ends.append(mine + max((ends[need.calls] for need in work.needs), default=0.0))
        whole = sum((work.items or 0) * mean for work, mean in zip(self.works, means, strict=True))
        return max([whole / self.room.slots, *ends])

    def undetermined(self) -> _Outcome | None:
        """The refusal if tasks with unknown contention leave the total open."""
        unknown = [(work, per) for work, per in zip(self.works, self.per_call, strict=True) if per.open]
        if not unknown:
            return None
        base = [per.seconds[1] / per.bounds[1] for per in self.per_call]
        least, most = (
            self._roughly([mean * per.bounds[end] for mean, per in zip(base, self.per_call, strict=True)])
            for end in (0, 2)
        )
        if most <= MOST_BOUNDS * least:
            return None
        work, per = max(
            unknown, key=lambda each: (each[0].items or 0) * (each[1].seconds[2] - each[1].seconds[0])
        )
        return _Outcome(
            refused=f"{work.task}: {per.open}, so the time is uncertain by a factor of {most / least:.2g}",
            measure=(work.task, per.measure_at),
        )


class _Total:
    """The seconds of a schedule and their interval.

    Independent are the error of a run about what was expected (`calibration`), of each task's laws, and the chance of which
    items run in which order. Their logarithmic half widths add in quadrature, each as far as it moves the schedule's end.
    """

    def __init__(self, schedule: _Schedule, calibration: Calibration) -> None:
        self._schedule = schedule
        self._means = [each.seconds[1] + each.gap_s[1] for each in schedule.per_call]
        self._calibration = calibration
        self.value = schedule.seconds(self._means)
        self._moved = {
            task: self._ends_of(task) for task in dict.fromkeys(work.task for work in schedule.works)
        }

    @property
    def model_factor(self) -> float:
        """The ratio of the high to the low end that the laws alone leave."""
        return math.exp(sum(self._model()))

    def ends(self) -> Ends:
        """(low, value, high)."""
        if not self.value:
            return 0.0, 0.0, 0.0
        run = self._calibration.half_width(self._runs(), self.chance())
        below, above = (math.hypot(each, run) for each in self._model())
        return self.value * math.exp(-below), self.value, self.value * math.exp(above)

    def chance(self) -> float:
        """The variance of ln seconds by which items run, and in which order."""
        return self._sampling() ** 2 + self._order() ** 2

    def refusal(self) -> _Outcome:
        """Why the laws leave too much open, and which task to measure."""
        task = max(self._moved, key=lambda each: sum(self._moved[each]))
        per, n = next((per, n) for work, per, n in self._nodes() if work.task == task)
        factor = f"{self.model_factor:.2g}" if self.model_factor < MOST_SHOWN else f"more than {MOST_SHOWN}"
        why = f"uncertain by a factor of {factor}"
        if per.unsized:
            return _Outcome(refused=f"{task}: the time is {why}: {per.unsized}")
        return _Outcome(refused=f"{task}: its laws leave the time {why}", measure=(task, per.measure_at or n))

    def _nodes(self) -> Iterator[tuple[NodeWork, PerCall, int]]:
        schedule = self._schedule
        return zip(schedule.works, schedule.per_call, schedule.at_once, strict=True)

    def _model(self) -> tuple[float, float]:
        below, above = (math.hypot(*(each[end] for each in self._moved.values())) for end in (0, 1))
        return below, above

    def _ends_of(self, task: str) -> tuple[float, float]:
        """How far the low and the high end of the task's laws move the schedule's end, as |ln ratio|.

        Only the high end is scheduled; the low end moves it as far in proportion.
        """
        models = [per.model if work.task == task else (1.0, 1.0, 1.0) for work, per, _ in self._nodes()]
        above = max(math.log(high / value) for _, value, high in models)
        below = max(math.log(value / low) for low, value, _ in models)
        if not above:
            return self._shifted([low / value for low, value, _ in models]), 0.0
        moved = self._shifted([high / value for _, value, high in models])
        return moved * below / above, moved

    def _shifted(self, factors: Sequence[float]) -> float:
        if not self.value or all(abs(factor - 1) < 1e-6 for factor in factors):
            return 0.0
        means = [mean * factor for mean, factor in zip(self._means, factors, strict=True)]
        return abs(math.log(self._schedule.seconds(means) / self.value))

    def _shares(self) -> dict[str, float]:
        """Task -> share of all work, and of the errors that the items cause."""
        work: dict[str, float] = {}
        for (node, _, _), mean in zip(self._nodes(), self._means, strict=True):
            work[node.task] = work.get(node.task, 0.0) + mean * (node.items or 0)
        whole = sum(work.values())
        return {task: each / whole for task, each in work.items()} if whole else {}

    def _runs(self) -> float:
        """How many runs stand behind the value: the harmonic mean by share of the work."""
        shares = self._shares()
        least: dict[str, int] = {}
        for work, per, _ in self._nodes():
            least[work.task] = min(least.get(work.task, per.runs), per.runs)
        inverse = sum(share / least[task] for task, share in shares.items())
        return 1 / inverse if inverse else 1.0

    def _sampling(self) -> float:
        shares, deviations = self._shares(), {work.task: per.sampling for work, per, _ in self._nodes()}
        return math.hypot(*(share * deviations[task] for task, share in shares.items()))

    def _order(self) -> float:
        """The standard deviation of ln seconds over random orders of the durations of single items."""
        if not any(
            1 < (work.items or 0) <= MOST_SINGLE and len(per.shape) > 1 for work, per, _ in self._nodes()
        ):
            return 0.0
        ends = [self._schedule.seconds(self._means, draw=draw) for draw in range(1, DRAWS + 1)]
        return statistics.stdev(math.log(each) for each in ends)


def _missing(machine: InstanceType) -> str:
    """The missing fact that makes an instance type unpredictable, or an empty string."""
    if machine.speed is None:
        return "speed unknown"
    if machine.startup_s is None:
        return "start-up time unknown"
    return "its vCPUs are unknown" if machine.vcpus is None else ""


def _room(configuration: Configuration) -> MachineRoom:
    machine, instances = configuration.machine, configuration.instances
    cpus = (machine.vcpus or 1) * instances
    return MachineRoom(
        slots=configuration.workers,
        # This machine counts as having one CPU per worker.
        cpus=float(max(cpus, configuration.workers)),
        memory=float("inf") if machine.memory is None else float(machine.memory * instances),
        gpus=float(machine.gpus * instances),
    )


def _fits(work: NodeWork, configuration: Configuration) -> int:
    """How many calls fit at once, each within one instance. On this machine a call that is too large runs alone."""
    machine = configuration.machine
    cpus = max(machine.vcpus or 1, configuration.workers if configuration.is_local else 1)
    most = cpus / work.cpus
    if work.memory is not None and machine.memory is not None:
        most = min(most, machine.memory / work.memory)
    if work.gpus:
        most = min(most, machine.gpus / work.gpus)
    if work.slots > 1:
        most = min(most, configuration.workers // work.slots)
    whole = math.floor(most + 1e-9)
    return max(whole, 1) if configuration.is_local else whole * configuration.instances


def _divided(ends: Ends, speed: tuple[float, float]) -> Ends:
    low, high = speed
    return ends[0] / high, ends[1] / math.sqrt(low * high), ends[2] / low


def _each(what: Callable[[tuple[float, ...]], float], *ends: Ends) -> Ends:
    low, value, high = (what(together) for together in zip(*ends, strict=True))
    return low, value, high


def _summed(one: Ends, other: Ends) -> Ends:
    """The sum of two times with independent errors."""
    value = one[1] + other[1]
    below = math.hypot(one[1] - one[0], other[1] - other[0])
    return max(value - below, 0.0), value, value + math.hypot(one[2] - one[1], other[2] - other[1])


def _estimate(name: str, ends: Ends) -> Estimate:
    return Estimate(name=name, value=ends[1], interval=(ends[0], ends[2]), level=LEVEL)
