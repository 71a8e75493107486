"""`/fleets`: the project's fleets with their machines, prices, costs and ledgers, as their ledgers say: no provider is asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hooke.base.errors import HookeError
from hooke.fleets.fleet_folder import FleetFolder, fleets_of, line_of
from hooke.journal.fleet_events import LaunchIntended, LedgerRecord
from hooke.journal.segments import SUFFIX
from hooke.machines.controller import FleetState, MachinePhase, restored
from hooke.machines.keeper import LEDGER, cost_usd
from hooke.pages.server import PageServer, changed_events
from hooke.project.folder import Project

__all__ = ["FleetPages"]

MOST_EVENTS = 500
"""Of the ledger: the last ones."""
TICK_S = 5.0
"""How often the cost of machines that go on is told anew."""
CLUSTER_S = 10.0
"""How often the ledger of a keeper in a cluster is asked for."""


PHASES = {
    MachinePhase.ORDERED: "asked for",
    MachinePhase.STARTING: "starting or up",
    MachinePhase.READY: "up",
    MachinePhase.RETIRING: "finishing",
    MachinePhase.RELEASING: "ending",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMachine:
    """A machine that may cost money now."""

    name: str
    phase: str
    since: float
    usd_per_hour: float
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRow:
    """A fleet at one moment. `trouble` says why its ledger or price cannot be read."""

    name: str
    provider: str
    price: float = 0.0
    wanted: int = 0
    machines: tuple[FleetMachine, ...] = ()
    usd: float = 0.0
    kept_by: str = ""
    """What keeps it at its size; empty if nothing does."""
    forgotten: bool = False
    """Whether nobody ends its machines any more."""
    records: Sequence[LedgerRecord] = ()
    trouble: str = ""

    @property
    def there(self) -> int:
        """How many machines are known to be there; the others were asked for, or are ending."""
        return sum(
            each.phase in (PHASES[MachinePhase.STARTING], PHASES[MachinePhase.READY])
            for each in self.machines
        )

    @property
    def usd_per_hour(self) -> float:
        """What its machines cost together."""
        return sum(each.usd_per_hour for each in self.machines)


class FleetPages:
    """The list, and each fleet. A ledger in a cluster is asked for every ten seconds."""

    title = "Fleets"
    address = "/fleets"

    def __init__(self, project: Project) -> None:
        self._project = project
        self._asked: dict[str, tuple[float, list[LedgerRecord]]] = {}

    def routes(self, server: PageServer) -> list[Route]:
        """The list and a fleet, each with its events."""

        async def fleets(_: Request) -> Response:
            def page() -> str:
                began = time.monotonic()
                made = server.page("fleets.html", rows=[self._row(each) for each in fleets_of(self._project)])
                server.took[self.address] = time.monotonic() - began
                return made

            return HTMLResponse(await run_in_threadpool(page))

        async def fleet(request: Request) -> Response:
            name = request.path_params["fleet"]

            def page() -> str:
                chosen = self._found(name)
                row = self._row(chosen)
                events = [(each.at, line_of(each)) for each in row.records[-MOST_EVENTS:]][::-1]
                more = max(len(row.records) - MOST_EVENTS, 0)
                return server.page("fleet.html", row=row, events=events, more=more, limits=_limits(chosen))

            return HTMLResponse(await run_in_threadpool(page))

        async def fleets_events(request: Request) -> Response:
            return changed_events(
                request,
                lambda: [self._stamp(each) for each in fleets_of(self._project)],
                lambda: server.pause(self.address),
            )

        async def fleet_events(request: Request) -> Response:
            name = request.path_params["fleet"]
            await run_in_threadpool(lambda: self._found(name))
            return changed_events(request, lambda: self._stamp(self._found(name)), lambda: 0.5)

        return [
            Route("/fleets", fleets),
            Route("/fleets-events", fleets_events),
            Route("/fleets/{fleet}", fleet),
            Route("/fleets/{fleet}/events", fleet_events),
        ]

    def _found(self, name: str) -> FleetFolder:
        for each in fleets_of(self._project):
            if each.name == name:
                return each
        raise HTTPException(404, f"there is no fleet {name}")

    def _stamp(self, chosen: FleetFolder) -> object:
        """Differs when the ledger has grown, a keeper has come or gone, and now and then: what machines cost grows with time."""
        file = chosen.path / f"{LEDGER}{SUFFIX}"
        size = file.stat().st_size if file.exists() else 0
        return size, chosen.kept_by, int(time.time() / TICK_S)

    def _row(self, chosen: FleetFolder) -> FleetRow:
        now, name, provider = time.time(), chosen.name, chosen.settings.provider
        try:
            records, price = self._records(chosen), chosen.usd_per_hour
        except (HookeError, OSError) as error:
            return FleetRow(name=name, provider=provider, trouble=str(error))
        state = restored(name, records)
        return FleetRow(
            name=name,
            provider=provider,
            price=price,
            wanted=state.wanted,
            machines=_machines(state, records, now),
            usd=cost_usd(records, [(0.0, now)]),
            kept_by=chosen.kept_by,
            forgotten=chosen.up_was_killed,
            records=records,
        )

    def _records(self, chosen: FleetFolder) -> list[LedgerRecord]:
        if not chosen.detached:
            return chosen.records()
        known = self._asked.get(chosen.name)
        if known is None or time.monotonic() > known[0] + CLUSTER_S:
            known = self._asked[chosen.name] = time.monotonic(), chosen.records()
        return known[1]


def _machines(state: FleetState, records: Sequence[LedgerRecord], now: float) -> tuple[FleetMachine, ...]:
    prices = {each.token: each.usd_per_hour for each in records if isinstance(each, LaunchIntended)}
    return tuple(
        FleetMachine(
            name=member.id or member.token,
            phase=PHASES[member.phase],
            since=member.asked_at,
            usd_per_hour=prices.get(member.token, 0.0),
            usd=prices.get(member.token, 0.0) * max(now - member.asked_at, 0.0) / 3600,
        )
        for member in state.members.values()
    )


def _limits(chosen: FleetFolder) -> dict[str, Any]:
    settings = chosen.settings
    limits = {
        "machines at most": str(settings.machines),
        "dollars an hour at most": f"{settings.max_usd_per_hour:.4g}" if settings.max_usd_per_hour else "",
        "life of a machine": settings.lifetime,
    }
    return {name: text for name, text in limits.items() if text}
