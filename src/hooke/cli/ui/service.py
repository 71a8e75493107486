"""Services: load, latencies, replicas with the reason of each change, batches, errors and roll-outs, live and past."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from hooke.base.formats import format_rate, format_seconds
from hooke.journal.events import RunStarted
from hooke.journal.reader import SegmentReader, first_event
from hooke.journal.run_folders import DRIVER
from hooke.journal.run_view import moment
from hooke.journal.segments import HEADER_BYTES, SUFFIX
from hooke.journal.service_events import (
    BatchWindow,
    ReplicaAdopted,
    ReplicaEnded,
    ReplicaEvent,
    ReplicaLeft,
    ReplicaReady,
    ReplicaStarted,
    RollOutChanged,
    RuleChosen,
    ServiceScaled,
)
from hooke.pages.run_index import PAGE, FollowedRuns, PartReader
from hooke.pages.server import READ_S, SHARE, PageServer, changed_events
from hooke.project.folder import Project
from hooke.services.supervisor.service_folder import service_folders
from hooke.serving.stats_windows import STEP_BINS, StepTotals, merge_windows, window_length_s

if TYPE_CHECKING:
    from hooke.charts.sheet import PagePanel
    from hooke.services.service_report import ServiceRecord

__all__ = ["ServicePages"]

LOOK_EVERY = 200
"""Events of a journal between two looks at the clock."""
NOW_S = 60.0
"""The last so many seconds are now, or the last window of a service that is up for long."""
REFRESH_S = 10.0
"""How often a page is made again while nothing happens."""
SPANS = (("all of it", ""), ("the last hour", "3600"), ("the last 10 minutes", "600"))
"""Parts of the time to look at: name, and seconds."""
MOST_WINDOWS = 2000
"""Windows that are kept of a run: of weeks, older ones are merged. A chart has 90 intervals."""
MOST_ROWS = 50
"""Rows of a table; the last ones are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedService:
    """A service's run in the list."""

    run: str
    service: str
    what: str
    status: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RollOutRow:
    """A roll-out and its trial: what became of it, and each step with its reason."""

    generation: str
    before: str
    at: float
    outcome: str
    steps: tuple[tuple[str, str, str], ...]


@dataclass(slots=True, kw_only=True)
class ReplicaRow:
    """A replica's life. `how` says why it started, `end` what became of it."""

    replica: str
    state: str = "starting"
    at: float = 0.0
    how: str = ""
    ready_s: float | None = None
    end: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """The batches of about one size of a method."""

    method: str
    rows: float
    batches: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """The steps of a language model with about so many requests: their number, and means."""

    requests: float
    prompt: float
    """Tokens of prompts."""
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """The page of a service's run."""

    run: str
    service: str
    status: str
    facts: tuple[tuple[str, str], ...]
    facts_of: str
    """The time that the facts are of."""
    told: tuple[str, ...]
    panels: tuple[PagePanel, ...]
    caption: str
    decisions: tuple[tuple[float, str], ...]
    roll_outs: tuple[RollOutRow, ...]
    replicas: tuple[ReplicaRow, ...]
    events: tuple[tuple[float, str], ...]
    errors: tuple[tuple[str, int, str], ...]
    batches: tuple[BatchRow, ...]
    steps: tuple[StepRow, ...] | None
    """Of a language model, which has no batches."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: dict[str, int]
    reading: str = ""


class ServiceFollower:
    """Reads the journal of a service's run as it grows. Not thread-safe."""

    def __init__(self, project: Project, run: str) -> None:
        from hooke.services.service_report import ServiceFold  # SciPy takes half a second

        self._file = project.runs.folder(run) / f"{DRIVER}{SUFFIX}"
        self._reader: SegmentReader | None = None
        self._offset = HEADER_BYTES
        self.fold = ServiceFold(most_windows=MOST_WINDOWS)
        self.share_left = 0.0
        """Of the journal, after a `read`."""

    def close(self) -> None:
        """Close the journal; a later `read` goes on where this one was."""
        if self._reader is not None:
            self._offset = self._reader.offset
            self._reader.close()
            self._reader = None

    def read(self, most_s: float) -> None:
        """Read what is new, for about `most_s` seconds. Raises JournalError."""
        if self._reader is None:
            self._reader = SegmentReader(self._file, self._offset)
        deadline, self.share_left = time.monotonic() + most_s, 0.0
        for event in self._reader:
            self.fold.apply(event)
            if self.fold.events % LOOK_EVERY == 0 and time.monotonic() > deadline:
                self.share_left = 1 - self._reader.offset / max(self._file.stat().st_size, 1)
                break


class ServicePages:
    """The pages of all runs of services."""

    title = "Services"
    address = "/services"

    def __init__(self, project: Project) -> None:
        self.project = project
        self._begun: PartReader[RunStarted] = PartReader(self._read_begun)
        self._seen: set[str] = set()
        """Runs that have begun."""
        self._followed = FollowedRuns(functools.partial(ServiceFollower, project))
        self._took: dict[str, float] = {}

    def routes(self, server: PageServer) -> list[Route]:
        """The list, a service, and the events of both."""
        return [
            Route("/services", functools.partial(self._list, server)),
            Route("/services/events", self._list_events),
            Route("/services/{run}", functools.partial(self._service, server)),
            Route("/services/{run}/events", functools.partial(self._events, server)),
        ]

    # --- The list.

    async def _list(self, server: PageServer, request: Request) -> Response:
        asked = request.query_params.get("page", "1")
        if not asked.isdecimal():
            raise HTTPException(400, "this page has no such number")

        def made() -> str:
            found, left = self._services()
            pages = max(-(-len(found) // PAGE), 1)
            page = min(max(int(asked[:9]), 1), pages)
            shown = list(found.items())[(page - 1) * PAGE : page * PAGE]
            rows = [self._listed(run, begun) for run, begun in shown]
            alive = any(row.status == "running" for row in rows)
            return server.page(
                "services.html",
                services=rows,
                page=page,
                pages=pages,
                reading=left,
                follow=bool(left) or alive,
            )

        return HTMLResponse(await run_in_threadpool(made))

    async def _list_events(self, request: Request) -> Response:
        def state() -> object:
            found, left = self._services()
            return list(found)[:PAGE], left, [self.project.runs.alive(run) for run in list(found)[:PAGE]]

        return changed_events(request, state, lambda: 1.0)

    def _services(self) -> tuple[dict[str, RunStarted], int]:
        """The first event of each service's run, the newest first; and how many runs are not looked at yet."""
        wanted = [(name, 0) for name in self.project.runs.names() if self._has_begun(name)]
        return self._begun.known(wanted, READ_S)

    def _has_begun(self, run: str) -> bool:
        """Whether its journal has an event: asked of each run until it does."""
        if run not in self._seen:
            file = self.project.runs.folder(run) / f"{DRIVER}{SUFFIX}"
            if not file.exists() or file.stat().st_size <= HEADER_BYTES:
                return False
            self._seen.add(run)
        return True

    def _read_begun(self, run: str) -> Iterator[RunStarted | None]:
        begun = first_event(self.project.runs.folder(run), DRIVER)
        if isinstance(begun, RunStarted) and begun.kind == "service":
            yield begun

    def _listed(self, run: str, begun: RunStarted) -> ListedService:
        pairs = ", ".join(f"{name}={value}" for name, value in begun.shown.items())
        alive = self.project.runs.alive(run)
        return ListedService(
            run=run,
            service=begun.pipeline,
            what=f"{begun.entry}({pairs})",
            status="running" if alive else "ended",
            at=begun.at,
        )

    # --- A service.

    async def _service(self, server: PageServer, request: Request) -> Response:
        name, last = request.path_params["run"], request.query_params.get("last", "")
        if last not in {seconds for _, seconds in SPANS}:
            raise HTTPException(400, "this page has no such part of the time")
        if not server.index.has(name):
            run = await run_in_threadpool(self._run_of, name)
            return RedirectResponse(f"/services/{quote(run)}", 303)
        run = server.named(request.path_params["run"])
        return HTMLResponse(await run_in_threadpool(self._page, server, run, last))

    def _run_of(self, service: str) -> str:
        """The current or last run of the service with this name."""
        records = {folder.name: folder.record() for folder in service_folders(self.project)}
        record = records.get(service)
        if record is None or not self.project.runs.folder(record.run).exists():
            raise HTTPException(404, f"there is no service, and no run, {service}")
        return record.run

    def _page(self, server: PageServer, run: str, last: str) -> str:
        began = time.monotonic()
        alive = self.project.runs.alive(run)
        record, reading = self._read(run)
        if record is None or record.started.kind != "service":
            raise HTTPException(404, f"{run} is not the run of a service")
        going = alive and record.finished is None
        if reading:  # charts of a part would be of no use
            record = replace(record, windows=())
        elif going:
            record = replace(record, until=_told_until(record, time.time()))
        page = server.page(
            "service.html",
            view=_view(record, alive=alive, last=last, reading=reading),
            follow=bool(reading) or going,
            spans=SPANS,
            last=last,
        )
        self._took[run] = time.monotonic() - began
        return page

    def _read(self, run: str) -> tuple[ServiceRecord | None, str]:
        """What was read of the run, and how far that is; empty if it is all."""
        if not (self.project.runs.folder(run) / f"{DRIVER}{SUFFIX}").exists():
            return None, ""
        lock, follower = self._followed.follower(run)
        with lock:
            follower.read(READ_S)
            return follower.fold.record(), f"{1 - follower.share_left:.0%}" if follower.share_left else ""

    async def _events(self, server: PageServer, request: Request) -> Response:
        run = server.named(request.path_params["run"])

        def state() -> object:
            record, reading = self._read(run)
            events = 0 if record is None else len(record.windows) + len(record.replicas)
            # Without events the rates fall, too.
            return events, reading, self.project.runs.alive(run) and time.time() // REFRESH_S

        return changed_events(request, state, lambda: SHARE * self._took.get(run, 0.0))


# --- What the page says.


def _told_until(record: ServiceRecord, now: float) -> float:
    """Up to when it is known what a running service did: a window is written when it ends, and none is written without requests."""
    last = max((window.at for window in record.windows), default=record.started.at)
    return last if now - last < window_length_s(now - record.started.at) + REFRESH_S else now


def _view(record: ServiceRecord, *, alive: bool, last: str, reading: str) -> ServiceView:
    from hooke.charts.service_chart import service_panels  # SciPy takes half a second
    from hooke.services.service_report import event_line, picture_of, service_summary, service_table

    whole = merge_windows(record.windows, side_by_side=True)
    picture = picture_of(record, since=record.until - float(last) if last else None)
    decided = [each for each in record.replicas if isinstance(each, ServiceScaled | RuleChosen)]
    others = [
        each for each in record.replicas if not isinstance(each, ServiceScaled | RuleChosen | RollOutChanged)
    ]
    replicas = _replicas(record.replicas, alive=alive)
    columns, rows = service_table(record) if record.windows else ((), [])
    head, *told = (line.strip() for line in service_summary(record, alive=alive))
    tables: dict[str, Sequence[object]] = {"decisions": decided, "replicas": replicas, "events": others}
    return ServiceView(
        run=record.started.run,
        service=record.started.pipeline,
        status=head.partition(": ")[2],
        facts=tuple(_facts(record)),
        facts_of=f"the last {format_seconds(_now_s(record))} until {moment(record.until)}",
        told=tuple(filter(None, told)),
        panels=tuple(service_panels(picture)) if picture is not None else (),
        caption=picture.caption if picture is not None else "",
        decisions=tuple((each.at, event_line(each)) for each in reversed(decided[-MOST_ROWS:])),
        roll_outs=tuple(_roll_outs(record.replicas)),
        replicas=tuple(reversed(replicas[-MOST_ROWS:])),
        events=tuple((each.at, event_line(each)) for each in reversed(others[-MOST_ROWS:])),
        errors=_errors(whole),
        batches=tuple(_batches(whole)),
        steps=tuple(_steps(whole)) if record.declared.tokens else None,
        columns=tuple(columns),
        rows=tuple(rows),
        left_out={name: max(len(each) - MOST_ROWS, 0) for name, each in tables.items()},
        reading=reading,
    )


def _now_s(record: ServiceRecord) -> float:
    """The last so many seconds of it are now."""
    age = max(record.until - record.started.at, 1.0)
    return min(max(NOW_S, window_length_s(age)), age)


def _facts(record: ServiceRecord) -> Iterator[tuple[str, str]]:
    """What it does now: always the same facts."""
    from hooke.services.service_runs import time_slice  # SciPy takes half a second

    began = record.until - _now_s(record)
    part = time_slice(record.windows, record.staff, began=began, ended=record.until)
    percent = record.declared.slo_percent or 99.0
    yield "received", f"{format_rate(part.asked / part.seconds)}/s"
    yield "answered", f"{format_rate(part.answered / part.seconds)}/s"
    yield "not answered", f"{format_rate(part.unanswered / part.seconds)}/s"
    tokens = record.declared.tokens
    if tokens:
        yield "tokens of answers", f"{format_rate(part.tokens / part.seconds)}/s"
    for each in sorted({50.0, percent}):
        quantile = part.quantile_s(each)
        name = f"whole answers, p{each:g}" if tokens else f"p{each:g}"
        yield name, "unknown" if quantile is None else format_seconds(quantile)
    if (slo := record.slo) is not None:
        within = "unknown" if part.within is None else f"{math.floor(1e4 * part.within) / 100:g} %"
        yield str(slo).partition(" ")[2] if tokens else f"within {format_seconds(slo.limit_s)}", within
    staff = record.staff[-1] if record.staff else None
    yield "replicas ready", str(staff.ready) if staff is not None else "1"
    yield "desired", str(staff.wanted) if staff is not None else "1"


def _roll_outs(events: Sequence[ReplicaEvent]) -> list[RollOutRow]:
    """Each roll-out with its steps, the newest first."""
    names = {
        "began": "on trial",
        "accepted": "trial passed, replicas are exchanged",
        "done": "rolled out",
        "back": "rolled back",
    }
    found: list[RollOutRow] = []
    for event in events:
        if not isinstance(event, RollOutChanged):
            continue
        step = moment(event.at), names[event.status], event.reason
        going = found and found[-1].generation == event.generation and event.status != "began"
        before = found.pop() if going else None
        found.append(
            RollOutRow(
                generation=event.generation,
                before=event.before,
                at=before.at if before is not None else event.at,
                outcome=names[event.status],
                steps=(*(before.steps if before is not None else ()), step),
            )
        )
    return list(reversed(found))


def _replicas(events: Sequence[ReplicaEvent], *, alive: bool) -> list[ReplicaRow]:
    """Each replica in the order of its start. What one does after the supervisor has ended is not known."""
    from hooke.services.service_report import event_line  # SciPy takes half a second

    found: dict[str, ReplicaRow] = {}
    for event in events:
        match event:
            case ReplicaStarted():
                found[event.replica] = ReplicaRow(replica=event.replica, at=event.at, how=event.reason)
            case ReplicaAdopted():
                found[event.replica] = ReplicaRow(
                    replica=event.replica, at=event.at, how="it ran already", state="ready"
                )
            case ReplicaReady() if event.replica in found:
                found[event.replica].state, found[event.replica].ready_s = "ready", event.seconds
            case ReplicaLeft() if event.replica in found:
                found[event.replica].state, found[event.replica].end = "draining", event.reason
            case ReplicaEnded() if event.replica in found:
                row = found[event.replica]
                row.state = "ended" if event.expected else "died"
                row.end = event_line(event).partition("\n")[0]
            case _:
                pass
    for row in found.values():
        row.state += "" if alive or row.state in ("ended", "died") else " at the end"
    return list(found.values())


def _errors(whole: BatchWindow) -> tuple[tuple[str, int, str], ...]:
    """The requests that were not answered by kind: always all kinds."""
    return (
        ("failed", whole.failed, "the service's code raised"),
        ("refused", whole.refused, "too many waited"),
        ("late", whole.late, "their time limit passed before an answer"),
        ("gone", whole.gone, "their client left before an answer"),
    )


def _batches(whole: BatchWindow) -> Iterator[BatchRow]:
    for each in whole.methods:
        for size in each.sizes:
            yield BatchRow(
                method=each.method,
                rows=size.rows / size.batches,
                batches=size.batches,
                seconds=size.seconds / size.batches,
            )


def _steps(whole: BatchWindow) -> Iterator[StepRow]:
    """By the number of requests that get a token, four times as many in each row; first those with none, which only read prompts."""
    for size in range(-1, STEP_BINS - 1):
        found = StepTotals.of(each for each in whole.steps if each.size % STEP_BINS == size % STEP_BINS)
        if found.steps:
            yield StepRow(
                requests=found.requests / found.steps,
                prompt=found.prompt / found.steps,
                steps=round(found.steps),
                seconds=found.seconds / found.steps,
            )
