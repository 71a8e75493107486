"""`/searches`: searches with their best trial; of one, its trials as lines and in a table, what matters, and the best so far, live."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hooke.base.errors import HookeError
from hooke.journal.study_records import SEARCH_PREFIX
from hooke.pages.run_index import journal_stamp
from hooke.pages.server import READ_S, SHARE, PageServer, changed_events
from hooke.project.folder import Project
from hooke.searching.search_result import LEAST_TRIALS, Search, Trial

__all__ = ["SearchPages"]

MOST_SEARCHES = 200
"""Of the list: the newest ones."""
MOST_TRIALS = 500
"""Of the table and the lines: the best ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRow:
    """A search in the list; `trouble` says why it cannot be read, or that it was not read yet."""

    name: str
    status: str = ""
    objective: str = ""
    started_at: float = 0.0
    counts: dict[str, int]
    best: Trial | None = None
    trouble: str = ""


class SearchPages:
    """Each search is read again when its journal has grown."""

    title = "Searches"
    address = "/searches"

    def __init__(self, project: Project) -> None:
        self._project = project
        self._rows: dict[str, tuple[object, SearchRow]] = {}
        self._took: dict[str, float] = {}

    def routes(self, server: PageServer) -> list[Route]:
        """The list and a search, each with its events."""

        async def searches(_: Request) -> Response:
            def page() -> str:
                began = time.monotonic()
                made = server.page("searches.html", **self._list())
                server.took[self.address] = time.monotonic() - began
                return made

            return HTMLResponse(await run_in_threadpool(page))

        async def search(request: Request) -> Response:
            name = self._named(request)

            def page() -> str:
                began = time.monotonic()
                made = server.page("search.html", **self._values(name))
                self._took[name] = time.monotonic() - began
                return made

            return HTMLResponse(await run_in_threadpool(page))

        async def searches_events(request: Request) -> Response:
            return changed_events(request, self._state, lambda: server.pause(self.address))

        async def search_events(request: Request) -> Response:
            name = self._named(request)
            return changed_events(
                request,
                lambda: journal_stamp(self._project.runs, name),
                lambda: max(SHARE * self._took.get(name, 0.0), 0.5),
            )

        return [
            Route("/searches", searches),
            Route("/searches/events", searches_events),
            Route("/searches/{search}", search),
            Route("/searches/{search}/events", search_events),
        ]

    def _names(self) -> list[str]:
        return [name for name in self._project.runs.names() if name.startswith(SEARCH_PREFIX)]

    def _named(self, request: Request) -> str:
        name: str = request.path_params["search"]
        if name not in self._names():
            raise HTTPException(404, f"there is no search {name}")
        return name

    def _state(self) -> object:
        names, runs = self._names(), self._project.runs
        return len(names), len(self._rows), [journal_stamp(runs, name) for name in names[:MOST_SEARCHES]]

    def _list(self) -> dict[str, Any]:
        names, deadline = self._names(), time.monotonic() + READ_S
        rows = [self._row(name, late=time.monotonic() > deadline) for name in names[:MOST_SEARCHES]]
        return {"rows": rows, "more": max(len(names) - MOST_SEARCHES, 0)}

    def _row(self, name: str, *, late: bool) -> SearchRow:
        stamp = journal_stamp(self._project.runs, name)
        known = self._rows.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        if late:
            return SearchRow(name=name, status="not read yet", counts={})
        try:
            found = Search(self._project, name)
            row = SearchRow(
                name=name,
                status=found.status,
                objective=found.objective,
                started_at=found.started_at,
                counts=found.counts(),
                best=next((trial for trial in found.ranked() if trial.value is not None), None),
            )
        except (HookeError, OSError) as error:
            what = error.what if isinstance(error, HookeError) else str(error)
            row = SearchRow(name=name, status="unreadable", counts={}, trouble=what)
        self._rows[name] = stamp, row
        return row

    def _values(self, name: str) -> dict[str, Any]:
        from hooke.charts.inline_svg import parallel_svg, steps_plot  # NumPy

        found = Search(self._project, name)
        ranked, facts = found.ranked(), found.facts()
        ended = [trial for trial in ranked if trial.value is not None]
        shown = ended[:MOST_TRIALS]
        curves = found.history_curves()
        sources = [trace.source for trace in curves.traces]
        columns = found.parallel_columns(shown)
        lines = parallel_svg(
            columns,
            [_told(trial) for trial in shown],
            name="Each finished trial through its parameters and its value",
            best=0,
            downwards=facts["direction"] == "minimize",
        )
        return {
            "found": found,
            "facts": facts,
            "counts": found.counts(),
            "best": ended[0] if ended else None,
            "failed": next((trial for trial in ranked if trial.status == "failed"), None),
            "lines": lines if shown else "",
            "plot": steps_plot(curves, sources=sources, steps="trial") if ended else None,
            "sources": sources,
            "importance": found.importance(),
            "least": LEAST_TRIALS,
            "ended": len(ended),
            "trials": ranked[:MOST_TRIALS],
            "numeric": {column.name for column in columns if column.is_numeric},
            "more": max(len(ranked) - MOST_TRIALS, 0),
        }


def _told(trial: Trial) -> str:
    given = ", ".join(f"{name}={value}" for name, value in trial.params.items())
    return f"trial {trial.number}: {trial.value:.6g}, {given}"
