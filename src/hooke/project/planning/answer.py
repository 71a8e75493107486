"""What a plan says, as values: how it is shown, and what keeps it, read these."""

from __future__ import annotations

from dataclasses import dataclass

from hooke.scaling.catalog import Catalog
from hooke.scaling.pareto import Advice, front
from hooke.scaling.planning import Row
from hooke.scaling.workload import Untimed

__all__ = ["Answer", "TaskShare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskShare:
    """A task in a plan: of its items and calls `left` are to be done (None: not known before it runs), `cached` are not.

    `untimed` says why no total counts it; it is empty for those that are counted.
    """

    task: str
    left: int | None
    cached: int
    untimed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was predicted.

    `rows` are all configurations considered, `tasks` in the order of the graph, `untimed` those that no row counts,
    `notes` what the prediction rests on, `next` the command to type.
    """

    title: str
    rows: tuple[Row, ...]
    advice: Advice
    tasks: tuple[TaskShare, ...]
    untimed: tuple[Untimed, ...]
    catalogs: tuple[Catalog, ...]
    notes: tuple[str, ...]
    next: str

    @property
    def front(self) -> list[Row]:
        """The rows that no other beats in time without costing more, nor in money without taking longer; the cheapest first."""
        return front(self.rows)

    @property
    def main_rows(self) -> list[Row]:
        """This machine's rows, and of the others those of the front."""
        kept = self.front
        return [row for row in self.rows if row.configuration.is_local or any(row is each for each in kept)]

    @property
    def recommended(self) -> Row | None:
        """The row to take; None where none can be named."""
        return self.advice.row

    @property
    def reason(self) -> str:
        """Why that row, or why none, in a sentence."""
        return self.advice.reason
