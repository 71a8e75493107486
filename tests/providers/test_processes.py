"""Machines that are processes of this one: started, found, retired, ended, and never forgotten."""

import os
import signal
import sys
import time
import uuid

import psutil
import pytest

from hooke.base.clock import SystemClock
from hooke.machines.controller import Caps
from hooke.machines.keeper import FleetKeeper, Ledger
from hooke.machines.provider import Impossible, ProviderError
from hooke.providers.processes import Processes
from hooke.testing import check_provider

WORKS = """
import signal, sys, time
def finish(*_):
    print("finishing", flush=True)
    time.sleep(0.3)
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(600)"

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def tag():
    tag = f"test-{uuid.uuid4().hex}"
    yield tag
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOOKE_FLEET", "").startswith(tag):
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def provider(tag, folder, code=WORKS):
    return Processes(tag, [sys.executable, "-c", code], logs=folder / "logs")


def settle(keeper, *, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not keeper.fleet.settled:
        assert time.monotonic() < deadline, keeper.fleet
        time.sleep(keeper.turn())


def wait(condition, *, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kept(tag, folder, **caps):
    ledger = Ledger.open(folder, durable="none")
    caps = Caps(**({"workers": 4} | caps))
    return ledger, FleetKeeper("f", provider(tag, folder), ledger, caps=caps, clock=SystemClock())


@pytest.mark.long
def test_it_keeps_the_suite(tag, tmp_path):
    check_provider(lambda name: provider(f"{tag}/{name}", tmp_path))


def test_a_fleet_of_processes_grows_shrinks_and_ends(tag, tmp_path):
    ledger, keeper = kept(tag, tmp_path)
    keeper.want(3, "the test")
    settle(keeper)
    assert len(provider(tag, tmp_path).list()) == 3
    wait(lambda: all("ready" in log.read_text() for log in (tmp_path / "logs").glob("*.log")))
    keeper.want(1, "the test")
    settle(keeper)
    assert len(provider(tag, tmp_path).list()) == 1
    assert sum("finishing" in log.read_text() for log in (tmp_path / "logs").glob("*.log")) == 2
    keeper.down("the test")
    settle(keeper)
    assert provider(tag, tmp_path).list() == []
    ledger.close()


def test_a_controller_that_dies_leaves_nothing_that_the_next_does_not_know(tag, tmp_path):
    ledger, keeper = kept(tag, tmp_path)
    keeper.want(2, "the test")
    settle(keeper)
    ledger.close()  # as the kernel closes it when its process is killed
    stranger = provider(tag, tmp_path).launch("nobody-knows")
    ledger, keeper = kept(tag, tmp_path)
    assert keeper.fleet.wanted == 2
    settle(keeper)
    assert len(provider(tag, tmp_path).list()) == 2
    wait(lambda: stranger not in [machine.id for machine in provider(tag, tmp_path).list()])
    keeper.want(0, "the test")
    settle(keeper)
    assert provider(tag, tmp_path).list() == []
    ledger.close()


@pytest.mark.long
def test_one_that_dies_is_replaced(tag, tmp_path):
    ledger, keeper = kept(tag, tmp_path)
    keeper.want(1, "the test")
    settle(keeper)
    first = next(iter(keeper.fleet.members.values())).id
    pid = next(p.pid for p in psutil.process_iter() if _environ(p).get("HOOKE_MACHINE") == first)
    os.kill(pid, signal.SIGKILL)
    wait(lambda: keeper.turn() is not None and first not in [m.id for m in keeper.fleet.members.values()])
    settle(keeper)
    assert next(iter(keeper.fleet.members.values())).id != first
    keeper.down("the test")
    settle(keeper)
    ledger.close()


def test_what_does_not_end_is_killed_when_all_is_to_end(tag, tmp_path):
    one = provider(tag, tmp_path, STUBBORN)
    machine = one.launch("stubborn")
    wait(lambda: "ready" in (tmp_path / "logs" / "stubborn.log").read_text())
    one.retire(machine)
    assert [each.id for each in one.list()] == [machine]
    wait(lambda: one.release(machine) is not None or not one.list())


def test_each_is_told_to_finish_once_whoever_asks(tag, tmp_path):
    """A second SIGTERM is "at once" to many programs, as to `dask worker`."""
    code = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
print("ready", flush=True)
while True: time.sleep(0.05)
"""
    log = tmp_path / "logs" / "one.log"
    machine = provider(tag, tmp_path, code).launch("one")
    wait(lambda: "ready" in log.read_text())
    provider(tag, tmp_path, code).retire(machine)
    wait(lambda: "told" in log.read_text())
    later = provider(tag, tmp_path, code)
    later.retire(machine)
    time.sleep(0.2)
    assert log.read_text().count("told") == 1
    wait(lambda: later.release(machine) is not None or not later.list())


def test_a_program_that_is_not_there_is_named(tag, tmp_path):
    missing = Processes(tag, ["no-such-program"], logs=tmp_path / "logs")
    with pytest.raises(Impossible, match="cannot start no-such-program: No such file"):
        missing.launch("t")
    (tmp_path / "file").touch()
    with pytest.raises(ProviderError, match="cannot write the log .*: Not a directory"):
        Processes(tag, ["true"], logs=tmp_path / "file" / "logs").launch("t")
    with_nobody = provider(tag, tmp_path)
    with_nobody.retire("nobody")
    with_nobody.release("nobody")


def _environ(process):
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}
