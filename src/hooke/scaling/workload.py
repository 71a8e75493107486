"""What is left to do, and how long each call of it will take with so many at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hooke.scaling.contention import Ends, nearest_level, slowdown
from hooke.scaling.law import Law
from hooke.scaling.schedule import Need
from hooke.scaling.sizes import Sized, sized, sizes_needed
from hooke.scaling.timing import Timing, run_spread, seconds_factor

__all__ = ["Facts", "PerCall", "Untimed", "Work", "Workload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is left to do of one graph node: a call, or items of a map; `items` is None where that is not known yet.

    `needs` number other entries of the same sequence, which come before it. `reads` is as in `Timing`. cpus, memory
    (bytes) and gpus are those of one call. `like` names the facts that hold for it, where these are not its task's.
    """

    task: str
    like: str = ""
    items: int | None = 1
    needs: tuple[Need, ...] = ()
    reads: int = 0
    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    slots: int = 1
    """Workers that one call takes at once: the ranks of a gang, for which cpus, memory and gpus are told together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a task: its timings in earlier runs, and its law of scaling; `lacking` says why there is none.

    `limit` is what is to be said where neither reaches far enough; `by_size` is the law of calls that read more items or fewer.
    """

    timings: Sequence[Timing] = ()
    law: Law | None = None
    lacking: str = "it has no law"
    limit: str = ""
    by_size: Law | None = None


NOTHING = Facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Untimed:
    """A task that no total can count, and why."""

    task: str
    why: str

    def __str__(self) -> str:
        return f"{self.task} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PerCall:
    """Seconds of one call of a node, with so many at once, and from there to the worker's next.

    Where it is not known how much so many slow each other down, `open` says why, and `bounds` are what that may make of
    the seconds, as factors. `measure_at` is the N whose measurement would tell.
    """

    seconds: Ends = (0.0, 0.0, 0.0)
    gap_s: Ends = (0.0, 0.0, 0.0)
    shape: Sequence[float] = ()
    bounds: Ends = (1.0, 1.0, 1.0)
    open: str = ""
    measure_at: int = 0


class Workload:
    """Work in topological order, with what is known of its tasks. What cannot be counted takes no time, and is in `untimed`."""

    def __init__(self, works: Sequence[Work], facts: Mapping[str, Facts]) -> None:
        self.works = tuple(works)
        self._facts = facts
        self.untimed = tuple({each.task: each for each in self._uncounted()}.values())
        self._without = {each.task for each in self.untimed}
        self.items: dict[str, int] = {}
        for work in works:
            self.items[work.task] = self.items.get(work.task, 0) + (work.items or 0)
        self._per_call: dict[tuple[int, int], PerCall] = {}

    def per_call(self, number: int, at_once: int) -> PerCall:
        """What one call of work `number` takes while `at_once` of its task may run."""
        key = (number, at_once)
        if key not in self._per_call:
            work = self.works[number]
            self._per_call[key] = PerCall() if work.task in self._without else self._predicted(work, at_once)
        return self._per_call[key]

    def _predicted(self, work: Work, at_once: int) -> PerCall:
        facts, basis = self._of(work), self._sized(work)
        assert basis is not None
        timings = nearest_level(basis.timings, at_once)
        timed = timings[0].at_once
        law = facts.law if self.items[work.task] > 1 else None
        slow = slowdown(law, timed=timed, n=at_once, lacking=facts.lacking)
        items = sum(each.items for each in timings)
        mean = sum(each.items * each.seconds for each in timings) / items
        gap = sum(each.items * each.gap_s for each in timings) / items
        factor = seconds_factor(timings, run_spread(basis.timings), items=self.items[work.task])
        known = [seconds for each in timings for seconds in each.known.values()]
        low, value, high = (one * other for one, other in zip(slow.ends, basis.ends, strict=True))
        return PerCall(
            seconds=(mean * low / factor, mean * value, mean * high * factor),
            gap_s=(gap / factor, gap, gap * factor),
            shape=[seconds / mean for seconds in known] if mean else (),
            bounds=slow.ends if slow.open else (1.0, 1.0, 1.0),
            open=f"{slow.open}{facts.limit}" if slow.open else "",
            measure_at=slow.measure_at,
        )

    def _of(self, work: Work) -> Facts:
        return self._facts.get(work.like or work.task, NOTHING)

    def _sized(self, work: Work) -> Sized | None:
        facts = self._of(work)
        return sized(facts.timings, work.reads, facts.by_size)

    def _uncounted(self) -> Iterator[Untimed]:
        for work in self.works:
            timings = self._of(work).timings
            if work.items is None:
                yield Untimed(task=work.task, why="how many items it will have is not known before it runs")
            elif not timings:
                yield Untimed(task=work.task, why="never measured")
            elif self._sized(work) is None:
                sizes = ", ".join(str(size) for size in sorted({each.reads for each in timings}))
                why = f"a call reads {work.reads} items, and was measured with {sizes}"
                yield Untimed(task=work.task, why=f"{why}; {sizes_needed(work.reads)}")
