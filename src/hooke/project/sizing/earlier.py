"""What earlier studies and runs of the project tell of a run's tasks, read beside the run that asks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hooke.base.errors import NotEnoughData
from hooke.journal.runs import RunsFolder
from hooke.pipeline.graph import Graph
from hooke.pipeline.node_keys import GraphKeys
from hooke.project.sizing.elastic import Told

if TYPE_CHECKING:  # SciPy takes a third of a second
    from hooke.project.planning.timings import Timed
    from hooke.scaling.law import Law
    from hooke.scaling.timing import Timing

__all__ = ["Earlier", "Where"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Whose laws hold: those of a pipeline's `entry` (file and name) that were measured at `place`."""

    entry: str
    place: str


class Earlier:
    """Read in a thread: SciPy and a folder of journals take a second, for which no run need wait."""

    def __init__(self, runs: RunsFolder, graph: Graph, keys: GraphKeys, *, where: Where, most: int) -> None:
        """Laws are those of the same file and place, up to `most` workers."""
        self._found: dict[str, Told] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._read, args=(runs, graph, keys, where, most), name="hooke-earlier", daemon=True
        )
        self._thread.start()

    def told(self) -> Mapping[str, Told] | None:
        """Task -> what is known of it; None while that is still being read.

        Raises what reading raised.
        """
        if self._thread.is_alive():
            return None
        if self._error is not None:
            raise self._error
        return self._found

    def _read(self, runs: RunsFolder, graph: Graph, keys: GraphKeys, where: Where, most: int) -> None:
        try:
            self._found = _told(runs, graph, keys, where, most)
        except BaseException as error:  # noqa: BLE001 - the run that asks is told
            self._error = error


def _told(runs: RunsFolder, graph: Graph, keys: GraphKeys, where: Where, most: int) -> dict[str, Told]:
    from hooke.project.planning.known import Past
    from hooke.project.planning.laws import law_of, levels_of, rows_of
    from hooke.project.planning.work import Left

    past = Past.read(runs, pipeline=graph.pipeline, host=socket.gethostname())
    if not past.is_here:
        return {}
    here = _kind(where.place)
    rows = [row for row in rows_of(past.runs) if _kind(row.place) == here]
    studies = {
        task: each
        for task, each in past.studies.items()
        if _kind(each.started.place) == here and each.started.entry == where.entry
    }
    found: dict[str, Told] = {}
    for node in graph.nodes:
        task = node.task.name
        if task not in found:
            code = {part.name: part.digest for part in keys[node.id].code.parts}
            left = Left(node=node, items=None, reads=0, code=code, constants={})
            law = law_of(levels_of(left, studies.get(task), past.runs, rows)).law
            timings = next((own for run in past.runs if (own := _timings(run.timed, task, code))), [])
            found[task] = _of(law, timings, most)
    return found


def _kind(place: str) -> str:
    """How many workers a place has is no part of what it is: `local:8` is `local`."""
    name, _, count = place.rpartition(":")
    return name if name and count.isdigit() and "/" not in name else place


def _timings(timed: Sequence[Timed], task: str, code: Mapping[str, str]) -> list[Timing]:
    return [each.timing for each in timed if each.task == task and each.code == code and each.timing.items]


def _of(law: Law | None, timings: Sequence[Timing], most: int) -> Told:
    from hooke.fleet.laws import scaling_of

    try:
        scaling = scaling_of(law, most) if law is not None else None
    except NotEnoughData:  # it says nothing of one worker, so nothing of several
        scaling = None
    items = sum(each.items for each in timings)
    if not items:
        return Told(scaling=scaling)
    mean = sum(each.items * each.seconds for each in timings) / items
    spread = max(each.spread for each in timings) * mean
    return Told(scaling=scaling, seconds=mean, spread=spread, measured=items)
