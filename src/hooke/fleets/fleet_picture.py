"""A run's workers against what could have used them, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hooke.base.errors import UsageError
from hooke.charts.fleet_chart import FleetPicture, SizeChange, fleet_sheet
from hooke.charts.renderers import png_of, save_as, svg_of
from hooke.charts.sheet import Sheet
from hooke.journal.events import Event, RunFinished, RunStarted
from hooke.journal.fleet_events import FleetDecided
from hooke.journal.occupancy import demand_of

__all__ = ["fleet_picture", "save_fleet"]


def fleet_picture(events: Sequence[Event]) -> FleetPicture:
    """The workers of one run against the demand. Raises UsageError where nothing was decided in it."""
    begun = next((event for event in events if isinstance(event, RunStarted)), None)
    decided = [event for event in events if isinstance(event, FleetDecided)]
    if begun is None or not decided:
        raise UsageError(
            "this run had a fixed number of workers, so there is nothing to draw",
            fix="pass a range: --workers 1-8",
        )
    demand = demand_of(events)
    moments = np.array(sorted({each.at for each in (*demand, *decided)}))
    at = np.searchsorted([each.at for each in demand], moments, side="right") - 1
    chosen = np.searchsorted([each.at for each in decided], moments, side="right")
    sizes = np.array([decided[0].before, *(each.after for each in decided)])
    end = max(event.at for event in events if isinstance(event, RunFinished | FleetDecided))
    changes = [
        SizeChange(at=each.at - begun.at, before=each.before, after=each.after, text=each.reason)
        for each in decided
    ]
    return FleetPicture(
        title=f"{begun.pipeline}: workers and demand",
        moments=moments - begun.at,
        end=end - begun.at,
        could=np.array([float(each.could) for each in demand])[at],
        ready=np.array([float(each.workers) for each in demand])[at],
        wanted=sizes[chosen].astype(float),
        changes=tuple(changes),
        caption=f"from the journal of {begun.run}",
    )


def save_fleet(events: Sequence[Event], path: Path) -> None:
    """Write `.svg` or `.png`, as the path ends.

    Raises UsageError for another ending, a missing folder or a run of fixed size; MissingExtra for `.png` without Pillow;
    OSError.
    """

    def sheet() -> Sheet:
        return fleet_sheet(fleet_picture(events))

    save_as(path, "a run's workers", {".svg": lambda: svg_of(sheet()), ".png": lambda: png_of(sheet())})
