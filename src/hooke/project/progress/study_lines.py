"""What is said of a study while it goes on: a line when it begins, and one for each round."""

from __future__ import annotations

from typing import TextIO

from hooke.base.formats import format_seconds
from hooke.journal.events import Event, Measured, PlainMeasured, StudyStarted

__all__ = ["StudyLines"]


class StudyLines:
    """Writes to `stream` what a study's events tell; silent once nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._turns = 0
        self._repeats = 0
        self._counts: dict[int, int] = {}
        self._began = 0.0

    def observe(self, event: Event) -> None:
        """Say what there is to say of the event."""
        match event:
            case StudyStarted():
                self._turns = len(event.sizes or event.levels) + 1
                self._repeats = event.repeats
                what = f"{event.task} of {event.pipeline}" if event.task else event.pipeline
                varied = f"sizes {_listed(event.sizes)}" if event.sizes else f"N = {_listed(event.levels)}"
                self._say(f"measuring {what}: {varied} and plain calls, {event.repeats} rounds")
                self._began = event.at
            case Measured() | PlainMeasured():
                self._counted(event.repeat, event.at)
            case _:
                pass

    def _counted(self, repeat: int, now: float) -> None:
        count = self._counts[repeat] = self._counts.get(repeat, 0) + 1
        if count == self._turns:
            took = format_seconds(max(now - self._began, 0.0))
            self._say(f"round {repeat + 1} of {self._repeats} is done, {took} after the start")

    def _say(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
