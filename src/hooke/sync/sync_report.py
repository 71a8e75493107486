"""Reports what a run logged and where it was sent, for `hooke show` and the end of `hooke run`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.formats import format_bytes
from hooke.journal.events import ArtifactLogged, Event, NotesLogged, PointsLogged
from hooke.journal.reader import SegmentReader
from hooke.journal.run_view import moment
from hooke.project.folder import Project
from hooke.sync.background import sink_names
from hooke.sync.outbox import logged_segments
from hooke.sync.shipper import standing
from hooke.tracking.logged_values import dropped_calls_in

__all__ = ["refused_lines", "tracking_facts", "tracking_lines"]


def tracking_lines(project: Project, run: str) -> list[str]:
    """The report's lines; empty if nothing was logged or refused."""
    folder = project.runs.folder(run)
    counts = _counts(folder)
    lines = [_listed(counts)] if counts else []
    lines += refused_lines(folder)
    if counts:
        lines += [_stands(project, run, sink) for sink in sink_names(project)]
    return lines


def refused_lines(folder: Path) -> list[str]:
    """Log calls that were refused: `12 calls were refused, at 14:02:11 to 14:02:13: metric 'loss': ...`."""
    lines = []
    for refused in dropped_calls_in(folder).values():
        calls = f"{refused.calls:,} calls were" if refused.calls > 1 else "1 call was"
        other = f", and {refused.otherwise:,} for other reasons" if refused.otherwise else ""
        since = moment(refused.first_at) + (
            f" to {moment(refused.last_at)}" if moment(refused.last_at) != moment(refused.first_at) else ""
        )
        lines.append(f"{calls} refused, at {since}: {refused.why}{other}")
    return lines


def tracking_facts(project: Project, run: str) -> dict[str, Any]:
    """The report as plain values, for `--json`."""
    folder = project.runs.folder(run)
    refused = {name: msgspec.to_builtins(each) for name, each in dropped_calls_in(folder).items()}
    sinks = {
        name: msgspec.to_builtins(standing(project.runs, run, name).cursor) for name in sink_names(project)
    }
    return dict(_counts(folder)) | {"refused": refused, "sinks": sinks}


def _counts(folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    metrics: set[str] = set()
    for file in logged_segments(folder):
        with SegmentReader(file) as reader:
            for event in reader:
                _count(event, counts, metrics)
    if metrics:
        counts["metrics"] = len(metrics)
    return counts


def _count(event: Event, counts: Counter[str], metrics: set[str]) -> None:
    match event:
        case PointsLogged():
            counts["points"] += len(event.points)
            metrics.update(name for name, _, _ in event.points)
        case NotesLogged():
            counts["parameters"] += len(event.params)
            counts["tags"] += len(event.tags)
        case ArtifactLogged():
            counts["artifacts"] += 1
            counts["artifact_bytes"] += event.size
        case _:
            pass


def _listed(counts: Counter[str]) -> str:
    parts = []
    if counts["points"]:
        parts.append(f"{_many(counts['points'], 'point')} of {_many(counts['metrics'], 'metric')}")
    parts += [_many(counts[name], name.removesuffix("s")) for name in ("parameters", "tags") if counts[name]]
    if counts["artifacts"]:
        parts.append(f"{_many(counts['artifacts'], 'artifact')} ({format_bytes(counts['artifact_bytes'])})")
    return ", ".join(parts)


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' if count != 1 else ''}"


def _stands(project: Project, run: str, sink: str) -> str:
    stand = standing(project.runs, run, sink)
    cursor = stand.cursor
    if cursor.trouble:
        since = f" since {moment(cursor.away_since)}" if cursor.away_since is not None else ""
        return f"{sink}: {cursor.points:,} points there; stopped{since}: {cursor.trouble}; next: hooke sync {run}"
    merged = f", {cursor.merged:,} of them equal to others and kept once" if cursor.merged else ""
    if stand.pending_bytes:
        return f"{sink}: {cursor.points:,} points there{merged}, {format_bytes(stand.pending_bytes)} to go; hooke sync {run}"
    notes = f"; {_many(len(cursor.notes) + cursor.more_notes, 'thing')} it could not take as it was: hooke sync {run} says which"
    return f"{sink}: all {cursor.points:,} points there{merged}{notes if cursor.notes else ''}"
