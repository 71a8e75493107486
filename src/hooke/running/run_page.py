"""The page of a run with what needs more than its journal: why its tasks ran, and what its machines cost."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable
from importlib.util import find_spec

from hooke.base.distributions import install_command
from hooke.base.errors import JournalError, MissingExtra, UsageError
from hooke.fleets.elastic import run_meter
from hooke.journal.events import RunStarted
from hooke.journal.reader import first_event
from hooke.journal.run_folders import DRIVER
from hooke.journal.run_view import RunRow
from hooke.journal.segments import SUFFIX
from hooke.machines.keeper import has_ledger
from hooke.pages.run_report import RunFollower
from hooke.project.folder import Project
from hooke.running.why import why

__all__ = ["MOST_BYTES", "RunCosts", "cost_text", "run_html_file", "task_causes"]

MOST_NODES = 2000
"""Of a run that is compared with earlier ones: each look costs a millisecond for ten nodes."""
MOST_BYTES = 4 << 20
"""Of a journal that is read while a page waits: that takes a tenth of a second."""
COSTS_S = 0.2
"""How long a request for a list looks for costs; the next one goes on from there."""
MOST_CAUSES = 3
"""For one task."""


def run_html_file(project: Project, run: str) -> str:
    """The page as one file. Raises MissingExtra without Jinja2, JournalError as a reader does, UsageError for a run without a journal."""
    if find_spec("jinja2") is None:
        raise MissingExtra(
            "the page of a run is made by Jinja2, which is not installed",
            fix=f"{install_command('ui')}; without it: hooke show {run}",
        )
    from hooke.pages.rendering import report_file  # Jinja2 is not needed to run anything

    follower = RunFollower(project.runs, run)
    try:
        if not follower.read() and not follower.view.run:
            raise UsageError(f"run {run} has no journal", where=str(follower.folder), next="hooke runs")
        causes = task_causes(project, run) if len(follower.view.nodes) <= MOST_NODES else {}
        return report_file(follower.report(time.time(), cost=cost_text(project, run), causes=causes))
    finally:
        follower.close()


def task_causes(project: Project, run: str) -> dict[str, str]:
    """Why each task ran that did not come from the cache: what differs from the newest earlier run that had it."""
    found: dict[str, dict[str, None]] = {}
    for each in why(project.runs, run, most_bytes=MOST_BYTES):
        for cause in each.causes:
            found.setdefault(each.task, {})[cause.text] = None
    return {
        task: "; ".join([*texts][:MOST_CAUSES]) + ("; and more" if len(texts) > MOST_CAUSES else "")
        for task, texts in found.items()
    }


def cost_text(project: Project, run: str, *, most_bytes: float = math.inf) -> str:
    """What its machines, or those of the fleet that it ran on, have cost, as text; empty for a run whose ledger has no price, or that has none.

    The whole journal is read for it; of one with more than `most_bytes` the text names the command that does so.
    """
    folder = project.runs.folder(run)
    file = folder / f"{DRIVER}{SUFFIX}"
    if file.is_file() and file.stat().st_size > most_bytes:
        begun = first_event(folder, DRIVER)
        place = begun.place if isinstance(begun, RunStarted) else ""
        return f"cost: hooke show {run}" if has_ledger(folder) or place in _rented(project) else ""
    meter = run_meter(project, run)
    return f"${meter.usd(time.time()):.4g}" if meter is not None else ""


def _rented(project: Project) -> set[str]:
    """The places whose machines a fleet has."""
    return {name for name, each in project.settings.places.items() if each.fleet}


class RunCosts:
    """What the runs of a list have cost, as text; looked up for a fraction of a second at a time, and kept for those that have ended."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._rented = _rented(project)
        self.ended: dict[tuple[str, float], str] = {}
        """Run and its seconds, which are others after it was resumed -> its cost."""

    def __call__(self, rows: Iterable[RunRow]) -> dict[str, str]:
        """Run -> cost, of those that have one and were looked up so far."""
        deadline = time.monotonic() + COSTS_S
        found: dict[str, str] = {}
        for row in rows:
            key = row.run, row.seconds
            text = self.ended.get(key, "")
            if key not in self.ended and self._may_cost(row) and time.monotonic() < deadline:
                with contextlib.suppress(JournalError):  # its row says that it is unreadable
                    text = cost_text(self._project, row.run)
                if row.status != "running":
                    self.ended[key] = text
            if text:
                found[row.run] = text
        return found

    def _may_cost(self, row: RunRow) -> bool:
        """Whether it has a ledger, or ran on a rented fleet; of a large journal the run's page tells."""
        folder = self._project.runs.folder(row.run)
        file = folder / f"{DRIVER}{SUFFIX}"
        priced = row.place in self._rented or has_ledger(folder)
        return priced and file.is_file() and file.stat().st_size <= MOST_BYTES
