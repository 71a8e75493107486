"""What scaling a service would have cost and kept by each autoscaler, replayed on its own arrivals or on a file of them."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hooke.autoscaling.peers import all_families
from hooke.autoscaling.replay import HISTORY_S, WARM_S, ReplayResult, Station, blocks_of, pick, replay
from hooke.autoscaling.service_policy import station_of
from hooke.autoscaling.token_policy import TokenMix, replica_tokens, token_station
from hooke.base.errors import NotEnoughData, UsageError
from hooke.journal.service_events import ReplicaReady
from hooke.planning.token_plan import known_steps
from hooke.project.folder import Project
from hooke.services.arrival_log import read_arrivals
from hooke.services.service_report import ServiceRecord, read_service
from hooke.services.supervisor.service_folder import ServiceFolder
from hooke.serving.slo import OF_TOKENS, Slo, parse_slo

__all__ = [
    "Frontier",
    "FrontierPoint",
    "RecordedService",
    "read_trace",
    "recorded_service",
    "replay_frontier",
    "trace_station",
]

GOALS = (95.0, 99.0, 99.9)
"""Beside the SLO's own percentage."""
ASSUMED_START_S = 5.0
NO_BATCHES = "it has none: calls of async def and of engines by from_command are not batches"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """One autoscaler, with the setting that was cheapest for a goal."""

    autoscaler: str
    goal: float
    """Percent of requests in time."""
    setting: str
    attained: float
    """Percent."""
    hours: float
    """Replica-hours."""
    kept: bool
    """Whether the setting kept half of the goal's budget; otherwise none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """All points, and what they are about."""

    station: Station
    seconds: int
    unit: str
    """What is counted: `requests`, or the `tokens` of a language model."""
    arrived: int
    """Of this unit."""
    prompt: float | None
    """What a token of a prompt counts, beside one of an answer; None where requests are counted."""
    points: tuple[FrontierPoint, ...]


def replay_frontier(
    counts: NDArray[np.int64], station: Station, *, low: int, high: int, prompt: float | None = None
) -> Frontier:
    """Replay the last ten days of arrivals (seconds,) with all rules and settings; of tokens, if `prompt` is given as in `Frontier`.

    Raises UsageError where there are too few.
    """
    counts, unit = counts[-HISTORY_S:], "requests" if prompt is None else "tokens"
    if len(counts) < 120 or not counts.any():
        raise UsageError(
            f"{len(counts)} seconds with {int(counts.sum())} {unit} are too few to replay",
            fix="let the service get requests for some minutes first, or name a longer --trace",
        )
    begin, ends = blocks_of(len(counts), station)
    past = slice(begin, len(counts))
    every = all_families(
        counts,
        station,
        low=low,
        high=high,
        first=max(begin - WARM_S, 0),
        past=past,
        of_tokens=prompt is not None,
    )
    result = replay(counts, station, every, low=low, high=high, ends=ends, begin=begin)
    return Frontier(
        station=station,
        seconds=ends[-1] - begin,
        unit=unit,
        arrived=int(result.requests.sum()),
        prompt=prompt,
        points=tuple(_points(every.slices, result, sorted({*GOALS, station.percent}))),
    )


def _points(slices: dict[str, slice], result: ReplayResult, goals: list[float]) -> Iterator[FrontierPoint]:
    for goal in goals:
        for name, part in slices.items():
            own = result.part(part)
            at, kept = pick(own, 1 - goal / 100)
            yield FrontierPoint(
                autoscaler=name,
                goal=goal,
                setting=str(own.settings[at]),
                attained=100 * float(own.attained[at]),
                hours=float(own.hours[at]),
                kept=kept,
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedService:
    """A replica as its service's last run measured it, the recorded arrivals (seconds,), and the declared numbers of replicas."""

    station: Station
    counts: NDArray[np.int64]
    replicas: tuple[int, int]
    prompt: float | None = None
    """As in `Frontier`."""


def recorded_service(project: Project, folder: ServiceFolder, slo: str | None) -> RecordedService:
    """What is known of a service, with another SLO than the declared one if it is given. Raises UsageError."""
    descriptor = folder.record()
    if descriptor is None:
        raise UsageError(f"{folder.name} has not been served yet", next="hooke serve FILE.py --replicas 1:4")
    record = read_service(project.runs.folder(descriptor.run))
    declared = record.declared
    promised = record.slo if slo is None else parse_slo(slo, of_tokens=declared.tokens)
    if promised is None:
        example = OF_TOKENS if declared.tokens else "p99 < 500ms"
        raise UsageError(f"{folder.name} declares no SLO", fix=f'name one: --slo "{example}"')
    starts = [event.seconds for event in record.replicas if isinstance(event, ReplicaReady)]
    start_s = max(starts[-3:], default=ASSUMED_START_S)
    if declared.tokens:
        return _of_tokens(project, folder, record, promised, start_s)
    station = station_of(record.windows, max_batch=declared.max_batch, slo=promised, start_s=start_s)
    if station is None:
        raise UsageError(
            f"the batches of {folder.name} do not tell yet what a replica can do within {promised}",
            why=NO_BATCHES if record.windows and not any(each.methods for each in record.windows) else "",
            fix="let it answer more requests, or allow more time: --slo",
            next=f"hooke show {descriptor.run}",
        )
    _, counts = read_arrivals(folder.arrivals, until=time.time())
    return RecordedService(station=station, counts=counts, replicas=declared.replicas)


def _of_tokens(
    project: Project, folder: ServiceFolder, record: ServiceRecord, slo: Slo, start_s: float
) -> RecordedService:
    """Of a language model, in tokens: what the service itself scales by."""
    run = record.started.run
    try:
        known = known_steps(project.runs, run)
    except (NotEnoughData, UsageError) as lacking:
        raise UsageError(
            f"the steps of {folder.name} do not tell yet what a replica can do",
            why=lacking.what,
            fix="let it answer more requests",
            next=f"hooke show {run}",
        ) from lacking
    mix = TokenMix()
    if (lengths := known.lengths) is not None:
        mix = TokenMix(prompt=float(lengths.prompts.mean()), answer=float(lengths.outputs.mean()))
    replica = replica_tokens(known.law, known.limits, mix, slo)
    station = token_station(replica, slo, start_s=start_s, grain=2 * replica.load)
    if station is None:
        raise UsageError(
            f"no replica of {folder.name} keeps {slo}: the mean prompt takes longer in a full batch",
            fix="allow more time: --slo",
            next=f"hooke curve {run}",
        )
    _, counts = read_arrivals(folder.token_arrivals, until=time.time())
    return RecordedService(
        station=station, counts=counts, replicas=record.declared.replicas, prompt=replica.prompt
    )


def read_trace(path: Path) -> NDArray[np.int64]:
    """Arrivals a second of a CSV: its first column is the time of each request, in seconds or as ISO 8601; a header is skipped.

    Raises UsageError, with the line, for what is neither.
    """
    times: list[float] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if not row or not row[0].strip():
                    continue
                at = _time(row[0].strip())
                if at is None and number > 1:
                    raise UsageError(
                        f"{path}:{number}: {row[0]!r} is not a time",
                        fix="the first column holds seconds, or times such as 2026-01-31T12:00:00",
                    )
                if at is not None:
                    times.append(at)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} is not a CSV: {error}", fix="write text in UTF-8, a line for each request"
        ) from error
    if not times:
        raise UsageError(f"{path} has no arrivals", fix="a line for each request, its time first")
    seconds = np.array(times)
    first = math.floor(seconds.min())
    if seconds.max() - first > 366 * 86_400:
        raise UsageError(f"{path} spans more than a year", fix="are its times in seconds?")
    return np.bincount((seconds - first).astype(np.int64)).astype(np.int64)


def _time(text: str) -> float | None:
    try:
        at = float(text)
    except ValueError:
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            return None
    return at if math.isfinite(at) else None


def trace_station(slo: Slo, *, service_s: float, start_s: float) -> Station:
    """A replica that serves one request at a time. Raises UsageError where a request alone is late."""
    if service_s >= slo.limit_s or not service_s:
        raise UsageError(
            f"a request of {service_s:g} s cannot keep {slo}",
            fix="name a shorter --service-time, or another --slo",
        )
    return Station(rate=1 / service_s, wait_s=slo.limit_s - service_s, percent=slo.percent, start_s=start_s)
