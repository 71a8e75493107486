"""What happens to replicas, as one line for people; the same while it happens and when the journal is read."""

from __future__ import annotations

from hooke.base.formats import format_bytes, format_seconds
from hooke.journal.replicas import (
    ModelBack,
    ModelDied,
    ModelEvent,
    ReplicaAdopted,
    ReplicaEnded,
    ReplicaEvent,
    ReplicaLeft,
    ReplicaReady,
    ReplicaStarted,
    RollOutChanged,
    ServiceScaled,
    StartDelayed,
)

__all__ = ["line_of"]


def line_of(event: ReplicaEvent) -> str:
    """What happened and why. The end of a log follows on lines of its own."""
    match event:
        case ReplicaStarted():
            return f"replica {event.replica} starts (pid {event.pid}, port {event.port}): {event.reason}"
        case ReplicaAdopted():
            return f"replica {event.replica} runs already (pid {event.pid}, port {event.port}): adopted"
        case ReplicaReady():
            return f"replica {event.replica} is ready, {format_seconds(event.seconds)} after its start"
        case ReplicaLeft():
            left = f"; it has {_requests(event.in_flight)} to answer" if event.in_flight else ""
            return f"replica {event.replica} gets nothing new: {event.reason}{left}"
        case ReplicaEnded():
            return _ended(event)
        case ModelBack() | ModelDied():
            return _of_model(event)
        case StartDelayed():
            row = "" if event.failures == 1 else f", {event.failures} in a row"
            return f"the next start waits {format_seconds(event.seconds)}: it died soon after its start{row}"
        case ServiceScaled():
            return f"{event.before} -> {event.after} replicas: {event.reason}"
        case RollOutChanged():
            what = {"began": "roll-out of", "done": "rolled out:", "back": "rolled back:"}[event.status]
            to = (
                f"{event.before} goes on instead of {event.generation}"
                if event.status == "back"
                else event.generation
            )
            return f"{what} {to}; {event.reason}"


def _ended(event: ReplicaEnded) -> str:
    after = format_seconds(event.seconds)
    if event.expected:
        return f"replica {event.replica} ended after {after}, with nothing left to answer"
    lost = f"; {_requests(event.in_flight)} had no answer from it" if event.in_flight else ""
    tail = "".join(f"\n    | {line}" for line in event.log_tail)
    if event.cause.startswith("cut by "):
        return f"replica {event.replica} was ended after {after}, {event.cause.partition(';')[0]}{lost}"
    return f"replica {event.replica} died after {after}: {event.cause}{lost}{tail}"


def _of_model(event: ModelEvent) -> str:
    after = format_seconds(event.seconds)
    if isinstance(event, ModelBack):
        return f"the model of {_whose(event.replica)} is back, {after} after its start"
    peak = f", peak memory {format_bytes(event.peak_bytes)}" if event.peak_bytes else ""
    doing = f", at {event.method} for {_requests(event.requests)}" if event.method else ""
    again = f"; another one starts in {format_seconds(event.starts_in_s)}"
    tail = "".join(f"\n    | {line}" for line in event.log_tail)
    return f"the model of {_whose(event.replica)} died after {after}{doing}: {event.cause}{peak}{again}{tail}"


def _whose(replica: str) -> str:
    return f"replica {replica}" if replica else "the service"


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
