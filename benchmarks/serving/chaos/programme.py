"""All of it: services side by side, each under its load, blow after blow until the time is over."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks.serving.chaos.blows import BLOWS, Blow, strike
from benchmarks.serving.chaos.promises import broken
from benchmarks.serving.chaos.served import Load, Served
from benchmarks.serving.chaos.toll import Toll, tolls
from benchmarks.serving.chaos.watch import Ports, memory_mb

__all__ = ["CALM_S", "Course", "Result", "kinds_in_turn", "run", "say"]

CALM_S = 2.0
"""Between two blows, and before the first and after the last."""
MOST_S = 900.0
"""A round takes no longer than that, however busy the machine is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is done: at least one of each kind, then more until `seconds` are over."""

    seconds: float
    rate: float = 100.0
    """Requests a second of each service."""
    replicas: int = 2
    services: tuple[str, ...] = ("Again", "Once")
    kinds: tuple[str, ...] = tuple(BLOWS)


@dataclass(slots=True, kw_only=True)
class Result:
    """Of one service."""

    service: str
    seconds: float
    requests: int
    tolls: list[Toll]
    said: dict[int, str]
    """The first answer of each kind of failure."""
    broken: list[str]
    roll_outs: list[str]
    before_mb: dict[str, float]
    after_mb: dict[str, float]
    bound: int = 0
    looks: int = 0
    unsaid: set[tuple[str, int]] = field(default_factory=set)


def run(course: Course, folder: Path) -> list[Result]:
    """Do it; progress goes to stderr. Raises TimeoutError where a service does not come back to full strength."""
    with ExitStack() as stack:
        services = [
            stack.enter_context(Served(name, folder / name, course.replicas)) for name in course.services
        ]
        ports = stack.enter_context(Ports(services))
        over = threading.Event()
        with ThreadPoolExecutor(len(services)) as each:
            try:
                results = list(each.map(lambda one: _one(one, course, over), services))
            except BaseException:
                over.set()  # each ends after the blow that it is at
                raise
        for result in results:
            result.bound, result.looks, result.unsaid = len(ports.bound), ports.looks, ports.unsaid()
    return results


def _one(served: Served, course: Course, over: threading.Event) -> Result:
    before_mb: dict[str, float] = {}
    blows: list[Blow] = []
    with Load(served, course.rate, course.seconds + MOST_S) as load:
        time.sleep(CALM_S)
        before_mb = memory_mb(served)
        for kind in kinds_in_turn(course, load.began):
            if over.is_set():
                break
            say(f"{served.name}: {kind}")
            blows.append(strike(kind, served))
            say(f"{served.name}: at full strength after {blows[-1].strong - blows[-1].at:.1f} s")
            time.sleep(CALM_S)
        after_mb = memory_mb(served)
        outcomes = load.end()
        seconds = time.monotonic() - load.began
    found = tolls(outcomes, blows, load.started)
    return Result(
        service=served.name,
        seconds=seconds,
        requests=len(outcomes),
        tolls=found,
        said=load.said,
        broken=broken(found, again=served.name == "Again"),
        roll_outs=served.roll_outs(),
        before_mb=before_mb,
        after_mb=after_mb,
    )


def kinds_in_turn(course: Course, began: float) -> Iterator[str]:
    """Each once in its order; then, in rounds of another order each, until the time is over. What was added is removed again."""
    yield from course.kinds
    chance = random.Random(0)
    for _ in count():
        for kind in _shuffled(course.kinds, chance):
            if time.monotonic() - began >= course.seconds:
                return
            yield kind


def _shuffled(kinds: Sequence[str], chance: random.Random) -> list[str]:
    made = chance.sample(list(kinds), len(kinds))
    pair = [name for name in ("a replica added", "a replica removed") if name in made]
    for place, name in zip(sorted(made.index(name) for name in pair), pair, strict=True):
        made[place] = name
    return made


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)
