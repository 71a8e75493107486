"""A study from its first measurement to its last: warm up, then round by round, until it is done or cannot conclude."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hooke.base.errors import NotEnoughData
from hooke.journal.events import Measured, PlainMeasured
from hooke.journal.writer import Journal
from hooke.pipeline.pipeline import Pipeline
from hooke.store.store import Store
from hooke.studies.bench import Bench, Ran
from hooke.studies.design import PLAIN, Design, Turn
from hooke.studies.excerpt import Excerpt
from hooke.studies.measured import spread_in
from hooke.studies.noise import ENOUGH
from hooke.studies.plain_calls import PlainCalls, packed_calls, packed_pipeline
from hooke.studies.upstream import take_over

__all__ = ["Conduct", "Subject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured: a part of a pipeline's graph, with the call that made the graph.

    `plain` does the same work in its own way: it is given a map's whole columns, or what a call is given.
    """

    pipeline: Pipeline[..., Any]
    args: tuple[Any, ...]
    params: Mapping[str, Any]
    part: Excerpt
    plain: Callable[..., Any] | None = None

    @property
    def unit(self) -> str:
        """What throughput counts."""
        return "runs" if self.part.is_whole else "items"

    @property
    def task(self) -> str:
        """The task's name; empty for the whole pipeline."""
        return "" if self.part.is_whole else self.part.nodes[self.part.measured[0]].task.name

    @property
    def threads(self) -> int:
        """The threads of one worker, of the task that has the most."""
        return max(max(1, int(self.part.nodes[number].task.resources.cpus)) for number in self.part.measured)

    def part_for(self, turn: Turn, design: Design) -> Excerpt:
        """What is run in that turn. Raises UsageError where the work cannot be made smaller as the design asks."""
        if turn.items is not None:
            return self.part.with_first(turn.items)
        return self.part.with_share(design.share(turn.n))


@dataclass(slots=True, kw_only=True)
class Conduct:
    """Takes the measurements of a design that are not there yet, and appends them to the journal.

    `measured` and `plain` are those that an earlier driver of the study took.
    """

    subject: Subject
    design: Design
    bench: Bench
    journal: Journal
    cache: Store
    """The project's store, which is only read."""
    core: int | None = None
    """What the plain calls are bound to; None leaves them free."""
    command: str = ""
    """What goes on with the study when it is typed."""
    measured: list[Measured] = field(default_factory=list)
    plain: list[PlainMeasured] = field(default_factory=list)
    _segments: int = 0

    def run(self) -> None:
        """Take all measurements.

        Raises NotEnoughData where the machine is too noisy for so many repeats to conclude, UsageError for what
        cannot be measured, what a failed task raises, and KeyboardInterrupt.
        """
        part, design = self.subject.part, self.design
        parts = {turn: self.subject.part_for(turn, design) for turn in design.turns}
        whole = parts[design.turns[-1]]
        take_over(part, study=self.bench.study, cache=self.cache, into=self.bench.store)
        # Not counted: it computes what is needed, starts workers, and imports.
        warm = self.bench.run(whole, workers=design.most, segment=self._segment())
        self.bench.learn(warm, whole)
        work = self._work(warm)
        with self._plain_calls(warm, whole) as plain:
            held = self.bench.store.usage().bytes
            for number, turns in enumerate(design.rounds()):
                if self._is_done(number):
                    continue
                for turn in turns:
                    self.bench.check_stopped()
                    if turn == PLAIN:
                        self._time_plain(plain, number, work=work)
                    else:
                        self._time(parts[turn], turn.n, number)
                self._check_noise(done=number + 1)
                self.bench.store.gc(held)  # results that are not the same each time would fill the disk

    def _is_done(self, number: int) -> bool:
        """Whether an earlier driver finished this round; what it had of an unfinished one is replaced."""
        whole = len(self.design.turns)
        if (
            sum(each.repeat == number for each in self.measured) == whole
            and sum(each.repeat == number for each in self.plain) == 1
        ):
            return True
        self.measured[:] = [each for each in self.measured if each.repeat != number]
        self.plain[:] = [each for each in self.plain if each.repeat != number]
        return False

    def _segment(self) -> str:
        """The name of the next run's segment, which no earlier driver took."""
        while True:
            name = f"attempts-{self._segments:03d}"
            self._segments += 1
            if not (self.bench.folder / f"{name}.journal").exists():
                return name

    def _plain_calls(self, warm: Ran, part: Excerpt) -> PlainCalls:
        subject = self.subject
        if subject.part.is_whole:
            what = subject.plain or subject.pipeline
            work = packed_pipeline(what, subject.args, subject.params, warm.calls)
        else:
            work = packed_calls(part, warm.calls, plain=subject.plain)
        return PlainCalls(
            store=self.bench.store,
            secret=self.bench.secret,
            work=work,
            log=self.bench.folder / "logs" / "plain.log",
            core=self.core,
        )

    def _work(self, ran: Ran) -> float:
        return 1.0 if self.subject.part.is_whole else float(ran.taken.items)

    def _time(self, part: Excerpt, n: int, repeat: int) -> None:
        segment = self._segment()
        ran = self.bench.run(part, workers=n, segment=segment)
        event = Measured(
            task=self.subject.task,
            n=n,
            work=self._work(ran),
            seconds=ran.taken.seconds,
            repeat=repeat,
            cpu_s=ran.taken.cpu_s,
            segment=segment,
        )
        self.measured.append(event)
        self.journal.append(event)

    def _time_plain(self, plain: PlainCalls, repeat: int, *, work: float) -> None:
        timed = plain.time()
        event = PlainMeasured(work=work, seconds=timed.seconds, repeat=repeat, cpu_s=timed.cpu_s)
        self.plain.append(event)
        self.journal.append(event)

    def _check_noise(self, *, done: int) -> None:
        """Give up while that saves something; what was measured in full is shown, with what its noise leaves open."""
        spread = spread_in(self.measured, self.plain)
        if done >= self.design.repeats or not spread.hopeless(self.design.repeats):
            return
        needed = spread.repeats_needed()
        raise NotEnoughData(
            f"the machine is too noisy to conclude: measurements of the same N spread by {spread.share:.0%}",
            why=f"after {done} repeats each N is known to {spread.half_width(done):.0%}, and {self.design.repeats} "
            f"repeats would not bring it below {ENOUGH:.0%}",
            mend=f"repeats={needed} (--repeats {needed}) would do, and goes on with the rounds that are done; "
            "a machine on which nothing else runs needs fewer",
            next=_with_repeats(self.command, needed) if self.command else "",
        )


def _with_repeats(command: str, repeats: int) -> str:
    """The command with another number of repeats: of an option given twice the last counts."""
    ours, separator, parameters = command.partition(" -- ")
    return f"{ours} --repeats {repeats}{separator}{parameters}"
