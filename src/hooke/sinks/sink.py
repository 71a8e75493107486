"""The protocol of a sink, which brings logged values into a tracker: three methods and their guarantees."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from hooke.base.errors import HookeError

__all__ = [
    "CheckedSink",
    "Held",
    "InputDataSet",
    "LoggedBatch",
    "LoggedPoints",
    "Media",
    "Receipt",
    "ShippedRun",
    "Sink",
    "SinkAway",
]


class SinkAway(HookeError):
    """The tracker does not answer, or has no room now. The same batch is sent again later."""


class ShippedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a tracker: a run of Hooke (`parent` is None), or an attempt or item of it that logged something."""

    key: str
    """Its permanent name: the run's id, `<run id>/<attempt>`, or `<run id>/<attempt>/<item>`."""
    parent: str | None
    name: str
    experiment: str
    started_at: float
    """Seconds since the epoch."""
    ended_at: float | None = None
    status: str = "running"
    """`running`, `finished`, `finished with failures`, `failed`, `stopped`, or `lost` (its process died)."""
    tags: dict[str, str] = {}
    """Facts from Hooke: where it ran, with what code."""


class LoggedPoints(NamedTuple):
    """Values of metrics as columns of equal length."""

    names: list[str]
    values: list[float]
    steps: list[int]
    times: list[float]
    """Seconds since the epoch."""


class Media(NamedTuple):
    """What a file is, beyond a file: the image or histogram of a name at a step."""

    kind: str
    """`image`, a PNG file, or `histogram`, a JSON file as `HistogramFile`."""
    name: str
    step: int
    at: float
    """Seconds since the epoch."""


class InputDataSet(msgspec.Struct, frozen=True, kw_only=True):
    """A data set that tasks of the run read, or that is part of its keys."""

    name: str
    digest: str
    """32 hex characters; of its content where that was digested."""
    place: str = ""
    """The path or URL of a file; empty for a value in memory."""
    task: str = ""
    """The task whose result it is, or that made it; empty if it comes from outside of the run."""
    key: str = ""
    """The key of that task."""
    part: str = ""
    """Where in that result, as in Python: `['train']`."""
    rows: int | None = None
    columns: tuple[tuple[str, str], ...] = ()
    """Name and type of each, as in DataSetRead; empty if not known."""
    read_by: tuple[str, ...] = ()
    """Names of tasks."""


class LoggedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What one run logged, in order. A sink splits it to respect its tracker's limits."""

    run: ShippedRun
    points: LoggedPoints
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    artifacts: dict[str, Path] = {}
    """Path in the tracker -> file."""
    media: dict[str, Media] = {}
    """Path of an artifact -> what it shows. A sink whose tracker cannot show it writes the artifact like any other."""
    datasets: tuple[InputDataSet, ...] = ()
    """The inputs of the run, once it has ended: all of them, again if a resumed run has more."""


class Receipt(msgspec.Struct, kw_only=True):
    """What the tracker changed or refused: the number of points merged with equal ones, and notes on the rest."""

    merged: int = 0
    notes: list[str] = msgspec.field(default_factory=list)


class Sink(Protocol):
    """A tracker into which journals are replayed.

    - `write` returns when the tracker has the batch. A batch may be sent again after a crash: writing it twice has the
      same result as writing it once, and its run is found by its key, not created again.
    - SinkAway means later: nothing is lost, and the batch is sent again. What the tracker will never take (a name, size or
      value) is noted in the receipt, and does not block anything else.
    - Calls come from one thread of one process at a time.
    """

    def write(self, batch: LoggedBatch) -> Receipt:
        """Write the batch to the tracker. Raises SinkAway."""
        ...

    def finish(self, run: ShippedRun) -> None:
        """Record the end of a run in the tracker. Nothing follows unless the run is resumed. Raises SinkAway."""
        ...

    def close(self) -> None:
        """Close the tracker."""
        ...


class Held(NamedTuple):
    """What a tracker has of a run."""

    keys: frozenset[str]
    """Of the run itself and of those nested in it."""
    sent: int
    """The number of its last `mark`; 0 without one."""


@runtime_checkable
class CheckedSink(Sink, Protocol):
    """A sink that can say what its tracker has, which others than Hooke change: runs are deleted, databases restored.

    A run that its cursor calls sent is checked when a process first writes to it or `hooke sync` is asked, and sent again
    if something is missing.
    """

    def holds(self, run: ShippedRun, keys: Collection[str]) -> Held:
        """What the tracker has of `run` and those of `keys`, which are nested in it.

        Raises HookeError if one of them was deleted and can be restored, or is there twice: `fix` says what to do.
        Raises SinkAway.
        """
        ...

    def mark(self, run: ShippedRun, sent: int) -> None:
        """Note at the run in the tracker how much of its journal was written before. Raises SinkAway."""
        ...
