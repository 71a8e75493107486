"""`/models`: registered models; of one, its versions, and of each where it comes from: the run, its data and its code."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hooke.base.errors import JournalError, UsageError
from hooke.base.formats import without_password
from hooke.models import registry_protocol as protocol
from hooke.pages.run_report import ReportedCode
from hooke.pages.server import READ_S, PageServer, changed_events
from hooke.project.folder import Project
from hooke.registry.loaded_models import models_of, registry_of, registry_uri

__all__ = ["ModelPages"]

MOST_MODELS = 200
MOST_VERSIONS = 100
MOST_LINEAGES = 10
"""Versions of which the page says where they come from: the newest ones, and those with an alias."""
MOST_CODE = 50
FACTS = ("commit", "branch", "data files", "host", "environment", "Python", "Hooke")
"""Of a run's environment, those that say what a model is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """A version. `run` is the run that made it, if that is in this project; `key` its key in trackers."""

    number: int
    aliases: tuple[str, ...]
    metrics: dict[str, float]
    format: str
    size: int | None
    created_at: float
    key: str
    run: str
    digest: str
    trusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLineage:
    """Where a version comes from: what made it, in which run, of which data and code."""

    version: VersionRow
    pipeline: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    code: tuple[ReportedCode, ...] = ()
    more_code: int = 0
    reading: bool = False
    """Whether the run's journal is long, and was not read to its end yet."""
    trouble: str = ""


class ModelPages:
    """The registry is asked each time; what made a version is read from its run's journal."""

    title = "Models"
    address = "/models"

    def __init__(self, project: Project) -> None:
        self._project = project

    def routes(self, server: PageServer) -> list[Route]:
        """The list, a model, and its events while a journal is read."""

        async def models(_: Request) -> Response:
            return HTMLResponse(await run_in_threadpool(lambda: server.page("models.html", **self._list())))

        async def model(request: Request) -> Response:
            name = request.path_params["model"]
            return HTMLResponse(
                await run_in_threadpool(lambda: server.page("model.html", **self._values(server, name)))
            )

        async def model_events(request: Request) -> Response:
            name = request.path_params["model"]
            await run_in_threadpool(lambda: self._versions(server, name))
            return changed_events(request, time.monotonic, lambda: 2 * READ_S)

        return [
            Route("/models", models),
            Route("/models/{model}", model),
            Route("/models/{model}/events", model_events),
        ]

    def _list(self) -> dict[str, Any]:
        registry = registry_of(self._project)
        names = registry.names()
        rows = [(name, registry.versions(name)) for name in names[:MOST_MODELS]]
        more = max(len(names) - MOST_MODELS, 0)
        return {"rows": rows, "more": more, "place": without_password(registry_uri(self._project))}

    def _versions(self, server: PageServer, name: str) -> list[VersionRow]:
        """The versions, the newest first. Raises HTTPException for a model that is not registered, HookeError without an answer."""
        try:
            protocol.check_name(name)
        except UsageError as error:
            raise HTTPException(404, f"no model is called {name}") from error
        versions = registry_of(self._project).versions(name)
        if not versions:
            raise HTTPException(404, f"no model is called {name}")
        known = models_of(self._project).known
        return [self._row(server, each, trusted=each.digest in known) for each in versions]

    def _row(self, server: PageServer, version: protocol.RegisteredVersion, *, trusted: bool) -> VersionRow:
        size, key = version.tags.get(protocol.SIZE, ""), version.tags.get(protocol.RUN, "")
        run = key.partition("/")[0]
        return VersionRow(
            number=version.number,
            aliases=version.aliases,
            metrics=version.metrics,
            format=version.tags.get(protocol.FORMAT, "not Hooke's"),
            size=int(size) if size.isdecimal() else None,
            created_at=version.created_at,
            key=key or version.mlflow_run,
            run=run if server.index.has(run) else "",
            digest=version.digest,
            trusted=trusted,
        )

    def _values(self, server: PageServer, name: str) -> dict[str, Any]:
        versions = self._versions(server, name)
        chosen = [each for number, each in enumerate(versions) if number == 0 or each.aliases]
        lineages = [self._lineage(server, each) for each in chosen[:MOST_LINEAGES]]
        return {
            "name": name,
            "versions": versions[:MOST_VERSIONS],
            "more": max(len(versions) - MOST_VERSIONS, 0),
            "lineages": lineages,
            "reading": any(each.reading for each in lineages),
        }

    def _lineage(self, server: PageServer, version: VersionRow) -> ModelLineage:
        if not version.run:
            return ModelLineage(version=version)
        try:
            report = server.report(version.run)
        except JournalError as error:
            return ModelLineage(version=version, trouble=error.what)
        known = dict(report.environment)
        return ModelLineage(
            version=version,
            pipeline=report.row.pipeline,
            parameters=tuple(report.parameters),
            facts=tuple((name, known[name]) for name in FACTS if name in known),
            code=tuple(report.code[:MOST_CODE]),
            more_code=max(len(report.code) - MOST_CODE, 0),
            reading=bool(report.reading),
        )
