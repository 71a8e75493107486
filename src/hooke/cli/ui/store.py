"""`/store`: what the store holds by task, and what an eviction would take. A thread counts, and the page says how far it is."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hooke.base.errors import UsageError
from hooke.base.units import parse_bytes
from hooke.pages.server import SHARE, PageServer, changed_events
from hooke.project.folder import Project
from hooke.store.eviction import EvictionReport, StoreSurvey

__all__ = ["StorePages"]

WAIT_S = 0.3
"""How long a request waits for the count; the page of a large store says how far it is, and fills in."""
AGAIN_S = 5.0
"""A count that failed is made again after so many seconds."""
MOST_KEPT = 4
"""Counts, for as many limits."""
MOST_TASKS = 200
MOST_EVICTED = 20
"""Single results that an eviction would take, as `hooke cache gc` lists them."""


class StorePages:
    """One survey at a time; it is made again when somebody looks, but at most for a twentieth of the time."""

    title = "Store"
    address = "/store"

    def __init__(self, project: Project) -> None:
        self._project = project
        self._lock = threading.Lock()
        self._counts: dict[int | None, StoreCount] = {}
        """Limit -> its last count; the last one of all may be going on."""

    def routes(self, server: PageServer) -> list[Route]:
        """One page, and its events while the store is counted."""

        async def store(request: Request) -> Response:
            asked = request.query_params.get("max", "")
            try:
                most = parse_bytes(asked, name="max") if asked else self._project.settings.store.max_bytes
            except UsageError as error:
                raise HTTPException(400, error.what) from error
            values = await run_in_threadpool(lambda: self._values(most))
            return HTMLResponse(server.page("store.html", asked=asked, **values))

        async def store_events(request: Request) -> Response:
            return changed_events(request, self._state, lambda: 0.5)

        return [Route("/store", store), Route("/store/events", store_events)]

    def _state(self) -> object:
        return [(each.done.is_set(), each.read) for each in list(self._counts.values())]

    def _values(self, most: int | None) -> dict[str, Any]:
        counting = self._count(most)
        counting.done.wait(WAIT_S)
        if counting.error is not None:
            raise counting.error.with_traceback(None)  # each request that raises it would add to it
        made = counting.made if counting.most == most else None
        values: dict[str, Any] = {"made": made, "read": counting.read}
        values |= {
            "at": counting.at,
            "place": counting.place,
            "most_tasks": MOST_TASKS,
            "most_evicted": MOST_EVICTED,
        }
        return values | {"evicted": _by_task(made.eviction) if made is not None and made.eviction else []}

    def _count(self, most: int | None) -> StoreCount:
        """The count down to this limit; or the one that is going on, which has to end before."""
        with self._lock:
            known = self._counts.get(most)
            if known is not None and known.is_current:
                return known
            for each in self._counts.values():
                if not each.done.is_set():
                    return each
            self._counts.pop(most, None)
            made = self._counts[most] = StoreCount(self._project, most)
            while len(self._counts) > MOST_KEPT:
                del self._counts[next(iter(self._counts))]
            return made


class StoreCount:
    """A thread that surveys the store."""

    def __init__(self, project: Project, most: int | None) -> None:
        self.most = most
        self.read = 0
        """Records and names that were read so far."""
        self.place = ""
        self.made: StoreSurvey | None = None
        self.error: Exception | None = None
        self.done = threading.Event()
        self.at = 0.0
        """When it ended, in seconds since the epoch."""
        self._again = 0.0
        threading.Thread(target=self._count, args=(project,), name="store survey", daemon=True).start()

    @property
    def is_current(self) -> bool:
        """Whether it need not be made again: it goes on, or has just ended."""
        return not self.done.is_set() or time.monotonic() < self._again

    def _count(self, project: Project) -> None:
        began = time.monotonic()
        try:
            store = project.store()
            self.place = store.place
            self.made = store.survey(self.most, self._tell)
        except Exception as error:  # noqa: BLE001 - the request that waits raises it
            self.error = error
        finally:
            self.at, ended = time.time(), time.monotonic()
            self._again = ended + (SHARE * (ended - began) if self.error is None else AGAIN_S)
            self.done.set()

    def _tell(self, read: int) -> None:
        self.read = read


def _by_task(report: EvictionReport) -> list[tuple[str, int, int]]:
    """Task, how many of its results would go, and their bytes; the largest first. A result of several tasks counts for each."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for gone in report.evicted:
        for task in gone.tasks or ("",):
            counts[task] += 1
            sizes[task] += gone.size
    return [(task, counts[task], size) for task, size in sizes.most_common(MOST_TASKS)]
