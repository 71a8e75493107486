"""The run of a service as it is shown: what was asked, what the model took for it, and what one replica can do."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import NotEnoughData
from hooke.base.formats import format_seconds
from hooke.journal.events import RunFinished, RunStarted
from hooke.journal.reader import read
from hooke.journal.replicas import ReplicaEvent
from hooke.journal.services import BatchWindow, ServiceBegan
from hooke.project.driving import DRIVER
from hooke.project.supervising.lines import line_of
from hooke.project.table import aligned, moment
from hooke.scaling.affine import Affine
from hooke.scaling.estimate import Estimate
from hooke.serving.laws import law_of
from hooke.serving.windows import merged

__all__ = ["ServiceRecord", "law_lines", "read_service", "service_facts", "service_text"]

MOST_ROWS = 12
"""Stretches of time in the table."""
MOST_EVENTS = 30
"""Of replicas; `--json` has all."""
COLUMNS = (
    "until",
    "for",
    "replicas",
    "requests/s",
    "at once",
    "mean batch",
    "busy",
    "over SLO",
    "not answered",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """A service's run as its journal tells it. `finished` is None while it goes on, and where its process died."""

    started: RunStarted
    declared: ServiceBegan
    windows: tuple[BatchWindow, ...]
    replicas: tuple[ReplicaEvent, ...]
    """What happened to them; nothing where the process itself answered."""
    finished: RunFinished | None
    until: float
    """When anything was written last."""

    def laws(self) -> dict[str, Affine | NotEnoughData]:
        """By method; of those without a law, why. Methods whose calls are for one request each have none."""
        names = sorted({each.method for window in self.windows for each in window.methods if each.sizes})
        found: dict[str, Affine | NotEnoughData] = {}
        for name in names if self.declared.max_batch else ():
            try:
                found[name] = law_of(self.windows, name, max_batch=self.declared.max_batch)
            except NotEnoughData as lacking:
                found[name] = lacking
        return found


def read_service(folder: Path) -> ServiceRecord:
    """The run of a service. Raises JournalError as `read` does."""
    started, declared, finished, until = None, ServiceBegan(), None, 0.0
    windows: list[BatchWindow] = []
    replicas: list[ReplicaEvent] = []
    for segment in read(folder, DRIVER):
        for event in segment.events:
            until = max(until, event.at)
            match event:
                case RunStarted():
                    started, finished = event, None
                case ServiceBegan():
                    declared = event
                case BatchWindow():
                    windows.append(event)
                case RunFinished():
                    finished = event
                case _:
                    if isinstance(event, ReplicaEvent):
                        replicas.append(event)
    assert started is not None, "the run has a beginning"
    return ServiceRecord(
        started=started,
        declared=declared,
        windows=tuple(windows),
        replicas=tuple(replicas),
        finished=finished,
        until=until,
    )


def service_text(record: ServiceRecord, *, alive: bool) -> str:
    """In some lines."""
    started, whole = record.started, merged(record.windows, side_by_side=True)
    seconds = _seconds(record, alive=alive)
    values = ", ".join(f"{name}={value}" for name, value in started.shown.items())
    lines = [
        f"run {started.run}: {_status(record, alive=alive)} after {format_seconds(seconds)}",
        f"  service {started.pipeline}({values}) of {started.entry}",
        f"  started {moment(started.at)}",
        f"  {whole.requests:,} requests answered, {whole.requests / max(seconds, 1e-9):.3g}/s{_not_answered(whole)}",
    ]
    if whole.batches and record.declared.max_batch:
        lines.append(
            f"  {whole.rows / whole.batches:.1f} rows a batch, of at most {record.declared.max_batch}"
        )
    if (slo := _slo_line(record.declared, whole)) is not None:
        lines.append(f"  {slo}")
    if record.finished is not None and record.finished.message:
        lines.append(f"  {record.finished.message}")
    if law := law_lines(record):
        lines += ["", *law]
    if record.windows:
        lines += ["", *aligned(COLUMNS, map(_cells, _slices(record)), right=range(1, len(COLUMNS)))]
    if record.replicas:
        lines += ["", *_replica_lines(record)]
    return "\n".join(lines)


def law_lines(record: ServiceRecord, *, lacking: bool = True) -> list[str]:
    """What each batched method's law is, and what follows from it for one replica; if `lacking`, also why one has none."""
    lines: list[str] = []
    for name, law in record.laws().items():
        if isinstance(law, NotEnoughData):
            lines += [f"{name}: no law yet, as {law.what}"] if lacking else []
            continue
        most = record.declared.max_batch or 1
        seen = f"{law.calls:,} batches, most of {law.least_rows:.3g} to {law.most_rows:.3g} rows"
        beyond = ", beyond what was seen" if most > 1.2 * law.most_rows else ""
        lines += [
            f"{name}: a batch of n rows takes n x {_span(law.a)} + {_span(law.b)}",
            f"  from {seen}; intervals hold with {law.level:.0%}",
            f"  one replica, its batches full ({most}): {_rate(law.rate(most))}{beyond}",
            f"  batches are half full at {_rate(law.rate(max(most / 2, 1.0)))}",
        ]
        if record.declared.slo_limit_s is not None:
            load = law.load_within(record.declared.slo_limit_s, most)
            limit = format_seconds(record.declared.slo_limit_s)
            lines.append(
                f"  a row waits for one batch and runs in the next within {limit} up to {_rate(load)}"
            )
    return lines


def _replica_lines(record: ServiceRecord) -> list[str]:
    """What happened to replicas, the last of it; an end with what its log ended with."""
    told = [f"  {moment(event.at)}  {line_of(event)}" for event in record.replicas[-MOST_EVENTS:]]
    before = len(record.replicas) - len(told)
    return ["what happened to replicas", *([f"  {before} events before: --json"] if before else []), *told]


def service_facts(record: ServiceRecord, *, alive: bool) -> dict[str, Any]:
    """The same as plain values, for `--json`."""
    whole = merged(record.windows, side_by_side=True)
    laws = {
        name: {"why_not": law.what} if isinstance(law, NotEnoughData) else _law_facts(law, record.declared)
        for name, law in record.laws().items()
    }
    counts = ("requests", "failed", "refused", "late", "over_slo", "busy_s", "request_s", "most_waiting")
    return {
        "run": record.started.run,
        "kind": "service",
        "status": _status(record, alive=alive),
        "service": record.started.pipeline,
        "entry": record.started.entry,
        "parameters": dict(record.started.shown),
        "started_at": record.started.at,
        "seconds": _seconds(record, alive=alive),
        "declared": msgspec.to_builtins(record.declared),
        "batches": whole.batches,
        "rows": whole.rows,
        **{name: getattr(whole, name) for name in counts},
        "laws": laws,
        "replicas": [msgspec.to_builtins(event) for event in record.replicas],
        "windows": [msgspec.to_builtins(window) for window in record.windows],
    }


def _law_facts(law: Affine, declared: ServiceBegan) -> dict[str, Any]:
    said = [("a", law.a), ("b", law.b), ("full_rate", law.rate(declared.max_batch or 1))]
    if declared.slo_limit_s is not None:
        said.append(("rate_within_slo", law.load_within(declared.slo_limit_s, declared.max_batch or 1)))
    return {
        "level": law.level,
        "batches": law.calls,
        "seen_rows": [law.least_rows, law.most_rows],
        **{name: {"value": each.value, "interval": list(each.interval)} for name, each in said},
    }


def _status(record: ServiceRecord, *, alive: bool) -> str:
    if record.finished is not None:
        return record.finished.status
    return "running" if alive else "lost"


def _seconds(record: ServiceRecord, *, alive: bool) -> float:
    if record.finished is not None:
        return record.finished.seconds
    return (time.time() if alive else record.until) - record.started.at


def _not_answered(window: BatchWindow) -> str:
    said = [("failed", window.failed), ("refused", window.refused), ("too late", window.late)]
    return "".join(f", {count:,} {what}" for what, count in said if count)


def _slo_line(declared: ServiceBegan, window: BatchWindow) -> str | None:
    if declared.slo_limit_s is None or declared.slo_percent is None:
        return None
    asked = window.requests + window.failed + window.refused + window.late
    if not asked:
        return None
    within = 100 * (window.requests - window.over_slo) / asked
    limit = format_seconds(declared.slo_limit_s)
    kept = "kept" if within >= declared.slo_percent else "NOT kept"
    return f"SLO p{declared.slo_percent:g} < {limit}: {kept}, {within:.4g} % within {limit}"


def _span(estimate: Estimate) -> str:
    low, high = (format_seconds(end) for end in estimate.interval)
    return f"{format_seconds(estimate.value)} ({low} to {high})"


def _rate(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{_round(estimate.value)} rows/s ({_round(low)} to {_round(high)})"


def _round(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.10g}"


def _slices(record: ServiceRecord) -> list[tuple[BatchWindow, int]]:
    """The run in at most so many stretches of equal length, each with how many replicas were in it."""
    begun = record.started.at
    length = max((record.until - begun) / MOST_ROWS, 1e-9)
    parts: dict[int, list[BatchWindow]] = {}
    for window in sorted(record.windows, key=lambda each: each.at):
        parts.setdefault(min(math.floor((window.at - begun) / length), MOST_ROWS - 1), []).append(window)
    return [(_slice(part), len({each.replica for each in part})) for part in parts.values()]


def _slice(windows: Sequence[BatchWindow]) -> BatchWindow:
    """Those of each replica one after the other, and these side by side."""
    names = {each.replica for each in windows}
    return merged(
        [merged([each for each in windows if each.replica == name]) for name in names], side_by_side=True
    )


def _cells(row: tuple[BatchWindow, int]) -> tuple[str, ...]:
    window, replicas = row
    seconds = max(window.seconds, 1e-9)
    return (
        moment(window.at),
        format_seconds(window.seconds),
        str(replicas),
        f"{window.requests / seconds:.3g}",
        f"{window.request_s / seconds:.2g}",
        f"{window.rows / window.batches:.1f}" if window.batches else "",
        f"{window.busy_s / seconds / replicas:.0%}",
        str(window.over_slo),
        str(window.failed + window.refused + window.late),
    )
