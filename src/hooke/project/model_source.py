"""Which run and which code a model comes from, and what was measured of it there."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hooke.base.errors import NotFingerprintable, UsageError
from hooke.keys.code import fingerprint_code
from hooke.keys.local import origin_of
from hooke.project.logged import Point, logged_in
from hooke.project.running import Run
from hooke.tracking.current import active
from hooke.tracking.tracker import Tracker

__all__ = ["NOWHERE", "Source", "code_of", "measured", "source_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A run, or an attempt (of an item) in one; all empty for none."""

    folder: Path | None = None
    attempt: int | None = None
    item: int | None = None
    tracker: Tracker | None = None
    """What logs into it, where it goes on in this process."""

    @property
    def run(self) -> str:
        """The run's id."""
        return self.folder.name if self.folder is not None else ""

    @property
    def key(self) -> str:
        """As trackers know it: `RUN`, `RUN/ATTEMPT` or `RUN/ATTEMPT/ITEM`."""
        return "/".join([self.run, *(str(part) for part in (self.attempt, self.item) if part is not None)])

    def note(self, name: str, value: str) -> None:
        """Set a tag, if the run goes on here."""
        if self.tracker is not None:
            self.tracker.set_tags({name: value})


NOWHERE = Source()


def source_of(run: Run | None) -> Source:
    """`run`, else where this process logs to. Raises UsageError for what is no run."""
    if run is not None:
        if not isinstance(run, Run):
            raise UsageError(
                f"run={run!r} is no run", mend="give what hooke.run() or hooke.start_run() returned"
            )
        return Source(folder=run.folder)
    tracker = active()
    if not isinstance(tracker, Tracker):
        return NOWHERE
    return Source(folder=tracker.folder, attempt=tracker.attempt, item=tracker.item, tracker=tracker)


def measured(source: Source, wanted: str = "") -> Mapping[str, float]:
    """The last value of each metric that the source logged; of a whole run also `wanted`, if one task alone logged it.

    Raises UsageError where several did: which of them is meant?
    """
    if source.folder is None:
        return {}
    points = logged_in(source.folder).points
    own = {
        point.name: point.value
        for point in points
        if (point.attempt, point.item) == (source.attempt, source.item)
        and not point.name.startswith("system/")
    }
    if wanted and wanted not in own and source.attempt is None:
        by = {(point.task, point.item): point for point in points if point.name == wanted}
        if len(by) > 1:
            raise UsageError(
                f"metric {wanted!r} was logged by {len(by)} tasks or items of run {source.run}: {_listed(by)}",
                mend=f"give the one that is meant: metrics={{{wanted!r}: ...}}",
            )
        own |= {name: point.value for point in by.values() for name in (point.name,)}
    return {name: value for name, value in own.items() if math.isfinite(value)}


def code_of(model: Any) -> str:
    """Fingerprint of the code of the model's class, where that is a module of the project; else empty."""
    kind = type(model)
    module = sys.modules.get(kind.__module__)
    # What a pickle carries by value is another class in each process.
    if module is None or kind.__module__ == "__main__" or getattr(module, kind.__name__, None) is not kind:
        return ""
    if not origin_of(kind.__module__, getattr(module, "__file__", None)).local:
        return ""
    try:
        return fingerprint_code(kind).key
    except NotFingerprintable:
        return ""


def _listed(by: Mapping[tuple[str, int | None], Point]) -> str:
    known = sorted(by, key=lambda whose: (whose[0], -1 if whose[1] is None else whose[1]))
    names = [task if item is None else f"{task}[{item}]" for task, item in known]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
