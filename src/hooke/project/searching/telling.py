"""How far a search is, in lines on stderr: none of a short one."""

from __future__ import annotations

import sys
from collections import Counter

from hooke.journal.searches import SearchRecord, TrialRecord
from hooke.project.comparing.where import number

__all__ = ["Telling", "params_line", "short", "standing_line"]

EVERY_S = 5.0


class Telling:
    """A line each five seconds."""

    def __init__(self, trials: int, *, now: float, quiet: bool) -> None:
        """`now` is a monotonic clock's."""
        self._trials = trials
        self._due = now + EVERY_S
        self._quiet = quiet

    def look(self, record: SearchRecord, now: float) -> None:
        """Say it if it is time."""
        if not self._quiet and now >= self._due:
            self._due = now + EVERY_S
            print(standing_line(record, self._trials), file=sys.stderr, flush=True)  # noqa: T201 - it is what it is for


def standing_line(record: SearchRecord, trials: int) -> str:
    """`search-fit-...: 12 of 40 trials, 2 pruned, 1 failed; best 0.93, trial 7: depth=4`."""
    counts = Counter(each.status for each in record.trials.values())
    ended = sum(counts.values()) - counts["running"]
    others = "".join(f", {counts[status]} {status}" for status in ("pruned", "failed") if counts[status])
    best = record.best()
    told = ""
    if best is not None and best.value is not None:
        told = f"; best {best.value:.6g}, trial {best.trial}: {params_line(best)}"
    return f"{record.begun.run}: {ended} of {trials} trials{others}{told}"


def params_line(trial: TrialRecord) -> str:
    """`depth=4, rate=0.0433`."""
    return ", ".join(f"{name}={short(text)}" for name, text in trial.shown.items())


def short(text: str) -> str:
    """Four digits of a number that is not whole, and any other text as it is."""
    found = number(text)
    return f"{found:.4g}" if found is not None and not text.lstrip("-").isdigit() else text
