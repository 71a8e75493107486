"""What outlives a moment of a roll-out: its record for the next supervisor, and the counts that its trial's outcomes are taken from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import msgspec

from hooke.base.files import write_atomic
from hooke.journal.service_events import RollOutChanged
from hooke.services.supervisor.canary import ReplicaOutcomes
from hooke.services.supervisor.control_channel import ReplicaUpdate
from hooke.services.supervisor.generation import Generation, read_generation
from hooke.services.supervisor.service_folder import ServiceFolder
from hooke.serving.metrics import CLIENT_GONE, Counts

__all__ = ["OutcomeReader", "RollOutRecord", "generation_before"]

NOT_JUDGED = {401, 403, 409, 429, 503, CLIENT_GONE}
"""Statuses that say nothing of a version: wrong tokens, streams of another version, refusals for want of room, and clients that left."""
HEALTH_PATHS = ("/-/", "/v2/health/")


class RollOutRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is served, and the last roll-out. Generations are named by their keys."""

    serving: str
    """The generation that is served."""
    candidate: str = ""
    """The one that is to take its place, or was rolled back; empty: none."""
    status: str = ""
    """As in `RollOutChanged`; empty: there was none."""
    reason: str = ""

    @classmethod
    def read(cls, folder: ServiceFolder) -> RollOutRecord | None:
        """The record; None if there was no roll-out, or the file is damaged."""
        try:
            return msgspec.json.decode(folder.roll_out.read_bytes(), type=cls)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def write(self, folder: ServiceFolder) -> None:
        """Keep it for the next supervisor. Raises OSError."""
        write_atomic(folder.roll_out, msgspec.json.encode(self))

    def refuses(self, key: str) -> bool:
        """Whether this generation was rolled back last."""
        return self.status == "back" and self.candidate == key

    def accepts(self, key: str) -> bool:
        """Whether this generation has passed its trial, and did not take over yet."""
        return self.status == "accepted" and self.candidate == key

    @classmethod
    def after(cls, event: RollOutChanged, keys: Mapping[str, str]) -> RollOutRecord:
        """The record once this has happened; `keys` of generations are by name."""
        if event.status == "done":
            return cls(serving=keys[event.generation], status=event.status)
        return cls(
            serving=keys[event.before],
            candidate=keys[event.generation],
            status=event.status,
            reason=event.reason,
        )


def generation_before(
    folder: ServiceFolder, record: RollOutRecord | None, first: Generation, *, alive: bool
) -> Generation | None:
    """The generation to serve beside or instead of `first`, which the names mean now; None if that is served without a trial.

    `alive`: the service was not ended, only its supervisor.
    """
    if record is None:
        return None
    if record.serving == first.key:
        return first
    if not alive and record.candidate != first.key:
        return None
    try:
        return read_generation(folder.generation(record.serving))
    except (OSError, msgspec.MsgspecError):  # nothing can be served by it: the names mean another one now
        return None


class OutcomeReader:
    """Makes the outcomes since the last report of each replica from its counts and answer times, which are totals."""

    def __init__(self, warm_up: int) -> None:
        """The first `warm_up` answers of a replica say nothing of its latencies."""
        self._warm_up = warm_up
        self._counts: dict[str, Counts] = {}
        self._latencies: dict[str, dict[int, int]] = {}

    def take(self, name: str, update: ReplicaUpdate, *, adopted: bool) -> ReplicaOutcomes | None:
        """The outcomes since its last report; None if it has none. The first report of an adopted replica tells from where to count."""
        after = update.counts
        if after is None:
            return None
        before = self._counts.get(name)
        self._counts[name] = after
        latencies = self._answer_times(name, dict(update.latencies))
        if before is None:
            if adopted:
                return None
            before = Counts(service=after.service)
        outcomes = outcomes_between(before, after)
        return dataclasses.replace(outcomes, latencies=latencies)

    def forget(self, name: str) -> None:
        """A replica is gone."""
        self._counts.pop(name, None)
        self._latencies.pop(name, None)

    def _answer_times(self, name: str, after: dict[int, int]) -> tuple[tuple[int, int], ...]:
        before = self._latencies.get(name, {})
        if any(after.get(at, 0) < count for at, count in before.items()):
            return ()  # a window has just ended: its answer times come with the next report
        self._latencies[name] = after
        if sum(before.values()) < self._warm_up:
            return ()
        return tuple((at, more) for at, count in after.items() if (more := count - before.get(at, 0)))


def outcomes_between(before: Counts, after: Counts) -> ReplicaOutcomes:
    """What happened between two counts of one replica, without its answer times.

    A failure is a status of 400 or above. That includes the clients' own faults, which both versions get alike: a version that
    refuses what the other one takes is as wrong as one that raises.
    """
    answered = failed = 0
    for path, route in after.routes.items():
        if path.startswith(HEALTH_PATHS):
            continue
        earlier = before.routes[path].statuses if path in before.routes else {}
        for status, count in route.statuses.items():
            if status not in NOT_JUDGED:
                more = count - earlier.get(status, 0)
                answered += more
                failed += more * (status >= 400)
    raised = {
        text: more for text, count in after.raised.items() if (more := count - before.raised.get(text, 0))
    }
    return ReplicaOutcomes(answered=answered, failed=failed, raised=raised)
