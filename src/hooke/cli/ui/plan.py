"""Plans: predicted time and cost of each configuration, and the runs that followed."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hooke.base.formats import format_seconds
from hooke.journal.events import PlanChecked, PlanMade, PlannedRow
from hooke.journal.reader import SegmentReader
from hooke.journal.run_folders import DRIVER
from hooke.journal.segments import SUFFIX
from hooke.pages.run_index import PartReader, journal_stamp
from hooke.pages.server import READ_S, PageServer, changed_events
from hooke.project.folder import Project

if TYPE_CHECKING:
    from hooke.charts.sheet import PagePanel

__all__ = ["PlanPages"]

LOOK_EVERY = 500
"""Events of a journal between two looks at the clock."""
MOST_FOLLOWED = 20
"""Runs that followed a plan, of which its page has the tasks."""
ROOM = 1.05
"""The bars of predicted and actual times end so much beyond the longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPlan:
    """A plan in the list. `outcome` is that of the newest run that followed it."""

    plan: str
    what: str
    at: float
    recommended: str
    seconds: str = ""
    usd: str = ""
    run: str = ""
    outcome: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationRow:
    """A predicted configuration, as text."""

    configuration: str
    workers: int
    seconds: str
    sort_s: float
    usd: str
    sort_usd: float
    front: bool
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRow:
    """A predicted time against the measured one, in all or of a task. `bar` has the low end, the prediction, the high end and the measured one, in percent of the bar."""

    name: str
    ran: str
    predicted: str
    took: str
    verdict: str
    bar: tuple[float, float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedPlan:
    """A run that followed the plan; the first row is the whole run."""

    run: str
    configuration: str
    rows: tuple[CheckedRow, ...]


class PlanPages:
    """The pages of the plans that the project keeps."""

    title = "Plans"
    address = "/plans"

    def __init__(self, project: Project) -> None:
        self.project = project
        self._plans: PartReader[PlanMade] = PartReader(self._read_plan)
        self._checks: PartReader[PlanChecked] = PartReader(self._read_check)

    def routes(self, server: PageServer) -> list[Route]:
        """The list, a plan, and the events of both: more runs were read."""
        return [
            Route("/plans", functools.partial(self._list, server)),
            Route("/plans/events", self._events),
            Route("/plans/{plan}", functools.partial(self._plan, server)),
        ]

    async def _list(self, server: PageServer, _: Request) -> Response:
        def page() -> str:
            plans, unread = self._made()
            checks, left = self._checked(plans)
            rows = [_listed(made, checks) for made in plans]
            return server.page("plans.html", plans=rows, reading=left, unread=unread)

        return HTMLResponse(await run_in_threadpool(page))

    async def _events(self, request: Request) -> Response:
        def state() -> object:
            plans, unread = self._made()
            checks, left = self._checked(plans)
            return len(plans), unread, len(checks), left

        return changed_events(request, state, lambda: 1.0)

    async def _plan(self, server: PageServer, request: Request) -> Response:
        name = request.path_params["plan"]

        def page() -> str:
            made = self._made_first(name)
            checks, left = self._checked([made])
            followed = {run: check for run, check in checks.items() if check.plan == made.plan}
            shown = dict(list(followed.items())[:MOST_FOLLOWED])
            return server.page(
                "plan.html",
                made=made,
                panel=_panel(made, followed),
                rows=[_row(made, each) for each in made.rows],
                followed=[_followed(run, check) for run, check in shown.items()],
                more=len(followed) - len(shown),
                reading=left,
            )

        return HTMLResponse(await run_in_threadpool(page))

    # --- Reading.

    def _made(self) -> tuple[list[PlanMade], int]:
        """All plans, the newest first; those that cannot be read are left out. And how many are not read yet. A plan does not change."""
        found, left = self._plans.known([(name, 0) for name in self.project.plans.names()], READ_S)
        return list(found.values()), left

    def _made_first(self, name: str) -> PlanMade:
        """One plan, before all others are read. Raises HTTPException."""
        if name not in self.project.plans.names():
            raise HTTPException(404, f"there is no plan {name}")
        found, _ = self._plans.known([(name, 0)], math.inf)
        if name not in found:
            raise HTTPException(404, f"the plan {name} cannot be read")
        return found[name]

    def _read_plan(self, name: str) -> Iterator[PlanMade | None]:
        yield self.project.plans.read(name)

    def _checked(self, plans: Sequence[PlanMade]) -> tuple[dict[str, PlanChecked], int]:
        """The comparison of each run that followed a plan, the newest first; and how many runs are not read yet."""
        oldest: dict[str, list[str]] = {}
        for made in plans:  # the newest first
            oldest[made.pipeline] = made.plan.rsplit("-", 3)[1:3]
        wanted: list[tuple[str, tuple[int, bool]]] = []
        for name in self.project.runs.names():
            pipeline, *when = name.rsplit("-", 3)
            if pipeline not in oldest or when[:2] < oldest[pipeline]:
                continue
            stamp = journal_stamp(self.project.runs, name)
            if stamp[0] >= 0:
                wanted.append((name, stamp))
        return self._checks.known(wanted, READ_S)

    def _read_check(self, run: str) -> Iterator[PlanChecked | None]:
        """A run ends with its comparison, so all of its journal is passed. One that still runs has none; when it ends, it is asked again."""
        if self.project.runs.alive(run):
            return
        checked: PlanChecked | None = None
        with SegmentReader(self.project.runs.folder(run) / f"{DRIVER}{SUFFIX}") as reader:
            for number, event in enumerate(reader, 1):
                if isinstance(event, PlanChecked):
                    checked = event
                if number % LOOK_EVERY == 0:
                    yield None
        yield checked


def _what(made: PlanMade) -> str:
    shown = ", ".join(f"{name}={value}" for name, value in made.shown.items())
    times = "".join(f", {factor:g} times the items of {task}" for task, factor in made.times.items())
    return (
        f"{made.pipeline}({shown}){'' if made.scale is None else f', {made.scale:g} times the data'}{times}"
    )


def _listed(made: PlanMade, checks: dict[str, PlanChecked]) -> ListedPlan:
    from hooke.planning.prediction import against  # SciPy takes half a second

    row = next((each for each in made.rows if each.configuration == made.recommended), None)
    run, check = next(((run, check) for run, check in checks.items() if check.plan == made.plan), ("", None))
    _, took, verdict = against(check.predicted_s, check.seconds) if check is not None else ("", "", "")
    return ListedPlan(
        plan=made.plan,
        what=_what(made),
        at=made.at,
        recommended=made.recommended,
        seconds=_seconds(row.seconds) if row is not None else "",
        usd=_usd(row) if row is not None else "",
        run=run,
        outcome=f"{took} on {check.configuration}: {verdict}" if check is not None else "",
    )


def _front(made: PlanMade) -> set[str]:
    """The configurations that no other beats in both time and cost."""
    fastest, kept = float("inf"), set[str]()
    priced = [
        (each.usd[1], each.seconds[1], each.configuration) for each in made.rows if each.usd is not None
    ]
    for _, seconds, configuration in sorted(priced):
        if seconds < fastest:
            fastest = seconds
            kept.add(configuration)
    return kept


def _row(made: PlanMade, row: PlannedRow) -> ConfigurationRow:
    return ConfigurationRow(
        configuration=row.configuration,
        workers=row.workers,
        seconds=_seconds(row.seconds),
        sort_s=row.seconds[1],
        usd=_usd(row),
        sort_usd=-1.0 if row.usd is None else row.usd[1],
        front=row.configuration in _front(made),
        chosen=row.configuration == made.recommended,
    )


def _seconds(ends: tuple[float, float, float]) -> str:
    low, value, high = map(format_seconds, ends)
    return f"{value} ({low} to {high})"


def _usd(row: PlannedRow) -> str:
    if row.usd is None:
        return "unknown"
    low, value, high = (f"${each:,.2f}" if each >= 0.995 else f"${each:.2g}" for each in row.usd)
    return f"{value} ({low} to {high})" if row.usd[2] else "nothing"


def _panel(made: PlanMade, followed: dict[str, PlanChecked]) -> PagePanel | None:
    """The chart; None if no price is known."""
    from hooke.charts.plan_chart import PlannedPoint, PlanPicture, plan_panel  # NumPy

    front = _front(made)
    points = tuple(
        PlannedPoint(
            seconds=row.seconds,
            usd=row.usd,
            front=row.configuration in front,
            chosen=row.configuration == made.recommended,
            text=f"{row.configuration}: {_seconds(row.seconds)}, cost: {_usd(row)}",
        )
        for row in made.rows
        if row.usd is not None
    )
    costs = {row.configuration: row.usd[1] for row in made.rows if row.usd is not None}
    taken = tuple(
        (
            check.seconds,
            costs.get(check.configuration, 0.0),
            f"{run} on {check.configuration}: took {format_seconds(check.seconds)}, predicted {_seconds(check.predicted_s)}",
        )
        for run, check in followed.items()
    )
    return plan_panel(PlanPicture(title=made.plan, points=points, taken=taken)) if points else None


def _followed(run: str, check: PlanChecked) -> FollowedPlan:
    tasks = [
        (each.task, _ran(each.ran, each.planned), each.predicted_s, each.seconds) for each in check.tasks
    ]
    every = [("the whole run", "", check.predicted_s, check.seconds), *tasks]
    return FollowedPlan(
        run=run, configuration=check.configuration, rows=tuple(_against(*each) for each in every)
    )


def _ran(ran: int, planned: int | None) -> str:
    return f"{ran:,}" if planned == ran else f"{ran:,}, planned {'?' if planned is None else f'{planned:,}'}"


def _against(name: str, ran: str, predicted: tuple[float, float, float] | None, seconds: float) -> CheckedRow:
    from hooke.planning.prediction import against  # SciPy takes half a second

    said, took, verdict = against(predicted, seconds)
    bar = None
    if predicted is not None:
        whole = ROOM * max(*predicted, seconds, 1e-9) / 100
        low, value, high = (round(each / whole, 2) for each in predicted)
        bar = low, value, high, round(seconds / whole, 2)
    return CheckedRow(name=name, ran=ran, predicted=said, took=took, verdict=verdict, bar=bar)
