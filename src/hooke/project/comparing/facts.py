"""What is known of one run when runs are compared: its row, and what it logged, by owner (the run itself, or a task) and name."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hooke.journal.attempts import AttemptFacts, AttemptsView
from hooke.journal.reader import read
from hooke.journal.runs import RunsFolder
from hooke.journal.task_view import TaskRow
from hooke.journal.view import RunRow, RunView
from hooke.project.comparing.folded import Owned, Spread, folded_in

__all__ = ["Facts", "Name", "facts_of", "text_of"]


class Name(NamedTuple):
    """Of what a task logged, or (`task` empty) the run itself."""

    task: str
    name: str

    def __str__(self) -> str:
        return f"{self.task}.{self.name}" if self.task else self.name


@dataclass(slots=True, kw_only=True)
class Facts:
    """A run at one moment. A parameter or a tag has several values where items, or several calls of a task, gave it different ones.

    Of attempts at the same items one counts: that which finished, else the last.
    """

    run: str
    row: RunRow
    tasks: list[TaskRow] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    """Part of the code -> digest."""
    params: dict[Name, tuple[str, ...]] = field(default_factory=dict)
    tags: dict[Name, tuple[str, ...]] = field(default_factory=dict)
    metrics: dict[Name, Spread] = field(default_factory=dict)
    artifacts: dict[Name, list[tuple[Path, int]]] = field(default_factory=dict)
    """File and size in bytes; several where several items kept one of this name."""
    counted: dict[tuple[int | None, int | None], str] = field(default_factory=dict)
    """(attempt, item) -> task, of the attempts that count."""


def facts_of(runs: RunsFolder, run: str, *, of_key: str = "") -> Facts:
    """The run as it is now; with `of_key` only what attempts at the node of that key logged. Raises JournalError."""
    folder = runs.folder(run)
    view, attempts = RunView(), AttemptsView()
    owned = folded_in(folder).owned
    for segment in read(folder, "driver"):
        for event in segment.events:
            view.apply(event)
            if owned:
                attempts.apply(event)
    view.driver_alive(runs.alive(run), runs.last_written(run))
    now = time.time()
    code = {name: digest for node in view.nodes.values() for name, digest in node.planned.code.items()}
    facts = Facts(run=run, row=view.row(now), tasks=view.rows(now), code=code)
    given = view.begun.parameters or view.begun.shown if view.begun is not None else {}
    facts.params = {Name("", name): (text_of(value),) for name, value in given.items()}
    if of_key:
        keys = {attempt: known.key for attempt, known in attempts.attempts.items()}
        owned = [each for each in owned if each.attempt is not None and keys.get(each.attempt) == of_key]
    for each in _counting(owned, attempts.attempts):
        _take(facts, each, attempts.attempts, folder)
    return facts


def text_of(shown: str) -> str:
    """A parameter as it would be typed: `'forest'` is the text forest."""
    quoted = len(shown) > 1 and shown[0] == shown[-1] and shown[0] in "'\""
    return shown[1:-1] if quoted and shown[0] not in shown[1:-1] and "\\" not in shown else shown


def _counting(owned: list[Owned], attempts: dict[int, AttemptFacts]) -> list[Owned]:
    best: dict[object, Owned] = {}
    rank: dict[object, tuple[bool, int]] = {}
    for each in owned:
        known = attempts.get(each.attempt) if each.attempt is not None else None
        key = (known.node, known.task, each.item) if known is not None else (each.attempt, each.item)
        this = (known is not None and known.status == "finished", each.attempt or 0)
        if key not in rank or this > rank[key]:
            rank[key], best[key] = this, each
    return sorted(best.values(), key=lambda each: (each.attempt or 0, -1 if each.item is None else each.item))


def _take(facts: Facts, owned: Owned, attempts: dict[int, AttemptFacts], folder: Path) -> None:
    known = attempts.get(owned.attempt) if owned.attempt is not None else None
    unknown = "" if owned.attempt is None else f"attempt {owned.attempt}"
    task = known.task if known is not None else unknown
    facts.counted[owned.attempt, owned.item] = task
    for name, spread in owned.metrics.items():
        before = facts.metrics.get(Name(task, name))
        facts.metrics[Name(task, name)] = spread if before is None else before.joined(spread)
    for notes, found in ((facts.params, owned.params), (facts.tags, owned.tags)):
        for name, (_, value) in found.items():
            # What the run logged itself counts more than what it was called with.
            others = notes.get(Name(task, name), ()) if task else ()
            notes[Name(task, name)] = tuple(dict.fromkeys((*others, value)))
    for path, (_, file, size) in owned.artifacts.items():
        facts.artifacts.setdefault(Name(task, path), []).append((folder / file, size))
