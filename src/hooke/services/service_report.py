"""The report of a service's run: load, batches, the law of one replica, replicas and their events."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hooke.autoscaling.service_policy import law_of
from hooke.base.errors import NotEnoughData, UsageError
from hooke.base.formats import aligned, format_bytes, format_rate, format_seconds
from hooke.base.table import html_table
from hooke.charts.fleet_chart import SizeChange
from hooke.charts.html import static_page
from hooke.charts.renderers import inline_svg, png_of, save_as, svg_of
from hooke.charts.service_chart import SeriesLine, ServicePicture, service_sheet
from hooke.journal.events import Event, RunFinished, RunStarted
from hooke.journal.reader import read
from hooke.journal.run_folders import DRIVER
from hooke.journal.run_view import moment
from hooke.journal.service_events import (
    BatchWindow,
    ColdStart,
    ModelBack,
    ModelDied,
    ModelEvent,
    PromptsUnrouted,
    ReplicaAdopted,
    ReplicaEnded,
    ReplicaEvent,
    ReplicaLeft,
    ReplicaReady,
    ReplicaStarted,
    RollOutChanged,
    RuleChosen,
    ServiceBegan,
    ServiceScaled,
    StartDelayed,
)
from hooke.scaling.affine import Affine
from hooke.scaling.measurements import Estimate
from hooke.services.service_runs import (
    ReplicaCount,
    TimeSlice,
    cold_starts_s,
    replica_counts,
    scalings,
    start_times_s,
    time_slices,
)
from hooke.serving.slo import Slo
from hooke.serving.stats_windows import SHORTEST_WINDOW_S, StepTotals, merge_windows

__all__ = [
    "ServiceFold",
    "ServiceRecord",
    "event_line",
    "law_lines",
    "picture_of",
    "read_service",
    "save_service",
    "service_facts",
    "service_summary",
    "service_table",
    "service_text",
]


# --- The events of replicas as lines for people; the same while they happen and from the journal.


def event_line(event: ReplicaEvent) -> str:
    """What happened, and why. An end is followed by the end of its log, on lines of its own."""
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
        case RuleChosen() | ServiceScaled() | ColdStart() | RollOutChanged() | PromptsUnrouted():
            return _of_service(event)


def _of_service(event: RuleChosen | ServiceScaled | ColdStart | RollOutChanged | PromptsUnrouted) -> str:
    match event:
        case PromptsUnrouted():
            return f"{_prompts(event.prompts)} went to the least busy replica: the endpoint picker did not answer in time"
        case RuleChosen():
            return f"scaling by: {event.reason}"
        case ServiceScaled():
            return f"{event.before} -> {event.after} replicas: {event.reason}"
        case ColdStart():
            return _cold_start(event)
        case RollOutChanged():
            return _rolled_out(event)


def _rolled_out(event: RollOutChanged) -> str:
    what = {
        "began": "roll-out of",
        "accepted": "trial passed:",
        "done": "rolled out:",
        "back": "rolled back:",
    }[event.status]
    back = event.status == "back"
    to = f"{event.before} goes on instead of {event.generation}" if back else event.generation
    return f"{what} {to}; {event.reason}"


def _cold_start(event: ColdStart) -> str:
    lost = [f"{count} {how}" for count, how in ((event.refused, "refused"), (event.gone, "gone")) if count]
    held = f"{_requests(event.held)} waited" + "".join(f", {one}" for one in lost)
    return f"cold start: the first answer came {format_seconds(event.seconds)} after its request; {held}"


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


def _prompts(count: int) -> str:
    return "1 prompt" if count == 1 else f"{count} prompts"


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


MOST_ROWS = 12
"""Rows of the table."""
FINEST_S = 0.001
"""The resolution of an event loop's clock."""
GAP = 1.5
"""Windows are not merged where that would be so many times as long as both."""
MOST_EVENTS = 30
"""Events of replicas in the text; `--json` has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """A service's run from its journal. `finished` is None while it runs, and if its process died."""

    started: RunStarted
    declared: ServiceBegan
    windows: tuple[BatchWindow, ...]
    replicas: tuple[ReplicaEvent, ...]
    """Events of its replicas; none for a single process."""
    finished: RunFinished | None
    until: float
    """The time of the last event."""

    @property
    def slo(self) -> Slo | None:
        """What the service promised; None if nothing."""
        told = self.declared
        if told.slo_percent is None or told.slo_limit_s is None:
            return None
        return Slo(told.slo_percent, told.slo_limit_s, of_tokens=told.tokens, each_s=told.slo_each_s)

    @property
    def staff(self) -> tuple[ReplicaCount, ...]:
        """The number of replicas after each change; nothing for a single process."""
        return replica_counts(self.replicas, low=self.declared.replicas[0])

    def laws(self) -> dict[str, Affine | NotEnoughData]:
        """The law of each method, or why it has none. Methods whose calls are for one request have none."""
        names = sorted({each.method for window in self.windows for each in window.methods if each.sizes})
        found: dict[str, Affine | NotEnoughData] = {}
        for name in names if self.declared.max_batch else ():
            try:
                found[name] = law_of(self.windows, name, max_batch=self.declared.max_batch)
            except NotEnoughData as lacking:
                found[name] = lacking
        return found


class ServiceFold:
    """A service's run, by the events of its journal that were applied so far.

    With `most_windows`, older windows of a replica that follow one another are merged, so that there are not many more. Sums stay
    as they are.
    """

    def __init__(self, *, most_windows: float = math.inf) -> None:
        self._most, self._merge_at = most_windows, most_windows
        self.events = 0
        """How many were applied."""
        self._started: RunStarted | None = None
        self._declared = ServiceBegan()
        self._windows: list[BatchWindow] = []
        self._replicas: list[ReplicaEvent] = []
        self._finished: RunFinished | None = None
        self._until = 0.0

    def apply(self, event: Event) -> None:
        """Fold one event."""
        self.events += 1
        self._until = max(self._until, event.at)
        match event:
            case RunStarted():
                self._started, self._finished = event, None
            case ServiceBegan():
                self._declared = event
            case BatchWindow():
                self._windows.append(event)
                if len(self._windows) > self._merge_at:
                    self._merge_older()
            case RunFinished():
                self._finished = event
            case _:
                if isinstance(event, ReplicaEvent):
                    self._replicas.append(event)

    def record(self) -> ServiceRecord | None:
        """The record; None before the run has begun."""
        if self._started is None:
            return None
        return ServiceRecord(
            started=self._started,
            declared=self._declared,
            windows=tuple(self._windows),
            replicas=tuple(self._replicas),
            finished=self._finished,
            until=self._until,
        )

    def _merge_older(self) -> None:
        """Merge the older half of all windows in pairs, except across times without requests, which have no window."""
        half = len(self._windows) // 2
        kept: list[BatchWindow] = []
        waiting: dict[str, BatchWindow] = {}
        for window in self._windows[:half]:
            before = waiting.pop(window.replica, None)
            if before is None:
                waiting[window.replica] = window
                continue
            began, lasted = before.at - before.seconds, before.seconds + window.seconds
            if window.at - began > GAP * lasted:
                kept.append(before)
                waiting[window.replica] = window
                continue
            both = merge_windows([before, window], replica=window.replica)
            kept.append(msgspec.structs.replace(both, seconds=window.at - began))
        kept += waiting.values()
        self._windows = [*sorted(kept, key=lambda each: each.at), *self._windows[half:]]
        self._merge_at = max(self._most, 4 / 3 * len(self._windows))


def read_service(folder: Path) -> ServiceRecord:
    """Read the run of a service. Raises JournalError as `read` does."""
    fold = ServiceFold()
    for segment in read(folder, DRIVER):
        for event in segment.events:
            fold.apply(event)
    record = fold.record()
    assert record is not None, "the run has a beginning"
    return record


def service_text(record: ServiceRecord, *, alive: bool, drawn: str = "") -> str:
    """The report as text; `drawn` is a chart in characters."""
    lines = service_summary(record, alive=alive)
    if drawn:
        lines += ["", drawn]
    if record.windows:
        columns, rows = service_table(record)
        lines += ["", *aligned(columns, rows, right=range(1, len(columns)))]
    if record.replicas:
        lines += ["", *_replica_lines(record)]
    return "\n".join(lines)


def service_summary(record: ServiceRecord, *, alive: bool) -> list[str]:
    """The summary of the whole run."""
    started, whole = record.started, merge_windows(record.windows, side_by_side=True)
    seconds = _seconds(record, alive=alive)
    values = ", ".join(f"{name}={value}" for name, value in started.shown.items())
    lines = [
        f"run {started.run}: {_how_it_is(record, alive=alive)}",
        f"  service {started.pipeline}({values}) of {started.entry}",
        f"  started {moment(started.at)}",
        f"  {whole.requests:,} requests answered, {whole.requests / max(seconds, 1e-9):.3g}/s{_not_answered(whole)}",
    ]
    if whole.batches and record.declared.max_batch:
        lines.append(
            f"  {whole.rows / whole.batches:.1f} rows a batch, of at most {record.declared.max_batch}"
        )
    if record.declared.tokens:
        lines.append(f"  {_token_line(whole, seconds)}")
    if (slo := _slo_line(record.slo, whole)) is not None:
        lines.append(f"  {slo}")
    if (staff := _staff_line(record)) is not None:
        lines.append(f"  {staff}")
    if record.finished is not None and record.finished.message:
        lines.append(f"  {record.finished.message}")
    if law := law_lines(record):
        lines += ["", *law]
    return lines


def law_lines(record: ServiceRecord, *, lacking: bool = True) -> list[str]:
    """The law of each batched method, and what one replica can do by it; if `lacking`, also why a method has no law."""
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
    """The last events of replicas; a death with the end of its log."""
    scaled = scalings(record.replicas)
    others = [event for event in record.replicas if not isinstance(event, ServiceScaled)]
    return [
        *(["how many replicas were wanted, and why", *_told(scaled), ""] if scaled else []),
        "what happened to replicas",
        *_told(others),
    ]


def _told(events: Sequence[ReplicaEvent]) -> Iterator[str]:
    if len(events) > MOST_EVENTS:
        yield f"  {len(events) - MOST_EVENTS} events before: --json"
    for event in events[-MOST_EVENTS:]:
        yield f"  {moment(event.at)}  {event_line(event)}"


def service_facts(record: ServiceRecord, *, alive: bool) -> dict[str, Any]:
    """The report as plain values, for `--json`."""
    whole = merge_windows(record.windows, side_by_side=True)
    laws = {
        name: {"why_not": law.what} if isinstance(law, NotEnoughData) else _law_facts(law, record.declared)
        for name, law in record.laws().items()
    }
    counts = (
        "arrived", "requests", "failed", "refused", "late", "gone", "gone_over_slo", "over_slo", "busy_s", "request_s",
        "most_waiting", "answers", "answer_tokens",
    )  # fmt: skip
    return {
        "run": record.started.run,
        "kind": "service",
        "status": _status(record, alive=alive),
        "service": record.started.pipeline,
        "entry": record.started.entry,
        "parameters": dict(record.started.shown),
        "started_at": record.started.at,
        "seconds": _seconds(record, alive=alive),
        "last_heard_at": record.until,
        "declared": msgspec.to_builtins(record.declared),
        "batches": whole.batches,
        "rows": whole.rows,
        **{name: getattr(whole, name) for name in counts},
        "laws": laws,
        "starts_s": start_times_s(record.replicas),
        "cold_starts_s": cold_starts_s(record.replicas),
        "staff": [dataclasses.asdict(each) for each in record.staff],
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


def _how_it_is(record: ServiceRecord, *, alive: bool) -> str:
    status, after = _status(record, alive=alive), format_seconds(_seconds(record, alive=alive))
    if status == "lost":
        return f"it ended without a word, last heard of at {moment(record.until)}, {after} after its start"
    return f"{status} after {after}"


def _seconds(record: ServiceRecord, *, alive: bool) -> float:
    if record.finished is not None:
        return record.finished.seconds
    return (time.time() if alive else record.until) - record.started.at


def _not_answered(window: BatchWindow) -> str:
    said = [
        ("failed", window.failed),
        ("refused", window.refused),
        ("too late", window.late),
        ("not waited for", window.gone),
    ]
    return "".join(f", {count:,} {what}" for what, count in said if count)


def _token_line(window: BatchWindow, seconds: float) -> str:
    """What a language model computed; prompts that were in memory are not in it."""
    steps = StepTotals.of(window.steps)
    rate = format_rate(window.answer_tokens / max(seconds, 1e-9))
    mean = f", of {steps.requests / steps.steps:.3g} requests on average" if steps.steps else ""
    return (
        f"{window.answer_tokens:,} tokens of answers, {rate}/s; {steps.prompt:,.0f} of prompts computed;"
        f" {steps.steps:,.0f} steps{mean}"
    )


def _slo_line(slo: Slo | None, window: BatchWindow) -> str | None:
    if slo is None or not window.ended:
        return None
    within = 100 * (window.requests - window.over_slo) / window.ended
    kept = "kept" if within >= slo.percent else "NOT kept"
    which = "of requests within it" if slo.of_tokens else f"within {format_seconds(slo.limit_s)}"
    return f"SLO {slo}: {kept}, {within:.4g} % {which}"


def _span(estimate: Estimate) -> str:
    low, high = (format_seconds(end) for end in estimate.interval)
    return f"{format_seconds(estimate.value)} ({low} to {high})"


def _rate(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{_round(estimate.value)} rows/s ({_round(low)} to {_round(high)})"


def _round(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.10g}"


def _staff_line(record: ServiceRecord) -> str | None:
    """How many replicas answered, and how long starts took."""
    if not record.staff:
        return None
    steps = [*((each.at, each.ready) for each in record.staff), (record.until, 0)]
    lasted = [(count, max(until - since, 0.0)) for (since, count), (until, _) in pairwise(steps)]
    whole = max(sum(seconds for _, seconds in lasted), 1e-9)
    mean = sum(count * seconds for count, seconds in lasted) / whole
    line = f"{mean:.3g} replicas answered on average, {max(count for count, _ in lasted)} at most"
    if starts := start_times_s(record.replicas):
        spans = " to ".join(dict.fromkeys(map(format_seconds, (min(starts), max(starts)))))
        line += (
            f"; a start took {spans}, {len(starts)} of them" if len(starts) > 1 else f"; a start took {spans}"
        )
    if cold := cold_starts_s(record.replicas):
        middle, most = format_seconds(statistics.median(cold)), format_seconds(max(cold))
        line += f"; {len(cold)} cold start{'s' if len(cold) > 1 else ''}, the first answer after {middle} (median), {most} at most"
    return line


def service_table(record: ServiceRecord) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table: column names, and a row for each time slice with requests or replicas."""
    parts = time_slices(
        record.windows, record.staff, began=record.started.at, ended=record.until, most=MOST_ROWS
    )
    percent = record.declared.slo_percent or 99.0
    promised, tokens = record.declared.slo_limit_s is not None, record.declared.tokens
    whole = "whole " if tokens else ""
    columns = (
        "until", "for", "ready", "wanted", "asked/s", "answered/s", *(["tokens/s"] if tokens else []),
        f"{whole}p50", f"{whole}p{percent:g}", *(["within SLO"] if promised else []), "at once",
        "in a step" if tokens else "mean batch", "busy", "not answered",
    )  # fmt: skip
    return columns, [
        _cells(part, percent, promised=promised, tokens=tokens) for part in parts if part.asked or part.ready
    ]


def _cells(part: TimeSlice, percent: float, *, promised: bool, tokens: bool) -> tuple[str, ...]:
    seconds, replicas = max(part.seconds, 1e-9), max(part.ready, 1e-9)
    within = "" if part.within is None else f"{_floored(part.within)}"
    return (
        moment(part.began + part.seconds),
        format_seconds(part.seconds),
        f"{part.ready:.2g}",
        str(part.wanted),
        _short(part.asked / seconds),
        _short(part.answered / seconds),
        *([_short(part.tokens / seconds)] if tokens else []),
        *(_time(part.quantile_s(each)) for each in (50.0, percent)),
        *([within] if promised else []),
        _short(part.request_s / seconds),
        f"{part.rows / part.batches:.1f}" if part.batches else "",
        f"{min(part.busy_s / seconds / replicas, 1.0):.0%}" if part.ready else "",
        f"{math.ceil(part.unanswered - 1e-6):,}",
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return format_seconds(seconds) if seconds > FINEST_S else f"< {format_seconds(FINEST_S)}"


def _short(value: float) -> str:
    """`1,234`, `17.7`, `2.3`, `0.043`, `0`."""
    if value >= 9.95:
        return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}"
    return f"{value:.2g}" if value >= 0.005 else "0"


def _floored(share: float) -> str:
    """Never 100 % if one was missed."""
    return f"{math.floor(1e4 * share + 1e-9) / 100:.4g} %"


# --- The run as a chart, and as a page to mail.

MOST_STRETCHES = 90
"""Narrower steps could not be told apart in print."""
_UNITS = ((3 * 86400.0, 86400.0, "days"), (3 * 3600.0, 3600.0, "hours"), (600.0, 60.0, "minutes"))


def picture_of(record: ServiceRecord, *, since: float | None = None) -> ServicePicture | None:
    """The chart of a run, from the moment `since` on if it is given; None without windows."""
    began = record.started.at
    first = began if since is None else max(began, min(since, record.until - SHORTEST_WINDOW_S))
    windows = [each for each in record.windows if since is None or each.at - each.seconds >= first]
    if not windows:
        return None
    scale, unit = next(
        ((scale, unit) for least, scale, unit in _UNITS if record.until - began >= least), (1.0, "s")
    )
    staff = record.staff
    parts = time_slices(windows, staff, began=first, ended=record.until, most=MOST_STRETCHES)
    lengths = np.array([part.seconds for part in parts])
    slo, tokens = record.slo, record.declared.tokens
    limit = slo.limit_s if slo is not None and not tokens else None
    return ServicePicture(
        title=f"{record.started.pipeline}: load, replicas and latency",
        unit=unit,
        edges=np.array(
            [(first - began) / scale, *((part.began + part.seconds - began) / scale for part in parts)]
        ),
        asked=np.array([part.asked for part in parts]) / lengths,
        answered=np.array([part.answered for part in parts]) / lengths,
        unanswered=np.array([part.unanswered for part in parts]) / lengths,
        moments=np.array([(each.at - began) / scale for each in staff]) if staff else np.zeros(1),
        ready=np.array([float(each.ready) for each in staff] or [1.0]),
        wanted=np.array([float(each.wanted) for each in staff] or [1.0]),
        changes=tuple(
            SizeChange(
                at=(event.at - began) / scale,
                before=event.before,
                after=event.after,
                text=f"{event.before} -> {event.after} replicas: {event.reason}",
            )
            for event in scalings(record.replicas)
        ),
        times=tuple(_times(record, parts)),
        limit=1e3 * limit if limit is not None else None,
        limit_text=str(slo) if limit is not None else "",
        caption=f"from the journal of {record.started.run}, in intervals of {format_seconds(float(np.median(lengths)))}",
        busy=np.array([part.busy_s for part in parts]) / lengths,
        batch=np.array([part.rows / part.batches if part.batches else math.nan for part in parts]),
        tokens=np.array([part.tokens for part in parts]) / lengths if tokens else None,
    )


def _times(record: ServiceRecord, parts: Sequence[TimeSlice]) -> Iterator[SeriesLine]:
    """Percentiles of answer times; of a language model, of whole answers."""
    whole = "whole " if record.declared.tokens else ""
    for percent in sorted({50.0, record.declared.slo_percent or 99.0}):
        value = 1e3 * np.array([part.quantile_s(percent) or math.nan for part in parts])
        yield SeriesLine(name=f"{whole}p{percent:g}", value=value)


def save_service(record: ServiceRecord, path: Path, *, alive: bool) -> Path:
    """Write `.svg`, `.png` or `.html`, by the ending of the path; returns the path.

    Raises UsageError for another ending, a missing folder, or a service without requests; MissingExtra for `.png` without
    Pillow; OSError.
    """

    def drawn() -> ServicePicture:
        picture = picture_of(record)
        if picture is None:
            raise UsageError(
                f"{record.started.run} has no requests to draw",
                fix="send it requests, and try again some seconds later",
            )
        return picture

    return save_as(
        path,
        "a service's run",
        {
            ".svg": lambda: svg_of(service_sheet(drawn())),
            ".png": lambda: png_of(service_sheet(drawn())),
            ".html": lambda: _page(record, drawn(), alive=alive),
        },
    )


def _page(record: ServiceRecord, picture: ServicePicture, *, alive: bool) -> str:
    """A self-contained HTML page that loads and runs nothing. Text from services is escaped."""
    columns, rows = service_table(record)
    paragraphs = "\n".join(service_summary(record, alive=alive)).split("\n\n")
    told = "".join(
        "<p>" + "<br>".join(escape(line.strip()) for line in each.splitlines()) + "</p>"
        for each in paragraphs
    )
    table = f'<div style="overflow-x:auto;white-space:nowrap">{html_table(columns, rows)}</div>'
    return static_page(record.started.run, f"{inline_svg(service_sheet(picture))}{told}{table}")
