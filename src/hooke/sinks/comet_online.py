"""Comet's service: batches become small archives, which Comet's own uploader sends, below its documented limits.

Delivery is at least once: Comet does not report which values of a batch it has, so a repeated batch is sent again. The uploader
logs what it could not send and continues; Hooke treats such a log entry as an unavailable service. It was not tried against the service itself, for
lack of an account: in the tests, comet_ml's uploader sends to a loopback server.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from hooke.base.clock import Clock, SystemClock
from hooke.base.distributions import install_command
from hooke.base.errors import HookeError, MissingExtra
from hooke.sinks.comet_limits import METRICS, MOST_VALUES, NOTES, allowance, thinned
from hooke.sinks.comet_messages import (
    comet_names,
    experiment,
    file_lines,
    note_lines,
    pack,
    point_lines,
    run_lines,
    status_line,
)
from hooke.sinks.sink import LoggedBatch, LoggedPoints, Receipt, ShippedRun, SinkAway

__all__ = ["CometService"]

MOST_POINTS = 2_000
"""Points in one archive: the size of the metrics bucket, which refills between two archives."""
REFUSED = re.compile(r"(?:got |failed \()(?:400|413|422)\b")
"""In the uploader's log: Comet rejected the data with one of these HTTP codes."""
_CLIENT_SETTINGS = {
    # The shipper itself retries and keeps its cursor.
    "COMET_HTTP_SESSION_RETRY_TOTAL": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "1",
    "COMET_LOGGING_CONSOLE": "ERROR",
    # Comet's client would report its own errors to Comet.
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_DISABLE_AUTO_LOGGING": "1",
}


class CometService:
    """Sends to the service at `COMET_URL_OVERRIDE`, else to Comet. Raises MissingExtra if its client is not installed.

    Only this process knows how much of each metric was sent: after a restart, a long run is sent in full again for a while,
    and Comet samples it.
    """

    def __init__(
        self,
        key: str,
        *,
        workspace: str = "",
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._upload = _uploader()
        self._key = key
        self._workspace = workspace
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._metrics, self._notes = METRICS, NOTES
        self._begun: set[str] = set()
        self._sent: Counter[tuple[str, str]] = Counter()
        self._last_at: dict[str, float] = {}

    def write(self, batch: LoggedBatch) -> Receipt:
        """Send the batch, and wait as long as Comet's limits require. Raises SinkAway."""
        receipt = Receipt()
        names, run = comet_names(receipt), batch.run
        points = self._allowed(batch, receipt)
        notes = note_lines(batch, names)
        if run.key not in self._begun:
            notes = [*run_lines(run), status_line(run), *notes]
        files = list(file_lines(batch, names, receipt))
        lines = [line for _, line in notes] + [line for (_, line), _, _ in files]
        first, *more = _parts(points, MOST_POINTS)
        insides = [(inside, file) for _, inside, file in files]
        receipt.notes += self._send(run, [*lines, *point_lines(first, names)], insides, points=first)
        for part in more:
            receipt.notes += self._send(run, list(point_lines(part, names)), [], points=part)
        self._begun.add(run.key)
        self._sent.update((run.key, name) for name in points.names)
        return receipt

    def finish(self, run: ShippedRun) -> None:
        """Send the run's end. Raises SinkAway, and HookeError if Comet refuses it permanently."""
        for refused in self._send(run, [status_line(run)[1]], [], points=LoggedPoints([], [], [], [])):
            raise HookeError("Comet does not accept the run's end", why=refused)

    def close(self) -> None:
        """Nothing is open between archives."""

    def _allowed(self, batch: LoggedBatch, receipt: Receipt) -> LoggedPoints:
        """The points that may be sent."""
        of_name: dict[str, list[int]] = defaultdict(list)
        for at, name in enumerate(batch.points.names):
            of_name[name].append(at)
        chosen: list[int] = []
        for name, all_of_it in of_name.items():
            values = [batch.points.values[at] for at in all_of_it]
            kept = thinned(values, allowance(self._sent[batch.run.key, name]))
            chosen += [all_of_it[at] for at in kept]
            if len(kept) < len(values):
                receipt.notes.append(
                    f"Comet keeps {MOST_VALUES:,} values of metric {name!r}: of later values only the smallest, "
                    "the largest and the last of each batch are sent; the journal has all"
                )
        return _chosen(batch.points, sorted(chosen))

    def _send(
        self,
        run: ShippedRun,
        lines: Sequence[str],
        files: Iterable[tuple[str, Path | bytes]],
        *,
        points: LoggedPoints,
    ) -> list[str]:
        """Send an archive of `lines`, which include those of `points`. Returns notes on what Comet will never take."""
        count, now = len(points.names), self._clock.monotonic()
        self._metrics, pause = self._metrics.take(count, now)
        self._notes, other_pause = self._notes.take(len(lines) - count, now)
        if longer := max(pause, other_pause):
            self._sleep(longer)
        last_at = max(points.times, default=self._last_at.get(run.key, run.started_at))
        self._last_at[run.key] = last_at
        facts = experiment(run, workspace=self._workspace, last_at=last_at)
        try:
            with TemporaryDirectory(prefix="hooke-comet-") as folder, _CapturedErrors() as heard:
                archive = Path(folder) / "part.zip"
                pack(archive, facts, lines, files)
                taken = self._upload(str(archive), self._key, force_upload=False)
        except Exception as error:  # its client's exceptions are not documented
            raise SinkAway("Comet is not available", why=f"{type(error).__name__}: {error}") from error
        passing = [error for error in heard.errors if not REFUSED.search(error)]
        if passing or not taken:
            why = next(iter(passing or heard.errors), "its uploader gives no reason")
            raise SinkAway("Comet is not available", why=why)
        return [f"Comet refused: {error}; the journal has it" for error in heard.errors]


class _CapturedErrors(logging.Handler):
    """Captures the errors that Comet's client logs, which is how it reports that something was not sent. Use it in `with`."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []
        self._logger = logging.getLogger("comet_ml")
        self._level = self._logger.level

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.errors.append(record.getMessage().strip().partition("\n")[0][:300])

    def __enter__(self) -> Self:
        self._level = self._logger.level
        self._logger.setLevel(min(self._level, logging.ERROR))  # whatever level its settings have
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)


def _uploader() -> Callable[..., bool]:
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from comet_ml.offline import upload_single_offline_experiment
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"sending to Comet needs {error.name}, which is not installed",
            why="COMET_API_KEY is set; archives do not need Comet's client: [tracking.comet] online = false",
            fix=install_command("comet"),
        ) from error
    upload: Callable[..., bool] = upload_single_offline_experiment
    return upload


def _chosen(points: LoggedPoints, which: Sequence[int]) -> LoggedPoints:
    return LoggedPoints(
        [points.names[at] for at in which],
        [points.values[at] for at in which],
        [points.steps[at] for at in which],
        [points.times[at] for at in which],
    )


def _parts(points: LoggedPoints, size: int) -> Iterator[LoggedPoints]:
    """The points in parts; at least one part, which may be empty."""
    for start in range(0, max(1, len(points.names)), size):
        yield _chosen(points, range(start, min(start + size, len(points.names))))
