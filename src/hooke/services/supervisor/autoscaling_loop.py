"""The autoscaler of a running service: feeds load, starts and the law of one replica to the policy, once a second."""

from __future__ import annotations

import threading
from collections import deque

from hooke.autoscaling.service_policy import Bounds, Capacity, ReplicaPolicy, ServiceSnapshot
from hooke.journal.service_events import BatchWindow
from hooke.services.supervisor.replica_events import ReplicaPhase, Scale
from hooke.services.supervisor.supervision import Supervision
from hooke.serving.service import Service

__all__ = ["Autoscaler"]

EVERY_S = 1.0
LAW_EVERY_S = 10.0
"""A law changes slowly, and a fit takes as long as some requests."""
WINDOWS = 240
"""Windows of all replicas together: some minutes of a new service."""
STARTS = 3
"""The assumed start time is the longest of so many."""
ASSUMED_START_S = 5.0
"""Until a start has been seen."""


class Autoscaler:
    """Scales one service between `low` and `high` replicas; if these are equal it never decides anything."""

    def __init__(self, declared: Service) -> None:
        self._declared = declared
        self._staffing: ReplicaPolicy | None = None
        self._windows: deque[BatchWindow] = deque(maxlen=WINDOWS)
        self._starts: deque[float] = deque(maxlen=STARTS)
        self._decided = 0.0
        self._capacity: Capacity | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def between(self, low: int, high: int, *, now_wanted: int) -> None:
        """Set the bounds."""
        self._staffing = None
        if low < high:
            # Half a batch waits or runs while a model still has time to spare.
            assumed = max(2.0, (self._declared.max_batch or 1) / 2)
            self._staffing = ReplicaPolicy(Bounds(low=low, high=high, assumed_in_flight=assumed))
            self._staffing.target = min(max(now_wanted, low), high)
            if self._thread is None:
                self._thread = threading.Thread(target=self._fit, name="hooke-laws", daemon=True)
                self._thread.start()

    def window(self, window: BatchWindow) -> None:
        """A replica reported a window."""
        self._windows.append(window)

    def started(self, seconds: float) -> None:
        """A replica took so long to start."""
        self._starts.append(seconds)

    @property
    def start_s(self) -> float:
        """The time that a start is expected to take."""
        return max(self._starts, default=ASSUMED_START_S)

    def decide(self, now: float, core: Supervision, *, called: int, held: int = 0) -> Scale | None:
        """A different number of replicas with the reason; None if the number stays.

        `called`: calls of methods so far; `held`: those that wait for the first replica.
        """
        if self._staffing is None or now - self._decided < EVERY_S or not core.ever_ready:
            return None
        self._decided = now
        members = core.members.values()
        ready = sum(member.restarting_since is None for member in core.ready())
        starting = sum(member.phase is ReplicaPhase.STARTING for member in members)
        seen = ServiceSnapshot(
            ready=ready,
            starting=starting + len(core.ready()) - ready,  # a model that is being set up again comes back
            in_flight=core.open_calls() + held,
            arrived=called,
            start_s=self.start_s,
            capacity=self._capacity,
        )
        decision = self._staffing.decide(now, seen)
        if decision.target == core.wanted:
            return None
        return Scale(decision.target, decision.reason.partition(": ")[2] or decision.reason)

    def close(self) -> None:
        """Stop the thread that fits laws."""
        self._ended.set()

    def _fit(self) -> None:
        """In its own thread: importing SciPy takes half a second, and children must not wait for it."""
        from hooke.autoscaling.service_policy import capacity_of

        while not self._ended.wait(LAW_EVERY_S):
            windows = list(self._windows)
            if windows:
                declared = self._declared
                self._capacity = capacity_of(windows, max_batch=declared.max_batch, slo=declared.slo)
