"""An engine whose workers are all up before the first attempt, so that their start is not timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hooke.base.clock import Clock
from hooke.journal.events import WorkerStarted, WorkerStopped
from hooke.pipeline.engine import Call, Capabilities, Engine, EngineEvent

__all__ = ["ReadyEngine"]

LONGEST_S = 30.0
"""How long to wait for workers that an engine does not start before there is work, or cannot."""


@dataclass(slots=True, kw_only=True)
class ReadyEngine:
    """`engine`, with what it said while its workers started kept for the first `wait`."""

    engine: Engine
    capabilities: Capabilities = field(init=False)
    said: list[EngineEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.capabilities = self.engine.capabilities

    def await_workers(self, workers: int, clock: Clock) -> None:
        """Wait until so many are up; go on without them after a while, or when one dies: the run will say why."""
        latest = clock.monotonic() + LONGEST_S
        while clock.monotonic() < latest:
            self.said += self.engine.wait(0.25)
            up = sum(isinstance(event, WorkerStarted) for event in self.said)
            if up >= workers or any(isinstance(event, WorkerStopped) for event in self.said):
                return

    def submit(self, calls: Sequence[Call]) -> None:
        """As the engine's."""
        self.engine.submit(calls)

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """As the engine's; first what it said before."""
        if not self.said:
            return self.engine.wait(timeout_s)
        said = self.said.copy()
        self.said.clear()
        return said

    def cancel(self, attempt: int) -> None:
        """As the engine's."""
        self.engine.cancel(attempt)

    def scale(self, workers: int) -> None:
        """As the engine's."""
        self.engine.scale(workers)

    def close(self) -> None:
        """As the engine's."""
        self.engine.close()
