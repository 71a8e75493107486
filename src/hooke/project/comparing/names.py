"""Which thing somebody means by a name, in several runs at once.

What a task logged is `task.name`. The name alone is enough where only one task, or only the run itself, logged it in all the runs that are
looked at; where the run itself and tasks did, it is the run's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from hooke.base.errors import UsageError
from hooke.project.comparing.facts import Facts, Name

__all__ = ["WHICH", "Names", "is_system", "near"]

WHICH = ("last", "min", "max")
"""Of a metric; `auc` is `auc.last`."""


class Names:
    """The names of one group (`params`, `tags`, `metrics`, `artifacts`) in these runs."""

    def __init__(self, group: str, runs: Iterable[Facts]) -> None:
        self.group = group
        self._tasks: dict[str, dict[str, None]] = {}
        for facts in runs:
            for task, name in getattr(facts, group):
                self._tasks.setdefault(name, {})[task] = None

    def all(self) -> list[Name]:
        """Every one, those of the run itself first."""
        found = [Name(task, name) for name, tasks in self._tasks.items() for task in tasks]
        return sorted(found, key=lambda each: (bool(each.task), each.task, each.name))

    def shown(self, name: Name) -> str:
        """As short as `find` finds it again."""
        return name.name if list(self._tasks[name.name]) == [name.task] else str(name)

    def find(self, text: str) -> Name:
        """What is meant. Raises UsageError for what no run has, with names like it, and for a name of several tasks."""
        tasks = self._tasks.get(text)
        if tasks is not None and ("" in tasks or len(tasks) == 1):
            return Name("" if "" in tasks else next(iter(tasks)), text)
        for task, name in _splits(text):
            if task in self._tasks.get(name, {}):
                return Name(task, name)
        if tasks is not None:
            raise UsageError(
                f"several tasks logged {text!r} among {self.group}",
                mend=f"name one: {', '.join(f'{task}.{text}' for task in tasks)}",
            )
        raise near(text, [self.shown(name) for name in self.all()], f"no run here has {self.group}.{text}")

    def metric(self, text: str) -> tuple[Name, str]:
        """A metric and one of WHICH: `auc`, `auc.max`, `fit.auc.min`. Raises as `find` does."""
        stem, _, which = text.rpartition(".")
        try:
            return self.find(text), "last"
        except UsageError:
            if which not in WHICH or not stem:
                raise
            return self.find(stem), which


def is_system(name: Name) -> bool:
    """Whether it is a sample of the machine, which nobody logged."""
    return name.name.startswith("system/")


def near(text: str, valid: Sequence[str], what: str) -> UsageError:
    """The error for a name that is not there."""
    alike = get_close_matches(text, valid, n=5, cutoff=0.5)
    listed = [name for name in valid if not name.startswith("system/")][:20]
    if alike:
        mend = f"did you mean {' or '.join(alike)}?"
    else:
        mend = f"valid: {', '.join(listed)}" if listed else "nothing of that kind was logged in these runs"
    return UsageError(what, mend=mend)


def _splits(text: str) -> Iterable[tuple[str, str]]:
    """Each way to read `a.b.c` as a task and a name: both may hold dots."""
    at = text.find(".")
    while at > 0:
        yield text[:at], text[at + 1 :]
        at = text.find(".", at + 1)
