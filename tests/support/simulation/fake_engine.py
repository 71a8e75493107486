"""A fake engine at the real protocol: attempts run in virtual time, and everything that may go wrong does.

What tasks return is real: the production worker's part computes it when the virtual time of an attempt is
over, so results travel through the real store by real references.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
from tests.support.simulation.programs import GIB

from hooke.base.errors import Permanent, Temporary
from hooke.base.ref import Ref
from hooke.journal.events import (
    GANG_RESIZED,
    AttemptFailed,
    AttemptFinished,
    CallsFinished,
    CapacityChanged,
    Failure,
    WorkerStarted,
    WorkerStopped,
)
from hooke.pipeline.engine import Call, Capabilities, EngineEvent
from hooke.pipeline.execute import AttemptRunner, WorkerCall
from hooke.pipeline.failures import failure_of
from hooke.store.store import Store
from hooke.testing.virtual_world import NO_FAULTS, HandedAttempt, World

__all__ = ["SimEngine", "Tries"]

DEADLY = frozenset({"die", "oom", "hang"})
_HANG_S = 600.0
GATHERED_S = 20.0
"""How long the ranks of an elastic gang may take to begin, in half of the worlds: until then, machines come and go."""
_STRAGGLES_S = 300.0
_SLOW_ITEMS = (1, 2, 3, 4, 5, 11)


class Tries:
    """What happens to the tries of each item: drawn once, used up as they happen, whoever drives the run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._left: dict[tuple[int, int], list[str]] = {}
        self._slow: dict[int, list[int]] = {}
        self.saved_s: dict[tuple[int, int], float] = {}
        """Item of an elastic gang -> the seconds of work that its checkpoint holds."""

    def next(self, call: Call, item: int) -> str | None:
        """How the next try of this item fails; None where it succeeds."""
        left = self._drawn(call, item)
        return left[0] if left and self._world.faults is not NO_FAULTS else None

    def spend(self, call: Call, item: int, bad: str) -> None:
        """That try has been; of two attempts that ran at once and fail alike it is the same one."""
        left = self._left[call.node, item]
        if left and left[0] == bad:
            left.pop(0)

    def straggles(self, call: Call) -> bool:
        """Whether this attempt is stuck for long: the first at some items of a map, at one of them maybe the next ones too."""
        faults = self._world.faults
        if call.kind != "map" or not faults.stragglers:
            return False
        if call.node not in self._slow:
            chance = self._world.chance(f"stragglers {call.node}")
            happens = chance.random() < faults.stragglers
            self._slow[call.node] = chance.choices(_SLOW_ITEMS, k=3) if happens else []
        slow = self._slow[call.node]
        mine = [item for item in slow if call.lo <= item < call.hi]
        if mine:
            slow.remove(mine[0])
        return bool(mine)

    def _drawn(self, call: Call, item: int) -> list[str]:
        key = (call.node, item)
        if key not in self._left:
            self._left[key] = self._draw(call, item)
        return self._left[key]

    def _draw(self, call: Call, item: int) -> list[str]:
        faults = self._world.faults
        chance = self._world.chance(f"tries {call.node} {item}")
        if chance.random() >= faults.failures:
            return []
        kinds = ["raise", "temporary", "die", "oom"] + ["hang"] * (call.timeout_s is not None)
        bad = [chance.choice(kinds) for _ in range(chance.randint(1, 2))]
        return [*bad, "permanent"] if chance.random() < faults.hopeless else bad


@dataclass(slots=True, eq=False)
class _Attempt:
    call: Call
    worker: str = ""
    began: float = 0.0
    over: bool = False
    """Answered, cancelled or lost: its end, if it comes, comes late."""
    wanted: int = 0
    """The ranks with which it is to go on from its next checkpoint."""
    awaited: Ref | None = None
    """The result of the attempt that it followed."""
    grouped: bool = False
    said: bool = False
    """Whether the driver knows that it has begun."""
    rest: list[_Attempt] = field(default_factory=list)
    """Those behind it in its group."""
    quiet: list[tuple[_Attempt, AttemptFinished]] = field(default_factory=list)
    """Those before it that have ended, of which the driver does not know yet."""


class _NoUsage:
    """Virtual work uses no real time, and what it used must not differ between two plays of a seed."""

    def reset(self) -> None:
        """Nothing to measure."""

    def measure(self, seconds: float) -> tuple[float, int | None]:
        """Nothing was measured."""
        return 0.0, None


@dataclass(slots=True)
class _Chunk:
    """The task's function for one attempt: raises where this try of an item is to fail."""

    call: Call
    tries: Tries
    item: int = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        at, self.item = self.item, self.item + 1
        bad = self.tries.next(self.call, at)
        error = _error(bad)
        if bad is not None and error is not None:
            self.tries.spend(self.call, at, bad)
            raise error
        return self.call.image.function(*args, **kwargs)


def _error(bad: str | None) -> Exception | None:
    if bad == "permanent":
        return Permanent("will never work")
    if bad == "temporary":
        return Temporary("not now", delay_s=2.5)
    return ValueError("bad luck") if bad == "raise" else None


@dataclass(slots=True, kw_only=True)
class SimEngine:
    """Runs attempts in virtual time on workers that come, go and die. Its own part is sound: faults are the world's."""

    world: World
    store: Store
    tries: Tries
    number: int = 0
    capabilities: Capabilities = Capabilities(
        name="simulation",
        isolated=True,
        cancels=True,
        elastic=True,
        knows_signal=True,
        gangs=True,
        resizes_gangs=True,
        follows=True,
        groups=True,
    )
    widest: int = 1
    """Of the gangs that it is to run, the ranks: so many workers it has in the end, whatever happens before."""
    _workers: int = 0
    _cpus_each: float = 1.0
    _memory: int | None = None
    _busy: dict[str, _Attempt] = field(default_factory=dict)
    _queue: deque[_Attempt] = field(default_factory=deque)
    _attempts: dict[int, _Attempt] = field(default_factory=dict)
    _followers: dict[int, _Attempt] = field(default_factory=dict)
    """Attempt -> the one that follows it, until the first has ended."""
    _finished: dict[int, Ref] = field(default_factory=dict)
    _lines: dict[str, str] = field(default_factory=dict)
    """Worker -> the one from which what it runs was taken back: what they say keeps its order."""
    _out: list[EngineEvent] = field(default_factory=list)
    _named: int = 0
    _chance: Random = field(init=False)
    _worker: AttemptRunner = field(init=False)

    def __post_init__(self) -> None:
        place = self.world.chance("place")
        self._chance = self.world.chance(f"engine {self.number}")
        self._cpus_each = place.choice((1.0, 1.0, 2.0))
        self._memory = place.choice((None, 4 * GIB, 16 * GIB))
        usage: Any = _NoUsage()
        self._worker = AttemptRunner(name="", store=self.store, clock=self.world.clock, usage=usage)
        self._resize(max(place.randint(1, 6), self.widest))
        self._plan_resize()

    # -- the protocol ------------------------------------------------------------------------------

    def submit(self, calls: Sequence[Call]) -> None:
        """See Engine."""
        for call in calls:
            group = [_Attempt(each, grouped=bool(call.also)) for each in call.singly()]
            for each in group:
                self.world.note("submit", _facts(each.call))
                self._attempts[each.call.attempt] = each
            attempt, *attempt.rest = group
            if call.after is not None:
                self._submit_behind(attempt, call.after)
            else:
                self._queue.append(attempt)
        self._dispatch()
        self.world.step()

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """See Engine. Virtual time passes here."""
        self.world.note("wait", timeout_s)
        self.world.step()
        self.world.pass_time(self.world.clock.time + timeout_s, lambda: bool(self._out))
        if self._chance.random() < 0.3:  # several at once
            self.world.pass_time(self.world.clock.time + 0.05, lambda: False)
        events = list(self._out)
        self._out.clear()
        for event in (mixed := self._mixed(events)):
            for each in event.singly() if isinstance(event, CallsFinished) else (event,):
                self.world.note("deliver", each)
        return mixed

    def cancel(self, attempt: int) -> None:
        """See Engine."""
        self.world.note("cancel", attempt)
        known = self._attempts[attempt]
        for each in [*self._queue, *self._busy.values()]:
            if known in each.rest:
                each.rest.remove(known)
        if known in self._queue:
            self._queue.remove(known)
        if not known.over:
            self._take_back(known)
        known.over = True
        self._drop_followers(known)
        for before in [before for before, each in self._followers.items() if each is known]:
            del self._followers[before]
        self._free(known)

    def scale(self, workers: int) -> None:
        """See Engine."""
        self._resize(workers)

    def resize_gang(self, attempt: int, ranks: int) -> None:
        """See Engine."""
        self.world.note("resize", (attempt, ranks))
        known = self._attempts[attempt]
        first = not known.wanted
        known.wanted = ranks
        if first:
            self._later(self._chance.expovariate(0.5), lambda: self._save(known))

    def close(self) -> None:
        """See Engine."""
        self.world.forget(self)

    # -- running -----------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while self._queue and self._has_room(self._queue[0].call):
            attempt = self._queue.popleft()
            self._named += 1
            attempt.worker = f"w{self.number}-{self._named}"
            line = self._lines.pop(f"of {attempt.call.attempt}", "")
            self._lines[attempt.worker] = self._lines.get(line, line) or attempt.worker
            self._busy[attempt.worker] = attempt
            slow = attempt.call.most_ranks and self.world.chance("gathering").random() < 0.5
            longest_s = GATHERED_S if slow else 0.02
            self._later(self._chance.uniform(0.0, longest_s), lambda attempt=attempt: self._start(attempt))

    def _submit_behind(self, attempt: _Attempt, before: int) -> None:
        """One that follows another waits for it; one whose input has been computed since the driver decided does not."""
        if before in self._finished:
            attempt.awaited = self._finished[before]
            self._lines[f"of {attempt.call.attempt}"] = self._attempts[before].worker
            self._queue.append(attempt)
        elif not self._attempts[before].over:
            self._followers[before] = attempt

    def _drop_followers(self, attempt: _Attempt) -> None:
        """What follows an attempt without a result never begins."""
        while (follower := self._followers.pop(attempt.call.attempt, None)) is not None:
            follower.over = True
            attempt = follower

    def _advance_follower(self, attempt: _Attempt, result: Ref) -> None:
        """What followed the finished attempt begins in its worker, if it is not taken back."""
        self._finished[attempt.call.attempt] = result
        follower = self._followers.pop(attempt.call.attempt, None)
        if follower is None:
            return
        follower.awaited = result
        if self._chance.random() < 0.2:
            self._lines[f"of {follower.call.attempt}"] = attempt.worker
            self._queue.appendleft(follower)
            return
        del self._busy[attempt.worker]
        follower.worker = attempt.worker
        self._busy[follower.worker] = follower
        self._start(follower)

    def _has_room(self, call: Call) -> bool:
        """For all ranks of a gang together; one that was handed out before the place was made smaller begins alone, unless it is elastic."""
        busy = self._held()
        return busy + max(1, call.gang) <= self._workers or (
            call.gang > 1 and not call.most_ranks and self._workers > 0 and not busy
        )

    def _held(self) -> int:
        """The workers that attempts hold."""
        return sum(max(1, attempt.call.gang) for attempt in self._busy.values())

    def _start(self, attempt: _Attempt) -> None:
        if attempt.over:
            return
        call = attempt.call
        if call.most_ranks and self._held() > self._workers:  # the place was made smaller meanwhile
            del self._busy[attempt.worker]
            self._queue.appendleft(attempt)
            self._dispatch()
            return
        attempt.began = self.world.clock.time
        self._out.append(WorkerStarted(at=self.world.clock.time, worker=attempt.worker))
        if not attempt.quiet:
            self._say_begun(attempt)
        seconds, deadly, item = self._fate(call)
        if deadly == "hang":
            self._later(_HANG_S, lambda: self._end(attempt))
            if call.hi - call.lo <= 1:
                self.tries.spend(call, item, deadly)
        elif deadly is not None or self._chance.random() < self.world.faults.deaths:
            self._later(seconds * self._chance.random(), lambda: self._die(attempt, deadly, item))
        else:
            self._later(seconds, lambda: self._end(attempt))

    def _fate(self, call: Call) -> tuple[float, str | None, int]:
        """How long it takes, and the first of its items that takes the worker with it."""
        hurried = self.world.chance("hurry").random() < 0.3  # then short attempts wait behind one another
        paces = (0.001,) if hurried else (0.001, 0.01, 0.1, 1.0, 5.0)
        pace = self.world.chance(f"pace {call.image.name}").choice(paces)
        pace = min(pace, (call.timeout_s or _HANG_S) / 2)
        if call.kind == "expand":
            bad = self.tries.next(call, -1)
            return pace, bad if bad in DEADLY else None, -1
        seconds = 0.0
        if call.most_ranks and call.timeout_s is None:
            seconds = self.world.chance(f"gang {call.node} {call.lo}").uniform(0.0, 20.0)
        for item in range(call.lo, call.hi):
            seconds += pace * self._chance.uniform(0.5, 1.5)
            bad = self.tries.next(call, item)
            if bad in DEADLY:
                return seconds, bad, item
            if bad is not None:
                break
        if self.tries.straggles(call):
            longest = _STRAGGLES_S if call.timeout_s is None else 0.9 * call.timeout_s
            seconds = max(seconds, longest * self._chance.uniform(0.2, 1.0))
        return max(seconds - self.tries.saved_s.get((call.node, call.lo), 0.0), 0.001), None, call.lo

    def _save(self, attempt: _Attempt) -> None:
        """A gang saves a checkpoint: if it is to have another number of ranks by then, it ends."""
        if attempt.over:
            return
        if attempt.wanted == attempt.call.gang:
            self._later(self._chance.expovariate(0.5), lambda: self._save(attempt))
            return
        attempt.over = True
        item = attempt.call.node, attempt.call.lo
        ran_s = self.world.clock.time - attempt.began
        self.tries.saved_s[item] = self.tries.saved_s.get(item, 0.0) + ran_s
        failure = Failure(
            kind=GANG_RESIZED, message=f"goes on with {attempt.wanted}", ranks=attempt.call.gang
        )
        self._answer(attempt, AttemptFailed(failure=failure, **self._where(attempt)))
        self._free(attempt)

    def _die(self, attempt: _Attempt, deadly: str | None, item: int) -> None:
        """The worker is gone, with what it ran; sometimes what it had sent still arrives."""
        if attempt.over:
            return
        call = attempt.call
        if deadly is not None and call.hi - call.lo <= 1:
            self.tries.spend(call, item, deadly)  # found out only when it is alone
        self._take_back(attempt)
        self._say_begun(attempt)
        attempt.over = True
        kind = "OutOfMemory" if deadly == "oom" else "WorkerDied"
        rank = call.gang - 1 if call.gang else None
        failure = Failure(
            kind=kind,
            message=f"{attempt.worker} was killed",
            signal=9,
            rank=rank,
            ranks=call.gang,
            host_lost=bool(call.most_ranks) and kind == "WorkerDied" and self._chance.random() < 0.5,
        )
        self._answer(attempt, AttemptFailed(failure=failure, **self._where(attempt)))
        self._drop_followers(attempt)
        self._out.append(
            WorkerStopped(
                at=self.world.clock.time, worker=attempt.worker, cause="killed by SIGKILL", signal=9
            )
        )
        if deadly is None and self._chance.random() < self.world.faults.doubles:
            self._later(self._chance.expovariate(1.0), lambda: self._answer_late(attempt))
        self._free(attempt)

    def _end(self, attempt: _Attempt) -> None:
        if attempt.over:
            if self._chance.random() < self.world.faults.doubles:
                self._answer_late(attempt)
            return
        attempt.over = True
        event = self._compute(attempt)
        if attempt.grouped:
            self._end_in_group(attempt, event)
            return
        if isinstance(event, AttemptFinished):
            self._advance_follower(attempt, event.ref)
        else:
            self._drop_followers(attempt)
        if self._chance.random() < self.world.faults.doubles:
            self._later(self._chance.expovariate(0.5), lambda: self._out.append(event))
        self._free(attempt)

    # -- groups ------------------------------------------------------------------------------------

    def _say_begun(self, attempt: _Attempt) -> None:
        if not attempt.said:
            attempt.said = True
            self._out.append(attempt.call.began(attempt.began, worker=attempt.worker))

    def _end_in_group(self, attempt: _Attempt, event: EngineEvent) -> None:
        """An attempt of a group has ended, whose answer comes last: the next one begins in its worker, if it is not taken back."""
        self._out.pop()
        if isinstance(event, AttemptFinished):
            attempt.quiet.append((attempt, event))
        if not isinstance(event, AttemptFinished) or not attempt.rest or self._chance.random() < 0.3:
            self._tell(attempt.quiet)
            attempt.quiet = []
        if not isinstance(event, AttemptFinished):
            self._say_begun(attempt)
            self._out.append(event)
            self._drop_followers(attempt)
        if not attempt.rest or self._chance.random() < 0.1:
            self._tell(attempt.quiet)
            attempt.quiet = []
            self._take_back(attempt)
            self._free(attempt)
            return
        following, *following.rest = attempt.rest
        following.quiet, following.worker = attempt.quiet, attempt.worker
        attempt.rest = []
        attempt.quiet = []
        self._busy[following.worker] = following
        self._start(following)

    def _tell(self, quiet: list[tuple[_Attempt, AttemptFinished]]) -> None:
        """What these attempts, which ran behind one another, have come to is one answer."""
        if not quiet:
            return
        ended = [event for _, event in quiet]
        event = CallsFinished(
            at=ended[-1].at,
            attempts=tuple(each.attempt for each in ended),
            nodes=tuple(each.node for each in ended),
            refs=tuple(each.ref for each in ended),
            seconds=tuple(each.seconds for each in ended),
            cpu_s=tuple(each.cpu_s for each in ended),
            worker=ended[-1].worker,
        )
        self._out.append(event)
        if self._chance.random() < self.world.faults.doubles:
            self._later(self._chance.expovariate(0.5), lambda: self._out.append(event))
        for attempt, each in quiet:
            self._finished[each.attempt] = each.ref
            if (follower := self._followers.pop(each.attempt, None)) is not None:
                follower.awaited = each.ref
                self._lines[f"of {follower.call.attempt}"] = attempt.worker
                self._queue.append(follower)

    def _take_back(self, attempt: _Attempt) -> None:
        """What its group has beside it begins elsewhere: those behind it, and those before it of which nobody was told."""
        others = [*(each for each, _ in attempt.quiet), *attempt.rest]
        attempt.quiet = []
        attempt.rest = []
        if not others:
            return
        for each in others:
            each.over = False
        first, *first.rest = others
        self._lines[f"of {first.call.attempt}"] = attempt.worker
        self._queue.appendleft(first)

    def _answer_late(self, attempt: _Attempt) -> None:
        self._compute(attempt)

    def _compute(self, attempt: _Attempt) -> EngineEvent:
        """Run the attempt for real and answer."""
        call = attempt.call
        bad = self.tries.next(call, -1) if call.kind == "expand" else None
        error = _error(bad)
        event: AttemptFinished | AttemptFailed
        if bad is not None and error is not None:
            self.tries.spend(call, -1, bad)
            event = AttemptFailed(failure=failure_of(error, arguments=call.shown), **self._where(attempt))
        else:
            function: Callable[..., Any] = _Chunk(call, self.tries, call.lo)
            event = self._worker.run(
                WorkerCall(
                    attempt=call.attempt,
                    node=call.node,
                    kind=call.kind,
                    lo=call.lo,
                    hi=call.hi,
                    function=function,
                    payload=call.payload,
                    shown=call.shown,
                    awaited=attempt.awaited,
                    limit_s=1e-9 if call.limit_s and self._chance.random() < 0.5 else 0.0,
                )
            )
        self._answer(attempt, event)
        return self._out[-1]

    def _answer(self, attempt: _Attempt, event: AttemptFinished | AttemptFailed) -> None:
        seconds = self.world.clock.time - attempt.began
        self._out.append(
            msgspec.structs.replace(event, at=self.world.clock.time, worker=attempt.worker, seconds=seconds)
        )

    def _where(self, attempt: _Attempt) -> dict[str, Any]:
        call = attempt.call
        return {"attempt": call.attempt, "node": call.node, "lo": call.lo, "hi": call.hi}

    def _free(self, attempt: _Attempt) -> None:
        if self._busy.get(attempt.worker) is attempt:  # else one that followed has its worker
            del self._busy[attempt.worker]
            self._dispatch()

    def _later(self, after_s: float, act: Callable[[], None]) -> None:
        self.world.later(after_s, act, owner=self)

    # -- size --------------------------------------------------------------------------------------

    def _plan_resize(self) -> None:
        if self._chance.random() < self.world.faults.resizes:
            self._later(self._chance.expovariate(0.2), self._resize_by_chance)

    def _resize_by_chance(self) -> None:
        self._resize(self._chance.choice((0, 1, 2, 4, 8)))
        if self._workers < self.widest:  # it comes back, or the run would rightly wait for ever
            again = self._chance.uniform(0.1, 20.0)
            self._later(again, lambda: self._resize(max(self._chance.randint(1, 6), self.widest)))
        self._plan_resize()

    def _resize(self, workers: int) -> None:
        self._workers = workers
        self._out.append(
            CapacityChanged(
                at=self.world.clock.time,
                slots=workers,
                cpus=workers * self._cpus_each,
                memory=self._memory if workers else 0,
            )
        )
        self._dispatch()

    def _mixed(self, events: list[EngineEvent]) -> list[EngineEvent]:
        """The events with those of different attempts and workers in any order; each one's own stay in theirs."""
        if self._chance.random() < 0.5:
            return events
        queues: dict[str, deque[EngineEvent]] = {}
        for event in events:
            name = getattr(event, "worker", "")
            name = self._lines.get(name, name)
            queues.setdefault(name, deque()).append(event)
        mixed: list[EngineEvent] = []
        while queues:
            name = self._chance.choice(list(queues))
            mixed.append(queues[name].popleft())
            if not queues[name]:
                del queues[name]
        return mixed


def _facts(call: Call) -> HandedAttempt:
    items = range(call.lo, call.hi)
    return HandedAttempt(
        *(call.attempt, call.node, call.kind, items, call.memory, call.twin_of, call.short, call.gang),
        after=call.after,
    )
