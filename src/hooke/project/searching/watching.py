"""What a trial has logged of a metric so far, while it goes on: for the pruner."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from hooke.journal.attempts import AttemptsView
from hooke.journal.events import PointsLogged
from hooke.journal.reader import SegmentReader
from hooke.journal.segments import SUFFIX
from hooke.project.comparing.names import WHICH
from hooke.project.shipping.outbox import logged_segments

__all__ = ["Watch"]


class Watch:
    """Follows the metric `auc` or `fit.auc` (of `auc.max` that is `auc`) in the run of a folder. Use it in `with`."""

    def __init__(self, folder: Path, metric: str) -> None:
        stem, _, which = metric.rpartition(".")
        self._names = {metric, stem} if which in WHICH and stem else {metric}
        self._folder = folder
        self._view = AttemptsView()
        self._opened = ExitStack()
        self._readers: dict[str, SegmentReader] = {}

    def points(self) -> list[tuple[int, float]]:
        """(step, value) of what came since, in the order of time. Raises JournalError."""
        events = [event for file in logged_segments(self._folder) for event in self._new(file)]
        driver = self._folder / f"driver{SUFFIX}"
        if events and driver.exists():  # after what was logged: so an attempt that logs is known, or will be
            for event in self._reader(driver):
                self._view.apply(event)
        found = [point for event in events for point in self._of(event)]
        return [(step, value) for _, step, value in sorted(found)]

    def _of(self, event: PointsLogged) -> Iterator[tuple[float, int, float]]:
        known = self._view.attempts.get(event.attempt) if event.attempt is not None else None
        task = f"{known.task}." if known is not None else ""
        for (name, value, step), at in zip(
            event.points, event.times or itertools.repeat(event.at), strict=False
        ):
            if name in self._names or task + name in self._names:
                yield at, step, value

    def _new(self, file: Path) -> list[PointsLogged]:
        return [event for event in self._reader(file) if isinstance(event, PointsLogged)]

    def _reader(self, file: Path) -> SegmentReader:
        reader = self._readers.get(file.stem)
        if reader is None:
            reader = self._readers[file.stem] = self._opened.enter_context(SegmentReader(file))
        return reader

    def close(self) -> None:
        """Close the segments."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
