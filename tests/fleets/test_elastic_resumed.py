"""What a run that is taken up again has spent."""

import pytest

from hooke.fleets.elastic import ORPHANS_S, LedgerMeter, spent_usd
from hooke.journal.events import RunStarted
from hooke.journal.fleet_events import FleetDecided, LaunchIntended
from hooke.journal.run_folders import RunsFolder
from hooke.journal.writer import Journal
from hooke.machines.keeper import Ledger


def started(at: float) -> RunStarted:
    return RunStarted(at=at, run="r", pipeline="p", entry="f.py:p")


def decided(at: float, after: int, usd: float) -> FleetDecided:
    return FleetDecided(at=at, before=1, after=after, workers=1, reason="", spent_usd=usd)


def spent(events, signs=(), least=1) -> float:
    return spent_usd(events, signs, least=least, usd_per_hour=3600.0)


def test_a_driver_that_died_before_it_decided_anything_has_spent_all_the_same():
    assert spent([started(100.0)], [130.0]) == pytest.approx(30)
    assert spent([started(100.0)], [130.0], least=4) == pytest.approx(120)


def test_what_was_decided_is_paid_until_the_last_sign_of_life():
    assert spent([started(0.0), decided(10.0, 4, 10.0)], [15.0]) == pytest.approx(10 + 4 * 5)


def test_the_time_between_two_drivers_is_not_paid():
    events = [started(0.0), decided(10.0, 4, 10.0), started(5000.0)]
    assert spent(events, [15.0, 5007.0]) == pytest.approx(30 + 7)
    later = [*events, decided(5010.0, 2, 40.0)]
    assert spent(later, [15.0, 5020.0]) == pytest.approx(40 + 2 * 10)


def test_a_driver_whose_clock_is_behind_that_of_the_one_before(tmp_path):
    runs = RunsFolder(tmp_path)
    folder = runs.create("r")
    with Journal.create(folder, "driver") as journal:
        for at in (1000.0, 400.0):
            journal.append(started(at))
    with Ledger.open(folder) as ledger:
        ledger.write(LaunchIntended(at=1000.0, token="r-1", reason="", usd_per_hour=3600.0))
    assert LedgerMeter(runs, "r").usd(2000.0) == pytest.approx(ORPHANS_S)
