"""The subjects of `hooke ui`, in the order of their links."""

from __future__ import annotations

from hooke.cli.ui.compare import ComparePages
from hooke.cli.ui.fleets import FleetPages
from hooke.cli.ui.law import LawPages
from hooke.cli.ui.models import ModelPages
from hooke.cli.ui.plan import PlanPages
from hooke.cli.ui.searches import SearchPages
from hooke.cli.ui.service import ServicePages
from hooke.cli.ui.store import StorePages
from hooke.pages.server import SubjectPages
from hooke.project.folder import Project

__all__ = ["subjects_of"]


def subjects_of(project: Project) -> tuple[SubjectPages, ...]:
    """Those that the project has pages for."""
    return (
        ComparePages(project),
        LawPages(project),
        PlanPages(project),
        ServicePages(project),
        SearchPages(project),
        ModelPages(project),
        StorePages(project),
        FleetPages(project),
    )
