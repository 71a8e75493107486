"""`hooke.runs()` and `hooke.compare()`: a project's runs as a list, filtered and sorted by parameters, tags and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, overload

from hooke.base.errors import UsageError
from hooke.base.table import Tabular
from hooke.comparing.facts import Name, RunFacts, facts_of
from hooke.comparing.query import NameGroup, RunQuery, is_system, number, selected
from hooke.comparing.side_by_side import Comparison
from hooke.project.folder import Project, start_of
from hooke.running.run import Run

__all__ = ["Runs", "compare", "runs"]


def runs(
    pipeline: str = "",
    *,
    where: str | Sequence[str] = (),
    sort: str = "",
    limit: int | None = None,
    project: str | Path | None = None,
) -> Runs:
    """The runs of a project, the newest first.

    `where` are conditions, all of which must hold: `params.depth>6`, `tags.team=ours`, `metrics.auc.max>=0.9`, `status=finished`;
    each may join several: `status in (failed, lost) and (params.depth>6 or tags.team=ours)`.
    `sort` is a metric (`auc`, `-auc` for descending order, `auc.min`), `params.NAME`, `tags.NAME`, `started`, `took`, `status` or
    `pipeline`; `limit` applies last. `project` is a file or folder of the project; by default the script's.

    Raises UsageError for an invalid condition, and for a name or a status that no run has, with similar names; JournalError for a
    damaged journal.
    """
    query = RunQuery.of(where, sort)
    if limit is not None and limit < 0:
        raise UsageError(f"limit={limit} is not valid", fix="give a number of runs, or None for all")
    found = _project(project)
    facts = [facts_of(found.runs, name) for name in found.runs.names()]
    if pipeline:
        facts = [each for each in facts if each.row.pipeline == pipeline]
    return Runs(found, selected(facts, query)[:limit])


def compare(*runs: Run | str, project: str | Path | None = None) -> Comparison:
    """Compare two or more runs, each a `Run`, its id or a prefix of its id. `print` it, or show it in a notebook.

    Raises UsageError for an unknown run, and for fewer than two; JournalError for a damaged journal.
    """
    found = _project(project)
    named = [found.runs.find(run) if isinstance(run, str) else run.id for run in runs]
    if not project and runs and isinstance(runs[0], Run):
        found = runs[0].project
    return Comparison(found.runs, [facts_of(found.runs, name) for name in named])


class Runs(Sequence[Run], Tabular):
    """Runs, as they were when they were listed. A slice is also a `Runs`."""

    def __init__(self, project: Project, facts: Sequence[RunFacts]) -> None:
        self.project = project
        self._facts = list(facts)

    def __len__(self) -> int:
        return len(self._facts)

    @overload
    def __getitem__(self, at: int) -> Run: ...
    @overload
    def __getitem__(self, at: slice) -> Runs: ...
    def __getitem__(self, at: int | slice) -> Run | Runs:
        if isinstance(at, slice):
            return Runs(self.project, self._facts[at])
        return Run(self.project, self._facts[at].run)

    def __repr__(self) -> str:
        named = ", ".join(each.run for each in self._facts[:3])
        more = f" and {len(self) - 3} more" if len(self) > 3 else ""
        return f"<{len(self)} runs: {named}{more}>" if self._facts else "<no runs>"

    def columns(self) -> dict[str, list[Any]]:
        """Column -> one value per run: `run`, `pipeline`, `status`, `started`, `seconds`, `params.*`, `metrics.*` and `tags.*`.

        `started` is a datetime in UTC. Metrics are the last values, with `metrics.NAME.min` and `.max` if a run
        logged several. A parameter is a number if it is one in every run, and None if a run lacks it. System metrics
        (`system/...`) are left out. Names are as short as `hooke runs --metric` accepts.
        """
        rows = [each.row for each in self._facts]
        made: dict[str, list[Any]] = {
            "run": [each.run for each in self._facts],
            "pipeline": [row.pipeline for row in rows],
            "status": [row.status for row in rows],
            "started": [datetime.fromtimestamp(row.started_at, UTC) if row.run else None for row in rows],
            "seconds": [row.seconds for row in rows],
        }
        made |= self._notes("params")
        names = NameGroup("metrics", self._facts)
        for name in names.all():
            if not is_system(name):
                made |= self._metric(name, f"metrics.{names.shown(name)}")
        return made | self._notes("tags")

    def compare(self) -> Comparison:
        """Compare these runs. Raises UsageError if there are fewer than two."""
        return Comparison(self.project.runs, self._facts)

    def _metric(self, name: Name, label: str) -> dict[str, list[Any]]:
        spreads = [each.metrics.get(name) for each in self._facts]
        several = any(spread is not None and spread.count > 1 for spread in spreads)
        kinds = {"last": "", "min": ".min", "max": ".max"} if several else {"last": ""}
        return {
            f"{label}{ending}": [None if spread is None else spread.value(which) for spread in spreads]
            for which, ending in kinds.items()
        }

    def _notes(self, group: str) -> dict[str, list[Any]]:
        names = NameGroup(group, self._facts)
        made = {}
        for name in names.all():
            found = [getattr(each, group).get(name) for each in self._facts]
            texts = [None if values is None else ", ".join(values) for values in found]
            made[f"{group}.{names.shown(name)}"] = _numbers(texts) if group == "params" else texts
        return made


def _project(project: str | Path | None) -> Project:
    if project is None:
        return Project.find(start_of())
    if not Path(project).exists():
        raise UsageError(f"project={str(project)!r}: no such file or folder")
    return Project.named(Path(project))


def _numbers(texts: Sequence[str | None]) -> list[Any]:
    """The texts as numbers if all of them are numbers; whole numbers if all are whole."""
    known = [text for text in texts if text is not None]
    kinds: tuple[Callable[[str], Any], ...] = (int, float)
    for kind in kinds:
        try:
            numbers = [kind(text) for text in known]
        except ValueError:
            continue
        taken = iter(numbers)
        if all(number(text) is not None for text in known):
            return [None if text is None else next(taken) for text in texts]
    return list(texts)
