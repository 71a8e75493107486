"""What is done to a service, one thing at a time; each returns when the service is at full strength again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.serving.chaos.served import Served, ready_pids

__all__ = ["BLOWS", "Blow", "strike"]

GROWS_MB = 300
"""Over the limit at once."""
ALMOST_MB = 60
"""Within it."""
PAUSE_S = 12.0
"""Longer than a replica may be silent: a supervisor that slept must not blame them for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """Something that was done; times are those of `time.monotonic`."""

    kind: str
    at: float
    strong: float
    """When it was at full strength again."""


def strike(kind: str, served: Served) -> Blow:
    """Do it, and wait until it is over. Raises TimeoutError where it never is."""
    at = BLOWS[kind](served)
    return Blow(kind=kind, at=at, strong=time.monotonic())


def _added(served: Served) -> float:
    at = time.monotonic()
    served.replicas += 1
    served.command("scale", served.name, str(served.replicas))
    served.until(served.strong)
    return at


def _removed(served: Served) -> float:
    at = time.monotonic()
    served.replicas -= 1
    served.command("scale", served.name, str(served.replicas))
    served.until(served.strong)
    return at


def _drained(served: Served) -> float:
    facts = served.facts()
    victim = min(ready_pids(facts))
    name = next(one["replica"] for one in facts["replicas"] if one["pid"] == victim)
    at = time.monotonic()
    served.command("drain", served.name, "--replica", name)
    _replaced(served, victim)
    return at


def _rolled_over(served: Served) -> float:
    before = served.facts()["generation"]
    registered = served.train()
    served.until(lambda facts: bool(facts["rolling_out"]))
    at = time.monotonic()
    served.until(lambda facts: facts["generation"] != before and served.strong(facts))
    registered()
    return at


def _killed(served: Served) -> float:
    victim = min(ready_pids(served.facts()))
    at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    _replaced(served, victim)
    return at


def _over_limit(served: Served) -> float:
    at = time.monotonic()
    victim = served.post("/grow", {"mb": GROWS_MB})
    _replaced(served, victim)
    return at


def _out_of_memory(served: Served) -> float:
    victim = served.post("/grow", {"mb": ALMOST_MB})
    at = time.monotonic()
    os.killpg(victim, signal.SIGKILL)
    _replaced(served, victim)
    return at


def _hung(served: Served) -> float:
    victim = min(ready_pids(served.facts()))
    at = time.monotonic()
    os.kill(victim, signal.SIGSTOP)
    _replaced(served, victim)
    return at


def _supervisor_killed(served: Served) -> float:
    # The next supervisor does not know which replica was about to leave, and may choose another one.
    there = ready_pids(
        served.until(lambda facts: served.strong(facts) and len(facts["replicas"]) == served.replicas)
    )
    at = time.monotonic()
    former = served.supervisors[-1].process
    former.kill()
    former.wait()
    served.supervise()
    served.until(lambda facts: served.strong(facts) and ready_pids(facts) == there)
    return at


def _supervisor_paused(served: Served) -> float:
    there = ready_pids(served.facts())
    process = served.supervisors[-1].process
    at = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(PAUSE_S)
    finally:
        process.send_signal(signal.SIGCONT)
    served.until(lambda facts: served.strong(facts) and ready_pids(facts) == there)
    return at


def _front_killed(served: Served) -> float:
    before = served.facts()["front_pid"]
    at = time.monotonic()
    os.kill(before, signal.SIGKILL)
    served.until(lambda facts: facts["url"] == served.url and facts["front_pid"] != before)
    while True:
        try:
            served.post("/predict", {"rows": [1]})
        except OSError:
            time.sleep(0.01)
        else:
            return at


def _replaced(served: Served, victim: int) -> None:
    served.until(lambda facts: served.strong(facts) and victim not in ready_pids(facts))


BLOWS: dict[str, Callable[[Served], float]] = {
    "a replica added": _added,
    "a replica killed, `kill -9`": _killed,
    "a replica removed": _removed,
    "a replica drained and replaced": _drained,
    "rollout: the alias moved": _rolled_over,
    "a replica over its memory limit": _over_limit,
    "a replica out of memory, killed": _out_of_memory,
    "a replica hung, `kill -STOP`": _hung,
    "the supervisor killed, a new one started": _supervisor_killed,
    "the supervisor stopped for 12 s": _supervisor_paused,
    "Envoy killed, `kill -9`": _front_killed,
}
