"""Which task each attempt of a run was at, and how it ended: what a reader of logged values needs to name them."""

from __future__ import annotations

import msgspec

from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    NodePlanned,
    RunFinished,
    RunMadeOf,
    RunStarted,
)
from hooke.journal.made_of import MadeOf

__all__ = ["AttemptFacts", "AttemptsView"]


class AttemptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt: its task, and how it stands: `running`, `finished` or `failed`."""

    task: str
    number: int
    started_at: float
    ended_at: float | None = None
    status: str = "running"
    node: int = -1
    key: str = ""
    """Of the node."""


class AttemptsView:
    """A fold of the driver's events. Attempts are numbered once a run, through all its resumes."""

    def __init__(self) -> None:
        self.begun: RunStarted | None = None
        self.first_at = 0.0
        self.ended: RunFinished | None = None
        self.made_of: MadeOf | None = None
        self.attempts: dict[int, AttemptFacts] = {}
        self._nodes: dict[int, NodePlanned] = {}

    def apply(self, event: Event) -> None:
        """Fold one event."""
        match event:
            case RunStarted():
                self.begun = self.begun or event
                self.first_at = self.first_at or event.at
                self.ended = None
            case RunFinished():
                self.ended = event
            case RunMadeOf():
                self.made_of = self.made_of or event.record
            case NodePlanned():
                self._nodes[event.node] = event
            case AttemptStarted():
                planned = self._nodes[event.node]
                self.attempts[event.attempt] = AttemptFacts(
                    task=planned.task,
                    number=event.number,
                    started_at=event.at,
                    node=event.node,
                    key=planned.key,
                )
            case AttemptFinished() | AttemptFailed():
                known = self.attempts.get(event.attempt)
                if known is not None:
                    status = "finished" if isinstance(event, AttemptFinished) else "failed"
                    ended = msgspec.structs.replace(known, ended_at=event.at, status=status)
                    self.attempts[event.attempt] = ended
            case _:
                pass
