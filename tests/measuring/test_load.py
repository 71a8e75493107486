"""What else a machine does during a study: measured, kept and said."""

import subprocess
import sys
import time

import msgspec
import pytest
from tests.measuring.records import record_of

from hooke.base.clock import SystemClock
from hooke.journal.events import MachineLoad, Measured
from hooke.measuring.measurement import SHORTEST_LOAD_S, LoadMeter
from hooke.measuring.study_report import text_of
from hooke.processes.usage import CoreTimes


def with_loads(record, load_of):
    measured = tuple(msgspec.structs.replace(each, load=load_of(each.n)) for each in record.measured)
    plain = tuple(msgspec.structs.replace(each, load=load_of(0)) for each in record.plain)
    return msgspec.structs.replace(record, measured=measured, plain=plain)


def load(others=0.0, **more):
    return MachineLoad(seconds=1.0, others=others, **more)


@pytest.mark.needs("cpu")
def test_the_report_says_at_which_n_others_took_the_cores():
    record = record_of(lambda n: 10 / n)
    text = text_of(with_loads(record, lambda n: load({0: 0.3, 2: 0.81, 8: 1.49}.get(n, 0.1))))
    assert (
        "load  other processes took 0.3, 0.8 and 1.5 cores while the plain calls and N = 2 and 8 were measured"
        in text
    )
    text = text_of(with_loads(record, lambda n: load(0.8 if n == 2 else 0.0)))
    assert "load  other processes took 0.8 cores while N = 2 was measured" in text
    assert "load" not in text_of(with_loads(record, lambda n: load(0.1)))
    assert "load" not in text_of(record)


@pytest.mark.needs("cpu")
def test_the_report_says_what_the_hypervisor_took_and_where_the_cores_were_slower():
    record = record_of(lambda n: 10 / n)
    text = text_of(
        with_loads(record, lambda n: load(stolen=0.5 if n == 4 else 0.0, mhz=3000.0 if n == 8 else 4000.0))
    )
    assert "load  other machines took 0.5 cores while N = 4 was measured" in text
    assert "load  the cores ran at 3.0 GHz instead of 4.0 while N = 8 was measured" in text


def test_an_event_of_before_has_no_load():
    old = msgspec.msgpack.encode({"event": "measured", "task": "t", "n": 2, "work": 4.0, "seconds": 1.0})
    assert msgspec.msgpack.decode(old, type=Measured).load is None


@pytest.mark.needs("cpu")
def test_a_process_that_is_not_ours_is_other_load_and_ours_is_not():
    meter = LoadMeter(SystemClock())
    used = time.process_time() + 0.3
    while time.process_time() < used:
        pass
    own = meter.end()
    assert own is not None
    total = CoreTimes.now().busy_s
    # A grandchild whose parent has ended belongs to nobody here.
    start = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', "
        "'import time, os\\nwhile time.process_time() < 1.0: pass'], stdout=subprocess.DEVNULL).pid)"
    )
    meter = LoadMeter(SystemClock())
    subprocess.run([sys.executable, "-c", start], check=True, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while CoreTimes.now().busy_s < total + 1.0 and time.monotonic() < until:
        time.sleep(0.05)
    other = meter.end()
    assert other is not None
    assert other.others * other.seconds > 0.2
    assert other.runnable is None or other.runnable >= 1


def test_a_measurement_shorter_than_the_kernel_counts_has_none():
    class Stopped(SystemClock):
        def monotonic(self):
            return 5.0

    assert LoadMeter(Stopped()).end() is None
    assert SHORTEST_LOAD_S > 0


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("others", [0.26, 4.0])
def test_on_many_cores_little_is_not_said(others):
    record = record_of(lambda n: 10 / n)
    big = msgspec.structs.replace(record, started=msgspec.structs.replace(record.started, cpus=64))
    assert ("load" in text_of(with_loads(big, lambda _: load(others)))) == (others > 1)
