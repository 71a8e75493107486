"""The server of `hooke ui`: pages and their events, on loopback, for who has the token.

Each request, of any method and to any address, passes the gate first: Host, Origin, then the token in a cookie.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hooke.base.clock import SystemClock
from hooke.base.errors import HookeError
from hooke.base.formats import readable
from hooke.base.this_process import RareCollections
from hooke.journal.run_view import RunRow
from hooke.pages.rendering import TEMPLATES, asset, page_of, report_file
from hooke.pages.run_index import LARGE_BYTES, SORTS, STATUSES, RunIndex, journal_stamp
from hooke.pages.run_report import WORTH_EVENTS, RunFollower, RunReport, keep_report, kept_report

__all__ = ["PageServer", "SubjectPages", "changed_events", "serve_pages"]

READ_S = 0.4
"""How long the first request reads a journal; the page of a longer one says how far it is, and fills in."""
READ_ON_S = 3.0
"""How long the next ones do, while that page is there to look at."""
POLL_S, MOST_POLL_S = 0.25, 1.0
"""Between two looks at what a page follows: the more, the longer a look takes."""
LEAST_S = 0.5
"""Between two changes that a browser is told of."""
SHARE = 50
"""A page is made again no sooner than this many times what making it took: that is 2 % of a core at most."""
MOST_NODES = 2000
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class SubjectPages(Protocol):
    """Pages about one thing beside runs: laws, services, fleets. They only read."""

    @property
    def title(self) -> str:
        """What the link at the top says: "Laws"; empty for no link."""

    @property
    def address(self) -> str:
        """Its first page: "/laws"."""

    def routes(self, server: PageServer) -> list[Route]:
        """Its routes; `server.page` makes their pages, `changed_events` follows what is live."""


class PageServer:
    """The pages of one project. `beside` gives what a run cost and why its tasks ran: (text, task -> text); `costs` what those of a list cost."""

    def __init__(
        self,
        index: RunIndex,
        *,
        name: str,
        beside: Callable[[str, bool], tuple[str, dict[str, str]]],
        costs: Callable[[Sequence[RunRow]], dict[str, str]] = lambda _: {},
        subjects: Sequence[SubjectPages] = (),
    ) -> None:
        self.index = index
        self.name = name
        self.subjects = subjects
        self._beside = beside
        self._costs = costs
        self._priced: set[str] = set()
        """Runs whose cost is known: with more of them, the list has changed."""
        self._known: dict[str, tuple[int, tuple[str, dict[str, str]]]] = {}
        self.took: dict[str, float] = {}
        """Run, or address of a list -> seconds that its page took to make again; the first time of a run it has the whole journal to read."""

    def routes(self) -> list[Route]:
        """All routes; they only read."""
        routes = [
            Route("/", self._first),
            Route("/runs", self._runs),
            Route("/events", self._runs_events),
            Route("/runs/{run}", self._run),
            Route("/runs/{run}/events", self._run_events),
            Route("/runs/{run}/logs", self._logs),
            Route("/runs/{run}/report", self._report),
            Route("/runs/{run}/artifacts/{number:int}", self._artifact),
            Route("/static/{name}", self._static),
        ]
        return routes + [route for subject in self.subjects for route in subject.routes(self)]

    def page(self, template: str, **values: Any) -> str:
        """A page with the links to all subjects at its top."""
        links = [("Runs", "/runs"), *((each.title, each.address) for each in self.subjects if each.title)]
        return page_of(template, inline=False, subjects=links, project=self.name, **values)

    def pause(self, address: str) -> float:
        """Seconds between two changes of a list that a browser is told of."""
        return max(1.0, SHARE * self.took.get(address, 0.0))

    def app(self, *, hosts: frozenset[str], token: str) -> ASGIApp:
        """The routes behind the gate."""
        errors = {HTTPException: self._refused, HookeError: self._unreadable, OSError: self._unreadable}
        return _Gate(Starlette(routes=self.routes(), exception_handlers=errors), hosts=hosts, token=token)

    async def _first(self, _: Request) -> Response:
        return RedirectResponse("/runs", 303)

    async def _static(self, request: Request) -> Response:
        kinds = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
        name = request.path_params["name"]
        if name not in kinds:
            raise HTTPException(404)
        text = asset(name) if name != "icon.svg" else (TEMPLATES / name).read_text("utf-8")
        return Response(text, media_type=kinds[name], headers={"cache-control": "no-cache"})

    async def _runs(self, request: Request) -> Response:
        asked = request.query_params
        query, status, sort = asked.get("q", ""), asked.get("status", ""), asked.get("sort", "newest")
        if status not in STATUSES or sort not in SORTS or not asked.get("page", "1").isdecimal():
            raise HTTPException(400, "this page has no such filter")
        number = int(asked.get("page", "1")[:9])

        def made() -> str:
            began = time.monotonic()
            found = self.index.page(query=query, status=status, sort=sort, page=number)
            costs = self._costs([row for _, row, _ in found.rows if row is not None])
            self._priced.update(costs)
            page = self.page(
                "runs.html",
                query=query,
                status=status,
                sort=sort,
                statuses=STATUSES,
                sorts=SORTS,
                runs=found,
                costs=costs,
                address=functools.partial(_address, asked),
            )
            # A search that goes on does so at once: it ends when it has looked at all runs.
            self.took["/runs"] = 0.0 if found.partial else time.monotonic() - began
            return page

        return HTMLResponse(await run_in_threadpool(made))

    async def _run(self, request: Request) -> Response:
        run = self._named(request)
        return HTMLResponse(await run_in_threadpool(self._run_page, run))

    def _run_page(self, run: str) -> str:
        began = time.monotonic()
        report = self.report(run)
        page = self.page("run.html", report=report, previews={}, links=True)
        self.took[run] = time.monotonic() - began if run in self.took else 0.0
        return page

    async def _report(self, request: Request) -> Response:
        run = self._named(request)
        html = await run_in_threadpool(lambda: report_file(self.report(run, whole=True)))
        return HTMLResponse(html, headers={"content-disposition": _attachment(f"{run}.html")})

    def report(self, run: str, *, whole: bool = False) -> RunReport:
        """What the run's page says; read for a while, unless `whole` is asked for. Raises JournalError."""
        folder = self.index.runs.folder(run)
        kept = kept_report(folder, time.time())
        if kept is not None:
            return kept
        lock, follower = self.index.follower(run)
        with lock:
            follower.read(None if whole else _patience(follower))
            ended = follower.view.ended is not None and not follower.share_left
            known = self._known.get(run)
            if known is None or known[0] != follower.events:
                compare = ended and len(follower.view.nodes) <= MOST_NODES
                known = self._known[run] = follower.events, self._beside(run, compare)
            cost, causes = known[1]
            report = follower.report(time.time(), cost=cost, causes=causes)
        large = follower.events >= WORTH_EVENTS or journal_stamp(self.index.runs, run)[0] > LARGE_BYTES
        if ended and large:
            keep_report(folder, report)
            self.index.forget(run)
        return report

    async def _logs(self, request: Request) -> Response:
        run = self._named(request)

        def page() -> str:
            kept = kept_report(self.index.runs.folder(run), time.time())
            if kept is not None:
                return self.page("logs.html", run=run, logs=kept.logs, follow=False)
            lock, follower = self.index.follower(run)
            with lock:
                follower.read(_patience(follower))
                logs, going = follower.logs(), follower.goes_on
            return self.page("logs.html", run=run, logs=logs, follow=going)

        return HTMLResponse(await run_in_threadpool(page))

    async def _artifact(self, request: Request) -> Response:
        run = self._named(request)

        def find() -> Response:
            lock, follower = self.index.follower(run)
            with lock:
                file = follower.file(request.path_params["number"])
            if file is None or not file.file.is_file():
                raise HTTPException(404)
            how = "inline" if file.kind else "attachment"
            headers = {
                "content-disposition": _attachment(file.name.rpartition("/")[2], how=how),
                "content-security-policy": "default-src 'none'; sandbox",
            }
            return FileResponse(
                file.file, media_type=file.kind or "application/octet-stream", headers=headers
            )

        return await run_in_threadpool(find)

    async def _runs_events(self, request: Request) -> Response:
        return changed_events(
            request, lambda: (self.index.state(), len(self._priced)), lambda: self.pause("/runs")
        )

    async def _run_events(self, request: Request) -> Response:
        run = self._named(request)

        def state() -> object:
            lock, follower = self.index.follower(run)
            with lock:
                follower.read(_patience(follower))
                return follower.events, follower.goes_on, follower.logs_size(), follower.is_behind

        return changed_events(request, state, lambda: SHARE * self.took.get(run, 0.0))

    async def _refused(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._said(error.status_code, error.detail, "The links at the top lead to all that there is.")

    async def _unreadable(self, _: Request, error: Exception) -> Response:
        why = (
            f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else error
        )
        return self._said(500, "What this page shows cannot be read", str(why))

    def _said(self, status: int, what: str, fix: str) -> Response:
        return HTMLResponse(self.page("refused.html", what=what, fix=fix), status)

    def _named(self, request: Request) -> str:
        return self.named(request.path_params["run"])

    def named(self, run: str) -> str:
        """The run, if its journal is here. Raises HTTPException."""
        if not self.index.has(run):
            raise HTTPException(404, f"there is no run {run}")
        if self.index.runs.elsewhere(run) is not None:
            raise HTTPException(404, f"the journal of {run} is in a cluster: hooke show {run}")
        return run


def changed_events(request: Request, state: Callable[[], object], least_s: Callable[[], float]) -> Response:
    """Server-sent events: `changed` whenever `state()` differs, at most once in `least_s()` seconds."""

    async def stream() -> AsyncIterator[str]:
        last: object = None
        while not await request.is_disconnected():
            began = time.monotonic()
            try:
                now = await run_in_threadpool(state)
            except (HookeError, OSError, HTTPException):  # its page says that it cannot be read, or is gone
                return
            pause = max(POLL_S, min(SHARE * (time.monotonic() - began), MOST_POLL_S))
            if now != last:  # also at first: the page may be older than this
                last, pause = now, max(least_s(), LEAST_S)
                yield "event: changed\ndata:\n\n"
            await asyncio.sleep(pause)

    return StreamingResponse(stream(), media_type="text/event-stream")


def _patience(follower: RunFollower) -> float:
    return READ_ON_S if follower.events else READ_S


def _address(asked: QueryParams, page: int) -> str:
    kept = [(key, value) for key, value in asked.items() if key in ("q", "status", "sort") and value]
    return f"/runs?{urlencode([*kept, ('page', str(page))])}"


def _attachment(name: str, *, how: str = "attachment") -> str:
    return f"{how}; filename*=UTF-8''{quote(readable(name), safe='')}"


# --- The gate.


class _Gate:
    """Admits requests to these hosts, from pages of the same origin, with the token in a cookie.

    `/?token=TOKEN` sets the cookie: that is the address that `hooke ui` prints.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], token: str) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refused = self._answer(scope) if scope["type"] == "http" else None

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif refused is not None:
            await refused(scope, receive, sent)
        else:
            await self._app(scope, receive, sent)

    def _answer(self, scope: Scope) -> Response | None:
        """What a request gets that does not pass; None for one that does."""
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _plain(403, "this address is not the server's")
        if len(origins) > 1 or (origins and origins[0] != f"http://{hosts[0]}"):
            return _plain(403, "another page asked for this")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and scope["path"] != "/":
            return _plain(403, "another page asked for this")
        request = Request(scope)
        cookie = f"hooke-{hosts[0].rpartition(':')[2]}"
        given = request.query_params.get("token")
        if scope["path"] == "/" and scope["method"] == "GET" and given is not None and self._is(given):
            answer = RedirectResponse("/runs", 303)
            answer.set_cookie(cookie, given, httponly=True, samesite="strict", path="/")
            return answer
        if not self._is(request.cookies.get(cookie, "")):
            return _plain(401, "the token is missing: open the address that `hooke ui` printed")
        if scope["method"] not in ("GET", "HEAD"):
            return _plain(405, "these pages only read")
        return None

    def _is(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token)


def _plain(status: int, said: str) -> Response:
    return Response(f"{said}\n", status, media_type="text/plain")


def serve_pages(server: PageServer, *, port: int, token: str, ready: Callable[[int], None]) -> None:
    """Serve on 127.0.0.1 until Ctrl-C; `ready` is called with the port. Port 0 takes a free one. Raises OSError for a taken one."""
    import socket

    listening = socket.create_server(("127.0.0.1", port))
    port = listening.getsockname()[1]
    hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))
    settings = uvicorn.Config(
        server.app(hosts=hosts, token=token),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    ready(port)
    with RareCollections(SystemClock()):
        uvicorn.Server(settings).run(sockets=[listening])
