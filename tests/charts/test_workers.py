"""A run's workers against what could have used them."""

import numpy as np
import pytest

from hooke.base.errors import UsageError
from hooke.base.ref import Ref
from hooke.charts.fleet_chart import FleetPicture, SizeChange, fleet_sheet
from hooke.charts.sheet import Area, Dot, Label, Stroke
from hooke.fleets.fleet_picture import fleet_picture, save_fleet
from hooke.journal.events import (
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    NodePlanned,
    RunFinished,
    RunStarted,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.fleet_events import FleetDecided

REF = Ref(digest="0" * 64, size=1)


def story():
    """Four items on one worker, then two, then one."""
    yield RunStarted(at=100.0, run="r", pipeline="naps", entry="naps.py:naps")
    yield NodePlanned(at=100.0, node=0, task="nap", key="k", kind="map", items=4)
    yield CapacityChanged(at=100.0, slots=1, cpus=2.0)
    yield WorkerStarted(at=101.0, worker="w1")
    yield AttemptStarted(at=101.0, attempt=1, node=0, lo=0, hi=1, worker="w1")
    yield FleetDecided(at=102.0, before=1, after=2, reason="1 -> 2: four items are left")
    yield WorkerStarted(at=103.0, worker="w2")
    yield AttemptStarted(at=103.0, attempt=2, node=0, lo=1, hi=2, worker="w2")
    for attempt, lo, at in ((1, 0, 104.0), (2, 1, 105.0)):
        yield AttemptFinished(at=at, attempt=attempt, node=0, lo=lo, hi=lo + 1, ref=REF, worker=f"w{attempt}")
    yield FleetDecided(at=106.0, before=2, after=1, reason="2 -> 1: nothing comes")
    yield WorkerStopped(at=106.5, worker="w2", cause="the fleet was made smaller")
    yield RunFinished(at=110.0, status="stopped")


def at(picture, second, values):
    return values[np.searchsorted(picture.moments, second, side="right") - 1]


def test_a_picture_has_demand_workers_and_decisions_at_their_times():
    picture = fleet_picture(list(story()))
    assert [at(picture, second, picture.could) for second in (0.5, 3.5, 4.5, 9)] == [4, 4, 3, 2]
    assert [at(picture, second, picture.ready) for second in (0.5, 2, 3.5, 9)] == [0, 1, 2, 1]
    assert [at(picture, second, picture.wanted) for second in (0.5, 2, 5, 9)] == [1, 2, 2, 1]
    assert [(change.at, change.after) for change in picture.changes] == [(2.0, 2), (6.0, 1)]
    assert picture.end == 10.0


def test_its_sheet_tells_all_of_it():
    sheet = fleet_sheet(fleet_picture(list(story())))
    words = " ".join(thing.text for thing in sheet.items if isinstance(thing, Label))
    assert "1 at 2 s: 1 -> 2: four items are left" in " ".join(words.split())
    assert "up to 4" in words
    assert {thing.kind for thing in sheet.items if isinstance(thing, Area)} == {"demand", "ready"}
    assert sum(isinstance(thing, Dot) for thing in sheet.items) == 2
    assert {"ready", "wanted"} <= {thing.kind for thing in sheet.items if isinstance(thing, Stroke)}


def test_a_great_demand_is_cut_off_and_many_decisions_are_counted():
    changes = tuple(SizeChange(at=float(n), before=n, after=n + 1, text=f"reason {n}") for n in range(40))
    one = np.ones(1)
    sheet = fleet_sheet(
        FleetPicture(
            title="t", moments=0 * one, end=50.0, could=1e6 * one, ready=one, wanted=one,
            changes=changes, caption="from a test",
        )
    )  # fmt: skip
    words = [thing.text for thing in sheet.items if isinstance(thing, Label)]
    assert "up to 1,000,000" in words
    assert "from a test; 24 earlier changes are not listed" in words
    demand = next(thing for thing in sheet.items if isinstance(thing, Area) and thing.kind == "demand")
    assert demand.top.min() >= 0


def test_what_cannot_be_drawn_is_refused(tmp_path):
    fixed = [event for event in story() if not isinstance(event, FleetDecided)]
    for events, path in ((fixed, "f.svg"), (list(story()), "f.pdf"), (list(story()), "no/f.svg")):
        with pytest.raises(UsageError):
            save_fleet(events, tmp_path / path)
    save_fleet(list(story()), tmp_path / "f.svg")
    assert "nothing comes" in (tmp_path / "f.svg").read_text()
