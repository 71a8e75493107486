"""`/compare?run=A&run=B`: runs side by side, as they were ticked in the list of runs."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hooke.base.formats import format_bytes
from hooke.comparing import drawing
from hooke.comparing.facts import RunFacts, facts_of
from hooke.comparing.side_by_side import columns_of, conditions_of, letters, sections_of
from hooke.journal.segments import segment_files
from hooke.pages.server import PageServer
from hooke.project.folder import Project
from hooke.running.run_page import RunCosts

__all__ = ["ComparePages"]

MOST_RUNS = 12
"""More columns, and more colors, cannot be told apart."""
MOST_BYTES = 16 << 20
"""Of the runs' journals together: reading so much takes some seconds."""
MOST_ARTIFACTS = 1 << 28
"""Bytes of artifacts, which are read where their sizes are equal."""
MOST_ROWS = 500
"""Of each table."""
MOST_AXES = 12
LEAST_LINES = 3
"""Two lines in parallel coordinates say less than the tables."""


class ComparePages:
    """Its link is the button in the list of runs."""

    title = ""
    address = "/compare"

    def __init__(self, project: Project) -> None:
        self._project = project
        self._costs = RunCosts(project)

    def routes(self, server: PageServer) -> list[Route]:
        """One page."""

        async def compare(request: Request) -> Response:
            asked = list(dict.fromkeys(request.query_params.getlist("run")))
            if len(asked) > MOST_RUNS:
                raise HTTPException(400, f"{len(asked)} runs do not fit on a page; tick {MOST_RUNS} at most")
            runs = [server.named(run) for run in asked]
            return HTMLResponse(
                await run_in_threadpool(lambda: server.page("compare.html", **self._values(runs)))
            )

        return [Route(self.address, compare)]

    def _values(self, names: list[str]) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys(("runs", "plots", "sections"), ())
        values |= {"costs": {}, "lines": "", "left_out": 0, "no_artifacts": 0, "most": MOST_ROWS}
        if len(names) < 2:
            return values
        size = sum(
            file.stat().st_size for run in names for file in segment_files(self._project.runs.folder(run))
        )
        if size > MOST_BYTES:
            raise HTTPException(
                400,
                f"the journals of these runs have {format_bytes(size)}, too much to read for a page: "
                f"hooke compare {' '.join(names)}",
            )
        runs = [facts_of(self._project.runs, name) for name in names]
        kept = sum(size for each in runs for files in each.artifacts.values() for _, size in files)
        read = kept <= MOST_ARTIFACTS
        parameters, metrics, *others = sections_of(runs, artifacts=read)
        sections = [parameters, metrics, conditions_of(runs), *others]
        labels = letters(len(runs))
        values["runs"] = list(zip(labels, (each.row for each in runs), strict=True))
        values["costs"] = self._costs(each.row for each in runs)
        values["sections"] = [(each.title, list(each.rows(len(runs)))) for each in sections]
        values["no_artifacts"] = 0 if read else kept
        return values | self._figures(runs, labels, columns_of(sections))

    def _figures(self, runs: list[RunFacts], labels: list[str], differing: tuple[str, ...]) -> dict[str, Any]:
        """Curves of metrics with several values; and from three runs on a line for each through what differs."""
        from hooke.charts.inline_svg import parallel_svg, steps_plot  # NumPy

        made: dict[str, Any] = {}
        if drawing.has_curves(runs):
            panels, made["left_out"] = drawing.panels(self._project.runs, runs, labels, ())
            sources = [f"{letter}  {each.run}" for letter, each in zip(labels, runs, strict=True)]
            plots = [steps_plot(panel, sources=sources) for panel in panels]
            made["plots"] = [each for each in plots if each is not None]
        if len(runs) >= LEAST_LINES and len(differing) > 1:
            columns = drawing.parallel_columns(runs, differing[:MOST_AXES])
            told = [f"{letter}: {each.run}" for letter, each in zip(labels, runs, strict=True)]
            made["lines"] = parallel_svg(columns, told, name="The runs through what differs between them")
        return made
