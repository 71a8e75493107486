# ruff: noqa: F401, F811 - fixtures
"""The ranks of a gang on one host, without any library."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import msgspec
import psutil
import pytest
from tests.engines.remote.test_host import host, never, order, pool, told

from hooke.engines.gang import (
    BeginRanks,
    EndRanks,
    PortKept,
    RankAnswered,
    RankRange,
    RanksEnded,
    RanksReady,
    StartRanks,
)
from hooke.engines.remote.host import WorkerHost
from hooke.engines.remote.worker_protocol import AttemptOrder
from hooke.engines.worker.pool import LocalPool
from hooke.journal.events import AttemptFailed, AttemptFinished, WorkerStarted
from hooke.processes.devices import Devices
from hooke.store.store import Store
from hooke.testing import engine_tasks as tasks

pytestmark = pytest.mark.needs("processes")

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def variables(names: tuple[str, ...]) -> list[str]:
    """What a rank is told, and the devices that it sees."""
    return [os.environ[name] for name in (*names, "CUDA_VISIBLE_DEVICES")]


def part(function, *args, lo: int, hi: int, **more) -> AttemptOrder:
    ranks = RankRange(try_id=7, lo=lo, hi=hi, ranks=3)
    return msgspec.structs.replace(order(function, *args), part=ranks, **more)


class Driver:
    """Has a host run a part of a gang, and waits for what it says of it."""

    def __init__(self, there: WorkerHost, notes: list, what: AttemptOrder, given_up=never) -> None:
        self._notes = notes
        self._thread = threading.Thread(target=lambda: there.run(what, given_up=given_up))
        self._thread.start()

    def heard(self, kind, count: int = 1) -> list:
        deadline = time.monotonic() + 60
        while len(found := [note for note in self._notes if isinstance(note, kind)]) < count:
            assert time.monotonic() < deadline, f"{kind} did not come: {self._notes}"
            time.sleep(0.005)
        return found

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.heard(RanksEnded)


@pytest.fixture
def devices(pool: LocalPool) -> Iterator[Devices]:
    pool.devices = Devices(("x", "y", "z"))
    yield pool.devices
    assert pool.devices.take("all are free again", 3) is not None


def test_ranks_have_their_places_and_the_devices_of_all_of_their_host(
    devices: Devices,
    host: WorkerHost,
    told: list,
    tmp_path,
) -> None:
    driver = Driver(host, told, part(variables, NAMES, lo=1, hi=3, gpus=1.0))
    host.speak(StartRanks(try_id=7, address="10.0.0.9", port=4242))
    (ready,) = driver.heard(RanksReady)
    assert ready.workers == ["here-1", "here-2"]
    assert devices.take("more than one", 2) is None
    host.speak(BeginRanks(try_id=7))
    answers = [
        msgspec.msgpack.decode(note.answer, type=AttemptFinished) for note in driver.heard(RankAnswered, 2)
    ]
    host.speak(EndRanks(try_id=7, cause="its gang is done"))
    driver.join()
    store = Store.open(tmp_path / "store")
    seen = sorted(store.get(answer.ref) for answer in answers)
    assert seen == [
        ["1", "3", "0", "2", "10.0.0.9", "4242", "x,y"],
        ["2", "3", "1", "2", "10.0.0.9", "4242", "x,y"],
    ]


def test_the_host_of_rank_0_keeps_a_port_and_none_has_its_call_before_all_are_there(
    host: WorkerHost,
    told: list,
) -> None:
    driver = Driver(host, told, part(tasks.exit_process, 7, lo=0, hi=2))
    (met,) = driver.heard(PortKept)
    assert met.address == "127.0.0.1"
    host.speak(StartRanks(try_id=7, address=met.address, port=met.port))
    driver.heard(RanksReady)
    assert not [note for note in told if isinstance(note, RankAnswered)]
    host._used -= 7200.0  # it takes so long
    host.speak(BeginRanks(try_id=7))
    died = [msgspec.msgpack.decode(note.answer, type=AttemptFailed) for note in driver.heard(RankAnswered, 2)]
    driver.join()
    assert {each.failure.exit_code for each in died} == {7}
    assert {each.worker for each in died} == {"here-1", "here-2"}
    assert host.unused_s < 3600.0, "a host that has just ended a gang is not one that nobody uses"


def test_what_nobody_waits_for_ends_whatever_it_is_doing(host: WorkerHost, told: list) -> None:
    given_up = threading.Event()
    driver = Driver(host, told, part(tasks.sleep, 600.0, lo=1, hi=3), given_up.is_set)
    host.speak(StartRanks(try_id=7, address="127.0.0.1", port=1))
    driver.heard(RanksReady)
    host.speak(BeginRanks(try_id=7))
    given_up.set()
    driver.join()
    assert not [each for each in driver.heard(WorkerStarted, 2) if psutil.pid_exists(each.pid)]


def test_one_that_was_disbanded_before_it_came_does_not_begin(host: WorkerHost, told: list) -> None:
    host.speak(EndRanks(try_id=7, cause="its attempt was cancelled"))
    host.speak(StartRanks(try_id=7, address="127.0.0.1", port=1))
    Driver(host, told, part(tasks.add, 1, lo=1, hi=3)).join()
    assert told == [RanksEnded(try_id=7)]


def test_ranks_for_which_there_are_no_devices_are_refused(host: WorkerHost, told: list) -> None:
    driver = Driver(host, told, part(tasks.add, 1, lo=1, hi=3, gpus=1.0))
    host.speak(StartRanks(try_id=7, address="127.0.0.1", port=1))
    (note,) = driver.heard(RankAnswered)
    driver.join()
    failed = msgspec.msgpack.decode(note.answer, type=AttemptFailed)
    assert "ask for 1 gpus each" in failed.failure.message


def test_a_host_that_is_closed_ends_its_ranks(host: WorkerHost, told: list) -> None:
    driver = Driver(host, told, part(tasks.sleep, 600.0, lo=1, hi=3))
    host.speak(StartRanks(try_id=7, address="127.0.0.1", port=1))
    driver.heard(RanksReady)
    host.speak(BeginRanks(try_id=7))
    host.close()
    driver.join()
    assert not [each for each in driver.heard(WorkerStarted, 2) if psutil.pid_exists(each.pid)]
