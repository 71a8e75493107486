"""Laws: how tasks scale, from studies of `hooke measure` and from ordinary runs, as `hooke curve` reads them."""

from __future__ import annotations

import functools
import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hooke.base.errors import HookeError
from hooke.base.formats import format_bytes, format_seconds
from hooke.journal.events import Event
from hooke.journal.reader import SegmentReader
from hooke.journal.run_folders import DRIVER
from hooke.journal.segments import SUFFIX
from hooke.journal.service_events import LoadMeasured
from hooke.journal.study_records import SEARCH_PREFIX, STUDY_PREFIX, StudyRecord, read_study
from hooke.pages.run_index import LARGE_BYTES, PAGE, PartReader, journal_stamp
from hooke.pages.server import READ_S, SHARE, PageServer, changed_events
from hooke.project.folder import Project

if TYPE_CHECKING:
    from hooke.charts.curve_chart import Curve
    from hooke.charts.sheet import PagePanel
    from hooke.journal.throughput import ThroughputRow
    from hooke.planning.curves import Sampled

__all__ = ["LawPages"]

LOOK_EVERY = 500
"""Events of a journal between two looks at the clock."""
MOST_KEPT = 32
"""Laws that are kept: fitting one takes a fifth of a second."""
MOST_ROWS = 500
"""Measurements of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedLaw:
    """A study, or a task that several runs did, in the list. `address` is its page."""

    address: str
    name: str
    what: str
    levels: str
    speedup: str = ""
    efficiency: str = ""
    plain: str = ""
    status: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """A measurement of a law. `run` did it; empty for a study's own."""

    n: str
    sort: float
    work: str
    seconds: float
    rate: str
    cores: str
    at: float
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LawView:
    """The page of a law; `panels` is empty if `refused` says why there is none."""

    name: str
    heading: tuple[str, ...] = ()
    run: str
    command: str
    unit: str = "items"
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    panels: tuple[PagePanel, ...] = ()
    caption: str = ""
    refused: HookeError | None = None
    family: str = ""
    level: float = 0.95
    parameters: tuple[tuple[str, str], ...] = ()
    families: tuple[tuple[str, str, str, str], ...] = ()
    """Of each family that was tried: its name, its scatter, how much less likely it is, and what became of it."""
    sentences: tuple[tuple[str, str], ...] = ()
    measured: tuple[MeasuredRow, ...] = ()
    loads: tuple[tuple[str, ...], ...] = ()
    """Of a service, a row for each load test: see `_load`."""
    left_out: int = 0
    status: str = ""
    reading: int = 0


class LawPages:
    """The pages of all studies, and of the tasks of the newest runs."""

    title = "Laws"
    address = "/laws"

    def __init__(self, project: Project) -> None:
        self.project = project
        self._studies: PartReader[StudyRecord] = PartReader(self._read_study)
        self._samples: PartReader[tuple[Sampled, ...]] = PartReader(self._read_samples)
        self._kept: OrderedDict[tuple[str, str], tuple[object, LawView]] = OrderedDict()
        self._took: dict[str, float] = {}

    def routes(self, server: PageServer) -> list[Route]:
        """The list, a law, and its events."""
        return [
            Route("/laws", functools.partial(self._list, server)),
            Route("/laws/events", self._list_events),
            Route("/laws/{run}", functools.partial(self._law, server)),
            Route("/laws/{run}/events", functools.partial(self._law_events, server)),
        ]

    # --- The list.

    async def _list(self, server: PageServer, request: Request) -> Response:
        asked = request.query_params.get("page", "1")
        if not asked.isdecimal():
            raise HTTPException(400, "this page has no such number")
        return HTMLResponse(await run_in_threadpool(self._list_page, server, int(asked[:9])))

    def _list_page(self, server: PageServer, page: int) -> str:
        names = [name for name in self.project.runs.names() if name.startswith(STUDY_PREFIX)]
        pages = max(-(-len(names) // PAGE), 1)
        page = min(max(page, 1), pages)
        records, left = self._studies_of(names, page)
        samples, unread, large = self._sampled()
        return server.page(
            "laws.html",
            studies=[self._listed(name, record) for name, record in records.items()],
            total=len(names),
            page=page,
            pages=pages,
            tasks=_tasks_of(samples),
            runs=len(samples),
            large=large,
            reading=left + unread,
        )

    def _studies_of(self, names: Sequence[str], page: int) -> tuple[dict[str, StudyRecord], int]:
        """The studies of a page of the list, and how many of them are not read yet."""
        return self._studies.known(self._stamped(names[(page - 1) * PAGE : page * PAGE]), READ_S)

    async def _list_events(self, request: Request) -> Response:
        asked = request.query_params.get("page", "1")
        page = int(asked[:9]) if asked.isdecimal() else 1

        def state() -> object:
            names = [name for name in self.project.runs.names() if name.startswith(STUDY_PREFIX)]
            records, unread = self._studies_of(names, page)
            samples, left, _ = self._sampled()
            return len(records), unread, len(samples), left

        return changed_events(request, state, lambda: 1.0)

    def _listed(self, name: str, record: StudyRecord) -> ListedLaw:
        from hooke.measuring.study_report import plain_throughput, rows_of  # SciPy takes half a second

        started, rows = record.started, rows_of(record)
        best = max(rows, key=lambda row: row.throughput, default=None)
        plain = plain_throughput(record)
        curved = best is not None and not started.sizes and not record.of_service
        what = f"{started.task} of {started.pipeline}" if started.task else started.pipeline
        return ListedLaw(
            address=f"/laws/{quote(name)}",
            name=name,
            what=f"{what}({_pairs(started.shown)})",
            levels=f"{_numbers(started.sizes or started.levels)} {started.unit if started.sizes else record.counts}",
            speedup=f"{best.speedup:.2f} at {best.n}" if best is not None and curved else "",
            efficiency=f"{best.efficiency:.0%}" if best is not None and curved else "",
            plain=f"{best.throughput / plain:.2f}" if best is not None and math.isfinite(plain) else "",
            status=self._status(name, record),
            at=started.at,
        )

    def _status(self, name: str, record: StudyRecord) -> str:
        if record.finished is not None:
            return record.finished.status
        return "running" if self.project.runs.alive(name) else "lost"

    # --- Reading.

    def _stamped(self, names: Sequence[str]) -> list[tuple[str, tuple[int, bool]]]:
        """Each name with the size of its journal, and whether it runs; those without a journal are left out."""
        stamps = [(name, journal_stamp(self.project.runs, name)) for name in names]
        return [(name, stamp) for name, stamp in stamps if stamp[0] >= 0]

    def _read_study(self, name: str) -> Iterator[StudyRecord | None]:
        yield read_study(self.project.runs.folder(name))

    def _read_samples(self, name: str) -> Iterator[tuple[Sampled, ...] | None]:
        from hooke.planning.curves import sampled  # SciPy takes half a second

        events: list[Event] = []
        with SegmentReader(self.project.runs.folder(name) / f"{DRIVER}{SUFFIX}") as reader:
            for event in reader:
                events.append(event)
                if len(events) % LOOK_EVERY == 0:
                    yield None
        yield tuple(sampled(events))

    def _sampled(self, *first: str) -> tuple[dict[str, tuple[Sampled, ...]], int, int]:
        """What the newest runs that have ended measured, those of `first` before them; how many are not read yet, and how many are too large."""
        from hooke.planning.curves import MOST_RUNS  # SciPy takes half a second

        names = [
            each for each in self.project.runs.names() if not each.startswith((STUDY_PREFIX, SEARCH_PREFIX))
        ]
        wanted = self._stamped([*dict.fromkeys([*first, *names[:MOST_RUNS]])])
        small = [(name, stamp) for name, stamp in wanted if stamp[0] <= LARGE_BYTES]
        ended = [(name, stamp) for name, stamp in small if not stamp[1]]
        found, left = self._samples.known(ended, READ_S)
        return found, left, len(wanted) - len(small)

    # --- A law.

    async def _law(self, server: PageServer, request: Request) -> Response:
        name, task = server.named(request.path_params["run"]), request.query_params.get("task", "")
        return HTMLResponse(await run_in_threadpool(self._page, server, name, task))

    def _page(self, server: PageServer, name: str, task: str) -> str:
        began = time.monotonic()
        view = self._study_view(name) if name.startswith(STUDY_PREFIX) else self._run_view(name, task)
        page = server.page("law.html", law=view, task=task)
        self._took[name] = time.monotonic() - began
        return page

    async def _law_events(self, server: PageServer, request: Request) -> Response:
        name = server.named(request.path_params["run"])

        def state() -> object:
            if name.startswith(STUDY_PREFIX):
                return self._stamped([name])
            samples, left, _ = self._sampled(name)
            return len(samples), left

        return changed_events(request, state, lambda: SHARE * self._took.get(name, 0.0))

    def _study_view(self, name: str) -> LawView:
        records, _ = self._studies.known(self._stamped([name]), READ_S)
        record = records.get(name)
        if record is None:
            raise HTTPException(404, f"{name} has measured nothing yet, or cannot be read: hooke show {name}")
        stamp = len(record.measured), len(record.plain), self._status(name, record)
        return self._fresh(name, "", stamp, lambda: _of_study(name, record, stamp[2]))

    def _run_view(self, name: str, task: str) -> LawView:
        from hooke.planning.curves import chosen_task  # SciPy takes half a second

        samples, left, _ = self._sampled(name)
        own = samples.get(name)
        large = journal_stamp(self.project.runs, name)[0] > LARGE_BYTES
        if own is None and (large or not left):
            why = "its journal is large" if large else "it still runs or cannot be read"
            raise HTTPException(404, f"no law of {name} is shown here, as {why}: hooke curve {name}")
        if own is None:
            return LawView(name=name, run=name, command=f"hooke curve {name}", reading=left)
        try:
            chosen = chosen_task(own, name, task)
        except HookeError as unknown:
            raise HTTPException(404, unknown.what) from unknown
        stamp = tuple(samples), left
        return self._fresh(name, task, stamp, lambda: _of_run(chosen, samples, left))

    def _fresh(self, name: str, task: str, stamp: object, make: Any) -> LawView:
        """The view that was made for this stamp before, or another one."""
        known = self._kept.get((name, task))
        if known is not None and known[0] == stamp:
            return known[1]
        made: LawView = make()
        self._kept[name, task] = stamp, made
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return made


# --- Tasks of runs.


def _tasks_of(samples: dict[str, tuple[Sampled, ...]]) -> list[ListedLaw]:
    """The kinds of work that runs did, those measured at the most N first; `address` is of the newest run that did it."""
    from hooke.planning.curves import comparability_key  # SciPy takes half a second

    groups: dict[Any, list[tuple[str, ThroughputRow]]] = {}
    for run, tasks in samples.items():
        for each in tasks:
            for row in each.rows:
                groups.setdefault((each.task, comparability_key(row)), []).append((run, row))
    found: list[ListedLaw] = []
    for (task, kind), rows in groups.items():
        run, newest = rows[0]
        levels = sorted({row.n for _, row in rows})
        runs = len({name for name, _ in rows})
        found.append(
            ListedLaw(
                address=f"/laws/{quote(run)}?{urlencode({'task': task})}",
                name=run,
                what=f"{task}({kind.text})",
                levels=f"{_numbers(levels)} workers",
                status=_counted(runs, "run"),
                at=newest.began_at,
            )
        )
    return sorted(found, key=lambda each: (-each.levels.count(","), -each.at))


def _of_run(own: Sampled, samples: dict[str, tuple[Sampled, ...]], left: int) -> LawView:
    from hooke.charts.curve_picture import number  # SciPy takes half a second
    from hooke.planning.curves import comparable_rows, curve_among

    others = [
        row
        for name, tasks in samples.items()
        for each in tasks
        for row in each.rows
        if name != own.run and each.task == own.task
    ]
    rows = comparable_rows(own, others)
    view = LawView(
        name=f"{own.task} in {own.run}",
        heading=("from what ordinary runs measured that did the same work",),
        run=own.run,
        command=f"hooke curve {own.run} {own.task}",
        unit=own.unit,
        measured=tuple(
            MeasuredRow(
                n=str(row.n), sort=row.n, work=number(row.items), seconds=row.seconds, rate=number(row.rate),
                cores="", at=row.began_at, run=row.run,
            )
            for row in sorted(rows, key=lambda row: (row.n, row.began_at))[:MOST_ROWS]
        ),
        left_out=max(len(rows) - MOST_ROWS, 0),
        reading=left,
    )  # fmt: skip
    try:
        return _with_curve(view, curve_among(own, others), said=True)
    except HookeError as refusal:
        return replace(view, refused=refusal)


# --- Studies.


def _of_study(name: str, record: StudyRecord, status: str) -> LawView:
    from hooke.measuring.study_report import heading_of, sentences_of, table_of  # SciPy takes half a second
    from hooke.planning.curves import study_curve

    started = record.started
    columns, rows = table_of(record) if record.measured else ((), ())
    view = LawView(
        name=name,
        heading=tuple(line.strip() for line in heading_of(record)),
        run=name,
        command=f"hooke show {name}",
        unit=started.unit,
        columns=tuple(columns),
        rows=tuple(rows),
        sentences=tuple(sentences_of(record)) if record.measured else (),
        measured=_measured(record)[:MOST_ROWS],
        loads=tuple(_load(each) for each in record.loads[:MOST_ROWS]),
        left_out=max(len(record.measured) + len(record.plain) - MOST_ROWS, 0),
        status=status,
    )
    try:
        return _with_curve(view, study_curve(record), said=False)
    except HookeError as refusal:
        return replace(view, refused=refusal)


def _measured(record: StudyRecord) -> tuple[MeasuredRow, ...]:
    """All measurements in the order in which they were taken; those of plain calls have N 0."""
    from hooke.charts.curve_picture import number  # NumPy

    taken = [(each.n, each) for each in record.measured] + [(0, each) for each in record.plain]
    return tuple(
        MeasuredRow(
            n=str(n) if n else "plain", sort=n, work=number(each.work), seconds=each.seconds, rate=number(each.work / each.seconds),
            cores=f"{each.cpu_s / each.seconds:.2f}" if each.cpu_s else "", at=each.at,
        )
        for n, each in sorted(taken, key=lambda each: each[1].at)
    )  # fmt: skip


def _load(load: LoadMeasured) -> tuple[str, ...]:
    """The service, its SLO, the rate that kept it and the one that broke it, and what it used at the former."""
    threads = f", {_counted(load.threads, 'thread')} each" if load.threads else ""
    return (
        f"{_counted(load.replicas, 'replica')}{threads}",
        f"p{load.slo_percent:g} < {format_seconds(load.slo_limit_s)}",
        f"{load.rate:,.4g}/s",
        "" if load.breaks_at is None else f"{load.breaks_at:,.4g}/s",
        f"{load.cores:.2f}" if load.cores else "",
        format_bytes(load.rss) if load.rss else "",
    )


# --- Both.


def _with_curve(view: LawView, curve: Curve, *, said: bool) -> LawView:
    """The view with the law; if `said`, with the sentences of its picture too, else with its notes alone."""
    from hooke.charts.curve_picture import law_name, number  # NumPy
    from hooke.charts.curve_sheet import curve_panels

    picture, law = curve.picture(), curve.law
    kept = {law.family, *(each.family for each in law.alternatives)}
    families = tuple(
        (
            law_name(each.family),
            f"{100 * each.scatter:.2g} %",
            f"{each.akaike:.3g}" if math.isfinite(each.akaike) else "",
            "chosen"
            if each.family == law.family
            else "not ruled out"
            if each.family in kept
            else "ruled out",
        )
        for each in law.comparison
    )
    write = functools.partial(number, digits=3)
    notes = picture.notes if said else curve.notes
    return replace(
        view,
        panels=tuple(curve_panels(picture)),
        caption=picture.caption,
        family=picture.law_text,
        level=law.level,
        parameters=tuple(
            (f"{symbol}: {law.fitted.family.symbols.get(symbol, 'throughput of one')}", each.shown(write))
            for symbol, each in law.parameters.items()
        ),
        families=families,
        sentences=(*view.sentences, *(("", note) for note in notes)),
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _pairs(shown: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _numbers(levels: Sequence[int]) -> str:
    return ", ".join(map(str, levels))
