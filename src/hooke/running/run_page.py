"""The page of a run with what needs more than its journal: why its tasks ran, and what its machines cost."""

from __future__ import annotations

import time
from importlib.util import find_spec

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra, UsageError
from hooke.fleets.elastic import LedgerMeter
from hooke.machines.keeper import has_ledger
from hooke.pages.run_report import RunFollower
from hooke.project.folder import Project
from hooke.running.why import why

__all__ = ["cost_text", "run_html_file", "task_causes"]

MOST_NODES = 2000
"""Of a run that is compared with earlier ones: each look costs a millisecond for ten nodes."""
MOST_BYTES = 4 << 20
"""Of the journal of an earlier run to compare with: reading it takes a tenth of a second."""
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


def cost_text(project: Project, run: str) -> str:
    """What its machines have cost, as text; empty for a run whose ledger has no price, or that has none."""
    meter = LedgerMeter(project.runs, run) if has_ledger(project.runs.folder(run)) else None
    return f"${meter.usd(time.time()):.4g}" if meter is not None and meter.priced else ""
